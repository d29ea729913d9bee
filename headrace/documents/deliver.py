"""put, for one document whose bytes are in memory: as `put.py` does for files, and its counterpart, which deletes."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from headrace.catalog import DOCUMENT_EVENTS, DOCUMENTS
from headrace.core.stage import stage
from headrace.documents.put import AHEAD, object_key
from headrace.storage.objects import ObjectWriter
from headrace.storage.stream import TopicWriter


@dataclass(frozen=True)
class Announced:
    """Where in the head a document's event stands."""

    partition: int
    offset: int


@stage("Puts each source file into the object store and announces it on the head.", phase=AHEAD)
def put(
    sources: Annotated[ObjectWriter, DOCUMENTS],
    events: Annotated[TopicWriter, DOCUMENT_EVENTS],
    tenant: str,
    uri: str,
    data: bytes,
    readers: Sequence[str] | None = None,
) -> Announced:
    """Put a document and announce it; its object is there before anybody hears of it.

    `readers` may read it from now on: nobody named is everybody of the tenant. `None` leaves it to whoever may read it by the
    events before this one, also those that are not parsed yet, and opens a new one to everybody of the tenant.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    key = object_key(tenant, sha256)
    if sources.info(key) is None:
        sources.put(key, data)
    return _announced(events, tenant, uri, kind="put", sha256=sha256, size=len(data), readers=readers)


@stage("Takes a document back: announces that, and deletes its sources where no other document has the same.", phase=AHEAD)
def delete(
    sources: Annotated[ObjectWriter, DOCUMENTS],
    events: Annotated[TopicWriter, DOCUMENT_EVENTS],
    tenant: str,
    uri: str,
    versions: Collection[str],
) -> Announced:
    """Announce that a document is gone, then delete the sources named by their hashes, those of its earlier versions too.

    Should it be put again, those may read it who might before, unless others are named.
    """
    announced = _announced(events, tenant, uri, kind="delete", sha256="", size=0, readers=None)
    for version in sorted(versions):
        sources.delete(object_key(tenant, version))
    return announced


def _announced(
    events: TopicWriter, tenant: str, uri: str, *, kind: str, sha256: str, size: int, readers: Sequence[str] | None
) -> Announced:
    event = {"event_id": uuid.uuid4().hex, "kind": kind, "tenant": tenant, "uri": uri, "sha256": sha256, "bytes": size}
    event |= {"readers": None if readers is None else list(readers)}
    return Announced(*events.append([{**event, "reason": "", "at": datetime.now(UTC)}], key="uri")[0])
