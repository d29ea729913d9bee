"""Promoting: who took back what a round learned from is heard before anything of it is released."""

from __future__ import annotations

import pytest
from obstore.store import MemoryStore
from rounds import plan as a_plan
from rounds import won

from headrace.catalog import CHECKPOINTS, MODELS, PROMOTIONS, ROUNDS
from headrace.errors import LostRace
from headrace.settings import Training
from headrace.storage.endpoints import Endpoints, VastEndpoint
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectWriter
from headrace.storage.tables.handles import TableWriter
from headrace.training import manifest
from headrace.training.data import Dataset
from headrace.training.manifest import Clock, Plan
from headrace.training.promote import promote
from headrace.training.trainer import Trained

METER = Meter(Ledger(), "test")
VAST = VastEndpoint(endpoint="http://127.0.0.1:1", access_key="a", secret_key="s", bucket="b", db_schema="d")


@pytest.mark.parametrize("standing", [None, a_plan(1, dataset_version="d18")], ids=["taken back", "begun anew"])
def test_a_round_whose_plan_stands_no_more_releases_and_commits_nothing(
    monkeypatch: pytest.MonkeyPatch, standing: Plan | None
) -> None:
    memory = MemoryStore()
    monkeypatch.setattr("headrace.storage.objects.connect", lambda *_: memory)
    endpoints = Endpoints.model_construct(s3_endpoint="memory:", bucket="", vast=VAST)  # nobody listens there: it is not asked
    checkpoints, models, rounds = (ObjectWriter(store, endpoints, METER) for store in (CHECKPOINTS, MODELS, ROUNDS))
    checkpoints.put("d/weights/model.safetensors", b"weights")
    if standing is not None:
        manifest.begin(rounds, standing)
    loaded: list[str] = []
    with pytest.raises(LostRace, match="plan of this round was withdrawn"):
        promote(
            checkpoints=checkpoints,
            models=models,
            rounds=rounds,
            promotions=TableWriter(PROMOTIONS, endpoints, METER),
            plan=a_plan(1, dataset_version="d17"),
            dataset=Dataset("d", {"train": 1}, {"train": 1}, ()),
            trained=Trained("d/weights", "", 1, 1, 1, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0),
            evaluation=won(),
            settings=Training(),
            run="r",
            clock=Clock(None, 0.0),
            load=lambda model, version: loaded.append(version),
        )
    assert [info.key for info in models.list()] == []
    assert manifest.numbers(rounds) == []
    assert loaded == []
