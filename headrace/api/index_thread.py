"""The thread of `headrace up` that indexes what was put, one pass after another."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection
from contextlib import closing

from headrace.core.runner import Runner
from headrace.documents.embedding import Embedding
from headrace.documents.formats.contract import ParseLimits
from headrace.documents.index import land_and_parse, update_index
from headrace.documents.parse import SOON_S
from headrace.documents.parsing import Parsing
from headrace.documents.splitting import Splitting
from headrace.documents.view import DocumentView
from headrace.errors import LostRace, StorageFull, Transient, kind_of
from headrace.readiness import Trouble
from headrace.retry import backoff
from headrace.settings import Inference
from headrace.terminal import printable

_RETRY_S = 1.0
_LONGEST_S, _AWAY_S = 30.0, 4.0
"""Longest wait after a pass that failed, and after one that storage failed, which often comes back within seconds."""
_OVERTAKEN_S, _LOST = 0.5, 20
"""Wait after another replica was faster for the first time, and after how many times in a row that blocks this one's passes."""
_PARSE_S = 10.0
"""Seconds of parsing in a pass; what is parsed by then need not wait for the rest."""
_SPLIT_S = 4.0
"""Seconds of splitting in a pass, for the same reason."""

_COMPARE_S = 86_400.0
"""Seconds between comparisons of the whole index with the tables."""

log = logging.getLogger("headrace.api")


class Blocked:
    """What blocks passes that are tried again, and since when: `None` once the stage that failed has passed, or a whole pass.

    After an outage the first pass may take long over all that waits; what failed works again before it ends.
    """

    def __init__(self) -> None:
        self.trouble: Trouble | None = None
        self._passed = self._failed_after = 0

    def begun(self) -> None:
        """A pass begins."""
        self._passed = 0

    def passed(self) -> None:
        """A stage of it is done."""
        self._passed += 1
        if self._passed > self._failed_after:
            self.trouble = None

    def failed(self, state: str) -> None:
        """The stage behind those that passed failed."""
        self.trouble = Trouble(state, time.monotonic() if self.trouble is None else self.trouble.since)
        self._failed_after = self._passed

    def done(self) -> None:
        """The pass is done."""
        self.trouble = None


class IndexThread:
    """Indexes what is on the head, first what an earlier process left; a pass that storage fails is tried again."""

    def __init__(self, view: DocumentView, runner: Runner, settings: Inference) -> None:
        self._view = view
        self._runner = runner
        self._settings = settings
        self._arrived: set[str] = set()  # tenants that put or deleted something since the pass under way began
        self._withdrawn = False  # whether one of them deleted something, or closed it to some readers
        self._parsing = Parsing()
        self._unfinished: frozenset[str] = frozenset()  # documents that the last pass left to be split or embedded
        self._splitting, self._embedding = Splitting(), Embedding()
        self._lock = threading.Lock()
        self._work = threading.Event()
        self._thread: threading.Thread | None = None
        self._blocked = Blocked()
        self._compared = time.monotonic()
        self._ended: dict[str, float] = {}  # when each stage of a pass ended
        # How long the last pass took, parsing aside. On a busy machine that is long, whatever a pass has to do: parsing for as
        # long takes in more for it, or passes would take in less than is put.
        self._rest_s = 0.0
        self._begun = self._whole = 0  # passes that have begun, and the last of them that left nothing to do
        self.stopping = False

    def start(self) -> None:
        """Start the thread."""
        self._work.set()
        self._thread = threading.Thread(target=self._run, name="index", daemon=True)
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """End after the stage that is under way; wait for it at most `seconds`."""
        self.stopping = True
        self._work.set()
        if self._thread is not None:
            self._thread.join(seconds)

    def trouble(self) -> Trouble | None:
        """What blocks indexing, and since when; `None` if nothing does."""
        return self._blocked.trouble

    def announce(self, tenant: str, *, withdraws: bool = False) -> int:
        """Say that a tenant has put or deleted something. Returns what `is_past` takes.

        With `withdraws` it deleted something or closed it to some readers, which must not wait for all that is to be embedded.
        """
        with self._lock:
            self._arrived.add(tenant)
            self._withdrawn = self._withdrawn or withdraws
            begun = self._begun
        self._work.set()
        return begun

    def is_past(self, announced: int) -> bool:
        """Whether all that was on the head when something was announced is in the index by now, or failed."""
        return self._whole > announced

    def _run(self) -> None:
        with closing(self._parsing):
            self._passes()

    def _passes(self) -> None:
        failures = lost = 0
        while True:
            self._work.wait(_COMPARE_S)
            if self.stopping:
                return
            self._work.clear()
            try:
                with self._view.during_pass():
                    self._pass()
                self._blocked.done()
                failures = lost = 0
            except _Stopped:
                return
            except LostRace as error:  # another replica took in the same events, and this one goes on from there
                lost += 1
                if lost == _LOST:
                    self._blocked.failed(f"is overtaken by another process again and again ({kind_of(error)})")
                log.log(logging.ERROR if lost == _LOST else logging.DEBUG, "indexing goes on from: %s", printable(error.message))
                self._work.set()
                if self._sleep(backoff(lost, first_s=_OVERTAKEN_S, longest_s=_AWAY_S)):
                    return
            except Exception as error:  # a thread that ends would leave everything that is put later unindexed
                self._blocked.failed(f"fails and is tried again ({kind_of(error)})")
                log.error("indexing fails and is tried again: %s", printable(str(error)))
                log.debug("", exc_info=True)
                self._work.set()
                failures += 1
                longest_s = _AWAY_S if isinstance(error, Transient | StorageFull) else _LONGEST_S
                if self._sleep(backoff(failures, first_s=_RETRY_S, longest_s=longest_s, spread=0.0)):
                    return

    def _sleep(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.stopping:
            time.sleep(0.1)
        return self.stopping

    def _pass(self) -> None:
        with self._lock:
            arrived = bool(self._arrived)
            self._arrived.clear()
            self._withdrawn = False
            self._begun += 1
            begun = self._begun
        self._blocked.begun()
        began = time.monotonic()
        if arrived:
            self._parsing.prepare(ParseLimits.from_settings(self._settings))
        _, parsed = land_and_parse(
            self._runner,
            self._settings,
            parse_s=_PARSE_S,
            soon_s=max(SOON_S, self._rest_s),
            parsing=self._parsing,
            waits=not self._unfinished,
            gives_way=self._gives_way,
            after=self._go_on,
        )
        unfinished: frozenset[str] = frozenset()
        if (pending := self._view.pending()) is not None:
            compare = self._compares()
            filled = update_index(
                self._runner,
                self._settings,
                gives_way=lambda waiting: self._withdrawn or self._gives_way(waiting),
                split_s=_SPLIT_S,
                splitting=self._splitting,
                embedding=self._embedding,
                compare=compare,
                after=self._go_on,
            )
            unfinished = filled.embedded.unfinished | filled.chunked.unfinished
            if compare and not unfinished:
                self._compared = time.monotonic()
            self._view.note_indexed(pending, unfinished)
        self._unfinished = unfinished
        self._rest_s = time.monotonic() - began - (self._ended["parse"] - self._ended["land"])
        if parsed.left or unfinished:
            self._work.set()
        else:
            self._whole = begun

    def _compares(self) -> bool:
        """Whether this pass compares the whole index with the tables: once a day, when nobody waits for it."""
        with self._lock:
            return not self._arrived and time.monotonic() - self._compared > _COMPARE_S

    def _gives_way(self, waiting: Collection[str]) -> bool:
        """Whether a tenant other than the `waiting` ones has put something, a slow document is parsed, or the service stops."""
        with self._lock:
            return self.stopping or self._parsing.ready() or not self._arrived <= set(waiting)

    def _go_on(self, stage: str) -> None:
        self._ended[stage] = time.monotonic()
        self._blocked.passed()
        if self.stopping:
            raise _Stopped


class _Stopped(Exception):
    """The service is stopping."""
