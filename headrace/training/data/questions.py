"""The questions that were asked and the answers that were given, cleaned, with what is too poor left out."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from headrace.catalog import TEXT
from headrace.settings import Preparing
from headrace.training.data.duplicates import Questions
from headrace.training.data.text import Texts, poor_answer, poor_question, whole

_SEPARATOR = "\x1f"
_RELEASED = re.compile(r"v\d{6,12}", re.ASCII)
NONE = "none"


@dataclass(frozen=True)
class AnsweredQuestions:
    """Answers in the order of time, and their questions: one per tenant and normal form, numbered.

    `questions` has q, name (unique), tenant, normal and worded (place of the text as it was asked last). `answers` are the rows
    that were given, and beside each stand q, question and said (places of texts), generator (a released version, "none" for the
    packaged one, null where none was asked), poor (why it is left out unless corrected), spoken (whether its tokens are known),
    fitting (whether they are tokens) and usable (whether those may be learned from).
    """

    questions: pa.Table
    answers: pa.Table
    beside: pa.Table
    left_out: Counter[str]


def ask(answers: pa.Table, rows: pa.Array, texts: Texts, settings: Preparing) -> AnsweredQuestions:
    """Tell the questions of answers apart, and leave out those with a poor one; `rows` goes beside the answers as it is."""
    questions, q = _questions(answers["tenant"], texts)
    reasons = _reasons(questions, texts, settings)
    fate = [reasons[n] for n in q.to_pylist()]
    positions = pa.array([place for place, reason in enumerate(fate) if reason is None], pa.int64())
    answers, texts_of, question = (
        answers.take(positions),
        texts.places["said"].take(positions),
        texts.places["question"].take(positions),
    )
    poor = {place: poor_answer(texts.cleaned["text"][place].as_py()) for place in set(texts_of.to_pylist())}
    spoken = whole(pc.greater(pc.list_value_length(answers["completion_tokens"]), 0))
    # A prompt holds the question and a completion is the answer, both as they were before anything was replaced.
    private = pa.array(sorted(texts.private), pa.int32())
    clean = pc.invert(pc.or_(pc.is_in(question, value_set=private), pc.is_in(texts_of, value_set=private)))
    fitting = _fitting(answers)
    beside = pa.table(
        {
            "row": rows.take(positions),
            "a": pa.array(range(len(positions)), pa.int64()),
            "q": q.take(positions),
            "question": question,
            "said": texts_of,
            "generator": _generators(answers["generator_version"], spoken),
            "poor": pa.array([poor[place] for place in texts_of.to_pylist()], TEXT),
            "spoken": spoken,
            "fitting": fitting,
            "usable": pc.and_(pc.and_(spoken, clean), fitting),
        }
    )
    return AnsweredQuestions(questions, answers, beside, Counter(f"interaction: {reason}" for reason in fate if reason))


def _fitting(answers: pa.Table) -> pa.Array:
    """Whether all tokens of each answer are numbers from 0 on, each with a log-probability where there are any."""
    unfit: set[int] = set()
    for name in ("prompt_tokens", "completion_tokens", "logprobs"):
        lists = whole(answers[name])
        values = lists.flatten()
        wrong = pc.is_null(values) if name == "logprobs" else pc.fill_null(pc.less(values, 0), True)
        unfit.update(pc.list_parent_indices(lists).filter(wrong).to_pylist())
    return pa.array([place not in unfit for place in range(answers.num_rows)], pa.bool_())


def _questions(tenants: pa.ChunkedArray, texts: Texts) -> tuple[pa.Table, pa.Array]:
    """The questions, and which of them each answer is to."""
    places, normals = texts.places["question"], texts.cleaned["normal"]
    names = pc.binary_join_element_wise(whole(tenants.cast(TEXT)), whole(normals.take(places)), _SEPARATOR)
    encoded = names.dictionary_encode()
    last = dict(zip(encoded.indices.to_pylist(), places.to_pylist(), strict=True))
    # A normal form holds words only; a tenant of before names were checked may hold anything.
    split = [name.rpartition(_SEPARATOR)[::2] for name in encoded.dictionary.to_pylist()]
    questions = pa.table(
        {
            "q": pa.array(range(len(split)), pa.int64()),
            "name": encoded.dictionary,
            "tenant": pa.array([tenant for tenant, _ in split], TEXT),
            "normal": pa.array([normal for _, normal in split], TEXT),
            "worded": pa.array([last[q] for q in range(len(split))], pa.int64()),
        }
    )
    return questions, encoded.indices


def _reasons(questions: pa.Table, texts: Texts, settings: Preparing) -> list[str | None]:
    normals = questions["normal"].to_pylist()
    worded = texts.cleaned["text"].take(questions["worded"]).to_pylist()
    reasons = [poor_question(text, normal, settings) for text, normal in zip(worded, normals, strict=True)]
    for place in Questions.read(settings.evaluation).given_away(normals, settings.near_duplicate):
        reasons[place] = reasons[place] or "question of the evaluation"
    return reasons


def _generators(versions: pa.ChunkedArray, spoken: pa.Array) -> pa.Array:
    """Who wrote each answer: whatever is not a released version is what is packaged, and "none" without tokens is nobody."""
    generators = [
        version if _RELEASED.fullmatch(version) else NONE if tokens or version not in (NONE, "") else None
        for version, tokens in zip(versions.to_pylist(), spoken.to_pylist(), strict=True)
    ]
    return pa.array(generators, TEXT)
