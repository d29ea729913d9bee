"""retrieve: the passages that may answer a question of a tenant's user, by dense and full-text search fused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from headrace.catalog import CHUNKS, INDEXES
from headrace.core.stage import stage
from headrace.documents.generations import Embedders, active_reader
from headrace.models.client import Embedder
from headrace.storage.filters import NO_FILTERS, Filters
from headrace.storage.timeline import ASKED
from headrace.storage.vectors.generations import IndexReader
from headrace.storage.vectors.handles import VectorReader
from headrace.storage.vectors.search import Hit


@dataclass(frozen=True)
class Retrieved:
    """Passages best first, the index version they came from ("g2.17": generation and version), and the embedder that was asked.

    `embedder` is `None`, and the note says why, where full-text search was possible alone. `index_chunks`: its size.
    """

    hits: tuple[Hit, ...]
    index_version: str
    embedder: Embedder | None
    index_chunks: int
    note: str = ""


@stage("Finds the passages that may answer, by dense and full-text search fused.", phase=ASKED)
def retrieve(
    vectors: Annotated[VectorReader, CHUNKS],
    indexes: Annotated[IndexReader, INDEXES],
    tenant: str,
    question: str,
    embedders: Embedders,
    most: int,
    readers: Sequence[str] = (),
    filters: Filters = NO_FILTERS,
    by_rank: bool = False,
) -> Retrieved:
    """Search the tenant's chunks that `filters` select and everybody of it, or one of `readers`, may read.

    `readers` are the asking user and their groups. Where the filters select nothing of that, the note says so.

    Which generation of the index answers is asked at most once a second; the question is embedded as its chunks were. Where that
    embedder cannot be asked, full-text search answers alone and the note says so. Raises `NothingIndexed` where there is no
    index.
    """
    indexed = indexes.recent()
    index = active_reader(indexed, vectors)
    version = index.version()
    made = indexed.serving.embedder if indexed.serving else embedders.endpoint.model
    embedder = embedders.client_for(made)

    def nothing_selected(hits: Sequence[Hit]) -> str:
        if hits or not filters or index.selects(filters, tenant=tenant, readers=readers):
            return ""
        return f"nothing that may be read matches the filter {' and '.join(filters.said)}"

    if embedder is None:
        hits = index.fulltext(question, tenant=tenant, most=most, readers=readers, filters=filters)
        ours = embedders.endpoint.model
        note = f"the index was made with the embedder {made}, not {ours}: full-text search answered alone"
        return Retrieved(tuple(hits), version, None, index.rows(), "; ".join(filter(None, (note, nothing_selected(hits)))))
    embedding = embedder.embed([question], kind="query")[0]
    hits = index.fusion(question, embedding, tenant=tenant, most=most, readers=readers, filters=filters, by_rank=by_rank)
    return Retrieved(tuple(hits), version, embedder, index.rows(), nothing_selected(hits))
