"""The parser: text out of any bytes, or one clause saying why there is none; nothing hangs and nothing crashes."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import resource
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import openpyxl
import psutil
import pytest
from documents import ole, packed, pages, paragraph, row, ruled, sheets, shown, word, word_table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pptx import Presentation
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from headrace.documents.formats.contract import ParseLimits
from headrace.documents.formats.plain_text import headings
from headrace.documents.formats.registry import FORMATS
from headrace.documents.parser import DocumentPart, Parser
from headrace.errors import BadDocument
from headrace.settings import Settings

LIMITS = ParseLimits.from_settings(Settings.model_fields["inference"].default)
ODF = "an OpenDocument file of a format that is not supported yet: save it as ODT, ODS or ODP"


@pytest.fixture(scope="module")
def parser() -> Iterator[Parser]:
    with Parser(LIMITS) as parser:
        yield parser


def reason(parser: Parser, uri: str, data: bytes) -> str:
    with pytest.raises(BadDocument) as caught:
        parser.parse(uri, data)
    assert caught.value.name == uri
    return caught.value.reason


def outcome(parser: Parser, uri: str, data: bytes) -> str:
    """The text, or the reason why there is none."""
    try:
        return parser.parse(uri, data).text
    except BadDocument as error:
        return error.reason


def pdf(text: str, *, password: str = "") -> bytes:
    writer = PdfWriter()
    page = writer.add_blank_page(612, 792)
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        }
    )
    page[NameObject("/Resources")] = DictionaryObject(
        {NameObject("/Font"): DictionaryObject({NameObject("/F1"): writer._add_object(font)})}
    )
    content = DecodedStreamObject()
    content.set_data(f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode())
    page[NameObject("/Contents")] = writer._add_object(content)
    if password:
        writer.encrypt(password, algorithm="AES-256")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("utf-8", "Fête à Noël — 日本 🎉"),
        ("utf-8-sig", "Fête à Noël — 日本 🎉"),
        ("utf-16", "Fête à Noël — 日本 🎉"),
        ("utf-32", "Fête à Noël — 日本 🎉"),
        ("cp1252", "Fête à Noël – “déjà vu” €"),
    ],
)
def test_plain_text_of_any_common_encoding(parser: Parser, encoding: str, text: str) -> None:
    parsed = parser.parse("a.txt", text.encode(encoding))
    assert (parsed.text, parsed.media) == (text, "text/plain")


@pytest.mark.parametrize(("mark", "order"), [(b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")])
def test_utf16_of_either_byte_order(parser: Parser, mark: bytes, order: str) -> None:
    assert parser.parse("a.txt", mark + "Noël".encode(order)).text == "Noël"


def test_line_ends_and_titles(parser: Parser) -> None:
    parsed = parser.parse("docs/a.md", b"\r\n# The *Wheel* House\r\nIt turns.\rTwice.\r\n")
    assert parsed.text == "# The *Wheel* House\nIt turns.\nTwice."
    assert (parsed.title, parsed.media) == ("The *Wheel* House", "text/markdown")
    assert parser.parse("docs/wheel.txt", b"It turns.").title == "wheel"


@pytest.mark.parametrize(
    ("uri", "data", "said"),
    [
        ("a.txt", b"", "the file is empty"),
        ("a.pdf", b"", "the file is empty"),
        ("a.txt", b" \n\t\r\n ", "there is no text in it"),
        ("a.txt", b"\x00" * 1000, "it holds binary data, not text"),
        ("a.txt", b"\x00\x01" * 400, "it holds binary data, not text"),
        ("a.txt", b"\x7fELF\x02\x01\x01" + bytes(range(256)) * 20, "it holds binary data, not text"),
        ("a.md", b"\x89PNG\r\n\x1a\n" + bytes(range(128, 256)) * 9 + b"\x01\x02\x03" * 99, "it holds binary data, not text"),
        ("a.txt", b"\x01\x02\x03\x04 a" * 50, "it holds binary data, not text"),
        ("photo.png", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "a .png file of a format that is not supported yet"),
        ("a.docx", b"PK\x03\x04\x14\x00\x06\x00" + bytes(300), "not a readable Word document (BadZipFile)"),
        ("a.docx", b"\xf9\x88\x05" * 33 + b"\x00", "not a readable .docx file"),
        ("a.docx", packed({"a.txt": "hello"}), "it is a zip without a Word document in it"),
        ("a.zip", packed({"a.txt": "hello"}), "a zip archive is not read: unpack it and put its files"),
        ("a.odg", packed({"mimetype": "application/vnd.oasis.opendocument.graphics"}), ODF),
        ("a.odt", packed({"mimetype": "application/vnd.oasis.opendocument.text"}), "not a readable OpenDocument text (KeyError)"),
        ("a.epub", packed({"mimetype": "application/epub+zip"}), "not a readable EPUB book (KeyError)"),
        ("a.docx", ole("EncryptionInfo", "EncryptedPackage"), "it is encrypted and needs a password"),
        ("a.xlsx", ole("EncryptionInfo", "EncryptedPackage"), "it is encrypted and needs a password"),
        ("a.doc", ole("WordDocument"), "an old Word file, a format that is not supported yet: save it as DOCX, PPTX or XLSX"),
        ("a.txt", ole("Workbook"), "an old Excel file, a format that is not supported yet: save it as DOCX, PPTX or XLSX"),
        ("a.csv", bytes(range(256)) * 9, "it holds binary data, not text"),
        ("a.py", bytes(range(256)) * 9, "it holds binary data, not text"),
    ],
)
def test_what_is_not_text_says_so(parser: Parser, uri: str, data: bytes, said: str) -> None:
    assert reason(parser, uri, data) == said


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark(parser: Parser, encoding: str) -> None:
    text = "The wheel of the mill – Noël – turns at dawn.\n" * 3
    assert parser.parse("a.txt", text.encode(encoding)).text == text.strip()
    assert parser.parse("a.csv", "name,age\nAnn,7".encode(encoding)).text == "| name | age |\n|---|---|\n| Ann | 7 |"


def test_a_stray_nul_and_a_mark_are_dropped(parser: Parser) -> None:
    assert parser.parse("a.txt", b"The wheel\x00 turns at dawn. " + b"It turns every day of the week. " * 9).text.startswith(
        "The wheel turns"
    )
    assert parser.parse("a.md", codecs.BOM_UTF8 + b"# Mill").title == "Mill"


def test_a_line_without_end_is_text(parser: Parser) -> None:
    assert parser.parse("a.txt", b"a" * 1_000_000).text == "a" * 1_000_000


def test_a_long_text_is_read_whenever_there_is_time_for_it(parser: Parser) -> None:
    text = "The wheel of the mill turns.\n" * 40_000
    parser.begin("a.txt", text.encode())
    looks = 0
    while (parsed := parser.finish(0.0) if parser.ready() else None) is None:
        looks += 1
    assert looks
    assert parsed.text == text.strip()


def test_random_bytes_named_txt_are_refused(parser: Parser) -> None:
    assert reason(parser, "a.txt", bytes(range(256)) * 20) == "it holds binary data, not text"


def test_a_text_that_is_too_long_is_refused(parser: Parser) -> None:
    assert reason(parser, "a.txt", b"word " * 2_000_001) == "its text is longer than the limit of 10,000,000 characters"


def test_html_gives_its_text_and_not_its_programs(parser: Parser) -> None:
    page = """<html><head><title>T</title><style>p {color: red}</style><script>steal("cookie")</script></head>
    <body><h1>Wheel House</h1><p onclick="steal()">It <b>rounds</b>.</p><script>steal("again")</script>
    <ul><li>one</li></ul><a href="javascript:steal()">link</a></body></html>"""
    parsed = parser.parse("a.html", page.encode())
    assert parsed.media == "text/html"
    assert parsed.title == "Wheel House"
    assert "# Wheel House" in parsed.text
    assert "It **rounds**." in parsed.text
    assert "cookie" not in parsed.text
    assert "steal(" not in parsed.text
    assert "color: red" not in parsed.text


def test_html_says_its_own_encoding(parser: Parser) -> None:
    page = '<html><head><meta charset="iso-8859-1"></head><body><p>Noël</p></body></html>'
    assert parser.parse("a.htm", page.encode("iso-8859-1")).text == "Noël"
    assert parser.parse("a.htm", page.replace("iso-8859-1", "utf-8").encode()).text == "Noël"


def test_html_without_text(parser: Parser) -> None:
    assert reason(parser, "a.html", b"<html><body><script>1</script></body></html>") == "there is no text in it"


def test_html_nested_deeply_is_text_or_a_reason_and_the_parser_goes_on(parser: Parser) -> None:
    page = b"<div>" * 20_000 + b"deep" + b"</div>" * 20_000
    told = outcome(parser, "a.html", page)
    assert told in ("deep", "it is nested too deeply", "its parser ran out of memory or crashed")
    assert parser.parse("b.html", b"<p>after</p>").text == "after"


def test_pdf_gives_its_text_whatever_its_name(parser: Parser) -> None:
    for uri in ("a.pdf", "a.PDF", "a.txt"):
        parsed = parser.parse(uri, pdf("The Wheel House rounds."))
        assert (parsed.text, parsed.media) == ("The Wheel House rounds.", "application/pdf")


def test_a_pdf_that_needs_a_password_says_so(parser: Parser) -> None:
    assert reason(parser, "a.pdf", pdf("Secret.", password="sesame")) == "it is encrypted and needs a password"


def test_a_pdf_of_blank_pages_has_no_text(parser: Parser) -> None:
    assert reason(parser, "a.pdf", pdf("")) == "it has no text (scanned images?)"


@pytest.mark.parametrize(
    "data", [b"%PDF-1.7\nnonsense", b"not a PDF at all", b"%PDF-", b"%PDF-1.4\n" + b"\xff" * 5000, pdf("Cut.")[:300]]
)
def test_a_broken_pdf_is_refused(parser: Parser, data: bytes) -> None:
    said = reason(parser, "a.pdf", data)
    assert said in ("not a readable PDF file", "it has no text (scanned images?)", "page 1 cannot be read")
    assert "\n" not in said


SLOW = b"<table>" + b"<tr><td><b>x</b><i>y</i></td></tr>" * 200_000 + b"</table>"


def test_a_parse_that_takes_too_long_is_killed_and_the_next_one_runs() -> None:
    before = {child.pid for child in psutil.Process().children()}
    # So much more than a line of text needs that a busy machine does not matter.
    with Parser(replace(LIMITS, parse_seconds=1.0)) as parser:
        parser.parse("a.md", b"quick")
        (process,) = [child for child in psutil.Process().children() if child.pid not in before]
        assert reason(parser, "slow.html", SLOW) == "parsing took longer than 1 s"
        assert not process.is_running()
        assert parser.parse("b.md", b"after").text == "after"
    assert {child.pid for child in psutil.Process().children()} <= before


def test_a_parse_that_takes_too_much_of_the_processor_says_so() -> None:
    with Parser(replace(LIMITS, parse_cpu_seconds=1)) as parser:
        assert reason(parser, "slow.html", SLOW) == "parsing took more than 1 s of CPU time"
        assert parser.parse("b.md", b"after").text == "after"


def test_a_parser_that_was_killed_costs_one_document() -> None:
    before = {child.pid for child in psutil.Process().children()}
    with Parser(LIMITS) as parser:
        parser.parse("a.md", b"a")
        (process,) = [child for child in psutil.Process().children() if child.pid not in before]
        process.kill()
        assert outcome(parser, "b.md", b"b") in ("b", "its parser ran out of memory or crashed")
        assert parser.parse("c.md", b"c").text == "c"


def test_a_process_of_many_open_files_parses_too() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    with contextlib.ExitStack() as opened:
        opened.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        while opened.enter_context(open(os.devnull)).fileno() < 1100:
            pass
        with Parser(LIMITS) as parser:
            assert parser.parse("a.md", b"many").text == "many"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["a.txt", "a.html", "a.pdf", "a", "a.bin", "a.md"]), st.binary(max_size=300), st.booleans())
def test_any_bytes_are_text_or_a_reason(parser: Parser, uri: str, data: bytes, as_pdf: bool) -> None:
    try:
        parsed = parser.parse(uri, b"%PDF-1.4\n" + data if as_pdf else data)
    except BadDocument as error:
        said = error.reason
    else:
        said = parsed.title
        assert parsed.text.strip("\n").rstrip() == parsed.text != ""
        assert "\x00" not in parsed.text
        parsed.text.encode()
    assert said
    assert len(said) <= 200


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Title\n=====\nbody", "# Title\n\nbody"),
        ("One\n===\n\nTwo\n---\n\nThree\n~~~~~\n", "# One\n\n\n## Two\n\n\n### Three\n"),
        ("*****\nTitle\n*****\nbody", "*****\n# Title\n\nbody"),
        ("Café\n----\nbody", "# Café\n\nbody"),
        ("short\n--------------------\nbody", "short\n--------------------\nbody"),
        ("Name  Age\n====  ===\nAnn   7", "Name  Age\n====  ===\nAnn   7"),
        ("```\nTitle\n=====\n```", "```\nTitle\n=====\n```"),
        ("plain\ntext", "plain\ntext"),
        ("", ""),
    ],
)
def test_underlined_titles_become_headings(text: str, wanted: str) -> None:
    assert headings(text).rstrip("\n") == wanted.rstrip("\n")


def test_levels_go_by_the_order_in_which_underlines_are_met() -> None:
    out = headings("A\n--\n\nAbc\n---\n\nBcd\n===\n\nCde\n---")
    assert [line for line in out.splitlines() if line.startswith("#")] == ["# Abc", "## Bcd", "# Cde"]


@given(st.text(st.sampled_from("ab=-`# \n"), max_size=60))
def test_no_word_is_lost_on_the_way_to_headings(text: str) -> None:
    assert [c for c in headings(text) if c.isalpha()] == [c for c in text if c.isalpha()]


def test_pages_headings_and_tables_of_a_pdf(parser: Parser) -> None:
    one = shown("Wheel House", size=20) + shown("The wheel of the mill turns at dawn and", y=690) + shown("# not a title", y=676)
    two = shown("The Weir", size=16) + shown("It holds the river back.", y=690) + ruled([["Gauge", "Litres"], ["Weir", "12"]])
    parsed = parser.parse("a.pdf", pages(one, b"", two + shown("After the table.", y=500)))
    assert parsed.text == (
        "# Wheel House\n\nThe wheel of the mill turns at dawn and\n\\# not a title\n\n"
        "## The Weir\n\nIt holds the river back.\n\n| Gauge | Litres |\n|---|---|\n| Weir | 12 |\n\nAfter the table."
    )
    assert parsed.parts == (DocumentPart(0, "page 1"), DocumentPart(parsed.text.index("## The Weir"), "page 3"))
    assert parsed.title == "Wheel House"


def test_a_pdf_of_large_letters_only_has_no_headings(parser: Parser) -> None:
    text = b"".join(shown(f"Line {n} of a poster", y=700 - 40 * n, size=20 + 4 * (n % 3)) for n in range(9))
    assert "#" not in parser.parse("a.pdf", pages(text)).text


def test_headings_tables_and_formulas_of_a_word_document(parser: Parser) -> None:
    math = 'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"'
    data = word(
        paragraph("Wheel House", "Heading1"),
        paragraph("It turns &lt;slowly&gt;."),
        paragraph("Flow", "Heading2"),
        word_table([["Gauge", "Litres"], ["Weir", "12"]]),
        f"<w:p><m:oMath {math}><m:r><m:t>E=mc</m:t></m:r></m:oMath></w:p>",
    )
    for uri in ("a.docx", "a.dotx", "a.bin", "a"):
        parsed = parser.parse(uri, data)
        assert parsed.text == (
            "# Wheel House\n\nIt turns <slowly>.\n\n## Flow\n\n| Gauge | Litres |\n| --- | --- |\n| Weir | 12 |\n\n$E=mc$"
        )
        assert parsed.media.endswith("wordprocessingml.document")


def test_a_macro_file_gives_its_text_and_runs_nothing(parser: Parser) -> None:
    data = word(paragraph("It turns."), kind="docm", more={"word/vbaProject.bin": b"Sub AutoOpen()"})
    assert parser.parse("a.docm", data).text == "It turns."


def test_slides_have_their_numbers_tables_charts_and_notes(parser: Parser) -> None:
    deck = Presentation()
    first = deck.slides.add_slide(deck.slide_layouts[1])
    first.shapes.title.text, first.placeholders[1].text = "Mill report", "The wheel turns\nat dawn"
    first.placeholders[1].text_frame.paragraphs[1].level = 1
    first.notes_slide.notes_text_frame.text = "Say it slowly"
    deck.slides.add_slide(deck.slide_layouts[6])
    third = deck.slides.add_slide(deck.slide_layouts[6])
    table = third.shapes.add_table(2, 2, Inches(1), Inches(1), Inches(4), Inches(1)).table
    for index, text in enumerate(("Gauge", "Litres", "We|ir", "12")):
        table.cell(index // 2, index % 2).text = text
    group = third.shapes.add_group_shape()
    group.shapes.add_textbox(0, Inches(3), 9, 9).text_frame.text = "# in a group"
    data = CategoryChartData()
    data.categories = ["Jan", "Feb"]
    data.add_series("Flow", (1.5, 2))
    third.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, Inches(1), Inches(5), Inches(4), Inches(2), data)
    out = io.BytesIO()
    deck.save(out)
    parsed = parser.parse("a.pptx", out.getvalue())
    assert parsed.text == (
        "# Mill report\n\nThe wheel turns\n- at dawn\n\nNotes:\n\nSay it slowly\n\n"
        "| Gauge | Litres |\n|---|---|\n| We\\|ir | 12 |\n\n\\# in a group\n\n"
        "| Category | Flow |\n|---|---|\n| Jan | 1.5 |\n| Feb | 2 |"
    )
    assert parsed.parts == (DocumentPart(0, "slide 1"), DocumentPart(parsed.text.index("| Gauge"), "slide 3"))
    with Parser(replace(LIMITS, document_pages=2)) as strict:
        assert reason(strict, "a.pptx", out.getvalue()) == "it has 3 slides, more than the limit of 2"


def test_sheets_have_their_names_and_run_no_formula(parser: Parser) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Q3"
    for cells in (["Quarterly flow"], [], ["Gauge", "Day", "Open"], ["Weir", date(2024, 1, 2), True], [], ["Total", None, 15.5]):
        sheet.append(cells)
    book.create_sheet("Empty")
    book.create_sheet("Q4").append(["a\nb", "=WEBSERVICE(A1)"])
    out = io.BytesIO()
    book.save(out)
    parsed = parser.parse("flow.xlsx", out.getvalue())
    assert parsed.text == (
        "# Q3\n\nQuarterly flow\n\n| Gauge | Day | Open |\n|---|---|---|\n| Weir | 2024-01-02 | yes |\n| Total |  | 15.5 |\n\n"
        "# Q4\n\n| a b | =WEBSERVICE(A1) |\n|---|---|"
    )
    assert parsed.parts == (DocumentPart(0, "sheet Q3"), DocumentPart(parsed.text.index("# Q4"), "sheet Q4"))
    assert parsed.title == "flow"


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_csv_is_a_table_whatever_divides_it(parser: Parser, mark: str) -> None:
    data = mark.join(["name", "note"]) + "\n" + mark.join(["Ann", '"a |, b;\nc"']) + "\n\n" + mark.join(["Bo", ""])
    parsed = parser.parse("people.csv", data.encode())
    assert parsed.text == "| name | note |\n|---|---|\n| Ann | a \\|, b; c |\n| Bo |"
    assert (parsed.title, parsed.media) == ("people", "text/csv")


@pytest.mark.parametrize(
    ("uri", "data", "language"),
    [
        ("src/wheel.py", b"# turns\ndef turn(): ...", "python"),
        ("a.rs", b"fn main() {}", "rust"),
        ("Makefile", b"all:\n\techo", "makefile"),
        ("run", b"#!/usr/bin/env python3\nprint()", "python"),
        ("run", b"#!/bin/sh\nls", "bash"),
        ("x.svg", b"<svg><script>a()</script></svg>", "xml"),
        ("x", b"<?php echo 1;", "php"),
    ],
)
def test_source_code_is_fenced_under_its_name(parser: Parser, uri: str, data: bytes, language: str) -> None:
    parsed = parser.parse(uri, data)
    name = uri.split("/")[-1]
    assert parsed.text == f"# {name}\n\n```{language}\n{data.decode()}\n```"
    assert (parsed.title, parsed.media) == (name, f"text/x-{language}")


def test_no_code_closes_its_own_fence(parser: Parser) -> None:
    text = parser.parse("a.py", b"x = '\n````\n# Heading\n````\n'").text
    assert text.startswith("# a.py\n\n`````python\n")
    assert text.endswith("\n`````")


@pytest.mark.parametrize("uri", ["page", "page.txt", "page.log"])
def test_html_is_known_by_its_content(parser: Parser, uri: str) -> None:
    page = b"<!-- x -->\n<!DOCTYPE HTML><html><body><p>It <b>rounds</b>.</p><script>x()</script></body></html>"
    parsed = parser.parse(uri, page)
    assert (parsed.text, parsed.media) == ("It **rounds**.", "text/html")


def test_an_html_table_keeps_its_header(parser: Parser) -> None:
    page = "<table><tr><td>A</td><td>B</td></tr><tr><td>1</td><td>2</td></tr></table>"
    assert parser.parse("a.html", page.encode()).text == "| A | B |\n| --- | --- |\n| 1 | 2 |"


def test_images_in_a_page_give_way_to_what_they_show(parser: Parser) -> None:
    page = '<p>See <img alt="the wheel" src="data:image/png;base64,AAAA">.</p>'
    assert parser.parse("a.html", page.encode()).text == "See the wheel."


@pytest.mark.parametrize(
    ("limits", "uri", "data", "said"),
    [
        ({"document_bytes": 9}, "a.txt", b"0123456789", "larger than the limit of 0 MB"),
        ({"document_pages": 1}, "a.pdf", pages(b"", b""), "it has 2 pages, more than the limit of 1"),
        ({"document_sheets": 1}, "a.xlsx", sheets({"A": "", "B": ""}), "it has 2 sheets, more than the limit of 1"),
        ({"document_rows": 2}, "a.xlsx", sheets({"A": row(1) * 2, "B": row(1)}), "it has more than the limit of 2 rows"),
        ({"document_rows": 2}, "a.csv", b"a\n\nb\nc", "it has more than the limit of 2 rows"),
        ({"document_characters": 9}, "a.md", b"0123456789", "its text is longer than the limit of 9 characters"),
        ({"document_characters": 9}, "a.pdf", pages(shown("0123456789")), "its text is longer than the limit of 9 characters"),
        ({"unpacked_files": 2}, "a.docx", word(paragraph("x")), "it is a zip of 4 files, more than the limit of 2"),
        (
            {"unpacked_bytes": 9_000},
            "a.docx",
            word(paragraph("x" * 10_000)),
            "it unpacks to 11 kB, more than the limit of 9 kB",
        ),
    ],
)
def test_each_limit_is_kept(limits: dict[str, int], uri: str, data: bytes, said: str) -> None:
    with Parser(replace(LIMITS, **limits)) as parser:
        assert reason(parser, uri, data) == said


@pytest.mark.parametrize(
    "name", ["../../etc/x.py", "a\nb.py", "\u202eyp.a", "é" * 127 + ".py", "a" * 252 + ".py", "\udcff.py", "#.py", ""]
)
def test_any_name_will_do(parser: Parser, name: str) -> None:
    parsed = parser.parse(name, b"print(1)")
    assert "print(1)" in parsed.text
    assert len(parsed.text.splitlines()) in (1, 5)
    parsed.title.encode()


def test_a_format_is_a_writer_and_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "with_subtitles.py").write_text(
        """import re
from headrace.documents.formats import registry, worker

def write_subtitles(file, out):
    for number, cue in enumerate(re.split(r"\\n\\n+", file.data.decode()), 1):
        out.begin_part(f"cue {number}")
        out.write(cue.split("-->")[1].partition("\\n")[2])

if __name__ == "__main__":
    registry.FORMATS["subtitles"] = registry.DocumentFormat(
        "subtitle file", "text/vtt", "__main__:write_subtitles", (".vtt",), b"WEBVTT", suffix_decides=True
    )
    worker.main()
""",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("headrace.documents.parser._WORKER", "with_subtitles")
    spoken = b"WEBVTT\n00:01 --> 00:02\nThe wheel turns.\n\n00:03 --> 00:04\nIt stops."
    with Parser(LIMITS) as parser:
        for uri in ("talk.vtt", "talk.txt"):
            parsed = parser.parse(uri, spoken)
            assert (parsed.text, parsed.media) == ("The wheel turns.\n\nIt stops.", "text/vtt")
            assert [part.place for part in parsed.parts] == ["cue 1", "cue 2"]
        assert reason(parser, "talk.vtt", b"not one") == "not a readable subtitle file (IndexError)"
        assert reason(parser, "talk.vtt", b"\x89PNG\r\n") == "not a readable .vtt file"
        assert parser.parse("a.md", b"# Mill").media == "text/markdown"


def test_every_format_has_a_writer_and_suffixes_of_its_own() -> None:
    suffixes = [suffix for found in FORMATS.values() for suffix in found.suffixes]
    assert len(suffixes) == len(set(suffixes))
    for found in FORMATS.values():
        assert callable(found.load())
