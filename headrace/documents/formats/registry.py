"""The document formats, one record each: how its files are recognised, what messages call them, and what writes their text.

To add a format: a writer in a module of its own and a record in `FORMATS`. A writer takes a `DocumentFile` and an `Output`. Its
module is imported with the first file of the format, since the largest takes more than a second to import.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from headrace.documents.formats.contract import DocumentFile, Output

_OFFICE = "application/vnd.openxmlformats-officedocument."


@dataclass(frozen=True)
class DocumentFormat:
    """One format, recognised by `magic`, `office_parts` or `opening`, and by the suffix where no format's content matches."""

    called: str
    """The file's name in messages: "PDF file"."""
    media: str
    """The media type; for source code the language is appended."""
    writer: str
    """`.module:function`, the module in this package."""
    suffixes: tuple[str, ...] = ()
    """Suffixes of names, with the dot, in lower case."""
    magic: bytes = b""
    """The first bytes of the content, after white space and a byte order mark."""
    office_parts: tuple[str, ...] = ()
    """Names of the format in the content type of an Office file's main part."""
    packages: tuple[str, ...] = ()
    """How the `mimetype` file of a zip of this format begins, as in OpenDocument and EPUB."""
    opening: re.Pattern[str] | None = None
    """Matches the first 4,096 characters, whatever the file's name."""
    suffix_decides: bool = False
    """Whether any text under the suffix is of the format."""
    table: bool = False
    """Whether the text is a table, whose first heading says less than the file's name."""
    fenced: bool = False
    """Whether its writer writes a heading and one fence of source code, as `write_code` does."""
    runs_on: bool = False
    """Whether text runs on from one part to the next, as from page to page but not from slide to slide."""

    @property
    def zipped(self) -> bool:
        """Whether its files are zip files."""
        return bool(self.office_parts or self.packages)

    @property
    def binary(self) -> bool:
        """Whether its files are recognised by their bytes, so that other bytes under its suffix are a broken file."""
        return bool(self.magic or self.zipped)

    def load(self) -> Callable[[DocumentFile, Output], None]:
        """Import the writer's module; returns the writer."""
        module, _, function = self.writer.partition(":")
        write: Callable[[DocumentFile, Output], None] = getattr(import_module(module, __package__), function)
        return write


TEXT = DocumentFormat("text file", "text/plain", ".plain_text:write_text", (".txt", ".text", ".rst", ".log"))
"""The format of a text of no other format."""
SOURCE_CODE = DocumentFormat("text file", "text/x-", ".plain_text:write_code", fenced=True)
"""Recognised by its language (languages.py)."""
HTML = DocumentFormat(
    "HTML page",
    "text/html",
    ".html:write_html",
    (".html", ".htm", ".xhtml"),
    opening=re.compile(r"^\s*(?:<\?xml[^>]{0,200}>\s*)?(?:<!--.{0,2000}?-->\s*)*<(?:!doctype\s+html|html)\b", re.I | re.S),
    suffix_decides=True,
)


def _opendocument(kind: str, called: str, suffixes: tuple[str, ...], *, table: bool = False) -> DocumentFormat:
    media = f"application/vnd.oasis.opendocument.{kind}"
    return DocumentFormat(called, media, ".opendocument:write_opendocument", suffixes, packages=(media,), table=table)


FORMATS: dict[str, DocumentFormat] = {
    "text": TEXT,
    "source code": SOURCE_CODE,
    "html": HTML,
    "markdown": DocumentFormat(
        "text file", "text/markdown", ".plain_text:write_markdown", (".md", ".markdown", ".mdown"), suffix_decides=True
    ),
    "csv": DocumentFormat("CSV file", "text/csv", ".table:write_csv", (".csv", ".tsv", ".tab"), suffix_decides=True, table=True),
    # JSON that is a table; other JSON is source code
    "records": DocumentFormat("JSON file", "application/json", ".records:write_records", table=True),
    "notebook": DocumentFormat(
        "notebook", "application/x-ipynb+json", ".notebook:write_notebook", (".ipynb",), suffix_decides=True
    ),
    "mail": DocumentFormat(
        "message",
        "message/rfc822",
        ".mail:write_mail",
        (".eml", ".mht", ".mhtml"),
        # header lines, one of which says that it is MIME
        opening=re.compile(r"(?:[A-Za-z][\w-]{0,60}:[^\n]*\n(?:[ \t][^\n]*\n)*){0,60}?MIME-Version:[^\n]*\n", re.I),
        suffix_decides=True,
    ),
    "mailbox": DocumentFormat("mailbox", "application/mbox", ".mail:write_mailbox", (".mbox",), suffix_decides=True),
    "rtf": DocumentFormat("RTF file", "application/rtf", ".rtf:write_rtf", (".rtf",), b"{\\rtf"),
    "pdf": DocumentFormat(
        "PDF file", "application/pdf", ".pdf:write_pdf", (".pdf",), b"%PDF-", suffix_decides=True, runs_on=True
    ),
    "word": DocumentFormat(
        "Word document",
        _OFFICE + "wordprocessingml.document",
        ".word:write_word",
        (".docx", ".docm", ".dotx", ".dotm"),
        office_parts=("word",),
    ),
    "slides": DocumentFormat(
        "presentation",
        _OFFICE + "presentationml.presentation",
        ".slides:write_slides",
        (".pptx", ".pptm", ".ppsx", ".ppsm", ".potx", ".potm"),
        office_parts=("presentation", "powerpoint"),
    ),
    "workbook": DocumentFormat(
        "workbook",
        _OFFICE + "spreadsheetml.sheet",
        ".workbook:write_workbook",
        (".xlsx", ".xlsm", ".xltx", ".xltm", ".xlsb"),
        office_parts=("spreadsheet", "excel"),
        table=True,
    ),
    "opendocument text": _opendocument("text", "OpenDocument text", (".odt", ".ott")),
    "opendocument sheets": _opendocument("spreadsheet", "OpenDocument workbook", (".ods", ".ots"), table=True),
    "opendocument slides": _opendocument("presentation", "OpenDocument presentation", (".odp", ".otp")),
    "epub": DocumentFormat(
        "EPUB book", "application/epub+zip", ".epub:write_epub", (".epub",), packages=("application/epub+zip",)
    ),
}


def by_suffix(suffix: str) -> DocumentFormat | None:
    """The format with this suffix, or `None`."""
    return next((found for found in FORMATS.values() if suffix in found.suffixes), None)


def kinds_of(media: str) -> tuple[str, ...]:
    """What a document of this media type may be called in a filter: its format, and the media type."""
    name = next((name for name, found in FORMATS.items() if found.media == media), "code")
    return name, media


def by_media(media: str) -> DocumentFormat:
    """The format of a document with this media type, as it was parsed."""
    found = next((found for found in FORMATS.values() if found.media == media), None)
    return found or (SOURCE_CODE if media.startswith(SOURCE_CODE.media) else TEXT)
