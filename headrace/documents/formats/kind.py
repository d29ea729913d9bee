"""What a file is: by its content where that says, else by its name."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from headrace.documents.formats.contract import ParseLimits, ParseRefused, size

_TYPES = "[Content_Types].xml"
_TYPES_BYTES = 2_000_000
_LOCAL_HEADER = 30  # bytes before the name in front of each entry
_RATIO_FROM = 10_000_000  # unpacked bytes below which a ratio says nothing
_ENCRYPTED = 1  # bit of an entry's flags
_READ = 1 << 20
_XML = (".xml", ".rels", ".vml")
_DOCTYPE = [b"<!DOCTYPE".decode().encode(encoding) for encoding in ("ascii", "utf-16-le", "utf-16-be")]
_MAIN = re.compile(
    rb"application/vnd\.(?:openxmlformats-officedocument\.|ms-)(word|presentation|powerpoint|spreadsheet|excel)[\w.-]*"
    rb"\.(?:main|binary)[\w.-]*(\+xml)?",
    re.I,
)
_KINDS = {b"word": "word", b"presentation": "slides", b"powerpoint": "slides", b"spreadsheet": "workbook", b"excel": "workbook"}
_CALLED = {"word": "Word document", "slides": "presentation", "workbook": "workbook"}


def office_kind(data: bytes, limits: ParseLimits, expected: str) -> str:
    """ "word", "slides" or "workbook", once the file is known to be one and to unpack within the limits.

    `expected` is what its name says it is, or empty. Raises `ParseRefused`.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            _check(entries, len(data), archive.start_dir, limits)
            kind = _office_kind(archive, entries, expected)
            _check_xml(archive, entries)
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, UnicodeDecodeError, OSError) as error:
        what = f"not a readable {_CALLED[expected]}" if expected else "not a readable zip file"
        raise ParseRefused(f"{what} ({type(error).__name__})") from None
    return kind


def _check(entries: Sequence[zipfile.ZipInfo], packed: int, end: int, limits: ParseLimits) -> None:
    # Python's reader stops at the size an entry declares, so that what is declared is what can be unpacked.
    if len(entries) > limits.unpacked_files:
        raise ParseRefused(f"is a zip of {len(entries):,} files, more than the limit of {limits.unpacked_files:,}")
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > limits.unpacked_bytes:
        raise ParseRefused(f"is a zip that unpacks to {size(unpacked)}, more than the limit of {size(limits.unpacked_bytes)}")
    if unpacked > _RATIO_FROM and unpacked > packed * limits.unpacked_ratio:
        raise ParseRefused(
            f"is a zip that unpacks to {size(unpacked)}, {unpacked // packed:,} times its size;"
            f" the limit is {limits.unpacked_ratio:,} times"
        )
    if any(entry.flag_bits & _ENCRYPTED for entry in entries):
        raise ParseRefused("it is encrypted and needs a password")
    ordered = sorted(entries, key=lambda entry: entry.header_offset)
    for entry, following in zip(ordered, [*(other.header_offset for other in ordered[1:]), end], strict=False):
        if entry.header_offset + _LOCAL_HEADER + entry.compress_size > following:
            raise ParseRefused("is a zip whose files overlap, as a zip bomb's do")
    if len({entry.filename for entry in entries}) < len(entries):
        raise ParseRefused("is a zip that holds two files of one name")


def _office_kind(archive: zipfile.ZipFile, entries: Sequence[zipfile.ZipInfo], expected: str) -> str:
    sizes = {entry.filename: entry.file_size for entry in entries}
    if "mimetype" in sizes and sizes["mimetype"] < 200:
        kind = archive.read("mimetype").decode("ascii", "replace").strip()
        if "opendocument" in kind:
            raise ParseRefused("an OpenDocument file, a format that is not read yet: save it as DOCX, PPTX or XLSX")
        if "epub" in kind:
            raise ParseRefused("an EPUB book, a format that is not read yet")
    if sizes.get(_TYPES, _TYPES_BYTES + 1) <= _TYPES_BYTES and (match := _MAIN.search(archive.read(_TYPES))):
        if match[2] is None:
            raise ParseRefused("a binary workbook (XLSB), a format that is not read yet: save it as XLSX")
        return _KINDS[match[1].lower()]
    if expected:
        raise ParseRefused(f"is a zip that holds no {_CALLED[expected]}")
    raise ParseRefused("a zip archive is not read: unpack it and put its files")


def _check_xml(archive: zipfile.ZipFile, entries: Sequence[zipfile.ZipInfo]) -> None:
    """Office files have no document type declarations (ECMA-376 part 2, 10.1.4), and without one XML has no entities."""
    for entry in entries:
        if not entry.filename.lower().endswith(_XML):
            continue
        kept = b""
        with archive.open(entry) as part:
            while read := part.read(_READ):
                if any(mark in kept + read for mark in _DOCTYPE):
                    raise ParseRefused("its XML declares a document type, which Office files never do and attacks do")
                kept = read[-20:]


CODE = "text/x-"
"""Media types of source code begin with this; the language follows."""
_OFFICE = "application/vnd.openxmlformats-officedocument."
_MEDIA = {
    "text": "text/plain",
    "markdown": "text/markdown",
    "html": "text/html",
    "csv": "text/csv",
    "pdf": "application/pdf",
    "word": _OFFICE + "wordprocessingml.document",
    "slides": _OFFICE + "presentationml.presentation",
    "workbook": _OFFICE + "spreadsheetml.sheet",
}
_SUFFIXES = {
    "text": "txt text rst log",
    "markdown": "md markdown mdown",
    "html": "html htm xhtml",
    "csv": "csv tsv tab",
    "word": "docx docm dotx dotm",
    "slides": "pptx pptm ppsx ppsm potx potm",
    "workbook": "xlsx xlsm xltx xltm xlsb",
    "pdf": "pdf",
}
_LANGUAGES = {
    "ada": "adb ads",
    "apex": "trigger",
    "asm": "asm s",
    "awk": "awk",
    "bash": "sh bash zsh ksh fish",
    "batch": "bat cmd",
    "c": "c h",
    "clojure": "clj cljs cljc edn",
    "cmake": "cmake",
    "cobol": "cob cbl",
    "cpp": "cc cpp cxx hh hpp hxx ipp inl",
    "csharp": "cs csx",
    "css": "css scss sass less",
    "cuda": "cu cuh",
    "cython": "pyx pxd",
    "d": "d",
    "dart": "dart",
    "diff": "diff patch",
    "dockerfile": "dockerfile",
    "elixir": "ex exs",
    "elm": "elm",
    "erlang": "erl hrl",
    "fortran": "f f77 f90 f95 f03 f08 for",
    "fsharp": "fs fsx fsi",
    "glsl": "glsl vert frag",
    "go": "go",
    "graphql": "graphql gql",
    "groovy": "groovy gradle",
    "haskell": "hs lhs",
    "hcl": "tf hcl tfvars",
    "ini": "ini cfg conf properties env",
    "java": "java",
    "javascript": "js mjs cjs jsx",
    "json": "json jsonl json5 ipynb geojson",
    "julia": "jl",
    "kotlin": "kt kts",
    "lisp": "lisp cl el scm rkt",
    "lua": "lua",
    "makefile": "mk mak",
    "matlab": "m",
    "nim": "nim",
    "nix": "nix",
    "objectivec": "mm",
    "ocaml": "ml mli",
    "pascal": "pas pp",
    "perl": "pl pm",
    "php": "php phtml",
    "powershell": "ps1 psm1",
    "prolog": "pro",
    "protobuf": "proto",
    "python": "py pyi pyw",
    "r": "r",
    "ruby": "rb rake gemspec",
    "rust": "rs",
    "scala": "scala sc sbt",
    "solidity": "sol",
    "sql": "sql ddl",
    "svelte": "svelte",
    "swift": "swift",
    "tcl": "tcl",
    "terraform": "tfstate",
    "tex": "tex sty cls bib",
    "thrift": "thrift",
    "toml": "toml",
    "typescript": "ts tsx mts cts",
    "verilog": "v sv svh",
    "vhdl": "vhd vhdl",
    "vim": "vim",
    "vue": "vue",
    "xml": "xml xsd xsl xslt svg wsdl plist",
    "yaml": "yaml yml",
    "zig": "zig",
}
_KIND_OF = {f".{suffix}": kind for kind, suffixes in _SUFFIXES.items() for suffix in suffixes.split()}
_LANGUAGE_OF = {f".{suffix}": name for name, suffixes in _LANGUAGES.items() for suffix in suffixes.split()}
_NAMED = {"makefile": "makefile", "dockerfile": "dockerfile", "cmakelists.txt": "cmake", "jenkinsfile": "groovy"}
_NAMED |= {"rakefile": "ruby", "gemfile": "ruby", "vagrantfile": "ruby"}
_SHEBANG = re.compile(
    rb"^(?:\xef\xbb\xbf)?#![^\r\n]{0,200}?\b(python|bash|zsh|ksh|sh|perl|ruby|node|php|lua|awk|Rscript|tclsh)[\d.]*\b"
)
_INTERPRETERS = {"zsh": "bash", "ksh": "bash", "sh": "bash", "node": "javascript", "rscript": "r", "tclsh": "tcl"}
_PAGE = re.compile(r"^\s*(?:<\?xml[^>]{0,200}>\s*)?(?:<!--.{0,2000}?-->\s*)*<(?:!doctype\s+html|html)\b", re.I | re.S)
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_OLD = {"WordDocument": "Word", "Workbook": "Excel", "Book": "Excel", "PowerPoint Document": "PowerPoint"}
_BINARY = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"\x7fELF", b"\x1f\x8b", b"BZh9", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!", b"MZ\x90")


@dataclass(frozen=True)
class Kind:
    """What writes a file's text, its media type, and its language if it is source code."""

    name: str
    media: str
    language: str = ""


def kind_of(name: str, data: bytes, limits: ParseLimits) -> Kind:
    """What the file is. Raises `ParseRefused` where it is nothing that is read, or may not be unpacked."""
    suffix = PurePosixPath(name.lower()).suffix
    expected = _KIND_OF.get(suffix, "")
    office = expected if expected in ("word", "slides", "workbook") else ""
    if data[:1024].lstrip(b"\xef\xbb\xbf\x00 \t\r\n").startswith(b"%PDF-"):
        return _kind("pdf")
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
        return _kind(office_kind(data, limits, office))
    if data.startswith(_OLE):
        raise ParseRefused(_old(data))
    if data.startswith(_BINARY):
        raise ParseRefused(_binary(suffix, expected))
    if expected in ("pdf", "html", "csv", "markdown"):
        return _kind(expected)
    if language := _language(name, suffix, data):
        return Kind("code", CODE + language, language)
    if _PAGE.match(_opening(data)):
        return _kind("html")
    if office and b"\x00" in data[:1024]:
        raise ParseRefused(f"not a readable {suffix} file")
    return _kind("text")


def not_text(name: str) -> str:
    """Why a file that should be text, going by what it is not, is not read."""
    suffix = PurePosixPath(name.lower()).suffix
    return _binary(suffix, _KIND_OF.get(suffix, "") or _LANGUAGE_OF.get(suffix, ""))


def _kind(name: str) -> Kind:
    return Kind(name, _MEDIA[name])


def _binary(suffix: str, expected: str) -> str:
    if expected in ("pdf", "word", "slides", "workbook"):
        return f"not a readable {suffix} file"
    return f"a {suffix} file of a format that is not read yet" if suffix and not expected else "it holds binary data, not text"


def _language(name: str, suffix: str, data: bytes) -> str:
    if language := _NAMED.get(PurePosixPath(name.lower()).name) or _LANGUAGE_OF.get(suffix, ""):
        return language
    if match := _SHEBANG.match(data[:256]):
        said = match[1].decode().lower()
        return _INTERPRETERS.get(said, said)
    opening = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    if opening.startswith(b"<?php"):
        return "php"
    return "xml" if opening.startswith(b"<?xml") and not _PAGE.match(_opening(data)) else ""


def _opening(data: bytes) -> str:
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
    return data[:4096].decode(encoding, "ignore").lstrip("\ufeff")


def _old(data: bytes) -> str:
    """Why a file in the container of old Office is not read, from the names in the container's directory."""
    if "EncryptedPackage".encode("utf-16-le") in data:
        return "it is encrypted and needs a password"
    for stream, program in _OLD.items():
        if stream.encode("utf-16-le") in data:
            return f"an old {program} file, a format that is not read yet: save it as DOCX, PPTX or XLSX"
    return "an old Office or Windows file of a format that is not read yet"
