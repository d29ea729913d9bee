"""Ctrl-C, SIGTERM and torch: an exception raised while torch runs Python from its own threads ends the process with an abort."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def defer_sigint() -> Iterator[None]:
    """Put off Ctrl-C and SIGTERM until the block is over. In any other thread than the main one nothing has to be done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    # One that is ignored, or ends the process at once, does so during the block too.
    before = {number: handler for number in _SIGNALS if callable(handler := signal.getsignal(number))}
    for number in before:
        signal.signal(number, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            before[signal.Signals(came[0][0])](*came[0])
