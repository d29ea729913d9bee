"""The ledger's promise: its bytes are those that the storage itself counted. test_demo.py has it for a whole demo."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from object_store import settled

from headrace.catalog import CHECKPOINTS, CHUNKS, DIMENSIONS, FEEDBACK
from headrace.platform import open_platform
from headrace.settings import Settings
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectWriter
from headrace.storage.stream.reader import TopicReader
from headrace.storage.stream.writer import TopicWriter
from headrace.storage.vectors.handles import VectorWriter
from headrace.storage.vectors.io import LANCE_IO


def test_the_head_agrees_with_what_the_broker_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The embedded broker counts nothing itself, but keeps its records in a bucket, which does."""
    monkeypatch.setenv("HEADRACE_SETTINGS", str(tmp_path / "none.toml"))
    dice = random.Random(3)
    counting = Settings.load(home=tmp_path / "home", platform={"counters": True})
    with open_platform(counting, parts=frozenset({"objects", "head"})) as endpoints:
        ledger = Ledger()
        meter = Meter(ledger, "test")
        writer, reader = TopicWriter(FEEDBACK, endpoints, meter), TopicReader(FEEDBACK, endpoints, meter)
        writer.ensure()
        before = settled(endpoints)
        verdicts = [
            {
                "verdict_id": f"v{number}",
                "answer_id": "a",
                "tenant": "default",
                "user": "u",
                "simulated": True,
                "up": True,
                "chunk_id": "",
                "reason": "",
                "correction": "".join(dice.choices("abcdefgh ", k=4000)),
                "at": "2026-01-01T00:00:00+00:00",
            }
            for number in range(1000)
        ]
        writer.append(verdicts, key="answer_id")
        written = settled(endpoints)
        assert sum(len(fetched) for fetched in reader.read({0: 0})) == len(verdicts)
        read = settled(endpoints)
    ours = {row.direction: row.bytes for row in ledger.rows()}
    theirs = {
        "write": written["headrace-head", "write"] - before.get(("headrace-head", "write"), 0.0),
        "read": read["headrace-head", "read"] - written.get(("headrace-head", "read"), 0.0),
    }
    with capsys.disabled():
        print("\nLedger against what the broker keeps, 1,000 events of 4 KB:")
        for way in ("read", "write"):
            off = ours[way] / theirs[way] - 1
            print(f"  stream {way:<6} ledger {ours[way]:>13,}   SeaweedFS {theirs[way]:>15,.0f}   {off:+.2%}")
    # Before a partition is first read, the beginning of each compressed batch is looked at where the broker keeps it.
    assert 4_000_000 < ours["write"] <= ours["read"] <= ours["write"] + 10_000
    for way in ("read", "write"):
        assert ours[way] == pytest.approx(theirs[way], rel=0.02)


@pytest.mark.soak(minutes=0.3)
def test_objects_and_an_index_put_in_parts_agree_with_the_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_SETTINGS", str(tmp_path / "none.toml"))
    rows = 12_000  # about 20 MB
    columns: dict[str, pa.Array] = {
        field.name: pa.array([f"{field.name} {number}" for number in range(rows)])
        for field in CHUNKS.columns
        if pa.types.is_string(field.type)
    }
    numbers = np.random.default_rng(1).normal(size=rows * DIMENSIONS).astype(np.float32)
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(numbers), DIMENSIONS)
    columns["tenant"] = pa.array(["acme"] * rows)  # one tenant's: a search of another's would read next to nothing
    columns["readers"] = pa.array([[]] * rows, pa.list_(pa.string()))
    columns["position"] = pa.array(range(rows), pa.int32())
    given = pa.schema([field for field in CHUNKS.columns if field.name in columns])
    data = pa.table({name: columns[name] for name in given.names}).cast(given)
    counting = Settings.load(home=tmp_path / "home", platform={"counters": True})
    with open_platform(counting, parts=frozenset({"objects"})) as endpoints:
        ledger = Ledger()
        writer = VectorWriter(CHUNKS, endpoints, Meter(ledger, "test"))
        LANCE_IO.take()
        before = settled(endpoints)
        writer.upsert(data)
        writer.build()
        for number in range(3):
            writer.fulltext(f"text {number}", tenant="acme", most=5)
            writer.dense(numbers[number * DIMENSIONS :][:DIMENSIONS], tenant="acme", most=5)
        objects = Ledger()
        file = tmp_path / "checkpoint"
        file.write_bytes(random.Random(1).randbytes(20_000_000))  # three parts
        store = ObjectWriter(CHECKPOINTS, endpoints, Meter(objects, "test"))
        store.upload("uploaded", file)
        store.put("put", file.read_bytes())
        store.download("uploaded", file)
        after = settled(endpoints)
    moved = {row.direction: row.bytes for row in objects.rows()}
    for way, size in (("read", 20_000_000), ("write", 40_000_000)):
        assert moved[way] == size == after["headrace", way] - before.get(("headrace", way), 0.0)
    for way in ("read", "write"):
        ours = sum(row.bytes for row in ledger.rows() if row.direction == way)
        theirs = after["headrace-vectors", way] - before.get(("headrace-vectors", way), 0.0)
        assert ours == pytest.approx(theirs, rel=0.02)
        assert ours > 15_000_000
