"""Retention: documents that are older than their tenant keeps them are deleted, as a deletion by hand does it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from headrace.catalog import DOCUMENT_ROWS
from headrace.core.clock import SteadyClock
from headrace.core.runner import Runner
from headrace.documents.claims import SourceClaims
from headrace.documents.lookup import DocumentLookup
from headrace.documents.names import composed
from headrace.documents.put import delete
from headrace.documents.versions import EXPIRED
from headrace.documents.view import DocumentView
from headrace.storage.tables.handles import TableReader

_DAY_S = 86_400
_AT_ONCE = 500  # documents, so that a first pass over many holds nothing else up for long


class Retention:
    """Deletes what is too old; kept between passes, it knows when the next document will be, so that most passes read nothing."""

    def __init__(self, clock: SteadyClock | None = None) -> None:
        self._clock = clock
        self._due: dict[str, tuple[int, float]] = {}  # tenant → the days it was asked with, and when its next document is due

    def expire(self, runner: Runner, days: Callable[[str], int], *, now_s: float | None = None) -> int:
        """Delete documents whose version is older than `days` says of their tenant; 0 keeps them. Returns how many.

        The age of a document is that of the version that answers, or of its newest one if none does; other readers or attributes
        make it no younger. What is put while it is deleted stays. A file or an object of a followed source stays where it is, and
        is put again only once it changes. Raises `ClockSet` where the time is not to be believed.
        """
        now_s = time.time() if now_s is None else now_s
        if self._clock is not None:
            self._clock.check(now_s)
        lookup = DocumentLookup(runner.metadata, runner.open(TableReader, DOCUMENT_ROWS, stage="retention"))
        lookup.follow()
        view: DocumentView | None = None
        count = 0
        for tenant in lookup.tenants():
            kept_days = days(tenant)
            known_days, due_s = self._due.get(tenant, (0, -math.inf))
            if not kept_days or (known_days == kept_days and now_s < due_s):
                continue
            old, next_s = lookup.older_than(tenant, now_s - kept_days * _DAY_S, _AT_ONCE)
            put_again = SourceClaims(runner.metadata).documents(tenant) if old else set[str]()
            for uri, version in old.items():
                if composed(uri) in put_again:
                    continue  # a newer version that is not parsed yet
                view = view or DocumentView(runner)
                versions = view.freed_by_deletion(tenant, uri)
                runner.run(delete, tenant=tenant, uri=uri, versions=versions, reason=EXPIRED, only=version)
                count += 1
            # What was deleted is in the table once its events are parsed: until then it is found again.
            self._due[tenant] = kept_days, -math.inf if old else next_s + kept_days * _DAY_S
        return count
