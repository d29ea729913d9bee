"""Shortens a client library's error to one clause that helps a user."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from headrace.atomic import FULL

# Rust's object_store: "Error performing GET URL in 687ms, after 4 retries, max_retries: 4, retry_timeout: 20s  - REASON"
_PERFORMING = re.compile(r"^.*?Error performing \S+ \S+ in [^\n]*?  ?- (?:HTTP error: )?", re.DOTALL)
_SOURCE_PLACE = re.compile(r",? ?/\S+\.rs(?::\d+)*|,? ?/rustc/\S*")
_ERRNO = re.compile(r"\[Errno -?\d+\] ")
_LONGEST = 300
FULL_WORDS = ("no space", "no free volumes", "disk quota exceeded", "507 insufficient storage")


_WRITE_FAILED = re.compile(r"error performing (put|post) .* 500 internal server error")
FREE_BYTES = 64 << 20
"""With less free space, nothing is started, and a store's failure is attributed to the full disk."""


def is_full(error: BaseException, disk: Path | None = None) -> bool:
    """Whether an error means that no space is left, by errno or by the wording of SeaweedFS and other servers.

    The embedded SeaweedFS calls it an internal error, as any other: `disk` is a folder of its disk, which is looked at where a
    write failed so. What is read does not need space.
    """
    text = str(error).lower()
    if getattr(error, "errno", None) in FULL or any(words in text for words in FULL_WORDS):
        return True
    if disk is None or not _WRITE_FAILED.search(text):
        return False
    try:
        return shutil.disk_usage(disk).free < FREE_BYTES
    except OSError:
        return False


def reason(error: BaseException) -> str:
    """The first line of an error, without library internals and final full stop."""
    text = _PERFORMING.sub("", str(error).strip())
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    # S3 errors carry the server's XML after the status.
    first = _ERRNO.sub("", _SOURCE_PLACE.sub("", first.split(": <", 1)[0]))
    return first[:_LONGEST].rstrip(" .:,")
