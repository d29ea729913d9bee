"""embed: each chunk's embedding, ahead of time, into the vector store; what no longer answers goes out of it."""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.catalog import CHUNK_ROWS, CHUNKS, DIMENSIONS, DOCUMENT_ROWS
from headrace.core.launch import Batches
from headrace.core.progress import ProgressBars
from headrace.core.stage import stage
from headrace.documents import AHEAD
from headrace.documents.chunk import of_generation
from headrace.documents.failed import GiveUp, Unfit, refuse
from headrace.documents.versions import audience, live
from headrace.errors import BadSettings, RequestRefused
from headrace.models.client import Embedder, Failing, Refused, Vectors
from headrace.storage.endpoints import ModelEndpoint
from headrace.storage.tables.handles import TableReader
from headrace.storage.vectors.generations import IndexGeneration
from headrace.storage.vectors.handles import VectorWriter, columns

_BATCH_ROWS = 32  # and four such are on their way at once: so much has to end before a pass gives way
_UPSERT_ROWS = 1024
_DONORS_AT_ONCE = 100  # documents whose embeddings are in memory
_REFUSED = "refused"
_CONTROL = "Does this endpoint embed anything?"

log = logging.getLogger("headrace.index")


@dataclass(frozen=True)
class Embedded:
    """How many chunks were embedded, and how many documents' old chunks went out.

    `reused` chunks have the text of one that was embedded before: of a file's other version, or of the same file by another
    name. `reopened` documents got other readers. `unfinished` are documents with chunks that are left for another pass; `failed`
    ones were refused by the embedder.
    """

    chunks: int
    retired: int
    reused: int = 0
    reopened: int = 0
    unfinished: frozenset[str] = frozenset()
    failed: tuple[Unfit, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether anything in the index did."""
        return any((self.chunks, self.retired, self.reused, self.reopened))


class Embed:
    """Batch work: a batch of chunks in, the same rows with their embeddings out, and in `refused` why one has none (else "")."""

    def __init__(self, endpoint: ModelEndpoint, width: int = DIMENSIONS) -> None:
        self._embedder = Embedder(endpoint)
        self._schema = columns(CHUNKS, width).append(pa.field(_REFUSED, pa.string(), nullable=False))
        self._width = width

    def __call__(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Embed `text`; raises `BadSettings` where the endpoint's embeddings have another width than the index.

        A text that the endpoint refuses, or fails at, while it embeds others is refused alone. Raises what the endpoint's client
        raises where it embeds nothing, and where a fault passes by itself.
        """
        texts = rows.column("text").to_pylist()
        vectors = np.zeros((len(texts), self._width), np.float32)
        refused = [""] * len(texts)
        self._embed(texts, list(range(len(texts))), vectors, refused)
        for place in np.flatnonzero(~np.isfinite(vectors).all(axis=1)):
            vectors[place], refused[place] = 0.0, "its embedding holds a number that is not finite"
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1), pa.float32()), self._width)
        made = {"embedding": column, _REFUSED: pa.array(refused, pa.string())}
        arrays = [made[name] if name in made else rows.column(name) for name in self._schema.names]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _embed(self, texts: list[str], places: list[int], vectors: Vectors, refused: list[str]) -> None:
        """Embed the texts at these places; where one is refused, find out which by halves."""
        try:
            embedded = self._embedder.embed([texts[place] for place in places], kind="passage")
        except (RequestRefused, Failing) as error:
            if isinstance(error, Failing) and error.refused.status != 500:
                raise  # 502, 503 and 504 say of themselves that they pass
            self._embedder.embed([_CONTROL], kind="passage")  # raises where it is not these texts' fault
            if len(places) == 1:
                refused[places[0]] = _reason(error)
                return
            for half in (places[: len(places) // 2], places[len(places) // 2 :]):
                self._embed(texts, half, vectors, refused)
            return
        if embedded.shape[1] != self._width:
            raise BadSettings(
                f"The embedder's vectors are {embedded.shape[1]} wide, the index's {self._width}.",
                hint="Build an index of that width beside it: headrace reindex.",
            )
        vectors[places] = embedded


def _reason(error: RequestRefused | Failing) -> str:
    """Why a text has no embedding, without what the endpoint said: tenants read it. The log has that."""
    refused: Refused | None = getattr(error, "refused", None)
    log.warning("the embedder refused a passage: %s", error.message)
    if refused is None:
        return "the embedder's answer to a passage of it was not an embedding"
    return f"the embedder refused a passage of it ({refused.status})"


@stage("Computes the embedding of each chunk ahead of time.", phase=AHEAD)
def embed(
    documents: Annotated[TableReader, DOCUMENT_ROWS],
    chunks: Annotated[TableReader, CHUNK_ROWS],
    vectors: Annotated[VectorWriter, CHUNKS],
    batches: Batches,
    bars: ProgressBars,
    embedder: ModelEndpoint,
    into: IndexGeneration | None = None,
    gives_way: Callable[[Collection[str]], bool] | None = None,
    give_up: GiveUp = refuse,
) -> Embedded:
    """Embed every chunk that answers and is not in a generation of the vector store yet, then take out what no longer answers.

    What is missing is found by comparing the stores, so a run that died in between is simply completed by the next. New
    versions go in before old ones go out: there is no moment at which neither answers. Who may read a chunk is what the
    documents table says of its document now, whatever it said when the chunk was cut or when this pass began: of two passes at
    once, neither undoes what the other knew better.

    Tenants take turns, a batch each. Where `gives_way` is given, a pass ends after a round of turns in which one tenant got all
    of its own in and others did not, or after which `gives_way`, called with the tenants that still wait, says so; the rest is
    left for another pass. A document's old version answers until its new one is in as a whole.

    A document of which the embedder refuses a chunk is given up whole: half of it would answer as if it were all.
    """
    number, width = (into.number, into.width) if into else (1, DIMENSIONS)
    vectors = vectors.for_generation(number)
    # First of all: somebody may read less than before.
    reopened = 0
    current = _CurrentDocuments(documents)
    for answering, readers in current.settled():
        indexed = vectors.indexed()
        reopened += _reopen(vectors, indexed, answering, readers)
    missing = _missing(chunks, answering, set(indexed["chunk_id"].to_pylist()), number)
    missing, reused = _reuse(vectors, missing, indexed, current)
    waiting: list[pa.RecordBatch] = []
    done = 0
    failed: dict[str, Unfit] = {}
    fair = FairBatches(missing, gives_way)
    finished = batches.map(fair, Embed, embedder, width)
    for rows in bars.track(finished, "embed", total=missing.num_rows, of="chunks", size=True):
        good = pc.equal(rows[_REFUSED], "")
        failed.update(_unfit(rows.filter(pc.invert(good))))
        rows = rows.filter(good).select([name for name in rows.schema.names if name != _REFUSED])
        waiting.append(rows)
        done += rows.num_rows
        if sum(b.num_rows for b in waiting) >= _UPSERT_ROWS:
            _insert(vectors, pa.Table.from_batches(waiting), current)
            waiting = []
    if waiting:
        _insert(vectors, pa.Table.from_batches(waiting), current)
    unfinished = fair.left()
    if failed:
        give_up(list(failed.values()))
        answering = live(documents)
    retired = 0
    pairs = zip(indexed["document_id"].to_pylist(), indexed["version"].to_pylist(), strict=True)
    gone = {d for d, version in pairs if answering.get(d) != version} - unfinished
    for document_id in sorted(gone | failed.keys()):
        vectors.delete(document_id, but_version=answering.get(document_id, ""))
        retired += 1
    return Embedded(done, retired, reused, reopened, unfinished - failed.keys(), tuple(failed.values()))


def _unfit(rows: pa.RecordBatch) -> dict[str, Unfit]:
    """document id → why it cannot be embedded."""
    columns = (rows[name].to_pylist() for name in ("document_id", "version", "uri", _REFUSED))
    return {one[0]: Unfit(*one) for one in zip(*columns, strict=True)}


class _CurrentDocuments:
    """What answers (as `live`) and who may read it (as `audience`), worked out anew where the table has changed."""

    def __init__(self, documents: TableReader) -> None:
        self._documents = documents
        self._snapshot: int | None = -1  # none has that number
        self._found: tuple[dict[str, str], dict[str, tuple[str, ...]]] = {}, {}

    def settled(self) -> Iterator[tuple[dict[str, str], dict[str, tuple[str, ...]]]]:
        """Both, again until no document has changed since it was asked.

        What is written by the last of these is thus written before the next change, whose own pass then sees it.
        """
        snapshot = self._documents.snapshot()
        while True:
            if snapshot != self._snapshot:
                self._found, self._snapshot = (live(self._documents), audience(self._documents)), snapshot
            yield self._found
            before, snapshot = snapshot, self._documents.snapshot()
            if snapshot == before:
                return


def _insert(vectors: VectorWriter, rows: pa.Table, current: _CurrentDocuments) -> None:
    """Upsert chunks as their documents stand by now: with the readers they have, and none of what answers no more."""
    place = rows.schema.get_field_index("readers")
    rows_kept: pa.Table | None = None
    computed: dict[str, tuple[str, ...]] = {}
    for answering, readers in current.settled():
        pairs = list(zip(rows["document_id"].to_pylist(), rows["version"].to_pylist(), strict=True))
        gone = {document_id for document_id, version in pairs if answering.get(document_id) != version}
        if rows_kept is None:
            rows_kept = rows.filter(pa.array([document_id not in gone for document_id, _ in pairs], pa.bool_()))
            computed = {document_id: readers.get(document_id, ()) for document_id in rows_kept["document_id"].to_pylist()}
            own = [list(computed[document_id]) for document_id in rows_kept["document_id"].to_pylist()]
            if rows_kept.num_rows:
                vectors.upsert(
                    rows_kept.set_column(place, rows.schema.field(place), pa.array(own, rows.schema.field(place).type))
                )
            continue
        for document_id in sorted(gone & computed.keys()):
            vectors.delete(document_id, but_version=answering.get(document_id, ""))
        for document_id in sorted(computed.keys() - gone):
            if sorted(now := readers.get(document_id, ())) != sorted(computed[document_id]):
                vectors.open_to([document_id], now)
                computed[document_id] = now


def _reopen(vectors: VectorWriter, indexed: pa.Table, answering: dict[str, str], readers: dict[str, tuple[str, ...]]) -> int:
    """Give documents that answer and are held the readers they have by now; returns how many had others."""
    changed: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    for document_id, before in zip(indexed["document_id"].to_pylist(), indexed["readers"].to_pylist(), strict=True):
        if (now := readers[document_id] if document_id in answering else None) is not None and sorted(before) != sorted(now):
            changed[now].add(document_id)
    for now, names in changed.items():
        vectors.open_to(sorted(names), now)
    return sum(map(len, changed.values()))


def _missing(chunks: TableReader, answering: dict[str, str], known: set[str], generation: int) -> pa.Table:
    """The chunks to embed, by length: an embedder pads each text to the longest of its batch."""
    names = tuple(name for name in CHUNKS.columns.names if name != "embedding")
    batches = []
    for rows in chunks.scan((*names, "generation")):
        rows = of_generation(rows, generation).select(names)
        triples = zip(
            rows.column("chunk_id").to_pylist(),
            rows.column("document_id").to_pylist(),
            rows.column("version").to_pylist(),
            strict=True,
        )
        batches.append(rows.filter(pa.array([c not in known and answering.get(d) == v for c, d, v in triples], pa.bool_())))
    table = pa.Table.from_batches(batches, pa.schema([CHUNKS.columns.field(name) for name in names]))
    return table.take(pc.sort_indices(pc.utf8_length(table["text"]))).combine_chunks()


def _reuse(vectors: VectorWriter, missing: pa.Table, indexed: pa.Table, current: _CurrentDocuments) -> tuple[pa.Table, int]:
    """Put in those chunks whose text the same tenant has embedded; returns the others, and how many that were.

    Looked for in the document's other version, and in documents of the same bytes: a renamed file is not embedded again.
    """
    owners = zip(*(missing[name].to_pylist() for name in ("tenant", "version", "document_id")), strict=True)
    bytes_wanted, documents_wanted = set(), set()
    for tenant, version, document_id in owners:
        bytes_wanted.add((tenant, version))
        documents_wanted.add(document_id)
    columns = zip(*(indexed[name].to_pylist() for name in ("tenant", "version", "document_id")), strict=True)
    donors = sorted({d for t, v, d in columns if d in documents_wanted or (t, v) in bytes_wanted})
    count = 0
    for start in range(0, len(donors), _DONORS_AT_ONCE):
        vectors_of = vectors.embeddings(donors[start : start + _DONORS_AT_ONCE])
        rows = {
            pair: row
            for row, pair in enumerate(zip(vectors_of["tenant"].to_pylist(), vectors_of["text"].to_pylist(), strict=True))
        }
        pairs = zip(missing["tenant"].to_pylist(), missing["text"].to_pylist(), strict=True)
        sources = pa.array([rows.get(pair) for pair in pairs], pa.int64())
        known = missing.filter(pc.is_valid(sources))
        if known.num_rows:
            embeddings = vectors_of["embedding"].take(sources.drop_null())
            column = CHUNKS.columns.get_field_index("embedding")
            _insert(vectors, known.add_column(column, "embedding", embeddings), current)
            missing = missing.filter(pc.is_null(sources))
            count += known.num_rows
    return missing, count


class FairBatches:
    """The batches of chunks to embed, each of one tenant, the tenants in turn: those with the fewest chunks first.

    Within a tenant the order is that of `missing`. See `embed` for when it ends early; `left` then says which documents have
    chunks that were in no batch.
    """

    def __init__(self, missing: pa.Table, gives_way: Callable[[Collection[str]], bool] | None = None) -> None:
        self._gives_way = gives_way
        names = pc.unique(missing["tenant"]).to_pylist()
        parts = {tenant: missing.filter(pc.equal(missing["tenant"], tenant)) for tenant in names}
        ordered = sorted(parts.items(), key=lambda part: (part[1].num_rows, part[0]))
        self._waiting = {tenant: deque(part.combine_chunks().to_batches(max_chunksize=_BATCH_ROWS)) for tenant, part in ordered}

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        while self._waiting:
            before = len(self._waiting)
            for tenant in list(self._waiting):  # a round is made whole: nobody is kept out by those who come all the time
                yield self._waiting[tenant].popleft()
                if not self._waiting[tenant]:
                    del self._waiting[tenant]
            done = len(self._waiting) < before
            if self._gives_way is not None and self._waiting and (done or self._gives_way(self._waiting.keys())):
                return

    def left(self) -> frozenset[str]:
        """Documents of which a chunk was in no batch."""
        return frozenset(
            name for batches in self._waiting.values() for rows in batches for name in rows.column("document_id").to_pylist()
        )
