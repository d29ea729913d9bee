"""The examples of a dataset: choosing and ordering them, and their rows in the schema of `EXAMPLES`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from headrace.catalog import EXAMPLES, TEXT
from headrace.core.launch import Batches
from headrace.settings import Preparing
from headrace.training.cutoff import Exclusions
from headrace.training.data.dataset import TEST, TRAIN, TUNE
from headrace.training.data.duplicates import grouped
from headrace.training.data.join import Join
from headrace.training.data.questions import AnsweredQuestions, ask
from headrace.training.data.source import Source
from headrace.training.data.split import splits, units_of
from headrace.training.data.text import Texts, clean, whole

SPLITS = (TRAIN, TUNE, TEST)
KINDS = pa.array(["passage", "answer"], TEXT)
_ANSWER = 1
_OF_PASSAGES = ("text", "heading", "uri", "position")
_HEAVY = ("passages", "prompt", "completion", "logprobs", "sampling")
# Citation markers in recorded answers. The generator does not write them, so it must not learn them.
_MARKER = r"\s+\[[0-9]+\]"


@dataclass(frozen=True)
class Examples:
    """Examples as numbers, in the order of their splits, with the tables that the numbers refer to.

    `chosen` is the result of `Join.examples`. `questions` counts questions per split; `left_out` and `scrubbed` are as in
    `Dataset`.
    """

    chosen: pa.Table
    asked: AnsweredQuestions
    texts: Texts
    passages: pa.Table
    origins: pa.ChunkedArray
    staleness: dict[str | None, int]
    version: str
    questions: Counter[str]
    left_out: Counter[str]
    scrubbed: Counter[str]

    def bounds(self, split: str) -> tuple[int, int]:
        """The positions of a split's first example and of the first one after it."""
        numbers = self.chosen["split"].to_pylist()
        wanted = SPLITS.index(split)
        return sum(number < wanted for number in numbers), sum(number <= wanted for number in numbers)

    def rows(self, start: int, end: int) -> pa.Table:
        """The examples at positions `start` to `end`."""
        part = self.chosen.slice(start, end - start)
        answers = whole(pc.equal(part["kind"], _ANSWER))
        a = whole(part["a"])
        beside = self.asked.beside.take(a)
        texts = self.asked.answers.select(["tenant", "answer_id"]).take(a)
        liked = whole(part["liked"])
        answer_rows = _where(answers, beside["said"])
        target = pc.coalesce(whole(part["correction"]), pc.if_else(liked, answer_rows, pa.scalar(None, answer_rows.type)))
        tokens = self.asked.answers.select(["prompt_tokens", "completion_tokens", "logprobs", "sampling"])
        tokens = tokens.take(_where(pc.and_(answers, whole(beside["usable"])), a))
        generators = _where(answers, beside["generator"])
        columns = {
            "example_id": part["example_id"],
            "split": pa.array(SPLITS, TEXT).take(part["split"]),
            "tenant": texts["tenant"],
            # A passage's question has the same wording in all its examples; an answer's has the wording of its prompt.
            "question": self._text(pc.if_else(answers, whole(beside["question"]), whole(part["worded"]))),
            "chunk_id": pc.fill_null(part["chunk_id"], ""),
            "passage": pc.fill_null(self.passages["text"].take(part["c"]), ""),
            "label": pc.cast(liked, pa.float32()),
            "retrieval_score": part["retrieval_score"],
            "retrieval_rank": part["retrieval_rank"],
            "answer_id": texts["answer_id"],
            "origins": _lists(part["origins"], self.origins),
            "dataset": pa.repeat(pa.scalar(self.version, TEXT), part.num_rows),
            "kind": KINDS.take(part["kind"]),
            "user": part["user"],
            "users": part["users"],
            "document_id": part["document_id"],
            "simulated": part["simulated"],
            "unit": part["unit"],
            **{name: self.passages[name].take(part["c"]) for name in _OF_PASSAGES[1:]},
            **{name: part[name] for name in ("retrieval_share", "similarity", "fulltext", "rerank_score", "reranker")},
            "answer": self._text(answer_rows),
            "target": self._text(target),
            "generator_version": generators,
            "staleness": pa.array([self.staleness.get(version) for version in generators.to_pylist()], pa.int32()),
            "passages": _lists(part["chunks"], self.passages["text"], answers),
            "prompt": tokens["prompt_tokens"],
            "completion": tokens["completion_tokens"],
            "logprobs": tokens["logprobs"],
            "sampling": tokens["sampling"],
        }
        schema = EXAMPLES.columns
        return pa.table([whole(columns[field.name]).cast(field.type) for field in schema], schema=schema)

    def lookup(self) -> pa.Table:
        """All examples as rows of the table, without the columns that only training reads."""
        rows = self.rows(0, self.chosen.num_rows)
        for name in _HEAVY:
            field = EXAMPLES.columns.field(name)
            rows = rows.set_column(rows.schema.get_field_index(name), field, pa.nulls(rows.num_rows, field.type))
        return rows

    def _text(self, places: pa.Array) -> pa.ChunkedArray:
        return self.texts.cleaned["text"].take(places)


def make(
    source: Source,
    batches: Batches,
    version: str,
    seed: int,
    settings: Preparing,
    exclusions: Exclusions,
    generator_history: Sequence[str],
) -> Examples:
    """Make the examples of a source; see `prepare`."""
    verdicts = source.verdicts()
    answers, unjudged = source.answers(_distinct(verdicts["answer_id"]))
    join = Join(verdicts, answers, exclusions, settings)
    try:
        counting, judging = (pa.array(rows, pa.int64()) for rows in join.counting())
        answers = answers.take(counting)
        texts = _cleaned(answers, verdicts["correction"].take(judging), batches)
        askable = ask(answers, counting, texts, settings)
        corrections = pa.table({"row": judging, "correction": texts.places["correction"]})
        join.answers(
            askable.beside.set_column(4, "said", texts.cleaned["normal"].take(askable.beside["said"])),
            corrections.drop_null(),
        )
        passages = source.passages(_distinct(join.chunk_ids()["chunk_id"]))
        join.chunks(
            passages.append_column("c", pa.array(range(passages.num_rows), pa.int64())).drop_columns(list(_OF_PASSAGES)),
            source.deleted(),
        )
        questions = _split(askable.questions, join.about(), texts, seed, settings)
        chosen = join.examples(questions).combine_chunks()
        origins, left_out = join.origins(), join.left_out()
    finally:
        join.close()
    whole_answers = askable.beside.take(chosen.filter(pc.equal(chosen["kind"], _ANSWER))["a"])
    left_out += askable.left_out + Counter(
        {
            "interaction: without a verdict": unjudged,
            "tokens: not numbers from 0 on": pc.sum(pc.and_not(whole_answers["spoken"], whole_answers["fitting"])).as_py() or 0,
            "tokens: personal data": pc.sum(
                pc.and_(whole_answers["fitting"], pc.and_not(whole_answers["spoken"], whole_answers["usable"]))
            ).as_py()
            or 0,
        }
    )
    return Examples(
        chosen=chosen,
        asked=askable,
        texts=texts,
        passages=passages,
        origins=origins,
        staleness={name: len(generator_history) - 1 - place for place, name in enumerate(generator_history)},
        version=version,
        questions=Counter(SPLITS[number] for number in questions["split"].to_pylist()),
        left_out=left_out,
        scrubbed=Counter(kind for kinds in texts.cleaned["personal"].to_pylist() for kind in kinds),
    )


def _cleaned(answers: pa.Table, corrections: pa.ChunkedArray, batches: Batches) -> Texts:
    blank = pc.equal(pc.utf8_trim_whitespace(corrections), "")
    texts = {
        "question": answers["question"],
        "said": pc.replace_substring_regex(answers["answer"], _MARKER, ""),
        "correction": pc.replace_substring_regex(pc.if_else(blank, pa.scalar(None, TEXT), corrections), _MARKER, ""),
    }
    return clean(texts, batches)


def _split(questions: pa.Table, about: dict[int, str], texts: Texts, seed: int, settings: Preparing) -> pa.Table:
    """The questions with an example, with the document each is about, its unit, its split and its rank among all."""
    chosen = questions.take(pa.array(list(about), pa.int64()))
    names, tenants, normals = (chosen[column].to_pylist() for column in ("name", "tenant", "normal"))
    units = units_of(names, list(about.values()), grouped(tenants, normals, settings.near_duplicate))
    split_of = splits(units, seed)
    worded = texts.cleaned["text"].take(chosen["worded"]).to_pylist()
    order = sorted(range(len(names)), key=lambda place: (worded[place], names[place]))
    rank = {place: number for number, place in enumerate(order)}
    return (
        chosen.append_column("document", pa.array([document or None for document in about.values()], TEXT))
        .append_column("unit", pa.array([hashlib.sha256(unit.encode()).hexdigest()[:12] for unit in units], TEXT))
        .append_column("split", pa.array([SPLITS.index(split) for split in split_of], pa.int64()))
        .append_column("rank", pa.array([rank[place] for place in range(len(names))], pa.int64()))
    )


def _distinct(column: pa.ChunkedArray) -> pa.Array:
    return whole(column.cast(TEXT)).unique()


def _where(chosen: pa.Array, column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The column, with null where `chosen` is false."""
    values = whole(column)
    return pc.if_else(chosen, values, pa.scalar(None, values.type))


def _lists(numbers: pa.ChunkedArray, values: pa.ChunkedArray, chosen: pa.Array | None = None) -> pa.Array:
    """Lists of values for lists of their numbers; null where not chosen."""
    lists = whole(numbers)
    flat = whole(values.take(lists.flatten()).cast(TEXT))
    sizes = pc.fill_null(pc.list_value_length(lists), 0)
    offsets = pa.array([0, *pc.cumulative_sum(sizes).to_pylist()], pa.int32())
    return pa.ListArray.from_arrays(offsets, flat, mask=None if chosen is None else pc.invert(chosen))
