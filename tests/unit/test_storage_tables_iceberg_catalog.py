"""Tables of one catalog share its sockets and its token, and nothing that the catalog gives for one table."""

from __future__ import annotations

import gc
import json
import uuid
import weakref
from typing import Any

import pytest
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC
from pyiceberg.schema import Schema
from pyiceberg.table.metadata import new_table_metadata
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER
from requests import Session
from requests.auth import HTTPBasicAuth

from headrace.catalog import CHUNK_ROWS, DOCUMENT_ROWS
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.tables.iceberg.catalog import MeteredRestCatalog, _table_response, note_metadata


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


def test_metadata_that_is_known_is_not_parsed_again_and_what_is_beside_it_is() -> None:
    made = new_table_metadata(Schema(), UNPARTITIONED_PARTITION_SPEC, UNSORTED_SORT_ORDER, "s3://lake/documents", {})
    note_metadata("s3://lake/v1", made)

    def answer(location: str = "s3://lake/v1", token: str = "", **changed: Any) -> Any:
        fields = json.loads(made.model_dump_json(by_alias=True)) | {
            name.replace("_", "-"): value for name, value in changed.items()
        }
        body = {"metadata-location": location, "metadata": fields, "config": {"token": token}}
        return _table_response("http://catalog/tables/documents", json.dumps(body).encode())

    assert answer(token="a").metadata is answer(token="b").metadata is made
    assert [answer(token=token).config for token in ("a", "b")] == [{"token": "a"}, {"token": "b"}]
    other = answer("s3://lake/v2", last_updated_ms=made.last_updated_ms + 1)
    assert other.metadata is not made
    assert answer("s3://lake/v2", "c", last_updated_ms=made.last_updated_ms + 1).metadata is other.metadata
    # A table of the same name that was made anew, and one that another tool rewrote in place.
    assert str(answer(table_uuid=str(uuid.uuid4())).metadata.table_uuid) != str(made.table_uuid)
    assert answer(last_updated_ms=made.last_updated_ms + 5).metadata.last_updated_ms == made.last_updated_ms + 5


def test_of_each_table_only_the_newest_metadata_stays_in_memory() -> None:
    """Each version has all the snapshots; a busy table has hundreds of versions."""
    made = new_table_metadata(Schema(), UNPARTITIONED_PARTITION_SPEC, UNSORTED_SORT_ORDER, "s3://lake/documents", {})
    versions = []
    for number in range(5):
        fields = json.loads(made.model_dump_json(by_alias=True)) | {"last-updated-ms": made.last_updated_ms + number}
        body = json.dumps({"metadata-location": f"s3://lake/v{number}", "metadata": fields, "config": {}}).encode()
        versions.append(weakref.ref(_table_response("http://catalog/tables/busy", body).metadata))
        assert _table_response("http://catalog/tables/busy", body).metadata is versions[-1]()
    gc.collect()
    assert [version() is None for version in versions] == [True, True, True, True, False]
