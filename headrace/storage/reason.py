"""What a client library's error says, in the one clause that a person can use."""

from __future__ import annotations

import re

from headrace.atomic import FULL

# Rust's object_store: "Error performing GET URL in 687ms, after 4 retries, max_retries: 4, retry_timeout: 20s  - what it was"
_PERFORMING = re.compile(r"^.*?Error performing \S+ \S+ in [^\n]*?  ?- (?:HTTP error: )?", re.DOTALL)
_SOURCE_PLACE = re.compile(r",? ?/\S+\.rs(?::\d+)*|,? ?/rustc/\S*")
_LONGEST = 300
FULL_WORDS = ("no space", "no free volumes", "disk quota exceeded")


def is_full(error: BaseException) -> bool:
    """Whether an error says that there is no space left: by its number, or by the words of SeaweedFS and of others."""
    text = str(error).lower()
    return getattr(error, "errno", None) in FULL or any(words in text for words in FULL_WORDS)


def reason(error: BaseException) -> str:
    """The first line of an error without what only its library's authors want to read, and without its full stop."""
    text = _PERFORMING.sub("", str(error).strip())
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    # A refusal comes with the server's XML behind the status.
    first = _SOURCE_PLACE.sub("", first.split(": <", 1)[0])
    return first[:_LONGEST].rstrip(" .:,")
