"""demo: seconds and peak memory of the whole demo, all its processes together."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil


def measure() -> dict[str, Any]:
    """Bounds: 6 minutes, 5 GiB (proportional set size, so that shared pages count once)."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        command = [sys.executable, "-m", "headrace.cli", "--home", str(home), "demo", "--out", str(Path(folder) / "out")]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        peak = [0]
        watcher = threading.Thread(target=_watch, args=(process.pid, home, peak), daemon=True)
        watcher.start()
        output, _ = process.communicate()
        seconds = time.perf_counter() - started
    return {
        "exit_code": process.returncode,
        "seconds": round(seconds, 1),
        "peak_memory_gib": round(peak[0] / 2**30, 2),
        "bounds": {"seconds": 360, "peak_memory_gib": 5},
        "verdict": next(
            (line.strip() for line in output.splitlines() if "challenger promoted" in line or "challenger refused" in line), ""
        ),
    }


def _watch(pid: int, home: Path, peak: list[int]) -> None:
    while psutil.pid_exists(pid):
        total = 0
        for process in psutil.process_iter(["cmdline", "environ"]):
            try:
                # The servers are no children of the command; what names the home is ours.
                ours = (
                    process.pid == pid
                    or str(home) in " ".join(process.info["cmdline"] or ())
                    or str(home) in str(process.info["environ"])
                )
                if ours:
                    total += process.memory_full_info().pss
            except psutil.Error:
                continue
        peak[0] = max(peak[0], total)
        time.sleep(1)
