"""index: the full-text and vector indices over the chunks that were embedded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from headrace.catalog import CHUNKS, DIMENSIONS
from headrace.core.stage import stage
from headrace.documents.put import AHEAD
from headrace.storage.vectors.generations import IndexGeneration
from headrace.storage.vectors.handles import VectorWriter


@dataclass(frozen=True)
class Index:
    """The version that questions are now answered from, and the chunks it holds."""

    version: str
    chunks: int


@stage("Builds the full-text and vector indices that questions are answered from.", phase=AHEAD)
def index(vectors: Annotated[VectorWriter, CHUNKS], into: IndexGeneration | None = None) -> Index:
    """Make what is missing of the indices of a generation (the first unless named), and keep them up if that is due."""
    made = vectors.of(into.number) if into else vectors
    version = made.build(into.width if into else DIMENSIONS)
    return Index(version, made.count())
