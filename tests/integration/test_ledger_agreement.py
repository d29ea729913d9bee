"""The ledger's promise: its bytes are the bytes that the object store itself counted, bucket by bucket."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from headrace.platform import open_platform
from headrace.settings import Settings
from headrace.storage.endpoints import Endpoints

if TYPE_CHECKING:
    from conftest import Home

COUNTER = re.compile(r'^SeaweedFS_s3_bucket_traffic_(received|sent)_bytes_total\{bucket="([^"]+)"\} (\S+)$', re.M)
DIRECTION = {"received": "write", "sent": "read"}
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
    for tier, bucket in (("object", "headrace"), ("table", "lake"), ("vector", "headrace-vectors")):
        for way in ("read", "write"):
            ours, theirs = metered(tier, way), moved[bucket, way]
            off[tier, way] = ours / theirs - 1
            lines.append(f"  {tier:<7}{way:<6} ledger {ours:>13,}   SeaweedFS {theirs:>15,.0f}   {off[tier, way]:+.2%}")
    with capsys.disabled():
        print("\nLedger against the object store's own counters (the vector tier's rows are estimates):", *lines, sep="\n")

    assert metered("object", "write") > 100_000_000, "a checkpoint in several parts is among them"
    assert metered("table", "write") > 50_000
    for tier in ("object", "table"):
        for way in ("read", "write"):
            assert abs(off[tier, way]) < 0.02, "\n".join(lines)
    for way in ("read", "write"):
        assert abs(off["vector", way]) < 0.9, "the estimates are of another order of magnitude"
