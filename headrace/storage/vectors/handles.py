"""Vector tier: one versioned LanceDB table per generation of a store, with dense and full-text search.

Access rights are checked inside the index, before ranking, and so are the filters of a search (`labels.py`).

A search runs on one version of the table: both searches return row ids, in parallel, and text is fetched only for the rows kept.

An operation in the ledger is a search (one kind or both, with the rows fetched), an upsert or an index build. Its bytes are what
LanceDB moved to and from storage meanwhile, by its own count (`io.py`); a write that reads first has a row in each direction.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.catalog import CHUNKS, DIMENSIONS, Store
from headrace.errors import NothingIndexed, StorageFull, Unavailable
from headrace.storage.endpoints import Endpoints
from headrace.storage.filters import NO_FILTERS, Filters
from headrace.storage.ledger import Direction
from headrace.storage.meter import Meter, Metered
from headrace.storage.reason import is_full, reason
from headrace.storage.tables.handles import quoted
from headrace.storage.vectors.labels import LABELS, UNLABELLED, Description, condition, reader_labels, readers_of
from headrace.storage.vectors.search import Hit, search, text_id
from headrace.storage.vectors.table import Snapshot, VectorTable, lance_options
from headrace.storage.vectors.words import indexed_words, searched_words

# Up to this many rows every search compares with all of them; above, an index reads a tenth of the bytes with a recall of 0.999
# (docs/reference/benchmarks.md).
_EXACT_ROWS = 5_000
_KEY = "chunk_id"
_PRIMARY_KEY = b"lance-schema:unenforced-primary-key:position"
_FILTERED = ("readers", "labels", "changed_s", "text_id")  # columns with an index of their values
_KEYS = (_KEY, "document_id")  # columns with an index by which rows are looked up
_DOCUMENTS_AT_ONCE = 200  # per filter
_NAMED_AT_ONCE = 1_000  # documents in one condition
_MANY_DOCUMENTS = 20_000  # from here on, all rows are read and filtered
_ROWS_AT_ONCE = 4096  # of an older index, in memory
# Maintenance is due with this many unindexed rows (and this share of all), small fragments, or old versions.
_UNINDEXED_ROWS, _UNINDEXED_SHARE = 500, 0.05
_FRAGMENTS = 32
_VERSIONS, _SEVERAL = 64, 16
_KEPT = timedelta(hours=1)  # a version stays readable this long


class VectorReader(Metered):
    """Searches one generation of a store of the vector tier; by default the first (see `for_generation`)."""

    def __init__(self, store: Store, endpoints: Endpoints, meter: Meter, *, generation: int = 1) -> None:
        self.store = store
        self.generation = generation
        self.meter = meter
        self._endpoints = endpoints
        self._uri = endpoints.vectors_uri
        self._options = lance_options(endpoints)
        self._tables: dict[int, VectorTable] = {}
        self._opening = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """A handle reconnects when it is unpickled."""
        return partial(type(self), generation=self.generation), (self.store, self._endpoints, self.meter)

    def for_generation(self, generation: int) -> Self:
        """A handle on another generation of the same store; it shares this handle's open tables."""
        other = self.with_meter(self.meter)
        other.generation = generation
        return other

    @property
    def _shared_table(self) -> VectorTable:
        """This generation's table, shared with handles that have other meters."""
        with self._opening:
            if self.generation not in self._tables:
                name = self.store.name if self.generation == 1 else f"{self.store.name}-g{self.generation}"
                self._tables[self.generation] = VectorTable(name, self._uri, self._options)
            return self._tables[self.generation]

    def version(self) -> str:
        """The current index version, e.g. "g2.17" (generation and version of its table); "none" without an index."""
        table = self._open()
        if table is None:
            return "none"
        with self._faults():  # reads storage
            return f"g{self.generation}.{table.version}"

    @property
    def name(self) -> str:
        """Where the table of this generation is, and what it is called."""
        return f"{self._uri}/{self._shared_table.name}"

    def table_version(self) -> int:
        """The version of the table, which grows with each write; 0 without an index."""
        table = self._open()
        if table is None:
            return 0
        with self._faults():
            return int(table.version)

    def count(self, where: str | None = None) -> int:
        """Rows that match an SQL filter."""
        table = self._open()
        if table is None:
            return 0
        with self._faults(), self._moves(Direction.READ):
            return int(table.count_rows(where))

    def rows(self) -> int:
        """Rows of the version that is open, which its manifest says: nothing is read."""
        table = self._open()
        if table is None:
            return 0
        with self._faults():
            return int(table.count_rows())

    def width(self) -> int | None:
        """Dimensions of this generation's embeddings, `None` if it has no table."""
        table = self._open()
        if table is None:
            return None
        with self._faults():
            return int(table.schema.field("embedding").type.list_size)

    def indexed(self, documents: Collection[str] | None = None) -> pa.Table:
        """The indexed chunks of some documents, or of all.

        Columns chunk_id, document_id, version, tenant, uri, readers (empty: everyone in the tenant), description_id (null in an
        older index).
        """
        columns = [_KEY, "document_id", "version", "tenant", "uri", "readers", "description_id"]
        table = self._open()
        if table is None or (documents is not None and not documents):
            return pa.schema([self.store.columns.field(name) for name in columns]).empty_table()
        with self._faults(), self._moves(Direction.READ):
            query = table.search().select([name for name in columns if name in table.schema.names]).limit(None)
            if documents is None:
                rows = query.to_arrow()
            elif len(documents) > _MANY_DOCUMENTS:
                rows = query.to_arrow()
                rows = rows.filter(pc.is_in(rows["document_id"], pa.array(documents, pa.string())))
            else:
                names = sorted(documents)
                some = (names[start : start + _NAMED_AT_ONCE] for start in range(0, len(names), _NAMED_AT_ONCE))
                rows = pa.concat_tables([query.where(_among(part)).to_arrow() for part in some])
        pairs = zip(rows["tenant"].to_pylist(), rows["readers"].to_pylist(), strict=True)
        named = pa.array([readers_of(tenant, labels) for tenant, labels in pairs], LABELS)
        rows = rows.set_column(rows.schema.get_field_index("readers"), "readers", named)
        if "description_id" not in rows.schema.names:
            rows = rows.append_column("description_id", pa.nulls(rows.num_rows, pa.string()))
        return rows

    def embeddings(self, documents: Collection[str]) -> pa.Table:
        """Texts and embeddings of some documents: columns tenant, text, embedding."""
        table = self._open()
        names = ["tenant", "text", "embedding"]
        if table is None:
            return pa.schema([self.store.columns.field(name) for name in names]).empty_table()
        with self._faults(), self._moves(Direction.READ):
            return table.search().where(_among(documents)).select(names).limit(None).to_arrow()

    def dense(
        self,
        embedding: np.ndarray[Any, Any],
        *,
        tenant: str,
        most: int,
        readers: Sequence[str] = (),
        filters: Filters = NO_FILTERS,
    ) -> list[Hit]:
        """The nearest chunks by cosine similarity, best first; `embedding` is float32, (width,).

        Only chunks of the tenant that everyone in it, or one of `readers`, may read, and that `filters` select.
        """
        return self._hits(None, embedding, tenant=tenant, most=most, readers=readers, filters=filters)

    def fulltext(
        self, question: str, *, tenant: str, most: int, readers: Sequence[str] = (), filters: Filters = NO_FILTERS
    ) -> list[Hit]:
        """The best chunks by BM25 over stemmed words, best first; the rest as in `dense`."""
        return self._hits(question, None, tenant=tenant, most=most, readers=readers, filters=filters)

    def fusion(
        self,
        question: str,
        embedding: np.ndarray[Any, Any],
        *,
        tenant: str,
        most: int,
        readers: Sequence[str] = (),
        filters: Filters = NO_FILTERS,
        by_rank: bool = False,
    ) -> list[Hit]:
        """Both searches fused by score, or by reciprocal rank, best first; the rest as in `dense`."""
        return self._hits(question, embedding, tenant=tenant, most=most, readers=readers, filters=filters, by_rank=by_rank)

    def selects(self, filters: Filters, *, tenant: str, readers: Sequence[str] = ()) -> bool:
        """Whether there is a chunk that filters select, among those that one may read."""
        from lancedb.background_loop import LOOP

        snapshot = self._searchable(filters)
        with self._faults(), self._moves(Direction.READ):
            count: int = LOOP.run(snapshot.table.count_rows(condition(tenant, readers, filters, snapshot.indices)))
        return count > 0

    def _hits(
        self,
        question: str | None,
        embedding: np.ndarray[Any, Any] | None,
        *,
        tenant: str,
        most: int,
        readers: Sequence[str],
        filters: Filters,
        by_rank: bool = False,
    ) -> list[Hit]:
        from lancedb.background_loop import LOOP

        # People type words, not query syntax: punctuation must never make a query fail.
        words = None if question is None else searched_words(question)
        snapshot = self._searchable(filters)
        if embedding is None and not words:
            return []
        where = condition(tenant, readers, filters, snapshot.indices)
        with self._faults(), self._moves(Direction.READ):
            # A single hop to LanceDB's event loop: under load, a hop costs more than the work in it.
            hits: list[Hit] = LOOP.run(search(snapshot, words, embedding, where, most, by_rank))
        return hits

    def _searchable(self, filters: Filters = NO_FILTERS) -> Snapshot:
        """The table version to search. Raises `NothingIndexed`, also where the index has nothing that filters go by."""
        with self._faults():
            snapshot = self._shared_table.snapshot()
        if snapshot is None:
            raise NothingIndexed
        if filters and "labels" not in snapshot.columns:
            raise NothingIndexed(
                "This index was made before there were filters.", hint="Run headrace index, or leave the filters out."
            )
        return snapshot

    def _open(self) -> Any:
        with self._faults():
            return self._shared_table.open()

    @contextlib.contextmanager
    def _moves(self, direction: Direction) -> Iterator[None]:
        """Count the block as one operation with the bytes LanceDB moved, even if it raises: the storage did the work."""
        from headrace.storage.vectors.io import LANCE_IO

        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            for way, size in zip((Direction.READ, Direction.WRITE), LANCE_IO.take(), strict=True):
                if way is direction or size:
                    self.meter.count(self.store, way, bytes=size, seconds=seconds, estimated=not LANCE_IO.counted)

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            if is_full(error, self._endpoints.store_disk):
                raise StorageFull(f"No space left for the index at {self._uri}.", hint="Free some space.") from error
            if isinstance(error, ValueError) and not re.search(r"connect|http|io error|lance error: io", str(error), re.I):
                raise
            raise Unavailable(
                f"The vector index at {self._uri} cannot be reached: {reason(error)}.",
                hint="Check that its storage runs (`headrace endpoints`) and run the command again.",
            ) from error


class VectorWriter(VectorReader):
    """Writes and searches one generation of a store of the vector tier."""

    def upsert(self, rows: pa.RecordBatch | pa.Table, documents: Mapping[str, Description] = MappingProxyType({})) -> int:
        """Insert or replace rows of the store's schema by chunk id; returns the number of rows given.

        `documents` describes them by document id; one without a description has the readers that its rows name. The first rows
        determine the generation's embedding width. Idempotent, so a stage killed after this and before it recorded it can simply
        run again.
        """
        data = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
        table = self._open_or_new(data.schema.field("embedding").type.list_size)
        pairs = zip(data["document_id"].to_pylist(), data["readers"].to_pylist(), strict=True)
        data = _described(data, [documents.get(name) or Description(tuple(readers or ())) for name, readers in pairs])
        with self._faults(), self._moves(Direction.WRITE):
            table.merge_insert(_KEY).when_matched_update_all().when_not_matched_insert_all().execute(_with_words(data))
        return int(data.num_rows)

    def describe(self, documents: Mapping[str, Description]) -> None:
        """Set who may read some documents and what they are filtered by, by document id, without embedding them again."""
        table = self._open()
        names = sorted(documents) if table is not None else []
        for start in range(0, len(names), _DOCUMENTS_AT_ONCE):
            table = self._open_or_new(DIMENSIONS)
            where = _among(names[start : start + _DOCUMENTS_AT_ONCE])
            with self._faults(), self._moves(Direction.WRITE):
                rows = table.search().where(where).limit(None).to_arrow().select(table.schema.names)
                rows = _described(rows, [documents[name] for name in rows["document_id"].to_pylist()])
                # Update only: a row deleted meanwhile must not come back.
                table.merge_insert(_KEY).when_matched_update_all().execute(rows)

    def delete(self, documents: Mapping[str, str]) -> None:
        """Delete the chunks of some documents, by id, except those of the version named, if any: one version of the table."""
        table = self._open()
        if table is None:
            return
        names = sorted(documents)
        for start in range(0, len(names), _NAMED_AT_ONCE):
            some = names[start : start + _NAMED_AT_ONCE]
            where = _among(some)
            if kept := [name for name in some if documents[name]]:
                pairs = (f"(document_id = {quoted(name)} AND version = {quoted(documents[name])})" for name in kept)
                where += f" AND NOT ({' OR '.join(pairs)})"
            with self._faults(), self._moves(Direction.WRITE):
                table.delete(where)

    def build(self, width: int = DIMENSIONS) -> str:
        """Create missing indices (for embeddings above 5,000 rows) and run maintenance if due; returns the version.

        Rows that are not indexed yet are found too, by scanning. `width` is for a table that has no rows yet.
        """
        table = self._open_or_new(width)
        configs = index_configs()
        with self._faults(), self._moves(Direction.WRITE):
            before = {index.name for index in table.list_indices()}
            if not {f"{column}_idx" for column in ("words", *_FILTERED)} <= before:
                self._complete(table)
            if "words_idx" not in before:
                table.create_index("words", config=configs["words"])
            if "text_idx" in before:  # of an older index
                table.drop_index("text_idx")
            for column in _FILTERED:
                if f"{column}_idx" not in before:
                    table.create_index(column, config=configs[column])
            for column in _KEYS:
                if f"{column}_idx" not in before:
                    table.create_index(column, config=configs[column])
            if "embedding_idx" not in before and table.count_rows() > _EXACT_ROWS:
                table.create_index("embedding", config=configs["embedding"])
        if self.due():
            self.maintain()
        return self.version()

    def _complete(self, table: Any) -> None:
        """Give rows of an older index what they lack."""
        lacking = f"{UNLABELLED} OR text_id IS NULL OR words IS NULL"
        ids = table.search().with_row_id(True).where(lacking).select([_KEY]).limit(None).to_arrow()["_rowid"].to_pylist()
        for start in range(0, len(ids), _ROWS_AT_ONCE):
            rows = table.take_row_ids(ids[start : start + _ROWS_AT_ONCE]).to_arrow().select(table.schema.names)
            pairs = zip(rows["tenant"].to_pylist(), rows["readers"].to_pylist(), strict=True)
            rows = _with(rows, readers=[labels or reader_labels(tenant, ()) for tenant, labels in pairs])
            # Update only: a row deleted meanwhile must not come back.
            table.merge_insert(_KEY).when_matched_update_all().execute(_with_words(rows))

    def due(self) -> bool:
        """Whether maintenance is due: many unindexed rows, small fragments, or old versions."""
        table = self._open()
        if table is None:
            return False
        with self._faults(), self._moves(Direction.READ):
            if table.stats()["fragment_stats"]["num_small_fragments"] > _FRAGMENTS:
                return True
            bound = max(_UNINDEXED_ROWS, _UNINDEXED_SHARE * table.count_rows())
            figures = [table.index_stats(index.name) for index in table.list_indices()]
            if any(figure is not None and figure.num_unindexed_rows > bound for figure in figures):
                return True
            return self._has_old_versions(table)

    def _has_old_versions(self, table: Any) -> bool:
        """Whether many versions are past their time. Listing them reads each of them, so it is done every few versions."""
        shared, number = self._shared_table, table.version
        if number <= _VERSIONS or number - shared.listed_at < _SEVERAL:
            return False
        shared.listed_at = number
        old = [v for v in table.list_versions() if datetime.now(v["timestamp"].tzinfo) - v["timestamp"] > _KEPT]
        return len(old) > _VERSIONS

    def maintain(self) -> None:
        """Merge small fragments, index new rows, and remove versions older than an hour.

        It commits like any other writer: searches go on meanwhile, and other handles see the result in a moment.
        """
        table = self._open()
        if table is not None:
            with self._faults(), self._moves(Direction.WRITE):
                table.optimize(cleanup_older_than=_KEPT)

    def drop(self) -> None:
        """Remove this generation with all its rows; idempotent."""
        with self._faults(), self._moves(Direction.WRITE):
            self._shared_table.drop()

    def _open_or_new(self, width: int) -> Any:
        """The table with all columns of the catalog; older rows have null in new columns."""
        table = self._open()
        with self._faults():
            if table is None:
                table = self._shared_table.create(_keyed(columns(self.store, width)))
            known = table.schema
            if not known.field(_KEY).metadata:  # an index from before the key was declared
                table.set_unenforced_primary_key(_KEY)
            if gained := [field for field in self.store.columns if field.name not in known.names]:
                table.add_columns(gained)
        return table


def columns(store: Store, width: int) -> pa.Schema:
    """The schema of a vector store with embeddings of `width` dimensions."""
    schema = store.columns
    index = schema.get_field_index("embedding")
    return schema.set(index, schema.field(index).with_type(pa.list_(pa.float32(), width)))


def _keyed(schema: pa.Schema) -> pa.Schema:
    """The schema with its key declared: otherwise two concurrent upserts would both insert the same new chunk."""
    index = schema.get_field_index(_KEY)
    return schema.set(index, schema.field(index).with_metadata({_PRIMARY_KEY: b"1"}))


def index_configs() -> dict[str, Any]:
    """Index configuration by column; lancedb is imported late because it is slow to import."""
    from lancedb.index import FTS, BTree, IvfRq, LabelList

    return {
        # Stemmed, without stop words: the best of the BM25 variants measured (docs/reference/benchmarks.md).
        "words": FTS(stem=True, remove_stop_words=True, with_position=False),
        "readers": LabelList(),
        "labels": LabelList(),
        "changed_s": BTree(),
        "text_id": BTree(),
        _KEY: BTree(),
        "document_id": BTree(),
        "embedding": IvfRq(distance_type="cosine"),
    }


def _described(rows: pa.Table, descriptions: Sequence[Description]) -> pa.Table:
    """The rows with the labels of their descriptions."""
    pairs = zip(rows["tenant"].to_pylist(), descriptions, strict=True)
    return _with(
        rows,
        readers=[reader_labels(tenant, one.readers) for tenant, one in pairs],
        labels=[list(one.labels) for one in descriptions],
        changed_s=[one.changed_s for one in descriptions],
        description_id=[one.id for one in descriptions],
    )


def _with_words(rows: pa.Table) -> pa.Table:
    """The rows with the id of their text, by which copies are found, and the words that full-text search finds."""
    texts = rows["text"].to_pylist()
    return _with(rows, text_id=[text_id(text) for text in texts], words=[indexed_words(text) for text in texts])


def _with(rows: pa.Table, **columns: Sequence[Any]) -> pa.Table:
    """The rows with other values in some columns of the catalog."""
    for name, values in columns.items():
        field = CHUNKS.columns.field(name)
        place = rows.schema.get_field_index(name)
        column = pa.array(values, field.type)
        rows = rows.append_column(field, column) if place < 0 else rows.set_column(place, field, column)
    return rows


def _among(documents: Collection[str]) -> str:
    return f"document_id IN ({', '.join(map(quoted, documents))})"
