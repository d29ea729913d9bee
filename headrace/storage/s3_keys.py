"""Keys of objects that other programs wrote: which can be read, and how the others are shown."""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def is_readable_key(key: str) -> bool:
    """Whether an object can be read by its key: not if a part of it is empty, . or .., or it has a control character."""
    return not (_CONTROL.search(key) or {"", ".", ".."}.intersection(key.split("/")))


def printable_key(key: str) -> str:
    """The key, with its control characters escaped."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", key)
