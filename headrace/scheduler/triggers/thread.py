"""The threads of `headrace up` that find events for triggers and deliver them."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from headrace.core.runner import Runner
from headrace.errors import HeadraceError
from headrace.retry import backoff
from headrace.scheduler.triggers.actions import Action, DeliveryFailed, action_of
from headrace.scheduler.triggers.events import EventFinder
from headrace.scheduler.triggers.queue import Delivery, DeliveryQueue, TriggerState
from headrace.settings import TriggerSettings
from headrace.storage.metadata import Metadata
from headrace.terminal import printable

_LOOK_S, _DELIVER_S, _LONGEST_S = 2.0, 0.5, 30.0
_TIDY = 100  # looks between two times that what was done long ago, and too many dead letters, are dropped
_LEASE_S = 30.0  # for which a delivery is this process's, renewed while it is under way

log = logging.getLogger("headrace.triggers")


@dataclass(frozen=True)
class TriggerReport:
    """A trigger of the settings, and what became of its events."""

    name: str
    causes: tuple[str, ...]
    action: str
    waiting: int
    running: int
    done: int
    dead: int
    oldest_s: float
    reason: str


def trigger_reports(triggers: tuple[TriggerSettings, ...], queue: DeliveryQueue) -> list[TriggerReport]:
    """Each trigger of the settings, and what became of its events."""
    states, found = queue.states(), []
    for trigger in triggers:
        causes: list[str] = [*trigger.on]
        causes += [f"every {_span(trigger.every_s)}"] if trigger.every_s is not None else []
        causes += [f"lag of {trigger.lag:,} events"] if trigger.lag is not None else []
        causes += [f"topic {trigger.events.topic}"] if trigger.events is not None else []
        state = states.get(trigger.name, TriggerState())
        counts = (state.waiting, state.running, state.done, state.dead)
        found.append(TriggerReport(trigger.name, tuple(causes), trigger.action.type, *counts, state.oldest_s, state.reason))
    return found


def _span(seconds: float) -> str:
    """Seconds in the largest unit of which they are whole ones."""
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds % size == 0:
            return "day" if seconds == 86_400 else f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


class TriggerThreads:
    """A context manager that finds and delivers events until its block ends; does nothing without triggers.

    What is under way at the end is stopped, and delivered again by the next process. What a process that is killed had taken is
    taken again after `lease_s` seconds.
    """

    def __init__(
        self,
        triggers: tuple[TriggerSettings, ...],
        runner: Runner,
        unlanded: Callable[[], int],
        *,
        lease_s: float = _LEASE_S,
    ) -> None:
        self._triggers, self._runner, self._unlanded = triggers, runner, unlanded
        self._queue = DeliveryQueue(Metadata(runner.endpoints))
        self._stop = threading.Event()
        self._lease_s = lease_s
        self._running: dict[str, Delivery] = {}
        self._free = Counter({trigger.name: trigger.concurrency for trigger in triggers})
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        if self._triggers:
            for work in (self._find, self._deliver):
                thread = threading.Thread(target=work, name=f"triggers {work.__name__}", daemon=True)
                self._threads.append(thread)
                thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        for thread in self._threads:
            thread.join(10.0)

    def stop(self) -> None:
        """End soon, without waiting for it."""
        self._stop.set()

    def _find(self) -> None:
        finder: EventFinder | None = None
        looks = failures = 0
        wait_s = 0.0
        while not self._stop.wait(wait_s):
            try:
                finder = finder or EventFinder(self._triggers, self._runner, self._queue, self._unlanded)
                finder.find()
                if looks % _TIDY == 0:
                    self._queue.tidy()
                looks, failures, wait_s = looks + 1, 0, _LOOK_S
            except Exception as error:  # a thread that ends would leave every later event unseen
                failures += 1
                wait_s = backoff(failures, first_s=_LOOK_S, longest_s=_LONGEST_S)
                if failures == 1:
                    log.warning("events for triggers are not found at present: %s", _said(error))
                log.debug("", exc_info=True)
        if finder is not None:
            finder.close()

    def _deliver(self) -> None:
        actions = {trigger.name: action_of(trigger.action, self._runner, self._stop.is_set) for trigger in self._triggers}
        most = sum(trigger.concurrency for trigger in self._triggers)
        failing, renewed = False, time.monotonic()
        with ThreadPoolExecutor(most, thread_name_prefix="trigger") as pool:
            while not self._stop.wait(_DELIVER_S):
                try:
                    if time.monotonic() - renewed > self._lease_s / 4:
                        with self._lock:
                            running = list(self._running.values())
                        self._queue.renew(running, lease_s=self._lease_s)
                        renewed = time.monotonic()
                    for trigger in self._triggers:
                        if free := self._free[trigger.name]:
                            for delivery in self._queue.take(trigger.name, free, lease_s=self._lease_s):
                                with self._lock:
                                    self._free[trigger.name] -= 1
                                    self._running[delivery.id] = delivery
                                pool.submit(self._one, trigger, actions[trigger.name], delivery)
                    failing = False
                except Exception as error:
                    if not failing:
                        log.warning("events are not delivered to triggers at present: %s", _said(error))
                    failing = True
                    log.debug("", exc_info=True)

    def _one(self, trigger: TriggerSettings, action: Action, delivery: Delivery) -> None:
        try:
            why, final = "", False
            if delivery.attempts > trigger.attempts:
                why, final = delivery.reason or "the process ended each time it was delivered", True
            else:
                try:
                    action(delivery.event)
                except DeliveryFailed as error:
                    why, final = str(error), error.final
            if not why:
                self._queue.done(delivery)
                return
            if self._stop.is_set():  # which is not the action's fault
                self._queue.failed(delivery, why, retry_s=0.0)
                return
            final = final or delivery.attempts >= trigger.attempts
            if final:
                log.warning("trigger %s gives up %s: %s", trigger.name, printable(delivery.event["id"]), printable(why))
            later_s = backoff(delivery.attempts, first_s=trigger.first_s, longest_s=trigger.longest_s)
            self._queue.failed(delivery, why, retry_s=None if final else later_s)
        except Exception as error:  # it is delivered again when its time is up
            log.warning("trigger %s: %s", trigger.name, _said(error))
            log.debug("", exc_info=True)
        finally:
            with self._lock:
                self._free[trigger.name] += 1
                self._running.pop(delivery.id, None)


def _said(error: Exception) -> str:
    return printable(error.message if isinstance(error, HeadraceError) else str(error) or type(error).__name__)
