"""The gate: the requirements for a promotion, and the alarms that block a challenger whatever its score."""

from __future__ import annotations

from collections.abc import Mapping

from headrace.models import RANKING, RERANKER
from headrace.models.pointer import NONE
from headrace.models.ranking import RERANKER as RERANKER_LOGIT
from headrace.settings import Gate
from headrace.training.evaluate import Evaluation
from headrace.training.power import questions_for


def decide(model: str, evaluation: Evaluation, alarmed: list[str], gate: Gate) -> tuple[bool, str]:
    """Whether to promote, and why in one sentence."""
    shown = f"{evaluation.compared}: {evaluation.difference:+.3f}, 95 % interval {evaluation.low:+.3f} to {evaluation.high:+.3f}"
    if evaluation.questions == 0:
        return False, "no held-out question can tell the two apart"
    if evaluation.confidence is None or evaluation.users < gate.least_users:
        there = f"{_count(evaluation.questions, 'held-out question')} judged by {_count(evaluation.users, 'user')}"
        needed = f"{_count(gate.least_questions, 'question')} and {_count(gate.least_users, 'user')}"
        return False, f"not enough evidence: {there}; at least {needed} are required ({evaluation.means})"
    if evaluation.confidence < gate.confidence:
        if evaluation.champion_version == NONE and model == RERANKER and not _weight(evaluation, RERANKER_LOGIT):
            return False, f"on the tuning questions its score added nothing to retrieval's ({shown})"
        if evaluation.champion_version == NONE and model == RANKING and evaluation.card["penalty"] is None:
            return False, f"no feature added anything to retrieval's order on questions that the weights had not seen ({shown})"
        return False, (
            f"better with only {evaluation.confidence:.1%} confidence, {gate.confidence:.0%} is required ({shown});"
            f" {_needed(evaluation, gate)}"
        )
    sure = "more than 99.9%" if evaluation.confidence > 0.999 else f"{evaluation.confidence:.1%}"  # a bootstrap proves nothing
    if alarmed:
        return False, f"better with {sure} confidence, but {'; '.join(alarmed)} ({shown})"
    return True, f"better with {sure} confidence ({shown})"


def alarms(evaluation: Evaluation, figures: Mapping[str, float], gate: Gate) -> list[str]:
    """The alarms that a challenger raises, one clause each; `figures` are the recipe's measures over its last steps."""
    raised = []
    beside = evaluation.beside
    length, wanted = beside.get("tokens"), beside.get("wanted")
    if length and wanted and length.champion > 0:
        change = length.difference / length.champion
        # A change towards the length of the answers that people want raises no alarm.
        further = abs(length.challenger - wanted.challenger) > abs(length.champion - wanted.champion)
        if abs(change) > gate.length and further and (length.low > 0 or length.high < 0):
            raised.append(f"its answers are {abs(change):.0%} {'longer' if change > 0 else 'shorter'}, unlike those wanted")
    if (refused := beside.get("refused")) and refused.difference > gate.refusals:
        raised.append(f"it refuses {refused.challenger:.0%} of the questions, the champion {refused.champion:.0%}")
    if (repeats := beside.get("repetition")) and repeats.difference > gate.repetition:
        raised.append(f"it repeats {repeats.challenger:.0%} of its three-word runs, the champion {repeats.champion:.0%}")
    if figures.get("kl", 0.0) > gate.kl:
        raised.append(f"it drifted {figures['kl']:.2f} nats per token from where it started")
    grounded = beside.get("groundedness")
    if grounded and grounded.high < 0 < evaluation.difference:
        raised.append(
            f"its score rises while fewer of its sentences are supported by passages"
            f" (groundedness {grounded.champion:.2f} to {grounded.challenger:.2f})"
        )
    for tenant, one in evaluation.tenants.items():
        if one.questions >= gate.tenant_questions and one.high < 0:
            raised.append(f"tenant {tenant} gets worse: {one.difference:+.3f} on its {one.questions} questions")
    if gate.least_users > 1:
        for user, count in evaluation.alone.items():
            raised.append(
                f"it depends on one user: without {user}'s verdicts {count} of the {evaluation.questions} held-out questions"
                " would tell nothing"
                " (a key shared by many users needs the scope users)"
            )
    for user, rest in evaluation.without.items():
        if rest.questions and rest.difference <= 0:
            raised.append(f"it depends on one user: without {user}'s verdicts it is not better ({rest.difference:+.3f})")
    return raised


def _needed(evaluation: Evaluation, gate: Gate) -> str:
    """What it would have taken to show the difference that was seen."""
    if evaluation.difference <= 0:
        return "more questions like these would not show it to be better"
    count = questions_for(evaluation.difference, evaluation.spread, gate.confidence)
    return f"it takes about {_count(count, 'question')} to show a difference of this size"


def _weight(evaluation: Evaluation, feature: str) -> float:
    return float(evaluation.card["ranking"]["weights"].get(feature, 0.0))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
