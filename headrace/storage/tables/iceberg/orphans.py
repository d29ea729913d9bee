"""Reachable and orphaned files under an Iceberg table's location, and the safe removal of orphans."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSelector, FileType
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.manifest import DataFile, ManifestEntry, ManifestFile
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation, Snapshot
from pyiceberg.utils.concurrent import ExecutorFactory

from headrace.catalog import Store
from headrace.errors import LostRace
from headrace.storage.ledger import Direction
from headrace.storage.meter import Meter

MAINTENANCE = "maintenance"
"""Snapshot property set by maintenance: `{"sequence": its commit's number, "orphan_fence": seconds since 1970}`."""


def orphan_fence(properties: Mapping[str, Any]) -> int:
    """The orphan fence in a table's properties, in seconds since 1970; 0 if there is none."""
    return int((properties.get(MAINTENANCE) or {}).get("orphan_fence", 0))


def require_kept(table: Table, files: Iterable[DataFile], fence_then: int, fence_now: int, store: Store, meter: Meter) -> None:
    """Raise `LostRace` if files written while the orphan fence was `fence_then` may have been removed by `fence_now`."""
    if fence_then == fence_now:
        return
    assert isinstance(table.io, PyArrowFileIO)
    for file in files:
        scheme, host, path = table.io.parse_location(file.file_path)
        with meter.operation(store, Direction.READ):
            info = table.io.fs_by_scheme(scheme, host).get_file_info([path])[0]
        if info.type == FileType.NotFound or info.mtime_ns < fence_now * 10**9:
            raise LostRace(
                f"Rows for {store.table} were written so long before their commit that maintenance treats them as orphans.",
                hint="Run the command again; if that happens often, raise maintenance.grace_s.",
            )


class ReachableFiles:
    """The files reachable from a table's snapshots. Manifests are immutable, so their contents are cached while in use."""

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
        files_of = ExecutorFactory.get_or_create().map(lambda manifest: self._files(table, manifest), manifests)
        return {path: size for files in files_of for path, size in files.items()}

    def all_files(self, table: Table) -> set[str]:
        """Every file named by any snapshot of this metadata or by the metadata itself."""
        metadata = table.metadata
        named = {table.metadata_location, *(entry.metadata_file for entry in metadata.metadata_log)}
        named |= {snapshot.manifest_list for snapshot in metadata.snapshots}
        named |= {statistics.statistics_path for statistics in metadata.statistics}
        named |= {statistics.statistics_path for statistics in metadata.partition_statistics}
        executor = ExecutorFactory.get_or_create()
        lists = executor.map(lambda snapshot: snapshot.manifests(table.io), self._telling(metadata.snapshots))
        manifests = {manifest.manifest_path: manifest for manifest_list in lists for manifest in manifest_list}
        files = executor.map(lambda manifest: self._files(table, manifest), manifests.values())
        named |= {path for manifest_list in files for path in manifest_list}
        self._held = {path: files_of for path, files_of in self._held.items() if path in manifests}
        return named | manifests.keys()

    def _files(self, table: Table, manifest: ManifestFile) -> dict[str, int]:
        if manifest.manifest_path not in self._held:
            self.entries(table, manifest)
        return self._held[manifest.manifest_path]

    def _telling(self, snapshots: list[Snapshot]) -> list[Snapshot]:
        """The snapshots whose manifest lists have to be read to find all manifests.

        Our appends keep every manifest of the parent snapshot that has a live file; so if both are such appends, the child's
        list covers the parent's.
        """
        appends = {
            snapshot.snapshot_id
            for snapshot in snapshots
            if snapshot.summary is not None and snapshot.summary.operation == Operation.APPEND and self._ours(snapshot)
        }
        covered = {s.parent_snapshot_id for s in snapshots if s.snapshot_id in appends and s.parent_snapshot_id in appends}
        return [snapshot for snapshot in snapshots if snapshot.snapshot_id not in covered]


_PAGE = 1000
# Parquet and under data/, because some catalogs only allow what looks like a table's files in its folder.
_OURS = "maintenance-"
_CLOCK = f"{_OURS}clock.parquet"


@dataclass(frozen=True)
class StoredObject:
    """One object: its size, and its write time in seconds since 1970 by the store's clock."""

    bytes: int
    modified: int


@dataclass(frozen=True)
class Listing:
    """Every object of a table by key, and the store's time of the listing."""

    now: int
    objects: dict[str, StoredObject]


class TableFolder:
    """A table's location. A *key* is a file's path in the file system, independent of how its URI is spelt."""

    def __init__(self, table: Table, store: Store, meter: Meter) -> None:
        assert isinstance(table.io, PyArrowFileIO)
        self._io, self._store, self._meter = table.io, store, meter
        self._location = table.location().rstrip("/")
        scheme, host, self._root = self._io.parse_location(self._location)
        self._files = self._io.fs_by_scheme(scheme, host)

    def key(self, uri: str) -> str:
        """The key of a file that the table names."""
        return self._io.parse_location(uri)[2]

    def holds(self, key: str) -> bool:
        """Whether a key is a file of this table; maintenance touches nothing else."""
        folder, _, name = key.removeprefix(f"{self._root}/").rpartition("/")
        if not key.startswith(f"{self._root}/") or name.startswith(_OURS):
            return False
        if folder.split("/")[0] == "data":
            return name.endswith(".parquet")
        return folder == "metadata" and name.endswith((".avro", ".metadata.json"))

    def list(self) -> Listing:
        """List all objects, after writing one to read the store's clock."""
        with self._io.new_output(f"{self._location}/data/{_CLOCK}").create() as stream:
            stream.write(b"maintenance")
        with self._meter.operation(self._store, Direction.READ) as operation:
            infos = self._files.get_file_info(FileSelector(self._root, recursive=True))
            operation.ops = 1 + len(infos) // _PAGE
        objects = {
            info.path: StoredObject(info.size, int(info.mtime_ns // 10**9)) for info in infos if info.type == FileType.File
        }
        return Listing(objects[f"{self._root}/data/{_CLOCK}"].modified, objects)

    def remove(self, key: str) -> None:
        """Delete one object; a missing object is not an error."""
        with self._meter.operation(self._store, Direction.WRITE):
            try:
                self._files.delete_file(key)
            except FileNotFoundError:
                return
            except OSError as error:
                if "Path does not exist" not in str(error):
                    raise

    def lists(self, listing: Listing) -> dict[str, StoredObject]:
        """The stored lists of keys marked for deletion."""
        start = f"{self._root}/data/{_OURS}"
        return {key: info for key, info in listing.objects.items() if key.startswith(start) and not key.endswith(_CLOCK)}

    def mark_for_deletion(self, keys: Iterable[str]) -> None:
        """Write a list of keys; the store's time of that object is when they were marked."""
        with self._io.new_output(f"{self._location}/data/{_OURS}{uuid.uuid4()}.parquet").create() as stream:
            pq.write_table(pa.table({"key": pa.array(sorted(keys), pa.string())}), stream, compression="zstd")

    def marked_in(self, key: str) -> frozenset[str]:
        """The keys in one such list; none if another maintenance has just processed it."""
        uri = f"{self._location}/{key.removeprefix(f'{self._root}/')}"
        try:
            with self._io.new_input(uri).open() as stream:
                return frozenset(pq.read_table(stream)["key"].to_pylist())
        except FileNotFoundError:
            return frozenset()
