"""Events that another program of this machine writes to the embedded head: none lands, and none holds anything up."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import obstore
import pyarrow as pa
import pytest
import rude
from confluent_kafka import Consumer, Producer, TopicPartition
from signed import signed
from traffic import until
from words import words

from headrace.answering.record import Verdict, feedback
from headrace.catalog import (
    CHUNKS,
    DEAD_LETTERS,
    DOCUMENT_EVENT_ROWS,
    DOCUMENT_EVENTS,
    DOCUMENT_ROWS,
    FEEDBACK,
    FEEDBACK_ROWS,
    Store,
)
from headrace.core.run import Run
from headrace.core.runner import Runner
from headrace.documents.index import catch_up
from headrace.documents.lookup import DocumentLookup
from headrace.documents.names import document_id
from headrace.documents.put import put_document
from headrace.landing.dead_letters import reland
from headrace.landing.land import Landed, land
from headrace.landing.positions import property_name
from headrace.platform import open_platform
from headrace.settings import Settings
from headrace.storage.meter import Meter
from headrace.storage.signature import HEADER, UNSIGNED
from headrace.storage.stream.reader import TopicReader
from headrace.storage.tables.handles import TableReader, TableWriter
from headrace.storage.vectors.handles import VectorReader
from headrace.storage.vectors.labels import Description

Headers = list[tuple[str, bytes]]
TEXT = b"# Pay\n\nThe boss earns ninety-nine guineas a week."


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    folder = tmp_path_factory.mktemp("forged")
    with words() as endpoint, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SETTINGS", str(folder / "none.toml"))
        chosen = Settings(home=folder / "home", models=endpoint.models)
        with open_platform(chosen, parts=frozenset({"objects", "head"})) as endpoints:
            yield Runner(Run("test", folder), endpoints)


def reader(runner: Runner, store: Store) -> TableReader:
    return TableReader(store, runner.endpoints, Meter(runner.record.ledger, "test"))


def current(runner: Runner) -> tuple[dict[str, str], dict[str, Description]]:
    """What answers of all documents, and how the index describes them."""
    lookup = DocumentLookup(runner.metadata, reader(runner, DOCUMENT_ROWS))
    lookup.follow()
    return lookup.current()


def unsigned(runner: Runner) -> int:
    """How many dead letters are there for want of a signature."""
    reasons = reader(runner, DEAD_LETTERS).read(("reason",))["reason"].to_pylist()
    return sum(reason.startswith(UNSIGNED) for reason in reasons)


def index(runner: Runner) -> None:
    catch_up(runner, Settings().inference)


def intrude(runner: Runner, topic: Store, event: dict[str, Any], headers: Headers, key: bytes | None = None) -> None:
    """What any program of the machine can do: it needs the port only."""
    producer = Producer({"bootstrap.servers": runner.endpoints.kafka_bootstrap, "linger.ms": 0})
    producer.produce(topic.name, json.dumps(event).encode(), key, headers=headers)
    assert producer.flush(30) == 0


def document_event(**changed: Any) -> dict[str, Any]:
    event = {"event_id": "forged", "kind": "put", "tenant": "acme", "uri": "pay.md", "sha256": hashlib.sha256(TEXT).hexdigest()}
    return {**event, "bytes": len(TEXT), "reason": "", "at": datetime.now(UTC).isoformat(), "readers": [], **changed}


def verdict(**changed: Any) -> dict[str, Any]:
    event = {"verdict_id": "forged", "answer_id": "a", "tenant": "acme", "user": "ceo", "simulated": False, "up": True}
    return {**event, "chunk_id": "", "reason": "", "correction": "", "at": datetime.now(UTC).isoformat(), **changed}


def forgeries(runner: Runner, topic: Store, event: dict[str, Any]) -> list[Headers]:
    """No signature; one of another key, of another topic, of another event; a right one twice; an empty one; one that is none."""
    value = json.dumps(event).encode()
    other = runner.endpoints.model_copy(update={"signing_key": "0" * 64})
    (right,) = signed(runner.endpoints, topic.name, value)
    return [
        [],
        signed(other, topic.name, value),
        signed(runner.endpoints, f"{topic.name}2", value),
        signed(runner.endpoints, topic.name, value + b" "),
        signed(runner.endpoints, topic.name, value, b"another key"),
        [right, right],
        [(HEADER, b"")],
        [(HEADER.upper(), right[1])],
    ]


def test_a_closed_document_is_neither_opened_nor_deleted_and_nobody_speaks_for_another(runner: Runner) -> None:
    runner.run(put_document, tenant="acme", uri="pay.md", data=TEXT, readers=["boss"])
    runner.run(land)
    before = unsigned(runner)
    attacks = [
        (topic, event, headers)
        for topic, event in (
            (DOCUMENT_EVENTS, document_event()),
            (DOCUMENT_EVENTS, document_event(kind="delete", sha256="", bytes=0)),
            (FEEDBACK, verdict(answer_id="judged")),
        )
        for headers in forgeries(runner, topic, event)
    ]
    for attack in attacks:
        intrude(runner, *attack)
    runner.run(feedback, verdicts=[Verdict("judged", True, "acme", "ann")])
    landed: Landed = runner.run(land)
    assert (landed.events["feedback"], landed.events["document-events"], landed.dead) == (1, 0, len(attacks))
    index(runner)
    pay = document_id("acme", "pay.md")
    live, described = current(runner)
    assert described[pay].readers == ("boss",)
    assert pay in live
    vectors = VectorReader(CHUNKS, runner.endpoints, Meter(runner.record.ledger, "test"))
    assert vectors.fulltext("guineas", tenant="acme", most=5) == []
    assert [hit.uri for hit in vectors.fulltext("guineas", tenant="acme", most=5, readers=["boss"])] == ["pay.md"]
    assert reader(runner, FEEDBACK_ROWS).read(("user",), "answer_id = 'judged'")["user"].to_pylist() == ["ann"]
    assert unsigned(runner) - before == len(attacks)


def test_a_header_that_no_client_can_read_holds_nothing_up(runner: Runner) -> None:
    """Its name is no UTF-8: our client fails at it, and asked again hands out a null pointer. It used to end landing for good."""
    runner.run(land)
    rude.produce(runner.endpoints, FEEDBACK.name, rude.batch(rude.record(b"{}", headers=[(b"\xff\xfe", b"?")])))
    runner.run(feedback, verdicts=[Verdict("rude", True, "acme", "ann")])
    landed: Landed = runner.run(land)
    assert (landed.events["feedback"], landed.dead) == (1, 1)


SNAPPY = b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1)  # the frame that Java's clients put around it
UNREADABLE = {
    "gzip": rude.batch(b"\x1f\x8bno gzip", attributes=1, count=1),
    "zstd": rude.batch(b"\x28\xb5\x2f\xfdno zstd", attributes=4, count=1),
    "no records": rude.batch(b"\xff" * 40, count=3),
    "old magic": rude.batch(rude.record(b"{}"), magic=1),
    "new magic": rude.batch(rude.record(b"{}"), magic=9),
    "fewer than it says": rude.batch(rude.record(b"{}"), count=5),
    "more than it says": rude.batch(rude.record(b"{}"), rude.record(b"{}", delta=1), count=1),
    "a mark that is none": rude.batch(rude.record(b"{}"), attributes=0x20),
    "all attributes": rude.batch(rude.record(b"{}"), attributes=-8),
    "a piece of Snappy that is none": rude.batch(SNAPPY + b"\xff\xff\xff\xff" + b"?", attributes=2, count=1),
    "good, then none": rude.batch(rude.record(b"{}"), b"\xff" * 40, count=2),
    "good, then another that is none": rude.batch(rude.record(b"{}")) + rude.batch(b"\xff" * 40, count=1),
}


def test_batches_that_no_client_can_read_hold_nothing_up(runner: Runner) -> None:
    """Tansu takes them and hands them out; our client meets them with an error or with silence, each time it comes to them."""
    runner.run(land)
    before = reader(runner, DEAD_LETTERS).read().num_rows
    for number, made in enumerate(UNREADABLE.values()):
        rude.produce(runner.endpoints, FEEDBACK.name, made)
        runner.run(feedback, verdicts=[Verdict(f"unread-{number}", True, "acme", "ann")])
    end = time.monotonic() + 60
    while (kept := reader(runner, FEEDBACK_ROWS).read(("answer_id",), "answer_id like 'unread-%'").num_rows) < len(UNREADABLE):
        assert time.monotonic() < end, kept
        runner.run(land)
    letters = reader(runner, DEAD_LETTERS).read().to_pylist()
    assert len(letters) - before >= len(UNREADABLE)
    assert any(b"no gzip" in row["value"] for row in letters), "what was there is kept"


def test_who_had_read_to_the_end_is_held_up_by_none_that_come_then(runner: Runner) -> None:
    runner.run(land)
    topic = TopicReader(FEEDBACK, runner.endpoints, Meter(runner.record.ledger, "test"))
    with closing(topic.read({partition: span.end for partition, span in topic.spans().items()}, follow=True)) as following:
        quiet = 0
        while quiet < 8:  # the end that the head tells may be low
            quiet = 0 if next(following) else quiet + 1
        wanted = []
        for kind in ("gzip", "a mark that is none"):
            rude.produce(runner.endpoints, FEEDBACK.name, UNREADABLE[kind])
            wanted += runner.run(feedback, verdicts=[Verdict("at-the-end", True, "acme", "ann")])
        end = time.monotonic() + 60
        while wanted:
            assert time.monotonic() < end, wanted
            fetched = next(following)
            wanted = [place for place in wanted if place not in zip(fetched.partitions, fetched.offsets, strict=True)]


def test_a_batch_that_was_rewritten_leaves_no_gap(runner: Runner) -> None:
    """By Tansu's own word a partition begins at the batch that was written longest ago."""
    runner.run(land)
    for _ in range(3):
        rude.produce(runner.endpoints, FEEDBACK.name, rude.batch(rude.record(b"{}")))
    topic = TopicReader(FEEDBACK, runner.endpoints, Meter(runner.record.ledger, "test"))
    records = topic._tansu_records()
    assert records is not None
    time.sleep(1.1)  # the store's times are whole seconds
    for _, path, size in records._batches(0)[:-1]:
        obstore.put(records._client, path, records._beginning(path, size))
    consumer = Consumer({"bootstrap.servers": runner.endpoints.kafka_bootstrap, "group.id": "spy"})
    place = TopicPartition(FEEDBACK.name, 0)
    until(60, lambda: consumer.get_watermark_offsets(place, timeout=5)[0] > 0, lambda: "the head says nothing wrong", every_s=0.5)
    consumer.close()
    assert topic.spans()[0].low == 0
    assert not runner.run(land).divergences


def fetched_end(runner: Runner, at: int) -> int:
    """Where a fetch from this offset on says that partition 0 ends."""
    consumer = Consumer({"bootstrap.servers": runner.endpoints.kafka_bootstrap, "group.id": "spy"})
    try:
        place = TopicPartition(FEEDBACK.name, 0, at)
        consumer.assign([place])
        consumer.poll(1.0)
        return int(consumer.get_watermark_offsets(place, cached=True)[1])
    finally:
        consumer.close()


def test_offsets_that_no_record_got_hold_nothing_up(runner: Runner) -> None:
    """Tansu counts a batch before it stores it; killed in between it reports an end that is never reached."""
    runner.run(feedback, verdicts=[Verdict("before-the-hole", True, "acme", "ann")])
    runner.run(land)
    topic = TopicReader(FEEDBACK, runner.endpoints, Meter(runner.record.ledger, "test"))
    records = topic._tansu_records()
    assert records is not None
    for partition in topic.spans():
        path = records._watermark(partition)
        watermark, _ = records._read(path)
        obstore.put(records._client, path, json.dumps(watermark | {"high": int(watermark["high"] or 0) + 3}).encode())
    end = records._batches(0)[-1][0] + 1
    until(60, lambda: fetched_end(runner, end) > end, lambda: "the head knows of no hole")
    began = time.monotonic()
    assert runner.run(land).events["feedback"] == 0
    assert time.monotonic() - began < 15
    runner.run(feedback, verdicts=[Verdict("behind-the-hole", True, "acme", "ann")])
    assert runner.run(land).events["feedback"] == 1


def test_a_batch_that_would_fill_the_memory_is_not_unpacked_at_the_next_start(runner: Runner) -> None:
    runner.run(land)
    packed = gzip.compress(rude.record(bytes(80 << 20)), 1)
    assert len(packed) < 500_000
    rude.produce(runner.endpoints, FEEDBACK.name, rude.batch(packed, attributes=1, count=1))
    again = Runner(runner.record, runner.endpoints)  # as a process does that begins anew
    end = time.monotonic() + 60
    while not (kept := [row for row in reader(runner, DEAD_LETTERS).read().to_pylist() if packed[:64] in row["value"]]):
        assert time.monotonic() < end
        again.run(land)
    assert len(kept[0]["value"]) < 100_000, "its beginning is kept"


LANDING = """
import sys
from pathlib import Path
from headrace.core.run import Run
from headrace.core.runner import Runner
from headrace.landing.land import land
from headrace.storage.endpoints import Endpoints
Runner(Run("test", Path(sys.argv[2])), Endpoints.model_validate_json(sys.argv[1])).run(land)
"""


def test_batches_that_end_or_hang_a_client_do_so_to_none_that_is_started(runner: Runner, tmp_path: Path) -> None:
    """librdkafka aborts its process at a batch that unpacks to nothing, and rounds in a circle at gzip that is cut off."""
    runner.run(feedback, verdicts=[Verdict("before-them", True, "acme", "ann")])
    runner.run(land)  # what is read first, the record that landed last, stands in front of them
    whole = gzip.compress(rude.record(b"{}"))
    lz4 = pa.BufferOutputStream()
    with pa.CompressedOutputStream(lz4, "lz4") as packing:
        packing.write(rude.record(b"{}"))
    for codec, packed in ((1, gzip.compress(b"")), (1, whole[:-1]), (1, b""), (3, lz4.getvalue().to_pybytes()[:-8])):
        rude.produce(runner.endpoints, FEEDBACK.name, rude.batch(packed, attributes=codec, count=1))
    runner.run(feedback, verdicts=[Verdict("behind-them", True, "acme", "ann")])
    command = [sys.executable, "-c", LANDING, runner.endpoints.model_dump_json(), str(tmp_path)]
    end = time.monotonic() + 100
    while not reader(runner, FEEDBACK_ROWS).read(where="answer_id = 'behind-them'").num_rows:
        assert time.monotonic() < end
        assert subprocess.run(command, timeout=60).returncode == 0


def test_batches_that_are_compressed_well_land_as_they_are(runner: Runner) -> None:
    """A producer of one's own signs, and may compress, too; only who looks closely can tell it from a batch that is none."""
    runner.run(land)
    for codec in ("gzip", "snappy", "lz4", "zstd"):
        producer = Producer({"bootstrap.servers": runner.endpoints.kafka_bootstrap, "compression.type": codec, "linger.ms": 50})
        for number in range(20):
            event = verdict(verdict_id=f"{codec}-{number}", answer_id="compressed", reason="so it is said " * 20)
            value = json.dumps(event).encode()
            producer.produce(FEEDBACK.name, value, headers=signed(runner.endpoints, FEEDBACK.name, value))
        assert producer.flush(30) == 0
    topic = TopicReader(FEEDBACK, runner.endpoints, Meter(runner.record.ledger, "test"))
    for compressed in (False, True):
        assert topic._rewrite_foreign({0: 0}, compressed=compressed) == 0
    runner.run(land)
    assert reader(runner, FEEDBACK_ROWS).read(where="answer_id = 'compressed'").num_rows == 80


def test_a_topic_that_is_read_to_its_end_is_not_looked_through(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lander that follows a quiet head asks the object store for nothing."""
    monkeypatch.setattr("headrace.storage.stream.reader._STUCK_S", 0.1)
    looks = []
    monkeypatch.setattr(TopicReader, "_rewrite_foreign", lambda self, reached, compressed=False: looks.append(compressed) or 0)
    topic = TopicReader(FEEDBACK, runner.endpoints, Meter(runner.record.ledger, "test"))
    quiet = [fetched for fetched, _ in zip(topic.read(dict.fromkeys(topic.spans(), 0), follow=True), range(20), strict=False)]
    assert len([fetched for fetched in quiet if not fetched]) > 8
    assert looks == [True], "once, when it begins"


def test_dead_letters_without_a_signature_land_only_when_somebody_says_so(runner: Runner) -> None:
    runner.run(land)
    event = verdict(verdict_id="of-a-producer-of-ours", answer_id="b")
    intrude(runner, FEEDBACK, event, [])
    runner.run(land)
    assert runner.run(reland).events["feedback"] == 0
    wanted = f"verdict_id = '{event['verdict_id']}'"
    assert reader(runner, FEEDBACK_ROWS).read(where=wanted).num_rows == 0
    runner.run(reland, unsigned=True)
    assert reader(runner, FEEDBACK_ROWS).read(where=wanted).num_rows == 1


def test_a_signed_event_that_is_written_again_undoes_nothing(runner: Runner) -> None:
    """Who can read the topic can write what he read once more, signature and all."""
    put = {"tenant": "acme", "uri": "plan.md", "data": b"# Plan\n\nWe sell the mill."}
    opened = runner.run(put_document, **put, readers=[])
    index(runner)
    runner.run(put_document, **put, readers=["boss"])
    index(runner)
    spy = Consumer({"bootstrap.servers": runner.endpoints.kafka_bootstrap, "group.id": "spy", "auto.offset.reset": "earliest"})
    spy.assign([TopicPartition(DOCUMENT_EVENTS.name, opened.partition, opened.offset)])
    (caught,) = spy.consume(1, timeout=20)
    spy.close()
    assert json.loads(caught.value())["readers"] == []
    producer = Producer({"bootstrap.servers": runner.endpoints.kafka_bootstrap})
    producer.produce(DOCUMENT_EVENTS.name, caught.value(), caught.key(), headers=caught.headers())
    assert producer.flush(30) == 0
    index(runner)
    plan = document_id("acme", "plan.md")
    landed = reader(runner, DOCUMENT_EVENT_ROWS).read(where="uri = 'plan.md'").num_rows
    assert landed == 3, "it is as signed as the first one"
    assert current(runner)[1][plan].readers == ("boss",)


def test_a_home_from_before_there_were_signatures_lands_what_it_had_and_nothing_unsigned_after(runner: Runner) -> None:
    """The position says from where on; it is noted at once, so that a quiet topic has no window in which anything goes."""
    plain = Runner(runner.record, runner.endpoints.model_copy(update={"signing_key": ""}))
    plain.run(feedback, verdicts=[Verdict("old", True, "acme", "ann", verdict_id="landed-before")])
    plain.run(land)
    table = TableWriter(FEEDBACK_ROWS, runner.endpoints, Meter(runner.record.ledger, "test"))
    name = property_name(FEEDBACK.name, 0)
    table.append(table.read().slice(0, 0), properties={name: {**table.snapshot_property(name), "signed": None}}, expected={})
    plain.run(feedback, verdicts=[Verdict("old", True, "acme", "ann", verdict_id="was-there")])
    assert runner.run(land).events["feedback"] == 1
    intrude(runner, FEEDBACK, verdict(verdict_id="came-after"), [])
    assert runner.run(land).events["feedback"] == 0
    found = reader(runner, FEEDBACK_ROWS).read(("verdict_id",))["verdict_id"].to_pylist()
    assert "was-there" in found
    assert "came-after" not in found
