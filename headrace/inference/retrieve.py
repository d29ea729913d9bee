"""retrieve: the passages of a tenant that may answer a question, by dense and full-text search fused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from headrace.catalog import CHUNKS
from headrace.models.client import Embedder
from headrace.pipeline.stage import stage
from headrace.storage.vectors import Hit, VectorReader

ASKED = "at question time"


@dataclass(frozen=True)
class Retrieved:
    """Passages best first, and the index version they came from."""

    hits: tuple[Hit, ...]
    index_version: str


@stage("Finds the passages that may answer, by dense and full-text search fused.", phase=ASKED)
def retrieve(vectors: Annotated[VectorReader, CHUNKS], tenant: str, question: str, embedder: Embedder, most: int) -> Retrieved:
    """Search the tenant's chunks. Raises `NothingIndexed` while there is no index."""
    version = vectors.version()
    embedding = embedder.embed([question], kind="query")[0]
    return Retrieved(tuple(vectors.fusion(question, embedding, tenant=tenant, most=most)), version)
