"""The head at its boundaries: the first record of all, the first after a commit, the block after one that failed, and how much
of it is how near to being forgotten."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.expressions import EqualTo
from pyiceberg.transforms import IdentityTransform
from signed import signed

from headrace.catalog import DEAD_LETTERS, EXTRA, FEEDBACK, ORIGIN_COLUMNS, Store, Tier
from headrace.core.run import Run
from headrace.core.runner import Runner
from headrace.errors import Permanent, Transient, Unavailable
from headrace.landing.backlog import Backlog, backlog
from headrace.landing.land import Following, Landed, land
from headrace.landing.positions import property_name
from headrace.platform import open_platform
from headrace.settings import LandingSettings, Maintenance, Settings
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.tables.handles import TableReader, TableWriter
from headrace.storage.tables.iceberg.append import IcebergAppend

_NUMBER = pa.field("n", pa.int64(), nullable=False)


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    folder = tmp_path_factory.mktemp("boundaries")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SETTINGS", str(folder / "none.toml"))
        with open_platform(Settings(home=folder / "home"), parts=frozenset({"objects", "head"})) as endpoints:
            yield endpoints


class Numbers:
    """A topic of numbers with one partition, and the table that it lands in."""

    def __init__(self, endpoints: Endpoints, folder: Path, name: str) -> None:
        self.topic = Store(name, Tier.STREAM, "a number", "until landed", pa.schema([_NUMBER]), partitions=1)
        origin = [field.with_nullable(False) for field in ORIGIN_COLUMNS]
        self.rows = Store(name, Tier.TABLE, "one row per number", "archive", pa.schema([_NUMBER, *origin, EXTRA]))
        self.stage = land.over(topics=[self.topic], tables=[self.rows])
        self.run = Run("land", folder)
        self._endpoints, self._folder = endpoints, folder
        produced(endpoints, self.topic.name, [], partitions=1)

    def put(self, *values: object) -> None:
        produced(self._endpoints, self.topic.name, [v if isinstance(v, bytes) else json.dumps({"n": v}).encode() for v in values])

    def land(self, **words: Any) -> Landed:
        landed: Landed = Runner(self.run, self._endpoints).run(self.stage, **words)
        return landed

    def landed(self) -> list[tuple[int, int]]:
        """Offset and number of each row."""
        found = reader(self._endpoints, self.rows).read(("offset", "n")).to_pylist()
        return sorted((row["offset"], row["n"]) for row in found)

    def buried(self) -> list[tuple[int, bytes]]:
        """Offset and value of each dead letter."""
        found = reader(self._endpoints, DEAD_LETTERS).read(("topic", "offset", "value")).to_pylist()
        return sorted((row["offset"], row["value"]) for row in found if row["topic"] == self.topic.name)


def reader(endpoints: Endpoints, store: Store) -> TableReader:
    return TableReader(store, endpoints, Meter(Ledger(), "test"))


def produced(
    endpoints: Endpoints, topic: str, values: Sequence[bytes], *, age_s: float = 0.0, partitions: int = 0, **settings: str
) -> None:
    """Make a topic with these settings if `partitions` is given, and put values on it that say they are so old."""
    if partitions:
        admin = AdminClient({"bootstrap.servers": endpoints.kafka_bootstrap})
        settings = {name.replace("_", "."): value for name, value in settings.items()}
        admin.create_topics([NewTopic(topic, num_partitions=partitions, config=settings)])[topic].result(20)
    producer = Producer({"bootstrap.servers": endpoints.kafka_bootstrap, "acks": "all"})
    failed: list[object] = []
    for value in values:
        at_ms = int((time.time() - age_s) * 1000)
        producer.produce(
            topic,
            value,
            b"k",
            timestamp=at_ms,
            on_delivery=lambda error, _: failed.append(error) if error else None,
            headers=signed(endpoints, topic, value, b"k"),
        )
    assert producer.flush(20) == 0
    assert failed == []


# landing


def test_the_first_record_of_all_and_the_first_after_a_burial_are_buried_too(endpoints: Endpoints, tmp_path: Path) -> None:
    numbers = Numbers(endpoints, tmp_path, "first-bad")
    numbers.put(b"bad 0")
    assert (numbers.land().total, numbers.buried()) == (0, [(0, b"bad 0")])
    numbers.put(b"bad 1", 2, b"bad 3")
    landed = numbers.land()
    assert (landed.total, landed.dead) == (1, 2)
    assert numbers.buried() == [(0, b"bad 0"), (1, b"bad 1"), (3, b"bad 3")]
    numbers.put(4, b"bad 5")
    numbers.land()
    assert numbers.landed() == [(2, 2), (4, 4)]
    assert [offset for offset, _ in numbers.buried()] == [0, 1, 3, 5]


def test_a_block_is_not_committed_where_the_one_before_it_was_not(
    endpoints: Endpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, within: Any
) -> None:
    """The second is fetched, and as large as a commit may be, while the first is being committed, and that fails."""
    numbers = Numbers(endpoints, tmp_path, "blocks")
    failed: list[str] = []
    commit = IcebergAppend.commit

    def fetches() -> int:
        return sum(row.ops for row in numbers.run.ledger.rows() if row.tier == "stream" and row.direction == "read")

    def first_fails(append: IcebergAppend, properties: Any, expected: Any) -> int:
        if property_name(numbers.topic.name, 0) not in properties or failed:
            return commit(append, properties, expected)
        numbers.put(1)
        assert within(20, lambda: fetches() >= 2)
        time.sleep(0.2)  # for a lander that would hand in the second block meanwhile: ours waits for the first
        append.discard()
        failed.append("the first")
        raise Unavailable("The first commit did not get through.")

    monkeypatch.setattr(IcebergAppend, "commit", first_fails)
    numbers.put(0)
    waited: list[Transient] = []
    following = Following(threading.Event(), waiting=lambda _, error: waited.append(error))
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(numbers.land, settings=LandingSettings(commit_rows=1), following=following)
        try:
            name = property_name(numbers.topic.name, 0)
            assert within(30, lambda: (reader(endpoints, numbers.rows).snapshot_property(name) or {}).get("next") == 2)
        finally:
            following.stop.set()
        assert done.result().events == {"blocks": 2}
    assert numbers.landed() == [(0, 0), (1, 1)]
    assert [error.message for error in waited] == ["The first commit did not get through."]


def test_rows_land_in_a_table_that_another_tool_has_partitioned(endpoints: Endpoints, tmp_path: Path) -> None:
    numbers = Numbers(endpoints, tmp_path, "partitioned")
    numbers.put(0, 1, 2)
    numbers.land()
    other = RestCatalog("other", uri=endpoints.catalog_uri, warehouse=endpoints.warehouse, **endpoints.catalog_properties)
    with other.load_table(("headrace", "partitioned")).update_spec() as spec:
        spec.add_field("n", IdentityTransform(), "n_is")
    numbers.put(1, b"bad", 2, 1)
    landed = numbers.land(settings=LandingSettings(commit_rows=2))
    assert (landed.total, landed.dead) == (3, 1)
    assert numbers.landed() == [(0, 0), (1, 1), (2, 2), (3, 1), (5, 2), (6, 1)]
    assert numbers.land().total == 0, "the position went with them"
    # Who asks for one partition is given its files alone: rows that were put in another would not be found.
    table = other.load_table(("headrace", "partitioned"))
    for n, offsets in ((0, [0]), (1, [1, 3, 6]), (2, [2, 5])):
        assert sorted(table.scan(EqualTo("n", n)).to_arrow()["offset"].to_pylist()) == offsets
    new = [one for one in table.inspect.files().to_pylist() if one["spec_id"] == table.spec().spec_id]
    assert sorted((one["partition"]["n_is"], one["record_count"]) for one in new) == [(1, 2), (2, 1)]
    # Its files are not ours to lay out anew: maintenance leaves them, and whoever wants rows out of them is told.
    writer = TableWriter(numbers.rows, endpoints, Meter(Ledger(), "test"))
    kept = writer.maintain(Maintenance(merge=2))
    assert kept is not None
    assert kept.merged == 0
    with pytest.raises(Permanent, match="Table partitioned is partitioned or has delete files: another tool writes to it"):
        writer.rewrite(("n",), lambda rows: pc.equal(rows["n"], 1))
    assert len(numbers.landed()) == 6


# what only the head has

RETENTION_S = 10_000.0


def test_the_backlog_counts_estimates_and_warns_at_half_the_retention(endpoints: Endpoints, tmp_path: Path) -> None:
    def verdict(n: int) -> bytes:
        row = dict.fromkeys(FEEDBACK.columns.names, "") | {"verdict_id": f"{n:06}", "at": "2026-01-01T00:00:00+00:00"}
        return json.dumps({**row, "simulated": True, "up": True, "consent": None}).encode()

    def seen() -> Backlog:
        (one,) = [one for one in Runner(Run("head", tmp_path), endpoints).run(backlog) if one.topic == FEEDBACK.name]
        return one

    def put(first: int, last: int, age_s: float) -> None:
        produced(endpoints, FEEDBACK.name, [verdict(n) for n in range(first, last)], age_s=age_s)

    produced(endpoints, FEEDBACK.name, [], partitions=1, retention_ms=str(int(RETENTION_S * 1000)))
    # A little is counted, byte by byte.
    put(0, 7, age_s=0.0)
    few, size = seen(), len(verdict(0))
    assert (few.landed, few.end, few.lag, few.bytes, few.estimated) == (0, 7, 7, 7 * size, False)
    assert (few.retention_s, few.trouble) == (RETENTION_S, "")
    Runner(Run("land", tmp_path), endpoints).run(land)
    # Of much the first thousand are looked at: how many there are is known all the same, and of bytes it says that it guesses.
    put(7, 2_507, age_s=0.49 * RETENTION_S)
    many = seen()
    assert (many.low, many.landed, many.end, many.lag) == (0, 7, 2_507, 2_500)
    assert (many.bytes, many.estimated) == (2_500 * size, True)
    assert many.oldest_s == pytest.approx(0.49 * RETENTION_S, abs=60)
    assert many.trouble == "", "not half way yet"
    # What has landed may be forgotten; of what has not the oldest counts, which is the first.
    Runner(Run("land", tmp_path), endpoints).run(land)
    put(2_507, 2_508, age_s=0.51 * RETENTION_S)
    put(2_508, 2_509, age_s=0.0)
    late = seen()
    assert late.lag == 2
    assert late.trouble == "The oldest event that has not landed is at 51% of the broker's retention: headrace land"
