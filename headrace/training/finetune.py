"""finetune: trains a recipe on the dataset, with checkpoints in the object tier from which a killed run resumes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated

from headrace.catalog import CHECKPOINTS, DATASETS, MODELS
from headrace.core.launch import Launch
from headrace.core.progress import ProgressBars
from headrace.core.stage import stage
from headrace.errors import NotFound, NothingToLearn
from headrace.models import GENERATOR
from headrace.settings import Training
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.training.data import Dataset
from headrace.training.data.dataset import TRAIN
from headrace.training.recipes import recipe_of
from headrace.training.trainer import Job, Trained, train

_DONE = "trained.json"
_ON_ANSWERS = "Gather more verdicts: `headrace ask`, then `headrace feedback`."
_ON_PASSAGES = (
    "Gather more verdicts on passages, on the page of `headrace up` or by `headrace search`, then `headrace feedback --passage`:"
    " a question counts once one of its passages is liked and another one disliked."
)
SIMULATED = "Simulated users are learned from with `headrace train --simulated`."


@stage("Fine-tunes a model on what users judged, with checkpoints that resume exactly.")
def finetune(
    datasets: Annotated[ObjectReader, DATASETS],
    models: Annotated[ObjectReader, MODELS],
    checkpoints: Annotated[ObjectWriter, CHECKPOINTS],
    bars: ProgressBars,
    launch: Launch,
    dataset: Dataset,
    recipe: str,
    recipe_settings: Mapping[str, object],
    parent: str,
    settings: Training,
) -> Trained:
    """Train to the end; a finished training is not repeated.

    `recipe_settings` are the recipe's settings, `parent` is `model/version` of the weights it starts from, "" for the packaged
    ones. Raises `NothingToLearn` if the dataset has no examples for the recipe.
    """
    require_examples(dataset, recipe)
    job = Job(
        recipe,
        dict(recipe_settings),
        dataset.files,
        training(recipe, recipe_settings, parent, dataset.version, settings, launch.workers),
        parent,
        settings.seed,
        settings.threads,
        settings.keep,
    )
    try:
        return Trained(**json.loads(checkpoints.get(f"{job.prefix}/{_DONE}")))
    except NotFound:
        pass
    with bars.counted("train", of="steps") as advance:
        done = launch.run(train, job, datasets, models, checkpoints, report=advance)
    checkpoints.put(f"{job.prefix}/{_DONE}", json.dumps(done.as_dict(), sort_keys=True).encode())
    return done


def require_examples(dataset: Dataset, recipe: str) -> None:
    """Raise `NothingToLearn` where a dataset has nothing to train a recipe on."""
    if not dataset.examples.get(TRAIN):
        held = sum(count for split, count in dataset.questions.items() if split != TRAIN)
        raise NothingToLearn(
            f"{recipe} is not trained: the training split holds no {recipe_of(recipe).learns_from}.",
            hint=(f"All judged questions so far ({held:,}) are held out for evaluation. " if held else "")
            + more_verdicts(recipe_of(recipe).model)
            + (f" {SIMULATED}" if left_out_simulated(dataset) else ""),
        )


def more_verdicts(model: str) -> str:
    """How to gather what the recipes of a model learn from."""
    return _ON_ANSWERS if model == GENERATOR else _ON_PASSAGES


def left_out_simulated(dataset: Dataset) -> bool:
    """Whether verdicts of simulated users were left out."""
    return bool(dataset.left_out.get("verdict: simulated user"))


def training(
    recipe: str, recipe_settings: Mapping[str, object], parent: str, dataset: str, settings: Training, workers: int = 1
) -> str:
    """The prefix of a training's checkpoints; it contains or hashes everything that the weights depend on."""
    together = [workers] if workers > 1 else []
    identity = json.dumps([recipe_settings, parent, settings.seed, settings.threads, *together], sort_keys=True)
    return f"{recipe}/{dataset}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
