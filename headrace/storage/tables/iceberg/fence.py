"""The horizon: what upkeep says before it removes files that no snapshot names, so that nobody commits one of them.

A file that was written and not committed yet looks like one that was left behind. Upkeep therefore commits a mark first: the
*horizon*, a time by the object store's clock. What was written before it and is in no snapshot is lost from then on. Whoever
commits asserts the snapshot it builds on, so a commit that was built before the horizon moved is refused by the catalog; and
one that is built afterwards sees that it moved and asks the store when its files were written. No clock but the object
store's is read, and a writer may take as long as it likes: it is told, instead of leaving a table with a hole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pyarrow.fs import FileType
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from headrace.catalog import Store
from headrace.errors import LostRace
from headrace.storage.ledger import Direction
from headrace.storage.meter import Meter

UPKEEP = "upkeep"
"""The mark upkeep leaves: `{"sequence": number of its commit, "horizon": seconds since 1970}`."""


def horizon(marks: Mapping[str, Any]) -> int:
    """The horizon among a table's marks, seconds since 1970; 0 before there is one."""
    return int((marks.get(UPKEEP) or {}).get("horizon", 0))


def require_kept(table: Table, files: Iterable[DataFile], seen: int, standing: int, store: Store, meter: Meter) -> None:
    """Raise `LostRace` if files written when the horizon was `seen` may have been removed, now that it is `standing`."""
    if seen == standing:
        return
    assert isinstance(table.io, PyArrowFileIO)
    for file in files:
        scheme, host, path = table.io.parse_location(file.file_path)
        with meter.operation(store, Direction.READ):
            info = table.io.fs_by_scheme(scheme, host).get_file_info([path])[0]
        if info.type == FileType.NotFound or info.mtime_ns < standing * 10**9:
            raise LostRace(
                f"Rows for {store.table} were written so long before their commit that upkeep counts them as left behind.",
                hint="Run the command again; if that happens often, raise upkeep.grace_s.",
            )
