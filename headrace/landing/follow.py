"""Follow the head: land until stopped, with regular chores that keep head and tables in order."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

from headrace.core.runner import Runner
from headrace.errors import HeadraceError
from headrace.landing.land import Following, Landed, land
from headrace.landing.trim import trim
from headrace.settings import LandingSettings

_CHORES_S = 60.0
_SIGNALS_S = 0.5
"""Longest wait of the main thread: a signal that arrives just before a wait is only handled after it."""


def follow(
    runner: Runner,
    settings: LandingSettings,
    following: Following,
    *,
    keep_s: float | None,
    chores: Callable[[], None] = lambda: None,
    failed: Callable[[str, HeadraceError], None],
) -> Landed:
    """Land until `following.stop` is set; about once a minute, run `chores` and trim the head.

    Events that a table has held for `keep_s` seconds are trimmed; with `None`, none are.

    A chore that fails is reported and retried a minute later, while landing goes on. Everything fetched is committed before
    this returns.
    """

    def trimming() -> None:
        if keep_s is not None:
            runner.run(trim, keep_s=keep_s)

    every: tuple[tuple[str, Callable[[], None]], ...] = (("trim", trimming), ("maintenance", chores))
    with ThreadPoolExecutor(1, "follow") as pool:
        landing = pool.submit(runner.run, land, settings=settings, following=following)
        try:
            due = time.monotonic() + _CHORES_S
            while not wait([landing], timeout=_SIGNALS_S).done:
                if time.monotonic() < due:
                    continue
                due = time.monotonic() + _CHORES_S
                for name, chore in every:
                    try:
                        chore()
                    except HeadraceError as error:
                        failed(name, error)
        finally:
            following.stop.set()
        return landing.result()
