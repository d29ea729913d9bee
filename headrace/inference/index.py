"""index: the full-text and vector indices over the chunks that were embedded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from headrace.catalog import CHUNKS
from headrace.inference.put import AHEAD
from headrace.pipeline.stage import stage
from headrace.storage.vectors import VectorWriter


@dataclass(frozen=True)
class Index:
    """The version that questions are now answered from, and the chunks it holds."""

    version: str
    chunks: int


@stage("Builds the full-text and vector indices that questions are answered from.", phase=AHEAD)
def index(vectors: Annotated[VectorWriter, CHUNKS]) -> Index:
    """Bring the indices up to date with the rows."""
    version = vectors.build()
    return Index(version, vectors.count())
