"""How good the answers to questions with known answers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.answering.record import Answer
from headrace.models.measures import exact_match, f1, unmarked
from headrace.simulate.beir import BeirQuestion
from headrace.simulate.interval import mean_with_interval


@dataclass(frozen=True)
class AnswersMeasured:
    """Means with 95 % intervals over the questions asked; a measure that no answer has is zero over 0 answers."""

    questions: int
    measures: dict[str, tuple[float, float, float]]

    def as_dict(self) -> dict[str, Any]:
        """The figures under the JSON keys of the command-line contract."""
        found: dict[str, Any] = {"questions": self.questions}
        for name, (mean, low, high) in self.measures.items():
            found |= {name: mean, f"{name}_low": low, f"{name}_high": high}
        return found


def measure_answers(
    questions: Sequence[BeirQuestion], answers: Sequence[Answer], document_of: Mapping[str, str]
) -> AnswersMeasured:
    """Measure answers, in the order of their questions.

    exact_match and f1 are SQuAD's (Rajpurkar et al. 2016) over every answer, a refusal counting as wrong; citation_precision
    is the share of an answer's citations whose document is relevant, over the answers that cite; groundedness the share of an
    answer's sentences that a passage holds, over the answers that are not refusals.
    """
    said = [unmarked(answer.text) for answer in answers]
    cited = [[document_of.get(str(c["document"])) for c in answer.citations] for answer in answers]
    values = {
        "exact_match": [_best(exact_match, text, q) for text, q in zip(said, questions, strict=True)],
        "f1": [_best(f1, text, q) for text, q in zip(said, questions, strict=True)],
        "citation_precision": [
            sum(document in question.relevant for document in documents) / len(documents)
            for documents, question in zip(cited, questions, strict=True)
            if documents
        ],
        "groundedness": [answer.groundedness for answer in answers if not answer.refused and answer.groundedness is not None],
        "refusal_rate": [float(answer.refused) for answer in answers],
    }
    return AnswersMeasured(len(questions), {name: mean_with_interval(found) for name, found in values.items()})


def _best(measure: Any, said: str, question: BeirQuestion) -> float:
    return max((float(measure(said, known)) for known in question.answers), default=0.0)
