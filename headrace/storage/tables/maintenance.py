"""Reports of table maintenance."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import asdict, dataclass
from typing import Any

REMOVALS = "removals"
"""The snapshot property that counts how often rows were removed or replaced (`rewrite`)."""

RetainedSnapshots = Callable[[], Set[int]]
"""Returns the snapshots that must be kept regardless of age."""


@dataclass
class MaintenanceReport:
    """Figures of one table before and after maintenance; bytes are those of its live data files.

    `marked_for_deletion` objects are no longer referenced and are removed after a grace time; `removed` ones had theirs.
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
        """The figures, JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class Purged:
    """Number and bytes of a table's objects that a purge removed."""

    objects: int = 0
    bytes: int = 0
