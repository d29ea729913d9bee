"""A benchmark that is ended leaves none of its servers behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from headrace.platform.home import Home
from headrace.platform.state import read_state

Within = Callable[[float, Callable[[], bool]], bool]


def test_a_benchmark_ended_by_a_signal_ends_its_servers(tmp_path: Path, within: Within) -> None:
    """Its servers wait two hours for the next command, and nobody would give one."""
    environment = {**os.environ, "TMPDIR": str(tmp_path), "HEADRACE_SETTINGS": str(tmp_path / "none.toml")}
    bench = subprocess.Popen([sys.executable, "-m", "bench.new", "20"], env=environment, stderr=subprocess.DEVNULL)
    try:

        def homes() -> list[Home]:
            return [home for path in tmp_path.glob("*/20/home") if read_state(home := Home(path)) is not None]

        assert within(60, lambda: bool(homes()))
        state = read_state(homes()[0])
        assert state is not None
        bench.send_signal(signal.SIGTERM)
        assert bench.wait(60) == 128 + signal.SIGTERM
        assert not state.supervisor.alive
        assert list(tmp_path.iterdir()) == []
    finally:
        bench.kill()
        bench.wait()
