"""Tidying: what no manifest names goes, what one names stays, and what may be of a round under way is left alone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import torch
from obstore.store import MemoryStore
from rounds import manifest as a_manifest
from rounds import plan as a_plan

from headrace.catalog import CHECKPOINTS, ROUNDS
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectWriter
from headrace.training import manifest
from headrace.training.checkpoint import Checkpoints, tidy

Stores = tuple[ObjectWriter, ObjectWriter]
LATER = timedelta(minutes=2)  # by when everything that a test writes is long there


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> Stores:
    """Rounds and checkpoints, in an object store in memory."""
    memory = MemoryStore()
    monkeypatch.setattr("headrace.storage.objects.connect", lambda *_: memory)
    endpoints = Endpoints.model_construct(s3_endpoint="memory:", bucket="")
    rounds, checkpoints = (ObjectWriter(store, endpoints, Meter(Ledger(), "test")) for store in (ROUNDS, CHECKPOINTS))
    return rounds, checkpoints


def trained(checkpoints: ObjectWriter, prefix: str, steps: int = 3) -> dict[str, str]:
    """A training's checkpoints after each of these steps, its weights below them, and what its manifest says of both."""
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    kept = Checkpoints(checkpoints, prefix, keep=steps)
    for step in range(1, steps):
        kept.save(step, model, optimizer, {})
        kept.wait()
    latest = kept.finish(steps, model, optimizer, {})
    for name in ("model.safetensors", "1_Pooling/config.json"):
        checkpoints.put(f"{prefix}/weights/{name}", b"weights")
    return {"checkpoint": latest, "weights": f"{prefix}/weights"}


def commit(rounds: ObjectWriter, number: int, training: dict[str, Any], after: timedelta = LATER) -> None:
    manifest.publish(rounds, a_manifest(number, committed=(datetime.now(UTC) + after).isoformat(), training=training))


def keys(checkpoints: ObjectWriter) -> list[str]:
    return [info.key for info in checkpoints.list()]


def run(stores: Stores) -> int:
    return tidy(rounds=stores[0], checkpoints=stores[1])


def test_a_training_that_a_manifest_names_keeps_its_last_checkpoint_and_its_weights_and_any_other_goes(stores: Stores) -> None:
    rounds, checkpoints = stores
    commit(rounds, 1, trained(checkpoints, "d1-reranker"))
    # Nothing names these: the training of a round that was given up, and one whose name only begins alike.
    trained(checkpoints, "d2-reranker")
    trained(checkpoints, "d1-reranker-more")
    commit(rounds, 2, trained(checkpoints, "d3-reranker", steps=1))
    everything = keys(checkpoints)
    kept = [
        *(f"d1-reranker/{name}" for name in ("latest.json", "step-000003.pt", "weights/1_Pooling/config.json")),
        "d1-reranker/weights/model.safetensors",
        *(f"d3-reranker/{name}" for name in ("latest.json", "step-000001.pt", "weights/1_Pooling/config.json")),
        "d3-reranker/weights/model.safetensors",
    ]
    assert set(kept) < set(everything)
    assert {"d1-reranker/step-000001.pt", "d2-reranker/latest.json", "d1-reranker-more/step-000003.pt"} < set(everything)
    assert run(stores) == len(everything) - len(kept)
    assert keys(checkpoints) == sorted(kept)
    assert run(stores) == 0


def began(rounds: ObjectWriter) -> None:
    manifest.begin(rounds, a_plan(2))


@pytest.mark.parametrize(
    ("state", "after"),
    [
        (None, LATER),  # no round was ever committed
        (began, LATER),  # the next round has begun, and its training has a name that no manifest knows yet
        (lambda rounds: None, timedelta()),  # as new as the newest manifest: another process may have begun meanwhile
    ],
    ids=["no manifest", "a round under way", "just written"],
)
def test_what_may_be_of_a_round_under_way_stays(
    stores: Stores, state: Callable[[ObjectWriter], None] | None, after: timedelta
) -> None:
    rounds, checkpoints = stores
    named = trained(checkpoints, "d1", steps=1)
    trained(checkpoints, "d2")
    if state is not None:
        commit(rounds, 1, named, after)
        state(rounds)
    before = keys(checkpoints)
    assert run(stores) == 0
    assert keys(checkpoints) == before
    # Once that is over, it goes.
    if state is began:
        commit(rounds, 2, named)
        assert run(stores) == 6
        assert {key.partition("/")[0] for key in keys(checkpoints)} == {"d1"}
