"""ledger: what counting costs, on the operations that a counted run makes most of.

The same puts and gets through obstore alone and through the metered handle, in turn, in one run.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore

from headrace.catalog import DATASETS
from headrace.platform import open_platform
from headrace.settings import Settings
from headrace.storage.ledger import Direction, Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectWriter, connect

_OPERATIONS = 300
_BYTES = 64 << 10


def measure() -> dict[str, Any]:
    """Bound: 2 %. `counting_us` is one count by itself; `share` is that of a 64 KiB put and get."""
    with (
        tempfile.TemporaryDirectory() as folder,
        open_platform(Settings.load(home=Path(folder)), parts=frozenset({"objects"})) as endpoints,
    ):
        meter = Meter(Ledger(), "bench")
        handle, bare = ObjectWriter(DATASETS, endpoints, meter), connect(endpoints)
        data = bytes(_BYTES)

        def metered() -> None:
            handle.put("x", data)
            handle.get("x")

        def alone() -> None:
            obstore.put(bare, "datasets/y", data, use_multipart=False)
            bytes(obstore.get(bare, "datasets/y").bytes())

        for warm in (metered, alone):
            _timed(warm, 20)
        ratios = [_timed(metered, _OPERATIONS) / _timed(alone, _OPERATIONS) for _ in range(7)]
        pair = _timed(alone, _OPERATIONS) / _OPERATIONS
        started = time.perf_counter()
        for _ in range(20_000):
            with meter.operation(DATASETS, Direction.READ) as operation:
                operation.bytes = 1
        one = (time.perf_counter() - started) / 20_000
    return {
        "counting_us": round(one * 1e6, 2),
        "share_of_put_and_get": round(2 * one / pair, 5),
        "metered_over_bare_median": round(statistics.median(ratios), 4),
        "metered_over_bare": [round(r, 4) for r in ratios],
        "bound": 0.02,
    }


def _timed(work: Callable[[], None], times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        work()
    return time.perf_counter() - started
