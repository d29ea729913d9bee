"""HTML and DOCX to Markdown: headings, lists, tables and emphasis survive; programs, styles and embedded images do not."""

from __future__ import annotations

import io
import re

from markitdown import StreamInfo
from markitdown.converters import DocxConverter, HtmlConverter

from headrace.documents.formats.contract import DocumentFile, Output
from headrace.documents.formats.encoding import decoded

_IMAGE = re.compile(r"!\[([^\[\]]*)\]\(data:[^()\s]*\)")


def write_html(file: DocumentFile, out: Output) -> None:
    """Write an HTML page, in the encoding detected or declared."""
    write_page(decoded(file.data), out)


def write_page(page: str, out: Output) -> None:
    """Write HTML that is decoded already."""
    out.write(without_images(HtmlConverter().convert_string(page, table_infer_header=True).markdown))


def without_images(markdown: str) -> str:
    """Replace embedded images with their descriptions."""
    return _IMAGE.sub(r"\1", markdown)


def write_word(file: DocumentFile, out: Output) -> None:
    """Write a Word document: headings, lists, tables, notes and formulas."""
    result = DocxConverter().convert(io.BytesIO(file.data), StreamInfo(extension=".docx"), table_infer_header=True)
    out.write(without_images(result.markdown))
