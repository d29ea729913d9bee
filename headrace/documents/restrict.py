"""restrict: documents that fewer may read by now, closed in the index before the events that say so are parsed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated

from headrace.catalog import CHUNKS, DOCUMENT_ROWS, INDEXES
from headrace.core.stage import stage
from headrace.documents.lookup import DocumentLookup
from headrace.storage.filters import NOBODY
from headrace.storage.metadata import Metadata
from headrace.storage.tables.handles import TableReader
from headrace.storage.timeline import AHEAD
from headrace.storage.vectors.generations import IndexReader
from headrace.storage.vectors.handles import VectorWriter


def narrowed(before: Collection[str], now: Collection[str]) -> tuple[str, ...] | None:
    """Those of the readers before who may still read a document, if some of them may not; `None` if all may.

    No readers mean everybody.
    """
    if not now:
        return None
    if not before:
        return tuple(sorted(now))
    both = set(before) & set(now)
    return None if both == set(before) else tuple(sorted(both)) or (NOBODY,)


@stage("Closes indexed documents to those who may no longer read them.", phase=AHEAD)
def restrict(
    documents: Annotated[TableReader, DOCUMENT_ROWS],
    indexes: Annotated[IndexReader, INDEXES],
    vectors: Annotated[VectorWriter, CHUNKS],
    metadata: Metadata,
    readers: Mapping[str, Sequence[str]],
) -> int:
    """Give the documents with these ids these readers in every generation of the index; returns how many have a live version.

    The events of the change are to follow: what is closed here and is indexed again by an earlier event is open until then.
    """
    lookup = DocumentLookup(metadata, documents)
    lookup.follow()
    live, described = lookup.current(readers)
    closed = {name: described[name]._replace(readers=tuple(readers[name])) for name in live}
    state, _ = indexes.state()
    numbers = {one.number for one in (state.serving, state.fallback, state.building) if one is not None} or {1}
    for number in sorted(numbers):
        vectors.for_generation(number).describe(closed)
    return len(closed)
