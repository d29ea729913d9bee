"""Rows of an Iceberg table taken out or changed, and every trace of what they were removed at once.

Only files that hold such rows are written anew, by a commit of the kind that maintenance makes: a lander goes on meanwhile, and
what it lands is looked at too. The former files are still named by older snapshots; `purge` expires those whatever their age and
whoever names them, and removes what they alone named. Files that no snapshot ever named need the fence that maintenance has, so
they are left to an maintenance without patience (`maintenance.py`).
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
from headrace.storage.tables.maintenance import Purged

Hit = Callable[[pa.RecordBatch], pa.BooleanArray]
"""Says of each row, of which it sees some columns, whether it is meant."""
Change = Callable[[pa.RecordBatch], pa.RecordBatch]
"""Makes other rows of rows, as many."""

_TRIES = 10
# The object store's times are whole seconds: what is to count as older has to be two of them.
_AT_ONCE = Maintenance(every=1, keep_s=0, keep_snapshots=1, history_s=0, grace_s=1)
_SECOND_S = 1.1
_PATIENCE_S = 120.0


class IcebergRewrite:
    """Takes rows out of one table, or puts others in their place."""

    def __init__(self, table: IcebergCore) -> None:
        self._table = table

    def run(self, columns: Sequence[str], hit: Hit, change: Change | None) -> int:
        """Do it until no row is hit any more; return how many were. With a `change`, a changed row must not be hit again."""
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
                continue  # maintenance has merged some of these files: where the rows are now is looked for anew
            done += sum(count for _, count in hits)
        raise LostRace(
            f"Rows that were to go came into {self._table.store.table}, or moved in it, again and again.",
            hint="Run the command again when fewer writers run.",
        )

    def purge(self) -> Purged:
        """Remove every snapshot but the newest, whoever names it, and every object that only they named.

        What others write meanwhile stays. Raises `Permanent` where a branch or tag keeps an older snapshot, and `Unavailable`
        where it does not come to an end.
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
                    f"{name!r} of table {self._table.store.table} keeps an older snapshot, and the rows in it.",
                    hint="Drop that branch or tag with the tool that made it and run the command again.",
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
            # Whoever wrote them has committed them, so nobody can name them again.
            for key in sorted((were - {folder.key(uri) for uri in reach.all_files(table)}) & before.keys()):
                folder.remove(key)
        return self._without_orphans(folder, reach, before, begun)

    def _without_orphans(
        self, folder: TableFolder, reach: ReachableFiles, before: Mapping[str, StoredObject], begun: int
    ) -> Purged:
        """Wait until maintenance has fenced off and removed what no snapshot named: a dead writer may have left rows in it."""
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
                    hint="Run the command again; it goes on from here.",
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

        def no_properties(_now: Table, _standing: Any) -> dict[str, Any]:
            return {}

        self._table.commit(table, stage, no_properties, {}, tries=100)


class _Rewriting(Replacement):
    """Files with fewer or other rows in the place of those they were made from."""

    operation = Operation.OVERWRITE

    def __init__(self, table: Table) -> None:
        super().__init__(table)
        self._of = table

    def rewrite(self, entry: ManifestEntry, columns: Sequence[str], hit: Hit, change: Change | None, hits: int) -> None:
        """Write a live file's rows anew; where none is left there is no file."""
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
    """The entry without its bounds: a manifest that says what was removed would tell the beginnings of what was in it."""
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
    """The rows, those that were meant replaced by what became of them, in their order."""
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
    """Those of the columns that the table has: one that the catalog gained is added by the next writer."""
    names = {field.name for field in table.schema().fields}
    return [name for name in columns if name in names]


def _live(table: Table) -> Iterator[tuple[ManifestFile, list[ManifestEntry]]]:
    """Manifests of the newest snapshot and their entries. Raises `Permanent` for a table that another tool laid out."""
    snapshot = table.current_snapshot()
    plain = table.spec().is_unpartitioned() and len(table.specs()) == 1
    for manifest in snapshot.manifests(table.io) if snapshot else []:
        entries = manifest.fetch_manifest_entry(table.io, discard_deleted=True)
        files = [entry.data_file for entry in entries]
        ours = all(file.file_format == FileFormat.PARQUET and file.content == DataFileContent.DATA for file in files)
        if not plain or not ours or manifest.content == ManifestContent.DELETES:
            raise Permanent(
                f"Table {table.name()[-1]} was partitioned, or has delete files: another tool writes to it.",
                hint="Delete the rows with that tool, and expire the snapshots that still hold them.",
            )
        yield manifest, entries
