"""Landing while `headrace up` runs, in a thread of that process."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from headrace.app import Storage
from headrace.core.runner import Runner
from headrace.errors import HeadraceError, kind_of
from headrace.landing.land import Commit, Following
from headrace.landing.positions import Divergence
from headrace.readiness import Trouble
from headrace.settings import Settings

_AGAIN_S = 15.0
_SETTLED_S = 5.0
_END_S = 20.0

log = logging.getLogger("headrace.landing")


class LandingThread:
    """A context manager that lands events and runs the chores of `headrace land`; it waits for storage that does not answer."""

    def __init__(self, settings: Settings, runner: Runner) -> None:
        # Its own handles: the other runner lands what documents need, in another thread.
        self._storage = Storage(settings, Runner(runner.record, runner.endpoints))
        self._stop = threading.Event()
        self._events: Counter[str] = Counter()
        self._dead = 0
        self._stopped: dict[str, dict[int, Divergence]] = {}
        self._waiting: dict[str, str] = {}
        self._failing: Exception | None = None
        self._failed_at = 0.0
        self._held_up_since: float | None = None
        self._thread = threading.Thread(target=self._land, name="landing", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        self._thread.join(_END_S)

    def stop(self) -> None:
        """Stop landing after the current commit, without waiting for it."""
        self._stop.set()

    def status(self) -> dict[str, Any]:
        """What has landed since the start, and what has stopped and why."""
        troubles = [f"{r.topic_partition} has stopped landing ({r.kind}). {r.seen} {r.remedy}" for r in self._divergences()]
        troubles += self._waiting.values()
        troubles += [f"Nothing lands: {self._failing}"] if self._failing else []
        return {"landed": dict(sorted(self._events.items())), "dead_letters": self._dead, "troubles": troubles}

    def trouble(self) -> Trouble | None:
        """What does not land, and since when; `None` if everything does."""
        states = [f"{divergence.topic_partition} does not land ({divergence.kind})" for divergence in self._divergences()]
        states += [f"{topic} waits for storage" for topic in sorted(self._waiting)]
        states += [f"nothing lands ({kind_of(self._failing)})"] if self._failing else []
        return Trouble(", ".join(states), self._held_up_since) if states else None

    def _divergences(self) -> list[Divergence]:
        return [divergence for _, stopped in sorted(self._stopped.items()) for _, divergence in sorted(stopped.items())]

    def _land(self) -> None:
        following = Following(self._stop, self._committed, waiting=self._wait, divergences=self._diverged)
        while not self._stop.is_set():
            try:
                self._storage.follow(following, self._failed)
            except Exception as error:
                unexpected = not isinstance(error, HeadraceError)
                log.warning("landing will be retried in %.0f s: %s", _AGAIN_S, error, exc_info=unexpected)
                self._failing, self._failed_at = error, time.monotonic()
                self._noted()
                self._stop.wait(_AGAIN_S)

    def _committed(self, commit: Commit) -> None:
        self._events[commit.topic] += commit.events
        self._dead += commit.dead

    def _diverged(self, topic: str, stopped: Mapping[int, Divergence]) -> None:
        self._stopped[topic] = dict(stopped)
        self._waiting.pop(topic, None)
        # If every attempt fails, landing still runs for a moment in between.
        if time.monotonic() - self._failed_at > _AGAIN_S + _SETTLED_S:
            self._failing = None
        self._noted()

    def _wait(self, topic: str, error: HeadraceError) -> None:
        self._waiting[topic] = f"{topic} waits: {error.message}"
        self._noted()

    def _noted(self) -> None:
        held_up = bool(self._waiting or self._failing or any(self._stopped.values()))
        self._held_up_since = (self._held_up_since or time.monotonic()) if held_up else None

    def _failed(self, chore: str, error: HeadraceError) -> None:
        log.warning("%s failed and will be retried in a minute: %s", chore, error)
