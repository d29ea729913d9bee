"""The trainer, the same for every recipe: called directly on one machine, under Ray Train on a cluster.

On several workers it is data-parallel: each computes the gradients of its share of a batch, all sum them, and all take the same
step. Worker 0 alone writes: checkpoints in the background, which the others do not wait for, and the weights.

A checkpoint holds the trained weights, optimizer, RNG and position; nothing else depends on earlier steps. A resumed training
therefore ends with exactly the weights of an uninterrupted one, and no item is skipped or seen twice in an epoch.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from headrace.core.peers import ALONE, Peers
from headrace.core.schema import parse
from headrace.errors import NothingToLearn
from headrace.models.cards import Card
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.training.checkpoint import Checkpoints, newest, resume
from headrace.training.data.dataset import TEST, TRAIN, TUNE, read
from headrace.training.interrupt import defer_sigint
from headrace.training.position import batch_at, share_of, steps_of_epoch
from headrace.training.recipe import FittedRecipe, GradientRecipe, Policy
from headrace.training.recipes import recipe_of
from headrace.training.scratch import scratch_folder

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Job:
    """A training: the recipe and its settings, the dataset's files, and `prefix`, where checkpoints go.

    `parent` is the released version whose weights it starts from, as `model/version` in the models store; "" for the packaged
    weights.
    """

    recipe: str
    settings: Mapping[str, Any]
    files: tuple[Mapping[str, Any], ...]
    prefix: str
    parent: str = ""
    seed: int = 17
    threads: int = 1
    keep: int = 2


@dataclass(frozen=True)
class Trained:
    """A finished training: prefix of the weights, last checkpoint, number of steps in all and in this process, and losses.

    `seconds` is the time of the steps, `read_s` that of reading data and weights, `checkpoint_s` that of writing checkpoints in
    parallel, `stalled_s` the wait for them. `parameters` were trained; `checkpoints` were written in this process, with
    `checkpoint_bytes` in all. `figures` are means of the recipe's figures (KL, reward, …) over the last tenth of the steps. A
    fitted recipe takes one step and has no checkpoint (""); its items are questions. `workers` trained together.
    """

    weights: str
    checkpoint: str
    items: int
    steps: int
    taken: int
    seconds: float
    read_s: float
    checkpoint_s: float
    stalled_s: float
    first_loss: float
    last_loss: float
    parameters: int = 0
    checkpoints: int = 0
    checkpoint_bytes: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    workers: int = 1

    def as_dict(self) -> dict[str, Any]:
        """The training as the manifest names it."""
        return {**vars(self)}


def train(
    job: Job,
    datasets: ObjectReader,
    models: ObjectReader,
    checkpoints: ObjectWriter,
    report: Callable[[int, int, float], None],
    peers: Peers = ALONE,
) -> Trained:
    """Train to the end from the newest checkpoint, or from the start; `report(step, of, loss)` after each step.

    Of several workers the first one writes. A loss is the mean over its items, so the mean over workers by their items is that of
    the batch; a recipe whose items contrast each other contrasts those of one worker.

    Raises `NotFound` if the dataset was deleted meanwhile, `NothingToLearn` if it has no items for this recipe, `PeerLost` if
    another worker did not go on.
    """
    recipe = recipe_of(job.recipe)
    settings = recipe.settings(job.settings)
    if isinstance(recipe, FittedRecipe):
        return _fitted(recipe, settings, job, datasets, checkpoints, peers)
    assert isinstance(recipe, GradientRecipe)
    begun = time.perf_counter()
    with defer_sigint():
        import torch
    torch.manual_seed(job.seed)
    torch.set_num_threads(peers.threads or job.threads)
    rows = read(datasets, job.files, TRAIN)
    items = recipe.items(rows, settings)
    left_out = {reason: count for reason, count in recipe.left_out(rows, settings).items() if count}
    if not items:
        raise _nothing(job.recipe, left_out)
    with scratch_folder() as folder:
        parent = fetch_release(models, job.parent, folder) if job.parent else None
        with defer_sigint():
            policy = recipe.fresh(parent, settings, job.seed)
    trained = [p for p in policy.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.01)
    total = min(steps_of_epoch(len(items), settings.batch) * settings.epochs, settings.most_steps)
    # What worker 0 says, since one that was thought dead may write a last checkpoint between two reads.
    at = peers.first(newest(checkpoints, job.prefix) if peers.rank == 0 else 0)
    step, latest, detail = resume(checkpoints, job.prefix, at, policy.model, optimizer)
    losses: list[float] = detail.get("losses", [])
    figures: list[dict[str, float]] = detail.get("figures", [])
    saved = Checkpoints(checkpoints, job.prefix, job.keep)
    started = time.perf_counter()
    taken = 0
    try:
        policy.model.train()
        while step < total:
            chosen = [items[i] for i in batch_at(step, len(items), settings.batch, job.seed)]
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * schedule(step, total, settings.warmup)
            with defer_sigint():
                optimizer.zero_grad(set_to_none=True)
                loss, measures = _backward(recipe, policy, chosen, settings, job.seed, step, peers, trained)
                torch.nn.utils.clip_grad_norm_(trained, settings.clip)
                optimizer.step()
                losses.append(loss)
                figures.append(measures)
            step += 1
            taken += 1
            report(step, total, losses[-1])
            if peers.rank == 0 and step % settings.checkpoint_steps == 0 and step < total:
                saved.save(step, policy.model, optimizer, {"losses": losses, "figures": figures})
        stepped = time.perf_counter() - started
        if peers.rank == 0 and (taken or not latest):
            latest = saved.finish(step, policy.model, optimizer, {"losses": losses, "figures": figures})
    finally:
        saved.close()
    with scratch_folder() as folder:
        if peers.rank == 0:
            recipe.save(policy, folder)
        weights = _kept(folder, job, checkpoints)
    return Trained(
        weights=weights,
        checkpoint=latest,
        items=len(items),
        steps=total,
        taken=taken,
        seconds=round(stepped, 2),
        read_s=round(started - begun, 2),
        checkpoint_s=round(saved.writing, 2),
        stalled_s=round(saved.stalled, 3),
        first_loss=round(_mean(losses[: _tenth(losses)]), 4),
        last_loss=round(_mean(losses[-_tenth(losses) :]), 4),
        parameters=sum(parameter.numel() for parameter in trained),
        checkpoints=saved.written,
        checkpoint_bytes=saved.bytes,
        figures=_means(figures[-_tenth(figures) :]),
        left_out=left_out,
        workers=peers.size,
    )


def _backward(
    recipe: GradientRecipe,
    policy: Policy,
    batch: Sequence[Any],
    settings: Any,
    seed: int,
    step: int,
    peers: Peers,
    trained: Sequence[torch.nn.Parameter],
) -> tuple[float, dict[str, float]]:
    """The gradients of a batch's mean loss, on every worker; the loss, and the figures of this worker's share."""
    import torch

    if peers.size == 1:
        loss, measures = recipe.loss(policy, batch, settings, _step_seed(seed, step))
        torch.autograd.backward(loss)
        return float(loss.detach()), measures
    share = share_of(batch, peers.rank, peers.size)
    own_seed = _step_seed(seed, step, peers.rank)
    torch.manual_seed(own_seed)  # a checkpoint holds the generator of worker 0 only
    value, measures, weight = 0.0, dict[str, float](), len(share) / len(batch)
    if share:
        loss, measures = recipe.loss(policy, share, settings, own_seed)
        torch.autograd.backward(loss)
        value = float(loss.detach())
    parts = [torch.zeros_like(one) if one.grad is None else one.grad for one in trained]
    # Last the loss, and which parameters the loss depends on: the optimizer leaves the others as they are.
    last = [value, *(float(one.grad is not None) for one in trained)]
    vector = torch.cat([*(part.detach().float().reshape(-1) for part in parts), torch.tensor(last)]) * weight
    peers.sum(vector)
    place = 0
    for one, used in zip(trained, vector[-len(trained) :].tolist(), strict=True):
        one.grad = vector[place : place + one.numel()].reshape(one.shape).to(one.dtype) if used else None
        place += one.numel()
    return float(vector[place]), measures


def _fitted(
    recipe: FittedRecipe, settings: Any, job: Job, datasets: ObjectReader, checkpoints: ObjectWriter, peers: Peers
) -> Trained:
    """Fit in one go; there is nothing to go on from, and nothing to share: every worker fits, the first one writes."""
    begun = time.perf_counter()
    rows = [row for split in (TRAIN, TUNE, TEST) for row in read(datasets, job.files, split)]
    left_out = {reason: count for reason, count in recipe.left_out(rows, settings).items() if count}
    started = time.perf_counter()
    with scratch_folder() as folder:
        fit = recipe.fit(rows, settings, folder)
        if fit is None:
            raise _nothing(job.recipe, left_out)
        took = time.perf_counter() - started
        weights = f"{job.prefix}/weights" if peers.rank else _kept(folder, job, checkpoints)
    return Trained(
        weights=weights,
        checkpoint="",
        items=fit.questions,
        steps=1,
        taken=1,
        seconds=round(took, 2),
        read_s=round(started - begun, 2),
        checkpoint_s=0.0,
        stalled_s=0.0,
        first_loss=round(fit.loss_before, 4),
        last_loss=round(fit.loss_after, 4),
        left_out=left_out,
    )


def _kept(folder: Path, job: Job, checkpoints: ObjectWriter) -> str:
    """Upload what a training came to; the key it is below."""
    weights = f"{job.prefix}/weights"
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            checkpoints.upload(f"{weights}/{path.relative_to(folder).as_posix()}", path)
    return weights


def _nothing(recipe: str, left_out: Mapping[str, int]) -> NothingToLearn:
    why = ", ".join(f"{count:,} for {reason}" for reason, count in left_out.items())
    return NothingToLearn(
        f"There is nothing that the recipe {recipe} can learn from in these verdicts"
        + (f"; left out were {why}." if why else "."),
        hint="Gather more verdicts, on passages and on answers; docs/explanation/training.md says what each recipe needs.",
    )


def fetch(store: ObjectReader, prefix: str, folder: Path) -> Path:
    """Copy every object below `prefix` into `folder`, which is returned."""
    for info in list(store.list(f"{prefix}/")):
        path = folder / PurePosixPath(info.key).relative_to(prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        store.download(info.key, path)
    return folder


def fetch_release(models: ObjectReader, prefix: str, folder: Path) -> Path:
    """Copy the files that the card of a released version (`model/version`) lists into `folder`, which is returned."""
    key = f"{prefix}/card.json"
    card = parse(Card, models.get(key), f"{models.store.name}/{key}")
    for file in card.files:
        path = folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        models.download(f"{prefix}/{file.key}", path)
    return folder


def schedule(step: int, total: int, warmup: float) -> float:
    """Linear warm-up over a share of the steps, then linear decay to zero."""
    warm = max(1, int(total * warmup))
    return (step + 1) / warm if step < warm else max(0.0, (total - step) / max(1, total - warm))


def _step_seed(seed: int, step: int, rank: int = 0) -> int:
    return random.Random(f"{seed}/step/{step}" + (f"/{rank}" if rank else "")).getrandbits(31)


def _tenth(values: list[Any]) -> int:
    return max(1, len(values) // 10)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _means(figures: list[dict[str, float]]) -> dict[str, float]:
    names = sorted({name for one in figures for name in one})
    return {name: round(_mean([one[name] for one in figures if name in one]), 4) for name in names}
