"""A hook of mkdocs: the pages that a repository keeps at its top (SECURITY.md and the like) become pages of the site.

In the repository a page below docs/ links to them as `../../SECURITY.md`, and they link to `docs/…`; both are set right here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
TOP = ("SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "THIRD_PARTY.md")


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages of the top."""
    for name in TOP:
        files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Links between docs/ and the top, as they are where both are one folder."""
    if page.file.src_uri in TOP:
        # What is not a page of the site (a folder, a license's text) stays as words.
        told = re.sub(r"\]\(docs/", "](", markdown)
        return re.sub(r"\[([^\]]*)\]\(((?!#|https?:)[^)#]*)(#[^)]*)?\)", lambda m: _kept(m, files), told)
    return re.sub(r"\]\(((?:\.\./)+)([A-Z_]+\.md)", lambda m: f"]({m[1][3:]}{m[2]}" if m[2] in TOP else m[0], markdown)


def _kept(link: re.Match[str], files: Files) -> str:
    return link[0] if files.get_file_from_path(link[2]) is not None else link[1]
