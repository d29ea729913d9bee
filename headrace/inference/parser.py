"""The parser: source bytes to Markdown text, in a process of its own that can be killed.

Plain text is read here; HTML and PDF go to the subprocess, whose memory and time are bounded: a hostile file costs its own
parse and nothing else.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import multiprocessing
import os
import re
import resource
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import PurePosixPath
from types import TracebackType

from headrace.errors import BadDocument

_MEMORY_BYTES = 4 << 30
_START_S = 60.0
_TEXT_LIMIT = 20_000_000  # characters; a small file can expand to far more
_CONVERTED = {".html": "text/html", ".htm": "text/html", ".xhtml": "text/html", ".pdf": "application/pdf"}
_MARKDOWN = {".md", ".markdown", ".mdown"}
_UNDERLINE = re.compile(r"^([=\-~^*\"'`:#+.])\1{2,}$")
_LEVELS = "*=-~^\"'`:#+."


@dataclass(frozen=True)
class Parsed:
    """A document's text in Markdown, its title and its media type."""

    text: str
    title: str
    media: str


class Parser:
    """Parses one document after another; use as a context manager, so that its process ends with the block."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None

    def __enter__(self) -> Parser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def parse(self, uri: str, data: bytes) -> Parsed:
        """The document's text. Raises `BadDocument` with the reason in one clause."""
        suffix = PurePosixPath(uri.lower()).suffix
        if not data:
            raise BadDocument(uri, "the file is empty")
        media = "application/pdf" if data.startswith(b"%PDF-") else _CONVERTED.get(suffix)
        if media is not None:
            text = self._convert(uri, data, media)
        else:
            text = _decode(uri, data, suffix)
            media = "text/markdown" if suffix in _MARKDOWN else "text/plain"
            if media == "text/plain":
                text = headings(text)
        text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "").strip()
        if not text:
            raise BadDocument(uri, "there is no text in it")
        if len(text) > _TEXT_LIMIT:
            raise BadDocument(uri, f"its text is longer than {_TEXT_LIMIT / 1e6:.0f} million characters")
        return Parsed(text, _title(text, uri), media)

    def _convert(self, uri: str, data: bytes, media: str) -> str:
        try:
            pipe = self._running()
            pipe.send((media, data))
            if not pipe.poll(self._seconds):
                self._end()
                raise BadDocument(uri, f"parsing took longer than {self._seconds:.0f} s")
            fine, answer = pipe.recv()
        except (EOFError, OSError):
            self._end()
            raise BadDocument(uri, "its parser ran out of memory or crashed") from None
        if not fine:
            raise BadDocument(uri, answer)
        return str(answer)

    def _running(self) -> Connection:
        if self._process is None or not self._process.is_alive() or self._pipe is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs,), name="parser", daemon=True)
            self._process.start()
            theirs.close()
            if not self._pipe.poll(_START_S):
                self._end()
                raise BadDocument("the parser", "did not start")
            self._pipe.recv()
        return self._pipe

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None


def headings(text: str) -> str:
    """Turn underlined titles, as plain text and reStructuredText have them, into Markdown headings.

    The first kind of underline met is the first level, the next new one the second, and so on.
    """
    lines, out, order = text.splitlines(), [], []
    fenced = False
    for index, line in enumerate(lines):
        fenced ^= line.lstrip().startswith("```")
        below = lines[index + 1].rstrip() if index + 1 < len(lines) else ""
        match = _UNDERLINE.match(below)
        title = line.strip()
        if not fenced and match and title and not _UNDERLINE.match(title) and abs(len(below) - len(line.rstrip())) <= 2:
            if match[1] not in order:
                order.append(match[1])
            out.append(f"{'#' * min(6, order.index(match[1]) + 1)} {title}")
        elif not fenced and _UNDERLINE.match(line.rstrip()) and out and out[-1].startswith("#"):
            out.append("")
        else:
            out.append(line)
    return "\n".join(out)


def _decode(uri: str, data: bytes, suffix: str) -> str:
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if data.startswith(mark):
            with contextlib.suppress(UnicodeDecodeError):
                return data.decode(encoding)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
        if b"\x00" not in data:
            guess = data.decode("cp1252", "ignore")
            # Old Western text is nearly all printable; anything else that fails as UTF-8 is not text.
            if sum(c.isprintable() or c in "\n\r\t" for c in guess) >= 0.99 * len(data):
                text = guess
    control = sum(c < " " and c not in "\n\r\t\f\x1b" for c in text)
    if not text or "\x00" in text or control > 0.01 * len(text):
        what = f"a {suffix} file of a format that is not read yet" if suffix not in _TEXTUAL else "it holds binary data, not text"
        raise BadDocument(uri, what)
    return text


_TEXTUAL = {"", ".txt", ".text", ".rst", ".log", *_MARKDOWN}


def _title(text: str, uri: str) -> str:
    for line in text.splitlines()[:50]:
        if line.startswith("#") and (title := line.lstrip("#").strip()):
            return title[:200]
    return PurePosixPath(uri).stem


def _serve(pipe: Connection) -> None:
    """The subprocess: (media, bytes) in, (fine, text or reason) out."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ["OMP_NUM_THREADS"] = "1"
    import logging

    from markitdown import StreamInfo
    from markitdown.converters import HtmlConverter, PdfConverter
    from pdfminer.pdfdocument import PDFDocument, PDFPasswordIncorrect
    from pdfminer.pdfparser import PDFParser

    logging.disable(logging.CRITICAL)
    html, pdf = HtmlConverter(), PdfConverter()
    pipe.send("ready")
    while True:
        try:
            media, data = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            if media == "application/pdf":
                PDFDocument(PDFParser(io.BytesIO(data)))
                answer = pdf.convert(io.BytesIO(data), StreamInfo(mimetype=media, extension=".pdf")).markdown
            else:
                answer = html.convert(io.BytesIO(data), StreamInfo(mimetype=media, extension=".html")).markdown
            pipe.send((True, answer))
        except PDFPasswordIncorrect:
            pipe.send((False, "the PDF is encrypted and needs a password"))
        except MemoryError:
            pipe.send((False, "parsing it takes too much memory"))
        except RecursionError:
            pipe.send((False, "it is nested too deeply"))
        except Exception as error:  # a parser meets every kind of broken file; the reason is what counts
            kind = "PDF" if media == "application/pdf" else "HTML"
            pipe.send((False, f"not a readable {kind} file ({type(error).__name__})"))
