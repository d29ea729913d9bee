"""Which Iceberg catalog an installation has: a REST catalog, or one in SQL."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from functools import lru_cache

from pyiceberg.catalog.rest import Endpoints as Paths
from pyiceberg.catalog.rest import RestCatalog, TableResponse
from pyiceberg.table import Table
from pyiceberg.typedef import Identifier

from headrace.catalog import Store
from headrace.storage.endpoints import Endpoints
from headrace.storage.meter import Meter
from headrace.storage.tables.iceberg.metered_io import MeteredCatalog

_MOST = 4
"""Connections kept; with more, the least recently used is closed."""


class MeteredRestCatalog(MeteredCatalog, RestCatalog):
    """A REST catalog for one table; it writes the tables' metadata itself."""

    def __init__(self, store: Store, connection: RestCatalog, meter: Meter) -> None:
        # The connection's own attributes: its configuration, its session and the token in it.
        self.__dict__.update(connection.__dict__)
        self._metered = (store, meter)

    def load_table(self, identifier: str | Identifier) -> Table:
        """The current table. As pyiceberg's, but a response that was seen before is not parsed again.

        Each stage asks several times for tables that hardly change, and parsing takes three quarters of that.
        """
        path = self.url(Paths.load_table, prefixed=True, **self._split_identifier_for_path(identifier))
        response = self._session.get(path)
        if not response.ok:
            again: Table = super().load_table(identifier)  # with a new token, or raises what was wrong
            return again
        return self._response_to_table(self.identifier_to_tuple(identifier), _table_response(response.content))

    def close(self) -> None:
        """Nothing: the session belongs to the connection."""


@lru_cache(maxsize=32)
def _table_response(body: bytes) -> TableResponse:
    return TableResponse.model_validate_json(body)


class RestConnections:
    """The REST catalogs this process is connected to: a connection costs three requests, and each stage opens several tables."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[object, ...], RestCatalog] = OrderedDict()

    def to(self, endpoints: Endpoints) -> RestCatalog:
        """The connection to the catalog of `endpoints`, made if there is none."""
        # A process that was forked must not use its parent's sockets.
        key = (os.getpid(), endpoints.catalog_uri, endpoints.warehouse, *sorted(endpoints.catalog_properties.items()))
        with self._lock:
            if (known := self._open.get(key)) is not None:
                self._open.move_to_end(key)
                return known
        # Outside of the lock: a catalog that does not answer holds up nobody who needs another.
        made = RestCatalog("headrace", uri=endpoints.catalog_uri, warehouse=endpoints.warehouse, **endpoints.catalog_properties)
        with self._lock:
            kept = self._open.setdefault(key, made)
            closed = [made] if kept is not made else []
            while len(self._open) > _MOST:
                closed.append(self._open.popitem(last=False)[1])
        for catalog in closed:
            catalog.close()  # a session that is still used opens new connections
        return kept


_connections = RestConnections()


def connect(store: Store, endpoints: Endpoints, meter: Meter) -> MeteredCatalog:
    """The catalog of `endpoints`, for one table."""
    if endpoints.catalog_in_sql:
        from headrace.storage.tables.iceberg.sql_catalog import MeteredSqlCatalog

        return MeteredSqlCatalog(store, endpoints, meter)
    return MeteredRestCatalog(store, _connections.to(endpoints), meter)
