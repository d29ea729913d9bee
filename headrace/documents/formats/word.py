"""DOCX to Markdown. Word keeps no page numbers in its files, so headings are what its passages are found by."""

from __future__ import annotations

import io

from headrace.documents.formats.html import without_images  # first: it says how markitdown is loaded
from headrace.documents.formats.output import Output

from markitdown import StreamInfo  # isort: skip
from markitdown.converters import DocxConverter  # isort: skip


def write_word(data: bytes, out: Output) -> None:
    """A Word document: headings, lists, tables, notes and formulas."""
    found = DocxConverter().convert(io.BytesIO(data), StreamInfo(extension=".docx"), table_infer_header=True)
    out.write(without_images(found.markdown))
