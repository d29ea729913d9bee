"""What is shown of long work where there is no terminal: a line now and then, and nothing of what is done at once."""

from __future__ import annotations

import io
import threading

import pyarrow as pa
from rich.console import Console

from headrace.core.progress import ProgressBars


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Log(io.StringIO):
    """A stream that says when something was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def write(self, text: str, /) -> int:
        count = super().write(text)
        self.written.set()
        return count


def test_a_long_loop_says_now_and_then_how_far_it_is() -> None:
    log, clock = io.StringIO(), Clock()
    bars = ProgressBars(Console(file=log), every_s=15, clock=clock)
    for _ in bars.track(range(2_000), "parse", total=2_000, of="documents"):
        clock.now += 0.0625
    assert log.getvalue().splitlines() == [
        f"  parse: {count:,} of 2,000 documents, {took}"
        for count, took in ((240 * n, f"{n // 4}:{n % 4 * 15:02}") for n in range(1, 9))
    ]


def test_rows_are_counted_where_the_items_have_rows() -> None:
    log, clock = io.StringIO(), Clock()
    bars = ProgressBars(Console(file=log), every_s=15, clock=clock)
    batches = [pa.RecordBatch.from_pydict({"x": [1, 2, 3]})] * 4
    for _ in bars.track(batches, "embed", total=12, of="chunks", size=True):
        clock.now += 10
    assert log.getvalue() == "  embed: 6 of 12 chunks, 0:20\n"


def test_a_training_says_its_loss() -> None:
    log, clock = io.StringIO(), Clock()
    with ProgressBars(Console(file=log), every_s=15, clock=clock).counted("train", of="steps") as advance:
        advance(1, 40, 0.7)
        clock.now += 60
        advance(20, 40, 0.25)
        advance(21, 40, 0.2)
    assert log.getvalue() == "  train: 20 of 40 steps, loss 0.250, 1:00\n"


def test_what_is_waited_for_is_said_if_it_takes_a_while() -> None:
    log = Log()
    bars = ProgressBars(Console(file=log), every_s=0.01)
    with bars.waiting("Starting the platform …"):
        assert log.written.wait(60)
    assert log.getvalue() == "Starting the platform …\n"
    log = Log()
    with ProgressBars(Console(file=log), every_s=600).waiting("Starting the platform …"):
        pass
    assert log.getvalue() == ""
    assert not any(isinstance(thread, threading.Timer) and thread.interval == 600 for thread in threading.enumerate())


def test_quiet_says_nothing() -> None:
    log, clock = io.StringIO(), Clock()
    bars = ProgressBars(Console(file=log), quiet=True, every_s=15, clock=clock)
    for _ in bars.track(range(3), "parse", total=3):
        clock.now += 60
    with bars.waiting("Starting …"), bars.counted("train") as advance:
        advance(1, 2, 0.5)
    assert log.getvalue() == ""
