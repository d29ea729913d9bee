"""Lineage in both directions: from an answer to the verdicts its models learned from, and from an event to those models.

    answer → re-ranker, generator, embedder → manifest → dataset → examples → topic/partition/offset → verdicts
    event  → examples → datasets → rounds → models, and the models that began from those → answers

It needs no storage of its own: it is computed from what rounds commit and answers record. All results are JSON-ready dicts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Annotated, Any, NewType, TypedDict

import pyarrow as pa
import pyarrow.compute as pc

from headrace.catalog import (
    CHUNK_ROWS,
    DATASETS,
    DEAD_LETTERS,
    DOCUMENT_EVENT_ROWS,
    EXAMPLES,
    FEEDBACK,
    FEEDBACK_ROWS,
    INDEXES,
    INTERACTION_ROWS,
    LANDINGS,
    MODELS,
    PROOFS,
    ROUNDS,
    SUPPRESSIONS,
    Store,
)
from headrace.core.stage import each, stage
from headrace.errors import NotFound
from headrace.landing.event import Event
from headrace.models import EMBEDDER, GENERATOR, MODEL_NAMES, RANKING, RERANKER
from headrace.models.pointer import NONE, ChampionPointer, read_pointer
from headrace.storage.objects import ObjectReader
from headrace.storage.tables.handles import TableReader, quoted
from headrace.storage.vectors.generations import Indexes, IndexReader
from headrace.training import manifest
from headrace.training.manifest import Manifest

MOST_PARENTS = 20
"""Versions that an answer's model is followed back to, each with its examples and verdicts: rounds go on for ever."""
_ORIGIN = ("topic", "partition", "offset")
_EXAMPLE = ("example_id", "split", "kind", "tenant", "question", "chunk_id", "label", "answer_id", "user", "simulated", "origins")
_VERDICT = ("verdict_id", "answer_id", "tenant", "user", "simulated", "up", "chunk_id", "reason", "correction", "at", *_ORIGIN)
_LEARNED = ("train", "tune")  # splits that determine weights or their scaling; `test` only evaluates
_CROSS_FITTED = (*_LEARNED, "test")  # of a ranking, which is judged by cross-fitting over all questions and released from all


AnswerTrace = NewType("AnswerTrace", dict[str, Any])
EventTrace = NewType("EventTrace", dict[str, Any])


class LearnedVersion(TypedDict):
    """A released version that learned from given datasets, directly or through the weights it began from."""

    model: str
    version: str
    round: int
    recipe: str
    dataset: str | None
    """The dataset it learned from directly."""
    began_from: str | None
    """`model/version` of the initial weights, if those had learned from the datasets."""
    share: float
    """Share of the answers it gives now."""
    served: bool


def learned_splits(model: str) -> tuple[str, ...]:
    """The splits of a dataset that a model's weights depend on."""
    return _CROSS_FITTED if model == RANKING else _LEARNED


@dataclass(frozen=True)
class ReleaseHistory:
    """All rounds and their releases, and the current pointers."""

    rounds: Mapping[int, Manifest]
    pointers: Mapping[str, ChampionPointer]

    @classmethod
    def load(cls, rounds: ObjectReader, models: ObjectReader) -> ReleaseHistory:
        """Read every manifest and every pointer."""
        return cls(manifest.read_all(rounds), {model: read_pointer(models, model)[0] for model in MODEL_NAMES})

    def share(self, model: str, version: str) -> float:
        """The share of answers that a version gives now."""
        return self.pointers[model].share(version)

    def learned(self, examples: Mapping[str, Mapping[str, int]], known: Collection[tuple[str, str]] = ()) -> list[LearnedVersion]:
        """Released versions that learned from some examples, directly or through their initial weights, oldest first.

        `examples` are counts by dataset and split. Versions in `known`, as (model, version), count as having learned.
        """
        tainted: dict[tuple[str, str], LearnedVersion] = {}
        for number, made in sorted(self.rounds.items()):
            parent = _parent(made)
            splits = examples.get(made.dataset.version, {})
            itself = any(splits.get(split) for split in learned_splits(made.model)) or (made.model, made.weights.version) in known
            if not made.weights.version or not (itself or parent in tainted):
                continue
            model, version = name = (made.model, made.weights.version)
            tainted[name] = {
                "model": model,
                "version": version,
                "round": number,
                "recipe": made.recipe,
                "dataset": made.dataset.version if itself else None,
                "began_from": "/".join(parent) if parent in tainted and parent is not None else None,
                "share": self.share(model, version),
                "served": self.share(model, version) > 0,
            }
        return list(tainted.values())


@stage("Traces an answer back to its models, their training data, and the verdicts behind that.")
def trace_answer(
    interactions: Annotated[TableReader, INTERACTION_ROWS],
    feedback: Annotated[TableReader, FEEDBACK_ROWS],
    chunks: Annotated[TableReader, CHUNK_ROWS],
    examples: Annotated[TableReader, EXAMPLES],
    suppressions: Annotated[TableReader, SUPPRESSIONS],
    datasets: Annotated[ObjectReader, DATASETS],
    rounds: Annotated[ObjectReader, ROUNDS],
    models: Annotated[ObjectReader, MODELS],
    indexes: Annotated[IndexReader, INDEXES],
    answer_id: str,
) -> AnswerTrace:
    """Keys: answer, index, passages, verdicts (on this answer), models (each: round, dataset, examples, verdicts, parent).

    `parent` is the same for the version that a model began from, which `began_from` names. At most `MOST_PARENTS` are followed:
    the last one then has a `began_from` and no `parent`. Raises `NotFound` if no such answer has landed.
    """
    columns = ("answer_id", "kind", "tenant", "user", "simulated", "question", "asked_as", "passages", "at", *_ORIGIN)
    versions = ("model_version", "ranking_version", "generator_version", "index_version")
    rows = interactions.read((*columns, *versions), f"answer_id = {quoted(answer_id)}").to_pylist()
    if not rows:
        raise NotFound(
            f"No answer {answer_id!r} has landed.", hint="`headrace ask` prints an answer's id. It may also have been forgotten."
        )
    row = min(rows, key=lambda row: (row["topic"], row["partition"], row["offset"]))
    passages = row.pop("passages")
    if row["asked_as"] is None:
        del row["asked_as"]
    verdicts = feedback.read(_VERDICT, f"answer_id = {quoted(answer_id)}").to_pylist()
    followed = _Followed(rounds, models, examples, datasets, feedback, suppressions)
    generation = _generation(indexes.state()[0], row["index_version"])
    row["ranking_version"] = row["ranking_version"] or NONE  # answers from before rankings have none
    named = {
        RANKING: row["ranking_version"],
        RERANKER: row["model_version"],
        GENERATOR: row["generator_version"],
        EMBEDDER: generation["embedder"],
    }
    return AnswerTrace(
        {
            "answer": {**_plain(row), "event": _address(row)},
            "index": generation,
            "passages": _documents(chunks, passages),
            "verdicts": [_verdict(v) for v in verdicts],
            "models": [followed.model(role, version) for role, version in named.items()],
        }
    )


@stage("Traces an event forward to the datasets, rounds and models that learned from it, and their answers.")
def trace_event(
    landed: Annotated[Mapping[Store, TableReader], each(LANDINGS.values())],
    dead_letters: Annotated[TableReader, DEAD_LETTERS],
    chunks: Annotated[TableReader, CHUNK_ROWS],
    examples: Annotated[TableReader, EXAMPLES],
    suppressions: Annotated[TableReader, SUPPRESSIONS],
    proofs: Annotated[ObjectReader, PROOFS],
    rounds: Annotated[ObjectReader, ROUNDS],
    models: Annotated[ObjectReader, MODELS],
    indexes: Annotated[IndexReader, INDEXES],
    event: str,
) -> EventTrace:
    """Keys: event, examples, datasets, rounds, models (each with its current share and its number of answers).

    For a document's event, the examples are those from passages of that version and from answers made with such passages.
    Raises `NotFound` for an event that is in no table, `WrongUsage` if `event` is not an event's address.
    """
    parsed = Event.parse(event)
    here = f"topic = {quoted(parsed.topic)} AND partition = {parsed.partition} AND offset = {parsed.offset}"
    table = landed[LANDINGS[parsed.store]]
    row = _first(table.read(_SHOWN.get(parsed.store.name, table.store.columns.names), here).to_pylist())
    suppressed = [_plain(suppression) for suppression in suppressions.read().to_pylist() if event in suppression["origins"]]
    letter = _first(dead_letters.read(("reason", "at"), here).to_pylist())
    if row is None and not suppressed and letter is None:
        raise NotFound(f"No event has landed from {event}.", hint="`headrace head` shows what has landed.")
    status = "landed" if row is not None else "forgotten" if suppressed else "dead letter"
    chunk_ids = _chunks_of(chunks, here) if parsed.store.name == DOCUMENT_EVENT_ROWS.name else frozenset()
    answers = _answers_with(landed[INTERACTION_ROWS], chunk_ids)
    touched = [
        example
        for rows in examples.scan((*_EXAMPLE, "dataset"))
        for example in rows.filter(_touched(rows, event, chunk_ids, answers)).to_pylist()
    ]
    per_dataset: dict[str, Counter[str]] = {}
    for example in touched:
        per_dataset.setdefault(example["dataset"], Counter())[example["split"]] += 1
    # Forgotten data is no longer in any example; the proofs name the models that had learned from it.
    by_proof = _learned_by_proof(proofs, {one["suppression_id"] for one in suppressed})
    releases = ReleaseHistory.load(rounds, models) if per_dataset or by_proof else ReleaseHistory({}, {})
    tainted = releases.learned(per_dataset, by_proof)
    # All answers are counted, so only where a model learned from it.
    counts = _answer_counts(landed[INTERACTION_ROWS], indexes.state()[0]) if tainted else Counter()
    return EventTrace(
        {
            "event": {"event": event, "status": status, **_plain(row or letter or {}), "suppressions": suppressed},
            "answers": len(answers),
            "examples": [_plain(example) for example in touched],
            "datasets": [
                {"dataset": version, "key": f"datasets/{version}/list.json", "examples": dict(sorted(splits.items()))}
                for version, splits in sorted(per_dataset.items())
            ],
            "rounds": [
                _round(number, found) for number, found in releases.rounds.items() if found.dataset.version in per_dataset
            ],
            "models": [{**one, "answers": counts[one["model"], one["version"]]} for one in tainted],
            "retrain": f"headrace train --before {event}",
        }
    )


_SHOWN = {
    "document-events": ("event_id", "kind", "tenant", "uri", "sha256", "bytes", "at"),
    "interactions": ("answer_id", "kind", "tenant", "user", "simulated", "question", "at"),
    "feedback": ("verdict_id", "answer_id", "tenant", "user", "simulated", "up", "chunk_id", "reason", "correction", "at"),
}


class _Followed:
    """Traces models back to verdicts."""

    def __init__(
        self,
        rounds: ObjectReader,
        models: ObjectReader,
        examples: TableReader,
        datasets: ObjectReader,
        feedback: TableReader,
        suppressions: TableReader,
    ) -> None:
        self._rounds, self._examples, self._datasets = rounds, examples, datasets
        self._feedback, self._suppressions = feedback, suppressions
        self._pointers = {model: read_pointer(models, model)[0] for model in MODEL_NAMES}

    def model(self, role: str, version: str) -> dict[str, Any]:
        """One model: its round, training data and verdicts, and the same for the weights it began from."""
        first, parent = self._one(role, version)
        last = first
        for _ in range(MOST_PARENTS):
            if parent is None:
                break
            last["parent"], parent = self._one(*parent)
            last = last["parent"]
        return first

    def _one(self, role: str, version: str) -> tuple[dict[str, Any], tuple[str, str] | None]:
        """One model, its `parent` not looked at yet, and which that is: role and version."""
        found = self._released(role, version)
        share = self._pointers[role].share(version)
        named: dict[str, Any] = {"model": role, "version": version, "share": share, "served": share > 0}
        if found is None:
            nothing: dict[str, Any] = {"round": None, "dataset": None, "examples": [], "verdicts": []}
            return {**named, **nothing, "began_from": None, "parent": None}, None
        dataset = found.dataset
        rows = self._examples.read(_EXAMPLE, f"dataset = {quoted(dataset.version)}").to_pylist()
        parent = _parent(found)
        made = {
            **named,
            "round": _round(found.round, found),
            "dataset": {
                **dataset.model_dump(),
                "key": f"datasets/{dataset.version}/list.json",
                "forgotten": self._gone(dataset.version),
            },
            "examples": [{**_plain(row), "learned": row["split"] in learned_splits(role)} for row in rows],
            "verdicts": self._behind(rows),
            "began_from": "/".join(parent) if parent else None,
            "parent": None,
        }
        return made, parent

    def _released(self, role: str, version: str) -> Manifest | None:
        """The manifest of the round that released a version, which is named by that round."""
        number = version.removeprefix("v")
        try:
            found = manifest.read(self._rounds, int(number)) if number.isdigit() else None
        except NotFound:
            return None
        return found if found is not None and (found.model, found.weights.version) == (role, version) else None

    def _gone(self, version: str) -> int:
        """The number of a dataset's examples forgotten since."""
        try:
            files = json.loads(self._datasets.get(f"{version}/list.json"))["files"]
        except NotFound:
            return 0
        return sum(file.get("forgotten", {}).get("examples", 0) for file in files)

    def _behind(self, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The verdicts behind examples, in head order; for a removed one, only its address and the reason."""
        addresses = sorted({Event.parse(origin) for row in rows for origin in row["origins"] if origin.startswith(FEEDBACK.name)})
        verdicts: dict[str, Mapping[str, Any]] = {}
        for (topic, partition), own in groupby(addresses, key=lambda address: (address.topic, address.partition)):
            offsets = [address.offset for address in own]
            # Between the first and the last of them, so that files of other verdicts are not read.
            here = f"topic = {quoted(topic)} AND partition = {partition}"
            where = f"{here} AND offset >= {offsets[0]} AND offset <= {offsets[-1]}"
            for batch in self._feedback.scan(_VERDICT, where):
                wanted = batch.filter(pc.is_in(batch.column("offset"), value_set=pa.array(offsets, pa.int64())))
                verdicts.update((_address(row), row) for row in wanted.to_pylist())
        behind = []
        for address in map(str, addresses):
            if (verdict := verdicts.get(address)) is not None:
                behind.append(_verdict(verdict))
            else:
                behind.append({"event": address, "gone": self._forgotten.get(address, "not in the table")})
        return behind

    @cached_property
    def _forgotten(self) -> dict[str, str]:
        """When and by whom each event was forgotten."""
        rows = self._suppressions.read(("origins", "who", "at")).to_pylist()
        return {origin: f"forgotten {row['at']:%Y-%m-%d} by {row['who']}" for row in rows for origin in row["origins"]}


def _round(number: int, found: Manifest) -> dict[str, Any]:
    """The fields of a manifest that describe its round and outcome."""
    fields = {"parent", "recipe", "start", "begun", "committed", "run", "snapshots", "offsets", "exclusions", "decision"}
    return {
        "round": number,
        "key": f"rounds/{manifest.name(number)}.json",
        "model": found.model,
        **found.model_dump(include=fields),
        "dataset": found.dataset.version,
        "version": found.weights.version,
        "evaluation": {
            name: value for name, value in found.evaluation.model_dump().items() if isinstance(value, (int, float, str))
        },
    }


def _generation(indexes: Indexes, index_version: str) -> dict[str, Any]:
    """The index generation of an answer and its embedder's version: "" if the generation is gone, "none" if packaged."""
    number = _number(index_version)
    known = (indexes.serving, indexes.fallback, indexes.building)
    made = next((one for one in known if one is not None and one.number == number), None)
    embedder = "" if made is None else made.embedder.partition("@")[2] or "none"
    return {
        "version": index_version,
        "generation": number,
        "made_with": made.embedder if made else None,
        "window": made.window if made else None,
        "embedder": embedder,
    }


def _number(index_version: str) -> int | None:
    """The generation number in an index version such as g2.17."""
    first = index_version.partition(".")[0].removeprefix("g")
    return int(first) if first.isdigit() else None


def _documents(chunks: TableReader, passages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Passages with their document versions and the events that brought them."""
    if not passages:
        return []
    wanted = ", ".join(quoted(passage["chunk_id"]) for passage in passages)
    columns = ("chunk_id", "document_id", "version", "uri", "heading", "place", "position", *_ORIGIN)
    chunk_rows = {row["chunk_id"]: row for row in chunks.read(columns, f"chunk_id IN ({wanted})").to_pylist()}
    documents = []
    for passage in passages:
        row = chunk_rows.get(passage["chunk_id"])
        of: dict[str, Any] = {"document_id": None, "version": None, "event": None, "gone": True}
        if row is not None:
            of = {
                **{name: row[name] for name in ("document_id", "version", "heading", "place", "position")},
                "event": _address(row),
            }
        documents.append({**passage, **of})
    return documents


def _chunks_of(chunks: TableReader, here: str) -> frozenset[str]:
    """The chunks of the document version that an event brought."""
    return frozenset(chunks.read(("chunk_id",), here)["chunk_id"].to_pylist())


def _answers_with(interactions: TableReader, chunk_ids: Collection[str]) -> frozenset[str]:
    """Ids of answers made with one of these passages."""
    if not chunk_ids:
        return frozenset()
    wanted = pa.array(sorted(chunk_ids), pa.string())
    found: set[str] = set()
    for rows in interactions.scan(("answer_id", "passages")):
        passages = rows.column("passages")
        hit = pc.is_in(pc.struct_field(pc.list_flatten(passages), "chunk_id"), value_set=wanted)
        found.update(rows.column("answer_id").take(pc.list_parent_indices(passages).filter(hit).unique()).to_pylist())
    return frozenset(found)


def _touched(rows: pa.RecordBatch, event: str, chunk_ids: Collection[str], answers: Collection[str]) -> pa.Array:
    """Which examples come from an event, a passage of its document, or a whole answer, which depends on all its passages."""
    origins = rows.column("origins")
    named = pc.list_parent_indices(origins).filter(pc.equal(pc.list_flatten(origins), event)).unique()
    direct = pc.is_in(pa.array(range(rows.num_rows), named.type), value_set=named)
    passage = pc.is_in(rows.column("chunk_id"), value_set=pa.array(sorted(chunk_ids), pa.string()))
    whole = pc.is_in(rows.column("answer_id"), value_set=pa.array(sorted(answers), pa.string()))
    whole = pc.and_(whole, pc.fill_null(pc.equal(rows.column("kind"), "answer"), False))
    return pc.or_(pc.or_(direct, passage), whole)


def _answer_counts(interactions: TableReader, indexes: Indexes) -> Counter[tuple[str, str]]:
    """Answers per (model, version); for embedders, only those from index generations that still exist."""
    columns = ("kind", "model_version", "ranking_version", "generator_version", "index_version")
    made = {one.number: one.embedder.partition("@")[2] for one in (indexes.serving, indexes.fallback, indexes.building) if one}
    counts: Counter[tuple[str, str]] = Counter()
    for rows in interactions.scan(columns):
        for row in pa.Table.from_batches([rows]).group_by(columns).aggregate([([], "count_all")]).to_pylist():
            count = row["count_all"]
            counts[RERANKER, row["model_version"]] += count
            counts[RANKING, row["ranking_version"] or NONE] += count
            counts[GENERATOR, row["generator_version"]] += count if row["kind"] == "answer" else 0
            counts[EMBEDDER, made.get(_number(row["index_version"]) or 0, "")] += count
    return counts


def _learned_by_proof(proofs: ObjectReader, suppressions: Iterable[str]) -> set[tuple[str, str]]:
    """The (model, version) pairs that had learned from the suppressed data, according to the proofs."""
    keys = [info.key for one in sorted(suppressions) for info in proofs.list(f"{one}/") if not info.key.endswith("/open.json")]
    return {(one["model"], one["version"]) for key in keys for one in json.loads(proofs.get(key))["learned"]}


def _parent(made: Manifest) -> tuple[str, str] | None:
    """(model, version) of the weights a round began from; `None` for the packaged ones."""
    model, _, version = made.start.partition("/")
    return (model, version) if version else None


def _address(row: Mapping[str, Any]) -> str:
    return f"{row['topic']}/{row['partition']}/{row['offset']}"


def _verdict(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"event": _address(row), **_plain({name: value for name, value in row.items() if name not in _ORIGIN})}


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row, with times as text."""
    return {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in row.items()}


def _first(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    return rows[0] if rows else None
