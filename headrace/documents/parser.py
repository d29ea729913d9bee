"""The parser: source bytes to Markdown text, in a process of its own that can be killed.

Only that process looks into a file (`formats/`), so a hostile file fails alone.
"""

from __future__ import annotations

import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import PurePosixPath
from types import TracebackType
from typing import Any

from headrace.documents.formats.contract import HEADER, ParseLimits, framed
from headrace.documents.formats.markdown import outline
from headrace.documents.formats.registry import by_media
from headrace.documents.pii import refusal_of, screen
from headrace.errors import BadDocument

_WORKER = "headrace.documents.formats.worker"
_START_S = 60.0
_LOAD_S = 4.0  # to start, to detect a format and to load its parser, before it counts as parsing
_REST_S = 10.0  # for the rest of an answer: its sender may have waited for the pipe to be read
_CHARACTER_BYTES = 6  # of an answer, at most
_READ = 1 << 20
# The environment variables that the child gets: no endpoints and no keys.
_ENVIRONMENT = ("LANG", "LC_ALL", "LC_CTYPE", "PATH", "SYSTEMROOT", "TZ")


@dataclass(frozen=True)
class DocumentPart:
    """A page, slide or sheet, and the character of the document's text at which it begins."""

    start: int
    place: str


@dataclass(frozen=True)
class Parsed:
    """A document's text in Markdown, its title, its media type, its pages, slides or sheets, and what its text lacks, if any."""

    text: str
    title: str
    media: str
    parts: tuple[DocumentPart, ...] = ()
    note: str = ""
    remark: str = ""
    """How the text was made, where that matters, as a clause."""
    ocr_confidence: float | None = None
    """Mean confidence over the letters that were read from scanned pages, from 0 to 1; `None` where none were."""
    pii: Mapping[str, int] = field(default_factory=dict)
    """How much personal data of each kind that is looked for was in its text, or in its name; some may be masked by now."""


class Parser:
    """Parses one document after another, on one thread; a context manager, which ends its process.

    The first document starts the process, and so does the next one after a document that killed it. It ends with the thread that
    started it (`ending_with`).
    """

    def __init__(self, limits: ParseLimits) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._exchange: _Exchange | None = None
        self._uri = ""

    def __enter__(self) -> Parser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    def start(self) -> None:
        """Start the process, so that the first document need not wait for it."""
        self._running()

    def parse(self, uri: str, data: bytes) -> Parsed:
        """The document's text. Raises `BadDocument` with the reason in one clause."""
        self.begin(uri, data)
        parsed = self.finish()
        assert parsed is not None
        return parsed

    def begin(self, uri: str, data: bytes) -> None:
        """Begin to parse a document, whose text `finish` returns. Raises as `parse`."""
        if not data:
            raise BadDocument(uri, "the file is empty")
        if len(data) > self._limits.document_bytes:
            raise BadDocument(uri, f"larger than the limit of {self._limits.document_bytes / 1e6:,.0f} MB")
        self._uri = uri
        self._exchange = _Exchange(self._running(), self._limits)
        with self._fatal():
            self._exchange.send(memoryview(framed(uri.encode("utf-8", "replace")) + HEADER.pack(len(data))), data)

    def finish(self, seconds: float = math.inf) -> Parsed | None:
        """The text of the document begun, or `None` if parsing goes on for longer than `seconds` from now. Raises as `parse`."""
        assert self._exchange is not None
        with self._fatal():
            answer = self._exchange.answer(seconds)
        if answer is None:
            return None
        if answer.get("spent"):
            self.end()
        return _parsed(self._uri, answer, self._limits)

    def ready(self) -> bool:
        """Whether `finish` need not wait."""
        return self._exchange is not None and self._exchange.ready()

    def end(self) -> None:
        """End the process; the next document starts another one."""
        if (process := self._process) is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        self._process = self._exchange = None

    @contextmanager
    def _fatal(self) -> Iterator[None]:
        """End the process if the block fails; where that is the document's fault, raise `BadDocument`."""
        process = self._process
        assert process is not None
        try:
            yield
        except _Killed as killed:
            self.end()
            raise BadDocument(self._uri, _reason(process.returncode, killed.reason, self._limits)) from None
        except BaseException:  # after an interrupt, the child's next message would be taken for another file's
            self.end()
            raise

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.end()
            environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-s", "-B", "-m", _WORKER, str(os.getpid()), json.dumps(asdict(self._limits))],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={
                    **environment,
                    "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path),
                    "OMP_NUM_THREADS": "1",
                    "OPENBLAS_NUM_THREADS": "1",
                    "MALLOC_ARENA_MAX": "2",  # each further one takes 64 MB of address space
                },
            )
        return self._process


class _Killed(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Exchange:
    """Sends one file to the child and receives its answer, each within a time limit."""

    def __init__(self, process: subprocess.Popen[bytes], limits: ParseLimits) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin.fileno(), process.stdout.fileno()
        os.set_blocking(self._in, False)
        self._limits = limits
        self._held = bytearray()
        self._begun = 0
        self._loading = self._end = 0.0
        self._last = math.inf
        self._late = "its parser did not start"

    def send(self, *pieces: bytes | memoryview) -> None:
        """Write to the child. Raises `_Killed`."""
        end = time.monotonic() + _START_S
        for piece in pieces:
            left = memoryview(piece)
            while left:
                if not _ready(self._in, select.POLLOUT, end):
                    raise _Killed("its parser did not start")
                try:
                    left = left[os.write(self._in, left[:_READ]) :]
                except BlockingIOError:
                    continue
                except OSError:
                    raise _Killed("") from None
        self._loading, self._end = time.monotonic() + _LOAD_S, time.monotonic() + _START_S

    def answer(self, seconds: float) -> dict[str, Any] | None:
        """The child's answer, `None` if parsing goes on for longer than `seconds` from now. Raises `_Killed`."""
        now = time.monotonic()
        until = (now if self._begun else max(now, self._loading)) + seconds
        while (message := self._receive(until)) is not None and message.get("begun"):
            if self._begun > self._limits.ocr_pages:
                raise _Killed("its parser returned an unreadable answer")
            until = until if self._begun else time.monotonic() + seconds
            self._begun += 1
            # Once for the document, and once for each page that is read by OCR, which begins none after so long.
            self._last = min(self._last, time.monotonic() + self._limits.ocr_seconds + 2 * self._limits.parse_seconds)
            self._end = min(time.monotonic() + self._limits.parse_seconds, self._last)
            self._late = f"parsing took longer than {self._limits.parse_seconds:g} s"
        return message

    def ready(self) -> bool:
        """Whether the child has sent something, has ended, or is late."""
        return _ready(self._out, select.POLLIN, 0.0) or time.monotonic() > self._end

    def _receive(self, until: float) -> dict[str, Any] | None:
        """The child's next message, `None` if none comes before `until`. Raises `_Killed`, also where the child is late."""
        rest = time.monotonic() + _REST_S
        while (message := self._whole()) is None:
            end = rest if self._held else min(until, self._end)
            if not _ready(self._out, select.POLLIN, end):
                if end == until:
                    return None
                raise _Killed(self._late)
            read = os.read(self._out, _READ)
            if not read:
                raise _Killed("")
            if not self._held:
                rest = time.monotonic() + _REST_S
            self._held += read
        try:
            answer = json.loads(message)
        except (ValueError, RecursionError):
            raise _Killed("its parser returned an unreadable answer") from None
        return answer if isinstance(answer, dict) else {}

    def _whole(self) -> bytes | None:
        if len(self._held) < HEADER.size:
            return None
        length = HEADER.unpack_from(self._held)[0]
        if length > self._limits.document_characters * _CHARACTER_BYTES + _READ:
            raise _Killed("its parser returned an unreadable answer")
        if len(self._held) < HEADER.size + length:
            return None
        message = bytes(self._held[HEADER.size : HEADER.size + length])
        del self._held[: HEADER.size + length]
        return message


def _ready(descriptor: int, event: int, end: float) -> bool:
    """Wait until a pipe can be written or read, or is broken; false at the time `end`."""
    pipe = select.poll()  # `select.select` takes no descriptors from 1024 on
    pipe.register(descriptor, event)
    return bool(pipe.poll(max(0.0, end - time.monotonic()) * 1000))


def _reason(code: int | None, output: str, limits: ParseLimits) -> str:
    if output:
        return output
    if code == -signal.SIGXCPU:
        return f"parsing took more than {limits.parse_cpu_seconds} s of CPU time"
    return "its parser ran out of memory or crashed"


def _parsed(uri: str, answer: dict[str, Any], limits: ParseLimits) -> Parsed:
    reason, pieces, media = answer.get("reason"), answer.get("parts"), answer.get("media")
    if isinstance(reason, str):
        raise BadDocument(uri, reason[:300])
    if not isinstance(pieces, list) or not isinstance(media, str):
        raise BadDocument(uri, "its parser returned an unreadable answer")
    if not pieces:
        raise BadDocument(uri, "there is no text in it")
    text, parts = _joined([(str(joined), str(place)) for joined, place in pieces])
    # The heading of a table is a sheet's name, which says less than the file's name.
    title = PurePosixPath(uri).stem if by_media(media).table else _title(text, uri)
    title, in_title = screen(title, limits.pii)  # it may be the file's name, which the parser does not return
    counted = answer.get("pii")
    pii = {k: n for k, n in counted.items() if k in limits.pii and isinstance(n, int)} if isinstance(counted, dict) else {}
    pii = pii or in_title
    if refusal := refusal_of(pii, limits.pii):
        raise BadDocument(uri, refusal)
    confidence = answer.get("ocr_confidence")
    confidence = min(1.0, max(0.0, confidence)) if isinstance(confidence, float) else None
    note, remark = (str(answer.get(name) or "")[:300] for name in ("note", "remark"))
    return Parsed(text, title, media, parts, note, remark, confidence, pii)


def _joined(located: list[tuple[str, str]]) -> tuple[str, tuple[DocumentPart, ...]]:
    """The text of all parts, and where each named one begins."""
    pieces: list[str] = []
    parts: list[DocumentPart] = []
    at = 0
    for text, place in located:
        text = text.encode("utf-8", "replace").decode()  # JSON can hold halves of surrogate pairs
        if place:
            parts.append(DocumentPart(at, place.encode("utf-8", "replace").decode()))
        pieces.append(text)
        at += len(text) + 2
    return "\n\n".join(pieces), tuple(parts)


def _title(text: str, uri: str) -> str:
    titles = (title[:200] for _, _, title in islice(outline(text[:20_000]), 50) if title)
    return next(titles, PurePosixPath(uri).stem)
