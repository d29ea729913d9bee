"""quality: what a round of the loop is worth to people who did not give its verdicts.

`python -m bench.quality DIR [--recipe NAME] [--seeds N] [--limit N]`, DIR in BEIR layout; by default the recipe `ranking`.
Recipes joined by a comma are rounds one after another, each going on from what the one before left serving.

Verdicts are replayed from the questions about half of the folder's documents' articles, chosen by the seed; one round learns from
them; then the questions of the other half, which nothing was tuned on, are asked before and after. Rankings are compared by
nDCG@10 of documents, answers by F1 and exact match, each question with itself (paired bootstrap, 95 %). A challenger that the
gate refuses changes nothing, and counts as that.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headrace.answering.record import Answer
from headrace.app import App
from headrace.core.statistics import interval, percentile
from headrace.errors import NothingToLearn
from headrace.models import EMBEDDER, RANKING, RERANKER
from headrace.models.measures import exact_match, f1, unmarked
from headrace.settings import Settings
from headrace.simulate import DocumentNames, InProcessClient, play, user_plans
from headrace.simulate.beir import BeirFolder, BeirQuestion, read
from headrace.simulate.evaluate import indexed, spread
from headrace.training.measures.passages import ndcg
from headrace.training.recipes import recipe_of

_DEPTH = 10
_RANKING = (RANKING, RERANKER, EMBEDDER)


def measure(folder: BeirFolder, recipes: Sequence[str], seed: int, limit: int | None) -> Iterator[dict[str, Any]]:
    """One seed, on a platform of its own; what each round did, and the other half's answers after it against those at first."""
    ranks = recipe_of(recipes[0]).model in _RANKING
    mine, others = halves(folder, seed)
    others = spread(others, limit)
    with tempfile.TemporaryDirectory() as home, App(_settings(Path(home), ranks=ranks), "bench", quiet=True) as app:
        document_of = indexed(app.runner, folder, app.settings.inference)

        rerank_ms: list[float] = []

        def asked() -> dict[str, list[float]]:
            rerank_ms.clear()
            return _ranked(app, folder, others, document_of, rerank_ms) if ranks else _answered(app, folder, others)

        before = after = asked()
        p50_before = p50_after = percentile(rerank_ms, 0.5) if rerank_ms else None
        parts = user_plans(mine if ranks else spread(mine, limit and 2 * limit), users=4, seed=seed)
        played = play(parts, InProcessClient(app.answers, folder.tenant), DocumentNames(folder).document_id, generate=not ranks)
        for recipe in recipes:
            started = time.perf_counter()
            try:
                done = app.training.round(recipe)
            except NothingToLearn as nothing:  # nor does what is not trained
                unchanged = {name: _compared(before[name], after[name], seed) for name in before}
                yield {
                    "recipe": recipe,
                    "seed": seed,
                    "promoted": False,
                    "why": str(nothing),
                    "questions": len(others),
                    **unchanged,
                }
                continue
            seconds = time.perf_counter() - started
            if done.decision.promoted:  # who is refused serves nobody
                time.sleep(1.1)  # a pointer is read once a second
                after = asked()
                p50_after = percentile(rerank_ms, 0.5) if rerank_ms else None
            yield {
                "recipe": recipe,
                "seed": seed,
                "verdicts": played.up + played.down,
                "promoted": done.decision.promoted,
                "why": done.decision.why,
                "alarms": list(done.decision.alarms),
                "card": done.evaluation.card,
                "gate": {name: getattr(done.evaluation, name) for name in ("difference", "low", "high", "spread", "questions")},
                "power": done.power.model_dump() if done.power else None,
                "rerank_p50_ms": [p50_before, p50_after],
                "round_s": round(seconds, 1),
                "timings": done.timings,
                "questions": len(others),
                **{name: _compared(before[name], after[name], seed) for name in before},
            }


def _settings(home: Path, *, ranks: bool) -> Settings:
    """The defaults, and the verdicts of simulated users count; where the generator learns, it writes the answers."""
    settings = Settings.load(home=home)
    preparing = settings.training.preparing.model_copy(update={"simulated": True})
    settings = settings.model_copy(update={"training": settings.training.model_copy(update={"preparing": preparing})})
    written = settings.inference.model_copy(update={"answers": "generated"})
    return settings if ranks else settings.model_copy(update={"inference": written})


def halves(folder: BeirFolder, seed: int) -> tuple[list[BeirQuestion], list[BeirQuestion]]:
    """The questions about one half of the articles, and about the other. A document's article is its id up to the "#"."""
    of = {
        question.id: min(question.relevant, key=lambda d: (-question.relevant[d], d)).partition("#")[0]
        for question in folder.questions
    }
    articles = sorted(set(of.values()))
    random.Random(seed).shuffle(articles)
    chosen = set(articles[: len(articles) // 2])
    return [q for q in folder.questions if of[q.id] in chosen], [q for q in folder.questions if of[q.id] not in chosen]


def _ranked(
    app: App, folder: BeirFolder, questions: Sequence[BeirQuestion], document_of: dict[str, str], rerank_ms: list[float]
) -> dict[str, list[float]]:
    engine = app.answers
    found = []
    for question in questions:
        answer = engine.search(question.text, tenant=folder.tenant, user="bench", record=False)
        passages = answer.passages
        rerank_ms.append(answer.timings_ms["rerank"])
        documents = list(dict.fromkeys(document_of[passage.hit.uri] for passage in passages))
        relevance = [float(question.relevant.get(document, 0)) for document in documents]
        missed = [float(grade) for document, grade in question.relevant.items() if document not in documents]
        # What was not found at all stands behind everything: it counts in the ideal order only.
        found.append(ndcg([*relevance, *missed], list(range(len(relevance))), _DEPTH))
    return {"ndcg_at_10": found}


def _answered(app: App, folder: BeirFolder, questions: Sequence[BeirQuestion]) -> dict[str, list[float]]:
    engine = app.answers
    found: dict[str, list[float]] = {"f1": [], "exact_match": [], "groundedness": []}
    for question in questions:
        *_, answer = engine.ask(question.text, tenant=folder.tenant, user="bench", record=False)
        assert isinstance(answer, Answer)
        said = unmarked(answer.text)
        found["f1"].append(max((float(f1(said, known)) for known in question.answers), default=0.0))
        found["exact_match"].append(max((float(exact_match(said, known)) for known in question.answers), default=0.0))
        found["groundedness"].append(answer.groundedness or 0.0)
    return found


def _compared(before: Sequence[float], after: Sequence[float], seed: int) -> dict[str, float]:
    gain = interval(np.asarray(after) - np.asarray(before), seed)
    means = {"before": float(np.mean(before)), "after": float(np.mean(after))}
    return {
        **{name: round(mean, 4) for name, mean in means.items()},
        "low": gain.low,
        "high": gain.high,
        "confidence": gain.above,
    }


def main() -> None:
    """Measure what the command line names; one JSON line a round."""
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--recipe", default="ranking")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--limit", type=int, default=None, help="questions asked of the other half")
    words = parser.parse_args()
    recipes = words.recipe.split(",")
    if len({recipe_of(recipe).model in _RANKING for recipe in recipes}) > 1:
        parser.error("--recipe takes recipes of the generator, or of the re-ranker and embedder: they learn from other verdicts")
    folder = read(words.directory)
    for seed in range(1, words.seeds + 1):
        for done in measure(folder, recipes, seed, words.limit):
            print(json.dumps({**done, "load": os.getloadavg()[0]}), flush=True)


if __name__ == "__main__":
    main()
