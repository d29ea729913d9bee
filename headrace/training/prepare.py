"""prepare: answers joined with the verdicts users gave them, into a dataset that keeps where each example came from."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from headrace.catalog import CHUNK_ROWS, DATASETS, EXAMPLES, FEEDBACK_ROWS, INTERACTION_ROWS, TEXT
from headrace.errors import NotFound
from headrace.pipeline.batches import Batches
from headrace.pipeline.stage import stage
from headrace.storage.objects import ObjectWriter
from headrace.storage.tables import TableReader, TableWriter

TRAIN, TUNE, TEST = "train", "tune", "test"
_BATCH_ROWS = 256
_LEAST_DOCUMENTS = 8
_LIST = "list.json"

# What batch work gets: one row per judged answer, its passages and its verdicts as JSON beside it.
_JUDGED = pa.schema(
    [
        pa.field("answer_id", TEXT),
        pa.field("tenant", TEXT),
        pa.field("question", TEXT),
        pa.field("origin", TEXT),
        pa.field("passages", TEXT),
        pa.field("verdicts", TEXT),
    ]
)
_PAIRS = pa.schema(
    [
        EXAMPLES.columns.field(name)
        for name in ("example_id", "tenant", "question", "chunk_id", "label", "retrieval_score", "retrieval_rank")
    ]
    + [EXAMPLES.columns.field(name) for name in ("answer_id", "origins")]
)


@dataclass(frozen=True)
class Dataset:
    """A dataset version and what is in it: examples and questions per split."""

    version: str
    examples: dict[str, int]
    questions: dict[str, int]
    files: tuple[dict[str, Any], ...]

    def as_dict(self) -> dict[str, Any]:
        """The dataset as the manifest names it."""
        return {
            "version": self.version,
            "examples": self.examples,
            "questions": self.questions,
            "files": list(self.files),
        }


class Judge:
    """Batch work: judged answers in, one (question, passage, label) per passage with a verdict out; 1:N.

    A verdict on a passage labels that passage; one on the whole answer labels the passages it cites. The newest verdict on
    the same passage counts.
    """

    def __call__(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Spread a batch of `_JUDGED` rows into labelled pairs."""
        pairs = [pair for row in rows.to_pylist() for pair in self._pairs(row)]
        return pa.RecordBatch.from_pylist(pairs, schema=_PAIRS)

    def _pairs(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        verdicts = sorted(json.loads(row["verdicts"]), key=lambda v: (v["at"], v["origin"]))
        for passage in json.loads(row["passages"]):
            about = [v for v in verdicts if v["chunk_id"] == passage["chunk_id"]] or [
                v for v in verdicts if not v["chunk_id"] and passage["cited"]
            ]
            if not about:
                continue
            identity = f"{row['tenant']}\0{row['question']}\0{passage['chunk_id']}"
            yield {
                "example_id": hashlib.sha256(identity.encode()).hexdigest()[:24],
                "tenant": row["tenant"],
                "question": row["question"],
                "chunk_id": passage["chunk_id"],
                "label": 1.0 if about[-1]["up"] else 0.0,
                "retrieval_score": passage["retrieval_score"],
                "retrieval_rank": passage["retrieval_rank"],
                "answer_id": row["answer_id"],
                "origins": [row["origin"], *(v["origin"] for v in about)],
            }


@stage("Joins answers with the verdicts users gave them into a dataset of training examples.")
def prepare(
    interactions: Annotated[TableReader, INTERACTION_ROWS],
    feedback: Annotated[TableReader, FEEDBACK_ROWS],
    chunks: Annotated[TableReader, CHUNK_ROWS],
    examples: Annotated[TableWriter, EXAMPLES],
    datasets: Annotated[ObjectWriter, DATASETS],
    batches: Batches,
    snapshots: dict[str, int | None],
    version: str,
    seed: int,
) -> Dataset:
    """Write the dataset of the given table snapshots: Parquet shards, one per split, and last the list that names them.

    The same snapshots, version and seed give the same bytes. A dataset whose list stands is not made again.
    """
    try:
        return _as_dataset(json.loads(datasets.get(f"{version}/{_LIST}")))
    except NotFound:
        pass
    judged = _judged(
        interactions.read(snapshot=snapshots[INTERACTION_ROWS.name]), feedback.read(snapshot=snapshots[FEEDBACK_ROWS.name])
    )
    made = list(batches.map(judged, Judge))
    pairs = pa.Table.from_batches(made, _PAIRS) if made else _PAIRS.empty_table()
    rows = _complete(_newest(pairs), chunks.read(("chunk_id", "document_id", "text")), version, seed)
    shards = []
    for split in (TRAIN, TUNE, TEST):
        part = rows.filter(pc.equal(rows["split"], split))
        data = _parquet(part)
        key = f"{version}/{split}-00000.parquet"
        datasets.put(key, data)
        shards.append(
            {
                "key": key,
                "split": split,
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "examples": part.num_rows,
                "questions": len(set(part["question"].to_pylist())),
            }
        )
    # The examples table is for looking things up by offset; its mark makes writing it twice impossible.
    written: list[str] = examples.mark("datasets") or []
    if version not in written:
        examples.append(rows, marks={"datasets": [*written, version]}, expected={"datasets": written or None})
    listed = {"version": version, "files": shards}
    datasets.put(f"{version}/{_LIST}", json.dumps(listed, indent=1, sort_keys=True).encode())
    return _as_dataset(listed)


def dataset_version(snapshots: dict[str, int | None], seed: int) -> str:
    """Name of the dataset that these snapshots and this seed give."""
    identity = json.dumps({"snapshots": snapshots, "seed": seed, "judge": 1}, sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()[:12]


def _as_dataset(listed: dict[str, Any]) -> Dataset:
    files = listed["files"]
    return Dataset(
        listed["version"],
        {file["split"]: file["examples"] for file in files},
        {file["split"]: file["questions"] for file in files},
        tuple(files),
    )


def _judged(interactions: pa.Table, feedback: pa.Table) -> Iterator[pa.RecordBatch]:
    """Every answer that has a verdict, once, however often the head delivered either."""
    verdicts: dict[str, dict[str, dict[str, Any]]] = {}
    for row in feedback.to_pylist():
        kept = {name: row[name] for name in ("chunk_id", "up")}
        kept |= {"at": row["at"].isoformat(), "origin": _origin(row)}
        verdicts.setdefault(row["answer_id"], {})[row["verdict_id"]] = kept
    seen: set[str] = set()
    rows = []
    for row in interactions.sort_by([("topic", "ascending"), ("partition", "ascending"), ("offset", "ascending")]).to_pylist():
        if row["answer_id"] in verdicts and row["answer_id"] not in seen:
            seen.add(row["answer_id"])
            rows.append(
                {
                    "answer_id": row["answer_id"],
                    "tenant": row["tenant"],
                    "question": row["question"],
                    "origin": _origin(row),
                    "passages": json.dumps(row["passages"]),
                    "verdicts": json.dumps(list(verdicts[row["answer_id"]].values())),
                }
            )
    for start in range(0, len(rows), _BATCH_ROWS):
        yield pa.RecordBatch.from_pylist(rows[start : start + _BATCH_ROWS], schema=_JUDGED)


def _newest(pairs: pa.Table) -> pa.Table:
    """One row per (tenant, question, passage): the last, the answers being in the order in which they happened."""
    last = {example: index for index, example in enumerate(pairs["example_id"].to_pylist())}
    return pairs.take(pa.array(sorted(last.values()), pa.int64()))


def _complete(pairs: pa.Table, chunks: pa.Table, version: str, seed: int) -> pa.Table:
    """Pairs with their passage's text and their split; those whose passage was forgotten meanwhile are left out."""
    texts = dict(zip(chunks["chunk_id"].to_pylist(), chunks["text"].to_pylist(), strict=True))
    documents = dict(zip(chunks["chunk_id"].to_pylist(), chunks["document_id"].to_pylist(), strict=True))
    rows = [row for row in pairs.to_pylist() if row["chunk_id"] in texts]
    splits = _splits(rows, documents, seed)
    complete = [{**row, "passage": texts[row["chunk_id"]], "split": splits[row["question"]], "dataset": version} for row in rows]
    complete.sort(key=lambda row: (row["split"], row["question"], row["retrieval_rank"], row["example_id"]))
    return pa.Table.from_pylist(complete, schema=EXAMPLES.columns)


def _splits(rows: list[dict[str, Any]], documents: dict[str, str], seed: int) -> dict[str, str]:
    """Split of each question: 60 % train, 15 % tune, 25 % test, whole documents at a time so that nothing leaks.

    A question goes with the document it liked most. Where there are too few documents for that, questions are split.
    """
    liked: dict[str, Counter[str]] = {}
    for row in rows:
        liked.setdefault(row["question"], Counter())
        if row["label"] > 0:
            liked[row["question"]][documents[row["chunk_id"]]] += 1
    of = {question: min(c, key=lambda d: (-c[d], d)) if c else "" for question, c in liked.items()}
    by_document = len(set(of.values())) >= _LEAST_DOCUMENTS
    unit = {question: (document or question) if by_document else question for question, document in of.items()}
    # Ranked rather than thresholded by hash: even few units are then split in the wanted shares.
    order = sorted(set(unit.values()), key=lambda u: hashlib.sha256(f"{seed}\0{u}".encode()).digest())
    sizes = Counter(unit.values())
    splits, seen, total = {}, 0, sum(sizes.values())
    for u in order:
        share = seen / total
        splits[u] = TEST if share < 0.25 else TUNE if share < 0.40 else TRAIN
        seen += sizes[u]
    return {question: splits[u] for question, u in unit.items()}


def _origin(row: dict[str, Any]) -> str:
    return f"{row['topic']}/{row['partition']}/{row['offset']}"


def _parquet(rows: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, compression="zstd")
    return buffer.getvalue()


def questions(datasets: Any, dataset: Dataset, split: str) -> dict[str, list[dict[str, Any]]]:
    """The examples of one split, by question, in retrieval order; `datasets` is an `ObjectReader`.

    Raises `NotFound` where the dataset was deleted meanwhile.
    """
    grouped: dict[str, list[dict[str, Any]]] = {}
    for file in dataset.files:
        if file["split"] == split:
            for row in pq.read_table(io.BytesIO(datasets.get(file["key"]))).to_pylist():
                grouped.setdefault(row["question"], []).append(row)
    return {q: sorted(rows, key=lambda row: row["retrieval_rank"]) for q, rows in sorted(grouped.items())}
