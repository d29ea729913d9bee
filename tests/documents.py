"""Documents made by code, good and hostile, for the tests of what reads them."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence

_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_MAIN = {
    "docx": ("word/document.xml", "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"),
    "docm": ("word/document.xml", "application/vnd.ms-word.document.macroEnabled.main+xml"),
    "pptx": ("ppt/presentation.xml", "application/vnd.openxmlformats-officedocument.presentationml.presentation.main+xml"),
    "xlsx": ("xl/workbook.xml", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"),
    "xlsb": ("xl/workbook.bin", "application/vnd.ms-excel.sheet.binary.macroEnabled.main"),
}
_STYLES = "".join(
    f'<w:style w:type="paragraph" w:styleId="Heading{n}"><w:name w:val="heading {n}"/></w:style>' for n in range(1, 5)
)


def packed(parts: Mapping[str, bytes | str], *, store: bool = False) -> bytes:
    """A zip file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED if store else zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return out.getvalue()


def office(kind: str, main: str | bytes, more: Mapping[str, bytes | str] | None = None) -> bytes:
    """An Office file with this main part and these further ones."""
    place, media = _MAIN[kind]
    types = (
        '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="xml" ContentType="application/xml"/>'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/{place}" ContentType="{media}"/></Types>'
    )
    relations = relationships(("r1", f"{_OFFICE}/officeDocument", place))
    return packed({"[Content_Types].xml": types, "_rels/.rels": relations, place: main, **(more or {})})


def relationships(*each: tuple[str, str, str], external: bool = False) -> str:
    """A relationships part of (id, type, target)."""
    mode = ' TargetMode="External"' if external else ""
    inside = "".join(f'<Relationship Id="{i}" Type="{kind}" Target="{target}"{mode}/>' for i, kind, target in each)
    return f'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{inside}</Relationships>'


def paragraph(text: str, style: str = "") -> str:
    """A paragraph of a Word document."""
    styled = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f'<w:p>{styled}<w:r><w:t xml:space="preserve">{text}</w:t></w:r></w:p>'


def word_table(rows: Sequence[Sequence[str]]) -> str:
    """A table of a Word document."""
    inside = "".join("<w:tr>" + "".join(f"<w:tc>{paragraph(cell)}</w:tc>" for cell in row) + "</w:tr>" for row in rows)
    return f"<w:tbl>{inside}</w:tbl>"


def word(*blocks: str, kind: str = "docx", more: Mapping[str, bytes | str] | None = None, before: str = "") -> bytes:
    """A Word document of these blocks; `before` goes in front of its main part's root."""
    body = f"{before}<w:document {_W}><w:body>{''.join(blocks)}</w:body></w:document>"
    return office(kind, body, {"word/styles.xml": f"<w:styles {_W}>{_STYLES}</w:styles>", **(more or {})})


def sheets(rows: Mapping[str, str], *, strings: str = "", before: str = "") -> bytes:
    """A workbook from the XML of each sheet's rows."""
    space = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    named = "".join(f'<sheet name="{name}" sheetId="{n}" r:id="s{n}"/>' for n, name in enumerate(rows, 1))
    main = f'{before}<workbook xmlns="{space}" xmlns:r="{_OFFICE}"><sheets>{named}</sheets></workbook>'
    targets = [(f"s{n}", f"{_OFFICE}/worksheet", f"worksheets/sheet{n}.xml") for n in range(1, len(rows) + 1)]
    more = {
        f"xl/worksheets/sheet{n}.xml": f'<worksheet xmlns="{space}"><sheetData>{inside}</sheetData></worksheet>'
        for n, inside in enumerate(rows.values(), 1)
    }
    if strings:
        targets.append(("t", f"{_OFFICE}/sharedStrings", "sharedStrings.xml"))
        more["xl/sharedStrings.xml"] = strings
    return office("xlsx", main, {**more, "xl/_rels/workbook.xml.rels": relationships(*targets)})


def row(*cells: object, number: int | None = None) -> str:
    """A row of a sheet: numbers as numbers, all else as text in place."""
    inside = "".join(
        f"<c><v>{cell}</v></c>" if isinstance(cell, int | float) else f'<c t="inlineStr"><is><t>{cell}</t></is></c>'
        for cell in cells
    )
    numbered = f' r="{number}"' if number else ""
    return f"<row{numbered}>{inside}</row>"


def pdf(objects: Mapping[int, bytes], *, root: int = 1, trailer: bytes = b"") -> bytes:
    """A PDF file of these objects."""
    out = bytearray(b"%PDF-1.7\n")
    offsets = {}
    for number, body in objects.items():
        offsets[number] = len(out)
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    most = max(objects) + 1
    out += b"xref\n0 %d\n0000000000 65535 f \n" % most
    out += b"".join(b"%010d 00000 n \n" % offsets[n] if n in offsets else b"0000000000 65535 f \n" for n in range(1, most))
    out += b"trailer\n<</Size %d/Root %d 0 R%s>>\nstartxref\n%d\n%%%%EOF" % (most, root, trailer, start)
    return bytes(out)


def stream(data: bytes, *, deflate: int = 0) -> bytes:
    """A stream object, compressed so many times over."""
    for _ in range(deflate):
        data = zlib.compress(data, 9)
    named = b"/Filter[" + b"/FlateDecode " * deflate + b"]" if deflate else b""
    return b"<</Length %d%s>>stream\n%s\nendstream" % (len(data), named, data)


def pages(*contents: bytes, kids: bytes = b"") -> bytes:
    """A PDF with a page for each content stream, set in Helvetica as /F1."""
    count = len(contents)
    objects = {
        1: b"<</Type/Catalog/Pages 2 0 R>>",
        2: b"<</Type/Pages/Count %d/Kids[%s%s]>>" % (count, b" ".join(b"%d 0 R" % (10 + 2 * n) for n in range(count)), kids),
        3: b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>",
    }
    for n, content in enumerate(contents):
        objects[10 + 2 * n] = (
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Resources<</Font<</F1 3 0 R>>>>/Contents %d 0 R>>" % (11 + 2 * n)
        )
        objects[11 + 2 * n] = stream(content)
    return pdf(objects)


def shown(text: str, x: float = 72, y: float = 720, size: float = 12) -> bytes:
    """The drawing of a line of text."""
    escaped = text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)").encode("cp1252")
    return b"BT /F1 %g Tf %g %g Td (%s) Tj ET\n" % (size, x, y, escaped)


def ruled(rows: Sequence[Sequence[str]], x: float = 72, y: float = 600, width: float = 100, height: float = 20) -> bytes:
    """The drawing of a table with a line around every cell."""
    across, down = len(rows[0]), len(rows)
    out = b""
    for n in range(down + 1):
        out += b"%g %g m %g %g l S\n" % (x, y - n * height, x + across * width, y - n * height)
    for n in range(across + 1):
        out += b"%g %g m %g %g l S\n" % (x + n * width, y, x + n * width, y - down * height)
    for i, cells in enumerate(rows):
        for j, cell in enumerate(cells):
            out += shown(cell, x + j * width + 4, y - (i + 1) * height + 6, 10)
    return out


def overlapping(name: str, size: int, times: int) -> bytes:
    """A zip whose directory names the same compressed bytes many times over."""
    data = bytes(size)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = deflate.compress(data) + deflate.flush()
    check = zlib.crc32(data)
    encoded = name.encode()
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 8, 0, 0, check, len(body), size, len(encoded), 0) + encoded + body
    entries = b""
    for n in range(times):
        called = f"{n}{name}".encode()
        entries += struct.pack(
            "<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 8, 0, 0, check, len(body), size, len(called), 0, 0, 0, 0, 0, 0
        )
        entries += called
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, times, times, len(entries), len(local), 0)
    return local + entries + end


def ole(*streams: str) -> bytes:
    """The container of old Office, with these streams in its directory."""
    header = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504)
    return header + b"".join(name.encode("utf-16-le").ljust(128, b"\0") for name in ("Root Entry", *streams)) + bytes(1024)
