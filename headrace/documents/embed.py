"""embed: the embedding of each chunk into the vector store, ahead of time; chunks that no longer answer are removed."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.catalog import CHUNK_ROWS, CHUNKS, DIMENSIONS, DOCUMENT_ROWS
from headrace.core.launch import Batches
from headrace.core.progress import ProgressBars
from headrace.core.stage import stage
from headrace.documents.embedding import Embedding, Intake, Waiting
from headrace.documents.failed import GiveUp, Unfit, refuse
from headrace.documents.generations import of_generation
from headrace.documents.lookup import ChunkLookup, DocumentLookup, IndexProgress, Progress, follows
from headrace.errors import BadSettings, RequestRefused
from headrace.models.client import Embedder, Vectors
from headrace.models.connection import EndpointFailure, ErrorReply
from headrace.storage.endpoints import ModelEndpoint
from headrace.storage.metadata import Metadata
from headrace.storage.tables.handles import TableReader, TableState, quoted
from headrace.storage.timeline import AHEAD
from headrace.storage.vectors.generations import IndexGeneration
from headrace.storage.vectors.handles import VectorWriter, columns
from headrace.storage.vectors.labels import Description

_BATCH_ROWS = 32  # four batches are in flight at once, and have to end before a pass gives way
_UPSERT_ROWS = 1024
_DONORS_AT_ONCE = 100  # documents whose embeddings are in memory at a time
_LOOKED_UP_AT_ONCE = 200  # documents named in one scan of the chunks
_REFUSED = "refused"
_CHUNK = tuple(name for name in CHUNKS.columns.names if name in CHUNK_ROWS.columns.names)
_CONTROL = "Does this endpoint embed anything?"

log = logging.getLogger("headrace.index")


@dataclass(frozen=True)
class Embedded:
    """What changed in the index.

    `chunks` were embedded; `retired` documents had chunks removed; `reused` chunks got the embedding of the same text in another
    version of the document or in a file of the same bytes; `relabelled` documents got other readers or attributes. `unfinished`
    ones have chunks left for another pass; `failed` ones were refused by the embedder. `text_bytes` are those of the embedded
    chunks.
    """

    chunks: int
    retired: int
    reused: int = 0
    relabelled: int = 0
    unfinished: frozenset[str] = frozenset()
    failed: tuple[Unfit, ...] = ()
    text_bytes: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """See `Counted`."""
        return {"chunks": self.chunks, "chunk_text_bytes": self.text_bytes}

    @property
    def changed(self) -> bool:
        """Whether the index has changed."""
        return any((self.chunks, self.retired, self.reused, self.relabelled))


class Embed:
    """Batch work: a batch of chunks to the same rows with embeddings; `_REFUSED` says why a row has none, else it is ""."""

    def __init__(self, endpoint: ModelEndpoint, width: int = DIMENSIONS) -> None:
        self._embedder = Embedder(endpoint)
        known = [field for field in columns(CHUNKS, width) if field.name in (*_CHUNK, "embedding")]
        self._schema = pa.schema([*known, pa.field(_REFUSED, pa.string(), nullable=False)])
        self._width = width

    def __call__(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Embed `text`. A text that the endpoint rejects or fails at, while it embeds others, is left out alone.

        Raises `BadSettings` where the embeddings have another width than the index, and what the client raises where the
        endpoint embeds nothing or the fault is temporary.
        """
        texts = rows.column("text").to_pylist()
        vectors = np.zeros((len(texts), self._width), np.float32)
        rejected = [""] * len(texts)
        self._embed(texts, list(range(len(texts))), vectors, rejected)
        for row in np.flatnonzero(~np.isfinite(vectors).all(axis=1)):
            vectors[row], rejected[row] = 0.0, "its embedding holds a number that is not finite"
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1), pa.float32()), self._width)
        made = {"embedding": column, _REFUSED: pa.array(rejected, pa.string())}
        arrays = [made[name] if name in made else rows.column(name) for name in self._schema.names]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _embed(self, texts: list[str], rows: list[int], vectors: Vectors, rejected: list[str]) -> None:
        """Embed the texts of these rows; where one is rejected, find it by bisection."""
        try:
            embedded = self._embedder.embed([texts[row] for row in rows], kind="passage")
        except (RequestRefused, EndpointFailure) as error:
            if isinstance(error, EndpointFailure) and error.reply.status != 500:
                raise  # 502, 503 and 504 are temporary
            self._embedder.embed([_CONTROL], kind="passage")  # raises unless these texts are at fault
            if len(rows) == 1:
                rejected[rows[0]] = _reason(error)
                return
            for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
                self._embed(texts, half, vectors, rejected)
            return
        if embedded.shape[1] != self._width:
            raise BadSettings(
                f"The embedder's vectors are {embedded.shape[1]} wide, the index's {self._width}.",
                hint="Build an index of that width beside it: headrace reindex.",
            )
        vectors[rows] = embedded


def _reason(error: RequestRefused | EndpointFailure) -> str:
    """Why a text has no embedding. Tenants read it, so the endpoint's own words go to the log only."""
    reply: ErrorReply | None = getattr(error, "reply", None)
    log.warning("the embedder rejected a passage: %s", error.message)
    if reply is None:
        return "the embedder's answer to a passage of it was not an embedding"
    return f"the embedder rejected a passage of it ({reply.status})"


@stage("Computes the embedding of each chunk ahead of time.", phase=AHEAD)
def embed(
    documents: Annotated[TableReader, DOCUMENT_ROWS],
    chunks: Annotated[TableReader, CHUNK_ROWS],
    vectors: Annotated[VectorWriter, CHUNKS],
    batches: Batches,
    bars: ProgressBars,
    metadata: Metadata,
    embedder: ModelEndpoint,
    into: IndexGeneration | None = None,
    gives_way: Callable[[Collection[str]], bool] | None = None,
    give_up: GiveUp = refuse,
    compare: bool = False,
    unsplit: Collection[str] = frozenset(),
    embedding: Embedding | None = None,
) -> Embedded:
    """Embed every chunk that answers and is missing in a generation of the vector store, then remove those that answer no more.

    - What may be missing is found from what was committed to the tables since the pass before. How far the index has all of it
      is noted, so the next pass completes one that died. With `compare`, and where nothing is noted that still holds, it is found
      by comparing the stores as a whole, which also repairs an index that lost rows.
    - New versions go in before old ones are removed, and an old version answers until the new one is in as a whole.
    - Readers and attributes of a chunk are those that the documents table names now, not when the chunk was cut or when this pass
      began: of two passes at once, neither undoes what the other one read later.
    - Tenants take turns, a batch each. With `gives_way` a pass ends after a round in which one tenant was finished and others
      were not, or after which `gives_way`, called with the tenants that still wait, returns true. The rest is left for another
      pass. `embedding`, which the caller keeps for that pass, has what waits.
    - The chunks of `unsplit` documents are not all in the table yet: what the index has of them stays until they are.
    - A document of which the embedder refuses a chunk is given up as a whole: half of it would answer as if it were all.
    """
    number, width = (into.number, into.width) if into else (1, DIMENSIONS)
    vectors = vectors.for_generation(number)
    lookup, splits = DocumentLookup(metadata, documents), ChunkLookup(metadata, chunks)
    if compare:
        lookup.rebuild()
        splits.rebuild()
    progress, embedding = IndexProgress(metadata, vectors.name), embedding or Embedding()
    reached = splits.follow(), lookup.follow()
    version = vectors.table_version()
    waiting = embedding.take(vectors.name, version)
    before: Intake | Progress | None = None
    if not compare:
        before = waiting.intakes[-1] if waiting.intakes else progress.read(version)
    if before is not None and not (follows(before.chunks, reached[0]) and follows(before.documents, reached[1])):
        before = None
    fresh = None if before is None else _fresh(splits.state, before.chunks, number)
    changed: set[str] | None = None
    if before is not None and fresh is not None:
        changed = lookup.changed_since(before.documents) | set(fresh["document_id"].to_pylist())
    # First, since some readers may have lost access.
    relabelled = 0
    for answering, described in _settled(lookup, changed):
        indexed = vectors.indexed(changed)
        written = _describe(vectors, indexed, answering, described)
        relabelled += written
        if not written:
            break
    known = set(indexed["chunk_id"].to_pylist())
    if fresh is None:
        missing = _missing(chunks, answering, known, number)
    else:
        missing = _missing_of(chunks, fresh, answering, indexed, splits, number)
    missing, reused = _reuse(vectors, missing, indexed, lookup)
    pairs = zip(indexed["document_id"].to_pylist(), indexed["version"].to_pylist(), strict=True)
    outdated = {name for name, version in pairs if answering.get(name) != version}
    # Before anything is embedded, which may take hours: nothing comes in their place.
    removed = {name for name in outdated if name not in answering}
    if removed:
        vectors.delete(dict.fromkeys(removed, ""))
    if changed is None:
        waiting = Waiting()
    else:
        waiting.forget(changed)
    earlier = waiting.versions()
    intake = Intake(reached[1], reached[0], before is None, set(missing["document_id"].to_pylist()))
    missing = _sorted(waiting.take_in(intake, missing, outdated))
    finished: list[pa.RecordBatch] = []
    done = text_bytes = 0
    failed: dict[str, Unfit] = {}
    fair = FairBatches(missing, gives_way)
    made = batches.map(fair, Embed, embedder, width)
    for rows in bars.track(made, "embed", total=missing.num_rows, of="chunks", size=True):
        good = pc.equal(rows[_REFUSED], "")
        failed.update(_unfit(rows.filter(pc.invert(good))))
        rows = rows.filter(good).select([name for name in rows.schema.names if name != _REFUSED])
        finished.append(rows)
        done += rows.num_rows
        text_bytes += pc.sum(pc.binary_length(rows["text"])).as_py() or 0
        if sum(b.num_rows for b in finished) >= _UPSERT_ROWS:
            _insert(vectors, pa.Table.from_batches(finished), lookup)
            finished = []
    if finished:
        _insert(vectors, pa.Table.from_batches(finished), lookup)
    rest = fair.rest()
    if failed:
        give_up(list(failed.values()))
        lookup.follow()
        answering = {name: version for name, version in answering.items() if name not in failed} | lookup.live(failed)
        rest = rest.filter(pc.invert(pc.is_in(rest["document_id"], pa.array(failed, pa.string()))))
    unfinished = frozenset(rest["document_id"].to_pylist())
    replaced = (earlier.keys() & waiting.replacing) - unfinished - failed.keys()
    # One of which the version was not inserted, since a newer one is there by now, is the next pass's.
    now = {name: earlier[name] for name, version in lookup.live(replaced).items() if version == earlier[name]}
    gone = ((outdated - removed - unfinished - set(unsplit)) | failed.keys()) | now.keys()
    vectors.delete({name: (answering | now).get(name, "") for name in gone})
    settled = waiting.leave(rest)
    version = vectors.table_version()
    embedding.keep(vectors.name, version, waiting)
    if settled is not None:
        progress.note(settled.documents, settled.chunks, version, compared=settled.compared)
    return Embedded(done, len(gone) + len(removed), reused, relabelled, unfinished, tuple(failed.values()), text_bytes)


def _unfit(rows: pa.RecordBatch) -> dict[str, Unfit]:
    """document id → why it cannot be embedded."""
    columns = (rows[name].to_pylist() for name in ("document_id", "version", "uri", _REFUSED))
    return {one[0]: Unfit(*one) for one in zip(*columns, strict=True)}


_Current = tuple[dict[str, str], dict[str, Description]]


def _settled(lookup: DocumentLookup, documents: Collection[str] | None) -> Iterator[_Current]:
    """Yield `lookup.current` of some documents, or of all, again until the table has not changed meanwhile.

    So what the caller writes for the last pair is written before the next change, whose own pass then sees it. A caller that
    wrote nothing may stop.
    """
    while True:
        yield lookup.current(documents)
        before = lookup.state.revision
        if lookup.follow() == before:
            return


def _insert(vectors: VectorWriter, rows: pa.Table, lookup: DocumentLookup) -> None:
    """Upsert those chunks whose versions are still live, with the current readers and labels of their documents."""
    rows_kept: pa.Table | None = None
    written: dict[str, Description] = {}
    pairs = list(zip(rows["document_id"].to_pylist(), rows["version"].to_pylist(), strict=True))
    lookup.follow()  # nobody may see, however briefly, a chunk of what was deleted or closed while it was embedded
    for answering, described in _settled(lookup, {document_id for document_id, _ in pairs}):
        gone = {document_id for document_id, version in pairs if answering.get(document_id) != version}
        if rows_kept is None:
            rows_kept = rows.filter(pa.array([document_id not in gone for document_id, _ in pairs], pa.bool_()))
            written = {name: described.get(name, Description()) for name in rows_kept["document_id"].to_pylist()}
            if rows_kept.num_rows:
                vectors.upsert(rows_kept, written)
            continue
        vectors.delete({name: answering.get(name, "") for name in gone & written.keys()})
        changed = {name: described[name] for name in written.keys() - gone if described[name].id != written[name].id}
        vectors.describe(changed)
        written |= changed


def _describe(vectors: VectorWriter, indexed: pa.Table, answering: dict[str, str], described: dict[str, Description]) -> int:
    """Update the readers and labels of indexed documents; returns how many were changed."""
    wanted = {name: described[name].id for name in answering}
    pairs = zip(indexed["document_id"].to_pylist(), indexed["description_id"].to_pylist(), strict=True)
    changed = {name: described[name] for name, before in pairs if wanted.get(name, before) != before}
    vectors.describe(changed)
    return len(changed)


def _missing(chunks: TableReader, answering: dict[str, str], known: set[str], generation: int) -> pa.Table:
    """The chunks to embed, of all chunks."""
    return _chunk_rows(_wanted(rows, answering, known, generation) for rows in chunks.scan((*_CHUNK, "generation")))


def _fresh(chunks: TableState, since: str | None, generation: int) -> pa.Table:
    """The chunks of a generation that were committed since."""
    scanned = chunks.scan((*_CHUNK, "generation"), since=since)
    return _chunk_rows(of_generation(rows, generation).select(_CHUNK) for rows in scanned)


def _missing_of(
    chunks: TableReader, fresh: pa.Table, answering: dict[str, str], indexed: pa.Table, splits: ChunkLookup, generation: int
) -> pa.Table:
    """The chunks to embed of the documents that answer: new ones, and older ones of versions that the index has only in part.

    The latter are of a version that was put again after another one.
    """
    known = set(indexed["chunk_id"].to_pylist())
    found = [_wanted(rows, answering, known) for rows in fresh.to_batches()]
    counts = Counter(zip(indexed["document_id"].to_pylist(), indexed["version"].to_pylist(), strict=True))
    for rows in found:
        known.update(rows.column("chunk_id").to_pylist())
        counts.update(zip(rows.column("document_id").to_pylist(), rows.column("version").to_pylist(), strict=True))
    expected = splits.split(generation, answering)
    partial = [
        (split.offset, name)
        for name, version in answering.items()
        if (split := expected.get((name, version))) is not None and counts[name, version] < split.chunks
    ]
    partial.sort()
    for start in range(0, len(partial), _LOOKED_UP_AT_ONCE):
        some = partial[start : start + _LOOKED_UP_AT_ONCE]
        # The offsets spare reading files that cannot have them.
        where = f"offset >= {some[0][0]} AND offset <= {some[-1][0]} AND document_id in ({', '.join(quoted(n) for _, n in some)})"
        scanned = chunks.scan((*_CHUNK, "generation", "offset"), where)
        found += [_wanted(rows, answering, known, generation) for rows in scanned]
    return _chunk_rows(found)


def _wanted(rows: pa.RecordBatch, answering: dict[str, str], known: set[str], generation: int | None = None) -> pa.RecordBatch:
    """Those chunks (of a generation) that answer and are not known."""
    if generation is not None:
        rows = of_generation(rows, generation)
    triples = zip(*(rows.column(name).to_pylist() for name in ("chunk_id", "document_id", "version")), strict=True)
    return rows.select(_CHUNK).filter(pa.array([c not in known and answering.get(d) == v for c, d, v in triples], pa.bool_()))


def _chunk_rows(batches: Iterable[pa.RecordBatch]) -> pa.Table:
    return pa.Table.from_batches(batches, pa.schema([CHUNKS.columns.field(name) for name in _CHUNK]))


def _sorted(chunks: pa.Table) -> pa.Table:
    """By length, since an embedder pads each text to the longest of its batch."""
    return chunks.take(pc.sort_indices(pc.utf8_length(chunks["text"]))).combine_chunks()


def _reuse(vectors: VectorWriter, missing: pa.Table, indexed: pa.Table, lookup: DocumentLookup) -> tuple[pa.Table, int]:
    """Insert those chunks whose text the tenant has embedded before; returns the other chunks, and how many were inserted.

    Looks at other versions of the document and at documents of the same bytes, so a renamed file is not embedded again.
    """
    wanted = set(missing["document_id"].to_pylist())
    pairs = set(zip(missing["tenant"].to_pylist(), missing["version"].to_pylist(), strict=True))
    donors = sorted((lookup.with_bytes(pairs) - wanted) | (wanted & set(indexed["document_id"].to_pylist())))
    count = 0
    for start in range(0, len(donors), _DONORS_AT_ONCE):
        vectors_of = vectors.embeddings(donors[start : start + _DONORS_AT_ONCE])
        rows = {
            pair: row
            for row, pair in enumerate(zip(vectors_of["tenant"].to_pylist(), vectors_of["text"].to_pylist(), strict=True))
        }
        owners = zip(missing["tenant"].to_pylist(), missing["text"].to_pylist(), strict=True)
        sources = pa.array([rows.get(pair) for pair in owners], pa.int64())
        known = missing.filter(pc.is_valid(sources))
        if known.num_rows:
            embeddings = vectors_of["embedding"].take(sources.drop_null())
            column = CHUNKS.columns.get_field_index("embedding")
            _insert(vectors, known.add_column(column, "embedding", embeddings), lookup)
            missing = missing.filter(pc.is_null(sources))
            count += known.num_rows
    return missing, count


class FairBatches:
    """Batches of the chunks to embed, each of one tenant, the tenants in turn: those with the fewest chunks first.

    A tenant's chunks keep the order of `missing`. `embed` says when it ends early; `rest` then returns the chunks that were in no
    batch.
    """

    def __init__(self, missing: pa.Table, gives_way: Callable[[Collection[str]], bool] | None = None) -> None:
        self._gives_way, self._schema = gives_way, missing.schema
        names = pc.unique(missing["tenant"]).to_pylist()
        parts = {tenant: missing.filter(pc.equal(missing["tenant"], tenant)) for tenant in names}
        ordered = sorted(parts.items(), key=lambda part: (part[1].num_rows, part[0]))
        self._waiting = {tenant: deque(part.combine_chunks().to_batches(max_chunksize=_BATCH_ROWS)) for tenant, part in ordered}

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        while self._waiting:
            before = len(self._waiting)
            for tenant in list(self._waiting):  # a round is always completed, so that new tenants keep none out
                yield self._waiting[tenant].popleft()
                if not self._waiting[tenant]:
                    del self._waiting[tenant]
            done = len(self._waiting) < before
            if self._gives_way is not None and self._waiting and (done or self._gives_way(self._waiting.keys())):
                return

    def rest(self) -> pa.Table:
        """The chunks that were in no batch."""
        return pa.Table.from_batches((rows for batches in self._waiting.values() for rows in batches), self._schema)
