"""landing: the head into a table, against the same consumer throwing the events away; freshness; memory; start after a crash.

`python -m bench.landing drain|follow` is the lander in a process of its own, endpoints on standard input.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from confluent_kafka import Producer

from headrace.catalog import EXTRA, FEEDBACK, ORIGIN_COLUMNS, Store, Tier
from headrace.core.run import Run
from headrace.core.runner import Runner
from headrace.landing.land import Commit, Following, land
from headrace.landing.positions import positions
from headrace.platform import open_platform
from headrace.settings import LandingSettings, Settings
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.signature import Signer
from headrace.storage.stream.reader import TopicReader
from headrace.storage.tables.handles import TableReader

_ROUNDS = 3
_SMALL, _LARGE = 250, 4096
_RATE, _RATE_S = 1000, 20.0
_COMMIT_S = 1.0


def measure() -> dict[str, Any]:
    """Bounds: ratio at least 0.60; fresh p95 at most twice the commit interval; memory flat; first commit within 3 s."""
    with (
        tempfile.TemporaryDirectory() as folder,
        open_platform(Settings.load(home=Path(folder)), parts=frozenset({"objects", "head"})) as endpoints,
    ):
        rates = {
            f"{size}_bytes": _against_throwing_away(endpoints, size, count) for size, count in ((250, 500_000), (4096, 60_000))
        }
        return {
            **rates,
            "fresh": _freshness(endpoints),
            "memory": _memory(endpoints),
            "after_a_crash": _after_a_crash(endpoints),
            "bounds": {"ratio": 0.6, "fresh_p95_s": 2 * _COMMIT_S, "first_commit_s": 3.0},
        }


def _stores(name: str, table: str = "") -> tuple[Store, Store]:
    """A topic of verdicts, and a table for it."""
    origin = [field.with_nullable(False) for field in ORIGIN_COLUMNS]
    schema = pa.schema([*FEEDBACK.columns, *origin, EXTRA])
    return (
        Store(name, Tier.STREAM, "verdicts to measure with", "", FEEDBACK.columns, partitions=1),
        Store(table or name, Tier.TABLE, "the same, landed", "", schema),
    )


def _event(size: int, number: int) -> bytes:
    row = {"verdict_id": f"v{number:09}", "answer_id": f"a{number:09}", "tenant": "acme", "user": "ann", "simulated": True}
    row |= {"up": number % 3 > 0, "chunk_id": f"{number:024x}", "correction": "", "at": "2026-11-23T12:00:00.123456+00:00"}
    bare = len(json.dumps({**row, "reason": ""}, separators=(",", ":")))
    return json.dumps({**row, "reason": "r" * (size - bare)}, separators=(",", ":")).encode()


def _produce(endpoints: Endpoints, topic: Store, size: int, first: int, count: int) -> None:
    TopicReader(topic, endpoints, Meter(Ledger(), "bench")).ensure()
    producer = Producer({"bootstrap.servers": endpoints.kafka_bootstrap, "linger.ms": 20, "queue.buffering.max.kbytes": 65536})
    signer = Signer(endpoints.signing_key, topic.name)
    for number in range(first, first + count):
        event = _event(size, number)
        while True:
            try:
                producer.produce(topic.name, event, headers=signer.headers(None, event))
                break
            except BufferError:
                producer.poll(0.05)
    assert producer.flush(120) == 0


def _against_throwing_away(endpoints: Endpoints, size: int, count: int) -> dict[str, Any]:
    topic, _ = _stores(f"rate-{size}")
    _produce(endpoints, topic, size, 0, count)
    thrown, landed = [], []
    for attempt in range(_ROUNDS + 1):  # the first warms up
        reader = TopicReader(topic, endpoints, Meter(Ledger(), "bench"))
        started = time.perf_counter()
        seen = sum(len(fetched) for fetched in reader.read({0: 0}))
        thrown.append(seen / (time.perf_counter() - started))
        _, table = _stores(topic.name, f"rate-{size}-{attempt}")
        with tempfile.TemporaryDirectory() as folder:
            runner = Runner(Run("land", Path(folder)), endpoints)
            started = time.perf_counter()
            done = runner.run(land.over(topics=[topic], tables=[table]))
            landed.append(done.total / (time.perf_counter() - started))
        assert seen == done.total == count
    ratios = [land / throw for land, throw in zip(landed[1:], thrown[1:], strict=True)]
    return {
        "ratio_median": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "landed_per_s": round(statistics.median(landed[1:])),
        "thrown_away_per_s": round(statistics.median(thrown[1:])),
    }


@contextmanager
def _lander(endpoints: Endpoints, mode: str, name: str, **settings: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.landing", mode, name, json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(endpoints.model_dump_json() + "\n")
    process.stdin.flush()
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _freshness(endpoints: Endpoints) -> dict[str, Any]:
    """Seconds from an event's acknowledgement until the table's newest snapshot has it."""
    topic, table = _stores("fresh")
    TopicReader(topic, endpoints, Meter(Ledger(), "bench")).ensure()
    acknowledged: list[float] = []
    producer = Producer({"bootstrap.servers": endpoints.kafka_bootstrap, "linger.ms": 20, "acks": "all"})
    signer = Signer(endpoints.signing_key, topic.name)
    waits: list[float] = []
    with _lander(endpoints, "follow", topic.name, commit_s=_COMMIT_S) as process:
        assert process.stdout is not None
        process.stdout.readline()
        stop = threading.Event()

        def watch() -> None:
            reader = TableReader(table, endpoints, Meter(Ledger(), "bench"))
            while not stop.is_set():
                found = positions(reader.snapshot_properties(), topic.name).get(0)
                now = time.time()
                waits.extend(now - at for at in acknowledged[len(waits) : found.next if found else 0])
                time.sleep(0.02)

        watcher = threading.Thread(target=watch)
        watcher.start()
        started = time.time()
        sent = 0
        while sent < _RATE * _RATE_S:
            while sent < (time.time() - started) * _RATE:
                event = _event(_SMALL, sent)
                taken = {"on_delivery": lambda *_: acknowledged.append(time.time()), "headers": signer.headers(None, event)}
                producer.produce(topic.name, event, **taken)
                sent += 1
            producer.poll(0.002)
        producer.flush(10)
        while len(waits) < sent and time.time() - started < 60:
            time.sleep(0.1)
        stop.set()
        watcher.join()
    waits.sort()
    return {
        "events_per_s": _RATE,
        "commit_s": _COMMIT_S,
        "events": len(waits),
        "p50_s": round(waits[len(waits) // 2], 3),
        "p95_s": round(waits[int(len(waits) * 0.95)], 3),
        "max_s": round(waits[-1], 3),
    }


def _memory(endpoints: Endpoints) -> dict[str, Any]:
    """Peak resident MiB of a lander, by how many events it landed in one go."""
    found = {}
    for count in (100_000, 2_000_000):
        topic, _ = _stores(f"memory-{count}")
        _produce(endpoints, topic, _SMALL, 0, count)
        with _lander(endpoints, "drain", topic.name) as process:
            out, _ = process.communicate(timeout=300)
        last = json.loads(out.splitlines()[-1])
        assert last["landed"] == count
        found[f"{count}_events_mib"] = last["peak_mib"]
    return found


def _after_a_crash(endpoints: Endpoints) -> dict[str, Any]:
    """Seconds from the start of the process to its first commit, after a kill -9 in the middle of a backlog of 2 M events."""
    topic, _ = _stores("memory-2000000", "crash")
    with _lander(endpoints, "drain", f"{topic.name}:crash") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "committed" in line:
                break
    started = time.perf_counter()
    with _lander(endpoints, "drain", f"{topic.name}:crash") as process:
        assert process.stdout is not None
        process.stdout.readline()  # it has started
        begun = time.perf_counter()
        first = json.loads(process.stdout.readline())
        return {
            "process_to_first_commit_s": round(time.perf_counter() - started, 2),
            "lander_to_first_commit_s": round(time.perf_counter() - begun, 2),
            "first_commit_events": first["committed"],
        }


def main() -> None:
    """The lander of its own process: says one JSON line when it starts, one per commit, and one at the end."""
    endpoints = Endpoints.model_validate_json(sys.stdin.readline())
    mode, (name, _, table), settings = sys.argv[1], sys.argv[2].partition(":"), LandingSettings(**json.loads(sys.argv[3]))
    topic, rows = _stores(name, table)

    def say(**what: Any) -> None:
        print(json.dumps(what), flush=True)

    def committed(commit: Commit) -> None:
        say(committed=commit.events, seconds=round(commit.seconds, 3))

    following = Following(threading.Event(), committed) if mode == "follow" else None
    with tempfile.TemporaryDirectory() as folder:
        say(started=True)
        done = Runner(Run("land", Path(folder)), endpoints).run(
            land.over(topics=[topic], tables=[rows]), settings=settings, following=following, committed=committed
        )
    # Not getrusage's figure, which a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text()
    say(landed=done.total, peak_mib=round(int(status.split("VmHWM:")[1].split()[0]) / 1024))


if __name__ == "__main__":
    main()
