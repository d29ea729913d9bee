"""OpenDocument and EPUB: text, sheets, slides and chapters, and what of them is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from documents import packed

from headrace.documents.formats.contract import ParseLimits
from headrace.documents.parser import Parser
from headrace.errors import BadDocument
from headrace.settings import Settings

LIMITS = ParseLimits.from_settings(Settings.model_fields["inference"].default)
SPACES = " ".join(
    f'xmlns:{prefix}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
    for prefix, name in {"o": "office", "t": "text", "b": "table", "d": "drawing", "p": "presentation"}.items()
)


@pytest.fixture(scope="module")
def parser() -> Iterator[Parser]:
    with Parser(LIMITS) as parser:
        yield parser


def opendocument(kind: str, body: str, **more: str) -> bytes:
    content = f"<o:document-content {SPACES}><o:body><o:{kind}>{body}</o:{kind}></o:body></o:document-content>"
    return packed({"mimetype": f"application/vnd.oasis.opendocument.{kind}", "content.xml": content, **more})


TALL, WIDE = 'b:number-rows-spanned="2"', 'b:number-columns-repeated="9999999"'


def cell(text: str, more: str = "") -> str:
    return f"<b:table-cell {more}><t:p>{text}</t:p></b:table-cell>"


def refusal(parser: Parser, name: str, data: bytes) -> str:
    with pytest.raises(BadDocument) as caught:
        parser.parse(name, data)
    return caught.value.reason


TABLE = (
    f"<b:table b:name='Limits'><b:table-row>{cell('Hall')}{cell('Part')}{cell('Limit')}</b:table-row>"
    f"<b:table-row>{cell('North', TALL)}{cell('Valve')}{cell('5 | bar')}</b:table-row>"
    f"<b:table-row><b:covered-table-cell/>{cell('Pump')}{cell('7')}</b:table-row></b:table>"
)
ROWS = "| Hall | Part | Limit |\n|---|---|---|\n| North | Valve | 5 \\| bar |\n| North | Pump | 7 |"


def test_a_text_has_headings_lists_tables_notes_and_boxes(parser: Parser) -> None:
    body = (
        "<t:tracked-changes><t:p>deleted</t:p></t:tracked-changes><t:h t:outline-level='2'>Mill</t:h>"
        "<t:section><t:p>It<t:s t:c='2'/>turns<t:note><t:note-body><t:p>slowly</t:p></t:note-body></t:note>.</t:p></t:section>"
        "<t:list><t:list-item><t:p>one</t:p><t:list><t:list-item><t:p>two</t:p></t:list-item></t:list></t:list-item></t:list>"
        f"{TABLE}<t:p># plain<d:frame><d:text-box><t:p>boxed</t:p></d:text-box></d:frame></t:p>"
    )
    data = opendocument("text", body)
    for name in ("a.odt", "a", "a.docx"):
        parsed = parser.parse(name, data)
        assert parsed.text == f"## Mill\n\nIt turns (slowly).\n\n- one\n  - two\n\n{ROWS}\n\n\\# plain\n\nboxed"
        assert (parsed.title, parsed.media) == ("Mill", "application/vnd.oasis.opendocument.text")


def test_sheets_and_slides_are_parts_with_their_names(parser: Parser) -> None:
    parsed = parser.parse("a.ods", opendocument("spreadsheet", TABLE + "<b:table b:name='Empty'/>"))
    assert parsed.text.startswith(f"# Limits\n\n{ROWS}")
    assert [part.place for part in parsed.parts] == ["sheet Limits", "sheet Empty"]
    slide = "<d:page><d:frame><d:text-box><t:p>Body</t:p></d:text-box></d:frame>"
    slide += "<d:frame p:class='title'><d:text-box><t:p>Title</t:p></d:text-box></d:frame>"
    slide += "<p:notes><d:frame><d:text-box><t:p>Say it.</t:p></d:text-box></d:frame></p:notes></d:page>"
    parsed = parser.parse("a.odp", opendocument("presentation", slide * 2))
    assert parsed.text == "\n\n".join(["# Title\n\nBody\n\nNotes:\n\nSay it."] * 2)
    assert [part.place for part in parsed.parts] == ["slide 1", "slide 2"]


def test_cells_repeated_without_end_are_not_followed(parser: Parser) -> None:
    row = f"<b:table-row b:number-rows-repeated='9999999'>{cell('x', WIDE)}</b:table-row>"
    wide = f"<b:table b:name='A'>{row}</b:table>"
    assert len(parser.parse("a.ods", opendocument("spreadsheet", wide)).text) < 5_000_000


def test_what_is_encrypted_nested_or_too_large_is_refused(parser: Parser) -> None:
    locked = opendocument("text", "", **{"META-INF/manifest.xml": "<m><encryption-data/></m>"})
    assert refusal(parser, "a.odt", locked) == "it is encrypted and needs a password"
    deep = opendocument("text", "<t:section>" * 300 + "</t:section>" * 300)
    assert refusal(parser, "a.odt", deep) == "it is nested too deeply"
    laughs = packed({"mimetype": "application/vnd.oasis.opendocument.text", "content.xml": "<!DOCTYPE a><a/>"})
    assert "document type" in refusal(parser, "a.odt", laughs)
    with Parser(replace(LIMITS, document_sheets=1, document_pages=1)) as strict:
        assert "limit of 1" in refusal(strict, "a.ods", opendocument("spreadsheet", TABLE * 2))
        assert "limit of 1" in refusal(strict, "a.odp", opendocument("presentation", "<d:page/>" * 2))
        assert "limit of 1" in refusal(strict, "a.epub", epub("a", "b"))


PAGE = '<?xml version="1.0"?><!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.1//EN" "x">'
PAGE += "<html><body><h2>{0}</h2><p>Text {0}.</p></body></html>"


def epub(*chapters: str, **more: str) -> bytes:
    items = "".join(f'<item id="{one}" href="text/{one}%20.xhtml" media-type="application/xhtml+xml"/>' for one in chapters)
    spine = "".join(f'<itemref idref="{one}"/>' for one in reversed(chapters))
    title = '<dc:title xmlns:dc="http://purl.org/dc/elements/1.1/">The mill</dc:title>'
    return packed(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": '<container><rootfiles><rootfile full-path="OPS/book.opf"/></rootfiles></container>',
            "OPS/book.opf": f"<package><metadata>{title}</metadata><manifest>{items}</manifest><spine>{spine}</spine></package>",
            **{f"OPS/text/{one} .xhtml": PAGE.format(one) for one in chapters},
            **more,
        }
    )


def test_a_book_is_its_chapters_in_the_order_of_reading(parser: Parser) -> None:
    parsed = parser.parse("a.epub", epub("weir", "wheel"))
    assert parsed.text == "# The mill\n\n## wheel\n\nText wheel.\n\n## weir\n\nText weir."
    assert parsed.title == "The mill"
    assert [part.place for part in parsed.parts] == ["chapter 1", "chapter 2"]


def test_a_book_protected_against_copying_is_refused_and_one_without_contents_too(parser: Parser) -> None:
    cipher = '<encryption><CipherReference URI="OPS/text/weir .xhtml"/></encryption>'
    assert refusal(parser, "a.epub", epub("weir", **{"META-INF/encryption.xml": cipher})) == "it is protected against copying"
    fonts = cipher.replace("weir .xhtml", "font.otf")
    assert parser.parse("a.epub", epub("weir", **{"META-INF/encryption.xml": fonts})).title == "The mill"
    missing = epub(**{"META-INF/container.xml": '<c><rootfile full-path="../../etc/passwd"/></c>'})
    assert "table of contents is missing" in refusal(parser, "a.epub", missing)
