"""revoke: the KV blocks of documents that were deleted, changed or closed to readers go, in the pass that learns of it."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Annotated

from headrace.catalog import DOCUMENT_ROWS, KV_CACHE, KV_OBJECTS
from headrace.core.stage import stage
from headrace.documents.lookup import DocumentLookup, follows
from headrace.errors import HeadraceError
from headrace.models.kv.backends import BlockWriter
from headrace.models.kv.index import BlockIndex
from headrace.models.kv.revocation import Reason, Revocation, Revocations, RevokedDocument, delete_all
from headrace.storage.metadata import Metadata
from headrace.storage.tables.handles import TableReader
from headrace.storage.timeline import AHEAD

_ALL = 1 << 40  # blocks

log = logging.getLogger("headrace.index")


@stage("Removes the KV blocks of documents that were deleted, changed or closed to readers.", phase=AHEAD)
def revoke(
    documents: Annotated[TableReader, DOCUMENT_ROWS],
    kv_cache: Annotated[BlockWriter, KV_CACHE],
    kv_objects: Annotated[BlockWriter, KV_OBJECTS],
    metadata: Metadata,
) -> int:
    """Note what changed in the documents table since the last pass, and remove those blocks.

    Returns what `settle_revocations` takes.

    What cannot be removed now, because the file system does not answer, is removed by a model server or by the next pass. A
    process that dies in here leaves the same: changes are noted before the table's revision is.
    """
    lookup, revocations = DocumentLookup(metadata, documents), Revocations(metadata)
    used, other = (kv_cache, kv_objects) if kv_cache.in_use else (kv_objects, kv_cache)
    revision = lookup.follow()
    if revision is None:
        return revocations.position()
    reached = revocations.reached(DOCUMENT_ROWS.name)
    if reached != revision:
        known = reached is not None and follows(reached, revision)
        changed = lookup.changed_since(reached) if known else BlockIndex(metadata).outdated()
        revocations.note(_revoked(lookup, BlockIndex(metadata), changed))
        revocations.reach(DOCUMENT_ROWS.name, revision)
    before, now = revocations.reached(KV_CACHE.name), str(used.store.tier)
    # A store that was not in use has blocks that nobody revoked meanwhile, and a new metadata store knows none.
    if before != now and _dropped((used,) if before is None else (used, other), metadata):
        revocations.reach(KV_CACHE.name, now)
    position = revocations.position()
    try:
        if left := revocations.end(used.timely):
            log.info("%d revocations of KV blocks go on: a writer of such a block may still be at it", left)
    except HeadraceError as error:
        log.warning("revoked KV blocks are not removed yet, a model server or the next pass goes on: %s", error)
    return position


@stage("Notes that questions no longer find what was revoked.", phase=AHEAD)
def settle_revocations(metadata: Metadata, position: int) -> None:
    """From now on, and after the answers that were begun before, blocks of those documents may be stored again."""
    Revocations(metadata).settle(position)


@stage("Looks for blocks of the KV cache that were revoked.")
def revocation_report(
    kv_cache: Annotated[BlockWriter, KV_CACHE],
    kv_objects: Annotated[BlockWriter, KV_OBJECTS],
    metadata: Metadata,
    whose: str | None = None,
    document_id: str | None = None,
    most: int = 100,
) -> list[Revocation]:
    """The newest revocations (of the tenant `whose`, of a document), and of each block whether it is gone."""
    used = kv_cache if kv_cache.in_use else kv_objects
    return Revocations(metadata).report(used.blocks, tenant=whose, document_id=document_id, most=most)


def _revoked(lookup: DocumentLookup, index: BlockIndex, changed: Collection[str]) -> list[RevokedDocument]:
    """Those of some documents of which there may be a block: all but those that were put for the first time."""
    with_blocks = index.documents_with_blocks(changed)
    found = []
    for rows in lookup.histories(sorted(changed)):
        newest = rows[-1]
        if len(rows) > 1 or newest["status"] == "deleted" or newest["document_id"] in with_blocks:
            reason: Reason = "deleted" if newest["status"] == "deleted" else "changed"
            found.append(RevokedDocument(newest["tenant"], newest["document_id"], newest["uri"], reason))
    return found


def _dropped(writers: Sequence[BlockWriter], metadata: Metadata) -> bool:
    """Remove all blocks of these; false where they cannot be removed now."""
    index, count = BlockIndex(metadata), 0
    try:
        for writer in writers:
            found = [block.name for block in writer.timely.oldest(_ALL)]
            known = index.stamps(found)
            delete_all(writer.timely, found)
            index.dropped(known)
            count += len(found)
    except HeadraceError as error:
        log.warning("KV blocks of unknown documents are not removed yet, the next pass goes on: %s", error)
        return False
    if count:
        log.info("removed %d KV blocks: it is not known of which documents they are", count)
    return True
