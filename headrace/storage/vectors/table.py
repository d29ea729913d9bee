"""An open LanceDB table: its connection, its caches, and the snapshot that searches run on."""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import urlparse

os.environ.setdefault("LANCE_LOG", "error")  # it floods stderr otherwise
# Lance reserves two cores for I/O. On three cores or fewer that leaves one compute thread, and a question's two searches would
# wait for each other.
os.environ.setdefault("LANCE_CPU_THREADS", str(max(2, (os.cpu_count() or 1) - 2)))

import numpy as np
import pyarrow as pa

from headrace.process import memory_bytes
from headrace.storage.endpoints import Endpoints
from headrace.storage.tables.handles import quoted

# Vector index (docs/reference/benchmarks.md): lists probed if all rows match the filter, more if fewer do; candidates compared
# exactly per result; number of matching rows up to which an exact scan is faster, and has full recall.
_PROBES = 16
_REFINE = 3
_EXACT_MATCHES = 1_000
_SHOWN = ("chunk_id", "document_id", "version", "uri", "heading", "text", "position", "place")  # columns of a passage
_COUNTS = 4096  # cached counts of (tenant, readers) per version of the table
_IN_MEMORY_ROWS = 20_000  # of a table without a vector index; a larger one, whose index is not built yet, is scanned by LanceDB
_SELECTIONS = 64  # cached rows of (tenant, readers, filters) per version of a table without a vector index
_IDLE_CONNECTIONS = "4"  # to the object store: unless that is bounded, LanceDB keeps one more with each search and each write
# LanceDB's caches keep something of each version, so they fill: their bytes, of a process that may have so much memory.
_INDEX_CACHE, _METADATA_CACHE = 1 / 4, 1 / 64
_SEEN_AFTER = timedelta(milliseconds=250)  # maximum delay until another handle's writes are visible


@dataclass(frozen=True)
class _Vectors:
    """The embeddings of a table without a vector index, in memory: one search compares with all of them."""

    ids: np.ndarray[Any, Any]
    """Row ids, ascending."""
    units: np.ndarray[Any, Any]
    """Embeddings of length 1, float32, (rows, width)."""

    @classmethod
    def of(cls, rows: pa.Table) -> _Vectors:
        """The `embedding` and `_rowid` of rows."""
        ids = rows["_rowid"].to_numpy()
        embeddings = np.stack(rows["embedding"].to_numpy()) if len(ids) else np.empty((0, 1), np.float32)
        order = np.argsort(ids)
        return cls(ids[order], _units(embeddings[order]))

    def near(self, embedding: np.ndarray[Any, Any], among: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The cosine similarity of some rows, given by id."""
        if not len(among):
            return np.empty(0, np.float32)  # no row says how wide the embeddings of an empty table are
        near: np.ndarray[Any, Any] = self.units[np.searchsorted(self.ids, among)] @ _units(embedding[None])[0]
        return near


def _units(vectors: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: np.ndarray[Any, Any] = (vectors / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
    return units


@dataclass(frozen=True)
class Snapshot:
    """One immutable version of the table, with what of it is kept in memory.

    That is the number of rows that match each filter and, as long as the table is too small for a vector index, its embeddings:
    read once for each version, where a scan would read all of them for each search.
    """

    table: Any
    version: int
    columns: frozenset[str]
    indices: frozenset[str]
    rows: int
    matching: dict[str, int] = field(default_factory=dict)
    vectors: list[asyncio.Future[_Vectors]] = field(default_factory=list)
    selected: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)

    @property
    def _in_memory(self) -> bool:
        return "embedding_idx" not in self.indices and self.rows <= _IN_MEMORY_ROWS

    async def dense(self, embedding: np.ndarray[Any, Any] | None, where: str, most: int) -> dict[int, float]:
        """Row id → cosine similarity of the nearest rows, best first."""
        if embedding is None:
            return {}
        if self._in_memory:
            return await self._compared(embedding, where, most)
        query = self.table.query().nearest_to(embedding).column("embedding").distance_type("cosine").where(where).limit(most)
        if "embedding_idx" in self.indices:
            matching = await self._matching(where)
            if matching <= _EXACT_MATCHES:
                query = query.bypass_vector_index()
            else:
                query = query.nprobes(math.ceil(_PROBES * self.rows / matching)).refine_factor(_REFINE)
        rows = await query.select(["_distance"]).with_row_id().to_arrow()
        return {row: 1.0 - far for row, far in zip(rows["_rowid"].to_pylist(), rows["_distance"].to_pylist(), strict=True)}

    async def _compared(self, embedding: np.ndarray[Any, Any], where: str, most: int) -> dict[int, float]:
        """`dense` without an index: every row that matches is compared."""
        vectors, ids = await asyncio.gather(self._vectors(), self._selected(where))
        near = vectors.near(embedding, ids)
        best = np.argsort(-near, kind="stable")[:most]
        return dict(zip(ids[best].tolist(), near[best].tolist(), strict=True))

    async def _vectors(self) -> _Vectors:
        if not self.vectors:  # searches share one event loop
            self.vectors.append(asyncio.ensure_future(self._load()))
        try:
            return await self.vectors[0]
        except BaseException:
            self.vectors.clear()
            raise

    async def _load(self) -> _Vectors:
        return _Vectors.of(await self.table.query().select(["embedding"]).with_row_id().to_arrow())

    async def _selected(self, where: str) -> np.ndarray[Any, Any]:
        """The ids of the rows that match a filter, ascending."""
        if (ids := self.selected.get(where)) is None:
            rows = await self.table.query().where(where).select([]).with_row_id().to_arrow()
            ids = np.sort(rows["_rowid"].to_numpy())
            if len(self.selected) >= _SELECTIONS:
                self.selected.clear()
            self.selected[where] = ids
        return ids

    async def fulltext(self, words: str | None, where: str, most: int) -> dict[int, float]:
        """Row id → BM25 of the best rows, best first."""
        if not words:
            return {}
        column = "words" if "words_idx" in self.indices else "text"  # an older index, until its next write
        query = self.table.query().nearest_to_text(words, columns=column).where(where).limit(most)
        rows = await query.select(["_score"]).with_row_id().to_arrow()
        return dict(zip(rows["_rowid"].to_pylist(), rows["_score"].to_pylist(), strict=True))

    async def fulltext_of(self, words: str, ids: Sequence[int]) -> dict[int, float]:
        """Row id → BM25 of those of some rows that have one of the words."""
        return await self.fulltext(words, f"_rowid IN ({', '.join(map(str, ids))})", len(ids)) if ids else {}

    async def similarities(self, embedding: np.ndarray[Any, Any], ids: Sequence[int]) -> dict[int, float]:
        """Row id → cosine similarity of some rows."""
        if not ids:
            return {}
        if self._in_memory:
            vectors = await self._vectors()
        else:
            vectors = _Vectors.of(await self.table.take_row_ids(list(ids)).select(["embedding"]).with_row_id().to_arrow())
        return dict(zip(ids, vectors.near(embedding, np.asarray(ids)).tolist(), strict=True))

    async def rows_of(self, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
        """The columns of a `Hit`, by row id."""
        if not ids:
            return {}
        # An older index has no `place` column until its next write.
        wanted = [name for name in _SHOWN if name in self.columns]
        rows = await self.table.take_row_ids(list(ids)).select(wanted).with_row_id().to_arrow()
        return {row["_rowid"]: row for row in rows.to_pylist()}

    async def of_texts(self, texts: Collection[str], where: str, most: int) -> dict[str, list[dict[str, Any]]]:
        """The rows with these texts, by `text_id`, at most so many, with the columns of a `PassageSource`."""
        found: dict[str, list[dict[str, Any]]] = {}
        if texts and "text_id" in self.columns:
            same = f"{where} AND text_id IN ({', '.join(map(quoted, sorted(texts)))})"
            rows = await self.table.query().where(same).select(["text_id", "uri", "place"]).limit(most).to_arrow()
            for row in rows.to_pylist():
                found.setdefault(row["text_id"], []).append(row)
        return found

    async def _matching(self, where: str) -> int:
        """The number of rows that match a filter, from the indices of its columns."""
        if (count := self.matching.get(where)) is None:
            count = max(1, await self.table.count_rows(where))
            if len(self.matching) >= _COUNTS:
                self.matching.clear()
            self.matching[where] = count
        return count


def lance_options(endpoints: Endpoints) -> dict[str, str] | None:
    """LanceDB's storage options for the vector tier: keys and address if it is on S3, else none."""
    if urlparse(endpoints.vectors_uri).scheme != "s3":
        return None
    return {
        "aws_access_key_id": endpoints.s3_access_key,
        "aws_secret_access_key": endpoints.s3_secret_key,
        "aws_endpoint": endpoints.s3_endpoint,
        "aws_region": endpoints.s3_region,
        "allow_http": str(urlparse(endpoints.s3_endpoint).scheme == "http").lower(),
        "client_max_retries": "4",
        "client_retry_timeout": "20",
        "pool_max_idle_per_host": _IDLE_CONNECTIONS,
    }


class VectorTable:
    """One table of a database, opened once for all handles. Raises LanceDB's own errors."""

    def __init__(self, name: str, uri: str, options: Mapping[str, str] | None) -> None:
        self.name, self._uri, self._options = name, uri, options
        self.listed_at = 0
        """The version at which a writer last listed all versions."""
        self._table: Any = None
        self._session: Any = None
        self._snapshots: Any = None  # a connection whose tables stay at the version they were opened at
        self._snapshot: Snapshot | None = None
        self._opening = threading.Lock()
        self._following = threading.Lock()

    def open(self) -> Any:
        """The table, which follows other writers; `None` if it does not exist yet."""
        with self._opening:
            if self._table is None:
                try:
                    self._table = self._database().open_table(self.name)
                except (ValueError, FileNotFoundError) as error:
                    if "not found" in str(error).lower():
                        return None
                    raise
            return self._table

    def create(self, schema: pa.Schema) -> Any:
        """The table, created if missing."""
        with self._opening:
            self._table = self._database().create_table(self.name, schema=schema, exist_ok=True)
            return self._table

    def drop(self) -> None:
        """Remove the table with all its rows; idempotent."""
        with self._opening:
            self._database().drop_table(self.name, ignore_missing=True)
            # The caches would be mistaken for those of a new table with this name.
            self._table = self._snapshot = self._snapshots = self._session = None

    def snapshot(self) -> Snapshot | None:
        """An immutable snapshot of the newest version; `None` if the table does not exist yet."""
        table = self.open()
        if table is None:
            return None
        snapshot = self._snapshot
        if snapshot is None or snapshot.version != table.version:
            from lancedb.background_loop import LOOP

            with self._following:
                version, snapshot = table.version, self._snapshot
                if snapshot is None or snapshot.version != version:
                    snapshot = self._snapshot = LOOP.run(self._snapshot_of(version))
        return snapshot

    async def _snapshot_of(self, version: int) -> Snapshot:
        if self._snapshots is None:
            from headrace.storage.vectors.lance import lancedb

            self._snapshots = await lancedb.connect_async(self._uri, storage_options=self._options, session=self._session)
        table = await self._snapshots.open_table(self.name, version=version)
        schema, indices, rows = await asyncio.gather(table.schema(), table.list_indices(), table.count_rows())
        return Snapshot(table, version, frozenset(schema.names), frozenset(index.name for index in indices), rows)

    def _database(self) -> Any:
        # Imported here because it takes a second and most commands never use the index.
        from headrace.storage.vectors.lance import lancedb  # isort: skip  # first

        from headrace.storage.vectors import io as lance_io  # noqa: F401  # counts what is opened after it

        if self._session is None:  # its caches are shared with the snapshots, and 7 GB by default
            sizes = (int(memory_bytes() * share) for share in (_INDEX_CACHE, _METADATA_CACHE))
            self._session = lancedb.Session(*sizes)
        return lancedb.connect(
            self._uri, storage_options=self._options, read_consistency_interval=_SEEN_AFTER, session=self._session
        )
