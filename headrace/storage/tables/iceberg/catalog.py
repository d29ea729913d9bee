"""Which Iceberg catalog an installation has: a REST catalog, or one in SQL."""

from __future__ import annotations

import copy
import json
import os
import threading
import weakref
from collections import OrderedDict
from typing import TypeVar

from pyiceberg.catalog.rest import Endpoints as Paths
from pyiceberg.catalog.rest import RestCatalog, TableResponse
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.typedef import Identifier

from headrace.catalog import Store
from headrace.storage.endpoints import Endpoints
from headrace.storage.meter import Meter
from headrace.storage.tables.iceberg.metered_io import MeteredCatalog

V = TypeVar("V")


class MeteredRestCatalog(MeteredCatalog, RestCatalog):
    """A REST catalog for one table; it writes the tables' metadata itself."""

    def __init__(self, store: Store, connection: RestCatalog, meter: Meter) -> None:
        self.__dict__.update(connection.__dict__)
        self._connection = connection  # its sockets are closed once nobody uses it
        # The same sockets and token, but headers of its own: pyiceberg puts there what a catalog gives for one table alone.
        self._session = copy.copy(connection._session)
        self._session.headers = connection._session.headers.copy()
        self._metered = (store, meter)

    def load_table(self, identifier: str | Identifier) -> Table:
        """The current table. As pyiceberg's, but metadata that this process has read or committed is not parsed again.

        Each stage asks for tables that hardly change, and parsing takes almost half of the client's time for it.
        """
        path = self.url(Paths.load_table, prefixed=True, **self._split_identifier_for_path(identifier))
        response = self._session.get(path)
        if not response.ok:
            again: Table = super().load_table(identifier)  # with a new token, or raises what was wrong
            return again
        return self._response_to_table(self.identifier_to_tuple(identifier), _table_response(path, response.content))

    def close(self) -> None:
        """Do nothing: the sockets belong to the connection, which others use."""


_KEPT = 32
"""Tables: a catalog has about half as many."""
_metadata: OrderedDict[str, tuple[str, TableMetadata]] = OrderedDict()
"""Each table's metadata file that was read or written last, by the table's id, and what it holds: these files do not change."""
_responses: OrderedDict[str, tuple[bytes, TableResponse]] = OrderedDict()
"""What the catalog said of each table last, by the table's address, and what that means."""
_keeping = threading.Lock()


def _keep(known: OrderedDict[str, V], name: str, value: V) -> V:
    """Keep only the newest of each table: a busy one has hundreds of versions, each with all its snapshots."""
    with _keeping:
        known[name] = value
        known.move_to_end(name)
        while len(known) > _KEPT:
            known.popitem(last=False)
    return value


def note_metadata(location: str, metadata: TableMetadata) -> None:
    """Note what a metadata file holds."""
    _keep(_metadata, str(metadata.table_uuid), (location, metadata))


def _table_response(address: str, body: bytes) -> TableResponse:
    before, response = _responses.get(address, (b"", None))
    if response is None or body != before:
        _, response = _keep(_responses, address, (body, _parsed(body)))
    return response


def _parsed(body: bytes) -> TableResponse:
    loaded = json.loads(body)
    location, known = _metadata.get(loaded["metadata"].get("table-uuid"), ("", None))
    if (
        known is not None
        and location == loaded.get("metadata-location")
        and known.last_updated_ms == loaded["metadata"].get("last-updated-ms")
    ):
        return TableResponse.model_validate({**loaded, "metadata": known})  # the configuration beside it may be another one
    response = TableResponse.model_validate_json(body)
    if response.metadata_location:
        note_metadata(response.metadata_location, response.metadata)
    return response


_CONNECTIONS = 4
_connections: OrderedDict[tuple[object, ...], RestCatalog] = OrderedDict()
_connecting = threading.Lock()


def _connection(uri: str, warehouse: str, properties: tuple[tuple[str, str], ...]) -> RestCatalog:
    """This process's connection to a catalog: it costs three requests, and each stage opens several tables.

    A process that was forked gets another, because it must not use its parent's sockets.
    """
    name = (os.getpid(), uri, warehouse, properties)
    with _connecting:
        if (known := _connections.get(name)) is not None:
            _connections.move_to_end(name)
            return known
    # Not within the lock: a catalog that does not answer would be waited for by one thread after another.
    made = RestCatalog("headrace", uri=uri, warehouse=warehouse, **dict(properties))
    weakref.finalize(made, made._session.close)
    with _connecting:
        known = _connections.setdefault(name, made)  # of several threads' at once, the first one's
        while len(_connections) > _CONNECTIONS:
            _connections.popitem(last=False)
    return known


def connect(store: Store, endpoints: Endpoints, meter: Meter) -> MeteredCatalog:
    """The catalog of `endpoints`, for one table."""
    if endpoints.catalog_in_sql:
        from headrace.storage.tables.iceberg.sql_catalog import MeteredSqlCatalog

        return MeteredSqlCatalog(store, endpoints, meter)
    properties = tuple(sorted(endpoints.catalog_properties.items()))
    return MeteredRestCatalog(store, _connection(endpoints.catalog_uri, endpoints.warehouse, properties), meter)
