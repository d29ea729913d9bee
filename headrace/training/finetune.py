"""finetune: the cross-encoder on the dataset, checkpoints on the object tier, resumed where a killed run left off."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated

from headrace.catalog import CHECKPOINTS, DATASETS
from headrace.errors import Terminal
from headrace.pipeline.launch import Launch
from headrace.pipeline.progress import Bars
from headrace.pipeline.stage import stage
from headrace.settings import Training
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.training.loop import Job, Trained, train
from headrace.training.prepare import TRAIN, Dataset

_DONE = "trained.json"


@stage("Fine-tunes the cross-encoder on liked and disliked passages, with checkpoints that resume exactly.")
def finetune(
    datasets: Annotated[ObjectReader, DATASETS],
    checkpoints: Annotated[ObjectWriter, CHECKPOINTS],
    bars: Bars,
    launch: Launch,
    dataset: Dataset,
    settings: Training,
) -> Trained:
    """Train to the end; a training that had ended is not done again."""
    if not dataset.examples.get(TRAIN):
        raise Terminal(
            "There is nothing to train on: no question has both a liked and a disliked passage.",
            hint="Gather more verdicts: headrace ask, then headrace feedback.",
        )
    recipe = hashlib.sha256(json.dumps(settings.model_dump(), sort_keys=True).encode()).hexdigest()[:8]
    prefix = f"reranker/{dataset.version}-{recipe}"
    if checkpoints.info(f"{prefix}/{_DONE}") is not None:
        return Trained(**json.loads(checkpoints.get(f"{prefix}/{_DONE}")))
    with bars.counted("train", of="steps") as advance:
        done = launch.run(train, Job(dataset, prefix, settings), datasets, checkpoints, report=advance)
    checkpoints.put(f"{prefix}/{_DONE}", json.dumps(done.as_dict(), sort_keys=True).encode())
    return done
