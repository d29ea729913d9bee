"""Forgetting outside the tables: a document's source objects, its vectors in every index generation, and KV blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from typing import Annotated

from headrace.catalog import (
    CHUNK_ROWS,
    CHUNKS,
    DOCUMENT_EVENT_ROWS,
    DOCUMENT_ROWS,
    DOCUMENTS,
    INDEXES,
    KV_CACHE,
    KV_OBJECTS,
    Store,
)
from headrace.core.stage import stage
from headrace.documents.claims import SourceClaims
from headrace.documents.lookup import ChunkLookup, DocumentLookup, SeenEvents
from headrace.documents.names import object_key
from headrace.documents.sources.hashes import SourceHashes
from headrace.lineage.forget.journal import REMOVED, Journal
from headrace.lineage.forget.subject import DOCUMENT, Subject
from headrace.models.kv.backends import BlockWriter
from headrace.models.kv.blocks import BlockInfo
from headrace.models.kv.index import EVERY
from headrace.models.kv.revocation import Revocations, RevokedDocument
from headrace.storage.metadata import Metadata
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.storage.tables.handles import TableReader, quoted
from headrace.storage.vectors.generations import IndexReader
from headrace.storage.vectors.purge import VectorPurger


@stage("Checks whether a document's newest event still puts it.")
def still_indexed(events: Annotated[TableReader, DOCUMENT_EVENT_ROWS], subject: Subject) -> bool:
    """Whether the document's deletion still has to be announced."""
    where = f"tenant = {quoted(subject.tenant)} AND uri IN ({', '.join(map(quoted, subject.uris))})"
    rows = events.read(("kind", "topic", "partition", "offset"), where)
    newest = rows.sort_by([(name, "descending") for name in ("topic", "partition", "offset")]).slice(0, 1).to_pylist()
    return bool(newest) and newest[0]["kind"] != "delete"


@stage("Finds a document's source objects, and its vectors in every generation of the index.")
def find_stored(
    originals: Annotated[ObjectReader, DOCUMENTS],
    known: Annotated[TableReader, DOCUMENT_ROWS],
    vectors: Annotated[VectorPurger, CHUNKS],
    indexes: Annotated[IndexReader, INDEXES],
    metadata: Metadata,
    subject: Subject,
    journal: Journal,
) -> int:
    """Record them in the journal; returns their number. A source shared with another document is kept."""
    others = shared(known, metadata, subject, journal)
    infos = [info for key in sorted(journal.sources - others) if (info := originals.info(key)) is not None]
    # A source object's name is the hash of its bytes.
    hashes = [info.key.rpartition("/")[2] for info in infos]
    journal.take(DOCUMENTS, REMOVED, [info.key for info in infos], hashes, size=sum(info.bytes for info in infos))
    count = len(infos)
    for generation in range(1, max(1, indexes.state()[0].newest) + 1):
        ids = vectors.for_generation(generation).chunks_of(subject.document_id)
        journal.chunks.update(ids)
        journal.take(CHUNKS, REMOVED, (f"g{generation}/{chunk_id}" for chunk_id in ids))
        count += len(ids)
    return count


@stage("Removes a document's source objects, and its vectors from every generation of the index.")
def strike_stored(
    originals: Annotated[ObjectWriter, DOCUMENTS],
    known: Annotated[TableReader, DOCUMENT_ROWS],
    vectors: Annotated[VectorPurger, CHUNKS],
    indexes: Annotated[IndexReader, INDEXES],
    metadata: Metadata,
    subject: Subject,
    journal: Journal,
) -> None:
    """Remove them, including deleted rows in LanceDB's fragments, indices and older versions."""
    for key in sorted(journal.sources - shared(known, metadata, subject, journal)):
        originals.delete(key)
    for generation in range(1, max(1, indexes.state()[0].newest) + 1):
        made = vectors.for_generation(generation)
        made.delete({subject.document_id: ""})
        made.purge()


@stage("Drops what the metadata store has copied from the tables of a document.")
def drop_copies(
    events: Annotated[TableReader, DOCUMENT_EVENT_ROWS],
    documents: Annotated[TableReader, DOCUMENT_ROWS],
    chunks: Annotated[TableReader, CHUNK_ROWS],
    metadata: Metadata,
    subject: Subject,
) -> None:
    """Copy the tables anew, which have lost rows: the older copies go. Other hosts' stores do so with their next command."""
    if subject.kind == DOCUMENT:
        hashes, claims = SourceHashes(metadata, subject.tenant), SourceClaims(metadata)
        for uri in subject.uris:
            hashes.forget(uri)
            claims.drop_document(subject.tenant, uri)
        Revocations(metadata).forget_name(subject.document_id)
    for copy in (SeenEvents(metadata, events), DocumentLookup(metadata, documents), ChunkLookup(metadata, chunks)):
        copy.follow()


@stage("Drops a tenant's KV cache: a block covers a whole prompt, so it may contain anyone's words.")
def drop_kv(
    kv_cache: Annotated[BlockWriter, KV_CACHE],
    kv_objects: Annotated[BlockWriter, KV_OBJECTS],
    metadata: Metadata,
    subject: Subject,
    journal: Journal,
) -> int:
    """Remove all blocks of the tenant, including half-written ones; returns their number.

    From files and from objects, since `files.kv_backend` may have been another when they were written. Answers that are under way
    store none.
    """
    revocations = Revocations(metadata)
    revocations.note([RevokedDocument(subject.tenant, EVERY, "", "forgotten")])

    def note(store: Store, blocks: Sequence[BlockInfo]) -> None:
        if blocks:
            names = hashlib.sha256("\n".join(sorted(block.name for block in blocks)).encode()).hexdigest()
            piece = f"{subject.tenant}/: {len(blocks)} blocks, their names {names[:16]}"
            journal.take(store, REMOVED, [piece], size=sum(block.bytes for block in blocks))

    count = sum(kv.blocks.drop(subject.tenant, partial(note, kv.store)) for kv in (kv_cache, kv_objects))
    for kv in (kv_cache, kv_objects):
        if kv.in_use:
            revocations.end(kv.blocks)
    return count


@stage("Lets KV blocks of the tenant be stored again, once the answers that were under way have ended.")
def kv_settled(metadata: Metadata) -> None:
    """Nothing is found any more: from now on the time for answers under way counts."""
    revocations = Revocations(metadata)
    revocations.settle(revocations.position(), of=EVERY)


def shared(known: TableReader, metadata: Metadata, subject: Subject, journal: Journal) -> set[str]:
    """The document's sources that another document of the tenant also has, or that one which is put has claimed."""
    versions = {key.rpartition("/")[2] for key in journal.sources}
    # First: what is no longer claimed is in the table then.
    claimed = SourceClaims(metadata).claimed(subject.tenant, versions, beside=subject.uris)
    lookup = DocumentLookup(metadata, known)
    lookup.follow()
    others = claimed | lookup.newest_elsewhere(subject.tenant, subject.document_id, versions)
    return {object_key(subject.tenant, version) for version in others} & journal.sources
