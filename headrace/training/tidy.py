"""tidy: checkpoints of trainings that came to nothing go; those a manifest or a plan names stay."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

from headrace.catalog import CHECKPOINTS, TURNS
from headrace.core.stage import stage
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.training import manifest

_GRACE = timedelta(minutes=1)


@stage("Removes checkpoints that no manifest names, once the turn they were for is over.")
def tidy(turns: Annotated[ObjectReader, TURNS], checkpoints: Annotated[ObjectWriter, CHECKPOINTS]) -> int:
    """Remove them and return how many.

    Of a training that a manifest names, its last checkpoint and its weights stay and the steps before go. What was written
    about when the newest manifest was, or later, stays as well: it may be of a turn under way in another process.
    """
    numbers = manifest.numbers(turns)
    if not numbers or manifest.plan(turns, numbers[-1] + 1) is not None:
        return 0
    committed = [manifest.read(turns, number) for number in numbers]
    until = datetime.fromisoformat(committed[-1]["committed"]) - _GRACE
    steps = {found["training"].get("checkpoint") for found in committed}
    trainings = {found["training"]["weights"].rpartition("/")[0] for found in committed}
    removed = 0
    for info in list(checkpoints.list()):
        _, is_step, _ = info.key.rpartition("/step-")
        named = info.key in steps if is_step else any(info.key.startswith(f"{name}/") for name in trainings)
        if not named and info.modified < until:
            checkpoints.delete(info.key)
            removed += 1
    return removed
