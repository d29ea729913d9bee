"""put: the bytes of documents to the object store, and an event of each to the head: of files, and of what the API was sent."""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from headrace.catalog import DOCUMENT_EVENTS, DOCUMENT_ROWS, DOCUMENTS, SOURCES
from headrace.core.progress import ProgressBars
from headrace.core.stage import stage
from headrace.documents.claims import SourceClaims
from headrace.documents.lookup import DocumentLookup
from headrace.documents.names import check_principals, document_id, object_key
from headrace.documents.restrict import narrowed
from headrace.documents.sources.follow import SourceChanges
from headrace.documents.sources.git import Repositories
from headrace.documents.sources.hashes import SourceHashes, Stamped
from headrace.documents.sources.listing import FoundDocument, SourceListing, find
from headrace.documents.versions import EXPIRED, SOURCE_GONE, StoredVersion
from headrace.errors import BadDocument
from headrace.settings import SourceSettings
from headrace.storage.filters import NOBODY, check_attributes
from headrace.storage.metadata import Metadata
from headrace.storage.objects import BucketReader, ObjectWriter
from headrace.storage.stream.writer import TopicWriter
from headrace.storage.tables.handles import TableReader
from headrace.storage.timeline import AHEAD

_ANNOUNCE = 200  # events per round trip to the head
_FILES_AT_ONCE = 4  # files in memory and on their way to the object store
_FEW_GONE, _SHARE_GONE = 10, 0.1  # more documents and a larger share than these are held back when they are gone at once


@dataclass(frozen=True)
class Put:
    """How many documents were put, were unchanged, could not be read, and are gone from their folder or prefix.

    `failed_before` has those of the unchanged that failed when they were indexed, with their reasons. `held_back` are gone, too,
    of `known` that were there; but so many at once that they were kept.
    """

    put: int
    unchanged: int
    refused: int
    deleted: int = 0
    failed_before: tuple[FailedBefore, ...] = ()
    held_back: int = 0
    known: int = 0


@dataclass(frozen=True)
class FailedBefore:
    """A file that has not changed since it failed."""

    uri: str
    reason: str


@dataclass(frozen=True)
class Announced:
    """Where on the head a document's event is."""

    partition: int
    offset: int


@stage("Puts each source file into the object store and announces it on the head.", phase=AHEAD)
def put(
    originals: Annotated[ObjectWriter, DOCUMENTS],
    known: Annotated[TableReader, DOCUMENT_ROWS],
    events: Annotated[TopicWriter, DOCUMENT_EVENTS],
    buckets: Annotated[BucketReader, SOURCES],
    bars: ProgressBars,
    metadata: Metadata,
    tenant: str,
    places: Sequence[str | Path],
    most_bytes: int,
    readers: Sequence[str] | None = None,
    attributes: Sequence[str] | None = None,
    settle: Callable[[], object] | None = None,
    retry: bool = False,
    accept_deletions: bool = False,
    rules: Sequence[SourceSettings] = (),
    changes: SourceChanges | None = None,
    restrict: Callable[[Mapping[str, Sequence[str]]], object] | None = None,
) -> Put:
    """Put every document at `places` that is new or changed, by its hash; with `retry` also those that failed.

    A place is a path, `s3://BUCKET/PREFIX` on the object tier's S3, or a Git repository, `git+URL`.

    - `readers` may read the files from now on; an empty sequence opens them to everybody of the tenant. With `None` a document
      keeps the readers it has, a renamed file those of its old name, and a new file is open to everybody of the tenant. The same
      goes for `attributes`, of which a new file has none. Where the current readers or attributes matter, `settle` is called
      first, to bring the table up to the head.
    - A file that cannot be read is announced as refused, with the reason, so that its status is recorded too.
    - A document that was found in one of these folders or prefixes before and is not there any more is announced as deleted. One
      that is empty, or could not be listed in full, deletes nothing: most likely it is not mounted. Where more than ten documents
      and a tenth of them are gone at once, nothing is deleted either, unless `accept_deletions` says so.
    - What has the times, size and inode, or the etag, that it had when it was read before is not read again.
    - Where the settings of a source in `rules` say that permissions count, a document's readers are those that may read it in the
      source, whatever `readers` says. What is below a folder that may not be listed any more is announced as refused, and closed.
    - `restrict` is called with the ids of documents that fewer may read by now, and whose, before anything is put.
    - `changes` has the listing, and what of it changed, where the caller has looked already.

    Raises what `find` raises, and `WrongUsage` for a reader without a name and an invalid attribute.
    """
    check_principals(readers or ())
    check_attributes(attributes or ())
    lookup = DocumentLookup(metadata, known)
    listing = (
        find(places, buckets.of, rules, Repositories(buckets)) if changes is None else changes.listing.metered(buckets.meter)
    )
    every, whole = listing.documents, listing.whole
    seen = {file.uri for file in every}
    # Of a source that is followed only what changed is compared with the index.
    only = None if changes is None else changes.changed
    files = every if only is None else [file for file in every if file.uri in only]
    hashes, claims = SourceHashes(metadata, tenant), SourceClaims(metadata)
    read_before = hashes.known(sorted({file.source for file in files if file.source is not None}), only)
    read_now: dict[tuple[str, str], Stamped] = {}

    def newest() -> dict[str, StoredVersion]:
        """Those of the files, and of what was found in these folders before."""
        lookup.follow()
        if changes is not None and only is not None:
            rows = lookup.of_uris(tenant, only | changes.gone)
        else:
            rows = lookup.of_uris(tenant, seen) | lookup.of_sources(tenant, whole | set(listing.closed.values()))
        return {uri: StoredVersion.from_row(row) for uri, row in rows.items()}

    current = newest()

    def missing() -> dict[str, StoredVersion]:
        return {uri: was for uri, was in current.items() if was.status != "deleted" and uri not in seen and was.source in whole}

    matters = readers is not None or attributes is not None or any(file.readers is not None for file in files)
    if settle is not None and ((matters and only is None) or missing()):
        settle()
        current = newest()
    gone = missing()
    there_before = {uri: was for uri, was in current.items() if was.status != "deleted"}
    unlisted = {uri: was for uri, was in there_before.items() if uri not in seen and _is_in(uri, was, listing)}
    if restrict is not None:
        allowed = {file.uri: _readers_of(file, readers) for file in files if file.uri in there_before}
        allowed |= dict.fromkeys(unlisted, (NOBODY,))
        fewer = {uri: narrowed(there_before[uri].readers, now) for uri, now in allowed.items() if now is not None}
        if any(fewer.values()):
            restrict({document_id(tenant, uri): left for uri, left in fewer.items() if left})
    unparsed = claims.documents(tenant)
    inherited: dict[str, StoredVersion] = {}
    for was in sorted(gone.values(), key=lambda was: bool(was.readers)):  # of several, one that is closed
        inherited[was.version] = was

    def stored(uri: str, version: str, named: dict[str, Any]) -> dict[str, Any] | None:
        """The event of a document of which only readers or attributes changed; `None` where its source is gone."""
        if (there := originals.info(object_key(tenant, version))) is None:
            return None
        made = event(tenant, uri, "put", **named, sha256=version, bytes=there.bytes)
        claims.add(made)
        # Again, since only from now on nobody deletes it.
        return None if originals.info(object_key(tenant, version)) is None else made

    def put_file(file: FoundDocument) -> dict[str, Any] | None:
        """The event of one file, its bytes stored; `None` where nothing changed."""
        was, wanted = current.get(file.uri), _readers_of(file, readers)
        same = (
            was is not None
            and was.source == file.source
            and (wanted is None or sorted(was.readers) == sorted(wanted))
            and (attributes is None or sorted(was.attributes) == sorted(attributes))
            # What was announced before may be on the head and not in the table.
            and file.uri not in unparsed
            and not (changes is not None and file.uri in changes.relabelled)
        )
        named: dict[str, Any] = {"readers": wanted, "attributes": attributes, "source": file.source}
        stamp, key = file.stamp(), (file.source or "", file.uri)
        if was is not None and (was.status, was.reason) == ("deleted", EXPIRED) and stamp and _stamp(read_before, key) == stamp:
            return None  # it is as old as it was when it was deleted for its age
        again = was is not None and was.status == "failed" and (retry or was.reason == SOURCE_GONE)
        if not again and stamp and was is not None and was.version and read_before.get(key) == (stamp, was.version):
            if same:
                return None
            if was.source == file.source and (made := stored(file.uri, was.version, named)) is not None:
                return made
        try:
            data = file.read(most_bytes)
        except BadDocument as error:
            if same and was is not None and (was.status, was.version, was.reason) == ("failed", "", error.reason):
                return None
            return event(tenant, file.uri, "refuse", **named, reason=error.reason)
        if file.readers is not None and (now := file.readers_now()) != file.readers:
            named["readers"], same = now, False  # of what was read, which may have been put in its place meanwhile
        sha256 = hashlib.sha256(data).hexdigest()
        if file.source is not None and file.settled(stamp) and file.stamp() == stamp:
            read_now[key] = Stamped(stamp, sha256)
        if same and was is not None and was.version == sha256 and not again:
            return None
        if was is None and (renamed := inherited.get(sha256)) is not None:
            named["readers"] = renamed.readers if named["readers"] is None else named["readers"]
            named["attributes"] = renamed.attributes if attributes is None else attributes
        made = event(tenant, file.uri, "put", **named, sha256=sha256, bytes=len(data))
        claims.add(made)
        store(originals, tenant, sha256, data)
        return made

    failed_before = []
    kinds: Counter[str] = Counter()
    waiting: list[dict[str, Any]] = []
    versions: set[str] = set()  # of the documents listed; a missing document with one of these versions was renamed
    with ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="put") as pool:
        made_of = bars.track(pool.map(put_file, files), "put", total=len(files), of="files")
        for file, made in zip(files, made_of, strict=True):
            kinds[made["kind"] if made else "unchanged"] += 1
            versions.add(made["sha256"] if made else current[file.uri].version)
            if made is None and (known_as := current[file.uri]).status == "failed":
                failed_before.append(FailedBefore(file.uri, known_as.reason))
            # Announced once its bytes are stored, so that every consumer of the event finds them.
            waiting += [made] if made else []
            if len(waiting) >= _ANNOUNCE:
                announce(events, waiting)
                waiting = []
    if only is None:
        there = sum(was.status != "deleted" and was.source in whole for was in current.values())
    else:
        there = len(every) + len(gone)
    lost = sum(was.version not in versions for was in gone.values())
    held_back = 0 if accept_deletions or lost <= _FEW_GONE or lost <= _SHARE_GONE * there else len(gone)
    if held_back:
        gone = {}
    why = "its folder may not be listed, so that nobody can be said to be allowed to read it"
    for uri, was in unlisted.items():
        if (was.status, was.readers, was.reason) != ("failed", (NOBODY,), why):
            waiting.append(event(tenant, uri, "refuse", readers=(NOBODY,), source=was.source, reason=why))
            kinds["refuse"] += 1
    # Last, so that a renamed file is there under its new name before it goes under its old one.
    waiting += [event(tenant, uri, "delete", source=was.source) for uri, was in gone.items()]
    for start in range(0, len(waiting), _ANNOUNCE):
        announce(events, waiting[start : start + _ANNOUNCE])
    hashes.note(read_now, [(was.source or "", uri) for uri, was in gone.items()])
    unchanged = kinds["unchanged"] + len(every) - len(files)
    return Put(kinds["put"], unchanged, kinds["refuse"], len(gone), tuple(failed_before), held_back, there)


def _stamp(read_before: Mapping[tuple[str, str], Stamped], key: tuple[str, str]) -> str:
    known = read_before.get(key)
    return known.stamp if known is not None else ""


def _readers_of(file: FoundDocument, readers: Sequence[str] | None) -> Sequence[str] | None:
    return readers if file.readers is None else file.readers


def _is_in(uri: str, was: StoredVersion, listing: SourceListing) -> bool:
    """Whether a document is below a folder that could not be listed."""
    return any(was.source == source and uri.startswith(f"{folder}/") for folder, source in listing.closed.items())


@stage("Puts the bytes of one document into the object store and announces it on the head.", phase=AHEAD, counted_as="put")
def put_document(
    originals: Annotated[ObjectWriter, DOCUMENTS],
    events: Annotated[TopicWriter, DOCUMENT_EVENTS],
    metadata: Metadata,
    tenant: str,
    uri: str,
    data: bytes,
    readers: Sequence[str] | None = None,
    attributes: Sequence[str] | None = None,
    sha256: str = "",
    event_id: str = "",
    bound_to: Sequence[str] | None = None,
) -> Announced:
    """Store a document's bytes, then announce it; `sha256` is their hash, where the caller has it, `event_id` the event's.

    With `bound_to` it counts only if some of these readers may read the document as the events before this one have it.

    `readers` may read it from now on; an empty sequence opens it to everybody of the tenant. `None` leaves the readers as the
    events before this one have them, also those not parsed yet; a new document is then open to everybody of the tenant. The same
    goes for its `attributes`, `key=value` each, of which a new document has none.
    """
    sha256 = sha256 or hashlib.sha256(data).hexdigest()
    put_event = event(tenant, uri, "put", readers=readers, attributes=attributes, sha256=sha256, bytes=len(data))
    put_event |= {"bound_to": None if bound_to is None else list(bound_to)}
    put_event["event_id"] = event_id or put_event["event_id"]
    claims = SourceClaims(metadata)
    claims.add(put_event)
    store(originals, tenant, sha256, data)
    announced = announce(events, [put_event])[0]
    # Another process that deleted the document just before this was announced took its claim for one of an earlier put.
    if put_event["event_id"] not in claims.events_of(tenant, uri):
        claims.add(put_event)
    store(originals, tenant, sha256, data)
    return announced


@stage("Deletes a document: announces that, and deletes those of its sources that no other document has.", phase=AHEAD)
def delete(
    originals: Annotated[ObjectWriter, DOCUMENTS],
    events: Annotated[TopicWriter, DOCUMENT_EVENTS],
    metadata: Metadata,
    tenant: str,
    uri: str,
    versions: Collection[str],
    reason: str = "",
    only: str = "",
    event_id: str = "",
    bound_to: Sequence[str] | None = None,
    may_free: Callable[[], bool] = lambda: True,
) -> Announced:
    """Announce that a document is deleted, then delete the sources of these versions of it that no other put has claimed.

    With `only` it is deleted if its newest version is that one when the event is processed: what is put meanwhile stays.
    A document that is put again has the readers and attributes it had before, unless the event names others.
    `bound_to` is as in `put_document`. Sources are deleted if `may_free`, called once the event is announced, says so.
    """
    claims, deletion = SourceClaims(metadata), event(tenant, uri, "delete", reason=reason, sha256=only)
    deletion |= {"bound_to": None if bound_to is None else list(bound_to)}
    deletion["event_id"] = event_id or deletion["event_id"]
    before = claims.events_of(tenant, uri)
    claims.add({**deletion, "sha256": ""})
    announced = announce(events, [deletion])[0]
    if not may_free():
        return announced
    if not only and bound_to is None:  # one that is bound may not count
        claims.drop_announced(before)
    for version in sorted(set(versions)):
        # Each time, since there may be many; those of this document too, which another process may put again meanwhile.
        if not claims.claimed(tenant, (version,), beside=()):
            originals.delete(object_key(tenant, version))
    return announced


def store(originals: ObjectWriter, tenant: str, sha256: str, data: bytes) -> None:
    """Write a source unless the tenant has stored the same bytes; their `sha256` is the version of the document."""
    key = object_key(tenant, sha256)
    if originals.info(key) is None:
        originals.put(key, data)


def event(
    tenant: str,
    uri: str,
    kind: str,
    *,
    readers: Sequence[str] | None = None,
    attributes: Sequence[str] | None = None,
    source: str | None = None,
    **fields: object,
) -> dict[str, Any]:
    """A document's event; `kind` is put, refuse or delete. `readers` and `attributes` as in `put`, `source` as in `FoundFile`."""
    return {
        "event_id": uuid.uuid4().hex,
        "kind": kind,
        "tenant": tenant,
        "uri": uri,
        "source": source,
        "readers": None if readers is None else list(readers),
        "attributes": None if attributes is None else list(attributes),
        "bound_to": None,
        **{"sha256": "", "bytes": 0, "reason": "", **fields},
        "at": datetime.now(UTC),
    }


def announce(events: TopicWriter, announced: Sequence[dict[str, Any]]) -> list[Announced]:
    """Append events to the head; all of one document go to one partition, in their order."""
    return [Announced(*place) for place in events.append(list(announced), key="uri")]
