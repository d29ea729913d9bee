"""Maintenance of one Iceberg table: merges small files, expires old snapshots, removes unreferenced files.

The steps, each safe to interrupt and repeat, also concurrently with other maintenance and with writers:

1. Read what the snapshots name, and *then* list the folder. A file older than the grace time that no snapshot names is an orphan:
   a writer died, or a very slow one is about to commit it.
2. Rewrite small files and exchange them in one commit (`compaction.py`), which also moves the orphan fence: after that, no orphan
   can be committed (`orphans.py`). If there are orphans but nothing to merge, the commit only moves the fence.
3. Expire snapshots, except the newest, those of the last minutes, one per hour of the last days, and those that a round names:
   these are read after the snapshots to expire were chosen, right before the commit.
4. Read again what the snapshots name. Objects named in step 1 and no longer, and orphans, are *marked for deletion*: none of them
   can be named again. Their list is an object, so the store's clock says when.
5. Delete objects on lists older than the grace time, in which running scans could finish.

Ages are computed from the object store's clock alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pyiceberg.manifest import DataFileContent, FileFormat, ManifestContent, ManifestEntry, ManifestFile
from pyiceberg.table import Table, Transaction
from pyiceberg.table.snapshots import Operation, Snapshot
from pyiceberg.table.update.snapshot import ExpireSnapshots

from headrace.errors import LostRace, NotFound, StorageFull
from headrace.settings import Maintenance
from headrace.storage.tables.iceberg.compaction import Replacement, groups
from headrace.storage.tables.iceberg.core import PROPERTIES, IcebergCore
from headrace.storage.tables.iceberg.orphans import MAINTENANCE, Listing, TableFolder, orphan_fence, require_kept
from headrace.storage.tables.maintenance import MaintenanceReport, RetainedSnapshots

_COMMIT_BYTES = 1 << 30  # merged per commit; the next commit merges the rest
_TRIES = 100  # attempts per commit: a lander that never pauses wins most races


class IcebergMaintenance:
    """Maintains one table. The contents of manifests are cached, so repeated maintenance reads little."""

    def __init__(self, table: IcebergCore) -> None:
        self._table, self._reach = table, table.reach

    def due(self, rules: Maintenance) -> bool:
        """Whether maintenance is due; takes one request to the catalog."""
        table = self._table.load()
        return table is not None and self._commits(table, self._table.properties_of(table)) >= rules.every

    def run(self, rules: Maintenance, retained: RetainedSnapshots) -> MaintenanceReport | None:
        """Run all steps; `None` if the table is empty. Raises `NotFound` if data files are missing."""
        table = self._table.load()
        if table is None or table.current_snapshot() is None:
            return None
        with self._table.faults():
            before = self._reach.live(table)
            done = MaintenanceReport(self._table.store.name, len(before), sum(before.values()), len(table.metadata.snapshots))
            folder = TableFolder(table, self._table.store, self._table.meter)
            named = {folder.key(uri) for uri in self._reach.all_files(table)}
            listing = folder.list()
            self._require_whole(folder, listing, table)
            lists = {key: (info.modified, folder.marked_in(key)) for key, info in folder.lists(listing).items()}
        edge = listing.now - int(rules.grace_s) - 1  # times are whole seconds, so one may be off by one
        known = named.union(*(keys for _, keys in lists.values()))
        orphans = {
            key for key, info in listing.objects.items() if info.modified < edge and key not in known and folder.holds(key)
        }
        fenced = self._merge(rules, edge, done, fence=bool(orphans))
        table = self._expire(folder, listing, rules, retained)
        with self._table.faults():
            still = {folder.key(uri) for uri in self._reach.all_files(table)}
            doomed = {key for key in named - still if folder.holds(key) and key in listing.objects}
            doomed |= orphans - still if fenced else set()
            if doomed:
                folder.mark_for_deletion(doomed)
            for key, (marked_at, keys) in lists.items():
                if marked_at < edge:
                    self._remove(folder, listing, keys - still, done)
                    folder.remove(key)
            after = self._reach.live(table)
        done.marked_for_deletion = len(doomed)
        done.files_after, done.bytes_after = len(after), sum(after.values())
        done.snapshots_after = len(table.metadata.snapshots)
        return done

    def _commits(self, table: Table, properties: Mapping[str, Any]) -> int:
        """Commits since the last maintenance."""
        return table.last_sequence_number - int((properties.get(MAINTENANCE) or {}).get("sequence", 0))

    def _require_whole(self, folder: TableFolder, listing: Listing, table: Table) -> None:
        """Raise `NotFound` if live files are missing from the listing: then nothing may be removed."""
        for _ in range(2):
            live = {folder.key(uri) for uri in self._reach.live(table)}
            missing = {key for key in live if key not in listing.objects and folder.holds(key)}
            if not missing:
                return
            # Another maintenance may have merged and removed them since we read the table.
            table = self._table.reload()
            listing = folder.list()
        raise NotFound(
            f"{len(missing)} data files of table {self._table.store.table} are missing from the object store:"
            f" {min(missing)}, for example.",
            hint="Restore them from a backup; until then, nothing of this table is merged or removed.",
        )

    def _merge(self, rules: Maintenance, edge: int, done: MaintenanceReport, *, fence: bool) -> bool:
        """Merge small files and move the orphan fence; return whether it was moved."""
        fenced = False
        while True:
            table = self._table.reload()
            with self._table.faults():
                live = self._live(table)
                chosen = groups(
                    sorted((entry for _, entries in live for entry in entries), key=lambda entry: entry.sequence_number or 0),
                    lambda entry: entry.data_file.file_size_in_bytes,
                    merge=rules.merge,
                    most=rules.file_bytes,
                )
            due = self._commits(table, self._table.properties_of(table)) >= rules.every
            if not chosen and (fenced or not (fence or due)):
                return fenced
            more, size = len(chosen), 0
            replacement = Replacement(table)
            try:
                with self._table.faults():
                    for group in chosen:
                        replacement.merge(group)
                        more -= 1
                        size += sum(entry.data_file.file_size_in_bytes for entry in group)
                        if size >= _COMMIT_BYTES:
                            break
                    replacement.write_manifests(live)
                self._exchange(table, replacement, edge)
            except LostRace:
                self._table.discard(table, replacement.files())
                return fenced  # another maintenance or a rewrite came first: the next maintenance tries again
            except StorageFull:
                self._table.discard(table, replacement.files())
                raise
            fenced = True
            done.merged += len(replacement.removed)
            done.rewritten_bytes += sum(file.file_size_in_bytes for file in replacement.added)
            if not more:
                return fenced

    def _exchange(self, table: Table, replacement: Replacement, edge: int) -> None:
        seen = orphan_fence(self._table.properties_of(table))

        def properties(now: Table, current: Mapping[str, Any]) -> dict[str, Any]:
            # It always increases, so that a writer notices every move.
            return {
                MAINTENANCE: {
                    "sequence": now.last_sequence_number + 1,
                    "orphan_fence": max(edge, orphan_fence(current) + 1),
                }
            }

        def stage(now: Table, transaction: Transaction, properties: dict[str, str]) -> None:
            fence_now = orphan_fence(self._table.properties_of(now))
            require_kept(now, replacement.added, seen, fence_now, self._table.store, self._table.meter)
            replacement.stage(transaction, now, properties)

        self._table.commit(table, stage, properties, {}, tries=_TRIES)

    def _live(self, table: Table) -> list[tuple[ManifestFile, list[ManifestEntry]]]:
        """Manifests of the newest snapshot and their entries; none if the table has features that we do not merge."""
        snapshot = table.current_snapshot()
        manifests = snapshot.manifests(table.io) if snapshot else []
        plain = table.spec().is_unpartitioned() and len(table.specs()) == 1
        if not plain or any(manifest.content == ManifestContent.DELETES for manifest in manifests):
            return []
        live = [(manifest, self._reach.entries(table, manifest)) for manifest in manifests]
        files = [entry.data_file for _, entries in live for entry in entries]
        ours = all(file.file_format == FileFormat.PARQUET and file.content == DataFileContent.DATA for file in files)
        return live if ours else []

    def _expire(self, folder: TableFolder, listing: Listing, rules: Maintenance, retained: RetainedSnapshots) -> Table:
        def stage(table: Table, transaction: Transaction) -> None:
            missing = {name: value for name, value in PROPERTIES.items() if table.properties.get(name) != value}
            if missing:
                transaction.set_properties(missing)
            old = expirable(table, rules, listing.now, lambda s: _written(folder, listing, s))
            if old and (gone := old - retained()):
                ExpireSnapshots(transaction).by_ids(sorted(gone)).commit()

        return self._table.change(stage)

    def _remove(self, folder: TableFolder, listing: Listing, keys: frozenset[str], done: MaintenanceReport) -> None:
        for key in sorted(keys):
            if (info := listing.objects.get(key)) is not None:
                folder.remove(key)
                done.removed += 1
                done.removed_bytes += info.bytes


def expirable(table: Table, rules: Maintenance, now: int, written: Callable[[Snapshot], int | None]) -> set[int]:
    """The snapshots to expire; `written` returns when one was written, `None` if just now.

    Kept are those that a branch or tag names, the newest `keep_snapshots`, those that were current within the last `keep_s`
    seconds, and for `history_s` seconds one per `history_step_s`, preferably from maintenance, since it names few files.
    """
    snapshots = sorted(table.metadata.snapshots, key=lambda snapshot: snapshot.sequence_number or 0)
    retained_ids = {reference.snapshot_id for reference in table.metadata.refs.values()}
    retained_ids |= {snapshot.snapshot_id for snapshot in snapshots[-rules.keep_snapshots :]}
    steps: dict[int, Snapshot] = {}
    for snapshot, later in zip(snapshots, [*snapshots[1:], None], strict=True):
        superseded = written(later) if later is not None else None
        if superseded is None or superseded >= now - rules.keep_s - 1:
            retained_ids.add(snapshot.snapshot_id)
        at = written(snapshot)
        if at is not None and at >= now - rules.history_s:
            step = int(at // rules.history_step_s)
            if step not in steps or _small(snapshot) or not _small(steps[step]):
                steps[step] = snapshot
    retained_ids |= {snapshot.snapshot_id for snapshot in steps.values()}
    return {snapshot.snapshot_id for snapshot in snapshots} - retained_ids


def _small(snapshot: Snapshot) -> bool:
    return snapshot.summary is not None and snapshot.summary.operation == Operation.REPLACE


def _written(folder: TableFolder, listing: Listing, snapshot: Snapshot) -> int | None:
    """When a snapshot was written, by the store's clock; `None` if after the listing."""
    key = folder.key(snapshot.manifest_list)
    if not folder.holds(key):  # kept elsewhere: its writer's clock must do
        return snapshot.timestamp_ms // 1000
    info = listing.objects.get(key)
    return info.modified if info else None
