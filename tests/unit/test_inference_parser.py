"""The parser: text out of any bytes, or one clause saying why there is none; nothing hangs and nothing crashes."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from headrace.errors import BadDocument
from headrace.inference.parser import Parser, headings


@pytest.fixture(scope="module")
def parser() -> Iterator[Parser]:
    with Parser(30) as parser:
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
        ("a.txt", b"\x7fELF\x02\x01\x01" + bytes(range(256)) * 20, "it holds binary data, not text"),
        ("a.md", b"\x89PNG\r\n\x1a\n" + bytes(range(128, 256)) * 9 + b"\x01\x02\x03" * 99, "it holds binary data, not text"),
        ("a.txt", b"\x01\x02\x03\x04 a" * 50, "it holds binary data, not text"),
        ("photo.png", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "a .png file of a format that is not read yet"),
        ("a.docx", b"PK\x03\x04\x14\x00\x06\x00" + bytes(300), "a .docx file of a format that is not read yet"),
    ],
)
def test_what_is_not_text_says_so(parser: Parser, uri: str, data: bytes, said: str) -> None:
    assert reason(parser, uri, data) == said


def test_random_bytes_named_txt_are_refused(parser: Parser) -> None:
    assert reason(parser, "a.txt", os.urandom(5000)) == "it holds binary data, not text"


def test_a_text_that_is_too_long_is_refused(parser: Parser) -> None:
    assert reason(parser, "a.txt", b"word " * 4_000_001) == "its text is longer than 20 million characters"


def test_html_gives_its_text_and_not_its_programs(parser: Parser) -> None:
    page = """<html><head><title>T</title><style>p {color: red}</style><script>steal("cookie")</script></head>
    <body><h1>Wheel House</h1><p onclick="steal()">It <b>turns</b>.</p><script>steal("again")</script>
    <ul><li>one</li></ul><a href="javascript:steal()">link</a></body></html>"""
    parsed = parser.parse("a.html", page.encode())
    assert parsed.media == "text/html"
    assert parsed.title == "Wheel House"
    assert "# Wheel House" in parsed.text
    assert "It **turns**." in parsed.text
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
        parsed = parser.parse(uri, pdf("The Wheel House turns."))
        assert (parsed.text, parsed.media) == ("The Wheel House turns.", "application/pdf")


def test_a_pdf_that_needs_a_password_says_so(parser: Parser) -> None:
    assert reason(parser, "a.pdf", pdf("Secret.", password="sesame")) == "the PDF is encrypted and needs a password"


def test_a_pdf_of_blank_pages_has_no_text(parser: Parser) -> None:
    assert reason(parser, "a.pdf", pdf("")) == "there is no text in it"


@pytest.mark.parametrize(
    "data", [b"%PDF-1.7\nnonsense", b"not a PDF at all", b"%PDF-", b"%PDF-1.4\n" + b"\xff" * 5000, pdf("Cut.")[:300]]
)
def test_a_broken_pdf_is_refused(parser: Parser, data: bytes) -> None:
    said = reason(parser, "a.pdf", data)
    assert said.startswith("not a readable PDF file") or said == "there is no text in it"
    assert "\n" not in said


def test_a_parse_that_takes_too_long_is_killed_and_the_next_one_runs() -> None:
    before = {child.pid for child in psutil.Process().children()}
    slow = b"<table>" + b"<tr><td><b>x</b><i>y</i></td></tr>" * 60_000 + b"</table>"
    with Parser(30) as parser:
        assert parser.parse("a.html", b"<p>quick</p>").text == "quick"
        (process,) = [child for child in psutil.Process().children() if child.pid not in before]
        parser._seconds = 0.3
        started = time.monotonic()
        assert reason(parser, "slow.html", slow) == "parsing took longer than 0 s"
        assert time.monotonic() - started < 5
        assert not process.is_running()
        parser._seconds = 30
        assert parser.parse("b.html", b"<p>after</p>").text == "after"
    assert {child.pid for child in psutil.Process().children()} <= before


def test_a_parser_that_was_killed_costs_one_document() -> None:
    before = {child.pid for child in psutil.Process().children()}
    with Parser(30) as parser:
        parser.parse("a.html", b"<p>a</p>")
        (process,) = [child for child in psutil.Process().children() if child.pid not in before]
        process.kill()
        assert outcome(parser, "b.html", b"<p>b</p>") in ("b", "its parser ran out of memory or crashed")
        assert parser.parse("c.html", b"<p>c</p>").text == "c"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from(["a.txt", "a.html", "a.pdf", "a", "a.bin", "a.md"]), st.binary(max_size=300), st.booleans())
def test_any_bytes_are_text_or_a_reason(parser: Parser, uri: str, data: bytes, as_pdf: bool) -> None:
    try:
        parsed = parser.parse(uri, b"%PDF-1.4\n" + data if as_pdf else data)
    except BadDocument as error:
        said = error.reason
    else:
        said = parsed.title
        assert parsed.text.strip() == parsed.text != ""
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
