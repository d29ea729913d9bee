"""Progress bars of long work, on standard error of a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from headrace.terminal import Terminal

T = TypeVar("T")


class ProgressBars:
    """Draws one bar per long loop; nothing without a terminal or with `quiet`."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self._console = console or Terminal(stderr=True)
        self._silent = quiet
        self._quiet = quiet or not self._console.is_terminal

    def note(self, text: str) -> None:
        """Print a note, on a terminal only."""
        if not self._quiet:
            self._console.print(text, style="dim", highlight=False)

    def waiting(self, text: str) -> AbstractContextManager[object]:
        """Show on a terminal that something takes a while, until the block ends."""
        return nullcontext() if self._quiet else self._console.status(text)

    def warn(self, text: str) -> None:
        """Print a warning, also without a terminal (e.g. into a log)."""
        if not self._silent:
            self._console.print(text, style="yellow", highlight=False, soft_wrap=True)

    def track(self, items: Iterable[T], what: str, *, total: int | None = None, of: str = "", size: bool = False) -> Iterator[T]:
        """Yield the items and draw the progress; with `size`, an item advances the bar by its `num_rows`."""
        if self._quiet:
            yield from items
            return
        with self._progress(of) as progress:
            task = progress.add_task(what, total=total)
            for item in items:
                yield item
                progress.advance(task, getattr(item, "num_rows", 1) if size else 1)

    @contextmanager
    def counted(self, what: str, *, of: str = "") -> Iterator[Callable[[int, int, float], None]]:
        """Yield a function (done, total, loss) that moves one bar."""
        if self._quiet:
            yield lambda done, total, loss: None
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
