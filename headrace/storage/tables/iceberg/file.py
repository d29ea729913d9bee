"""One Parquet data file of an Iceberg table, written as its rows come: in memory is one row group, not the file."""

from __future__ import annotations

import contextlib
import uuid

import pyarrow as pa
from pyiceberg.io.fileformat import FileFormatFactory
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.schema import sanitize_column_names
from pyiceberg.table import Table
from pyiceberg.typedef import Record


class DataFileWriter:
    """Writes one file of an unpartitioned table; the rows are as the table's schema says, with its field ids."""

    def __init__(self, table: Table, name: str, *, group_bytes: int) -> None:
        """`group_bytes` of Arrow are gathered for each row group."""
        self._table, self._group_bytes = table, group_bytes
        self.path = table.location_provider().new_data_location(f"{name}-{uuid.uuid4()}.parquet")
        self._output = table.io.new_output(self.path)
        schema = sanitize_column_names(table.schema())
        self._writer = FileFormatFactory.get(FileFormat.PARQUET).create_writer(self._output, schema, table.properties)
        self._held: list[pa.Table] = []
        self._bytes = 0
        self._kind: pa.Schema | None = None

    def write(self, rows: pa.RecordBatch) -> None:
        """Take some rows; they are written once there are enough for a row group."""
        self._kind = self._kind or rows.schema
        self._held.append(pa.Table.from_batches([rows]).cast(self._kind))
        self._bytes += rows.nbytes
        if self._bytes >= self._group_bytes:
            self._flush()

    def close(self) -> DataFile:
        """Write what is left; return what a manifest says of the file. At least one row must have been written."""
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
        """Give the file up: what was sent of it is deleted, or left to upkeep where the store does not answer."""
        self._held = []
        with contextlib.suppress(Exception):
            self._writer.close()  # an object store forgets the begun upload only with its end
        with contextlib.suppress(Exception):
            self._table.io.delete(self.path)

    def _flush(self) -> None:
        if self._held:
            rows, self._held, self._bytes = pa.concat_tables(self._held), [], 0
            self._writer.write(rows)
