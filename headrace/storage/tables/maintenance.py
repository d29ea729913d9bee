"""What maintenance did to one table."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import asdict, dataclass
from typing import Any

RetainedSnapshots = Callable[[], Set[int]]
"""Asks which snapshots must stay, whatever their age."""


@dataclass
class MaintenanceReport:
    """Figures of one table before and after; bytes are those of its live data files.

    `marked_for_deletion` objects are named by no snapshot any more and go after a grace time; `removed` ones have had theirs.
    """

    table: str
    files_before: int
    bytes_before: int
    snapshots_before: int
    files_after: int = 0
    bytes_after: int = 0
    snapshots_after: int = 0
    merged: int = 0
    rewritten_bytes: int = 0
    marked_for_deletion: int = 0
    removed: int = 0
    removed_bytes: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON-ready keys."""
        return asdict(self)


@dataclass(frozen=True)
class Purged:
    """Objects of one table that were removed at once, and their bytes."""

    objects: int = 0
    bytes: int = 0
