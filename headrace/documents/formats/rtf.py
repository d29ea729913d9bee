"""RTF to Markdown: paragraphs and tables."""

from __future__ import annotations

from striprtf.striprtf import rtf_to_text

from headrace.documents.formats.contract import DocumentFile, Output, clean, plain
from headrace.documents.formats.table import Table


def write_rtf(file: DocumentFile, out: Output) -> None:
    """Write the text of an RTF file, in the code page that it names; pictures and embedded objects are left out."""
    text = rtf_to_text(file.data.decode("cp1252", "replace"), errors="replace")
    table: Table | None = None
    for row in clean(text).splitlines():
        if row.rstrip().endswith("|"):  # striprtf ends each cell with a bar
            table = table or Table(out)
            table.add(row.rstrip().removesuffix("|").split("|"))
            continue
        if table is not None:
            out.write("\n")
            table = None
        out.write(plain(row) + "\n")
