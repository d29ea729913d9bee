"""embed: each chunk's embedding, ahead of time, into the vector store; what no longer answers goes out of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc

from headrace.catalog import CHUNK_ROWS, CHUNKS, DIMENSIONS, DOCUMENT_ROWS
from headrace.errors import BadSettings
from headrace.inference.parse import live
from headrace.inference.put import AHEAD
from headrace.models.client import Embedder
from headrace.pipeline.batches import Batches
from headrace.pipeline.progress import Bars
from headrace.pipeline.stage import stage
from headrace.storage.endpoints import ModelEndpoint
from headrace.storage.tables import TableReader
from headrace.storage.vectors import VectorWriter

_BATCH_ROWS = 64
_UPSERT_ROWS = 1024


@dataclass(frozen=True)
class Embedded:
    """How many chunks were embedded, and how many documents' old chunks went out."""

    chunks: int
    retired: int


class Embed:
    """Batch work: a batch of chunks in, the same rows with their embeddings out."""

    def __init__(self, endpoint: ModelEndpoint) -> None:
        self._embedder = Embedder(endpoint)

    def __call__(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Embed `text`; raises `BadSettings` where the endpoint's embeddings have another width than the index."""
        vectors = self._embedder.embed(rows.column("text").to_pylist(), kind="passage")
        if vectors.shape[1] != DIMENSIONS:
            raise BadSettings(
                f"The embedder's vectors are {vectors.shape[1]} wide, the index's {DIMENSIONS}.",
                hint="Point [models.embedder] at a model of that width.",
            )
        flat = pa.array(vectors.reshape(-1), pa.float32())
        column = pa.FixedSizeListArray.from_arrays(flat, DIMENSIONS)
        arrays = [rows.column(name) for name in CHUNKS.columns.names if name != "embedding"]
        return pa.RecordBatch.from_arrays([*arrays, column], schema=CHUNKS.columns)


@stage("Computes the embedding of each chunk ahead of time.", phase=AHEAD)
def embed(
    documents: Annotated[TableReader, DOCUMENT_ROWS],
    chunks: Annotated[TableReader, CHUNK_ROWS],
    vectors: Annotated[VectorWriter, CHUNKS],
    batches: Batches,
    bars: Bars,
    embedder: ModelEndpoint,
) -> Embedded:
    """Embed every chunk that answers and is not in the vector store yet, then take out what no longer answers.

    What is missing is found by comparing the stores, so a run that died in between is simply completed by the next. New
    versions go in before old ones go out: there is no moment at which neither answers.
    """
    answering = live(documents)
    held = vectors.held()
    known = set(held["chunk_id"].to_pylist())
    missing = _missing(chunks, answering, known)
    waiting: list[pa.RecordBatch] = []
    done = 0
    total = sum(b.num_rows for b in missing)
    finished = batches.map(missing, Embed, embedder)
    for rows in bars.track(finished, "embed", total=total, of="chunks", size=True):
        waiting.append(rows)
        done += rows.num_rows
        if sum(b.num_rows for b in waiting) >= _UPSERT_ROWS:
            vectors.upsert(pa.Table.from_batches(waiting))
            waiting = []
    if waiting:
        vectors.upsert(pa.Table.from_batches(waiting))
    retired = 0
    pairs = zip(held["document_id"].to_pylist(), held["version"].to_pylist(), strict=True)
    for document_id in sorted({d for d, version in pairs if answering.get(d) != version}):
        vectors.delete(document_id, but_version=answering.get(document_id, ""))
        retired += 1
    return Embedded(done, retired)


def _missing(chunks: TableReader, answering: dict[str, str], known: set[str]) -> list[pa.RecordBatch]:
    """The chunks to embed, in batches of like length: an embedder pads each text to the longest of its batch."""
    columns = tuple(name for name in CHUNKS.columns.names if name != "embedding")
    kept = []
    for rows in chunks.scan(columns):
        triples = zip(
            rows.column("chunk_id").to_pylist(),
            rows.column("document_id").to_pylist(),
            rows.column("version").to_pylist(),
            strict=True,
        )
        kept.append(rows.filter(pa.array([c not in known and answering.get(d) == v for c, d, v in triples], pa.bool_())))
    table = pa.Table.from_batches(kept) if kept else pa.schema([]).empty_table()
    if table.num_rows == 0:
        return []
    lengths = pc.utf8_length(table["text"])
    ordered = table.take(pc.sort_indices(lengths)).combine_chunks()
    return list(_sliced(ordered))


def _sliced(table: pa.Table) -> Iterator[pa.RecordBatch]:
    for rows in table.to_batches(max_chunksize=_BATCH_ROWS):
        if rows.num_rows:
            yield rows
