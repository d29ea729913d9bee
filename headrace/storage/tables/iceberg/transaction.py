"""A pyiceberg transaction that costs little whatever the table's history, and is tried once.

pyiceberg 0.12 copies a table's metadata, every snapshot of it, whenever it looks at it, a dozen times a commit: with a few
hundred snapshots that takes longer than all requests together, and a commit that takes long is overtaken. It also tries again
by itself, which appends behind a mark that has moved. Here the metadata is copied once it has changed, and whoever commits
decides what may be tried again.
"""

from __future__ import annotations

from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table, Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.update import AssertTableUUID, TableUpdate, update_table_metadata


class QuickTransaction(Transaction):
    """A transaction on a table as it was loaded."""

    _seen: tuple[tuple[TableUpdate, ...], TableMetadata] | None = None

    @property
    def table_metadata(self) -> TableMetadata:
        """The table's metadata with the updates staged so far; not to be changed."""
        if not self._updates:
            return self._table.metadata
        if self._seen is None or self._seen[0] is not self._updates:
            self._seen = (self._updates, update_table_metadata(self._table.metadata, self._updates))
        return self._seen[1]

    def commit_transaction(self) -> Table:
        """Commit what is staged, if anything is. Raises `CommitFailedException` where it was refused."""
        if self._updates:
            identity = AssertTableUUID(uuid=self._table.metadata.table_uuid)
            try:
                self._table._do_commit(self._updates, (*self._requirements, identity))
            except CommitFailedException:
                for producer in self._snapshot_producers:
                    producer._clean_all_uncommitted()  # no snapshot names what it wrote
                raise
        self._updates, self._requirements, self._snapshot_producers, self._seen = (), (), [], None
        return self._table
