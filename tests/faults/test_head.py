"""The head into the tables when records are bad, landers race and answers get lost: each event is in its table once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from wire import wire

from headrace.catalog import DEAD_LETTERS, FEEDBACK, FEEDBACK_ROWS
from headrace.errors import LostRace
from headrace.head.land import Landed, land
from headrace.head.position import mark_name
from headrace.pipeline.run import Run
from headrace.pipeline.runner import Runner
from headrace.platform import open_platform
from headrace.settings import Settings
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.records import batch
from headrace.storage.tables import TableReader, TableWriter
from headrace.storage.topics import TopicReader

BIG = b"\xff" * (1 << 20)


@pytest.fixture
def endpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoints]:
    monkeypatch.setenv("HEADRACE_SETTINGS", str(tmp_path / "none.toml"))
    with open_platform(Settings(home=tmp_path / "home"), parts=frozenset({"objects", "head"})) as endpoints:
        yield endpoints


def verdict(number: int, **other: Any) -> dict[str, Any]:
    return {
        "verdict_id": f"v{number}",
        "answer_id": f"a{number}",
        "tenant": "default",
        "user": "u",
        "simulated": True,
        "up": True,
        "chunk_id": "",
        "reason": "",
        "correction": "",
        "at": "2026-01-01T00:00:00+00:00",
        **other,
    }


def good(number: int) -> bytes:
    return json.dumps(verdict(number)).encode()


def produce(endpoints: Endpoints, values: list[bytes | None]) -> None:
    """Put values on the feedback topic as they are, whatever they are, and see each acknowledged."""
    TopicReader(FEEDBACK, endpoints, Meter(Ledger(), "test")).ensure()
    producer = Producer({"bootstrap.servers": endpoints.kafka_bootstrap, "acks": "all", "message.max.bytes": 4 << 20})
    failures: list[Any] = []
    for number, value in enumerate(values):
        key = b"\xfe\x00" if value is None else f"k{number}".encode()
        producer.produce(FEEDBACK.name, value, key, on_delivery=lambda error, _: failures.append(error) if error else None)
    assert producer.flush(20) == 0
    assert failures == []


def landing(endpoints: Endpoints, tmp_path: Path) -> Landed:
    landed: Landed = Runner(Run("land", tmp_path), endpoints).run(land)
    return landed


def table(endpoints: Endpoints, store: Any = FEEDBACK_ROWS) -> TableReader:
    return TableReader(store, endpoints, Meter(Ledger(), "test"))


def offsets(endpoints: Endpoints) -> list[int]:
    return sorted(table(endpoints).read(("offset",))["offset"].to_pylist())


def snapshots(endpoints: Endpoints) -> int:
    loaded = table(endpoints).format.load()
    return len(loaded.metadata.snapshots) if loaded else 0


def test_records_that_cannot_be_read_are_kept_with_their_bytes_and_the_good_ones_land(
    endpoints: Endpoints, tmp_path: Path
) -> None:
    missing = verdict(0)
    del missing["up"]
    bad: list[tuple[bytes | None, str]] = [
        (b"{not json", "not JSON"),
        (json.dumps(missing).encode(), "'up' is missing"),
        (json.dumps(verdict(0, up="yes")).encode(), "wrong type"),
        (json.dumps(verdict(0, at="yesterday")).encode(), "ISO 8601"),
        (json.dumps(verdict(0, at="2026-01-01T00:00:00")).encode(), "no time zone"),
        (json.dumps(verdict(0, reason="\ud800")).encode(), "wrong type"),
        (b"[1, 2]", "object is wanted"),
        (b"null", "object is wanted"),
        (b"[" * 100_000, "not JSON"),
        (b"", "not JSON"),
        (None, "no value"),
        (BIG, "not JSON"),
    ]
    values: list[bytes | None] = []
    for number, (value, _) in enumerate(bad):
        values += [good(number), value]
    produce(endpoints, [*values, good(99)])

    landed = landing(endpoints, tmp_path)
    assert landed.events["feedback"] == len(bad) + 1
    assert landed.dead == len(bad)
    assert offsets(endpoints) == [*range(0, 2 * len(bad), 2), 2 * len(bad)]
    letters = sorted(table(endpoints, DEAD_LETTERS).read().to_pylist(), key=lambda row: row["offset"])
    assert [row["offset"] for row in letters] == list(range(1, 2 * len(bad), 2))
    for letter, (value, reason) in zip(letters, bad, strict=True):
        assert letter["value"] == (value or b"")
        assert reason in letter["reason"], letter["reason"]
        assert len(letter["reason"]) < 500
        assert letter["topic"] == "feedback"
    assert next(row["key"] for row in letters if "no value" in row["reason"]) == b"\xfe\x00"

    # Twice changes nothing, not even a snapshot.
    before = snapshots(endpoints)
    again = landing(endpoints, tmp_path)
    assert (again.total, again.dead) == (0, 0)
    assert snapshots(endpoints) == before
    assert table(endpoints, DEAD_LETTERS).count() == len(bad)


def test_a_lander_that_was_overtaken_is_refused_and_lands_nothing_twice(endpoints: Endpoints, tmp_path: Path) -> None:
    produce(endpoints, [good(0), good(1)])
    landing(endpoints, tmp_path)
    produce(endpoints, [good(2), good(3), b"bad"])
    overtaking: list[Landed] = []

    def overtake() -> None:
        overtaking.append(landing(endpoints, tmp_path))

    # The first lander has fetched, written its files and is about to commit when the second one lands it all.
    with wire(endpoints.catalog_uri, rb"POST \S+/tables/feedback ", asked=overtake) as between:
        slow = endpoints.model_copy(update={"catalog_uri": between.url})
        landed = landing(slow, tmp_path)
    assert landed.events["feedback"] == 0, "what the other one landed"
    assert [found.events["feedback"] for found in overtaking] == [2]
    assert offsets(endpoints) == [0, 1, 2, 3]
    assert table(endpoints).mark(mark_name("feedback", 0))["next"] == 5
    assert table(endpoints, DEAD_LETTERS).read(("offset",))["offset"].to_pylist() == [4]
    assert landing(endpoints, tmp_path).total == 0


def test_marks_expected_of_a_table_are_compared_before_anything_is_written(endpoints: Endpoints) -> None:
    def writer() -> TableWriter:
        return TableWriter(FEEDBACK_ROWS, endpoints, Meter(Ledger(), "test"))

    origin = {"topic": "feedback", "partition": 0}
    rows = batch(FEEDBACK_ROWS.columns, [{**verdict(0), "at": None, **origin, "offset": 0}][:0])
    writer().append(rows, marks={"offsets": {"0": 1}}, expected={"offsets": None})
    standing = snapshots(endpoints)
    with pytest.raises(LostRace):
        writer().append(rows, marks={"offsets": {"0": 2}}, expected={"offsets": None})
    assert snapshots(endpoints) == standing
    assert table(endpoints).mark("offsets") == {"0": 1}


def test_a_commit_whose_answer_was_lost_is_not_made_twice(endpoints: Endpoints, tmp_path: Path) -> None:
    produce(endpoints, [good(0)])
    landing(endpoints, tmp_path)
    before = snapshots(endpoints)
    produce(endpoints, [good(1), good(2)])
    with wire(endpoints.catalog_uri, rb"POST \S+/tables/feedback ", answered=lambda: False) as between:
        landed = landing(endpoints.model_copy(update={"catalog_uri": between.url}), tmp_path)
    assert between.met == 1, "the commit was sent again"
    assert landed.events["feedback"] == 2
    assert offsets(endpoints) == [0, 1, 2]
    assert snapshots(endpoints) == before + 1


def test_a_commit_that_never_arrived_is_made_once(endpoints: Endpoints, tmp_path: Path) -> None:
    produce(endpoints, [good(0)])
    landing(endpoints, tmp_path)
    produce(endpoints, [good(1)])

    def lose() -> None:
        raise ConnectionResetError

    with wire(endpoints.catalog_uri, rb"POST \S+/tables/feedback ", asked=lose) as between:
        landed = landing(endpoints.model_copy(update={"catalog_uri": between.url}), tmp_path)
    assert between.met == 2
    assert landed.events["feedback"] == 1
    assert offsets(endpoints) == [0, 1]
