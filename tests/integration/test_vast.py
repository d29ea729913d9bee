"""VAST DB as the table store: through the SDK's surface in memory and, where the protocol is the point, over HTTP as well.

In the soak all of it runs over HTTP.

Neither is VAST DB (see docs/how-to/connect-vast-db.md). What it does where transactions meet is not written down, so the
tests of races run on an engine of either kind.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import vast_objects
import vast_wire
from vast_engine import Engine, Isolation, Refused

from headrace.catalog import DEAD_LETTERS, DOCUMENT_ROWS, FEEDBACK_ROWS, INTERACTION_ROWS, PROMOTIONS, Store, Tier, stores
from headrace.errors import BadSettings, LostRace, MissingPart, Overloaded, StorageFull, Unavailable
from headrace.storage.endpoints import Endpoints, ModelEndpoint, VastEndpoint
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.records import batch
from headrace.storage.sql import select
from headrace.storage.tables.handles import TableReader, TableWriter
from headrace.storage.tables.vast import table as vast

BUCKET = "lake"
AT = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)


@dataclass
class Cluster:
    """A VAST DB to test with, and handles on it."""

    engine: Engine
    endpoints: Endpoints
    ledger: Ledger

    def writer(self, store: Store = PROMOTIONS, endpoints: Endpoints | None = None) -> TableWriter:
        return TableWriter(store, endpoints or self.endpoints, Meter(self.ledger, "test"))

    def reader(self, store: Store = PROMOTIONS) -> TableReader:
        return TableReader(store, self.endpoints, Meter(self.ledger, "test"))

    def elsewhere(self, **words: Any) -> Endpoints:
        assert self.endpoints.vast is not None
        return self.endpoints.model_copy(update={"vast": self.endpoints.vast.model_copy(update=words)})


def endpoints_of(url: str) -> Endpoints:
    model = ModelEndpoint(url="", model="")
    return Endpoints(
        s3_endpoint="",
        s3_access_key="",
        s3_secret_key="",
        s3_region="",
        bucket="",
        catalog_uri="",
        warehouse="",
        vast=VastEndpoint(
            endpoint=url,
            access_key=vast_wire.ACCESS_KEY,
            secret_key=vast_wire.SECRET_KEY,
            bucket=BUCKET,
            db_schema="headrace",
            timeout_s=20.0,
        ),
        kafka_bootstrap="",
        files_dir=Path("."),
        kv_cache_bytes=0,
        vectors_uri="",
        embedder=model,
        reranker=model,
        generator=model,
    )


@pytest.fixture(params=["snapshot", "read committed"])
def isolation(request: pytest.FixtureRequest) -> Isolation:
    found: Isolation = request.param
    return found


OVER_HTTP = pytest.mark.parametrize("cluster", ["objects", "wire"], indirect=True)


@pytest.fixture(params=["objects", pytest.param("wire", marks=pytest.mark.soak(minutes=0.02))])
def cluster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    engine = Engine(BUCKET)
    if request.param == "objects":
        monkeypatch.setattr("vastdb.connect", vast_objects.connect(engine))
        yield Cluster(engine, endpoints_of("http://127.0.0.1:1"), Ledger())
        return
    with vast_wire.serve(engine) as url:
        yield Cluster(engine, endpoints_of(url), Ledger())


def promotions(*versions: str, round_number: int = 1, who: str = "somebody") -> pa.Table:
    rows = [
        {
            "model": "reranker",
            "version": v,
            "previous": "none",
            "kind": "promote",
            "round": round_number,
            "who": who,
            "why": "",
            "at": AT,
        }
        for v in versions
    ]
    return pa.Table.from_pylist(rows, PROMOTIONS.columns)


def versions(table: TableReader, where: str = "round >= 0", **words: Any) -> list[str]:
    return sorted(table.read(("version",), where, **words).column("version").to_pylist())


def test_a_table_nobody_wrote_is_empty(cluster: Cluster) -> None:
    table = cluster.writer()
    assert (table.read().num_rows, table.snapshot(), table.count(), table.snapshot_properties()) == (0, None, 0, {})
    assert table.snapshot_properties(AT) == {}


def example(kind: pa.DataType, number: int) -> Any:
    """A value of a type, other for each number."""
    if pa.types.is_struct(kind):
        return {kind.field(index).name: example(kind.field(index).type, number + index) for index in range(kind.num_fields)}
    if pa.types.is_list(kind):
        return [example(kind.value_type, number + index) for index in range(number % 4)]
    if pa.types.is_timestamp(kind):
        return AT + timedelta(microseconds=number)
    if pa.types.is_boolean(kind):
        return number % 2 == 0
    if pa.types.is_integer(kind):
        return number
    if pa.types.is_floating(kind):
        return number / 4
    return f"ü{number}".encode() if pa.types.is_binary(kind) else f"ü{number}"


def test_every_table_of_the_catalog_comes_back_as_it_went(cluster: Cluster) -> None:
    for store in stores(Tier.TABLE):
        rows = [{field.name: example(field.type, number) for field in store.columns} for number in range(20)]
        for name in [field.name for field in store.columns if field.nullable]:
            rows[3][name] = None
        given = pa.Table.from_pylist(rows, store.columns)
        cluster.writer(store).append(given)
        found = cluster.reader(store).read()
        assert found.schema.equals(store.columns), store
        assert found.take(_order(found, rows)).equals(given), store
        assert cluster.reader(store).count() == 20


def test_a_newer_release_is_asked_otherwise_and_answers_the_same() -> None:
    engine = Engine(BUCKET)
    with vast_wire.serve(engine, "5.5.0.0") as url:
        cluster = Cluster(engine, endpoints_of(url), Ledger())
        cluster.writer().append(promotions("1", "2"), properties={"offsets": 2})
        assert versions(cluster.reader(), "version != '1'") == ["2"]
        assert cluster.reader().snapshot_properties() == {"offsets": 2}


def _order(found: pa.Table, rows: list[dict[str, Any]]) -> pa.Array:
    """Where each given row is: a table has no order of its own."""
    place = {repr(row): index for index, row in enumerate(found.to_pylist())}
    return pa.array([place[repr(row)] for row in pa.Table.from_pylist(rows, found.schema).to_pylist()])


def test_a_version_reads_the_table_as_it_stood(cluster: Cluster) -> None:
    table = cluster.writer()
    first = table.append(promotions("1"))
    state = table.state()
    second = table.append(promotions("2", "3"))
    assert table.snapshot() == second != first
    assert (versions(table, snapshot=first), versions(table)) == (["1"], ["1", "2", "3"])
    assert (state.snapshot, state.read(("version",))["version"].to_pylist()) == (first, ["1"])
    assert sorted(table.state().read(("version",), since=state.revision)["version"].to_pylist()) == ["2", "3"]


@OVER_HTTP
def test_a_scan_is_of_one_version_whatever_is_committed_meanwhile(
    cluster: Cluster, isolation: Isolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vast, "_NARROW", 20)  # many answers, so that most are asked for after the commit
    cluster.engine.isolation = isolation
    table = cluster.writer()
    table.append(promotions(*map(str, range(300))))
    scan = table.scan(("version",))
    seen = next(scan).num_rows
    cluster.writer().append(promotions("late"))
    assert seen + sum(batch.num_rows for batch in scan) == 300
    assert table.count() == 301


def test_marks_go_with_their_rows_and_are_kept_by_later_commits(cluster: Cluster) -> None:
    table = cluster.writer()
    table.append(promotions("1"), properties={"offsets": {"0": 7}})
    between = datetime.now(UTC)
    time.sleep(0.01)
    table.append(promotions("2"), properties={"other": [1, "ü"]})
    table.append(promotions(), properties={"offsets": {"0": 9}})
    assert cluster.reader().snapshot_properties() == {"offsets": {"0": 9}, "other": [1, "ü"]}
    assert cluster.reader().snapshot_property("offsets") == {"0": 9}
    assert cluster.reader().snapshot_properties(between) == {"offsets": {"0": 7}}
    assert cluster.reader().snapshot_properties(AT - timedelta(days=4000)) == {}
    assert table.count() == 2


def test_marks_of_long_ago_are_found_behind_many_commits(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vast, "_LOOKED_BACK", 2)
    table = cluster.writer()
    table.append(promotions(), properties={"n": 0})
    before = datetime.now(UTC)
    time.sleep(0.01)
    for number in range(1, 9):
        table.append(promotions(), properties={"n": number})
    assert table.snapshot_properties(before) == {"n": 0}


def test_a_mark_that_moved_stops_the_commit(cluster: Cluster) -> None:
    table = cluster.writer()
    table.append(promotions("1"), properties={"offsets": 1}, expected={"offsets": None})
    with pytest.raises(LostRace, match="from None to 1"):
        cluster.writer().append(promotions("1"), properties={"offsets": 1}, expected={"offsets": None})
    assert versions(table) == ["1"]
    assert cluster.engine.open_transactions() == []


def at_once(cluster: Cluster, isolation: Isolation, work: Any, many: int = 6) -> list[Any]:
    """What each of several writers got, all started together on handles of their own."""
    cluster.engine.isolation = isolation
    gate = threading.Barrier(many)

    def one(number: int) -> Any:
        table = cluster.writer()
        gate.wait()
        return work(table, number)

    with ThreadPoolExecutor(many) as pool:
        return list(pool.map(one, range(many)))


def test_writers_at_once_lose_no_commit(cluster: Cluster, isolation: Isolation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vast, "_TRIES", 60)

    def work(table: TableWriter, number: int) -> list[int]:
        return [table.append(promotions(f"{number}/{attempt}"), properties={str(number): attempt}) for attempt in range(3)]

    got = at_once(cluster, isolation, work)
    assert sorted(version for versions in got for version in versions) == list(range(1, 19))
    assert versions(cluster.reader()) == sorted(f"{number}/{attempt}" for number in range(6) for attempt in range(3))
    assert cluster.reader().snapshot_properties() == {str(number): 2 for number in range(6)}
    assert cluster.reader().count() == 18


@OVER_HTTP
def test_of_many_who_move_a_mark_exactly_one_wins(
    cluster: Cluster, isolation: Isolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vast, "_TRIES", 60)
    cluster.writer().append(promotions(), properties={"offsets": 0})

    def work(table: TableWriter, number: int) -> bool:
        try:
            table.append(promotions(str(number)), properties={"offsets": number + 1}, expected={"offsets": 0})
        except LostRace:
            return False
        return True

    won = at_once(cluster, isolation, work)
    assert won.count(True) == 1
    assert versions(cluster.reader()) == [str(won.index(True))]


def test_a_commit_that_trusted_its_lock_alone_would_lose_an_update() -> None:
    """The counter-example: where VAST DB let a transaction change what was committed after it read, both would pass."""
    engine = Engine(BUCKET, isolation="read committed")
    connect = vast_objects.connect(engine)
    session = connect(endpoint="", access="", secret="")
    with session.transaction() as transaction:
        head = transaction.bucket(BUCKET).create_schema("s").create_table("head", pa.schema([("version", pa.int64())]))
        head.insert(pa.record_batch({"version": [1]}))
    with session.transaction() as slow, session.transaction() as fast:
        tables = [transaction.bucket(BUCKET).schema("s").table("head") for transaction in (slow, fast)]
        rows = [table.select(["version"], None, _Config, internal_row_id=True).read_all().to_pylist()[0] for table in tables]
        tables[1].update(pa.RecordBatch.from_pylist([{**rows[1], "version": 2}], _ROW))
        fast.__exit__(None, None, None)
        tables[0].update(pa.RecordBatch.from_pylist([{**rows[0], "version": 2}], _ROW))
        fast.__enter__()
    assert rows[0]["version"] == rows[1]["version"] == 1  # both read version 1, both committed version 2


def test_a_commit_overtaken_between_reading_and_writing_starts_again(cluster: Cluster, isolation: Isolation) -> None:
    cluster.engine.isolation = isolation
    table, other = cluster.writer(), cluster.writer()
    table.append(promotions("1"), properties={"offsets": 1})
    other.append(promotions("2"))
    cluster.engine.meanwhile = {"update": lambda: other.append(promotions("theirs"))}
    assert table.append(promotions("ours"), expected={"offsets": 1}) == 4
    assert versions(table, snapshot=3) == ["1", "2", "theirs"]
    cluster.engine.meanwhile = {"update": lambda: other.append(promotions(), properties={"offsets": 2})}
    with pytest.raises(LostRace, match="from 1 to 2"):
        table.append(promotions("late"), expected={"offsets": 1})
    assert table.count() == 4


class _Config:
    limit_rows_per_sub_split = 1


_ROW = pa.schema([("$row_id", pa.uint64()), ("version", pa.int64())])


@OVER_HTTP
@pytest.mark.parametrize("lost", ["before", "after"])
def test_a_commit_whose_answer_was_lost_is_made_once(cluster: Cluster, lost: Any) -> None:
    table = cluster.writer()
    table.append(promotions("1"), properties={"offsets": 1})
    cluster.engine.lose = [lost]
    version = table.append(promotions("2"), properties={"offsets": 2}, expected={"offsets": 1})
    assert cluster.engine.lose == []
    assert version == table.snapshot() == 2
    assert versions(table) == ["1", "2"]
    assert cluster.engine.open_transactions() == []


def test_a_lost_commit_is_recognised_behind_those_of_others(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    table, other = cluster.writer(), cluster.writer()
    table.append(promotions("1"))
    cluster.engine.lose = ["after"]
    monkeypatch.setattr(vast.time, "sleep", lambda _: other.append(promotions("theirs")))
    assert table.append(promotions("ours")) == 2
    assert versions(table) == ["1", "ours", "theirs"]


def test_the_first_commit_may_lose_its_answer_too(cluster: Cluster) -> None:
    cluster.engine.lose = ["after", "after"]  # of making the tables, and of the rows
    assert cluster.writer().append(promotions("1")) == 1
    assert versions(cluster.reader()) == ["1"]


def test_a_writer_that_died_with_the_lock_holds_up_the_others_until_its_transaction_ends(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vast, "_TRIES", 3)
    table = cluster.writer()
    table.append(promotions("1"))
    engine = cluster.engine
    dead = engine.begin()
    path = (BUCKET, "headrace", "promotions_head")
    engine.update(dead, path, engine.rows(dead, path).to_batches()[0])
    with pytest.raises(LostRace, match="times out"):
        table.append(promotions("2"))
    assert versions(table) == ["1"]
    engine.rollback(dead)
    table.append(promotions("2"))
    assert versions(table) == ["1", "2"]


def test_a_table_is_made_once_by_writers_at_once(cluster: Cluster, isolation: Isolation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vast, "_TRIES", 60)
    at_once(cluster, isolation, lambda table, number: table.append(promotions(str(number))))
    assert versions(cluster.reader()) == list("012345")


WHERES = [
    "version = '7'",
    "version != '7'",
    "version in ('3', '11', 'none of them')",
    "version not in ('3', '11')",
    "version like '1%'",
    "version not like '1%'",
    "version > '5' and round < 9",
    "round = 3 or round = 5",
    "round = 3 or version = '17'",
    "not (round = 3 or version = '17')",
    "why is null",
    "why is not null and why != 'x'",
    "who is null or who = 'ann'",
    "at >= '2026-03-04T05:06:12.890123+00:00'",
    "at < '2026-03-04T06:06:12.890123+01:00' and round != 0",
    "round >= 2 and round <= 8 and version != '4' and who = 'ann'",
    "(round < 3 or round > 17) and (why = 'x' or why is null)",
]


@pytest.fixture
def varied(cluster: Cluster) -> tuple[TableWriter, pa.Table]:
    """Twenty rows with nulls, in a store like the promotions but for its nulls; and the same rows at hand."""
    rows = promotions(*map(str, range(20))).to_pylist()
    for number, row in enumerate(rows):
        row |= {"round": number % 20, "at": AT + timedelta(seconds=number), "why": [None, "x", ""][number % 3]}
        row["who"] = ["ann", None][number % 2]
    store = replace(PROMOTIONS, schema=pa.schema([field.with_nullable(True) for field in PROMOTIONS.columns]))
    given = pa.Table.from_pylist(rows, store.columns)
    table = TableWriter(store, cluster.endpoints, Meter(cluster.ledger, "test"))
    table.append(given.slice(0, 12))
    table.append(given.slice(12))
    return table, given


def expected_of(where: str, rows: pa.Table) -> list[str]:
    """What DuckDB says, for whom "at" is a word of SQL."""
    where = re.sub(r"\bat\b", '"at"', where)
    with duckdb.connect() as database:
        database.register("given", rows)
        return sorted(row[0] for row in database.execute(f"SELECT version FROM given WHERE {where}").fetchall())


@OVER_HTTP
def test_a_condition_finds_what_it_says(varied: tuple[TableWriter, pa.Table]) -> None:
    table, rows = varied
    for where in WHERES:
        found = sorted(table.read(("version",), where).column("version").to_pylist())
        assert found == expected_of(where, rows), where


def test_any_condition_finds_what_it_says(varied: tuple[TableWriter, pa.Table]) -> None:
    table, rows = varied
    pick = random.Random(7)
    leaves = ["round = 4", "round > 12", "round <= 2", "version = '7'", "version like '1%'", "why is null", "why = 'x'"]
    leaves += ["who is not null", "who = 'ann'", "round in (1, 2, 19)", "at > '2026-03-04T05:06:17+00:00'"]
    for _ in range(20):
        where = pick.choice(leaves)
        for _ in range(pick.randint(0, 4)):
            where = f"({where}) {pick.choice(['and', 'or'])} ({pick.choice(leaves)})"
        assert sorted(table.read(("version",), where).column("version").to_pylist()) == expected_of(where, rows), where


def test_what_can_be_asked_is_asked_and_only_that_is_sent(cluster: Cluster) -> None:
    table = cluster.writer()
    table.append(promotions(*map(str, range(1000))))
    for where in ("version = '7'", "version in ('7')", "round > 0 and version = '7'"):
        before = read_bytes(cluster.ledger)
        assert versions(table, where) == ["7"]
        assert read_bytes(cluster.ledger) - before < 1000, where
    before = read_bytes(cluster.ledger)
    assert versions(table, "version = '7' or who = 'nobody'") == ["7"]  # over two columns: the SDK cannot send it
    assert read_bytes(cluster.ledger) - before > 10_000


def read_bytes(ledger: Ledger) -> int:
    return sum(row.bytes for row in ledger.rows() if row.direction == "read")


def test_what_moved_is_counted_as_estimated(cluster: Cluster) -> None:
    rows = promotions(*map(str, range(500)))
    table = cluster.writer()
    table.append(rows)
    table.read()
    counted = {row.direction: row for row in cluster.ledger.rows()}
    assert set(counted) == {"read", "write"}
    assert all(row.estimated and row.tier == "table" and row.store == "promotions" for row in counted.values())
    assert rows.nbytes * 0.9 < counted["write"].bytes < rows.nbytes * 1.3
    assert rows.nbytes * 0.9 < counted["read"].bytes < rows.nbytes * 1.3


@OVER_HTTP
def test_columns_the_catalog_gains_are_added_and_null_in_older_rows(cluster: Cluster) -> None:
    cluster.writer().append(promotions("1"))
    gained = replace(PROMOTIONS, schema=PROMOTIONS.columns.append(pa.field("notes", pa.list_(pa.string()))))
    gained = replace(gained, schema=gained.columns.append(pa.field("score", pa.float64())))
    old_reader = cluster.reader()
    assert TableReader(gained, cluster.endpoints, Meter(cluster.ledger, "test")).read().column("score").to_pylist() == [None]
    table = TableWriter(gained, cluster.endpoints, Meter(cluster.ledger, "test"))
    row = {**promotions("2").to_pylist()[0], "notes": ["a", "b"], "score": 0.5}
    assert table.read(("version",), "score is null").num_rows == 1
    table.append(pa.Table.from_pylist([row], gained.columns))
    found = {row["version"]: (row["notes"], row["score"]) for row in table.read().to_pylist()}
    assert found == {"1": (None, None), "2": (["a", "b"], 0.5)}
    assert table.read(("version",), "score > 0.1").column("version").to_pylist() == ["2"]
    assert versions(old_reader) == ["1", "2"]
    cluster.writer().append(promotions("3"))  # by a process of the older version
    assert versions(table) == ["1", "2", "3"]


def test_a_column_of_another_type_is_refused(cluster: Cluster) -> None:
    cluster.writer().append(promotions("1"))
    index = PROMOTIONS.columns.get_field_index("round")
    other = replace(PROMOTIONS, schema=PROMOTIONS.columns.set(index, pa.field("round", pa.string())))
    with pytest.raises(BadSettings, match=r"round of promotions is int64 .* string"):
        TableWriter(other, cluster.endpoints, Meter(cluster.ledger, "test")).append(
            promotions("2").set_column(index, other.columns.field("round"), pa.array(["1"]))
        )


def document(number: int, text: str) -> dict[str, Any]:
    row = {field.name: example(field.type, number) for field in DOCUMENT_ROWS.columns}
    return {**row, "version": str(number), "text": text}


@OVER_HTTP
def test_cells_too_wide_for_a_row_come_back_whole(cluster: Cluster) -> None:
    texts = ["short", "ü" * 100_000, "x" * 1_000_000, "short again"]
    given = [document(number, text) for number, text in enumerate(texts)]
    table = cluster.writer(DOCUMENT_ROWS)
    table.append(pa.Table.from_pylist(given, DOCUMENT_ROWS.columns))
    table.append(pa.Table.from_pylist([document(9, "y" * 300_000)], DOCUMENT_ROWS.columns))
    found = {row["version"]: row["text"] for row in table.read().to_pylist()}
    assert found == {**{str(number): text for number, text in enumerate(texts)}, "9": "y" * 300_000}
    assert table.read(("version",)).num_rows == 5
    conditions = {
        "text = 'short'": ["0"],
        "text != 'short'": ["1", "2", "3", "9"],
        "text is null": [],
        "text is not null and version = '2'": ["2"],
        "text like 'xxx%'": ["2"],
        "text >= 'y'": ["1", "9"],
        "version = '1' or text like 'short%'": ["0", "1", "3"],
    }
    for where, versions_found in conditions.items():
        assert sorted(table.read(("version",), where).column("version").to_pylist()) == versions_found, where


def test_lists_too_wide_for_a_row_come_back_whole(cluster: Cluster) -> None:
    rows = [{field.name: example(field.type, number) for field in INTERACTION_ROWS.columns} for number in range(3)]
    rows[1]["prompt_tokens"] = list(range(50_000))
    passage = rows[1]["passages"][0]
    rows[2]["passages"] = [{**passage, "chunk_id": "c" * 60_000, "retrieval_rank": rank} for rank in range(3)]
    given = pa.Table.from_pylist(rows, INTERACTION_ROWS.columns)
    table = cluster.writer(INTERACTION_ROWS)
    table.append(given)
    found = table.read()
    assert found.take(_order(found, rows)).equals(given)


@OVER_HTTP
def test_rows_are_taken_out_of_every_version_and_others_are_changed(cluster: Cluster) -> None:
    table = cluster.writer()
    first = table.append(promotions("v1", "v2", who="ann"), properties={"landed": 2})
    table.append(promotions("v3", who="bob" * 60_000))
    table.append(promotions("v4", who="ann" * 60_000))
    assert table.rewrite(("who",), lambda rows: pc.starts_with(rows["who"], "annann")) == 1
    assert table.rewrite(("version",), lambda rows: pc.equal(rows["version"], "v1")) == 1
    assert table.read()["version"].to_pylist() == ["v2", "v3"]
    assert table.read(("version",), snapshot=first)["version"].to_pylist() == ["v2"]
    assert table.count() == 2

    def nobody(rows: pa.RecordBatch) -> pa.RecordBatch:
        return pa.RecordBatch.from_pylist([{**row, "who": "nobody"} for row in rows.to_pylist()], schema=rows.schema)

    assert table.rewrite(("who",), lambda rows: pc.not_equal(rows["who"], "nobody"), nobody) == 2
    rows = table.read().sort_by("version").to_pylist()
    assert [(row["version"], row["who"], row["at"]) for row in rows] == [("v2", "nobody", AT), ("v3", "nobody", AT)]
    assert table.read(("version",), snapshot=first)["version"].to_pylist() == ["v2"]
    assert table.snapshot_property("landed") == 2
    assert table.append(promotions("v5")) > first
    assert table.count() == 3


@OVER_HTTP
def test_more_than_a_request_takes_is_sent_in_several(cluster: Cluster) -> None:
    rows = [
        {"key": b"", "value": bytes([number]) * 1_000_000, "reason": "r" * 100_000, "at": AT, "topic": "t", "partition": 0}
        for number in range(12)
    ]
    given = pa.Table.from_pylist([{**row, "offset": number} for number, row in enumerate(rows)], DEAD_LETTERS.columns)
    table = cluster.writer(DEAD_LETTERS)
    table.append(given)
    found = table.read().sort_by("offset")
    assert found.equals(given)
    narrow = pa.Table.from_pylist(
        [{**row, "value": b"", "reason": "r" * 100_000, "offset": 100 + number} for number, row in enumerate(rows * 6)],
        DEAD_LETTERS.columns,
    )
    table.append(narrow)  # 7 MB of rows that are not wide
    assert table.count() == table.read(("offset",)).num_rows == 12 + 72


def test_landing_on_it_takes_each_event_once(cluster: Cluster) -> None:
    """What a lander does: rows of a topic with their offsets, and its position as a snapshot property, commit after commit."""

    def event(offset: int) -> dict[str, Any]:
        row = {field.name: example(field.type, offset) for field in FEEDBACK_ROWS.columns}
        return {**row, "topic": "feedback", "partition": offset % 2, "offset": offset // 2}

    def land(table: TableWriter, start: int, end: int) -> None:
        standing = table.snapshot_property("offsets")
        assert (sum(standing.values()) if standing else 0) == start
        properties = {"0": (end + 1) // 2, "1": end // 2}
        rows = batch(FEEDBACK_ROWS.columns, [event(offset) for offset in range(start, end)])
        table.append(rows, properties={"offsets": properties}, expected={"offsets": standing})

    ours, stale = cluster.writer(FEEDBACK_ROWS), cluster.writer(FEEDBACK_ROWS)
    land(ours, 0, 10)
    behind = stale.snapshot_property("offsets")
    cluster.engine.lose = ["after"]
    land(ours, 10, 30)
    with pytest.raises(LostRace):
        stale.append(
            batch(FEEDBACK_ROWS.columns, [event(10)]), properties={"offsets": {"0": 6, "1": 5}}, expected={"offsets": behind}
        )
    land(cluster.writer(FEEDBACK_ROWS), 30, 31)  # another process goes on from there
    query = 'SELECT count(*) AS n, count(DISTINCT (topic, "partition", "offset")) AS each FROM feedback'
    assert select(query, cluster.endpoints, cluster.ledger) == [{"n": 31, "each": 31}]


@OVER_HTTP
@pytest.mark.parametrize(
    ("operation", "refused", "kind"),
    [
        ("insert", Refused(507, "InsufficientCapacity"), StorageFull),
        ("select", Refused(503, "ServiceUnavailable"), Overloaded),
        ("begin", Refused(500, "InternalError"), Unavailable),
        ("insert", Refused(403, "AccessDenied"), BadSettings),
        ("insert", Refused(400, "TabularUnsupported"), BadSettings),
    ],
    ids=lambda value: getattr(value, "code", None) or getattr(value, "__name__", value),
)
def test_a_refusal_is_said_in_our_words(
    cluster: Cluster, operation: str, refused: Refused, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vast.time, "sleep", lambda _: None)
    table = cluster.writer()
    table.append(promotions("1"))
    cluster.engine.refuse = {operation: refused}
    with pytest.raises(kind) as raised:
        table.append(promotions("2"))
    assert refused.code in str(raised.value)
    cluster.engine.refuse = {}
    assert cluster.engine.open_transactions() == []
    assert versions(table) == ["1"]


def test_a_bucket_that_is_not_there_is_said(cluster: Cluster) -> None:
    with pytest.raises(BadSettings, match="no bucket nowhere"):
        cluster.writer(endpoints=cluster.elsewhere(bucket="nowhere")).append(promotions("1"))


def test_a_server_that_is_down_or_refuses_the_key_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vast.time, "sleep", lambda _: None)
    engine = Engine(BUCKET)
    with vast_wire.serve(engine) as url:
        cluster = Cluster(engine, endpoints_of(url), Ledger())
        with pytest.raises(BadSettings, match=r"rejects these keys: InvalidAccessKeyId"):
            cluster.writer(endpoints=cluster.elsewhere(access_key="SOMEBODY")).read()
        cluster.writer().append(promotions("1"))
        table = cluster.writer()
        assert table.count() == 1
    for work in (table.count, lambda: table.append(promotions("2")), cluster.reader().read):
        with pytest.raises(Unavailable, match="refused") as raised:
            work()
        assert vast_wire.SECRET_KEY not in str(raised.value)


def test_a_status_the_sdk_does_not_know_is_no_mystery(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(BUCKET)
    with vast_wire.serve(engine) as url:
        cluster = Cluster(engine, endpoints_of(url), Ledger())
        engine.refuse = {"begin": Refused(502, "BadGateway")}
        with pytest.raises(Unavailable, match="502"):
            cluster.reader().read()


def test_a_server_of_another_kind_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(BUCKET)
    monkeypatch.setattr(vast_wire._Handler, "version_string", lambda self: "nginx")
    with vast_wire.serve(engine) as url, pytest.raises(BadSettings, match="not a VAST DB server"):
        Cluster(engine, endpoints_of(url), Ledger()).reader().read()


def test_without_the_package_it_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "vastdb", None)
    cluster = Cluster(Engine(BUCKET), endpoints_of("http://127.0.0.1:1"), Ledger())
    for work in (cluster.reader().read, lambda: cluster.writer().append(promotions("1"))):
        with pytest.raises(MissingPart, match="make install-vast"):
            work()
