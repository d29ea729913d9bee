"""training: the loop's step rate against a bare loop of the same model and batches; checkpoint stall; a round's overhead.

The questions are synthetic: words drawn by Zipf's law, one liked and three disliked passages each. The bare loop is what one
would write by hand: the same model, batches, optimizer and loss, nothing stored. Overhead is that of a round over 10,000 judged
passages whose training takes one step: landing, preparing, the gate and publishing.
"""

from __future__ import annotations

import io
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headrace.catalog import CHECKPOINTS, CHUNK_ROWS, DATASETS, EXAMPLES, FEEDBACK, INTERACTIONS, MODELS
from headrace.core.run import Run
from headrace.core.runner import Runner
from headrace.platform import open_platform
from headrace.settings import Preparing, Settings, Training
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.storage.records import batch
from headrace.storage.stream.writer import TopicWriter
from headrace.storage.tables.handles import TableWriter
from headrace.training.data.dataset import TRAIN, read
from headrace.training.recipes import recipe_of
from headrace.training.round import run_round
from headrace.training.trainer import Job, Trained, schedule, train

_ROUNDS = 3
_QUESTIONS = 160
_JUDGED = 10_000
_SEED = 17


def measure() -> dict[str, Any]:
    """Bounds: step rate at least 0.95 of the bare loop's; stall at most 3 % of it; overhead at most 20 s; a round 4 min."""
    with (
        tempfile.TemporaryDirectory() as folder,
        open_platform(Settings.load(home=Path(folder)), parts=frozenset({"objects", "head"})) as endpoints,
    ):
        return {
            "steps": _steps(endpoints),
            "round_of_10000_examples": _round(endpoints, Path(folder)),
            "bounds": {"ratio": 0.95, "stall": 0.03, "overhead_s": 20.0, "round_s": 240.0},
        }


def _steps(endpoints: Endpoints) -> dict[str, Any]:
    files = _dataset(endpoints)
    settings = {"epochs": 1}  # and checkpoints as often as the recipe makes them
    ours, bare, stalls = [], [], []
    for number in range(_ROUNDS + 1):  # the first warms up
        job = Job("reranker", settings, files, f"bench/{number}", seed=_SEED, threads=Training().threads)
        done = _ours(endpoints, job)
        ours.append(done.steps / done.seconds)
        bare.append(_bare(endpoints, job))
        stalls.append(done.stalled_s / done.seconds)
    ratios = [one / other for one, other in zip(ours[1:], bare[1:], strict=True)]
    return {
        "ratio_median": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "steps_per_s": round(statistics.median(ours[1:]), 2),
        "bare_steps_per_s": round(statistics.median(bare[1:]), 2),
        "stall_share_of_step_time": round(max(stalls[1:]), 4),
    }


def _ours(endpoints: Endpoints, job: Job) -> Trained:
    meter = Meter(Ledger(), "bench")
    stores = ObjectReader(DATASETS, endpoints, meter), ObjectReader(MODELS, endpoints, meter)
    return train(job, *stores, ObjectWriter(CHECKPOINTS, endpoints, meter), lambda step, of, loss: None)


def _bare(endpoints: Endpoints, job: Job) -> float:
    """Steps a second of the loop written by hand."""
    import torch

    recipe = recipe_of(job.recipe)
    settings = recipe.settings(job.settings)
    rows = read(ObjectReader(DATASETS, endpoints, Meter(Ledger(), "bench")), job.files, TRAIN)
    torch.manual_seed(job.seed)
    torch.set_num_threads(job.threads)
    items = recipe.items(rows, settings)
    policy = recipe.fresh(None, settings, job.seed)
    trained = [p for p in policy.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.01)
    random.Random(f"{job.seed}/0").shuffle(items)
    batches = [items[i : i + settings.batch] for i in range(0, len(items), settings.batch)]
    policy.model.train()
    started = time.perf_counter()
    for step, items in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * schedule(step, len(batches), settings.warmup)
        loss, _ = recipe.loss(policy, items, settings, step)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(trained, settings.clip)
        optimizer.step()
        float(loss.detach())
    return len(batches) / (time.perf_counter() - started)


def _dataset(endpoints: Endpoints) -> tuple[dict[str, Any], ...]:
    dice = random.Random(_SEED)
    rows = []
    for n in range(_QUESTIONS):
        for rank in range(1, 5):
            row: dict[str, Any] = {field.name: None if field.nullable else "" for field in EXAMPLES.columns}
            row |= {"example_id": f"{n}-{rank}", "question": _text(dice, 10), "passage": _text(dice, 110), "origins": []}
            row |= {"label": float(rank == 2), "retrieval_score": 1 / rank, "retrieval_rank": rank, "split": TRAIN}
            rows.append({**row, "question": f"{n} {_text(dice, 8)}" if rank == 1 else rows[-1]["question"]})
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, EXAMPLES.columns), buffer)
    ObjectWriter(DATASETS, endpoints, Meter(Ledger(), "bench")).put("bench/train.parquet", buffer.getvalue())
    return ({"key": "bench/train.parquet", "split": TRAIN},)


def _round(endpoints: Endpoints, folder: Path) -> dict[str, Any]:
    _judge(endpoints)
    settings = Training(recipe={"reranker": {"most_steps": 1}}, preparing=Preparing(simulated=True))
    runner = Runner(Run("train", folder), endpoints)
    started = time.perf_counter()
    done = run_round(runner, settings=settings)
    timings = done.timings
    return {
        "examples": sum(done.dataset.examples.values()),
        "seconds": round(time.perf_counter() - started, 1),
        "overhead_s": round(sum(timings[name] for name in ("land", "prepare", "gate", "publish")), 1),
        "timings": timings,
    }


def _judge(endpoints: Endpoints) -> None:
    """10,000 verdicts on passages, four of a question, put on the head."""
    from datetime import UTC, datetime

    dice, meter, at = random.Random(_SEED), Meter(Ledger(), "bench"), datetime.now(UTC)
    chunks, answers, verdicts = [], [], []
    for n in range(_JUDGED // 4):
        passages = []
        for rank in range(1, 5):
            name = f"{n}-{rank}"
            chunk = {field.name: None if field.nullable else "" for field in CHUNK_ROWS.columns}
            chunk |= {"chunk_id": name, "document_id": f"d{n // 5}", "tenant": "acme", "text": _text(dice, 110)}
            chunks.append({**chunk, "position": rank, "readers": [], "partition": 0, "offset": n})
            passages.append({"chunk_id": name, "document": f"{n}.md", "retrieval_score": 1 / rank, "retrieval_rank": rank})
            verdict = {field.name: None if field.nullable else "" for field in FEEDBACK.columns}
            verdict |= {"verdict_id": f"v{name}", "answer_id": f"a{n}", "tenant": "acme", "user": f"user-{n % 20}"}
            verdicts.append({**verdict, "chunk_id": name, "up": rank == 2, "simulated": True, "at": at})
        answer = {f.name: None if f.nullable else [] if pa.types.is_list(f.type) else "" for f in INTERACTIONS.columns}
        answer |= {"answer_id": f"a{n}", "kind": "search", "tenant": "acme", "user": f"user-{n % 20}", "simulated": True}
        answers.append({**answer, "question": f"{n} {_text(dice, 8)}", "passages": passages, "at": at})
    TableWriter(CHUNK_ROWS, endpoints, meter).append(batch(CHUNK_ROWS.columns, chunks))
    TopicWriter(INTERACTIONS, endpoints, meter).append(answers, key="answer_id")
    TopicWriter(FEEDBACK, endpoints, meter).append(verdicts, key="answer_id")


def _text(dice: random.Random, words: int) -> str:
    return " ".join(f"word{min(int(dice.paretovariate(0.8)), 5000)}" for _ in range(words))


if __name__ == "__main__":
    import json

    print(json.dumps(measure(), indent=2))
