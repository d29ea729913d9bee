"""PDF: what is filled in, pages whose text is in a picture, and columns that were drawn row by row."""

from __future__ import annotations

from dataclasses import replace

import pytest
from documents import pages, pdf, ruled, shown, stream

from headrace.documents.formats.contract import DocumentFile, Output, ParseLimits, ParseRefused
from headrace.documents.formats.pdf import write_pdf
from headrace.settings import Settings

LIMITS = ParseLimits.from_settings(Settings.model_fields["inference"].default)
PICTURE = b"q %d 0 0 %d 0 0 cm BI /W 1 /H 1 /CS /G /BPC 8 ID \x80 EI Q\n"
SCAN = PICTURE % (612, 792)


def read(data: bytes) -> tuple[str, list[str]]:
    """The text and the notes."""
    out = Output(1_000_000)
    write_pdf(DocumentFile("a.pdf", data, replace(LIMITS, ocr_pages=0)), out)
    return "\n\n".join(text for text, _ in out.parts()), out.notes


def form(content: bytes, *fields: bytes) -> bytes:
    """A page with these annotations, which are the fields of a form."""
    names = b" ".join(b"%d 0 R" % (10 + n) for n in range(len(fields)))
    return pdf(
        {
            1: b"<</Type/Catalog/Pages 2 0 R/AcroForm<</Fields[%s]/DR<</Font<</F1 5 0 R>>>>>>>>" % names,
            2: b"<</Type/Pages/Count 1/Kids[3 0 R]>>",
            3: b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Resources<</Font<</F1 5 0 R>>>>/Contents 4 0 R/Annots[%s]>>"
            % names,
            4: stream(content),
            5: b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>",
            **{10 + n: b"<</Type/Annot/F 4/P 3 0 R%s>>" % field for n, field in enumerate(fields)},
        }
    )


def text_field(name: bytes, value: bytes, box: bytes) -> bytes:
    return b"/Subtype/Widget/FT/Tx/T(%s)/V(%s)/DA(/F1 12 Tf)/Rect[%s]" % (name, value, box)


def check_box(name: bytes, on: bool, box: bytes) -> bytes:
    state = b"Yes" if on else b"Off"
    return b"/Subtype/Widget/FT/Btn/T(%s)/V/%s/AS/%s/AP<</N<</Yes 4 0 R/Off 4 0 R>>>>/Rect[%s]" % (name, state, state, box)


def test_what_is_filled_in_stands_where_it_stands_on_the_page() -> None:
    content = shown("Plant:", y=720) + shown("approved", x=100, y=690) + shown("rejected", x=100, y=670) + shown("Remarks", y=640)
    data = form(
        content,
        text_field(b"plant", b"Harbour \\374ber 7", b"120 715 300 735"),
        check_box(b"ok", True, b"72 688 90 702"),
        check_box(b"no", False, b"72 668 90 682"),
        text_field(b"remarks", b"Seal is worn", b"72 560 300 630"),
        text_field(b"empty", b"", b"72 500 300 520"),
        b"/Subtype/FreeText/Contents(typed on the page)/DA(/F1 12 Tf)/Rect[72 400 300 420]",
    )
    text, notes = read(data)
    assert [line for line in text.splitlines() if line] == [
        "Plant: Harbour über 7",
        "[x] approved",
        "[ ] rejected",
        "Remarks",
        "Seal is worn",
        "typed on the page",
    ]
    assert notes == []


def test_what_is_filled_in_stands_in_its_cell() -> None:
    table = ruled([["Part", "Limit"], ["Valve", ""]], y=600)
    text, _ = read(form(table, text_field(b"limit", b"5 bar", b"176 562 260 578")))
    assert text.splitlines()[-1] == "| Valve | 5 bar |"


def test_pages_whose_text_is_in_a_picture_are_named() -> None:
    text, notes = read(pages(shown("Cover"), SCAN, SCAN + shown("- 2 -", y=20), b"", shown("End"), SCAN))
    assert "Cover" in text
    assert "End" in text
    assert notes == ["pages 2–3 and 6 have no text (scanned images?)"]
    assert read(pages(shown("Cover"), SCAN))[1] == ["page 2 has no text (scanned images?)"]
    many = read(pages(*[shown("x"), SCAN] * 30))[1][0]
    assert many == "pages 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24 and 18 more have no text (scanned images?)"


def test_pages_with_text_beside_pictures_are_not() -> None:
    much = b"".join(shown("The wheel of the mill turns at dawn.", y=700 - 20 * n) for n in range(5))
    for content in (SCAN + much, PICTURE % (100, 100) + shown("Hall 7"), shown("Hall 7")):
        assert read(pages(content))[1] == []


def test_scans_with_printed_page_numbers_are_refused_like_scans() -> None:
    with pytest.raises(ParseRefused, match="it has no text"):
        read(pages(*(SCAN + shown(f"- {n} -", y=20) for n in range(3))))


LEFT = [
    "The committee met in May and",
    "decided to replace the pumps",
    "in the hall. Work begins in",
    "June and ends in October.",
]
RIGHT = [
    "The budget of the plant was",
    "raised by four percent to pay",
    "for the new valves, which cost",
    "more than was expected.",
]


def test_columns_drawn_row_by_row_are_read_one_after_the_other() -> None:
    rows = b"".join(
        shown(one, y=700 - 14 * n) + shown(two, x=320, y=700 - 14 * n)
        for n, (one, two) in enumerate(zip(LEFT, [*RIGHT, ""], strict=False))
    )
    heading = shown("Minutes of the plant", y=740)
    text, _ = read(pages(heading + rows + shown("Signed by all.", y=600)))
    assert [line for line in text.splitlines() if line] == ["Minutes of the plant", *LEFT, *RIGHT, "Signed by all."]


def test_a_column_that_ends_earlier_and_short_last_lines_keep_the_order() -> None:
    left, right = [*LEFT[:3], "June."], RIGHT[:3]
    rows = b"".join(
        shown(one, y=700 - 14 * n) + (shown(right[n], x=320, y=700 - 14 * n) if n < len(right) else b"")
        for n, one in enumerate(left)
    )
    assert read(pages(rows))[0].splitlines() == [*left, *right]


def test_a_table_without_rules_keeps_its_rows() -> None:
    table = [["Part", "Hall", "Limit"], ["Valve", "North", "5 bar"], ["Pump", "East wing", "7 bar"], ["Seal", "West", "9 bar"]]
    drawn = b"".join(
        shown(cell, x=72 + 150 * column, y=700 - 14 * row) for row, cells in enumerate(table) for column, cell in enumerate(cells)
    )
    assert read(pages(drawn))[0].splitlines() == [" ".join(cells) for cells in table]
