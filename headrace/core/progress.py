"""Progress of long work, on standard error: bars on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from headrace.terminal import Terminal

T = TypeVar("T")

_EVERY_S = 15.0


class ProgressBars:
    """Shows one bar per long loop; without a terminal, as in a log, a line every 15 s; nothing with `quiet`."""

    def __init__(
        self,
        console: Console | None = None,
        *,
        quiet: bool = False,
        every_s: float = _EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Terminal(stderr=True)
        self._silent = quiet
        self._quiet = quiet or not self._console.is_terminal
        self._every_s, self._clock = every_s, clock

    def note(self, text: str) -> None:
        """Print a note, on a terminal only."""
        if not self._quiet:
            self._console.print(text, style="dim", highlight=False)

    def waiting(self, text: str) -> AbstractContextManager[object]:
        """Show that something takes a while, until the block ends; without a terminal only if it does."""
        if self._silent:
            return nullcontext()
        return self._said_late(text) if self._quiet else self._console.status(text)

    @contextmanager
    def _said_late(self, text: str) -> Iterator[None]:
        later = threading.Timer(self._every_s, self._line, [text])
        later.daemon = True
        later.start()
        try:
            yield
        finally:
            later.cancel()
            later.join()

    def warn(self, text: str) -> None:
        """Print a warning, also without a terminal (e.g. into a log)."""
        if not self._silent:
            self._console.print(text, style="yellow", highlight=False, soft_wrap=True)

    def track(self, items: Iterable[T], what: str, *, total: int | None = None, of: str = "", size: bool = False) -> Iterator[T]:
        """Yield the items and show the progress; with `size`, an item counts for its `num_rows`."""
        if self._silent:
            yield from items
            return
        if self._quiet:
            lines = _Lines(self, what, of)
            for item in items:
                yield item
                lines.more(getattr(item, "num_rows", 1) if size else 1, total)
            return
        with self._progress(of) as progress:
            task = progress.add_task(what, total=total)
            for item in items:
                yield item
                progress.advance(task, getattr(item, "num_rows", 1) if size else 1)

    @contextmanager
    def counted(self, what: str, *, of: str = "") -> Iterator[Callable[[int, int, float], None]]:
        """Yield a function (done, total, loss) that moves one bar."""
        if self._silent:
            yield lambda done, total, loss: None
            return
        if self._quiet:
            lines = _Lines(self, what, of)
            yield lambda done, total, loss: lines.at(done, total, f", loss {loss:.3f}")
            return
        with self._progress(of) as progress:
            task = progress.add_task(what, total=None)

            def advance(done: int, total: int, loss: float) -> None:
                progress.update(task, completed=done, total=total, description=f"{what}  loss {loss:.3f}")

            yield advance

    def _progress(self, of: str) -> Progress:
        return Progress(
            TextColumn("  [bold]{task.description:<10}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TextColumn(of),
            TimeElapsedColumn(),
            TextColumn("·"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )

    def _line(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)


class _Lines:
    """The progress of one loop as lines, at most one in `every_s`."""

    def __init__(self, bars: ProgressBars, what: str, of: str) -> None:
        self._bars, self._what, self._of = bars, what, of
        self._done = 0
        self._began = self._said = bars._clock()

    def more(self, number: int, total: int | None) -> None:
        self.at(self._done + number, total)

    def at(self, done: int, total: int | None, detail: str = "") -> None:
        self._done = done
        now = self._bars._clock()
        if now - self._said < self._bars._every_s or done == total:
            return
        self._said = now
        of = "" if total is None else f" of {total:,}"
        took = f"{int(now - self._began) // 60}:{int(now - self._began) % 60:02}"
        self._bars._line(f"  {self._what}: {done:,}{of} {self._of}{detail}, {took}")
