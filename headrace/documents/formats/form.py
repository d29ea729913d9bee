"""What is filled in on a page of a PDF: values of form fields and text that was typed on it, on the line it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from ctypes import POINTER, byref, cast, create_string_buffer
from dataclasses import dataclass, replace
from typing import Any

import pypdfium2.raw as raw

from headrace.documents.formats.columns import Box, TextLine
from headrace.documents.formats.contract import line

_TEXTS = (raw.FPDF_FORMFIELD_TEXTFIELD, raw.FPDF_FORMFIELD_COMBOBOX, raw.FPDF_FORMFIELD_LISTBOX)
_BOXES = (raw.FPDF_FORMFIELD_CHECKBOX, raw.FPDF_FORMFIELD_RADIOBUTTON)
_MOST = 5_000  # annotations of a page
_BYTES = 200_000  # of a value
_TYPED = b"Contents"
_FAR = 200.0  # points between a field and the words that name it


@dataclass(frozen=True)
class FieldValue:
    """A value and its position; `mark` says that it is the state of a box, which precedes its label."""

    text: str
    box: Box
    mark: bool = False


def filled_in(page: Any, form: Any) -> list[FieldValue]:
    """The values on a page; `form` is PDFium's form environment, `None` if the file has no form."""
    found: list[FieldValue] = []
    for index in range(min(_MOST, raw.FPDFPage_GetAnnotCount(page))):
        annotation = raw.FPDFPage_GetAnnot(page, index)
        if annotation:
            found += _values(annotation, form)
            raw.FPDFPage_CloseAnnot(annotation)
    return found


def with_values(lines: Sequence[TextLine], values: Sequence[FieldValue]) -> list[TextLine]:
    """The lines, each with the values beside it; a value beside no line is a line of its own, below those above it."""
    out = list(lines)
    for value in sorted(values, key=lambda value: (value.box[1], value.box[0])):
        beside = [
            (distance, n)
            for n, one in enumerate(out)
            if not one.rows and (distance := _distance(one.box, value)) is not None and distance <= _FAR
        ]
        if beside:
            _, n = min(beside)
            near, box = out[n], out[n].box
            text = f"{value.text} {near.text}" if value.mark else f"{near.text} {value.text}"
            out[n] = replace(near, text=text, box=(min(box[0], value.box[0]), box[1], max(box[2], value.box[2]), box[3]))
        else:
            n = next((n for n, one in enumerate(out) if one.box[1] > value.box[1]), len(out))
            out.insert(n, TextLine(value.text, 0.0, value.box))
    return out


def _distance(box: Box, value: FieldValue) -> float | None:
    """How far a value is from a line at its height: in front of it if it is a mark, otherwise after it."""
    middle = (value.box[1] + value.box[3]) / 2
    if not box[1] - 2 <= middle <= box[3] + 2 and not value.box[1] <= (box[1] + box[3]) / 2 <= value.box[3]:
        return None
    distance = box[0] - value.box[2] if value.mark else value.box[0] - box[2]
    return max(0.0, distance) if distance > -5 else None


def _values(annotation: Any, form: Any) -> Iterator[FieldValue]:
    kind = raw.FPDFAnnot_GetSubtype(annotation)
    bounds = raw.FS_RECTF()
    if not raw.FPDFAnnot_GetRect(annotation, byref(bounds)):
        return
    box = (bounds.left, -bounds.top, bounds.right, -bounds.bottom)
    if kind == raw.FPDF_ANNOT_FREETEXT:
        text = _string(lambda buffer, size: raw.FPDFAnnot_GetStringValue(annotation, _TYPED, buffer, size))
        if text:
            yield FieldValue(text, box)
    elif kind == raw.FPDF_ANNOT_WIDGET and form is not None:
        field = raw.FPDFAnnot_GetFormFieldType(form, annotation)
        if field in _BOXES:
            yield FieldValue("[x]" if raw.FPDFAnnot_IsChecked(form, annotation) else "[ ]", box, mark=True)
        elif field in _TEXTS:
            text = _string(lambda buffer, size: raw.FPDFAnnot_GetFormFieldValue(form, annotation, buffer, size))
            if text:
                yield FieldValue(text, box)


def _string(read: Callable[[Any, int], int]) -> str:
    size = read(None, 0)
    if not 2 < size <= _BYTES:
        return ""
    buffer = create_string_buffer(size)
    read(cast(buffer, POINTER(raw.FPDF_WCHAR)), size)
    return line(buffer.raw[: size - 2].decode("utf-16-le", "replace"))
