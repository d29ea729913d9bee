"""Deletes or changes rows of an Iceberg table, and purges the files and snapshots that still contain the old values.

Only files with such rows are rewritten, in a commit like maintenance's; landing goes on meanwhile, and newly landed rows are
checked too. Older snapshots still name the old files: `purge` expires those regardless of age and references, and removes the
files only they named. Files that no snapshot ever named need maintenance's orphan fence, so `purge` runs maintenance with a grace
time of one second (`maintenance.py`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat, ManifestContent, ManifestEntry, ManifestFile
from pyiceberg.table import Table, Transaction
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update.snapshot import ExpireSnapshots

from headrace.errors import LostRace, Permanent, StorageFull, Unavailable
from headrace.settings import Maintenance
from headrace.storage.tables.iceberg.compaction import Replacement, batches
from headrace.storage.tables.iceberg.core import IcebergCore
from headrace.storage.tables.iceberg.maintenance import IcebergMaintenance
from headrace.storage.tables.iceberg.orphans import ReachableFiles, StoredObject, TableFolder, orphan_fence, require_kept
from headrace.storage.tables.maintenance import REMOVALS, Purged

Hit = Callable[[pa.RecordBatch], pa.BooleanArray]
"""Selects rows, given some of their columns."""
Change = Callable[[pa.RecordBatch], pa.RecordBatch]
"""Returns replacement rows, one per row."""

_TRIES = 10
# The object store's times are whole seconds: to be certainly older, a file must be two seconds old.
_AT_ONCE = Maintenance(every=1, keep_s=0, keep_snapshots=1, history_s=0, grace_s=1)
_SECOND_S = 1.1
_PATIENCE_S = 120.0


class IcebergRewrite:
    """Deletes or replaces rows of one table."""

    def __init__(self, table: IcebergCore) -> None:
        self._table = table

    def run(self, columns: Sequence[str], hit: Hit, change: Change | None) -> int:
        """Repeat until no row is hit; return how many were. A row returned by `change` must not be hit again."""
        done = 0
        for _ in range(_TRIES):
            if self._table.load() is None:
                return done
            table = self._table.reload()
            with self._table.faults():
                live = list(_live(table))
                hits = [
                    (entry, count) for _, entries in live for entry in entries if (count := _count(table, entry, columns, hit))
                ]
            if not hits:
                return done
            rewriting = _Rewriting(table)
            try:
                with self._table.faults():
                    for entry, count in hits:
                        rewriting.rewrite(entry, columns, hit, change, count)
                    rewriting.write_manifests(live)
                self._exchange(table, rewriting)
            except (LostRace, StorageFull) as error:
                self._table.discard(table, rewriting.files())
                if isinstance(error, StorageFull):
                    raise
                continue  # maintenance has merged some of these files: find the rows again
            done += sum(count for _, count in hits)
        raise LostRace(
            f"Rows to be removed kept being added to {self._table.store.table}, or moved in it.",
            hint="Run the command again when fewer writers run.",
        )

    def purge(self) -> Purged:
        """Remove all snapshots but the newest, even if referenced, and all objects that only they named.

        Concurrent writes stay. Raises `Permanent` if a branch or tag holds an older snapshot, and `Unavailable` if it does not
        finish in time.
        """
        done = Purged()
        table = self._table.load()
        if table is None or table.current_snapshot() is None:
            return done
        with self._table.faults():
            folder = TableFolder(table, self._table.store, self._table.meter)
            listing = folder.list()
        begun, before = listing.now, {key: info for key, info in listing.objects.items() if folder.holds(key)}
        current = table.metadata.current_snapshot_id
        for name, reference in table.metadata.refs.items():
            if reference.snapshot_id != current:
                raise Permanent(
                    f"{name!r} of table {self._table.store.table} holds an older snapshot, and the rows in it.",
                    hint="Drop that branch or tag with the tool that created it, and run the command again.",
                )
        older = {snapshot.snapshot_id for snapshot in table.metadata.snapshots} - {current}

        def expire(now: Table, transaction: Transaction) -> None:
            if there := sorted(older & {snapshot.snapshot_id for snapshot in now.metadata.snapshots}):
                ExpireSnapshots(transaction).by_ids(there).commit()

        reach = ReachableFiles(lambda _: False)
        with self._table.faults():
            were = {folder.key(uri) for uri in reach.all_files(table)}
        table = self._table.change(expire)
        with self._table.faults():
            # Their writers have committed, so no new snapshot can name them.
            for key in sorted((were - {folder.key(uri) for uri in reach.all_files(table)}) & before.keys()):
                folder.remove(key)
        return self._without_orphans(folder, reach, before, begun)

    def _without_orphans(
        self, folder: TableFolder, reach: ReachableFiles, before: Mapping[str, StoredObject], begun: int
    ) -> Purged:
        """Run maintenance until it has removed unnamed files, in which a dead writer may have left rows."""
        until = time.monotonic() + _PATIENCE_S
        while True:
            table = self._table.reload()
            with self._table.faults():
                named = {folder.key(uri) for uri in reach.all_files(table)}
                there = folder.list().objects
            left = [key for key in before if key in there and key not in named and before[key].modified <= begun]
            if not left:
                gone = before.keys() - there.keys()
                return Purged(len(gone), sum(before[key].bytes for key in gone))
            if time.monotonic() > until:
                raise Unavailable(
                    f"{len(left)} old files of table {self._table.store.table} are still there after {_PATIENCE_S:.0f} s.",
                    hint="Run the command again; it continues from here.",
                )
            time.sleep(_SECOND_S)
            with contextlib.suppress(LostRace):
                IcebergMaintenance(self._table).run(_AT_ONCE, frozenset)

    def _exchange(self, table: Table, rewriting: _Rewriting) -> None:
        seen = orphan_fence(self._table.properties_of(table))

        def stage(now: Table, transaction: Transaction, properties: dict[str, str]) -> None:
            fence_now = orphan_fence(self._table.properties_of(now))
            require_kept(now, rewriting.added, seen, fence_now, self._table.store, self._table.meter)
            rewriting.stage(transaction, now, properties)

        def counted(_now: Table, properties: Mapping[str, Any]) -> dict[str, Any]:
            return {REMOVALS: properties.get(REMOVALS, 0) + 1}

        self._table.commit(table, stage, counted, {}, tries=100)


class _Rewriting(Replacement):
    """Replaces files by ones with fewer or changed rows."""

    operation = Operation.OVERWRITE

    def __init__(self, table: Table) -> None:
        super().__init__(table)
        self._of = table

    def rewrite(self, entry: ManifestEntry, columns: Sequence[str], hit: Hit, change: Change | None, hits: int) -> None:
        """Rewrite a live file; if no row is left, no file is written."""
        left = entry.data_file.record_count - (hits if change is None else 0)
        if left:
            self._write(self._rows(entry, columns, hit, change), left)
        self.removed.append(_bare(entry))

    def _rows(self, entry: ManifestEntry, columns: Sequence[str], hit: Hit, change: Change | None) -> Iterator[pa.RecordBatch]:
        for rows in batches(self._of, [entry]):
            meant = _meant(hit, rows.select(_existing_columns(self._of, columns)))
            if change is None:
                yield rows.filter(pc.invert(meant))
            elif pc.any(meant).as_py():
                yield _merged(rows, meant, change(rows.filter(meant)))
            else:
                yield rows


def _bare(entry: ManifestEntry) -> ManifestEntry:
    """The entry without column bounds, which would reveal the beginnings of removed values in the manifest."""
    file = entry.data_file
    fields = ("content", "file_path", "file_format", "partition", "record_count", "file_size_in_bytes")
    bare = DataFile.from_args(**{name: getattr(file, name) for name in fields})
    bare.spec_id = file.spec_id
    return ManifestEntry.from_args(
        status=entry.status,
        snapshot_id=entry.snapshot_id,
        sequence_number=entry.sequence_number,
        file_sequence_number=entry.file_sequence_number,
        data_file=bare,
    )


def _merged(rows: pa.RecordBatch, meant: pa.BooleanArray, changed: pa.RecordBatch) -> pa.RecordBatch:
    """The rows in order, with the selected ones replaced."""
    if changed.num_rows != pc.sum(meant).as_py():
        raise ValueError("a changed row must be one row")
    new = iter(range(rows.num_rows, rows.num_rows + changed.num_rows))
    order = [next(new) if is_meant else row for row, is_meant in enumerate(meant.to_pylist())]
    names = set(changed.schema.names)
    columns = []
    for field, column in zip(rows.schema, rows.columns, strict=True):
        if field.name not in names:
            columns.append(column)
            continue
        both = pa.chunked_array([column, changed.column(field.name).cast(field.type)]).combine_chunks()
        columns.append(both.take(pa.array(order, pa.int64())))
    return pa.RecordBatch.from_arrays(columns, schema=rows.schema)


def _count(table: Table, entry: ManifestEntry, columns: Sequence[str], hit: Hit) -> int:
    return sum(pc.sum(_meant(hit, rows)).as_py() or 0 for rows in batches(table, [entry], _existing_columns(table, columns)))


def _meant(hit: Hit, rows: pa.RecordBatch) -> pa.BooleanArray:
    return pc.fill_null(hit(rows), False)


def _existing_columns(table: Table, columns: Sequence[str]) -> list[str]:
    """The given columns that the table has; the next writer adds new ones of the catalog."""
    names = {field.name for field in table.schema().fields}
    return [name for name in columns if name in names]


def _live(table: Table) -> Iterator[tuple[ManifestFile, list[ManifestEntry]]]:
    """Manifests of the newest snapshot and their entries. Raises `Permanent` if another tool changed the layout."""
    snapshot = table.current_snapshot()
    plain = table.spec().is_unpartitioned() and len(table.specs()) == 1
    for manifest in snapshot.manifests(table.io) if snapshot else []:
        entries = manifest.fetch_manifest_entry(table.io, discard_deleted=True)
        files = [entry.data_file for entry in entries]
        ours = all(file.file_format == FileFormat.PARQUET and file.content == DataFileContent.DATA for file in files)
        if not plain or not ours or manifest.content == ManifestContent.DELETES:
            raise Permanent(
                f"Table {table.name()[-1]} is partitioned or has delete files: another tool writes to it.",
                hint="Delete the rows with that tool, and expire the snapshots that still hold them.",
            )
        yield manifest, entries
