"""The parser: source bytes to Markdown text, in a process of its own that can be killed.

Only that process looks into a file (`formats/`), so a hostile file fails alone.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import PurePosixPath
from types import TracebackType
from typing import Any

from headrace.documents.formats.contract import HEADER, ParseLimits, framed
from headrace.documents.formats.markdown import outline
from headrace.documents.formats.registry import by_media
from headrace.errors import BadDocument

_WORKER = "headrace.documents.formats.worker"
_START_S = 60.0
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


class Parser:
    """Parses one document after another, on one thread at a time; a context manager, which ends its process.

    The first document starts the process, and so does the next one after a document that killed it.
    """

    def __init__(self, limits: ParseLimits) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Parser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def parse(self, uri: str, data: bytes) -> Parsed:
        """The document's text. Raises `BadDocument` with the reason in one clause."""
        if not data:
            raise BadDocument(uri, "the file is empty")
        if len(data) > self._limits.document_bytes:
            raise BadDocument(uri, f"larger than the limit of {self._limits.document_bytes / 1e6:,.0f} MB")
        try:
            answer = self._request(uri, data)
        except _Killed as killed:
            raise BadDocument(uri, killed.reason) from None
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
        return Parsed(text, title, media, parts, str(answer.get("note") or "")[:300])

    def _request(self, uri: str, data: bytes) -> dict[str, Any]:
        """The child's answer for one file. Raises `_Killed`."""
        process = self._running()
        name = uri.encode("utf-8", "replace")
        pipe = _Exchange(process, self._limits.document_characters * _CHARACTER_BYTES + _READ)
        try:
            pipe.send(memoryview(framed(name) + HEADER.pack(len(data))), data)
            message = pipe.receive(_START_S, "its parser did not start")
            if message.get("begun"):
                seconds = self._limits.parse_seconds
                message = pipe.receive(seconds, f"parsing took longer than {seconds:g} s")
        except _Killed as killed:
            self._end()
            raise _Killed(_reason(process.returncode, killed.reason, self._limits)) from None
        except BaseException:  # after an interrupt, the child's next message would be taken for another file's
            self._end()
            raise
        if message.get("spent"):
            self._end()
        return message

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()
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

    def _end(self) -> None:
        if (process := self._process) is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        self._process = None


class _Killed(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Exchange:
    """Sends one file to the child and receives its answer, each within a time limit."""

    def __init__(self, process: subprocess.Popen[bytes], most: int) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin.fileno(), process.stdout.fileno()
        os.set_blocking(self._in, False)
        self._most = most
        self._held = bytearray()

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

    def receive(self, seconds: float, late: str) -> dict[str, Any]:
        """The child's next message. Raises `_Killed`: with `late` if it takes longer than `seconds`."""
        end = time.monotonic() + seconds
        while (message := self._whole()) is None:
            if not _ready(self._out, select.POLLIN, end):
                raise _Killed(late)
            read = os.read(self._out, _READ)
            if not read:
                raise _Killed("")
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
        if length > self._most:
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
