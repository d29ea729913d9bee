"""The format of a file: by its content if that shows it, otherwise by its name."""

from __future__ import annotations

from pathlib import PurePosixPath

from headrace.documents.formats.contract import ParseLimits, ParseRefused
from headrace.documents.formats.languages import language_of
from headrace.documents.formats.office import office_format
from headrace.documents.formats.records import SUFFIXES, are_records
from headrace.documents.formats.registry import FORMATS, SOURCE_CODE, TEXT, DocumentFormat, by_suffix

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_OLD = {"WordDocument": "Word", "Workbook": "Excel", "Book": "Excel", "PowerPoint Document": "PowerPoint"}
_BINARY = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"\x7fELF", b"\x1f\x8b", b"BZh9", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!", b"MZ\x90")


def detect(name: str, data: bytes, limits: ParseLimits) -> tuple[DocumentFormat, str]:
    """The format, and for source code the language. Raises `ParseRefused` where there is none, or unpacking is not allowed."""
    suffix = PurePosixPath(name.lower()).suffix
    expected = by_suffix(suffix)
    bare = data[:1024].lstrip(b"\xef\xbb\xbf\x00 \t\r\n")
    if found := next((one for one in FORMATS.values() if one.magic and bare.startswith(one.magic)), None):
        return found, ""
    office = expected if expected and expected.zipped else None
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
        return office_format(data, limits, office), ""
    if data.startswith(_OLE):
        raise ParseRefused(_old(data))
    if data.startswith(_BINARY):
        raise ParseRefused(not_text(name))
    if expected and expected.suffix_decides:
        return expected, ""
    if suffix in SUFFIXES and are_records(data, limits):
        return FORMATS["records"], ""
    opening = _opening(data)
    by_opening = next((one for one in FORMATS.values() if one.opening and one.opening.match(opening)), None)
    if language := language_of(name, data) or ("xml" if bare.startswith(b"<?xml") and not by_opening else ""):
        return SOURCE_CODE, language
    if by_opening:
        return by_opening, ""
    if office and b"\x00" in data[:1024]:
        raise ParseRefused(f"not a readable {suffix} file")
    return expected if expected and not expected.binary else TEXT, ""


def not_text(name: str) -> str:
    """Why a file that is of no other format and is not text is refused."""
    suffix = PurePosixPath(name.lower()).suffix
    expected = by_suffix(suffix)
    if expected and expected.binary:
        return f"not a readable {suffix} file"
    known = expected or language_of(name, b"")
    return f"a {suffix} file of a format that is not supported yet" if suffix and not known else "it holds binary data, not text"


def _opening(data: bytes) -> str:
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
    return data[:4096].decode(encoding, "ignore").lstrip("\ufeff")


def _old(data: bytes) -> str:
    """Why a file in the container of old Office is refused, by the names in the container's directory."""
    if "EncryptedPackage".encode("utf-16-le") in data:
        return "it is encrypted and needs a password"
    if "__substg1.0_".encode("utf-16-le") in data:
        return "an Outlook message (MSG), a format that is not supported yet: save it as EML"
    for stream, program in _OLD.items():
        if stream.encode("utf-16-le") in data:
            return f"an old {program} file, a format that is not supported yet: save it as DOCX, PPTX or XLSX"
    return "an old Office or Windows file of a format that is not supported yet"
