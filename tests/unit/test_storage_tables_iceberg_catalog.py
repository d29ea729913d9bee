"""Tables of one catalog share its sockets and its token, and nothing that the catalog gives for one table."""

from __future__ import annotations

import pytest
from pyiceberg.catalog.rest import RestCatalog
from requests import Session
from requests.auth import HTTPBasicAuth

from headrace.catalog import CHUNK_ROWS, DOCUMENT_ROWS
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.tables.iceberg.catalog import MeteredRestCatalog


@pytest.fixture
def connection() -> RestCatalog:
    """A connection as it is once the catalog has answered."""
    made = RestCatalog.__new__(RestCatalog)
    made._session = Session()
    made._session.auth = HTTPBasicAuth("ann", "secret")
    return made


def test_a_header_for_one_table_is_sent_for_no_other(connection: RestCatalog) -> None:
    meter = Meter(Ledger(), "test")
    documents, chunks = (MeteredRestCatalog(store, connection, meter) for store in (DOCUMENT_ROWS, CHUNK_ROWS))
    documents._session.headers["Authorization"] = "Bearer a-table's-own"  # as `commit_table` does
    assert "Authorization" not in chunks._session.headers
    assert "Authorization" not in connection._session.headers


def test_sockets_and_token_are_the_connections_and_outlive_a_table(connection: RestCatalog) -> None:
    catalog = MeteredRestCatalog(DOCUMENT_ROWS, connection, Meter(Ledger(), "test"))
    adapter = connection._session.get_adapter("http://127.0.0.1")
    assert catalog._session.get_adapter("http://127.0.0.1") is adapter
    assert catalog._session.auth is connection._session.auth
    pool = adapter.poolmanager.connection_from_url("http://127.0.0.1:9")
    catalog.close()
    assert adapter.poolmanager.connection_from_url("http://127.0.0.1:9") is pool
