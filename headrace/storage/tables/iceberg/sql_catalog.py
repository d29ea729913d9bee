"""An Iceberg catalog in a SQL database, for an S3 endpoint without one: which metadata file is each table's current one.

Its tables are those of Iceberg's JDBC catalog (`iceberg_tables`), so Spark and Trino can read along. A commit moves the row by
compare-and-swap. Imported only where such a catalog is used, because SQLAlchemy takes a while.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import IcebergTables, SqlCatalog
from pyiceberg.exceptions import NamespaceAlreadyExistsError
from pyiceberg.io import FileIO
from pyiceberg.serializers import FromInputFile
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from headrace.catalog import Store
from headrace.storage.endpoints import Endpoints, MetadataEndpoint
from headrace.storage.meter import Meter
from headrace.storage.tables.iceberg.metered_io import MeteredCatalog

_WAIT_S = "60"
"""How long a writer waits for others that hold SQLite's lock; each holds it for one small update."""


def database(metadata: MetadataEndpoint) -> URL:
    """Where the catalog is: in the PostgreSQL of the metadata store, or in a file of its own beside the SQLite file."""
    if metadata.url:
        return make_url(metadata.url).set(drivername="postgresql+psycopg")
    return URL.create("sqlite", database=str(metadata.file.with_name("catalog.db")), query={"timeout": _WAIT_S})


class DatabaseCatalog(SqlCatalog):
    """The catalog; errors of the database are raised as `OSError`, like those of a REST catalog."""

    def __init__(self, endpoints: Endpoints) -> None:
        metadata = endpoints.metadata
        assert metadata is not None
        properties = {
            "uri": database(metadata).render_as_string(hide_password=False),
            "warehouse": endpoints.warehouse,
            "pool_pre_ping": "true",
            **endpoints.catalog_properties,
        }
        with _as_oserror():
            try:
                super().__init__(metadata.db_schema, **properties)  # homes that share a PostgreSQL have a schema each
            except SQLAlchemyError:  # another process created the catalog's tables at the same moment
                super().__init__(metadata.db_schema, **properties)

    def load_table(self, identifier: Any) -> Table:
        """The current table."""
        with _as_oserror():
            return super().load_table(identifier)

    def create_table(self, identifier: Any, *given: Any, **named: Any) -> Table:
        """A new table, in a folder of its own: another home's table of this name may be in the bucket, under another catalog."""
        folder = f"{self.properties['warehouse']}/{Catalog.table_name_from(identifier)}-{uuid.uuid4().hex}"
        with _as_oserror():
            return super().create_table(identifier, *given, **{"location": folder, **named})

    def create_namespace(self, namespace: Any, properties: Any = None) -> None:
        """A new namespace."""
        with _as_oserror():
            try:
                super().create_namespace(namespace, properties or {})
            except IntegrityError:
                raise NamespaceAlreadyExistsError(str(namespace)) from None

    def commit_table(self, table: Table, requirements: Any, updates: Any) -> Any:
        """Move a table to new metadata, if nobody else did."""
        with _as_oserror():
            return super().commit_table(table, requirements, updates)


class MeteredSqlCatalog(MeteredCatalog, DatabaseCatalog):
    """The catalog, for one table."""

    def __init__(self, store: Store, endpoints: Endpoints, meter: Meter) -> None:
        self._metered = (store, meter)
        super().__init__(endpoints)

    # pyiceberg reads and creates metadata with file access of its own, past `_load_file_io`.

    def _convert_orm_to_iceberg(self, orm_table: IcebergTables) -> Table:
        location = orm_table.metadata_location
        assert location is not None
        files = self._load_file_io(location=location)
        return Table(
            identifier=(*Catalog.identifier_to_tuple(orm_table.table_namespace), orm_table.table_name),
            metadata=FromInputFile.table_metadata(files.new_input(location)),
            metadata_location=location,
            io=files,
            catalog=self,
        )

    def _write_metadata(self, metadata: TableMetadata, io: FileIO, metadata_path: str) -> None:  # type: ignore[override]
        SqlCatalog._write_metadata(metadata, self._load_file_io(location=metadata_path), metadata_path)


@contextmanager
def _as_oserror() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise OSError(str(getattr(error, "orig", None) or error)) from error
