"""Scans of an Iceberg table with a cache of small files.

Data files and manifests are immutable, so a handle caches them while the newest snapshot names them. A repeated scan of the same
columns then reads only what was added since.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import pyarrow as pa
from pyiceberg.expressions import AlwaysTrue, BooleanExpression
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.manifest import DataFile, ManifestContent, ManifestFile
from pyiceberg.table import FileScanTask, Table
from pyiceberg.utils.concurrent import ExecutorFactory

_FILE_BYTES = 1 << 20
"""Files whose rows take more memory than this are not cached."""
_KEPT_BYTES = 16 << 20
"""Cache size per handle; the least recently used file is evicted first."""

_Key = tuple[str, tuple[str, ...], int]
"""Path, columns and schema id."""


class RecentFiles:
    """Cache of the small files of a table's newest snapshot; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._snapshot: tuple[int, list[DataFile] | None] | None = None
        self._manifests: dict[str, list[DataFile]] = {}
        self._rows: OrderedDict[_Key, list[pa.RecordBatch]] = OrderedDict()
        self._bytes = 0

    def scan(self, table: Table, columns: tuple[str, ...]) -> Iterator[pa.RecordBatch] | None:
        """All rows of the newest snapshot, file by file; `None` if another tool's delete files have to be applied."""
        files = self._files(table)
        return None if files is None else self._read(table, columns, files)

    def _read(self, table: Table, columns: tuple[str, ...], files: list[DataFile]) -> Iterator[pa.RecordBatch]:
        schema = table.metadata.current_schema_id
        keys: list[_Key] = [(file.file_path, columns, schema) for file in files]
        with self._lock:
            known = {key: self._rows[key] for key in keys if key in self._rows}
            for key in known:
                self._rows.move_to_end(key)
        tasks = [FileScanTask(file) for file, key in zip(files, keys, strict=True) if key not in known]
        projected = table.scan(selected_fields=columns).projection()
        missing = ArrowScan(table.metadata, table.io, projected, AlwaysTrue()).to_record_batches(tasks)
        for file, key in zip(files, keys, strict=True):
            if key in known:
                yield from known[key]
                continue
            rows, batches = 0, list[pa.RecordBatch]()
            while rows < file.record_count:  # batches come in file order and never span files
                batch = next(missing)
                rows += batch.num_rows
                batches.append(batch)
                yield batch
                if file.file_size_in_bytes > _FILE_BYTES:
                    batches.clear()
            if batches:
                self._keep(key, batches)

    def _keep(self, key: _Key, batches: list[pa.RecordBatch]) -> None:
        size = sum(batch.nbytes for batch in batches)
        if size > _FILE_BYTES:
            return
        with self._lock:
            if key in self._rows:
                return
            self._rows[key] = batches
            self._bytes += size
            while self._bytes > _KEPT_BYTES:
                self._bytes -= sum(batch.nbytes for batch in self._rows.popitem(last=False)[1])

    def _files(self, table: Table) -> list[DataFile] | None:
        snapshot = table.current_snapshot()
        if snapshot is None:
            return []
        with self._lock:
            if self._snapshot is not None and self._snapshot[0] == snapshot.snapshot_id:
                return self._snapshot[1]
        manifests = snapshot.manifests(table.io)
        files: list[DataFile] | None = None
        if all(manifest.content == ManifestContent.DATA for manifest in manifests):
            known = self._manifests

            def entries(manifest: ManifestFile) -> tuple[str, list[DataFile]]:
                if (path := manifest.manifest_path) in known:
                    return path, known[path]
                return path, [e.data_file for e in manifest.fetch_manifest_entry(table.io, discard_deleted=True)]

            entries_of = dict(ExecutorFactory.get_or_create().map(entries, manifests))
            files = [file for listed in entries_of.values() for file in listed]
        else:
            entries_of = {}
        named = {file.file_path for file in files or ()}
        with self._lock:
            self._manifests, self._snapshot = entries_of, (snapshot.snapshot_id, files)
            for key in [key for key in self._rows if key[0] not in named]:  # merged away, or forgotten
                self._bytes -= sum(batch.nbytes for batch in self._rows.pop(key))
        return files


def files_since(table: Table, number: int) -> list[DataFile] | None:
    """The newest snapshot's files committed after a sequence number; reads no manifest that was written before.

    `None` if another tool's delete files have to be applied.
    """
    snapshot = table.current_snapshot()
    manifests = snapshot.manifests(table.io) if snapshot else []
    if any(manifest.content != ManifestContent.DATA for manifest in manifests):
        return None
    return [
        entry.data_file
        for manifest in manifests
        if (manifest.sequence_number or 0) > number
        for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True)
        if (entry.sequence_number or 0) > number
    ]


def scan_files(
    table: Table, columns: tuple[str, ...], where: BooleanExpression, files: Sequence[DataFile]
) -> Iterator[pa.RecordBatch]:
    """The rows of some files that match."""
    projected = table.scan(selected_fields=columns).projection()
    return ArrowScan(table.metadata, table.io, projected, where).to_record_batches([FileScanTask(file) for file in files])
