"""Zip files of Office, OpenDocument and EPUB: which format each is, and whether it may be unpacked."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Sequence

from headrace.documents.formats.contract import ParseLimits, ParseRefused, size
from headrace.documents.formats.registry import FORMATS, DocumentFormat

_TYPES = "[Content_Types].xml"
_TYPES_BYTES = 2_000_000
_LOCAL_HEADER = 30  # bytes of each entry's local header, without the name
_RATIO_FROM = 10_000_000  # unpacked bytes; below that the ratio does not matter
_ENCRYPTED = 1  # bit of an entry's flags
_BOOK = (".opf", "/container.xml", "/encryption.xml")
_READ = 1 << 20
_XML = (".xml", ".rels", ".vml", ".opf")
_ENCODINGS = ("ascii", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
_DOCTYPE = ["<!DOCTYPE".encode(encoding) for encoding in _ENCODINGS]
_MAIN = re.compile(
    rb"application/vnd\.(?:openxmlformats-officedocument\.|ms-)(word|presentation|powerpoint|spreadsheet|excel)[\w.-]*"
    rb"\.(?:main|binary)[\w.-]*(\+xml)?",
    re.I,
)


def office_format(data: bytes, limits: ParseLimits, expected: DocumentFormat | None) -> DocumentFormat:
    """The format of a zip file that unpacks within the limits. Raises `ParseRefused`.

    `expected` is the Office format of its suffix, if any.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            _check(entries, len(data), archive.start_dir, limits)
            found = _by_main_part(archive, entries, expected)
            # A page of a book may have a document type, as HTML has; what describes the book has none.
            _check_xml(archive, [one for one in entries if found is not FORMATS["epub"] or one.filename.endswith(_BOOK)])
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, UnicodeDecodeError, OSError) as error:
        what = expected.called if expected else "zip file"
        raise ParseRefused(f"not a readable {what} ({type(error).__name__})") from None
    return found


def _check(entries: Sequence[zipfile.ZipInfo], packed: int, end: int, limits: ParseLimits) -> None:
    # Python's reader stops at the size that an entry declares, so no more than the declared bytes are unpacked.
    if len(entries) > limits.unpacked_files:
        raise ParseRefused(f"it is a zip of {len(entries):,} files, more than the limit of {limits.unpacked_files:,}")
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > limits.unpacked_bytes:
        raise ParseRefused(f"it unpacks to {size(unpacked)}, more than the limit of {size(limits.unpacked_bytes)}")
    if unpacked > _RATIO_FROM and unpacked > packed * limits.unpacked_ratio:
        raise ParseRefused(
            f"it unpacks to {size(unpacked)}, {unpacked // packed:,} times its size; the limit is {limits.unpacked_ratio:,} times"
        )
    if any(entry.flag_bits & _ENCRYPTED for entry in entries):
        raise ParseRefused("it is encrypted and needs a password")
    ordered = sorted(entries, key=lambda entry: entry.header_offset)
    for entry, following in zip(ordered, [*(other.header_offset for other in ordered[1:]), end], strict=False):
        if entry.header_offset + _LOCAL_HEADER + entry.compress_size > following:
            raise ParseRefused("it is a zip whose files overlap, as in a zip bomb")
    if len({entry.filename for entry in entries}) < len(entries):
        raise ParseRefused("it is a zip with two files of the same name")


def _by_main_part(
    archive: zipfile.ZipFile, entries: Sequence[zipfile.ZipInfo], expected: DocumentFormat | None
) -> DocumentFormat:
    sizes = {entry.filename: entry.file_size for entry in entries}
    if "mimetype" in sizes and sizes["mimetype"] < 200:
        media = archive.read("mimetype").decode("ascii", "replace").strip()
        if found := next((one for one in FORMATS.values() if one.packages and media.startswith(one.packages)), None):
            return found
        if "opendocument" in media:
            raise ParseRefused("an OpenDocument file of a format that is not supported yet: save it as ODT, ODS or ODP")
    if sizes.get(_TYPES, _TYPES_BYTES + 1) <= _TYPES_BYTES and (match := _MAIN.search(archive.read(_TYPES))):
        if match[2] is None:
            raise ParseRefused("a binary workbook (XLSB), a format that is not supported yet: save it as XLSX")
        part = match[1].decode().lower()
        if found := next((one for one in FORMATS.values() if part in one.office_parts), None):
            return found
    if expected:
        raise ParseRefused(f"it is a zip without a {expected.called} in it")
    raise ParseRefused("a zip archive is not read: unpack it and put its files")


def _check_xml(archive: zipfile.ZipFile, entries: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse document type declarations: Office files have none (ECMA-376 part 2, 10.1.4), and attacks by entities need one."""
    for entry in entries:
        if not entry.filename.lower().endswith(_XML):
            continue
        tail = b""
        with archive.open(entry) as part:
            while read := part.read(_READ):
                if any(mark in tail + read for mark in _DOCTYPE):
                    raise ParseRefused("its XML declares a document type, as attacks do and Office files never do")
                tail = (tail + read)[-max(map(len, _DOCTYPE)) :]
