"""The catalog of an S3 without one, in either database: every commit is a compare-and-swap, and every byte is counted."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import obstore
import pyarrow as pa
import pytest
from servers import Servers

from headrace.catalog import FEEDBACK_ROWS, Store
from headrace.errors import LostRace, Unavailable
from headrace.settings import Maintenance
from headrace.storage.endpoints import Endpoints, MetadataEndpoint
from headrace.storage.ledger import Direction, Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import connect
from headrace.storage.records import batch
from headrace.storage.tables.handles import TableReader, TableWriter

pytest_plugins = ["shared", "postgresql"]


@pytest.fixture(params=["sqlite", "postgresql"])
def endpoints(shared_servers: Servers, tmp_path: Path, request: pytest.FixtureRequest) -> Endpoints:
    """A bucket, and no catalog behind it."""
    found = shared_servers.endpoints
    metadata = MetadataEndpoint(file=tmp_path / "metadata.db")
    if request.param == "postgresql":
        metadata = MetadataEndpoint(url=request.getfixturevalue("server").url, db_schema=f"t{uuid.uuid4().hex}")
    files = {name: value for name, value in found.catalog_properties.items() if name.startswith("s3.")}
    return found.model_copy(
        update={
            "catalog_uri": f"{request.param}://",
            "warehouse": f"s3://{found.bucket}/tables-{uuid.uuid4().hex}",
            "catalog_properties": files,
            "metadata": metadata,
        }
    )


@pytest.fixture
def store() -> Store:
    return replace(FEEDBACK_ROWS, name=f"feedback-{uuid.uuid4().hex[:8]}")


def writer(store: Store, endpoints: Endpoints, ledger: Ledger | None = None) -> TableWriter:
    return TableWriter(store, endpoints, Meter(ledger or Ledger(), "test"))


def rows(*numbers: int) -> pa.RecordBatch:
    plain = dict.fromkeys(("tenant", "user", "chunk_id", "reason", "correction"), "")
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return batch(
        FEEDBACK_ROWS.columns,
        [
            {**plain, "verdict_id": f"v{n}", "answer_id": f"a{n}", "simulated": False, "up": True, "at": at}
            | {"topic": "feedback", "partition": 0, "offset": n}
            for n in numbers
        ],
    )


def offsets(table: TableReader) -> list[int]:
    return sorted(table.read(("offset",))["offset"].to_pylist())


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What each of some threads returned or raised."""

    def tried(number: int) -> Any:
        try:
            return work(number)
        except Exception as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(tried, range(count)))


def test_concurrent_first_commits_create_one_table_and_lose_nothing(store: Store, endpoints: Endpoints) -> None:
    def write(number: int) -> int:
        return writer(store, endpoints).append(rows(number))

    got = at_once(4, write)
    assert all(isinstance(snapshot, int) for snapshot in got), got
    assert offsets(writer(store, endpoints)) == [0, 1, 2, 3]


def test_of_many_who_move_a_mark_exactly_one_wins(store: Store, endpoints: Endpoints) -> None:
    writer(store, endpoints).append(rows(0), properties={"next": 0}, expected={"next": None})

    def write(number: int) -> int:
        return writer(store, endpoints).append(rows(number + 1), properties={"next": number + 1}, expected={"next": 0})

    got = at_once(3, write)
    won = [number + 1 for number, result in enumerate(got) if isinstance(result, int)]
    assert len(won) == 1, got
    assert sum(isinstance(result, LostRace) for result in got) == 2, got
    table = writer(store, endpoints)
    assert (table.snapshot_property("next"), offsets(table)) == (won[0], [0, won[0]])


def test_maintenance_keeps_the_rows_and_leaves_few_files(store: Store, endpoints: Endpoints) -> None:
    table = writer(store, endpoints)
    for number in range(6):
        table.append(rows(number), properties={"next": number + 1})
    done = table.maintain(Maintenance(every=1, merge=2, keep_s=0, keep_snapshots=1, history_s=0, grace_s=1))
    assert done is not None
    assert done.files_after < 6
    again = writer(store, endpoints)
    assert (offsets(again), again.snapshot_property("next")) == ([*range(6)], 6)


def test_every_byte_of_the_tables_files_is_counted(store: Store, endpoints: Endpoints) -> None:
    """The metadata too, which a REST catalog would write itself."""
    ledger = Ledger()
    table = writer(store, endpoints, ledger)
    table.append(rows(1))
    table.append(rows(2))
    bucket = connect(endpoints, endpoints.bucket)
    prefix = endpoints.warehouse.partition("://")[2].partition("/")[2]
    kept = sum(one["size"] for page in obstore.list(bucket, prefix) for one in page)
    assert kept == sum(row.bytes for row in ledger.rows() if row.direction == Direction.WRITE) > 0


def test_a_database_that_is_away_is_said_to_be(store: Store, endpoints: Endpoints, tmp_path: Path) -> None:
    assert endpoints.metadata is not None
    if endpoints.metadata.url:
        away = MetadataEndpoint(url="postgresql://headrace:secret@127.0.0.1:9/postgres")
    else:
        away = MetadataEndpoint(file=tmp_path / "nowhere" / "metadata.db")
    with pytest.raises(Unavailable, match=f"Table {store.table} cannot be reached through") as raised:
        writer(store, endpoints.model_copy(update={"metadata": away})).count()
    assert "secret" not in raised.value.message


def test_homes_that_share_a_bucket_do_not_clean_up_each_others_files(store: Store, endpoints: Endpoints, tmp_path: Path) -> None:
    other = endpoints.model_copy(update={"metadata": MetadataEndpoint(file=tmp_path / "other" / "metadata.db")})
    (tmp_path / "other").mkdir()
    tables = [writer(store, found) for found in (endpoints, other)]
    for number in range(3):
        for table in tables:
            table.append(rows(number))
    time.sleep(1.1)  # the grace, in the store's whole seconds
    assert tables[0].maintain(Maintenance(every=1, merge=2, keep_s=0, keep_snapshots=1, history_s=0, grace_s=1)) is not None
    assert [offsets(writer(store, found)) for found in (endpoints, other)] == [[0, 1, 2]] * 2
