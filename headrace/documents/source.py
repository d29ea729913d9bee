"""A document's source: its bytes in the object store, and the event that announces it on the head.

Both ways of putting a document end here: `put.py` for files, and this module's `put` for bytes that the API was sent.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from headrace.catalog import DOCUMENT_EVENTS, DOCUMENTS
from headrace.core.stage import stage
from headrace.documents.names import object_key
from headrace.storage.objects import ObjectWriter
from headrace.storage.stream.writer import TopicWriter
from headrace.storage.timeline import AHEAD

PUT_SENTENCE = "Puts each source file into the object store and announces it on the head."


@dataclass(frozen=True)
class Announced:
    """Where on the head a document's event is."""

    partition: int
    offset: int


def store(sources: ObjectWriter, tenant: str, data: bytes) -> str:
    """Write a source unless the tenant has stored the same bytes; returns their sha256, the version of the document."""
    sha256 = hashlib.sha256(data).hexdigest()
    key = object_key(tenant, sha256)
    if sources.info(key) is None:
        sources.put(key, data)
    return sha256


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
        **{"sha256": "", "bytes": 0, "reason": "", **fields},
        "at": datetime.now(UTC),
    }


def announce(events: TopicWriter, announced: Sequence[dict[str, Any]]) -> list[Announced]:
    """Append events to the head; all of one document go to one partition, in their order."""
    return [Announced(*place) for place in events.append(list(announced), key="uri")]


@stage(PUT_SENTENCE, phase=AHEAD)
def put(
    sources: Annotated[ObjectWriter, DOCUMENTS],
    events: Annotated[TopicWriter, DOCUMENT_EVENTS],
    tenant: str,
    uri: str,
    data: bytes,
    readers: Sequence[str] | None = None,
    attributes: Sequence[str] | None = None,
) -> Announced:
    """Store a document's bytes, then announce it.

    `readers` may read it from now on; an empty sequence opens it to everybody of the tenant. `None` leaves the readers as the
    events before this one have them, also those not parsed yet; a new document is then open to everybody of the tenant. The same
    goes for its `attributes`, `key=value` each, of which a new document has none.
    """
    sha256 = store(sources, tenant, data)
    put_event = event(tenant, uri, "put", readers=readers, attributes=attributes, sha256=sha256, bytes=len(data))
    return announce(events, [put_event])[0]


@stage("Takes a document back: announces that, and deletes its sources where no other document has the same.", phase=AHEAD)
def delete(
    sources: Annotated[ObjectWriter, DOCUMENTS],
    events: Annotated[TopicWriter, DOCUMENT_EVENTS],
    tenant: str,
    uri: str,
    versions: Collection[str],
) -> Announced:
    """Announce that a document is deleted, then delete the sources of these versions of it.

    A document that is put again has the readers and attributes it had before, unless the event names others.
    """
    announced = announce(events, [event(tenant, uri, "delete")])[0]
    for version in sorted(versions):
        sources.delete(object_key(tenant, version))
    return announced
