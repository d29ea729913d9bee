"""Jupyter notebooks: text as it is, code in fences, and outputs as text without pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from headrace.documents.formats.contract import DocumentFile, Output, ParseRefused, clean
from headrace.documents.formats.encoding import decoded
from headrace.documents.formats.plain_text import fenced, markdown_headings

_OUTPUT_CHARACTERS = 20_000  # of one output; more is a log
_LANGUAGE = re.compile(r"[\w+#.-]{1,30}")


def write_notebook(file: DocumentFile, out: Output) -> None:
    """Write the cells of a notebook in their order (nbformat 3 and 4)."""
    notebook = json.loads(decoded(file.data))
    if not isinstance(notebook, dict):
        raise ParseRefused("not a readable notebook (it is not a JSON object)")
    language = _language(notebook)
    for cell in _cells(notebook):
        source = clean(_joined(cell.get("source", cell.get("input")))).strip("\n")
        if cell.get("cell_type") == "code":
            out.write(fenced(source, language) + "\n" if source.strip() else "")
        elif cell.get("cell_type") == "heading":  # of nbformat 3
            out.write(f"{'#' * _level(cell)} {' '.join(source.split())}\n\n")
        else:
            out.write(markdown_headings(source) + "\n\n")
        for output in _dictionaries(cell.get("outputs")):
            if text := clean(_shown(output)).strip("\n"):
                out.write(fenced(text[:_OUTPUT_CHARACTERS], "") + "\n")


def _cells(notebook: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from _dictionaries(notebook.get("cells"))
    for sheet in _dictionaries(notebook.get("worksheets")):
        yield from _dictionaries(sheet.get("cells"))


def _dictionaries(value: Any) -> Iterator[Mapping[str, Any]]:
    yield from (one for one in value if isinstance(one, dict)) if isinstance(value, list) else ()


def _joined(value: Any) -> str:
    """Text, which notebooks keep as one string or as a list of lines."""
    return value if isinstance(value, str) else "".join(filter(_is_text, value)) if isinstance(value, list) else ""


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _level(cell: Mapping[str, Any]) -> int:
    level = cell.get("level")
    return min(6, max(1, level)) if isinstance(level, int) else 1


def _language(notebook: Mapping[str, Any]) -> str:
    metadata = notebook.get("metadata")
    for name, key in (("language_info", "name"), ("kernelspec", "language")):
        about = metadata.get(name) if isinstance(metadata, dict) else None
        language = about.get(key) if isinstance(about, dict) else None
        if isinstance(language, str) and _LANGUAGE.fullmatch(language):
            return language
    return "python"


def _shown(output: Mapping[str, Any]) -> str:
    """The text of an output; pictures and programs are left out."""
    if output.get("output_type") in ("error", "pyerr"):
        return f"{_joined(output.get('ename'))}: {_joined(output.get('evalue'))}"
    data = output.get("data")
    text = _joined(data.get("text/plain")) if isinstance(data, dict) else ""
    return text or _joined(output.get("text"))
