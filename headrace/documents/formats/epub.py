"""EPUB to Markdown, chapter by chapter in the order of reading."""

from __future__ import annotations

import io
import posixpath
import zipfile
from typing import Any
from urllib.parse import unquote

from lxml import etree

from headrace.documents.formats.contract import DocumentFile, Output, ParseRefused, line
from headrace.documents.formats.encoding import decoded
from headrace.documents.formats.html import write_page

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_PAGES = ("application/xhtml+xml", "text/html")


def write_epub(file: DocumentFile, out: Output) -> None:
    """Write the title of a book and each chapter of its spine, which is a part of its own."""
    with zipfile.ZipFile(io.BytesIO(file.data)) as archive:
        names = set(archive.namelist())
        package = next((one.get("full-path") for one in _parsed(archive.read(_CONTAINER)).iter("{*}rootfile")), None)
        if package not in names:
            raise ParseRefused("not a readable EPUB book (its table of contents is missing)")
        book = _parsed(archive.read(package))
        locked = set()
        if _ENCRYPTION in names:  # fonts may be scrambled in any book
            locked = {one.get("URI") for one in _parsed(archive.read(_ENCRYPTION)).iter("{*}CipherReference")}
        files = {item.get("id"): item.get("href") or "" for item in book.iter("{*}item") if item.get("media-type") in _PAGES}
        chapters = [files[one.get("idref")] for one in book.iter("{*}itemref") if one.get("idref") in files]
        if len(chapters) > file.limits.document_pages:
            raise ParseRefused(f"it has {len(chapters):,} chapters, more than the limit of {file.limits.document_pages:,}")
        title = next((line(one.text or "") for one in book.iter("{http://purl.org/dc/elements/1.1/}title")), "")
        out.write(f"# {title}\n\n" if title else "")
        for number, href in enumerate(chapters, 1):
            name = posixpath.normpath(posixpath.join(posixpath.dirname(package), unquote(href.partition("#")[0])))
            if name in locked:
                raise ParseRefused("it is protected against copying")
            if name in names:
                out.begin_part(f"chapter {number}")
                write_page(decoded(archive.read(name)), out)


def _parsed(content: bytes) -> Any:
    return etree.fromstring(content, etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False))
