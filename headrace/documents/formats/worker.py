"""The parsing process, `python -m headrace.documents.formats.worker PARENT LIMITS`: a file in, its parts or a reason out."""

from __future__ import annotations

import json
import logging
import mimetypes
import os
import resource
import sys
import warnings
from collections import Counter
from types import ModuleType
from typing import Any, BinaryIO

from headrace.documents.formats.contract import DocumentFile, Output, ParseLimits, ParseRefused, framed, read_frame
from headrace.documents.formats.detection import detect, not_text
from headrace.documents.formats.encoding import NOT_TEXT
from headrace.documents.formats.markdown import outline
from headrace.documents.formats.registry import TEXT
from headrace.documents.formats.sandbox import allow_seconds, shut
from headrace.process import ending_with

_MOST_HEADINGS = 50_000  # each begins a chunk, however short the text below it
_SPENT = 0.4  # of its memory limit; a process that has taken more is replaced


def main() -> None:
    """Serve until the pipe ends."""
    ending_with(int(sys.argv[1]))()
    limits = ParseLimits(**json.loads(sys.argv[2]))
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb", closefd=False)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)  # so that no library prints into an answer
    os.dup2(quiet, 2)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    # markitdown loads magika to guess formats, which detection.py knows, and magika loads onnxruntime: more than a second,
    # 120 MB, and Microsoft's telemetry. markitdown works without magika as long as nothing asks it to guess.
    sys.modules.setdefault("magika", ModuleType("magika"))
    # Opened before the sandbox closes.
    status = os.open("/proc/self/statm", os.O_RDONLY) if sys.platform == "linux" else None
    mimetypes.knownfiles.clear()  # the system's lists, which the sandbox puts out of reach
    shut(limits.parse_memory_bytes)
    while (name := read_frame(requests)) is not None and (data := read_frame(requests)) is not None:
        answer = _answer(name.decode(), data, limits, answers)
        del data
        _tell(answers, {"spent": _memory_bytes(status) > _SPENT * limits.parse_memory_bytes, **answer})


def _memory_bytes(status: int | None) -> int:
    """Bytes of memory this process uses; 0 where the system does not report it."""
    return 0 if status is None else int(os.pread(status, 200, 0).split()[1]) * resource.getpagesize()


def _answer(name: str, data: bytes, limits: ParseLimits, answers: BinaryIO) -> dict[str, Any]:
    found = TEXT
    try:
        allow_seconds(limits.parse_cpu_seconds)
        found, language = detect(name, data, limits)
        write = found.load()
        _tell(answers, {"begun": True})
        allow_seconds(limits.parse_cpu_seconds)

        def working() -> None:
            _tell(answers, {"begun": True})
            allow_seconds(limits.parse_cpu_seconds)

        out = Output(limits.document_characters, working)
        write(DocumentFile(name, data, limits, language), out)
        parts = out.parts()
        if sum(level > 0 for text, _ in parts for _, level, _ in outline(text)) > _MOST_HEADINGS:
            raise ParseRefused(f"it has more than the limit of {_MOST_HEADINGS:,} headings")
        pii: Counter[str] = Counter()
        if limits.pii:
            from headrace.documents.pii import refusal_of, screen

            for place, (text, name_of_part) in enumerate(parts):
                masked, found_in_part = screen(text, limits.pii)
                parts[place] = masked, name_of_part
                pii += found_in_part
            if reason := refusal_of(pii, limits.pii):
                raise ParseRefused(reason)
        made = {"note": "; ".join(out.notes), "remark": out.remark, "ocr_confidence": out.ocr_confidence, "pii": pii}
        return {"media": found.media + language, "parts": parts, **made}
    except ParseRefused as refusal:
        return {"reason": not_text(name) if refusal.reason == NOT_TEXT else refusal.reason}
    except MemoryError:
        return {"reason": "parsing it takes too much memory", "spent": True}
    except RecursionError:
        return {"reason": "it is nested too deeply", "spent": True}
    except Exception as error:  # broken files can raise anything; only the reason matters
        return {"reason": f"not a readable {found.called} ({type(error).__name__})"}


def _tell(answers: BinaryIO, message: dict[str, Any]) -> None:
    answers.write(framed(json.dumps(message, ensure_ascii=False).encode("utf-8", "replace")))
    answers.flush()


if __name__ == "__main__":
    main()
