"""Which files the snapshots of an Iceberg table name, each manifest read once."""

from __future__ import annotations

from collections.abc import Callable

from pyiceberg.manifest import ManifestEntry, ManifestFile
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation, Snapshot
from pyiceberg.utils.concurrent import ExecutorFactory


class ReachableFiles:
    """What a table's snapshots reach. A manifest never changes, so what one holds is remembered while a snapshot names it."""

    def __init__(self, ours: Callable[[Snapshot], bool]) -> None:
        self._ours = ours
        self._held: dict[str, dict[str, int]] = {}  # manifest → its live files and their bytes

    def entries(self, table: Table, manifest: ManifestFile) -> list[ManifestEntry]:
        """The live entries of a manifest."""
        entries = manifest.fetch_manifest_entry(table.io, discard_deleted=True)
        self._held[manifest.manifest_path] = {e.data_file.file_path: e.data_file.file_size_in_bytes for e in entries}
        return entries

    def live(self, table: Table) -> dict[str, int]:
        """The data files of the newest snapshot and their bytes."""
        snapshot = table.current_snapshot()
        manifests = snapshot.manifests(table.io) if snapshot else []
        held = ExecutorFactory.get_or_create().map(lambda manifest: self._files(table, manifest), manifests)
        return {path: size for files in held for path, size in files.items()}

    def of(self, table: Table) -> set[str]:
        """Every file that any snapshot of this metadata, or the metadata itself, names."""
        metadata = table.metadata
        named = {table.metadata_location, *(entry.metadata_file for entry in metadata.metadata_log)}
        named |= {snapshot.manifest_list for snapshot in metadata.snapshots}
        named |= {statistics.statistics_path for statistics in metadata.statistics}
        named |= {statistics.statistics_path for statistics in metadata.partition_statistics}
        executor = ExecutorFactory.get_or_create()
        lists = executor.map(lambda snapshot: snapshot.manifests(table.io), self._telling(metadata.snapshots))
        manifests = {manifest.manifest_path: manifest for found in lists for manifest in found}
        files = executor.map(lambda manifest: self._files(table, manifest), manifests.values())
        named |= {path for found in files for path in found}
        self._held = {path: held for path, held in self._held.items() if path in manifests}
        return named | manifests.keys()

    def _files(self, table: Table, manifest: ManifestFile) -> dict[str, int]:
        if manifest.manifest_path not in self._held:
            self.entries(table, manifest)
        return self._held[manifest.manifest_path]

    def _telling(self, snapshots: list[Snapshot]) -> list[Snapshot]:
        """The snapshots whose manifest lists must be read to know all manifests.

        An append of ours keeps every manifest of the snapshot it builds on that has a live file; so where such an append
        stands on another, the later one tells what the earlier one held.
        """
        appends = {
            snapshot.snapshot_id
            for snapshot in snapshots
            if snapshot.summary is not None and snapshot.summary.operation == Operation.APPEND and self._ours(snapshot)
        }
        told = {s.parent_snapshot_id for s in snapshots if s.snapshot_id in appends and s.parent_snapshot_id in appends}
        return [snapshot for snapshot in snapshots if snapshot.snapshot_id not in told]
