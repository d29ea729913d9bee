"""Looking at sources again and again: what they have, what of it changed, and when to look next."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace.documents.sources.bucket import OpensBucket
from headrace.documents.sources.git import Repositories
from headrace.documents.sources.listing import SourceListing, find, stamp_of
from headrace.documents.sources.notified import NotifiedBucket
from headrace.documents.sources.places import is_path
from headrace.documents.sources.watch import FolderWatch
from headrace.retry import backoff
from headrace.settings import SourceSettings

_LONGEST_S = 30.0
_WATCHED_S = 30.0  # between listings of a folder of which the kernel says when something changes in it
_SHARE = 5  # a listing takes at most this part of the time
_WHOLE_S, _RETRY_S, _WHOLE_SHARE = 60.0, 30.0, 20  # between comparisons of all with the index, which take a twentieth of the time


@dataclass(frozen=True)
class SourceChanges:
    """A listing that differs from the one the index follows, and in what.

    `changed` are the uris of new and changed documents, `relabelled` of those among them that others may read by now, `gone` of
    those that were listed before. `None` as `changed` means that all documents are to be compared with the index.
    """

    listing: SourceListing
    stamps: Mapping[str, str]
    changed: frozenset[str] | None
    relabelled: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()


class Follower:
    """Compares listings of some paths and addresses; `bucket_of` opens a bucket by its name, `rules` are the sources' settings.

    `repositories` opens those of Git. With `notified`, the only place's, it is listed only where notifications do not say what
    changed.

    Between two looks are `every_s` seconds, or five times as long as a listing takes; after failures longer, 30 s at most. In
    folders that the kernel watches a change is looked at as soon as it is over, and where it notices every change there are 30 s
    between two looks without one.
    """

    def __init__(
        self,
        places: Sequence[str | Path],
        bucket_of: OpensBucket,
        every_s: float,
        rules: Sequence[SourceSettings] = (),
        notified: NotifiedBucket | None = None,
        repositories: Repositories | None = None,
    ) -> None:
        self._places = places
        self._bucket_of = bucket_of
        self._every_s = every_s
        self._rules = rules
        self._repositories = repositories
        self._followed: SourceChanges | None = None
        self._again: frozenset[str] = frozenset()
        self._compared = 0.0  # when all documents were last compared with the index, and how long that took
        self._comparing_s = 0.0
        self._held = self._unread = False
        self._notified = notified
        self._failures = 0
        folders = [Path(place) for place in places if is_path(place)]
        self._watch = FolderWatch(folders)
        self._folders_only = len(folders) == len(places)
        self._rest_s = 0.0  # before the next look, whatever changes
        self.wait_s = 0.0
        """Seconds until the next look, where nothing is noticed before."""

    def changed(self) -> SourceChanges | None:
        """What is there, if it is not what `followed` was told last. Raises what `find` raises.

        A file that had just changed is among the changes once more when it has not changed for a while: two changes within a
        tick of its file system's clock look like one.
        """
        started = time.monotonic()
        self._watch.renew()
        listing = self._look()
        self._rest_s = _SHARE * (time.monotonic() - started)
        if listing is None:
            return None
        plain = {document.uri: document.stamp() for document in listing.documents}
        stamps = {document.uri: stamp_of(document, plain[document.uri]) for document in listing.documents}
        self._rest_s = _SHARE * (time.monotonic() - started)
        self.wait_s = max(self._every_s, self._rest_s)
        before = self._followed
        if before is None:
            return SourceChanges(listing, stamps, None)
        changed = {document.uri for document in listing.documents if before.stamps.get(document.uri) != stamps[document.uri]}
        settled = {
            document.uri
            for document in listing.documents
            if document.uri in self._again and document.settled(plain[document.uri])
        }
        gone = before.stamps.keys() - stamps.keys()
        since = time.monotonic() - self._compared
        if not (changed or settled or gone or before.listing.closed != listing.closed):
            # What is held back may be accepted by a command meanwhile, and what could not be read may be readable.
            again = (self._held or self._unread) and since > max(_RETRY_S, _WHOLE_SHARE * self._comparing_s)
            return SourceChanges(listing, stamps, None) if again else None
        if self._held or not _comparable(before.listing, listing) or since > max(_WHOLE_S, _WHOLE_SHARE * self._comparing_s):
            return SourceChanges(listing, stamps, None)
        readers = {document.uri: document.readers for document in before.listing.documents}
        relabelled = {
            document.uri
            for document in listing.documents
            if document.uri in changed and readers.get(document.uri) != document.readers
        }
        return SourceChanges(listing, stamps, frozenset(changed | settled), frozenset(relabelled), frozenset(gone))

    def followed(self, changes: SourceChanges, *, seconds: float = 0.0, held: bool = False, unread: bool = False) -> None:
        """Say that the index follows this listing, after so many seconds: but for deletions held back, or documents not read.

        Then all documents are compared with the index from time to time.
        """
        if changes.changed is None:
            self._compared, self._comparing_s = time.monotonic(), seconds
            self._unread = False
        self._held, self._unread = held, self._unread or unread
        new = changes.stamps.keys() if changes.changed is None else changes.changed
        self._again = frozenset(
            document.uri
            for document in changes.listing.documents
            if document.uri in new and (stamp := document.stamp()) and not document.settled(stamp)
        ) | (self._again - new)
        self._followed = changes
        if self._notified is not None:
            self._notified.followed()

    def wait(self) -> float | None:
        """Wait until the next look is due, or `interrupt` is called.

        Returns until when (`time.monotonic`) nothing had changed, where that is known since a change was noticed.
        """
        if self._failures:
            self._watch.pause(self.wait_s)
            return None
        rest_s = min(self._rest_s, self.wait_s)
        self._watch.pause(rest_s)
        settled = not (self._again or self._held or self._unread)
        rarely = self._folders_only and self._watch.complete and settled
        seconds = max(_WATCHED_S, self.wait_s) if rarely else self.wait_s
        changed = self._watch.wait(seconds - rest_s, self.wait_s - rest_s)
        return self._watch.quiet_until if changed and self._watch.complete else None

    def interrupt(self) -> None:
        """Have `wait` return, now and whenever it is called again; any thread may."""
        self._watch.interrupt()

    @property
    def trouble(self) -> str:
        """What does not work and keeps nothing from being followed, in one sentence, or empty."""
        return "" if self._notified is None else self._notified.trouble

    def close(self) -> None:
        """Close what looking opened."""
        self._watch.close()
        if self._notified is not None:
            self._notified.close()

    def _look(self) -> SourceListing | None:
        """What is there; `None` where notifications say that nothing changed."""
        if self._notified is None:
            return find(self._places, self._bucket_of, self._rules, self._repositories)
        before = None if self._followed is None else self._followed.listing
        listing = self._notified.look(before)
        return before if listing is None and (self._held or self._unread) else listing

    def succeeded(self) -> None:
        """Say that a look, and what followed from it, went well."""
        self._failures = 0

    def failed(self) -> None:
        """Say that it did not: the next look comes later."""
        self._failures += 1
        self.wait_s = backoff(self._failures, first_s=self._every_s, longest_s=_LONGEST_S)


def _comparable(before: SourceListing, now: SourceListing) -> bool:
    """Whether a document that only the earlier listing has is gone: both have all of each source."""
    return before.whole == now.whole == now.sources and not before.closed and not now.closed
