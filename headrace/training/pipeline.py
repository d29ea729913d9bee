"""The training pipeline, declared, and one trip round it: a turn."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from headrace.catalog import FEEDBACK, FEEDBACK_ROWS, INTERACTION_ROWS, INTERACTIONS, MODELS, PROMOTIONS, TURNS
from headrace.errors import Terminal
from headrace.head.land import Landed, land
from headrace.head.position import positions
from headrace.pipeline import manifest
from headrace.pipeline.launch import Here, Launch
from headrace.pipeline.runner import Runner
from headrace.pipeline.stage import Pipeline, Trigger, stage
from headrace.settings import Training
from headrace.storage.objects import ObjectWriter
from headrace.storage.tables import TableReader, TableWriter
from headrace.training.evaluate import Evaluation, evaluate
from headrace.training.finetune import finetune
from headrace.training.loop import Trained
from headrace.training.prepare import Dataset, dataset_version, prepare
from headrace.training.promote import Decision, promote, settle

RECIPE = "reranker"


@stage("Chooses what a turn learns from: the table snapshots, fixed before anything is made from them.")
def plan(
    interactions: Annotated[TableReader, INTERACTION_ROWS],
    feedback: Annotated[TableReader, FEEDBACK_ROWS],
    turns: Annotated[ObjectWriter, TURNS],
    models: Annotated[ObjectWriter, MODELS],
    promotions: Annotated[TableWriter, PROMOTIONS],
    settings: Training,
) -> dict[str, Any]:
    """The plan of the next turn: that of a turn a killed process began, or a new one.

    Raises `Terminal` while there is no verdict to learn from.
    """
    settle(models, turns, promotions)
    committed = manifest.numbers(turns)
    turn = (committed[-1] if committed else 0) + 1
    begun = manifest.plan(turns, turn)
    if begun is not None:
        return begun
    if feedback.snapshot() is None or interactions.snapshot() is None:
        raise Terminal(
            "There is no verdict to learn from yet.",
            hint="Ask something and judge it: headrace ask, then headrace feedback ANSWER_ID --up.",
        )
    snapshots = {INTERACTION_ROWS.name: interactions.snapshot(), FEEDBACK_ROWS.name: feedback.snapshot()}
    return manifest.begin(
        turns,
        turn,
        {
            "turn": turn,
            "parent": committed[-1] if committed else None,
            "recipe": RECIPE,
            "begun": datetime.now(UTC).isoformat(),
            "snapshots": snapshots,
            "offsets": {
                topic.name: {str(p): at.as_mark() for p, at in sorted(positions(table.marks(), topic.name).items())}
                for topic, table in ((INTERACTIONS, interactions), (FEEDBACK, feedback))
            },
            "dataset_version": dataset_version(snapshots, settings.seed),
            "settings": settings.model_dump(),
        },
    )


TRAINING = Pipeline(
    "training",
    "A training loop that never stops: feedback in, dataset, fine-tuning, evaluation, promotion, and round again.",
    (land, plan, prepare, finetune, evaluate, promote),
    (Trigger(FEEDBACK, "land", "when verdicts came in"),),
)


@dataclass(frozen=True)
class Turn:
    """What one trip round the loop did."""

    landed: Landed
    dataset: Dataset
    trained: Trained
    evaluation: Evaluation
    decision: Decision
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The turn for `headrace turn --json`."""
        return {
            "turn": self.decision.turn,
            "landed": self.landed.events,
            "dead_letters": self.landed.dead,
            "dataset": self.dataset.as_dict(),
            "training": self.trained.as_dict(),
            "evaluation": self.evaluation.as_dict(),
            "promoted": self.decision.promoted,
            "why": self.decision.why,
            "serving": self.decision.serving,
            "seconds": self.seconds,
        }


def turn(runner: Runner, *, launch: Launch | None = None, settings: Training) -> Turn:
    """Go once round the loop, taking up a turn that was begun and not committed."""
    started = time.perf_counter()
    landed = runner.run(land)
    landed.require(INTERACTIONS, FEEDBACK)
    planned = runner.run(plan, settings=settings)
    # A turn taken up again goes on as it was planned, whatever the settings say by now.
    as_planned = Training(**planned["settings"])
    dataset = runner.run(prepare, snapshots=planned["snapshots"], version=planned["dataset_version"], seed=as_planned.seed)
    trained = runner.run(finetune, launch=launch or Here(), dataset=dataset, settings=as_planned)
    evaluation = runner.run(evaluate, dataset=dataset, trained=trained, settings=as_planned)
    decision = runner.run(
        promote,
        plan=planned,
        dataset=dataset,
        trained=trained,
        evaluation=evaluation,
        settings=as_planned,
        run=runner.record.id,
    )
    return Turn(landed, dataset, trained, evaluation, decision, round(time.perf_counter() - started, 1))
