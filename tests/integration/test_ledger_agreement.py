"""The ledger's promise: its bytes are those that the storage itself counted, tier by tier."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pyarrow as pa
import pytest

from headrace.catalog import CHUNKS, DIMENSIONS, FEEDBACK
from headrace.platform import open_platform
from headrace.settings import Settings
from headrace.storage.endpoints import Endpoints
from headrace.storage.lance_io import LANCE_IO
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.topics import TopicReader, TopicWriter
from headrace.storage.vectors import VectorWriter

if TYPE_CHECKING:
    from conftest import Home

COUNTER = re.compile(r'^SeaweedFS_s3_bucket_traffic_(received|sent)_bytes_total\{bucket="([^"]+)"\} (\S+)$', re.M)
DIRECTION = {"received": "write", "sent": "read"}
BUCKETS = {"object": "headrace", "table": "lake", "vector": "headrace-vectors", "stream": "headrace-head"}
Traffic = dict[tuple[str, str], float]


def traffic(endpoints: Endpoints) -> Traffic:
    """Bytes that SeaweedFS moved so far, by (bucket, direction)."""
    text = httpx.get(endpoints.s3_metrics_url, trust_env=False).text
    return {(bucket, DIRECTION[way]): float(value) for way, bucket, value in COUNTER.findall(text)}


def settled(endpoints: Endpoints) -> Traffic:
    """The counters once two looks in a row agree: a server counts a request after it answered it."""
    found = traffic(endpoints)
    for _ in range(20):
        time.sleep(0.1)
        before, found = found, traffic(endpoints)
        if before == found:
            break
    return found


def test_the_ledger_of_a_demo_agrees_with_the_object_store(
    module_home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADRACE_SETTINGS", module_home.env["HEADRACE_SETTINGS"])
    # The counters begin with the platform, so it is held open around the demo. The model server comes with the demo.
    with open_platform(Settings.load(home=module_home.path), parts=frozenset({"objects", "head"})) as endpoints:
        before = settled(endpoints)
        # What the platform itself causes in these buckets, awake and asked by a command that touches none of them.
        module_home.run("endpoints")
        idle = settled(endpoints)
        module_home.run(*module_home.demo())
        after = settled(endpoints)

    moved = {key: after[key] - idle.get(key, 0.0) for key in after}
    for bucket in ("headrace", "lake"):
        for way in ("read", "write"):
            assert idle.get((bucket, way), 0.0) == before.get((bucket, way), 0.0), "the platform is no user of these buckets"

    found = module_home.json("ledger")
    rows = found["rows"]
    assert "-demo-" in found["run"]

    def metered(tier: str, way: str) -> int:
        return sum(row["bytes"] for row in rows if (row["tier"], row["direction"]) == (tier, way))

    lines = []
    off = {}
    for tier, bucket in BUCKETS.items():
        for way in ("read", "write"):
            ours, theirs = metered(tier, way), moved[bucket, way]
            off[tier, way] = ours / theirs - 1
            lines.append(f"  {tier:<7}{way:<6} ledger {ours:>13,}   SeaweedFS {theirs:>15,.0f}   {off[tier, way]:+.2%}")
    with capsys.disabled():
        print("\nLedger against the object store's own counters, over a demo:", *lines, sep="\n")

    assert metered("object", "write") > 100_000_000, "a checkpoint in several parts is among them"
    assert metered("table", "write") > 50_000
    for tier in ("object", "table", "vector"):
        for way in ("read", "write"):
            assert abs(off[tier, way]) < 0.02, "\n".join(lines)
    # The ledger counts keys and values; what Kafka wraps them in weighs more the smaller and the fewer at a time they are.
    for way in ("read", "write"):
        assert -0.2 < off["stream", way] <= 0, "\n".join(lines)


def test_the_head_agrees_with_what_the_broker_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The embedded broker counts nothing itself, but keeps its records in a bucket, which does."""
    monkeypatch.setenv("HEADRACE_SETTINGS", str(tmp_path / "none.toml"))
    dice = random.Random(3)
    with open_platform(Settings.load(home=tmp_path / "home"), parts=frozenset({"objects", "head"})) as endpoints:
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
    assert ours["write"] == ours["read"] > 4_000_000
    for way in ("read", "write"):
        assert ours[way] == pytest.approx(theirs[way], rel=0.02)


def test_an_index_put_in_parts_agrees_with_the_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    data = pa.table({name: columns[name] for name in CHUNKS.columns.names}).cast(CHUNKS.columns)
    with open_platform(Settings.load(home=tmp_path / "home"), parts=frozenset({"objects"})) as endpoints:
        ledger = Ledger()
        writer = VectorWriter(CHUNKS, endpoints, Meter(ledger, "test"))
        LANCE_IO.take()
        before = settled(endpoints)
        writer.upsert(data)
        writer.build()
        for number in range(3):
            writer.fulltext(f"text {number}", tenant="acme", most=5)
            writer.dense(numbers[number * DIMENSIONS :][:DIMENSIONS], tenant="acme", most=5)
        after = settled(endpoints)
    for way in ("read", "write"):
        ours = sum(row.bytes for row in ledger.rows() if row.direction == way)
        theirs = after["headrace-vectors", way] - before.get(("headrace-vectors", way), 0.0)
        assert ours == pytest.approx(theirs, rel=0.02)
        assert ours > 15_000_000
