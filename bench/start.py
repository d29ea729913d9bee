"""platform: seconds from nothing to S3, catalog and head that answer: in a new home, in one that was used, and under load."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headrace.platform import EVERY_PART, down, open_platform
from headrace.settings import Settings

_RESTARTS = 50


def measure() -> dict[str, Any]:
    """Bounds: ready within 5 s in a new home, and within 2 s at p95 of fifty restarts beside a busy process per processor."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.load(home=Path(folder), platform={"idle_s": 600})
        new = _started(settings)
        quiet = [_started(settings) for _ in range(_RESTARTS)]
        with _busy(os.cpu_count() or 1):
            loaded = [_started(settings) for _ in range(_RESTARTS)]
    return {"new_home_s": round(new, 2), "restart_s": _summary(quiet), "restart_under_load_s": _summary(loaded)}


def _started(settings: Settings) -> float:
    """Seconds until a platform that does not run is ready; it is ended again."""
    begun = time.perf_counter()
    with open_platform(settings, parts=EVERY_PART - {"models"}):
        seconds = time.perf_counter() - begun
    down(settings)
    return seconds


@contextmanager
def _busy(processes: int) -> Iterator[None]:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def _summary(seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=20, method="inclusive")
    return {"restarts": len(seconds), "p50": round(cuts[9], 2), "p95": round(cuts[18], 2), "max": round(max(seconds), 2)}
