"""The storage handles against the real servers: what they promise under races, reruns and hostile strings."""

from __future__ import annotations

import json
import pickle
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from pyiceberg.catalog.rest import RestCatalog
from rounds import manifest as a_manifest
from rounds import plan as a_plan
from servers import Servers

from headrace.catalog import (
    CHUNKS,
    DEAD_LETTERS,
    DIMENSIONS,
    DOCUMENTS,
    FEEDBACK,
    FEEDBACK_ROWS,
    INDEXES,
    KV_CACHE,
    LEDGER,
    MODELS,
    PROMOTIONS,
    ROUNDS,
    RUNS,
    Store,
)
from headrace.core import maintain
from headrace.core.maintain import record
from headrace.core.run import ended_runs, recorded, runs
from headrace.core.runner import Runner
from headrace.errors import LostRace, NotFound, NothingIndexed, Unavailable, WrongUsage
from headrace.landing.land import land
from headrace.models.pointer import ChampionPointer
from headrace.registry.champion import rollback, set_champion
from headrace.settings import Maintenance
from headrace.storage import record_batch
from headrace.storage.endpoints import Endpoints
from headrace.storage.files import FileWriter
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.storage.records import batch
from headrace.storage.sql import select
from headrace.storage.stream.reader import TopicReader
from headrace.storage.stream.topic import Record
from headrace.storage.stream.writer import TopicWriter
from headrace.storage.tables.handles import TableReader, TableWriter
from headrace.storage.tables.iceberg import avro_readers
from headrace.storage.vectors.generations import Indexes, IndexGeneration, IndexReader, IndexWriter
from headrace.storage.vectors.handles import VectorReader, VectorWriter
from headrace.storage.vectors.lance import lancedb
from headrace.storage.vectors.table import lance_options
from headrace.training import manifest
from headrace.training.promotions import champion, record_move, versions

pytest_plugins = ["shared"]
T = TypeVar("T")


@pytest.fixture(scope="module")
def endpoints(shared_servers: Servers) -> Endpoints:
    return shared_servers.endpoints


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def meter(ledger: Ledger) -> Meter:
    return Meter(ledger, "test", "acme")


def own(store: Store) -> Store:
    """A store like this one that only one test uses."""
    return replace(store, name=f"{store.name}-{uuid.uuid4().hex[:8]}")


def at_once(count: int, act: Callable[[int], T]) -> list[T | Exception]:
    """What `count` threads got that began together."""
    barrier = threading.Barrier(count)

    def go(number: int) -> T | Exception:
        barrier.wait()
        try:
            return act(number)
        except Exception as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(go, range(count)))


# objects


@pytest.fixture
def objects(endpoints: Endpoints, meter: Meter) -> ObjectWriter:
    return ObjectWriter(own(DOCUMENTS), endpoints, meter)


def test_an_object_comes_back_and_is_counted(objects: ObjectWriter, ledger: Ledger, tmp_path: Path) -> None:
    data = bytes(range(256)) * 40_000  # more than one part
    etag = objects.put("a/b", data)
    assert objects.get_with_etag("a/b") == (data, etag)
    info = objects.info("a/b")
    assert info is not None
    assert (info.bytes, info.etag) == (len(data), etag)
    assert objects.download("a/b", tmp_path / "down") == len(data)
    assert (tmp_path / "down").read_bytes() == data
    objects.upload("up", tmp_path / "down")
    assert objects.get("up") == data
    moved = {row.direction: row.bytes for row in ledger.rows()}
    assert moved == {"write": 2 * len(data), "read": 3 * len(data)}


def test_what_is_not_there(objects: ObjectWriter, tmp_path: Path) -> None:
    for act in (objects.get, lambda key: objects.download(key, tmp_path / "x")):
        with pytest.raises(NotFound, match="none"):
            act("none")
    assert objects.info("none") is None
    objects.delete("none")
    assert list(objects.list()) == []


def test_listing_by_prefix_is_by_characters_and_stays_in_the_store(
    objects: ObjectWriter, endpoints: Endpoints, meter: Meter
) -> None:
    for key in ("a/1", "a/12", "a/2", "ab/1", "b"):
        objects.put(key, key.encode())
    ObjectWriter(replace(objects.store, name=objects.store.name + "x"), endpoints, meter).put("a/1", b"elsewhere")
    listed = {prefix: sorted(info.key for info in objects.list(prefix)) for prefix in ("", "a", "a/", "a/1", "b", "c")}
    assert listed == {
        "": ["a/1", "a/12", "a/2", "ab/1", "b"],
        "a": ["a/1", "a/12", "a/2", "ab/1"],
        "a/": ["a/1", "a/12", "a/2"],
        "a/1": ["a/1", "a/12"],
        "b": ["b"],
        "c": [],
    }


def test_of_many_who_put_where_nothing_is_exactly_one_wins(objects: ObjectWriter) -> None:
    for attempt in range(2):  # the store makes some of them wait for a second or two
        got = at_once(4, partial(lambda key, n: objects.put_if_absent(key, f"writer {n}".encode()), f"key{attempt}"))
        won = [n for n, result in enumerate(got) if isinstance(result, str)]
        assert len(won) == 1
        assert all(isinstance(result, LostRace) for n, result in enumerate(got) if n != won[0])
        assert objects.get(f"key{attempt}") == f"writer {won[0]}".encode()


def test_of_many_who_replace_what_they_saw_exactly_one_wins(objects: ObjectWriter) -> None:
    etag = objects.put("pointer", b"old")
    for _ in range(2):
        got = at_once(4, partial(lambda seen, n: objects.put_if_match("pointer", f"{uuid.uuid4()} {n}".encode(), seen), etag))
        won = [result for result in got if isinstance(result, str)]
        assert len(won) == 1
        assert sum(isinstance(result, LostRace) for result in got) == 3
        etag = objects.get_with_etag("pointer")[1]
        assert won == [etag]


def test_putting_the_same_again_is_no_race(objects: ObjectWriter) -> None:
    etag = objects.put_if_absent("a", b"one")
    assert objects.put_if_absent("a", b"one") == etag
    with pytest.raises(LostRace):
        objects.put_if_absent("a", b"two")
    objects.put_if_match("a", b"two", etag)
    assert objects.put_if_match("a", b"two", etag) == objects.get_with_etag("a")[1]
    with pytest.raises(LostRace):
        objects.put_if_match("a", b"three", etag)


def test_a_store_that_is_down_or_refuses_the_key_says_so(endpoints: Endpoints, meter: Meter) -> None:
    down = endpoints.model_copy(update={"s3_endpoint": "http://127.0.0.1:9"})
    with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:9 does not answer: nothing listens"):
        ObjectReader(DOCUMENTS, down, meter).get("a")
    stranger = endpoints.model_copy(update={"s3_secret_key": "wrong"})
    with pytest.raises(Unavailable, match="the secret key does not belong to this access key") as caught:
        ObjectReader(DOCUMENTS, stranger, meter).get("a")
    assert endpoints.s3_access_key not in caught.value.message


# tables


def row(number: int, **changed: Any) -> dict[str, Any]:
    return {
        "verdict_id": f"v{number}",
        "answer_id": f"a{number % 10}",
        "tenant": "acme",
        "user": "ann",
        "simulated": True,
        "up": number % 2 == 0,
        "chunk_id": "",
        "reason": 'it\'s "so"',
        "correction": "",
        "at": datetime(2026, 1, 1, tzinfo=UTC),
        "topic": "feedback",
        "partition": 0,
        "offset": number,
        **changed,
    }


def rows(*numbers: int) -> pa.RecordBatch:
    return batch(FEEDBACK_ROWS.columns, [row(n) for n in numbers])


@pytest.fixture
def table(endpoints: Endpoints, meter: Meter) -> TableWriter:
    return TableWriter(own(FEEDBACK_ROWS), endpoints, meter)


def offsets(table: TableReader, **how: Any) -> list[int]:
    return sorted(table.read(("offset",), **how)["offset"].to_pylist())


def test_rows_since_a_revision_are_read_at_the_cost_of_those(table: TableWriter, endpoints: Endpoints) -> None:
    assert table.revision() is None
    revisions = []
    for first in range(0, 30, 10):
        table.append(rows(*range(first, first + 10)))
        revisions.append(table.revision())
    meter = Meter(Ledger(), "reader")
    reader = TableReader(table.store, endpoints, meter)

    def since(revision: str | None, where: str = "offset >= 0") -> list[int]:
        return sorted(reader.read(("offset",), where, since=revision)["offset"].to_pylist())

    def moved(read: Callable[[], object]) -> int:
        before = sum(one.ops for one in meter.ledger.rows())
        read()
        return sum(one.ops for one in meter.ledger.rows()) - before

    assert since(revisions[2]) == []
    assert since(revisions[1]) == list(range(20, 30))
    assert since(revisions[0], "offset < 12") == [10, 11]
    assert since(revisions[0], "offset > 28") == [29]
    assert moved(lambda: since(revisions[1])) < moved(lambda: since(None))
    assert since(None) == since("another.0/1") == since(revisions[0].replace("/", "/9")) == list(range(30))  # type: ignore[union-attr]

    # What was merged since may be read again; nothing that is newer is left out.
    assert table.maintain(Maintenance(merge=2, keep_s=0)) is not None
    table.append(rows(30))
    assert {30} <= set(since(revisions[2])) <= set(range(31))
    newest = table.revision()
    assert since(newest) == []
    # A revision from before rows were removed is none of this table's: all are read.
    assert table.rewrite(("offset",), lambda found: pc.equal(found["offset"], 3)) == 1
    assert since(newest) == [number for number in range(31) if number != 3]
    assert since(table.revision()) == []


def test_a_table_nobody_wrote_is_empty(table: TableWriter) -> None:
    assert (table.read().num_rows, table.count(), table.snapshot(), table.snapshot_property("x")) == (0, 0, None, None)
    assert table.read().schema == FEEDBACK_ROWS.columns


def test_a_table_that_was_made_anew_is_seen_by_who_held_the_former(table: TableWriter, endpoints: Endpoints) -> None:
    """Two processes that create a table at once both succeed, and the catalog keeps one of the two."""
    table.append(rows(1))
    other = TableWriter(table.store, endpoints, Meter(Ledger(), "test"))
    catalog = RestCatalog("test", uri=endpoints.catalog_uri, warehouse=endpoints.warehouse, **endpoints.catalog_properties)
    catalog.drop_table(("headrace", table.store.table))
    other.append(rows(2))
    assert offsets(table) == [2]
    table.append(rows(3))
    assert offsets(other) == [2, 3]


def test_rows_come_back_as_they_went_and_are_counted(table: TableWriter, ledger: Ledger) -> None:
    table.append(rows(1, 2, 3))
    table.append(pa.Table.from_batches([rows(4)]))
    assert sorted(table.read().to_pylist(), key=lambda r: r["offset"]) == [
        {**row(n), "consent": None, "key": None, "extra": None} for n in (1, 2, 3, 4)
    ]
    assert table.read().schema == FEEDBACK_ROWS.columns
    assert table.count() == 4
    assert table.read(("offset", "up"), "offset > 2 and up = true").to_pylist() == [{"offset": 4, "up": True}]
    assert {line.direction for line in ledger.rows()} == {"read", "write"}
    assert all(line.bytes > 0 and not line.estimated for line in ledger.rows())


def test_a_snapshot_reads_the_table_as_it_stood(table: TableWriter) -> None:
    first = table.append(rows(1))
    second = table.append(rows(2))
    assert table.snapshot() == second
    assert offsets(table, snapshot=first) == [1]
    assert offsets(table, snapshot=second) == [1, 2]


def test_a_state_of_a_table_does_not_change(table: TableWriter, endpoints: Endpoints) -> None:
    table.append(rows(1), properties={"next": 1})
    state = table.state()
    other = TableWriter(table.store, endpoints, Meter(Ledger(), "test"))
    second = other.append(rows(2), properties={"next": 2})
    newer = table.state()
    assert (newer.snapshot, newer.properties["next"], offsets(table)) == (second, 2, [1, 2])
    assert (state.properties["next"], state.read(("offset",))["offset"].to_pylist()) == (1, [1])
    assert newer.read(("offset",), since=state.revision)["offset"].to_pylist() == [2]


def test_a_handle_that_missed_a_commit_commits_after_it(table: TableWriter, endpoints: Endpoints) -> None:
    other = TableWriter(table.store, endpoints, Meter(Ledger(), "test"))
    table.append(rows(1))
    other.append(rows(2), properties={"next": 1})
    table.append(rows(3))
    assert (offsets(table), table.snapshot_property("next")) == ([1, 2, 3], 1)
    other.append(rows(4), properties={"next": 2}, expected={"next": 1})
    with pytest.raises(LostRace, match=r"'next' of .* from 1 to 2"):
        table.append(rows(5), properties={"next": 2}, expected={"next": 1})
    assert offsets(table) == [1, 2, 3, 4]
    other.append(rows(6), properties={"next": 3})
    table.append(rows(7), properties={"next": 4}, expected={"next": 3})
    assert offsets(table) == [1, 2, 3, 4, 6, 7]


def test_a_clock_that_was_hours_ahead_stops_no_commit(table: TableWriter, endpoints: Endpoints) -> None:
    """The catalog takes no snapshot that is earlier than the one before it: nothing landed for as many hours."""
    table.append(rows(1))
    with pytest.MonkeyPatch.context() as patch:
        ahead = SimpleNamespace(**{**vars(time), "time": lambda: time.time() + 5 * 3600})
        patch.setattr("pyiceberg.table.snapshots.time", ahead)
        table.append(rows(2), properties={"next": 2})
    table.append(rows(3), properties={"next": 3}, expected={"next": 2})
    other = TableWriter(table.store, endpoints, Meter(Ledger(), "test"))
    other.append(rows(4))
    assert (offsets(table), table.snapshot_property("next")) == ([1, 2, 3, 4], 3)


def test_another_scan_reads_what_was_added_since(table: TableWriter, endpoints: Endpoints) -> None:
    for number in range(1, 6):
        table.append(rows(number))
    ledger = Ledger()
    reader = TableReader(table.store, endpoints, Meter(ledger, "test"))

    def read(*columns: str) -> tuple[list[int], int]:
        """The offsets, and how often the store was read for them."""
        before = sum(line.ops for line in ledger.rows())
        found = offsets(reader) if not columns else reader.read(columns)["offset"].to_pylist()
        return found, sum(line.ops for line in ledger.rows()) - before

    _, all_files = read()
    assert read() == ([1, 2, 3, 4, 5], 0), "nothing is new"
    other = TableWriter(table.store, endpoints, Meter(Ledger(), "test"))
    other.append(rows(6))
    found, one_file = read()
    assert found == [1, 2, 3, 4, 5, 6]
    assert 0 < 3 * one_file < all_files, "files that were read are read again"
    assert sorted(read("offset", "up")[0]) == found, "other columns are not those that are kept"

    # What was merged, taken out or changed by others is not answered from what is kept.
    assert other.maintain(Maintenance(merge=2, keep_s=0)) is not None
    assert read()[0] == found
    assert other.rewrite(("offset",), lambda rows: pc.equal(rows["offset"], 3)) == 1
    assert read()[0] == [1, 2, 4, 5, 6]
    recent = reader.format._recent  # type: ignore[attr-defined]
    assert 3 not in {offset for batches in recent._rows.values() for rows in batches for offset in rows["offset"].to_pylist()}
    assert offsets(reader, where="offset > 4") == [5, 6]


def test_readers_of_manifests_are_made_once(table: TableWriter, endpoints: Endpoints) -> None:
    def read() -> list[int]:
        """By a handle that has nothing in its cache."""
        return offsets(TableReader(table.store, endpoints, Meter(Ledger(), "test")))

    table.append(rows(1))
    read()
    before = dict(avro_readers._readers)
    assert before, "pyiceberg resolves schemas elsewhere by now"
    table.append(rows(2))
    assert read() == [1, 2]
    assert avro_readers._readers == before


def test_rows_kept_of_a_table_are_bounded(table: TableWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.storage.tables.iceberg.scan._KEPT_BYTES", 1000)
    recent = table.format._recent  # type: ignore[attr-defined]
    for number in range(1, 8):
        table.append(rows(number))
        assert offsets(table) == list(range(1, number + 1))
        assert recent._bytes == sum(b.nbytes for batches in recent._rows.values() for b in batches) <= 1000
    assert recent._rows, "nothing is kept"
    monkeypatch.setattr("headrace.storage.tables.iceberg.scan._FILE_BYTES", 1)
    table.append(rows(8))
    assert offsets(table) == list(range(1, 9))


def test_marks_go_with_their_rows_and_are_kept_by_later_commits(table: TableWriter, endpoints: Endpoints, meter: Meter) -> None:
    table.append(rows(1), properties={"offsets": {"0": 2}}, expected={"offsets": None})
    table.append(rows(2))
    table.append(rows(), properties={"other": [1]})
    fresh = TableReader(table.store, endpoints, meter)
    assert (fresh.snapshot_property("offsets"), fresh.snapshot_property("other"), fresh.count()) == ({"0": 2}, [1], 2)


def test_a_mark_that_moved_stops_the_commit(table: TableWriter) -> None:
    table.append(rows(1), properties={"offsets": 1}, expected={"offsets": None})
    before = table.snapshot()
    with pytest.raises(LostRace, match=r"'offsets' of .* from None to 1"):
        table.append(rows(1), properties={"offsets": 1}, expected={"offsets": None})
    assert (table.count(), table.snapshot()) == (1, before)


def test_writers_at_once_lose_no_commit(table: TableWriter, endpoints: Endpoints) -> None:
    table.append(rows(0))

    def write(number: int) -> int:
        mine = TableWriter(table.store, endpoints, Meter(Ledger(), "test"))
        return [mine.append(rows(100 * number + n)) for n in (1, 2, 3)][-1]

    got = at_once(2, write)
    assert all(isinstance(snapshot, int) for snapshot in got), got
    assert offsets(table) == [0, 1, 2, 3, 101, 102, 103]


def test_of_many_who_move_a_mark_exactly_one_wins(table: TableWriter, endpoints: Endpoints) -> None:
    table.append(rows(0), properties={"next": 0})

    def write(number: int) -> int:
        mine = TableWriter(table.store, endpoints, Meter(Ledger(), "test"))
        return mine.append(rows(number + 1), properties={"next": number + 1}, expected={"next": 0})

    got = at_once(3, write)
    won = [n + 1 for n, result in enumerate(got) if isinstance(result, int)]
    assert len(won) == 1
    assert sum(isinstance(result, LostRace) for result in got) == 2
    assert (table.snapshot_property("next"), offsets(table)) == (won[0], [0, won[0]])


def test_a_catalog_that_is_down_says_so(endpoints: Endpoints, meter: Meter) -> None:
    down = endpoints.model_copy(update={"catalog_uri": "http://127.0.0.1:9"})
    with pytest.raises(Unavailable, match=r"Table feedback cannot be reached through http://127\.0\.0\.1:9"):
        TableReader(FEEDBACK_ROWS, down, meter).read()


def test_sql_reads_the_tables_and_nothing_else(
    endpoints: Endpoints, ledger: Ledger, meter: Meter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    TableWriter(DEAD_LETTERS, endpoints, meter).append(
        batch(
            DEAD_LETTERS.columns,
            [{"key": b"", "value": b"x", "reason": "no", "at": datetime.now(UTC), "topic": "sql", "partition": 0, "offset": 7}],
        )
    )
    query = "select \"offset\", reason from dead_letters where topic = 'sql'"
    assert select(query, endpoints, ledger) == [{"offset": 7, "reason": "no"}]
    assert select("with a as (select 1 as n) select n from a", endpoints, ledger) == [{"n": 1}]
    (tmp_path / "a.csv").write_text("secret\n1\n")
    (tmp_path / ".tmp").mkdir()  # where DuckDB would spill
    (tmp_path / ".tmp" / "a.csv").write_text("secret\n1\n")
    monkeypatch.chdir(tmp_path)
    for hostile in (
        "select * from read_csv('.tmp/a.csv')",
        f"select * from '{tmp_path}/a.csv'",
        f"select * from read_csv('{tmp_path}/a.csv')",
        f"copy (select 1) to '{tmp_path}/b.csv'",
        f"attach '{tmp_path}/c.db'",
        "drop table dead_letters",
        "set enable_external_access = true",
        "select 1; select 2",
        "select * from nowhere",
        "selec",
        "",
    ):
        with pytest.raises(WrongUsage):
            select(hostile, endpoints, ledger)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp", "a.csv"]


# topics


def events(*numbers: int) -> list[dict[str, Any]]:
    return [{k: v for k, v in row(n).items() if k in FEEDBACK.columns.names} for n in numbers]


@pytest.fixture
def topic(endpoints: Endpoints, meter: Meter) -> tuple[TopicWriter, TopicReader]:
    store = own(FEEDBACK)
    return TopicWriter(store, endpoints, meter), TopicReader(store, endpoints, meter)


def read(topic: TopicReader, start: int = 0, **how: Any) -> list[Record]:
    return [fetched.record(index) for fetched in topic.read({0: start}, **how) for index in range(len(fetched))]


def test_what_is_appended_is_read_in_order_from_any_offset(topic: tuple[TopicWriter, TopicReader], ledger: Ledger) -> None:
    writer, reader = topic
    assert writer.append(events(*range(5)), key="answer_id") == [(0, n) for n in range(5)]
    assert writer.append(events(5, 6), key="answer_id") == [(0, 5), (0, 6)]
    found = read(reader)
    assert [record.offset for record in found] == list(range(7))
    assert [json.loads(record.value or b"")["verdict_id"] for record in found] == [f"v{n}" for n in range(7)]
    assert found[3].key == b"a3"
    assert [record.offset for record in read(reader, 4, most=2)] == [4, 5, 6]
    assert read(reader, 7) == []
    moved = {line.direction: line.bytes for line in ledger.rows()}
    size = sum(len(record.key or b"") + len(record.value or b"") for record in found)
    assert moved["write"] == size
    # Beside the records: the beginnings of the batches, looked at where the embedded broker keeps them (two here).
    looked_at = 2 * record_batch.HEAD_BYTES
    assert moved["read"] == looked_at + size + sum(len(r.key or b"") + len(r.value or b"") for r in found[4:])


def test_an_acknowledgement_with_an_offset_of_before_is_not_believed(
    topic: tuple[TopicWriter, TopicReader], endpoints: Endpoints
) -> None:
    writer, reader = topic
    writer.append(events(0, 1, 2), key="answer_id")
    admin = AdminClient({"bootstrap.servers": endpoints.kafka_bootstrap})
    admin.delete_topics([reader.store.name])[reader.store.name].result(10)
    admin.create_topics([NewTopic(reader.store.name, num_partitions=1)])[reader.store.name].result(10)
    with pytest.raises(Unavailable, match="at offset 0, which it had already assigned"):
        writer.append(events(3), key="answer_id")
    assert writer.append(events(4), key="answer_id") == [(0, 1)], "a topic that was made anew is known by then"


def test_an_empty_topic_is_drained_and_nothing_appended_is_nothing(topic: tuple[TopicWriter, TopicReader]) -> None:
    writer, reader = topic
    assert writer.append([], key="answer_id") == []
    assert read(reader) == []


def test_one_record_is_there_or_it_is_not(topic: tuple[TopicWriter, TopicReader], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.storage.stream.reader._ONE_RECORD_S", 1.0)
    writer, reader = topic
    writer.append(events(0, 1, 2), key="answer_id")
    found = reader.record(0, 1)
    assert found is not None
    assert (found.offset, found.key) == (1, b"a1")
    assert reader.record(0, 1000) is None
    assert reader.spans()[0].low == 0


def test_a_topic_made_anew_has_another_identity(topic: tuple[TopicWriter, TopicReader], endpoints: Endpoints) -> None:
    _, reader = topic
    before = reader.identity()
    assert before.cluster
    assert before.topic
    assert reader.identity() == before
    admin = AdminClient({"bootstrap.servers": endpoints.kafka_bootstrap})
    admin.delete_topics([reader.store.name])[reader.store.name].result(10)
    admin.create_topics([NewTopic(reader.store.name, num_partitions=1)])[reader.store.name].result(10)
    after = reader.identity()
    assert (after.cluster, after.topic != before.topic) == (before.cluster, True)


def test_a_reader_that_follows_sees_what_comes_later(topic: tuple[TopicWriter, TopicReader]) -> None:
    writer, reader = topic
    writer.append(events(0), key="answer_id")
    stream = reader.read({0: 0}, follow=True)
    seen: list[int] = []
    for fetches, fetched in enumerate(stream):
        seen += fetched.offsets
        if fetches == 1:
            writer.append(events(1), key="answer_id")
        if seen == [0, 1] or fetches > 20:
            break
    stream.close()  # type: ignore[attr-defined]
    assert seen == [0, 1]


def test_a_head_that_is_down_says_so(endpoints: Endpoints, meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.storage.stream.topic.TIMEOUT_S", 1.0)
    down = endpoints.model_copy(update={"kafka_bootstrap": "127.0.0.1:9"})
    with pytest.raises(Unavailable, match=r"Topic feedback cannot be reached at 127\.0\.0\.1:9"):
        list(TopicReader(FEEDBACK, down, meter).read({0: 0}))


def test_landing_takes_each_event_once_and_buries_what_cannot_be_read(endpoints: Endpoints, tmp_path: Path) -> None:
    topic, table = own(FEEDBACK), own(FEEDBACK_ROWS)
    writer = TopicWriter(topic, endpoints, Meter(Ledger(), "test"))
    writer.append(events(0, 1), key="answer_id")
    producer = Producer({"bootstrap.servers": endpoints.kafka_bootstrap})
    producer.produce(topic.name, b"\xff not json", b"key")
    producer.produce(topic.name, None, b"tombstone")
    producer.flush(10)
    writer.append(events(2), key="answer_id")
    meter = Meter(Ledger(), "test")
    landed, buried = TableReader(table, endpoints, meter), TableReader(DEAD_LETTERS, endpoints, meter)
    with recorded("land", tmp_path) as run:
        runner = Runner(run, endpoints)
        done = runner.run(land.over(topics=[topic], tables=[table]))
        assert (done.events[topic.name], done.dead) == (3, 2)
        again = runner.run(land.over(topics=[topic], tables=[table]))
        assert (again.total, again.dead) == (0, 0)
    assert landed.snapshot_property(f"landed/{topic.name}/0")["next"] == 5
    assert offsets(landed) == [0, 1, 4]
    letters = buried.read(where=f"topic = '{topic.name}'").to_pylist()
    assert sorted((r["offset"], r["key"], r["value"]) for r in letters) == [(2, b"key", b"\xff not json"), (3, b"tombstone", b"")]
    assert [r["reason"].split(":")[0] for r in sorted(letters, key=lambda r: r["offset"])] == [
        "not JSON",
        "the record has no value",
    ]


# vectors


def chunk(
    name: str, text: str, direction: int, *, tenant: str = "acme", document: str = "d", version: str = "1"
) -> dict[str, Any]:
    embedding = np.zeros(DIMENSIONS, np.float32)
    embedding[direction] = 1.0
    return {
        "chunk_id": name,
        "document_id": document,
        "version": version,
        "tenant": tenant,
        "uri": f"{document}.md",
        "heading": "",
        "position": 0,
        "text": text,
        "readers": [],
        "embedding": embedding.tolist(),
    }


def chunks(*made: dict[str, Any]) -> pa.RecordBatch:
    return batch(CHUNKS.columns, made)


def towards(direction: int) -> np.ndarray[Any, Any]:
    embedding = np.zeros(DIMENSIONS, np.float32)
    embedding[direction] = 1.0
    return embedding


@pytest.fixture
def vectors(endpoints: Endpoints, meter: Meter) -> VectorWriter:
    return VectorWriter(own(CHUNKS), endpoints, meter)


def test_lancedb_keeps_few_connections(endpoints: Endpoints) -> None:
    """It keeps one more each time that a table is written to and opened at its version, where that is not bounded."""
    port = urlsplit(endpoints.s3_endpoint).port

    def connections() -> int:
        return sum(bool(one.raddr) and one.raddr.port == port for one in psutil.Process().net_connections("tcp"))

    options, session, name = lance_options(endpoints), lancedb.Session(), own(CHUNKS).name
    database = lancedb.connect(endpoints.vectors_uri, storage_options=options, session=session)
    kind = pa.list_(pa.float32(), 8)
    table = database.create_table(name, schema=pa.schema([("id", pa.string()), ("at", kind)]))
    try:
        before = connections()
        for number in range(40):
            rows = pa.table({"id": [str(number)], "at": pa.array([[1.0] * 8], kind)})
            table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows)
            reading = database.open_table(name)
            reading.checkout(table.version)
            assert (reading.count_rows(), reading.search([1.0] * 8).limit(1).to_arrow().num_rows) == (number + 1, 1)
        assert connections() - before < 20
    finally:
        database.drop_table(name)


def test_lancedbs_caches_do_not_grow_with_the_versions_of_a_table(vectors: VectorWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    """They keep something of each version; without a bound they take gigabytes before anything of it goes."""
    monkeypatch.setattr("headrace.storage.vectors.table.memory_bytes", lambda: 2 << 20)
    sizes = []
    for number in range(60):
        vectors.upsert(chunks(chunk(f"c{number}", f"the wheel of mill {number} turns", 0)))
        assert vectors.dense(towards(0), tenant="acme", most=1)
        sizes.append(vectors._shared_table._session.size_bytes)
    assert 0 < max(sizes) < (2 << 20) / 2


def test_before_anything_is_indexed(vectors: VectorWriter) -> None:
    assert (vectors.version(), vectors.count(), vectors.indexed().num_rows) == ("none", 0, 0)
    vectors.delete({"d": ""})
    searches: tuple[Callable[[], object], ...] = (
        lambda: vectors.dense(towards(0), tenant="acme", most=3),
        lambda: vectors.fulltext("wheel", tenant="acme", most=3),
        lambda: vectors.fusion("wheel", towards(0), tenant="acme", most=3),
    )
    for search in searches:
        with pytest.raises(NothingIndexed, match="No document has been indexed yet"):
            search()


def test_rows_not_indexed_yet_are_found_by_embedding(vectors: VectorWriter) -> None:
    """A process may die between embedding and building the index; a question then still gets an answer."""
    vectors.upsert(chunks(chunk("a", "the wheel turns", 0)))
    assert [hit.chunk_id for hit in vectors.fusion("wheel", towards(0), tenant="acme", most=3)] == ["a"]


def test_upserting_again_changes_nothing_and_replaces_by_id(vectors: VectorWriter, endpoints: Endpoints, meter: Meter) -> None:
    made = chunks(chunk("a", "the wheel turns", 0), chunk("b", "the weir stands", 1))
    for _ in range(2):
        assert vectors.upsert(made) == 2
    assert vectors.count() == 2
    vectors.upsert(chunks(chunk("a", "the mill grinds", 2)))
    version = vectors.build()
    reader = VectorReader(vectors.store, endpoints, meter)
    assert reader.version() == version != "none"
    assert reader.count() == 2
    assert [hit.text for hit in reader.dense(towards(2), tenant="acme", most=1)] == ["the mill grinds"]
    assert [hit.chunk_id for hit in reader.fulltext("grinding", tenant="acme", most=5)] == ["a"]
    assert reader.fulltext("turns", tenant="acme", most=5) == []


def test_both_searches_are_fused(vectors: VectorWriter, ledger: Ledger) -> None:
    vectors.upsert(chunks(chunk("a", "alpha", 0), chunk("b", "the wheel", 1), chunk("c", "gamma", 2)))
    vectors.build()
    found = vectors.fusion("wheel", towards(0), tenant="acme", most=2)
    assert len(found) == 2
    by_name = {hit.chunk_id: hit for hit in vectors.fusion("wheel", towards(0), tenant="acme", most=9)}
    assert (by_name["a"].dense_rank, by_name["a"].fulltext_rank) == (1, None)
    assert by_name["b"].fulltext_rank == 1
    assert all(line.bytes > 0 and not line.estimated for line in ledger.rows())


def test_old_versions_go_and_the_named_one_stays(vectors: VectorWriter) -> None:
    vectors.upsert(
        chunks(chunk("a", "old", 0, version="1"), chunk("b", "new", 1, version="2"), chunk("c", "other", 2, document="e"))
    )
    vectors.delete({"d": "2"})
    assert sorted(vectors.indexed()["chunk_id"].to_pylist()) == ["b", "c"]
    vectors.delete({"e' OR '1'='1": ""})
    assert vectors.count() == 2
    vectors.delete({"d": ""})
    assert vectors.indexed()["chunk_id"].to_pylist() == ["c"]


TENANTS = ["acme", "apex", "o'brien", "x' OR '1'='1", "a\\", '"', "%", "", "acme' --", "日本"]


def test_no_tenant_sees_another_whatever_it_is_called(vectors: VectorWriter) -> None:
    vectors.upsert(chunks(*(chunk(f"c{n}", "the wheel turns", 0, tenant=tenant) for n, tenant in enumerate(TENANTS))))
    vectors.build()
    for number, tenant in enumerate(TENANTS):
        for found in (
            vectors.dense(towards(0), tenant=tenant, most=50),
            vectors.fulltext("wheel", tenant=tenant, most=50),
            vectors.fusion("wheel", towards(0), tenant=tenant, most=50),
        ):
            assert [hit.chunk_id for hit in found] == [f"c{number}"], tenant
    for stranger in ("nobody", "' OR tenant <> '", "acme'; DROP TABLE chunks; --", "acme\x00"):
        assert vectors.fusion("wheel", towards(0), tenant=stranger, most=50) == []


QUESTIONS = [
    "",
    "   ",
    "?!",
    '"',
    "'",
    "wheel AND",
    "wheel OR (",
    "NOT",
    "-wheel",
    "text:wheel",
    "wheel~2",
    "wheel*",
    "\\",
    "+(",
    "wheel\x00",
    "日本",
    "'; DROP",
]


def test_a_question_is_words_and_never_a_query(vectors: VectorWriter) -> None:
    vectors.upsert(chunks(chunk("a", "the wheel turns", 0), chunk("b", "the weir stands", 1)))
    vectors.build()
    for question in QUESTIONS:
        found = [hit.chunk_id for hit in vectors.fulltext(question, tenant="acme", most=5)]
        assert found == (["a"] if "wheel" in question else []), question
        assert len(vectors.fusion(question, towards(0), tenant="acme", most=5)) == 2, question


# what stands on them


def test_a_round_is_begun_once_and_committed_once(endpoints: Endpoints, meter: Meter) -> None:
    rounds = ObjectWriter(own(ROUNDS), endpoints, meter)
    assert (manifest.numbers(rounds), manifest.plan(rounds, 1)) == ([], None)
    got = at_once(4, lambda n: manifest.begin(rounds, a_plan(1, champion=f"v{n:06d}")))
    won = [result for result in got if isinstance(result, manifest.Plan)]
    assert len(won) == 1
    assert sum(isinstance(result, LostRace) for result in got) == 3
    assert manifest.plan(rounds, 1) == won[0]
    assert manifest.numbers(rounds) == []
    with pytest.raises(NotFound):
        manifest.read(rounds, 1)
    committed = a_manifest(1)
    manifest.publish(rounds, committed)
    manifest.publish(rounds, committed)
    with pytest.raises(LostRace):
        manifest.publish(rounds, a_manifest(1, run="another"))
    manifest.publish(rounds, a_manifest(12))
    assert manifest.numbers(rounds) == [1, 12]
    assert manifest.read(rounds, 1) == committed


def test_runs_are_archived_exactly_once(endpoints: Endpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter(Ledger(), "test")
    monkeypatch.setattr(maintain, "_AT_ONCE", 1)
    with recorded("first", tmp_path) as run:
        run.detail["n"] = 1
        Runner(run, endpoints).run(record, home=tmp_path)  # itself still running: not archived yet
        ObjectWriter(own(DOCUMENTS), endpoints, Meter(run.ledger, "put")).put("a", b"four")
    with recorded("second", tmp_path) as run:
        runner = Runner(run, endpoints)
        assert runner.run(record, home=tmp_path).runs == 1
        assert runner.run(record, home=tmp_path).runs == 0
        # As after a crash between the tables and the moving of the journal.
        for journal in (tmp_path / "runs" / "archived").glob("*-first-*.json"):
            journal.rename(tmp_path / "runs" / journal.name)
        assert runner.run(record, home=tmp_path).runs == 0
        assert ended_runs(tmp_path, 10) == []
    for command in ("third", "fourth", "fifth"):
        with recorded(command, tmp_path):
            pass
    assert runner.run(record, home=tmp_path, every=False).runs == 1, "the oldest, of four"
    assert runner.run(record, home=tmp_path).runs == 3
    name = next(journal["run"] for journal in runs(tmp_path) if journal["command"] == "first")
    lines = TableReader(RUNS, endpoints, meter).read(where=f"run = '{name}'").to_pylist()
    assert [(line["command"], line["state"], json.loads(line["detail"])) for line in lines] == [("first", "done", {"n": 1})]
    put = TableReader(LEDGER, endpoints, meter).read(where=f"run = '{name}' and stage = 'put'").to_pylist()
    assert [(line["direction"], line["bytes"]) for line in put] == [("write", 4)]


def release(models: ObjectWriter, *versions: str) -> None:
    for number, version in enumerate(versions, 1):
        card = {"version": version, "round": number, "retrieval_weight": 0.5, "max_tokens": 64, "files": []}
        models.put(f"reranker/{version}/card.json", json.dumps(card).encode())


@pytest.fixture
def promoted(endpoints: Endpoints, meter: Meter) -> tuple[ObjectWriter, TableWriter]:
    return ObjectWriter(own(MODELS), endpoints, meter), TableWriter(own(PROMOTIONS), endpoints, meter)


def moves(promotions: TableReader) -> list[tuple[str, str, str]]:
    lines = sorted(promotions.read().to_pylist(), key=lambda line: line["at"])
    return [(line["kind"], line["previous"], line["version"]) for line in lines]


def test_the_champion_moves_forward_and_back_and_its_history_is_kept(promoted: tuple[ObjectWriter, TableWriter]) -> None:
    models, promotions = promoted
    assert champion(models) == (ChampionPointer(model="reranker"), "")
    with pytest.raises(NotFound, match="no earlier version"):
        rollback(models, promotions, who="ann", why="")
    with pytest.raises(NotFound, match="No version 'v000009'"):
        set_champion(models, promotions, "v000009", "ann", "")
    release(models, "v000001", "v000002")
    for version in ("v000001", "v000001", "v000002"):
        assert set_champion(models, promotions, version, "ann", "because").version == version
    assert champion(models)[0].history == ["none", "v000001"]
    assert [card["version"] for card in versions(models)] == ["v000001", "v000002"]
    assert rollback(models, promotions, who="bob", why="worse").version == "v000001"
    assert rollback(models, promotions, who="bob", why="worse").version == "none"
    with pytest.raises(NotFound, match="no earlier version"):
        rollback(models, promotions, who="bob", why="")
    assert champion(models)[0].moves == 4
    assert moves(promotions) == [
        ("promote", "none", "v000001"),
        ("promote", "v000001", "v000002"),
        ("rollback", "v000002", "v000001"),
        ("rollback", "v000001", "none"),
    ]


def test_a_move_whose_record_was_lost_is_recorded_by_the_next(
    promoted: tuple[ObjectWriter, TableWriter], endpoints: Endpoints
) -> None:
    models, promotions = promoted
    release(models, "v000001", "v000002")
    set_champion(models, promotions, "v000001", "ann", "")
    set_champion(models, promotions, "v000002", "ann", "")
    # The process dies between pointer and table: the pointer moves, the record goes where nobody looks.
    elsewhere = TableWriter(own(PROMOTIONS), endpoints, Meter(Ledger(), "test"))
    rollback(models, elsewhere, who="ann", why="")
    assert len(moves(promotions)) == 2
    set_champion(models, promotions, "v000002", "bob", "")
    set_champion(models, promotions, "v000002", "bob", "")
    assert moves(promotions) == [
        ("promote", "none", "v000001"),
        ("promote", "v000001", "v000002"),
        ("rollback", "v000002", "v000001"),
        ("promote", "v000001", "v000002"),
    ]


def test_movers_at_once_lose_or_win_and_every_win_is_recorded_once(
    promoted: tuple[ObjectWriter, TableWriter], endpoints: Endpoints
) -> None:
    models, promotions = promoted
    names = ["v000001", "v000002", "v000003"]
    release(models, *names)

    def move(number: int) -> ChampionPointer:
        meter = Meter(Ledger(), "test")
        mine = ObjectWriter(models.store, endpoints, meter), TableWriter(promotions.store, endpoints, meter)
        return set_champion(*mine, names[number], "ann", "")

    record_move(promotions, ChampionPointer(model="reranker"))
    got = at_once(3, move)
    won = [result for result in got if isinstance(result, ChampionPointer)]
    assert won
    assert all(isinstance(result, LostRace) for result in got if result not in won), got
    standing, _ = champion(models)
    assert standing.moves == len(won)
    record_move(promotions, standing)
    assert len(moves(promotions)) == len(won)
    assert standing.history == ["none", *(m[2] for m in moves(promotions)[:-1])]


# handles of many tenants


def test_tenants_share_what_is_open_and_are_counted_apart(endpoints: Endpoints, ledger: Ledger) -> None:
    first = TopicWriter(own(FEEDBACK), endpoints, Meter(ledger, "say", "t0"))
    views = {f"t{n}": first.with_meter(Meter(ledger, "say", f"t{n}")) for n in range(1, 9)}

    def say(tenant: str) -> list[tuple[int, int]]:
        return [place for _ in range(4) for place in views[tenant].append(events(*range(5)), key="answer_id")]

    with ThreadPoolExecutor(8) as pool:
        places = [place for found in pool.map(say, views) for place in found]
    assert len(set(places)) == len(places) == 8 * 4 * 5
    assert len({id(view._open()[0]) for view in (first, *views.values())}) == 1  # one producer, with its threads
    assert {line.tenant: line.ops for line in ledger.rows()} == dict.fromkeys(views, 20)


def test_which_index_answers_is_asked_once_for_all_tenants(endpoints: Endpoints, ledger: Ledger) -> None:
    store = own(INDEXES)
    writer = IndexWriter(store, endpoints, Meter(Ledger(), "test"))
    writer.change(lambda now: Indexes(serving=IndexGeneration(1, 200, "embedder", 384), newest=1))
    one = IndexReader(store, endpoints, Meter(ledger, "retrieve", "one"))
    other = one.with_meter(Meter(ledger, "retrieve", "other"))
    assert one.recent() == other.recent()
    assert [(line.tenant, line.ops) for line in ledger.rows()] == [("one", 1)]
    # Whoever asked long ago waits for the one who asks now: what stood then may be gone.
    writer.change(lambda now: replace(now, serving=IndexGeneration(2, 200, "embedder", 384), newest=2))
    assert one._recent._known is not None
    one._recent._known = (one._recent._known[0] - 3600, one._recent._known[1])
    with ThreadPoolExecutor(8) as pool:
        found = [view.result() for view in [pool.submit(reader.recent) for reader in (one, other) * 4]]
    assert {now.serving.number for now in found if now.serving} == {2}


def test_handles_reconnect_where_they_are_unpickled_and_their_counts_come_back(
    endpoints: Endpoints, topic: tuple[TopicWriter, TopicReader]
) -> None:
    """As a worker on another machine gets them: together with the ledger, which is folded into the driver's."""
    ledger = Ledger()
    meter = Meter(ledger, "work", "acme")
    handles = [ObjectWriter(own(DOCUMENTS), endpoints, meter), TableWriter(own(FEEDBACK_ROWS), endpoints, meter)]
    handles += [topic[0].with_meter(meter), FileWriter(own(KV_CACHE), endpoints, meter)]
    handles += [VectorWriter(own(CHUNKS), endpoints, meter).for_generation(2)]

    def use(handles: list[Any], number: int) -> list[Any]:
        objects, table, topic, files, vectors = handles
        objects.put(f"{number}", b"a")
        files.write(f"{number}", b"a")
        vectors.upsert(chunks(chunk(f"{number}", "the wheel turns", number)))
        table.append(rows(number))
        return [objects.get("0"), files.read("0"), vectors.count(), table.count(), topic.append(events(number), key="answer_id")]

    assert use(handles, 0) == [b"a", b"a", 1, 1, [(0, 0)]]
    before = ledger.rows()
    sent, theirs = pickle.loads(pickle.dumps((handles, ledger)))
    assert theirs.rows() == [], "what was counted here is not sent along"
    assert use(sent, 1) == [b"a", b"a", 2, 2, [(0, 1)]]
    assert sent[-1].generation == 2
    assert ledger.rows() == before, "what they do there is counted there"
    there = {(row.store, row.direction): row for row in theirs.rows()}
    assert {store for store, _ in there} == {row.store for row in before} == {handle.store.name for handle in handles}
    ledger.fold(json.loads(json.dumps(theirs.export())))
    here = {(row.store, row.direction): row for row in before}
    for row in ledger.rows():
        parts = [ours[row.store, row.direction] for ours in (here, there) if (row.store, row.direction) in ours]
        assert (row.ops, row.bytes) == (sum(part.ops for part in parts), sum(part.bytes for part in parts))
        assert (row.stage, row.tenant) == ("work", "acme")
