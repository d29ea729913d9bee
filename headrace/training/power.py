"""power: how large a gain today's verdicts could show, before anything is trained.

A gain is shown by n questions with a chance of 80 % if it is at least (z + z₀.₈) · s / √n: z the quantile of the gate's one-sided
confidence, s the standard deviation of the differences between challenger and champion, question by question (Cohen 1988,
chapter 2, for a mean of paired differences). s is that of the newest round with the same recipe, else assumed: `ASSUMED` times
the root of what is left to gain, for the better the order is, the fewer are the questions for which it can change. A gain
of more than `gate.headroom` of what is left to gain is implausible: where only such a gain could be shown, nothing is trained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Annotated, Any

from headrace.catalog import DATASETS, ROUNDS
from headrace.core.stage import stage
from headrace.errors import NothingToLearn
from headrace.models import EMBEDDER, GENERATOR, RANKING, RERANKER
from headrace.settings import Gate, Training
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.training import manifest
from headrace.training.data import Dataset
from headrace.training.data.dataset import TEST, TRAIN, TUNE, by_question, fewer, passages, read, tellable
from headrace.training.finetune import SIMULATED, left_out_simulated, more_verdicts, require_examples
from headrace.training.manifest import Plan, Power
from headrace.training.recipes import recipe_of

ASSUMED = 0.4
"""The largest of the rounds that were measured (docs/reference/benchmarks.md), where it was 0.1 to 0.4."""
_CHANCE = 0.8
_QUARTER = 0.25  # of the questions is held out for the other models


@stage("Says how large a gain today's verdicts could show; a recipe that could show none that is plausible is not trained.")
def power(
    datasets: Annotated[ObjectReader, DATASETS],
    rounds: Annotated[ObjectWriter, ROUNDS],
    plan: Plan,
    dataset: Dataset,
    settings: Training,
) -> Plan:
    """The plan with what its verdicts could show, put in the place of the one without.

    Raises `NothingToLearn` where that is nothing plausible; the message says how many more judged questions it would take.
    """
    if plan.power is not None:
        return plan
    require_examples(dataset, plan.recipe)
    judged = judged_questions(plan, dataset, datasets)
    found = estimated(plan.model, judged, manifest.newest_of(rounds, plan.recipe), settings.gate)
    why = lacking(plan.recipe, plan.model, found, settings.gate, simulated=left_out_simulated(dataset))
    if why is not None:
        raise why
    return manifest.amend(rounds, plan, plan.model_copy(update={"power": found}))


def smallest_gain(spread: float, questions: int, confidence: float) -> float:
    """The gain that so many questions show with a chance of 80 %."""
    return _quantiles(confidence) * spread / math.sqrt(questions)


def questions_for(gain: float, spread: float, confidence: float) -> int:
    """How many questions show a gain with a chance of 80 %."""
    return max(1, math.ceil((_quantiles(confidence) * spread / gain) ** 2))


def judged_questions(plan: Plan, dataset: Dataset, datasets: ObjectReader) -> list[Sequence[Mapping[str, Any]]]:
    """The questions by which a challenger could be judged, with their rows."""
    settings = recipe_of(plan.recipe).settings(plan.recipe_settings)
    if plan.model == RANKING:
        from headrace.training import ranker

        rows = [row for split in (TRAIN, TUNE, TEST) for row in read(datasets, dataset.files, split)]
        return ranker.judged(fewer(rows, settings.most_questions), settings.reranker)
    rows = read(datasets, dataset.files, TEST)
    if plan.model == GENERATOR:
        from headrace.training.measures.answers import held_out

        return [[{"tenant": one.tenant, "users": one.users}] for one in held_out(rows, settings.held_out)]
    return tellable(by_question(passages(rows)))


def estimated(model: str, judged: Sequence[Sequence[Mapping[str, Any]]], earlier: manifest.Manifest | None, gate: Gate) -> Power:
    """What the judged questions could show of a challenger; `earlier` is the newest round with the same recipe."""
    present: float | None = None
    if model == GENERATOR:
        present = max(earlier.evaluation.champion, earlier.evaluation.challenger) if earlier is not None else 0.0
    elif judged:
        from headrace.training.measures.passages import labels, ndcg

        present = sum(ndcg(labels(question), range(len(question))) for question in judged) / len(judged)
    left = 1.0 - (present or 0.0)
    plausible = gate.headroom * left
    spread, source = ASSUMED * math.sqrt(left), "assumed"
    if earlier is not None and earlier.evaluation.spread and earlier.evaluation.questions >= gate.least_questions:
        spread, source = earlier.evaluation.spread, f"round {earlier.round}"
    needed = max(gate.least_questions, questions_for(plausible, spread, gate.confidence)) if plausible > 0 else None
    # Where a question takes long, enough are asked and no more.
    count = min(len(judged), max(gate.questions, needed or 0)) if model in (RERANKER, EMBEDDER) else len(judged)
    return Power(
        questions=count,
        users=len({(row["tenant"], user) for question in judged for row in question for user in row.get("users") or ()}),
        spread=round(spread, 4),
        spread_of=source,
        gain=round(smallest_gain(spread, count, gate.confidence), 4) if count else None,
        present=None if present is None else round(present, 4),
        plausible=round(plausible, 4),
        needed=needed,
    )


def lacking(recipe: str, model: str, found: Power, gate: Gate, *, simulated: bool = False) -> NothingToLearn | None:
    """Why a recipe is not trained on these verdicts, or `None`; `simulated`: there are more, of simulated users."""
    what = "judged" if model == RANKING else "held-out"
    there = f"{found.questions:,} {what} question{'' if found.questions == 1 else 's'}"
    are = "is" if found.questions == 1 else "are"
    more = more_verdicts(model) + (f" {SIMULATED}" if simulated else "")
    if found.needed is None:
        return NothingToLearn(
            f"{recipe} is not trained: retrieval has every passage of {there} in the right order, so nothing could be better.",
            hint=more,
        )
    if found.questions < found.needed:
        missing = found.needed - found.questions
        in_all = "" if model == RANKING else f", a quarter of about {math.ceil(missing / _QUARTER):,} more judged questions"
        seen = f"{are} not enough evidence; at least {gate.least_questions:,} are required"
        if found.gain is not None and found.gain > found.plausible:
            seen = (
                f"could show a gain of {found.gain:.4f} at the smallest, and no more than {found.plausible:.4f} is plausible"
                f" ({gate.headroom:.0%} of what is left to gain)"
            )
        return NothingToLearn(
            f"{recipe} is not trained: {there} {seen}.", hint=f"It takes about {missing:,} more{in_all}. {more}"
        )
    if found.users < gate.least_users:
        return NothingToLearn(
            f"{recipe} is not trained: {there} {are} known, by {found.users:,} user{'' if found.users == 1 else 's'};"
            f" at least {gate.least_users:,} are required.",
            hint="More people have to judge answers, or set training.gate.least_users = 1 for a home of one user.",
        )
    return None


def _quantiles(confidence: float) -> float:
    normal = NormalDist()
    return normal.inv_cdf(confidence) + normal.inv_cdf(_CHANCE)
