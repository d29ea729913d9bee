"""The catalog of all stores: name, tier, contents, schema and retention.

A *tier* is a kind of storage; a *store* is one topic, table, prefix or directory in a tier. Stages name stores in their
signatures, the diagram draws them, the ledger counts them. No pipeline has data in any other topic, table, prefix or directory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import pyarrow as pa


class Tier(StrEnum):
    """Kinds of storage, from near the processor to deep."""

    STREAM = "stream"
    FILE = "file"
    VECTOR = "vector"
    TABLE = "table"
    OBJECT = "object"


@dataclass(frozen=True)
class Store:
    """A topic, table, prefix or directory in a tier.

    `schema` is the Arrow schema of a table or vector store, or of the JSON value of a topic's records; `None` for objects
    and files. `partitions` counts a topic's partitions.
    """

    name: str
    tier: Tier
    holds: str
    retention: str
    schema: pa.Schema | None = None
    partitions: int = 0

    def __str__(self) -> str:
        return f"{self.name} ({self.tier})"

    @property
    def table(self) -> str:
        """The store's name as an SQL identifier: `dead-letters` → `dead_letters`."""
        return self.name.replace("-", "_")

    @property
    def columns(self) -> pa.Schema:
        """The store's schema. Raises `TypeError` if it has none, which is a bug in the caller."""
        if self.schema is None:
            raise TypeError(f"{self} has no schema")
        return self.schema


def _schema(*required: pa.Field, optional: tuple[pa.Field, ...] = ()) -> pa.Schema:
    return pa.schema([field.with_nullable(False) for field in required] + list(optional))


def _landed(topic: Store) -> pa.Schema:
    """The schema of landed events: the topic's columns, the position on the head, and keys beyond the schema."""
    return pa.schema([*topic.columns, *_schema(*ORIGIN_COLUMNS, optional=(EXTRA,))])


def _f(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind)


TEXT = pa.string()
INT = pa.int64()
FLOAT = pa.float64()
TIME = pa.timestamp("us", tz="UTC")
DIMENSIONS = 384  # of all-MiniLM-L6-v2, the embedded embedder; another dimension needs another index

# Position of a landed row on the head. (topic, partition, offset) is unique in every landed table.
# A topic recreated under its old name is stored as `topic@02`, so that offsets restarting at 0 do not collide.
ORIGIN_COLUMNS = (_f("topic", TEXT), _f("partition", pa.int32()), _f("offset", INT))
EXTRA = _f("extra", TEXT)  # JSON of an event's keys that this catalog does not know; null if there are none

DOCUMENT_EVENT = (
    _f("event_id", TEXT),
    _f("kind", TEXT),  # put | delete | refuse
    _f("tenant", TEXT),
    _f("uri", TEXT),  # the document's name as its owner knows it; unique within a tenant
    _f("sha256", TEXT),  # of the source bytes; of a deletion the only version that it is for, or empty
    _f("bytes", INT),
    _f("reason", TEXT),  # why it was rejected when put (kind refuse); empty otherwise
    _f("at", TIME),
)
READERS = _f("readers", pa.list_(TEXT))  # who may read it; empty: the whole tenant; null in an event: unchanged
BOUND_TO = _f("bound_to", pa.list_(TEXT))  # readers that the key which wrote an event is bound to; null: to none
ATTRIBUTES = _f("attributes", pa.list_(TEXT))  # "key=value" for filters; null in an event: unchanged
FILTERS = _f("filters", pa.list_(TEXT))  # of a question, as they were asked; null or empty: none
ASKED_AS = _f("asked_as", TEXT)  # a follow-up question so that it stands alone; null if it was answered as it is
SOURCE = _f("source", TEXT)  # for a file found in a folder, a hash of the folder's path; null otherwise
PLACE = _f("place", TEXT)  # "page 3", "slide 2", "sheet Q3", for citations; null if the document has no such parts
TEXT_ID = _f("text_id", TEXT)  # 16 hex digits of sha256 over the text, white space aside: the same for copies
PART = pa.struct([_f("start", INT), _f("place", TEXT)])
PASSAGE = pa.struct(
    [
        _f("chunk_id", TEXT),
        _f("document", TEXT),
        _f("retrieval_score", FLOAT),
        _f("retrieval_rank", pa.int32()),
        _f("rerank_score", FLOAT),  # null without a re-ranker
        _f("rerank_rank", pa.int32()),
        _f("cited", pa.bool_()),
    ]
)
# What retrieval knows of a passage and nobody can compute later, in the order of an answer's `passages`; null: not known.
# `retrieval_share` and `fulltext` are its score and its BM25 as shares of the best candidate's. Never shown: see `Hit`.
# `team` is whose order picked it in an interleaved answer, "" otherwise.
SIGNAL = pa.struct([_f("retrieval_share", FLOAT), _f("similarity", FLOAT), _f("fulltext", FLOAT), _f("team", TEXT)])
MOVED = pa.struct([_f("tier", TEXT), _f("direction", TEXT), _f("bytes", INT)])
TIMING = pa.struct([_f("name", TEXT), _f("ms", FLOAT)])
SAMPLING = pa.struct([_f("temperature", FLOAT), _f("top_p", FLOAT)])  # the distribution of the tokens and log-probabilities
INTERACTION = (
    _f("answer_id", TEXT),
    _f("kind", TEXT),  # answer (quoted or generated) | search (passages only)
    _f("tenant", TEXT),
    _f("user", TEXT),
    _f("simulated", pa.bool_()),
    _f("question", TEXT),
    _f("answer", TEXT),
    _f("passages", pa.list_(PASSAGE)),
    _f("prompt_tokens", pa.list_(pa.int32())),
    _f("completion_tokens", pa.list_(pa.int32())),
    _f("logprobs", pa.list_(pa.float32())),
    _f("generator_version", TEXT),
    _f("model_version", TEXT),  # of the re-ranker that scored the passages; "none" before the first promotion
    _f("index_version", TEXT),
    _f("timings", pa.list_(TIMING)),
    _f("moved", pa.list_(MOVED)),
    _f("run", TEXT),
    _f("at", TIME),
)
VERDICT = (
    _f("verdict_id", TEXT),
    _f("answer_id", TEXT),
    _f("tenant", TEXT),
    _f("user", TEXT),
    _f("simulated", pa.bool_()),
    _f("up", pa.bool_()),
    _f("chunk_id", TEXT),  # the passage judged; empty when the verdict is about the whole answer
    _f("reason", TEXT),
    _f("correction", TEXT),
    _f("at", TIME),
)

# stream: the head. Recent events, kept only until landed, plus a safety window.
_UNTIL_LANDED = "only until landed, plus a safety window"
DOCUMENT_EVENTS = Store(
    "document-events",
    Tier.STREAM,
    "a document was put, deleted or refused",
    _UNTIL_LANDED,
    _schema(*DOCUMENT_EVENT, optional=(READERS, SOURCE, ATTRIBUTES, BOUND_TO)),
    partitions=1,
)
INTERACTIONS = Store(
    "interactions",
    Tier.STREAM,
    "a question was answered",
    _UNTIL_LANDED,
    # Optional, since events written before these columns existed must still land.
    _schema(
        *INTERACTION,
        optional=(
            _f("similarity", FLOAT),
            _f("groundedness", FLOAT),
            _f("sampling", SAMPLING),
            FILTERS,
            ASKED_AS,
            _f("ranking_version", TEXT),  # of the ranking whose weights ordered the passages; "none" where none did
            _f("signals", pa.list_(SIGNAL)),
            # The API key, or the one that created it, if all who ask with it count as one user; null if `user` counts.
            _f("key", TEXT),
        ),
    ),
    partitions=1,
)
FEEDBACK = Store(
    "feedback",
    Tier.STREAM,
    "a user gave a verdict",
    _UNTIL_LANDED,
    _schema(
        *VERDICT,
        optional=(
            # Whether the user consents to training on it; null if not asked: counts as yes unless preparing.require_consent.
            _f("consent", pa.bool_()),
            # The API key, or the one that created it, if all its verdicts count as one user; null if `user` counts.
            _f("key", TEXT),
        ),
    ),
    partitions=1,
)

# table
DOCUMENT_EVENT_ROWS = Store("document-events", Tier.TABLE, "one row per document event", "archive", _landed(DOCUMENT_EVENTS))
INTERACTION_ROWS = Store("interactions", Tier.TABLE, "one row per answer", "archive", _landed(INTERACTIONS))
FEEDBACK_ROWS = Store("feedback", Tier.TABLE, "one row per verdict", "archive", _landed(FEEDBACK))
DEAD_LETTERS = Store(
    "dead-letters",
    Tier.TABLE,
    "raw bytes of records that could not be decoded, and why",
    "archive",
    _schema(_f("key", pa.binary()), _f("value", pa.binary()), _f("reason", TEXT), _f("at", TIME), *ORIGIN_COLUMNS),
)
DIVERGENCES = Store(
    "divergences",
    Tier.TABLE,
    "where landing stopped because the head and a table disagree, and who resolved it",
    "archive",
    _schema(
        _f("topic", TEXT),
        _f("partition", pa.int32()),
        _f("kind", TEXT),  # gap | regressed | recreated
        _f("action", TEXT),  # stopped | resolved
        _f("landed", INT),  # the offset that was to land next
        _f("low", INT),  # the first offset the head has
        _f("end", INT),  # the next offset of the head
        _f("seen", TEXT),
        _f("who", TEXT),
        _f("at", TIME),
    ),
)
DOCUMENT_ROWS = Store(
    "documents",
    Tier.TABLE,
    "one row per document version, with its text or why it has none",
    "with its document",
    _schema(
        _f("document_id", TEXT),  # sha256(tenant, uri), 16 hex digits: the document across its versions
        _f("version", TEXT),  # sha256 of the source bytes
        _f("tenant", TEXT),
        _f("uri", TEXT),
        _f("status", TEXT),  # parsed | failed | deleted
        _f("reason", TEXT),  # why it failed, or what of it is not in its text
        _f("media", TEXT),
        _f("title", TEXT),
        _f("text", TEXT),  # Markdown; see text_at
        _f("bytes", INT),
        _f("at", TIME),
        *ORIGIN_COLUMNS,  # of the document event that caused this row
        optional=(
            _f("parts", pa.list_(PART)),  # the character at which each page, slide or sheet begins; null if there are none
            READERS,
            SOURCE,
            ATTRIBUTES,
            _f("put_at", TIME),  # of the event; null in older rows
            # Where only readers, attributes or the folder changed, the text is empty here, and in the row of this event: as
            # topic/partition/offset. Null: the row has its own.
            _f("text_at", TEXT),
            _f("ocr_confidence", FLOAT),  # of the letters read from scanned pages, 0 to 1; null if none were
        ),
    ),
)
CHUNK_ROWS = Store(
    "chunks",
    Tier.TABLE,
    "the text of each chunk, its document and position",
    "with its document",
    _schema(
        _f("chunk_id", TEXT),  # sha256(document_id, version, position, text), 24 hex digits
        _f("document_id", TEXT),
        _f("version", TEXT),
        _f("tenant", TEXT),
        _f("uri", TEXT),
        _f("heading", TEXT),  # the heading path above the text, joined by " › "
        _f("position", pa.int32()),
        _f("text", TEXT),
        _f("readers", pa.list_(TEXT)),
        *ORIGIN_COLUMNS,  # of the document's event
        optional=(PLACE, _f("generation", pa.int32())),  # the index generation it was split for; null: the first
    ),
)
EXAMPLES = Store(
    "examples",
    Tier.TABLE,
    "training examples with the offsets they came from",
    "per dataset version",
    _schema(
        _f("example_id", TEXT),
        _f("split", TEXT),  # train | tune | test
        _f("tenant", TEXT),
        _f("question", TEXT),
        _f("chunk_id", TEXT),
        _f("passage", TEXT),
        _f("label", pa.float32()),  # 1 liked, 0 not
        _f("retrieval_score", FLOAT),
        _f("retrieval_rank", pa.int32()),
        _f("answer_id", TEXT),
        _f("origins", pa.list_(TEXT)),  # topic/partition/offset of each interaction, then of each verdict
        _f("dataset", TEXT),
        optional=(
            _f("kind", TEXT),  # passage: a verdict on one passage | answer: on the whole answer, without chunk_id and passage
            _f("user", TEXT),  # who gave the newest verdict that agrees with the label
            _f("users", pa.list_(TEXT)),  # everybody whose verdict counted: a user, or the key of those who count as one
            _f("document_id", TEXT),  # the passage's; for a whole answer the document its question is about
            _f("simulated", pa.bool_()),  # whether the answer or a counted verdict is by a simulated user
            _f("unit", TEXT),  # of questions kept together because of their documents or their words: one split, one fold
            # For passages; null otherwise. What retrieval and the re-ranker knew when the answer was given:
            _f("heading", TEXT),
            _f("uri", TEXT),
            _f("position", pa.int32()),
            _f("retrieval_share", FLOAT),
            _f("similarity", FLOAT),
            _f("fulltext", FLOAT),
            _f("rerank_score", FLOAT),
            _f("reranker", TEXT),  # the version that gave that score
            # For whole answers; null otherwise:
            _f("answer", TEXT),  # the answer's text, without citation markers
            _f("target", TEXT),  # the desired text: the newest correction, else the liked answer, else null
            _f("generator_version", TEXT),  # a released version, or "none" for the packaged one; null if nothing was generated
            _f("staleness", pa.int32()),  # released versions between that one and the one served when the round was planned
            # Only in the shards, not in the table:
            _f("passages", pa.list_(TEXT)),  # the texts given to the generator, in order
            _f("prompt", pa.list_(pa.int32())),  # token ids; null if the endpoint returned none or something was scrubbed
            _f("completion", pa.list_(pa.int32())),
            _f("logprobs", pa.list_(pa.float32())),
            _f("sampling", SAMPLING),  # null where it was not recorded
        ),
    ),
)
PROMOTIONS = Store(
    "promotions",
    Tier.TABLE,
    "history of the champion",
    "archive",
    _schema(
        _f("model", TEXT),
        _f("version", TEXT),
        _f("previous", TEXT),
        _f("kind", TEXT),  # promote | rollback | canary | canary_ended
        _f("round", INT),
        _f("who", TEXT),
        _f("why", TEXT),
        _f("at", TIME),
    ),
)
SUPPRESSIONS = Store(
    "suppressions",
    Tier.TABLE,
    "who and what was forgotten, and may not be learned from again",
    "archive",
    _schema(
        _f("suppression_id", TEXT),  # sha256(kind, tenant, name), 16 hex digits: one for all rows about the same user or document
        _f("kind", TEXT),  # user | document
        _f("tenant", TEXT),
        _f("name", TEXT),  # the user's id or the document's uri
        _f("document_id", TEXT),  # empty for a user
        _f("origins", pa.list_(TEXT)),  # topic/partition/offset of what was removed or emptied: tombstones
        _f("who", TEXT),
        _f("at", TIME),
    ),
)
LEDGER = Store(
    "ledger",
    Tier.TABLE,
    "bytes by stage",
    "archive",
    _schema(
        _f("run", TEXT),
        _f("stage", TEXT),
        _f("store", TEXT),
        _f("tier", TEXT),
        _f("direction", TEXT),
        _f("tenant", TEXT),
        _f("ops", INT),
        _f("bytes", INT),
        _f("p50_ms", FLOAT),
        _f("p95_ms", FLOAT),
        _f("max_ms", FLOAT),
        _f("estimated", pa.bool_()),
    ),
)
RUNS = Store(
    "runs",
    Tier.TABLE,
    "what ran, when, and how it ended",
    "archive",
    _schema(
        _f("run", TEXT),
        _f("command", TEXT),
        _f("state", TEXT),  # done | skipped (nothing to learn) | failed | died
        _f("started", TIME),
        _f("ended", TIME),
        _f("detail", TEXT),  # JSON
    ),
)
AUDIT = Store(
    "audit",
    Tier.TABLE,
    "who did what over the API, and every change of tenants and keys",
    "archive",
    _schema(
        _f("at", TIME),
        _f("tenant", TEXT),  # the key's tenant; empty for the command line
        _f("key_id", TEXT),  # "page" for the token of `headrace up`, "cli:USER" for the command line
        _f("action", TEXT),  # e.g. ask, document.put, key.create
        _f("resource", TEXT),  # an answer's id, a document's uri, a key's id; never the question
        _f("outcome", TEXT),  # done, or the error code
        _f("address", TEXT),  # the client's address
    ),
)

# object
SOURCES = Store("sources", Tier.OBJECT, "documents where their owners keep them: other buckets, Git repositories", "its owner's")
DOCUMENTS = Store("documents", Tier.OBJECT, "source files as given", "until deleted by its owner")
DATASETS = Store("datasets", Tier.OBJECT, "Parquet shards and their index", "by policy")
CHECKPOINTS = Store("checkpoints", Tier.OBJECT, "optimizer, weights, RNG, data position", "by policy")
MODELS = Store("models", Tier.OBJECT, "released weights and the champion pointer", "by policy")
LEASES = Store("leases", Tier.OBJECT, "who lands which partitions, and who trains", "while they do")
INDEXES = Store("indexes", Tier.OBJECT, "which index generation is served, and how each was built", "archive")
ROUNDS = Store("rounds", Tier.OBJECT, "manifests: the JSON that commits a round", "archive")
PROOFS = Store("proofs", Tier.OBJECT, "what forgetting removed, what remains and why", "archive")

# vector
CHUNKS = Store(
    "chunks",
    Tier.VECTOR,
    "embedding, text, tenant, readers and document of each chunk; versioned",
    "with its document",
    _schema(
        _f("chunk_id", TEXT),
        _f("document_id", TEXT),
        _f("version", TEXT),
        _f("tenant", TEXT),
        _f("uri", TEXT),
        _f("heading", TEXT),
        _f("position", pa.int32()),
        _f("text", TEXT),
        _f("readers", pa.list_(TEXT)),
        _f("embedding", pa.list_(pa.float32(), DIMENSIONS)),
        # Set by the handle, null in rows of an older index: words as full-text search has them (words.py), what a search filters
        # by (labels.py), and when the document changed.
        optional=(
            PLACE,
            TEXT_ID,
            _f("words", TEXT),
            _f("labels", pa.list_(TEXT)),
            _f("changed_s", INT),
            _f("description_id", TEXT),
        ),
    ),
)

# file
KV_CACHE = Store("kv-cache", Tier.FILE, "KV blocks by content hash", "LRU by bytes, per-tenant quota")
KV_OBJECTS = replace(KV_CACHE, tier=Tier.OBJECT)
"""The KV cache where `files.kv_backend` is `objects`."""
RAY_SPILL = Store("ray-spill", Tier.FILE, "batches that Ray's object store has no memory for", "until they are read")
RAY_STORAGE = Store("ray-storage", Tier.FILE, "what Ray Train notes of a training in its storage_path", "until the training ends")

STORES: tuple[Store, ...] = (
    DOCUMENT_EVENTS,
    INTERACTIONS,
    FEEDBACK,
    DOCUMENT_EVENT_ROWS,
    INTERACTION_ROWS,
    FEEDBACK_ROWS,
    DEAD_LETTERS,
    DIVERGENCES,
    DOCUMENT_ROWS,
    CHUNK_ROWS,
    EXAMPLES,
    PROMOTIONS,
    SUPPRESSIONS,
    LEDGER,
    RUNS,
    AUDIT,
    SOURCES,
    DOCUMENTS,
    DATASETS,
    CHECKPOINTS,
    MODELS,
    LEASES,
    INDEXES,
    ROUNDS,
    PROOFS,
    CHUNKS,
    KV_CACHE,
    KV_OBJECTS,
    RAY_SPILL,
    RAY_STORAGE,
)

KV_STORES: tuple[Store, ...] = tuple(store for store in STORES if store.name == KV_CACHE.name)
"""Where the KV cache may be, one for each of its backends."""

# The table each topic lands in.
LANDINGS: dict[Store, Store] = {
    DOCUMENT_EVENTS: DOCUMENT_EVENT_ROWS,
    INTERACTIONS: INTERACTION_ROWS,
    FEEDBACK: FEEDBACK_ROWS,
}


def stores(tier: Tier) -> tuple[Store, ...]:
    """The stores of one tier, in catalog order."""
    return tuple(store for store in STORES if store.tier is tier)
