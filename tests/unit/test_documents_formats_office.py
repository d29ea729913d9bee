"""Sheets and slides as a program shows them: formatted numbers, merged cells, formulas, equations and diagrams."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import date, datetime, time, timedelta

import openpyxl
import pytest
from documents import sheets
from lxml import etree
from pptx import Presentation
from pptx.opc.package import Part
from pptx.opc.packuri import PackURI
from pptx.util import Inches

from headrace.documents.formats.contract import DocumentFile, Output, ParseLimits
from headrace.documents.formats.number_format import shown_number, shown_text, shown_time
from headrace.documents.formats.slides import write_slides
from headrace.documents.formats.workbook import write_workbook
from headrace.settings import Settings

LIMITS = ParseLimits.from_settings(Settings.model_fields["inference"].default)


def markdown(write: Callable[[DocumentFile, Output], None], data: bytes) -> str:
    out = Output(1_000_000)
    write(DocumentFile("a", data, LIMITS), out)
    return "\n\n".join(text for text, _ in out.parts())


@pytest.mark.parametrize(
    ("value", "code", "shown"),
    [
        (0.155, "0.0%", "15.5%"),
        (1234.5, '#,##0.00 "EUR"', "1,234.50 EUR"),
        (1067, "00000", "01067"),
        (-5.5, "0.00;[Red]-0.00", "-5.50"),
        (-5.5, "#,##0.0_);(#,##0.0)", "(5.5)"),
        (-5.5, "0.0", "-5.5"),
        (0, '0;-0;"none"', "none"),
        (1234567, "#,##0,", "1,235"),
        (1234567.891, '0.0,,"M"', "1.2M"),
        (2.25, "# ?/?", "2 1/4"),
        (0.375, "?/8", "3/8"),
        (12345, "0.00E+00", "1.23E+04"),
        (123456789, "000-00-0000", "123-45-6789"),
        (5551234, "###-####", "555-1234"),
        (12, "[$€-407] #,##0.00", "€ 12.00"),
        (1500, '[>=1000]0.0,"k";0', "1.5k"),
        (5, '[>=1000]0.0,"k";0', "5"),
        (1.5, "0.##", "1.5"),
        (2.345, "0.00", "2.35"),
        (7, 'General" pcs"', "7 pcs"),
        (7, ";;;", "7"),
        (0.1 + 0.2, "General", "0.3"),
        (4006381333931, "General", "4006381333931"),
        (1e300, "0.00000000000000000000", "1e+300"),
    ],
)
def test_a_number_is_shown_in_its_format(value: float, code: str, shown: str) -> None:
    assert shown_number(value, code) == shown


@pytest.mark.parametrize(
    ("value", "code", "shown"),
    [
        (timedelta(hours=36), "[h]:mm", "36:00"),
        (timedelta(hours=36, seconds=5), "[h]:mm:ss", "36:00:05"),
        (datetime(2024, 3, 1), "mmm-yy", "Mar-24"),
        (datetime(2024, 3, 1), "[$-409]mmmm\\ yyyy;@", "March 2024"),
        (datetime(2024, 3, 1), "d/m", "1/3"),
        (datetime(2024, 3, 1), '"week of" d mmm', "week of 1 Mar"),
        (datetime(2024, 2, 29), "dddd", "Thursday"),
        (date(2024, 2, 29), "mm-dd-yy", "2024-02-29"),
        (datetime(2024, 2, 29, 9, 30), "d.m.yyyy hh:mm", "2024-02-29 09:30"),
        (time(15, 5), "h:mm AM/PM", "3:05 PM"),
        (time(9, 5, 7), "hh:mm:ss", "09:05:07"),
        (time(0, 3, 7), "mm:ss", "03:07"),
    ],
)
def test_a_time_is_shown_in_its_format_and_a_day_as_no_country_misreads_it(
    value: date | time | timedelta, code: str, shown: str
) -> None:
    assert shown_time(value, code) == shown


def test_a_text_is_shown_in_its_format() -> None:
    assert shown_text("7b", '0;0;0;"Hall "@') == "Hall 7b"
    assert shown_text("7b", "0.00") == "7b"


def test_merged_cells_of_a_sheet_stand_in_each_of_their_rows_and_a_title_once() -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    for cells in (
        ["Report 2024"],
        ["Region", "Part", "Limits"],
        ["North", "Valve", 1, 2],
        [None, "Pump", 3, 4],
        ["South", "Seal", 5, 6],
    ):
        sheet.append(cells)
    for merged in ("A1:D1", "C2:D2", "A3:A4", "A5:A9"):
        sheet.merge_cells(merged)
    out = io.BytesIO()
    book.save(out)
    assert markdown(write_workbook, out.getvalue()) == (
        "# Sheet\n\nReport 2024\n\n| Region | Part | Limits | Limits |\n|---|---|---|---|\n"
        "| North | Valve | 1 | 2 |\n| North | Pump | 3 | 4 |\n| South | Seal | 5 | 6 |"
    )


def test_a_sheet_shows_formats_and_the_formula_of_what_no_program_has_calculated() -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(["Part", "Share", "Total"])
    sheet.append(["Pump", 0.5, "=B2*2"])
    sheet["B2"].number_format = "0%"
    out = io.BytesIO()
    book.save(out)
    assert markdown(write_workbook, out.getvalue()).splitlines()[-1] == "| Pump | 50% | =B2*2 |"
    calculated = '<row r="1"><c r="A1" t="inlineStr"><is><t>n</t></is></c><c r="B1"><f>1+1</f><v>2</v></c></row>'
    assert "=1+1" not in markdown(write_workbook, sheets({"A": calculated}))


def test_slides_have_what_stands_in_alternatives_equations_diagrams_and_merged_cells() -> None:
    deck = Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[5])
    slide.shapes.title.text = "Drain"
    box = slide.shapes.add_textbox(0, Inches(2), 9, 9)
    box.text_frame.text = "In a choice"
    math = "http://schemas.openxmlformats.org/officeDocument/2006/math"
    box.text_frame.paragraphs[0]._p.append(
        etree.fromstring(
            '<a14:m xmlns:a14="http://schemas.microsoft.com/office/drawing/2010/main">'
            f'<m:oMath xmlns:m="{math}"><m:r><m:t> q=vA</m:t></m:r></m:oMath></a14:m>'
        )
    )
    space = "http://schemas.openxmlformats.org/markup-compatibility/2006"
    choice = etree.fromstring(
        f'<mc:AlternateContent xmlns:mc="{space}"><mc:Choice Requires="a14"/><mc:Fallback/></mc:AlternateContent>'
    )
    box._element.addprevious(choice)
    choice[0].append(box._element)
    table = slide.shapes.add_table(3, 2, Inches(1), Inches(3), Inches(4), Inches(1)).table
    for index, text in enumerate(("Hall", "Part", "North", "Valve", "", "Pump")):
        table.cell(index // 2, index % 2).text = text
    table.cell(1, 0).merge(table.cell(2, 0))
    model = "http://schemas.openxmlformats.org/drawingml/2006/diagram"
    points = "".join(
        f'<d:pt><d:t><a:p xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"><a:r><a:t>{text}</a:t></a:r></a:p></d:t></d:pt>'
        for text in ("Close the valve", "", "Open the drain")
    )
    part = Part(
        PackURI("/ppt/diagrams/data1.xml"),
        "application/vnd.openxmlformats-officedocument.drawingml.diagramData+xml",
        slide.part.package,
        f'<d:dataModel xmlns:d="{model}"><d:ptLst>{points}</d:ptLst></d:dataModel>'.encode(),
    )
    slide.part.relate_to(part, "http://schemas.openxmlformats.org/officeDocument/2006/relationships/diagramData")
    out = io.BytesIO()
    deck.save(out)
    assert markdown(write_slides, out.getvalue()) == (
        "# Drain\n\nIn a choice q=vA\n\n| Hall | Part |\n|---|---|\n| North | Valve |\n| North | Pump |\n\n"
        "- Close the valve\n- Open the drain"
    )
