"""Text of scanned pages, by RapidOCR: PP-OCRv6 in ONNX, whose package carries the models. The `ocr` extra installs it.

It runs in the parser's sandbox, so it neither fetches a model nor keeps a file. On one thread: the sandbox counts processor time.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pypdfium2 as pdfium

from headrace.documents.formats.columns import Box, TextLine, in_reading_order

_DPI, _POINTS = 200, 72
_LONGEST = 2_000  # pixels of a page's longer side; a poster is read less finely, and takes no more memory
_FOUND_AT = 1_280  # pixels of the longer side on which lines are searched
_SAME_ROW = 0.5  # of a line's height that it shares with another one beside it


@dataclass(frozen=True)
class OcrPage:
    """The lines read on a page, in reading order, and the mean of the model's confidence over their letters, from 0 to 1."""

    lines: list[TextLine]
    letters: int
    confidence: float


def is_installed() -> bool:
    """Whether pages can be read here."""
    return importlib.util.find_spec("rapidocr") is not None


def read_page(page: pdfium.PdfPage) -> OcrPage:
    """Read what a page shows. Takes seconds of the processor and some 700 MB; the first one loads the models."""
    width, height = page.get_size()
    scale = min(_DPI / _POINTS, _LONGEST / max(width, height, 1.0))
    bitmap = page.render(scale=scale, rev_byteorder=False)
    try:
        read = _engine()(bitmap.to_numpy()[:, :, :3])
    finally:
        bitmap.close()
    found = []
    for text, score, corners in zip(read.txts or (), read.scores or (), read.boxes if read.txts else (), strict=True):
        across, down = [float(x) / scale for x, _ in corners], [float(y) / scale for _, y in corners]
        box = (min(across), min(down), max(across), max(down))
        if text.strip():
            found.append((TextLine(text.strip(), round((box[3] - box[1]) * 2) / 2, box), float(score)))
    letters = sum(len(line.text) for line, _ in found)
    confidence = sum(len(line.text) * score for line, score in found) / letters if letters else 0.0
    return OcrPage(list(in_reading_order(list(_rows([line for line, _ in found])))), letters, confidence)


def _rows(lines: Sequence[TextLine]) -> Iterator[list[TextLine]]:
    """Lines in reading order: rows from top to bottom, each from left to right."""
    row: list[TextLine] = []
    for line in sorted(lines, key=lambda line: line.box[1] + line.box[3]):
        if row and not _beside(row[-1].box, line.box):
            yield sorted(row, key=lambda one: one.box[0])
            row = []
        row.append(line)
    if row:
        yield sorted(row, key=lambda one: one.box[0])


def _beside(one: Box, other: Box) -> bool:
    shared = min(one[3], other[3]) - max(one[1], other[1])
    return shared >= _SAME_ROW * min(one[3] - one[1], other[3] - other[1])


@cache
def _engine() -> Any:
    import onnxruntime
    from rapidocr import RapidOCR

    onnxruntime.disable_telemetry_events()
    return RapidOCR(
        params={
            "Global.log_level": "critical",
            "Det.limit_type": "max",
            "Det.limit_side_len": _FOUND_AT,
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )
