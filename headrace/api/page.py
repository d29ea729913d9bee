"""The page's own files, which hold no data: everybody may read them, and their scripts ask for data with the token."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable

_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_INDEX = "index.html"


def _files(folder: Traversable, path: str) -> dict[str, tuple[bytes, str]]:
    found: dict[str, tuple[bytes, str]] = {}
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            found |= _files(entry, f"{path}{entry.name}/")
        elif (kind := _KINDS.get(f".{entry.name.rpartition('.')[2]}")) is not None:
            found["/" if entry.name == _INDEX else f"{path}{entry.name}"] = entry.read_bytes(), kind
    return found


FILES = _files(resources.files("headrace.api").joinpath("static"), "/page/")
"""Path → content and media type."""
