"""Which Iceberg catalog an installation has: a REST catalog, or one in SQL."""

from __future__ import annotations

from pyiceberg.catalog.rest import RestCatalog

from headrace.catalog import Store
from headrace.storage.endpoints import Endpoints
from headrace.storage.meter import Meter
from headrace.storage.tables.iceberg.metered_io import MeteredCatalog


class MeteredRestCatalog(MeteredCatalog, RestCatalog):
    """A REST catalog; it writes the tables' metadata itself."""

    def __init__(self, store: Store, endpoints: Endpoints, meter: Meter) -> None:
        self._metered = (store, meter)
        super().__init__(
            "headrace",
            uri=endpoints.catalog_uri,
            warehouse=endpoints.warehouse,
            **endpoints.catalog_properties,
        )


def connect(store: Store, endpoints: Endpoints, meter: Meter) -> MeteredCatalog:
    """The catalog of `endpoints`, for one table."""
    if endpoints.catalog_in_sql:
        from headrace.storage.tables.iceberg.sql_catalog import MeteredSqlCatalog

        return MeteredSqlCatalog(store, endpoints, meter)
    return MeteredRestCatalog(store, endpoints, meter)
