"""Following the head: landing until told to stop, with the chores that keep head and tables in order meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

from headrace.core.runner import Runner
from headrace.errors import HeadraceError
from headrace.ingest.land import Following, Landed, land
from headrace.ingest.trim import trim
from headrace.settings import LandingSettings

_CHORES_S = 60.0
_SIGNALS_S = 0.5
"""A signal that came just before a wait began is noticed after it, so no wait of the main thread is longer."""


def follow(
    runner: Runner,
    settings: LandingSettings,
    following: Following,
    *,
    keep_s: float | None,
    chores: Callable[[], None] = lambda: None,
    failed: Callable[[str, HeadraceError], None],
) -> Landed:
    """Land until `following.stop` is set; about once a minute do `chores` and trim the head.

    It is trimmed of what a table has held for `keep_s` seconds; `None`: it is not.

    A chore that fails is reported and tried again a minute later: landing goes on without it. What was fetched is committed
    before this returns.
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
