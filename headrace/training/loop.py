"""The training loop function: called directly on one machine, under Ray Train on a cluster.

One cross-encoder, listwise: each group is one liked passage and the disliked ones retrieval ranked highest, and the loss is the
cross-entropy of the liked one among them (Gao, Dai, Callan 2021, "Rethink Training of BERT Rerankers", eq. 3). A checkpoint holds
the trained weights, optimizer, RNG and position, so a resumed run ends with the very weights of one that was never stopped.
"""

from __future__ import annotations

import io
import json
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.errors import NotFound
from headrace.settings import Training
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.training.prepare import TRAIN, Dataset, questions

_LATEST = "latest.json"
_WARMUP = 0.1
_KEEP = 2


@dataclass(frozen=True)
class Job:
    """What to train: the dataset, where checkpoints go (`prefix`), and the recipe."""

    dataset: Dataset
    prefix: str
    settings: Training


@dataclass(frozen=True)
class Trained:
    """What came of it: the folder of the weights, steps in all and taken in this process, seconds, and mean losses."""

    weights: str
    steps: int
    taken: int
    seconds: float
    first_loss: float
    last_loss: float

    def as_dict(self) -> dict[str, Any]:
        """The training as the manifest names it."""
        return {**vars(self)}


def train(job: Job, datasets: ObjectReader, checkpoints: ObjectWriter, report: Callable[[int, int, float], None]) -> Trained:
    """Train to the end from the newest checkpoint, or from the start; `report(step, of, loss)` after each step.

    Raises `NotFound` where the dataset was deleted meanwhile.
    """
    # Imported here: everything else of the training room stays usable, and quick to import, without torch.
    import torch

    from headrace.training.crossencoder import encode_pairs, fresh, save

    settings = job.settings
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads)
    groups = _groups(questions(datasets, job.dataset, TRAIN), settings.negatives)
    model, tokenizer = fresh(settings.seed)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.01)
    per_step = max(1, settings.batch // (settings.negatives + 1))
    per_epoch = (len(groups) + per_step - 1) // per_step
    total = per_epoch * settings.epochs
    losses: list[float] = []
    step = _resume(checkpoints, job.prefix, model, optimizer, losses)
    taken, started = 0, time.perf_counter()
    while step < total:
        epoch, place = divmod(step, per_epoch)
        order = list(range(len(groups)))
        random.Random(f"{settings.seed}/{epoch}").shuffle(order)
        chosen = [groups[i] for i in order[place * per_step : (place + 1) * per_step]]
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _schedule(step, total)
        model.train()
        pairs = [(question, passage) for question, passages in chosen for passage in passages]
        logits = model(**encode_pairs(tokenizer, pairs, settings.max_tokens)).logits.squeeze(-1)
        sizes = [len(passages) for _, passages in chosen]
        loss = torch.stack(
            [torch.nn.functional.cross_entropy(part[None], torch.zeros(1, dtype=torch.long)) for part in logits.split(sizes)]
        ).mean()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        step += 1
        taken += 1
        report(step, total, losses[-1])
        if step % settings.checkpoint_steps == 0 and step < total:
            _checkpoint(checkpoints, job.prefix, step, model, optimizer, losses)
    weights = f"{job.prefix}/weights"
    with tempfile.TemporaryDirectory() as folder:
        save(model, tokenizer, Path(folder))
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                checkpoints.upload(f"{weights}/{path.relative_to(folder).as_posix()}", path)
    tenth = max(1, len(losses) // 10)
    return Trained(
        weights=weights,
        steps=total,
        taken=taken,
        seconds=round(time.perf_counter() - started, 1),
        first_loss=round(sum(losses[:tenth]) / tenth, 4) if losses else 0.0,
        last_loss=round(sum(losses[-tenth:]) / tenth, 4) if losses else 0.0,
    )


def _groups(by_question: dict[str, list[dict[str, Any]]], negatives: int) -> list[tuple[str, list[str]]]:
    """(question, [liked passage, disliked …]) for the best retrieved liked passage of each question, hardest negatives first.

    A question without both teaches nothing and is left out.
    """
    groups = []
    for question, rows in by_question.items():
        liked = [row["passage"] for row in rows if row["label"] > 0]
        disliked = [row["passage"] for row in rows if row["label"] == 0]
        if liked and disliked:
            groups.append((question, [liked[0], *disliked[:negatives]]))
    return groups


def _schedule(step: int, total: int) -> float:
    """Linear warm-up over the first tenth, then linear decay to zero."""
    warm = max(1, int(total * _WARMUP))
    return (step + 1) / warm if step < warm else max(0.0, (total - step) / max(1, total - warm))


def _checkpoint(checkpoints: ObjectWriter, prefix: str, step: int, model: Any, optimizer: Any, losses: list[float]) -> None:
    """Write a checkpoint and only then name it the latest; older ones but one go."""
    import torch

    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    state = {
        "step": step,
        "weights": {name: value for name, value in model.state_dict().items() if name not in frozen},
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "losses": losses,
    }
    key = f"{prefix}/step-{step:06d}.pt"
    # By way of a file, which is streamed: in memory it would stand there two or three times.
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        torch.save(state, file)
        file.flush()
        checkpoints.upload(key, Path(file.name))
    checkpoints.put(f"{prefix}/{_LATEST}", json.dumps({"step": step, "key": key}).encode())
    kept = sorted(info.key for info in checkpoints.list(f"{prefix}/step-"))
    for old in kept[:-_KEEP]:
        checkpoints.delete(old)


def _resume(checkpoints: ObjectReader, prefix: str, model: Any, optimizer: Any, losses: list[float]) -> int:
    """Load the latest checkpoint, if any, and return its step."""
    import torch

    try:
        latest = json.loads(checkpoints.get(f"{prefix}/{_LATEST}"))
        state = torch.load(io.BytesIO(checkpoints.get(latest["key"])), weights_only=True)
    except NotFound:
        return 0
    model.load_state_dict(state["weights"], strict=False)
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    losses.extend(state["losses"])
    return int(state["step"])
