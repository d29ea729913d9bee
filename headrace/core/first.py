"""Serializes the first call of each kind; later calls run concurrently."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, nullcontext


class FirstAlone:
    """Serializes the calls of a kind until one has succeeded, so that shared resources are opened only once."""

    def __init__(self) -> None:
        self._first = threading.Lock()
        self._succeeded: set[Hashable] = set()

    @contextmanager
    def __call__(self, kind: Hashable) -> Iterator[None]:
        with nullcontext() if kind in self._succeeded else self._first:
            yield
        self._succeeded.add(kind)
