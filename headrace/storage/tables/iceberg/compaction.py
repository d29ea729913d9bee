"""Compaction: rewrites many small data files of an Iceberg table into few, with the same rows in the same order.

Files are merged by size class, each `merge` times as large as the one below, and a class only once it has `merge` files. So a row
is rewritten about once per class, not at every maintenance, and a table has fewer than `merge` files per class, plus those large
enough to be left alone.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.io.fileformat import FileFormatFactory
from pyiceberg.io.pyarrow import _to_requested_schema, pyarrow_to_schema
from pyiceberg.manifest import (
    DataFile,
    FileFormat,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    write_manifest,
)
from pyiceberg.schema import sanitize_column_names
from pyiceberg.table import Table, TableProperties, Transaction
from pyiceberg.table.snapshots import Operation, Summary
from pyiceberg.table.update.snapshot import _SnapshotProducer

from headrace.errors import LostRace
from headrace.storage.tables.iceberg.append import DataFileWriter

T = TypeVar("T")
_SMALLEST = 64 << 10  # bytes; all smaller files are one class
_ROW_GROUP_BYTES = 32 << 20  # Arrow bytes, hence roughly the memory of a rewrite
_BATCH_BYTES = 4 << 20


def groups(files: Sequence[T], size: Callable[[T], int], *, merge: int, most: int) -> list[list[T]]:
    """The groups of files to merge, each into one file of at most `most` bytes, in their original order.

    Files of at least half that size are left alone. A merged file joins its new class at once, so nothing is rewritten twice.
    """
    position = {id(file): number for number, file in enumerate(files)}
    classes: dict[int, list[list[T]]] = defaultdict(list)

    def bytes_of(unit: list[T]) -> int:
        return sum(size(file) for file in unit)

    def put(unit: list[T]) -> None:
        level, edge = 0, _SMALLEST
        while edge <= bytes_of(unit):
            level, edge = level + 1, edge * merge
        classes[level].append(unit)

    for file in files:
        if size(file) < most // 2:
            put([file])
    done: list[list[T]] = []
    for level in range(64):
        units = classes.pop(level, [])
        if len(units) < merge:
            done += units
            continue
        merged: list[T] = []
        for unit in [*units, None]:
            if unit is None or (merged and bytes_of(merged) + bytes_of(unit) > most):
                if bytes_of(merged) >= most // 2:
                    done.append(merged)
                else:
                    put(merged)
                    done += classes.pop(level, [])  # a unit that stays in its class is final
                merged = []
            merged = [*merged, *(unit or [])]
    return [sorted(unit, key=lambda file: position[id(file)]) for unit in done if len(unit) > 1]


class Replacement:
    """Data files that replace others, and the manifests for that; written once, staged again in every attempt.

    `touched` names the manifests that list the replaced files. While a snapshot has all of them, all those files are live.
    """

    operation = Operation.REPLACE
    """Operation in the snapshot's summary: the table's rows are unchanged."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._snapshot_id = table.metadata.new_snapshot_id()
        self.added: list[DataFile] = []
        self.removed: list[ManifestEntry] = []
        self.touched: set[str] = set()
        self._manifests: list[ManifestFile] = []

    def merge(self, group: Sequence[ManifestEntry]) -> None:
        """Write one file with the rows of a group of live entries."""
        self._write(batches(self._table, group), sum(entry.data_file.record_count for entry in group))
        self.removed += group

    def _write(self, rows: Iterable[pa.RecordBatch], count: int) -> None:
        """Write one file with these rows; their number must be `count`."""
        file = DataFileWriter(self._table, f"{len(self.added):05d}-merged", group_bytes=_ROW_GROUP_BYTES)
        try:
            for batch in rows:
                file.write(batch)
            written = file.close()
        except BaseException:
            file.abandon()
            raise
        self.added.append(written)
        if written.record_count != count:
            raise RuntimeError(f"{file.path} has {written.record_count} rows and should have {count}")

    def write_manifests(self, live: Sequence[tuple[ManifestFile, list[ManifestEntry]]]) -> None:
        """Write the changed manifests, given all manifests of the table and their live entries."""
        gone = {entry.data_file.file_path for entry in self.removed}
        staying: list[ManifestEntry] = []
        for manifest, entries in live:
            stay = [entry for entry in entries if entry.data_file.file_path not in gone]
            if len(stay) < len(entries):
                self.touched.add(manifest.manifest_path)
                staying += stay
        for status, entries in (
            (ManifestEntryStatus.ADDED, [ManifestEntry.from_args(data_file=file) for file in self.added]),
            (ManifestEntryStatus.DELETED, self.removed),
            (ManifestEntryStatus.EXISTING, staying),
        ):
            if entries:
                self._manifests.append(self._manifest(status, entries))

    def stage(self, transaction: Transaction, table: Table, properties: dict[str, str]) -> None:
        """Stage the exchange on the current table. Raises `LostRace` if another writer has replaced one of these files."""
        snapshot = table.current_snapshot()
        manifests = snapshot.manifests(table.io) if snapshot else []
        if not self.touched <= {manifest.manifest_path for manifest in manifests}:
            raise LostRace(
                f"Another writer replaced files of {table.name()[-1]} that were being merged.",
                hint="Run `headrace maintain` again.",
            )
        unchanged = [
            manifest
            for manifest in manifests
            if manifest.manifest_path not in self.touched and (manifest.has_added_files() or manifest.has_existing_files())
        ]
        _Exchange(transaction, table, self, unchanged, properties).commit()

    def manifests(self) -> list[ManifestFile]:
        """Copies of the manifests written: a commit writes its sequence number into them."""
        return [ManifestFile(*[manifest[field] for field in range(len(manifest))]) for manifest in self._manifests]

    def files(self) -> list[str]:
        """All files written, to delete if certainly no snapshot names them."""
        return [*(file.file_path for file in self.added), *(manifest.manifest_path for manifest in self._manifests)]

    @property
    def snapshot_id(self) -> int:
        """The snapshot's id, the same in every attempt, so that a commit whose answer was lost is recognised."""
        return self._snapshot_id

    def _manifest(self, status: ManifestEntryStatus, entries: list[ManifestEntry]) -> ManifestFile:
        metadata = self._table.metadata
        path = self._table.location_provider().new_metadata_location(f"{uuid.uuid4()}-m0.avro")
        with write_manifest(
            metadata.format_version,
            metadata.spec(),
            metadata.schema(),
            self._table.io.new_output(path),
            self._snapshot_id,
            self._table.properties.get(  # type: ignore[arg-type]
                TableProperties.WRITE_AVRO_COMPRESSION, TableProperties.WRITE_AVRO_COMPRESSION_DEFAULT
            ),
        ) as writer:
            for entry in entries:
                existing = status == ManifestEntryStatus.EXISTING
                writer.add_entry(
                    ManifestEntry.from_args(
                        status=status,
                        snapshot_id=entry.snapshot_id if existing else self._snapshot_id,
                        sequence_number=entry.sequence_number,
                        file_sequence_number=entry.file_sequence_number,
                        data_file=entry.data_file,
                    )
                )
        return writer.to_manifest_file()


class _Exchange(_SnapshotProducer["_Exchange"]):
    """The snapshot of a replacement."""

    def __init__(
        self,
        transaction: Transaction,
        table: Table,
        replacement: Replacement,
        unchanged: list[ManifestFile],
        properties: dict[str, str],
    ) -> None:
        # pyiceberg computes totals only for an overwrite; _summary then sets the real operation.
        super().__init__(Operation.OVERWRITE, transaction, table.io, snapshot_properties=properties)
        self._snapshot_id = replacement.snapshot_id
        self._called = replacement.operation
        self._all = [*replacement.manifests(), *unchanged]
        self._added_data_files = list(replacement.added)
        self._deleted_data_files = {entry.data_file for entry in replacement.removed}

    def _manifests(self) -> list[ManifestFile]:
        return self._all

    def _summary(self, snapshot_properties: dict[str, str] = {}) -> Summary:  # noqa: B006 - pyiceberg's signature
        return Summary(self._called, **super()._summary(snapshot_properties).additional_properties)

    def _existing_manifests(self) -> list[ManifestFile]:
        return []

    def _deleted_entries(self) -> list[ManifestEntry]:
        return []


def batches(table: Table, group: Sequence[ManifestEntry], columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of some data files, in (some columns of) the table's current schema, file by file, a few MiB at a time."""
    parquet = FileFormatFactory.get(FileFormat.PARQUET)
    schema = sanitize_column_names(table.schema() if columns is None else table.schema().select(*columns))
    for entry in group:
        with table.io.new_input(entry.data_file.file_path).open() as stream:
            # Small files cost requests, not bytes; large ones cost memory.
            whole = entry.data_file.file_size_in_bytes <= _BATCH_BYTES
            file = pq.ParquetFile(pa.BufferReader(stream.read()) if whole else stream, pre_buffer=False)
            file_schema = pyarrow_to_schema(file.schema_arrow, table.name_mapping(), format_version=table.format_version)
            width = sum(file.metadata.row_group(n).total_byte_size for n in range(file.num_row_groups))
            rows = max(1, min(65_536, _BATCH_BYTES * file.metadata.num_rows // max(1, width)))
            # A file older than a column does not have it.
            wanted = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=rows, columns=wanted, use_threads=False):
                yield _to_requested_schema(schema, file_schema, batch, include_field_ids=True, format_model=parquet)
