"""Appends to an Iceberg table: the data file is written as rows arrive, and no snapshot names it before the commit."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from pyiceberg.io.fileformat import FileFormatFactory
from pyiceberg.io.pyarrow import _dataframe_to_data_files, _to_requested_schema, pyarrow_to_schema
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.schema import sanitize_column_names
from pyiceberg.table import Table, Transaction
from pyiceberg.typedef import Record

from headrace.errors import LostRace, StorageFull
from headrace.storage.tables.iceberg.core import IcebergCore
from headrace.storage.tables.iceberg.orphans import orphan_fence, require_kept


class DataFileWriter:
    """Writes one data file of an unpartitioned table from rows in the table's schema, with its field ids."""

    def __init__(self, table: Table, name: str, *, group_bytes: int) -> None:
        """`group_bytes`: Arrow bytes per row group."""
        self._table, self._group_bytes = table, group_bytes
        self.path = table.location_provider().new_data_location(f"{name}-{uuid.uuid4()}.parquet")
        self._output = table.io.new_output(self.path)
        schema = sanitize_column_names(table.schema())
        self._writer = FileFormatFactory.get(FileFormat.PARQUET).create_writer(self._output, schema, table.properties)
        self._held: list[pa.Table] = []
        self._bytes = 0
        self._kind: pa.Schema | None = None

    def write(self, rows: pa.RecordBatch) -> None:
        """Add rows; they are written once they fill a row group."""
        self._kind = self._kind or rows.schema
        self._held.append(pa.Table.from_batches([rows]).cast(self._kind))
        self._bytes += rows.nbytes
        if self._bytes >= self._group_bytes:
            self._flush()

    def close(self) -> DataFile:
        """Write the remaining rows and return the file's manifest entry. Requires at least one row."""
        self._flush()
        statistics = self._writer.close()
        return DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=self.path,
            file_format=FileFormat.PARQUET,
            partition=Record(),
            file_size_in_bytes=len(self._output),
            sort_order_id=None,
            spec_id=self._table.metadata.default_spec_id,
            equality_ids=None,
            key_metadata=None,
            **statistics.to_serialized_dict(),
        )

    def abandon(self) -> None:
        """Delete the unfinished file; if the store does not answer, maintenance will."""
        self._held = []
        with contextlib.suppress(Exception):
            self._writer.close()  # an unfinished multipart upload would stay in the object store
        with contextlib.suppress(Exception):
            self._table.io.delete(self.path)

    def _flush(self) -> None:
        if self._held:
            rows, self._held, self._bytes = pa.concat_tables(self._held), [], 0
            self._writer.write(rows)


# Arrow bytes. Larger row groups compress hardly better, and maintenance merges them into larger ones.
_GROUP_BYTES = 8 << 20


class IcebergAppend:
    """One append in progress; see `tables.Append`. The rows are written once; only the commit is retried."""

    def __init__(self, table: IcebergCore) -> None:
        self._table = table
        self._of: Table | None = None
        self._seen = 0
        self._file: DataFileWriter | None = None
        self._gathered: list[pa.RecordBatch] = []

    def write(self, rows: pa.RecordBatch) -> None:
        if not rows.num_rows:
            return
        table = self._begun()
        with self._table.faults():
            if not table.spec().is_unpartitioned():  # another tool partitioned it; pyiceberg assigns the rows to partitions
                self._gathered.append(rows)
                return
            if self._file is None:
                self._file = DataFileWriter(table, "00000-0", group_bytes=_GROUP_BYTES)
            self._file.write(_fitted(table, rows))

    def commit(self, properties: Mapping[str, Any], expected: Mapping[str, Any]) -> int:
        table, files = self._begun(), list[DataFile]()
        file, self._file = (
            self._file,
            None,
        )  # a commit may succeed although its answer is lost, so `discard` must not delete the file from here on

        def stage(now: Table, transaction: Transaction, properties: dict[str, str]) -> None:
            fence = orphan_fence(self._table.properties_of(now))
            require_kept(now, files, self._seen, fence, self._table.store, self._table.meter)
            with transaction.update_snapshot(snapshot_properties=properties).fast_append() as append:
                for one in files:
                    append.append_data_file(one)

        try:
            with self._table.faults():
                if file is not None:
                    files.append(file.close())
                elif self._gathered:
                    files += _dataframe_to_data_files(table.metadata, pa.Table.from_batches(self._gathered), table.io)
            return self._table.commit(self._table.recent() or table, stage, lambda now, standing: properties, expected)
        except (LostRace, StorageFull):
            self._table.discard(table, [one.file_path for one in files])  # known not to be in any snapshot
            raise

    def discard(self) -> None:
        if self._file is not None:
            self._file.abandon()

    def _begun(self) -> Table:
        """The table at the time of the first row; its orphan fence then is compared with the fence at the commit."""
        if self._of is None:
            self._of = self._table.writable()
            self._seen = orphan_fence(self._table.properties_of(self._of))
        return self._of


def _fitted(table: Table, rows: pa.RecordBatch) -> pa.RecordBatch:
    """The rows with the table's column order, types and field ids."""
    schema = pyarrow_to_schema(rows.schema, table.schema().name_mapping, format_version=table.format_version)
    parquet = FileFormatFactory.get(FileFormat.PARQUET)
    wanted = sanitize_column_names(table.schema())
    fitted: pa.RecordBatch = _to_requested_schema(wanted, schema, rows, include_field_ids=True, format_model=parquet)
    return fitted
