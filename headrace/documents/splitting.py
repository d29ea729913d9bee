"""Documents that are split a slice at a time, so that a long one keeps nobody else's waiting."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

from headrace.documents.processed import Turns

Key = tuple[str, str, int, int]
"""A document, its version, the generation of the index and its window."""
Rows = list[dict[str, Any]]
Steps = Iterator[dict[str, Any] | None]
"""The rows of a document, one after another; `None` where a step made none."""


class Splitting:
    """Whose turn it is, and the documents of which a part is split already. Kept from one pass to the next."""

    def __init__(self) -> None:
        self.turns = Turns()
        self._begun: dict[Key, tuple[Steps, Rows]] = {}

    def go_on(self, key: Key, begin: Callable[[], Steps], seconds: float) -> Rows | None:
        """Split a document, or what is left of it, for about so many seconds; its rows once that is done, else `None`.

        Raises what splitting raises; the document then begins anew.
        """
        rows_left, rows = self._begun.pop(key) if key in self._begun else (begin(), [])
        until = time.monotonic() + seconds
        for row in rows_left:
            if row is not None:
                rows.append(row)
            if time.monotonic() > until:
                self._begun[key] = rows_left, rows
                return None
        return rows

    def begun(self, key: Key) -> bool:
        """Whether a part of a document is split."""
        return key in self._begun

    def keep(self, keys: Collection[Key]) -> None:
        """Drop what was begun of any other document: another version of it is there by now."""
        self._begun = {key: begun for key, begun in self._begun.items() if key in keys}
