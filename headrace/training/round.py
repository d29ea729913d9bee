"""The training pipeline, and one pass through it: a round."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import pyarrow.compute as pc

from headrace.catalog import (
    CHUNK_ROWS,
    DOCUMENT_ROWS,
    FEEDBACK,
    FEEDBACK_ROWS,
    INTERACTION_ROWS,
    INTERACTIONS,
    MODELS,
    PROMOTIONS,
    ROUNDS,
)
from headrace.core.launch import Launch, LocalLauncher
from headrace.core.runner import Runner
from headrace.core.stage import Pipeline, Trigger, stage
from headrace.errors import NothingToLearn, Permanent, StorageFull
from headrace.landing.land import Landed, land
from headrace.landing.positions import positions
from headrace.models import GENERATOR, MODEL_NAMES, RANKING, RERANKER
from headrace.models.pointer import NONE
from headrace.settings import Training
from headrace.storage.objects import ObjectWriter
from headrace.storage.tables.handles import TableReader, TableWriter
from headrace.training import manifest
from headrace.training.checkpoint import tidy
from headrace.training.cutoff import NOTHING, Exclusions
from headrace.training.data import Dataset, dataset_version, prepare
from headrace.training.evaluate import Evaluation, evaluate
from headrace.training.finetune import finetune, more_verdicts
from headrace.training.manifest import Clock, Manifest, Plan, Power
from headrace.training.power import power
from headrace.training.promote import Decision, promote, serve_promoted
from headrace.training.promotions import champion
from headrace.training.recipes import recipe_of
from headrace.training.trainer import Trained


@stage("Chooses what a round learns from: the table snapshots, fixed before anything is made from them.")
def plan(
    interactions: Annotated[TableReader, INTERACTION_ROWS],
    feedback: Annotated[TableReader, FEEDBACK_ROWS],
    documents: Annotated[TableReader, DOCUMENT_ROWS],
    chunks: Annotated[TableReader, CHUNK_ROWS],
    rounds: Annotated[ObjectWriter, ROUNDS],
    models: Annotated[ObjectWriter, MODELS],
    promotions: Annotated[TableWriter, PROMOTIONS],
    settings: Training,
    recipe: str,
    canary: float = 0.0,
    exclusions: Exclusions = NOTHING,
    start: str | None = None,
) -> Plan:
    """The plan of the next round: of the one that a killed process began, or a new one.

    If `exclusions` has a bound or a tenant that the unfinished round does not have, that round is withdrawn; the process that
    runs it cannot commit it any more.

    `canary` is the share of traffic that a better challenger gets at first; 0 promotes it at once. `start` is the
    `model/version` of the weights to train from, by default those that the recipe's settings name. Raises `NothingToLearn` if
    there are no verdicts, or if the newest round with this recipe learned from the same ones.
    """
    for model in MODEL_NAMES:
        serve_promoted(models, rounds, promotions, model)
    committed = manifest.numbers(rounds)
    number = (committed[-1] if committed else 0) + 1
    begun = manifest.plan(rounds, number)
    if begun is not None:
        planned = Exclusions.from_dict(begun.exclusions)
        bounded = not exclusions.before or planned.before == exclusions.before
        if bounded and exclusions.tenants <= planned.tenants:
            return begun
        manifest.withdraw(rounds, number)  # it would learn from excluded events
    if feedback.snapshot() is None or interactions.snapshot() is None:
        raise NothingToLearn(
            "There is no verdict to learn from yet.",
            hint=more_verdicts(recipe_of(recipe).model),
        )
    chosen = recipe_of(recipe)
    earlier = manifest.newest_of(rounds, recipe)
    wanted = dict(settings.recipe.get(recipe, {}))
    if chosen.model == RANKING:
        wanted["reranker"] = champion(models, RERANKER)[0].version
    recipe_settings = chosen.settings(wanted).model_dump()
    pointer = champion(models, chosen.model)[0]
    if start is None:
        start = f"{chosen.model}/{pointer.version}" if recipe_settings["start"] == "served" and pointer.version != NONE else ""
    snapshots = {table.store.name: table.snapshot() for table in (interactions, feedback, documents, chunks)}
    answering = champion(models, GENERATOR)[0]
    generator_history = [*answering.history, answering.version]
    newest = pc.max(feedback.read(("at",), snapshot=snapshots[FEEDBACK_ROWS.name])["at"]).as_py()
    new = Plan(
        round=number,
        parent=committed[-1] if committed else None,
        recipe=recipe,
        model=chosen.model,
        start=start,
        champion=pointer.version,
        canary=canary,
        begun=datetime.now(UTC).isoformat(),
        newest_verdict=newest.isoformat() if newest else None,
        snapshots=snapshots,
        offsets={
            topic.name: {str(p): at.as_property() for p, at in sorted(positions(table.snapshot_properties(), topic.name).items())}
            for topic, table in ((INTERACTIONS, interactions), (FEEDBACK, feedback))
        },
        exclusions=exclusions.as_dict(),
        generator_history=generator_history,
        dataset_version=dataset_version(
            snapshots, settings.seed, settings.preparing, exclusions, generator_history=generator_history
        ),
        recipe_settings=recipe_settings,
        settings=settings.model_dump(mode="json"),
    )
    if earlier is not None and _same(new, earlier):
        raise NothingToLearn(
            f"{recipe} is not trained: round {earlier.round} learned from the same verdicts and was"
            f" {'promoted' if earlier.decision.promote else 'rejected'}: {earlier.decision.why}.",
            hint="Gather more verdicts, or train with another recipe.",
        )
    return manifest.begin(rounds, new)


_SCHEDULING = {"recipes", "verdicts", "minutes", "canary", "keep", "nice"}


def _same(new: Plan, earlier: Manifest) -> bool:
    """Whether a round would repeat an earlier one: the same data and settings, and its champion or its own result as champion."""
    rest = ("recipe", "start", "dataset_version", "recipe_settings")
    settings = [{k: v for k, v in plan.settings.items() if k not in _SCHEDULING} for plan in (new, earlier)]
    return (
        all(getattr(new, name) == getattr(earlier, name) for name in rest)
        and settings[0] == settings[1]
        and new.champion in (earlier.champion, earlier.weights.version)
    )


TRAINING = Pipeline(
    "training",
    "A training loop that never stops: feedback in, dataset, fine-tuning, evaluation, promotion, and round again.",
    (land, plan, prepare, power, finetune, evaluate, promote),
    (Trigger(FEEDBACK, "land", "when verdicts came in"),),
)


@dataclass(frozen=True)
class Round:
    """The results of one round."""

    recipe: str
    landed: Landed
    dataset: Dataset
    trained: Trained
    evaluation: Evaluation
    decision: Decision
    timings: dict[str, float]
    seconds: float
    power: Power | None = None
    passed_over: tuple[tuple[str, str], ...] = ()
    """If the recipe was chosen automatically: the cheaper recipes that were not trained, with the reasons."""
    chosen: bool = False

    @property
    def why_chosen(self) -> str:
        """Why this recipe was chosen, in one sentence; empty if the caller named it."""
        if not self.chosen:
            return ""
        others = f" {', '.join(name for name, _ in self.passed_over)} could not be trained." if self.passed_over else ""
        return f"{self.recipe} was chosen: the cheapest recipe with new verdicts that could show a plausible gain.{others}"

    def as_dict(self) -> dict[str, Any]:
        """The round for `headrace train --json`."""
        return {
            "round": self.decision.round,
            "recipe": self.recipe,
            "chosen": {"why": self.why_chosen, "passed_over": dict(self.passed_over)} if self.chosen else None,
            "model": self.decision.model,
            "power": self.power.model_dump() if self.power else None,
            "landed": self.landed.events,
            "dead_letters": self.landed.dead,
            "dataset": self.dataset.as_dict(),
            "training": self.trained.as_dict(),
            "evaluation": self.evaluation.as_dict(),
            "promoted": self.decision.promoted,
            "why": self.decision.why,
            "alarms": list(self.decision.alarms),
            "serving": self.decision.serving,
            "canary": self.decision.canary,
            "timings": self.timings,
            "seconds": self.seconds,
        }


def run_round(
    runner: Runner,
    *,
    settings: Training,
    recipe: str = "reranker",
    launch: Launch | None = None,
    canary: float = 0.0,
    exclusions: Exclusions = NOTHING,
    start: str | None = None,
    load: Callable[[str, str], None] | None = None,
) -> Round:
    """Run one round with a recipe, after finishing a round that was begun and not committed.

    `canary`, `exclusions` and `start` are as in `plan`; `load(model, version)` loads a released version into the model server
    before it is served. Raises `NothingToLearn`, and other `Permanent` errors of the stages.
    """
    while True:
        started = time.perf_counter()
        landed = runner.run(land)
        landed.require(INTERACTIONS, FEEDBACK)
        planned = runner.run(plan, settings=settings, recipe=recipe, canary=canary, exclusions=exclusions, start=start)
        done = _round(runner, landed, planned, launch or LocalLauncher(), load, started)
        if done.recipe == recipe:
            return done


def _round(
    runner: Runner,
    landed: Landed,
    planned: Plan,
    launch: Launch,
    load: Callable[[str, str], None] | None,
    started: float,
) -> Round:
    # A resumed round keeps the settings that it was planned with.
    settings = Training(**planned.settings)
    recipe, recipe_settings = planned.recipe, planned.recipe_settings
    clock = Clock(planned.newest_verdict, started)
    clock.lap("land")
    try:
        dataset = runner.run(
            prepare,
            snapshots=planned.snapshots,
            version=planned.dataset_version,
            seed=settings.seed,
            settings=settings.preparing,
            exclusions=Exclusions.from_dict(planned.exclusions),
            generator_history=planned.generator_history,
        )
        planned = runner.run(power, plan=planned, dataset=dataset, settings=settings)
        if planned.power is not None:
            runner.bars.note(f"{recipe}: {planned.power.sentence}.")
        clock.lap("prepare")
        trained = runner.run(
            finetune,
            launch=launch,
            dataset=dataset,
            recipe=recipe,
            recipe_settings=recipe_settings,
            parent=planned.start,
            settings=settings,
        )
        clock.lap("train")
        clock.seconds |= {"read": trained.read_s, "checkpoint": trained.checkpoint_s}
        evaluation = runner.run(
            evaluate,
            dataset=dataset,
            trained=trained,
            recipe=recipe,
            recipe_settings=recipe_settings,
            settings=settings,
            questions=planned.power.questions if planned.power else None,
        )
        clock.lap("gate")
    except StorageFull:
        raise  # the round is resumed once there is space
    except Permanent:
        # It would fail in the same way every time, and no other round could begin.
        runner.run(withdraw_plan, number=planned.round)
        raise
    decision = runner.run(
        promote,
        plan=planned,
        dataset=dataset,
        trained=trained,
        evaluation=evaluation,
        settings=settings,
        run=runner.record.id,
        clock=clock,
        load=load,
    )
    clock.lap("publish")
    runner.run(tidy)
    took = round(time.perf_counter() - started, 1)
    return Round(recipe, landed, dataset, trained, evaluation, decision, clock.seconds, took, planned.power)


@stage("Withdraws the plan of a round that cannot be completed.")
def withdraw_plan(rounds: Annotated[ObjectWriter, ROUNDS], number: int) -> None:
    """Remove the plan, so that the next round is planned anew."""
    manifest.withdraw(rounds, number)
