"""The threads of `headrace up` that follow sources: each puts what changed, and says how far the index is behind."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from headrace.api.index_thread import IndexThread
from headrace.catalog import SOURCES
from headrace.core.runner import Runner
from headrace.documents.index import put_documents
from headrace.documents.sources.follow import Follower, SourceChanges
from headrace.documents.sources.git import Repositories
from headrace.documents.sources.notified import NotifiedBucket
from headrace.errors import HeadraceError
from headrace.settings import Inference, SourceSettings
from headrace.storage.objects import BucketReader
from headrace.terminal import printable

log = logging.getLogger("headrace.api")


@dataclass(frozen=True)
class FollowedSource:
    """How far the index follows a source.

    `documents` it had at the last look, -1 before the first. `behind_s` is an upper bound of the age in seconds of the oldest
    change that no question finds yet, 0 if there is none: it counts from the look before the one that saw the change, and where
    the source cannot be listed from the last look. `trouble` says in one sentence what holds it up, or is empty.
    """

    place: str
    tenant: str
    documents: int
    behind_s: float
    trouble: str


class Lag:
    """Since when the index is behind a source (`time.monotonic`); safe to share between threads.

    `is_past` tells whether all that was on the head at an announcement is in the index.
    """

    def __init__(self, is_past: Callable[[int], bool]) -> None:
        self._is_past = is_past
        self._lock = threading.Lock()
        self._changed: float | None = None  # the look before the one that saw the oldest change
        self._announced: int | None = None  # with which announcement all changes are on the head; `None`: not all are yet
        self._unseen: float | None = None  # the last look before the source could not be followed any more

    def changed(self, at: float) -> None:
        """There is a change, made after `at`, which is not on the head yet."""
        with self._lock:
            self._settle()
            self._changed = at if self._changed is None else self._changed
            self._announced = None

    def announced(self, number: int | None) -> None:
        """All changes are on the head since this announcement; `None`: there was nothing to announce."""
        with self._lock:
            self._announced = number
            if number is None:
                self._changed = None

    def failed(self, at: float) -> None:
        """The source has not been followed since `at`."""
        with self._lock:
            self._unseen = at if self._unseen is None else self._unseen

    def followed(self) -> None:
        """It is followed again."""
        with self._lock:
            self._unseen = None

    def seconds(self) -> float:
        """How far the index is behind now."""
        with self._lock:
            self._settle()
            since = [at for at in (self._changed, self._unseen) if at is not None]
            return time.monotonic() - min(since) if since else 0.0

    def _settle(self) -> None:
        if self._announced is not None and self._is_past(self._announced):
            self._changed = self._announced = None


class FollowThread:
    """Follows one source, for the tenant `default` unless it names one, which then has to exist: `require_tenant` raises if not.

    Changes are announced to `indexing`.
    """

    def __init__(
        self,
        source: SourceSettings,
        default: str,
        runner: Runner,
        settings: Inference,
        indexing: IndexThread,
        require_tenant: Callable[[str], None],
    ) -> None:
        self._source = source
        self._tenant = source.tenant or default
        self._runner = runner
        self._settings = settings
        self._indexing = indexing
        self._require_tenant = require_tenant
        self._documents = -1
        self._looked = time.monotonic()
        self._lag = Lag(indexing.is_past)
        self._announced: int | None = None  # the last announcement, `None` before the first
        self._held = self._trouble = ""
        self._stop = threading.Event()
        self._follower: Follower | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name=f"follow {self._source.place}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the look that is under way, without waiting for it."""
        self._stop.set()
        if (follower := self._follower) is not None:
            follower.interrupt()

    def join(self, seconds: float) -> None:
        """Wait at most so long for its end."""
        if self._thread is not None:
            self._thread.join(seconds)

    def state(self) -> FollowedSource:
        """How far the index follows it now."""
        trouble = self._trouble or self._held
        return FollowedSource(self._source.place, self._tenant, self._documents, self._lag.seconds(), trouble)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if self._follower is None:
                    self._follower = self._opened()
                self._look(self._follower)
                self._follower.succeeded()
                self._lag.followed()
                self._trouble = self._follower.trouble
            except Exception as error:  # a thread that ends would leave all later changes unseen
                self._lag.failed(self._looked)
                said = printable(error.message if isinstance(error, HeadraceError) else str(error))
                if said != self._trouble:
                    log.warning("%s is not followed at present: %s", printable(self._source.place), said)
                    log.debug("", exc_info=True)
                self._trouble = said
                if self._follower is not None:
                    self._follower.failed()
            if self._follower is None or self._stop.is_set():  # it may have been stopped before there was one to interrupt
                self._stop.wait(self._source.every_s)
            elif (unchanged_until := self._follower.wait()) is not None:
                self._looked = max(self._looked, unchanged_until)
        if self._follower is not None:
            self._follower.close()

    def _opened(self) -> Follower:
        buckets = self._runner.open(BucketReader, SOURCES, stage="follow")
        notified = NotifiedBucket(self._source, buckets) if self._source.notifications else None
        return Follower([self._source.place], buckets.of, self._source.every_s, [self._source], notified, Repositories(buckets))

    def _look(self, follower: Follower) -> None:
        looked = time.monotonic()
        changes = follower.changed()
        if changes is not None:
            self._lag.changed(self._looked)
            announced, unread = self._put(changes)
            self._lag.announced(announced)
            follower.followed(changes, seconds=time.monotonic() - looked, held=bool(self._held), unread=unread)
            self._documents = len(changes.stamps)
        self._looked = looked

    def _put(self, changes: SourceChanges) -> tuple[int | None, bool]:
        """Put what changed. Returns the number of the last announcement; where nothing was put, that of an earlier one.

        It is `None` where an empty source has nothing to announce. The second says whether some documents could not be read.
        """
        if not changes.stamps and self._documents < 1 and not changes.listing.closed:  # an empty source deletes nothing
            return None, False
        if self._source.tenant:
            self._require_tenant(self._tenant)
        done, _ = put_documents(
            self._runner,
            [self._source.place],
            tenant=self._tenant,
            settings=self._settings,
            readers=self._source.readers,
            attributes=self._source.attributes,
            rules=[self._source],
            changes=changes,
        )
        held = ""
        if done.held_back:
            held = (
                f"{done.held_back:,} of {done.known:,} documents are gone at once and are kept. To delete them: headrace index "
                f"{self._source.place} --tenant {self._tenant} --accept-deletions"
            )
            if not self._held:
                log.warning("%s: %s", printable(self._source.place), printable(held))
        self._held = held
        if done.put or done.refused or done.deleted or self._announced is None:
            self._announced = self._indexing.announce(self._tenant, withdraws=done.deleted > 0)
        # Where nothing was put, what was announced before may still be on its way to the index.
        return self._announced, bool(done.refused or done.failed_before)
