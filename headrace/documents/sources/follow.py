"""Looking at sources again and again: what they have, if that changed, and when to look next."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from headrace.documents.sources.listing import find
from headrace.retry import backoff
from headrace.storage.objects import BucketReader

_LONGEST_S = 30.0
_SHARE = 5  # a listing takes at most this part of the time


class Follower:
    """Compares listings of some paths and addresses; `bucket_of` opens a bucket by its name.

    Between two looks are `every_s` seconds, or five times as long as a listing takes; after failures longer, 30 s at most.
    """

    def __init__(self, places: Sequence[str | Path], bucket_of: Callable[[str], BucketReader], every_s: float) -> None:
        self._places = places
        self._bucket_of = bucket_of
        self._every_s = every_s
        self._followed: dict[str, str] | None = None
        self._failures = 0
        self.wait_s = 0.0
        """Seconds until the next look."""

    def changed(self) -> dict[str, str] | None:
        """The stamps of all documents by uri, if they are not those that `followed` was told last. Raises what `find` raises."""
        started = time.monotonic()
        stamps = find(self._places, self._bucket_of).stamps()
        self.wait_s = max(self._every_s, _SHARE * (time.monotonic() - started))
        return None if stamps == self._followed else stamps

    def followed(self, stamps: dict[str, str]) -> None:
        """Say that the index follows this listing."""
        self._followed = stamps

    def succeeded(self) -> None:
        """Say that a look, and what followed from it, went well."""
        self._failures = 0

    def failed(self) -> None:
        """Say that it did not: the next look comes later."""
        self._failures += 1
        self.wait_s = backoff(self._failures, first_s=self._every_s, longest_s=_LONGEST_S)
