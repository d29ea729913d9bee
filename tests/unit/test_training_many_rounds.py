"""What is read of rounds and released versions does not grow with their number where it need not, and is right all the same."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from obstore.store import MemoryStore
from rounds import manifest as a_manifest

from headrace.answering.record import new_id
from headrace.catalog import CHECKPOINTS, MODELS, ROUNDS
from headrace.core import maintain
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Direction, Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectWriter
from headrace.training import checkpoint, manifest
from headrace.training.promote import newest
from headrace.training.promotions import version_names

ROUND_COUNT = 30


class Stores:
    """Rounds, models and checkpoints in an object store in memory, and what was read of them."""

    def __init__(self) -> None:
        self._ledger = Ledger()
        endpoints = Endpoints.model_construct(s3_endpoint="memory:", bucket="")
        meter = Meter(self._ledger, "test")
        self.rounds, self.models, self.checkpoints = (
            ObjectWriter(store, endpoints, meter) for store in (ROUNDS, MODELS, CHECKPOINTS)
        )

    def reads(self) -> int:
        return sum(row.ops for row in self._ledger.rows() if row.direction == Direction.READ)


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> Stores:
    memory = MemoryStore()
    monkeypatch.setattr("headrace.storage.objects.connect", lambda *_: memory)
    return Stores()


def commit(stores: Stores, number: int, *, at: datetime, model: str = "reranker", promoted: bool = True) -> None:
    version = f"v{manifest.name(number)}"
    training = {"checkpoint": f"t{number}/step-000001.pt", "weights": f"t{number}/weights"}
    decision = {"promote": promoted, "why": "", "alarms": []}
    found = a_manifest(
        number, version=version if promoted else None, model=model, committed=at.isoformat(), training=training, decision=decision
    )
    manifest.publish(stores.rounds, found)
    if promoted:
        stores.models.put(f"{model}/{version}/card.json", json.dumps({"version": version, "round": number}).encode())


def test_the_newest_promotion_is_found_without_the_rounds_of_other_models(stores: Stores) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(1, ROUND_COUNT + 1):
        commit(stores, number, at=start + timedelta(hours=number), model="embedder" if number == 3 else "reranker")
    stores.models.put("embedder/v000099/card.json", b"{}")  # killed before its round was committed
    before = stores.reads()
    found = newest(stores.rounds, stores.models, "embedder", since="")
    assert found is not None
    assert found.round == 3
    assert newest(stores.rounds, stores.models, "generator", since="") is None
    assert newest(stores.rounds, stores.models, "embedder", since=found.committed) is None, "the pointer was moved later"
    assert stores.reads() - before < 10


def test_versions_are_in_the_order_of_their_rounds(stores: Stores) -> None:
    for number in (2, 1_000_000, 999_999):
        stores.models.put(f"reranker/v{manifest.name(number)}/card.json", b"{}")
    assert version_names(stores.models, "reranker") == ["v000002", "v999999", "v1000000"]


def test_checkpoints_of_earlier_rounds_stay_though_their_manifests_are_not_read(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_ROUNDS", 3)
    later = datetime.now(UTC) + timedelta(days=1)  # so everything here was written before the last rounds
    for number in range(1, ROUND_COUNT + 1):
        stores.checkpoints.put(f"t{number}/step-000001.pt", b"state")
        commit(stores, number, at=later + timedelta(hours=number), promoted=False)
    before = stores.reads()
    assert checkpoint.tidy(rounds=stores.rounds, checkpoints=stores.checkpoints) == 0
    assert stores.reads() - before < 10
    assert len(list(stores.checkpoints.list())) == ROUND_COUNT


def test_checkpoints_of_earlier_rounds_stay_in_a_store_that_was_restored(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_ROUNDS", 3)
    earlier = datetime.now(UTC) - timedelta(days=30)
    for number in range(1, ROUND_COUNT):
        stores.checkpoints.put(f"t{number}/step-000001.pt", b"state")  # written now, after the round was committed
        commit(stores, number, at=earlier + timedelta(hours=number), promoted=False)
    stores.checkpoints.put("given-up/step-000001.pt", b"state")
    stores.checkpoints.put("t2/step-000000.pt", b"an earlier step")
    commit(stores, ROUND_COUNT, at=datetime.now(UTC) + timedelta(minutes=5), promoted=False)
    assert checkpoint.tidy(rounds=stores.rounds, checkpoints=stores.checkpoints) == 2
    assert sorted(info.key for info in stores.checkpoints.list()) == sorted(f"t{n}/step-000001.pt" for n in range(1, ROUND_COUNT))


def test_snapshots_that_rounds_name_are_read_once_and_from_plans_only_where_there_is_no_manifest(stores: Stores) -> None:
    for number in (1, 2, 3):
        stores.rounds.put(f"{number:06}.plan.json", json.dumps({"snapshots": {"chunks": 5_000 + number}}).encode())
    for number in (1, 2):
        stores.rounds.put(f"{number:06}.json", json.dumps({"snapshots": {"chunks": 5_000 + number}}).encode())
    ask = maintain.retained_snapshots(stores.rounds)
    before = stores.reads()
    assert ask() >= {5_001, 5_002, 5_003}
    first = stores.reads() - before
    assert ask() >= {5_001, 5_002, 5_003}
    assert first - (stores.reads() - before - first) == 3, "beside the listing, which is made again"


def test_ids_of_answers_have_the_order_of_their_times_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for second in (1_800_000_000, 1_800_000_001, 1_900_000_000):
        monkeypatch.setattr("headrace.answering.record.time.time", lambda second=second: second + 0.5)
        made += sorted(new_id() for _ in range(50))
    assert made == sorted(made)
    assert len(set(made)) == len(made)
