"""The process that parses, `python -m headrace.documents.formats.worker PARENT LIMITS`: a file in, its parts or a reason out."""

from __future__ import annotations

import json
import logging
import mimetypes
import os
import re
import resource
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import PurePosixPath
from types import ModuleType
from typing import Any, BinaryIO

from headrace.documents.formats.contract import Output, ParseLimits, ParseRefused, framed, read_frame
from headrace.documents.formats.kind import Kind, kind_of, not_text
from headrace.documents.formats.plain_text import NOT_TEXT
from headrace.documents.formats.sandbox import allow_seconds, follow, shut

_HERE = "headrace.documents.formats."
# Loaded when the first file of their kind comes: the largest takes more than a second.
_MODULES = {
    "text": "plain_text",
    "markdown": "plain_text",
    "code": "plain_text",
    "csv": "table",
    "html": "html",
    "pdf": "pdf",
    "word": "html",
    "slides": "slides",
    "workbook": "workbook",
}
_CALLED = {"html": "HTML", "pdf": "PDF", "word": "Word", "slides": "PowerPoint", "workbook": "Excel"}
_MOST_HEADINGS = 50_000  # each makes a chunk of its own, however short what stands below it is
_HEADING = re.compile(r"^#{1,6}\s", re.M)
_SPENT = 0.4  # of the memory it may have; a process that took more makes room for a new one


def main() -> None:
    """Serve until the pipe ends."""
    follow(int(sys.argv[1]))
    limits = ParseLimits(**json.loads(sys.argv[2]))
    asked = sys.stdin.buffer
    told = os.fdopen(os.dup(1), "wb", closefd=False)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)  # a library that prints must not print into an answer
    os.dup2(quiet, 2)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    # markitdown loads magika to guess what a file is, which `kind` knows, and magika loads onnxruntime: more than a second,
    # 120 MB, and Microsoft's telemetry. markitdown works without it as long as nothing asks it for a guess.
    sys.modules.setdefault("magika", ModuleType("magika"))
    # Opened while that can be done.
    status = os.open("/proc/self/statm", os.O_RDONLY) if sys.platform == "linux" else None
    mimetypes.knownfiles.clear()  # lists of the machine, which will be out of reach
    shut(limits.parse_memory_bytes)
    while (name := read_frame(asked)) is not None and (data := read_frame(asked)) is not None:
        answer = _answer(name.decode(), data, limits, told)
        del data
        _tell(told, {"spent": _held(status) > _SPENT * limits.parse_memory_bytes, **answer})


def _held(status: int | None) -> int:
    """Bytes of memory this process holds; 0 where the system does not say."""
    return 0 if status is None else int(os.pread(status, 200, 0).split()[1]) * resource.getpagesize()


def _answer(name: str, data: bytes, limits: ParseLimits, told: BinaryIO) -> dict[str, Any]:
    called = "text"
    try:
        allow_seconds(limits.parse_cpu_seconds)
        kind = kind_of(name, data, limits)
        called = _CALLED.get(kind.name, "text")
        import_module(_HERE + _MODULES[kind.name])
        _tell(told, {"begun": True})
        allow_seconds(limits.parse_cpu_seconds)
        out = Output(limits.document_characters)
        _writer(kind, name, limits)(data, out)
        parts = out.parts()
        if kind.name != "code" and sum(len(_HEADING.findall(text)) for text, _ in parts) > _MOST_HEADINGS:
            raise ParseRefused(f"it has more than the limit of {_MOST_HEADINGS:,} headings")
        return {"media": kind.media, "parts": parts}
    except ParseRefused as refusal:
        return {"reason": not_text(name) if refusal.reason == NOT_TEXT else refusal.reason}
    except MemoryError:
        return {"reason": "parsing it takes too much memory", "spent": True}
    except RecursionError:
        return {"reason": "it is nested too deeply", "spent": True}
    except Exception as error:  # a parser meets every kind of broken file; the reason is what counts
        return {"reason": f"not a readable {called} file ({type(error).__name__})"}


def _writer(kind: Kind, name: str, limits: ParseLimits) -> Callable[[bytes, Output], None]:
    module = import_module(_HERE + _MODULES[kind.name])
    if kind.name == "code":
        return lambda data, out: module.write_code(data, out, PurePosixPath(name).name, kind.language)
    if kind.name == "csv":
        return lambda data, out: module.write_csv(data, out, limits.document_rows)
    write = getattr(module, f"write_{kind.name}")
    if kind.name in ("pdf", "slides", "workbook"):
        return lambda data, out: write(data, out, limits)
    return write  # type: ignore[no-any-return]


def _tell(told: BinaryIO, message: dict[str, Any]) -> None:
    told.write(framed(json.dumps(message, ensure_ascii=False).encode("utf-8", "replace")))
    told.flush()


if __name__ == "__main__":
    main()
