"""Why a file is not parsed."""

from __future__ import annotations


class ParseRefused(Exception):
    """The file cannot or may not be parsed; `reason` is one clause that a person can read."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def size(count: int) -> str:
    """Bytes for people: 4.2 GB."""
    if count < 1_000:
        return f"{count} bytes"
    for power, unit in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= power:
            return f"{count / power:,.1f} {unit}"
    return f"{count / 1e3:.0f} kB"
