"""Scanned pages are read by OCR inside the parser's sandbox, with the confidence in what was read."""

from __future__ import annotations

import importlib.util
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from font_source_sans_pro import SourceSansPro
from PIL import Image, ImageDraw, ImageFont
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas

from headrace.documents.formats.contract import ParseLimits
from headrace.documents.parser import Parser
from headrace.errors import BadDocument
from headrace.settings import Inference

LIMITS = ParseLimits.from_settings(Inference())
_SIZE = (420, 200)  # points: small pages are read in a second
_PIXELS = 3  # for each point

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("rapidocr") is None, reason="the extra that reads scanned pages is not installed: make install-ocr"
)


@pytest.fixture(scope="module")
def parser() -> Iterator[Parser]:
    with Parser(LIMITS) as parser:
        yield parser


def scan(lines: Sequence[tuple[int, int, str]]) -> Image.Image:
    """A picture with these lines of text at these points."""
    picture = Image.new("L", (_SIZE[0] * _PIXELS, _SIZE[1] * _PIXELS), 244)
    draw, font = ImageDraw.Draw(picture), ImageFont.truetype(SourceSansPro, 12 * _PIXELS)
    for x, y, text in lines:
        draw.text((x * _PIXELS, y * _PIXELS), text, fill=30, font=font)
    return picture


def document(*pages: Image.Image | str) -> bytes:
    """A PDF of scanned pages, and of pages with text."""
    made = io.BytesIO()
    canvas = Canvas(made, pagesize=_SIZE)
    for page in pages:
        if isinstance(page, str):
            canvas.drawString(30, 150, page)
        else:
            canvas.drawImage(ImageReader(page), 0, 0, *_SIZE)
        canvas.showPage()
    canvas.save()
    return made.getvalue()


PUMP = scan([(30, 30, "The bearing of the pump is greased"), (30, 50, "every 400 hours with 12 g of grease.")])
NOTHING = Image.new("L", (300, 150), 200)


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def test_a_scanned_page_is_read_and_says_how_surely(parser: Parser) -> None:
    parsed = parser.parse("manual.pdf", document("The manual of the pump.", PUMP, NOTHING))
    assert words(parsed.text) == words(
        "The manual of the pump. The bearing of the pump is greased every 400 hours with 12 g of grease."
    )
    assert [part.place for part in parsed.parts] == ["page 1", "page 2"]
    assert parsed.ocr_confidence is not None
    assert 0.7 < parsed.ocr_confidence <= 1
    assert parsed.remark == f"page 2 was read by OCR (confidence {parsed.ocr_confidence:.0%})"
    assert parsed.note == "page 3 has no text (scanned images?)"


def test_columns_are_read_one_after_the_other(parser: Parser) -> None:
    left = ["The pump is old and has", "a seal that leaks when", "the valve is closed by", "the night shift."]
    right = ["The motor is new and it", "runs at the speed that", "the plate on its front", "says it should run."]
    page = scan([(x, 20 + 24 * n, text) for x, column in ((20, left), (230, right)) for n, text in enumerate(column)])
    assert words(parser.parse("a.pdf", document(page)).text) == words(" ".join(left + right))


def test_no_more_pages_are_read_than_the_settings_say() -> None:
    with Parser(replace(LIMITS, ocr_pages=1)) as one:
        parsed = one.parse("a.pdf", document(PUMP, PUMP))
    assert parsed.remark.startswith("page 1 was read by OCR")
    assert parsed.note == "page 2 has no text (scanned images?)"
    with Parser(replace(LIMITS, ocr_pages=0)) as none, pytest.raises(BadDocument) as refused:
        none.parse("a.pdf", document(PUMP))
    assert refused.value.reason == "it has no text (scanned images?)"


def test_no_page_is_begun_once_the_time_for_them_is_over() -> None:
    """Each page has the time of a document; without a bound for all, 200 pages hold a slow document's place for hours."""
    with Parser(replace(LIMITS, ocr_seconds=0.01)) as parser:
        parsed = parser.parse("a.pdf", document(PUMP, PUMP, PUMP))
    assert parsed.remark.startswith("page 1 was read by OCR")
    assert parsed.note == "pages 2–3 have no text (scanned images?)"


@pytest.mark.soak(minutes=0.5)
def test_each_page_has_the_processor_time_of_a_document() -> None:
    with Parser(replace(LIMITS, parse_cpu_seconds=4)) as parser:
        parsed = parser.parse("a.pdf", document(*[PUMP] * 16))  # about eight seconds
    assert len(parsed.parts) == 16
    assert parsed.remark.startswith("pages 1–16 were read by OCR")
