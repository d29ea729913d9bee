"""ranking: what ordering twenty passages costs a question, and what fitting 3,000 verdicts takes.

Processor time, so that other work beside it does not count. `cold` passages are seen for the first time, `warm` ones again.
"""

from __future__ import annotations

import random
import time
from typing import Any

from headrace.core.statistics import percentile
from headrace.models import ranking
from headrace.models.ranking import FEATURES, Candidate, RankingWeights
from headrace.training import ranker

_SEED = 17
_QUESTIONS, _PASSAGES, _WORDS = 150, 20, 120


def measure() -> dict[str, Any]:
    """Milliseconds of an order (p50, p95) and seconds of a fit with five folds."""
    rows = _verdicts(random.Random(_SEED))
    questions = ranker.judged(rows, "none")
    weights = RankingWeights(weights=dict.fromkeys(FEATURES, 1.0))
    found: dict[str, Any] = {}
    for kind in ("cold", "warm"):
        took = []
        for question in questions:
            shown: list[Candidate] = ranker.candidates(question)
            if kind == "cold":
                ranking._text.cache_clear()
                ranking._stems.cache_clear()
            else:
                weights.order(question[0]["question"], shown)
            began = time.process_time()
            weights.order(question[0]["question"], shown)
            took.append((time.process_time() - began) * 1e3)
        found |= {
            f"order_{kind}_p50_ms": round(percentile(took, 0.5), 2),
            f"order_{kind}_p95_ms": round(percentile(took, 0.95), 2),
        }
    began = time.process_time()
    learned = ranker.learn(questions, 5)
    return {**found, "verdicts": len(rows), "questions": learned.questions, "fit_s": round(time.process_time() - began, 2)}


def _verdicts(dice: random.Random) -> list[dict[str, Any]]:
    words = [f"word{n}" for n in range(3000)]
    rows = []
    for number in range(_QUESTIONS):
        question, liked = dice.sample(words, 8), dice.randrange(_PASSAGES)
        for place in range(_PASSAGES):
            text = [*dice.choices(words, k=_WORDS), *(question[:4] if place == liked else ())]
            dice.shuffle(text)
            sentences = (" ".join(text[start : start + 20]) for start in range(0, len(text), 20))
            rows.append(
                {
                    **{"question": " ".join(question), "tenant": "acme", "passage": ". ".join(sentences), "unit": f"u{number}"},
                    **{"label": float(place == liked), "retrieval_rank": place + 1, "retrieval_share": 1.0 - 0.02 * place},
                    **{
                        "similarity": dice.random(),
                        "fulltext": dice.random(),
                        "position": place,
                        "example_id": f"{number}-{place}",
                    },
                    **{"heading": "A heading › above it", "uri": f"folder/document-{number}.md"},
                }
            )
    return rows
