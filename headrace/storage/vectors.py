"""The vector tier: one LanceDB table per store, versioned, with dense and full-text search.

An operation in the ledger is a call of LanceDB: a search, an upsert, an index build. Its bytes are those that LanceDB moved to
and from storage meanwhile, by its own count (`lance_io.py`); a write that had to read first has a row in either direction.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlparse

os.environ.setdefault("LANCE_LOG", "error")  # it floods stderr otherwise

import numpy as np
import pyarrow as pa

from headrace.catalog import Store
from headrace.errors import NothingIndexed, StorageFull, Unavailable
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Direction
from headrace.storage.meter import Meter
from headrace.storage.reason import reason

# Below this many rows an exact scan beats an approximate index and loses no recall.
_EXACT_ROWS = 20_000
_RRF_K = 60  # Cormack, Clarke, Büttcher 2009: reciprocal rank fusion
_KEY = "chunk_id"


@dataclass(frozen=True)
class Hit:
    """One passage found. Ranks start at 1; a rank or score is `None` where that search did not find the passage.

    `score` is the reciprocal-rank fusion of both searches, or the one search's own score: cosine similarity, or BM25.
    """

    chunk_id: str
    document_id: str
    version: str
    uri: str
    heading: str
    text: str
    score: float
    dense_rank: int | None = None
    fulltext_rank: int | None = None


class VectorReader:
    """Searches one store of the vector tier."""

    def __init__(self, store: Store, endpoints: Endpoints, meter: Meter) -> None:
        self.store = store
        self._meter = meter
        self._uri = endpoints.vectors_uri
        options = None
        if urlparse(self._uri).scheme == "s3":
            options = {
                "aws_access_key_id": endpoints.s3_access_key,
                "aws_secret_access_key": endpoints.s3_secret_key,
                "aws_endpoint": endpoints.s3_endpoint,
                "aws_region": endpoints.s3_region,
                "allow_http": str(urlparse(endpoints.s3_endpoint).scheme == "http").lower(),
                "client_max_retries": "4",
                "client_retry_timeout": "20",
            }
        self._options = options
        self._table: Any = None
        self._opening = threading.Lock()

    def version(self) -> str:
        """The index version that searches now see, or "none" while there is no index."""
        table = self._open()
        return "none" if table is None else f"{table.version}"

    def count(self, where: str | None = None) -> int:
        """Rows that match an SQL filter."""
        table = self._open()
        if table is None:
            return 0
        with self._faults(), self._moves(Direction.READ):
            return int(table.count_rows(where))

    def held(self) -> pa.Table:
        """Which chunks are indexed: columns chunk_id, document_id, version, tenant, uri."""
        columns = [_KEY, "document_id", "version", "tenant", "uri"]
        table = self._open()
        if table is None:
            return pa.schema([self.store.columns.field(name) for name in columns]).empty_table()
        with self._faults(), self._moves(Direction.READ):
            return table.search().select(columns).limit(None).to_arrow()

    def dense(self, embedding: np.ndarray[Any, Any], *, tenant: str, most: int) -> list[Hit]:
        """Nearest chunks of a tenant by cosine similarity, best first; `embedding` is float32, (dimensions,)."""
        table = self._searchable()
        query = (
            table.search(embedding, vector_column_name="embedding")
            .distance_type("cosine")
            .where(_of(tenant), prefilter=True)
            .limit(most)
        )
        if (table.stats()["num_indices"] if table else 0) > 1:
            query = query.nprobes(64).refine_factor(10)
        rows = self._run(query, "_distance")
        return [_hit(row, 1.0 - row["_distance"], dense_rank=rank) for rank, row in enumerate(rows, 1)]

    def fulltext(self, question: str, *, tenant: str, most: int) -> list[Hit]:
        """Best chunks of a tenant by BM25 over stemmed words, best first."""
        table = self._searchable()
        # What people type is words, not query syntax: punctuation must never make a query fail.
        words = " ".join(re.findall(r"\w+", question))
        if not words:
            return []
        query = table.search(words, query_type="fts", fts_columns="text").where(_of(tenant), prefilter=True).limit(most)
        rows = self._run(query, "_score")
        return [_hit(row, row["_score"], fulltext_rank=rank) for rank, row in enumerate(rows, 1)]

    def fusion(self, question: str, embedding: np.ndarray[Any, Any], *, tenant: str, most: int) -> list[Hit]:
        """Both searches fused by reciprocal rank, best first."""
        depth = max(most, 50)
        return fuse(self.dense(embedding, tenant=tenant, most=depth), self.fulltext(question, tenant=tenant, most=depth))[:most]

    def _run(self, query: Any, score: str) -> list[dict[str, Any]]:
        query = query.select([_KEY, "document_id", "version", "uri", "heading", "text", score])
        with self._faults(), self._moves(Direction.READ):
            rows: list[dict[str, Any]] = query.to_arrow().to_pylist()
        return rows

    def _searchable(self) -> Any:
        table = self._open()
        if table is None:
            raise NothingIndexed(
                "No document has been indexed yet.", hint="Index some first: headrace index PATH, or headrace demo."
            )
        return table

    def _open(self) -> Any:
        with self._opening, self._faults():
            if self._table is None:
                database = self._database()
                try:
                    self._table = database.open_table(self.store.name)
                except (ValueError, FileNotFoundError) as error:
                    if "not found" in str(error).lower():
                        return None
                    raise
            return self._table

    def _database(self) -> Any:
        # Imported where it is used, for it takes a second: most commands never touch the index.
        import lancedb

        return lancedb.connect(self._uri, storage_options=self._options, read_consistency_interval=timedelta(seconds=1))

    @contextlib.contextmanager
    def _moves(self, direction: Direction) -> Iterator[None]:
        """Count the block as one operation, with what LanceDB moved; also when it raises: the storage did that work."""
        from headrace.storage.lance_io import LANCE_IO

        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            for way, size in zip((Direction.READ, Direction.WRITE), LANCE_IO.take(), strict=True):
                if way is direction or size:
                    self._meter.count(self.store, way, bytes=size, seconds=seconds, estimated=not LANCE_IO.counted)

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            text = str(error)
            if "no space" in text.lower() or "no free volumes" in text.lower():
                raise StorageFull(f"No space left for the index at {self._uri}.", hint="Free some space.") from error
            if isinstance(error, ValueError) and not re.search(r"connect|http|io error|lance error: io", text, re.I):
                raise
            raise Unavailable(
                f"The vector index at {self._uri} cannot be reached: {reason(error)}.",
                hint="Check that its storage runs (`headrace endpoints`) and run the command again.",
            ) from error


class VectorWriter(VectorReader):
    """Writes one store of the vector tier; it may search it too."""

    def upsert(self, rows: pa.RecordBatch | pa.Table) -> int:
        """Insert rows of the store's schema, replacing those of the same chunk id; return how many were handed over.

        Doing it twice changes nothing, so a stage killed after this and before it noted so may simply run again.
        """
        data = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
        table = self._open_or_new()
        with self._faults(), self._moves(Direction.WRITE):
            table.merge_insert(_KEY).when_matched_update_all().when_not_matched_insert_all().execute(data)
        return int(data.num_rows)

    def delete(self, document_id: str, *, but_version: str = "") -> None:
        """Delete a document's chunks, but those of one version if it is named."""
        table = self._open()
        if table is None:
            return
        where = f"document_id = {_quoted(document_id)}"
        if but_version:
            where += f" AND version <> {_quoted(but_version)}"
        with self._faults(), self._moves(Direction.WRITE):
            table.delete(where)

    def build(self) -> str:
        """Bring the full-text (and, past 20,000 rows, the vector) index up to date; return the index version."""
        from lancedb.index import FTS, IvfRq

        table = self._open_or_new()
        with self._faults(), self._moves(Direction.WRITE):
            before = {index.name: index for index in table.list_indices()}
            rows = table.count_rows()
            if "text_idx" not in before:
                # Stemmed, without stop words: the best of the BM25 variants measured (docs/benchmarks.md).
                table.create_index("text", config=FTS(stem=True, remove_stop_words=True, with_position=False))
            if rows > _EXACT_ROWS and "embedding_idx" not in before:
                table.create_index("embedding", config=IvfRq(distance_type="cosine"))
            table.optimize(cleanup_older_than=timedelta(hours=1))
        return self.version()

    def _open_or_new(self) -> Any:
        table = self._open()
        if table is None:
            with self._faults():
                database = self._database()
                self._table = database.create_table(self.store.name, schema=self.store.columns, exist_ok=True)
        return self._table


def fuse(dense: Sequence[Hit], fulltext: Sequence[Hit]) -> list[Hit]:
    """Reciprocal rank fusion, Σ 1 / (60 + rank): Cormack, Clarke, Büttcher 2009. Ties go to the better dense rank."""
    found: dict[str, Hit] = {hit.chunk_id: hit for hit in (*fulltext, *dense)}
    dense_ranks = {hit.chunk_id: rank for rank, hit in enumerate(dense, 1)}
    fulltext_ranks = {hit.chunk_id: rank for rank, hit in enumerate(fulltext, 1)}
    fused = []
    for chunk_id, hit in found.items():
        ranks = (dense_ranks.get(chunk_id), fulltext_ranks.get(chunk_id))
        score = sum(1.0 / (_RRF_K + rank) for rank in ranks if rank is not None)
        fused.append(
            Hit(
                hit.chunk_id,
                hit.document_id,
                hit.version,
                hit.uri,
                hit.heading,
                hit.text,
                score,
                dense_rank=ranks[0],
                fulltext_rank=ranks[1],
            )
        )
    return sorted(fused, key=lambda hit: (-hit.score, hit.dense_rank or 10**9, hit.chunk_id))


def _hit(row: dict[str, Any], score: float, **ranks: int) -> Hit:
    return Hit(
        row["chunk_id"],
        row["document_id"],
        row["version"],
        row["uri"],
        row["heading"],
        row["text"],
        float(score),
        **ranks,
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _of(tenant: str) -> str:
    return f"tenant = {_quoted(tenant)}"
