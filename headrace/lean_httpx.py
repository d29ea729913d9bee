"""httpx, imported without its own command line, which would load click, pygments and parts of rich in every command."""

from __future__ import annotations

from headrace.imports import without

with without("httpx._main"):
    import httpx

__all__ = ["httpx"]
