"""Mail, web archives, RTF and notebooks: their text, and not how they are packed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from typing import Any

import pytest

from headrace.documents.formats.contract import DocumentFile, Output, ParseLimits, ParseRefused
from headrace.documents.formats.mail import write_mail, write_mailbox
from headrace.documents.formats.notebook import write_notebook
from headrace.documents.parser import Parser
from headrace.errors import BadDocument
from headrace.settings import Settings

LIMITS = ParseLimits.from_settings(Settings.model_fields["inference"].default)
Writer = Callable[[DocumentFile, Output], None]


@pytest.fixture(scope="module")
def parser() -> Iterator[Parser]:
    with Parser(LIMITS) as parser:
        yield parser


def read(write: Writer, data: bytes) -> tuple[str, list[str]]:
    """The text and the notes."""
    out = Output(1_000_000)
    write(DocumentFile("a", data, LIMITS), out)
    return "\n\n".join(text for text, _ in out.parts()), out.notes


def message(
    subject: str = "Prüfung – Kessel", text: str = "Der Kessel ist geprüft.\n# nicht oben\n", **more: str
) -> EmailMessage:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "Ann Roe <ann@example.org>", "hall@example.org", subject
    for name, value in more.items():
        mail[name] = value
    mail.set_content(text, cte="base64")
    return mail


def test_a_message_is_its_subject_its_addresses_and_its_text(parser: Parser) -> None:
    data = message(Date="Sun, 04 Oct 2026 10:00:00 +0200").as_bytes()
    wanted = (
        "# Prüfung – Kessel\n\nFrom: Ann Roe <ann@example.org>\nTo: hall@example.org\nDate: Sun, 04 Oct 2026 10:00:00 +0200\n\n"
        "Der Kessel ist geprüft.\n\\# nicht oben"
    )
    for name in ("a.eml", "a.txt", "a"):
        parsed = parser.parse(name, data)
        assert (parsed.text, parsed.title, parsed.media) == (wanted, "Prüfung – Kessel", "message/rfc822")


def test_attachments_are_named_and_said_not_to_be_read() -> None:
    mail = message()
    mail.add_attachment(b"\x00" * 5_000, maintype="application", subtype="pdf", filename="Plan für Halle 7.pdf")
    text, notes = read(write_mail, mail.as_bytes())
    assert text.endswith("Attachments: Plan für Halle 7.pdf")
    assert len(text) < 300
    assert notes == ["its attachment is not read (Plan für Halle 7.pdf): index it as a file of its own"]
    mail.add_attachment("a,b", subtype="csv", filename="b.csv")
    assert read(write_mail, mail.as_bytes())[1] == [
        "2 attachments are not read (Plan für Halle 7.pdf, b.csv): index them as files of their own"
    ]


def test_of_alternatives_one_is_read_and_html_where_there_is_no_other() -> None:
    mail = message(text="Plain.")
    mail.add_alternative("<p>Rich.</p>", subtype="html")
    assert read(write_mail, mail.as_bytes())[0].endswith("Plain.")
    only = message(text=" ")
    only.add_alternative("<p>Rich &amp; <b>bold</b>.</p>", subtype="html")
    assert read(write_mail, only.as_bytes())[0].endswith("Rich & **bold**.")


def test_a_forwarded_message_is_read_and_one_in_another_without_end_is_refused() -> None:
    mail = message("Fwd")
    mail.add_attachment(message("Inner", "Inside."))
    text = read(write_mail, mail.as_bytes())[0]
    assert "## Inner\n\n" in text
    assert text.endswith("Inside.")
    for n in range(12):
        outer = message(f"Fwd {n}")
        outer.add_attachment(mail)
        mail = outer
    with pytest.raises(ParseRefused, match="it is nested too deeply"):
        read(write_mail, mail.as_bytes())


def test_broken_messages_are_text_or_a_reason() -> None:
    for data in (
        b"Subject: =?utf-9?q?x?=\nMIME-Version: 1.0\nContent-Type: text/plain; charset=nonsense\n\nStill here.",
        b"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain\n\nStill here.",
        b"From: <<<>\nTo: \xff\xfe;;\nDate: never\nContent-Type: text/plain; charset*=a'b\n\nStill here.",
    ):
        assert "Still here." in read(write_mail, data)[0]
    many = b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\nx\n" * 1_100 + b"--b--"
    with pytest.raises(ParseRefused, match="more than the limit of 1,000 parts"):
        read(write_mail, many)


ARCHIVE = b"""Date: Sun, 4 Oct 2026 10:00:00 +0200
Subject: Exported
MIME-Version: 1.0
Content-Type: multipart/related; boundary="b"

--b
Content-Type: text/html; charset=UTF-8
Content-Transfer-Encoding: quoted-printable

<html><head><style>p {color: red}</style><title>St=C3=B6rungsplan</title></head><body><p>Halle 7=
 zuerst.</p></body></html>
--b
Content-Type: image/png
Content-Transfer-Encoding: base64

AAAA
--b--
"""


def test_a_web_archive_is_its_page_whatever_it_is_called(parser: Parser) -> None:
    for name in ("a.mht", "a.doc", "a"):
        assert parser.parse(name, ARCHIVE).text == "# Störungsplan\n\nHalle 7 zuerst.", name


def test_each_message_of_a_mailbox_is_a_part() -> None:
    data = b"".join(
        b"From ann@example.org Sun Oct  4 10:00:00 2026\n" + message(f"No {n}", f"Text {n}.").as_bytes() + b"\n" for n in (1, 2)
    )
    out = Output(100_000)
    write_mailbox(DocumentFile("a.mbox", data, LIMITS), out)
    assert [(text.splitlines()[0], place) for text, place in out.parts()] == [("# No 1", "message 1"), ("# No 2", "message 2")]


def test_old_outlook_messages_are_refused_with_what_to_do(parser: Parser) -> None:
    data = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504) + "__substg1.0_0037001F".encode("utf-16-le")
    with pytest.raises(BadDocument, match="save it as EML"):
        parser.parse("a.msg", data)


@pytest.mark.parametrize(
    ("rtf", "text"),
    [
        (r"{\rtf1\ansi\ansicpg1252{\fonttbl{\f0 Arial;}}\pard gepr\'fcft, Gr\'f6\'dfe 7\par Neu.\par}", "geprüft, Größe 7\nNeu."),
        (r"{\rtf1\ansi\uc1 \u1053?\u1072?\u1089? {\pict\pngblip 89504e47}ok\par}", "Нас ok"),
        (r"{\rtf1\ansi\ansicpg1251 \'cd\'e0\'f1\par}", "Нас"),
        (r"{\rtf1\ansi\trowd Part\cell Limit\cell\row Valve\cell 5 bar\cell\row\pard End\par}", None),
    ],
)
def test_rtf_is_its_text(parser: Parser, rtf: str, text: str | None) -> None:
    parsed = parser.parse("a.doc", rtf.encode())
    assert parsed.text == (text or "| Part | Limit |\n|---|---|\n| Valve | 5 bar |\n\nEnd")
    assert parsed.media == "application/rtf"


def outcome(parser: Parser, name: str, data: bytes) -> str:
    """The text, or the reason why there is none."""
    try:
        return parser.parse(name, data).text
    except BadDocument as error:
        return error.reason


@pytest.mark.parametrize(
    ("rtf", "wanted"),
    [
        (b"{\\rtf1", "there is no text in it"),
        (b"{\\rtf1" + b"{" * 20_000 + b"deep", "deep"),
        (b"{\\rtf1 \\u9999999999? x}", "not a readable RTF file (OverflowError)"),
        (b"{\\rtf1 {\\pict\\bin99999999999 x}}", "there is no text in it"),
    ],
)
def test_broken_rtf_is_text_or_a_reason(parser: Parser, rtf: bytes, wanted: str) -> None:
    assert outcome(parser, "a.rtf", rtf) == wanted


def notebook(*cells: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"nbformat": 4, "metadata": {}, "cells": list(cells), **more}).encode()


def test_a_notebook_is_its_cells_without_pictures(parser: Parser) -> None:
    picture = {"output_type": "display_data", "data": {"image/png": "QUJD" * 9_000, "text/plain": ["<Figure size 1>"]}}
    error = {"output_type": "error", "ename": "KeyError", "evalue": "'flow'", "traceback": ["\u001b[31mlong\u001b[0m"]}
    data = notebook(
        {"cell_type": "markdown", "source": ["Wear\n", "====\n", "3 mm a year."]},
        {
            "cell_type": "code",
            "source": "plot()\n# not a heading",
            "outputs": [picture, {"output_type": "stream", "text": ["ok\n"]}, error],
        },
        {"cell_type": "raw", "source": "raw text"},
        metadata={"language_info": {"name": "julia"}},
    )
    parsed = parser.parse("wear.ipynb", data)
    assert [line for line in parsed.text.splitlines() if line and not line.startswith("```")] == [
        "# Wear",
        "3 mm a year.",
        "plot()",
        "# not a heading",
        "<Figure size 1>",
        "ok",
        "KeyError: 'flow'",
        "raw text",
    ]
    assert "```julia\n" in parsed.text
    assert (parsed.title, parsed.media) == ("Wear", "application/x-ipynb+json")


def test_an_older_notebook_and_a_broken_one(parser: Parser) -> None:
    older = {
        "worksheets": [{"cells": [{"cell_type": "heading", "level": 2, "source": "Old"}, {"cell_type": "code", "input": "1+1"}]}]
    }
    assert read(write_notebook, json.dumps(older).encode())[0] == "## Old\n\n```python\n1+1\n```"
    assert outcome(parser, "a.ipynb", b"{") == "not a readable notebook (JSONDecodeError)"
    assert outcome(parser, "a.ipynb", b"[]") == "not a readable notebook (it is not a JSON object)"
    for data in (b'{"cells": 7}', b'{"cells": [null, {"cell_type": "code", "source": {"a": 1}, "outputs": "x"}]}'):
        assert outcome(parser, "a.ipynb", data) == "there is no text in it"
