"""Distinct questions and their answers, cleaned, without poor ones."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from headrace.catalog import TEXT
from headrace.models.pointer import NONE
from headrace.settings import Preparing
from headrace.training.data.duplicates import Questions
from headrace.training.data.text import Texts, poor_answer, poor_question, whole

_SEPARATOR = "\x1f"
_RELEASED = re.compile(r"v\d{6,12}", re.ASCII)


@dataclass(frozen=True)
class AnsweredQuestions:
    """Answers in order of time, and their questions: one per tenant and normal form, numbered.

    - `questions`: q, name (unique), tenant, normal, and worded: the position of its newest wording among the texts.
    - `answers`: the answers' rows.
    - `beside`: one row per answer: q, question and said (positions of texts), generator (a released version, "none" for the
      packaged one, null if none was asked), poor (why it is left out unless corrected), spoken (its tokens are known), fitting
      (they are valid token ids) and usable (they may be learned from).
    """

    questions: pa.Table
    answers: pa.Table
    beside: pa.Table
    left_out: Counter[str]


def ask(answers: pa.Table, rows: pa.Array, texts: Texts, settings: Preparing) -> AnsweredQuestions:
    """Number the questions of answers, and leave out answers to poor questions; `rows` becomes the column `row`."""
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
    # Prompt and completion tokens contain the texts before personal data was replaced.
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
    """Whether all tokens of each answer are ≥ 0, and log-probabilities, if any, are not null."""
    unfit: set[int] = set()
    for name in ("prompt_tokens", "completion_tokens", "logprobs"):
        lists = whole(answers[name])
        values = lists.flatten()
        wrong = pc.is_null(values) if name == "logprobs" else pc.fill_null(pc.less(values, 0), True)
        unfit.update(pc.list_parent_indices(lists).filter(wrong).to_pylist())
    return pa.array([place not in unfit for place in range(answers.num_rows)], pa.bool_())


def _questions(tenants: pa.ChunkedArray, texts: Texts) -> tuple[pa.Table, pa.Array]:
    """The questions, and the number of each answer's question."""
    places, normals = texts.places["question"], texts.cleaned["normal"]
    names = pc.binary_join_element_wise(whole(tenants.cast(TEXT)), whole(normals.take(places)), _SEPARATOR)
    encoded = names.dictionary_encode()
    last = dict(zip(encoded.indices.to_pylist(), places.to_pylist(), strict=True))
    # A normal form holds words only; the name of an old tenant may hold any character.
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
    """The generator of each answer: a released version, "none" for the packaged one, null if no generator was asked."""
    generators = [
        version if _RELEASED.fullmatch(version) else NONE if tokens or version not in (NONE, "") else None
        for version, tokens in zip(versions.to_pylist(), spoken.to_pylist(), strict=True)
    ]
    return pa.array(generators, TEXT)
