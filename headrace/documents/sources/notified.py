"""A bucket whose store says what changes in it: looked at by key, and listed where that may not be all."""

from __future__ import annotations

import math
import time

from headrace.documents.sources.bucket import OpensBucket, SourceBucket
from headrace.documents.sources.listing import SourceListing, find
from headrace.errors import HeadraceError, Unavailable
from headrace.settings import SourceSettings
from headrace.storage.objects import BucketReader
from headrace.storage.stream.notifications import BucketNotifications

_RETRY_S = 10.0  # between attempts to reach the broker
_MOST_KEYS = 1_000  # of a page of a listing


class NotifiedBucket:
    """Looks at a source that has `notifications`.

    It is listed at the start, every `list_s` seconds, after a fault, and where more is named than a listing asks for, each time
    after the reading of notifications has begun.
    So nothing is missed, although no notification is acknowledged to anybody. Without a broker it is listed at each look.
    """

    trouble = ""
    """Why notifications are not read at present, in one sentence; empty if they are."""

    def __init__(self, source: SourceSettings, buckets: BucketReader) -> None:
        if source.notifications is None:
            raise ValueError(f"{source.place} has no notifications")
        self._settings, self._source = source.notifications, source
        self._bucket_of: OpensBucket = buckets.of
        self._buckets = buckets
        self._notifications: BucketNotifications | None = None
        self._listed = self._tried = -math.inf
        self._named: set[str] = set()  # keys of which the index does not follow the change yet

    def look(self, before: SourceListing | None) -> SourceListing | None:
        """What is there by now; `None` where it is as `before`. Raises what `find` raises."""
        reader = self._notifications
        if before is None or reader is None or time.monotonic() - self._listed > self._settings.list_s:
            return self._list()
        bucket = SourceBucket.at(self._source.place, self._bucket_of, self._source)
        try:
            notified = reader.take(bucket.name)
        except Unavailable as error:
            self.close()
            self.trouble = error.message
            return self._list()
        self._named |= notified.keys
        # A listing asks once for a thousand objects; of those that are named, which any program may do, each is asked for.
        few = len(self._named) <= _MOST_KEYS + len(before.documents) // _MOST_KEYS
        if not (notified.complete and few and all(map(bucket.may_look_at, self._named))):
            return self._list()
        if not self._named:
            return None
        try:
            return before.with_objects(bucket.look_at(self._named), bucket.id)
        except (HeadraceError, ValueError):  # it may be one that no object can have, or that may not be asked for
            return self._list()

    def followed(self) -> None:
        """Say that the index follows what was looked at."""
        self._named = set()

    def close(self) -> None:
        """Close the connection; the next look lists."""
        if self._notifications is not None:
            self._notifications.close()
            self._notifications = None

    def _list(self) -> SourceListing:
        self.close()
        if time.monotonic() - self._tried > _RETRY_S:
            self._tried = time.monotonic()
            self._begin()  # before the listing, which then has all that was sent until now
        try:
            listing = find([self._source.place], self._bucket_of, [self._source])
        except BaseException:
            self.close()
            self._tried = -math.inf
            raise
        self._named, self._listed = set(), time.monotonic()
        return listing

    def _begin(self) -> None:
        settings = self._settings
        reader = BucketNotifications(settings.topic, settings.client(), self._buckets.store, self._buckets.meter)
        try:
            reader.start()
        except Unavailable as error:
            self.trouble = error.message
        else:
            self._notifications, self.trouble = reader, ""
