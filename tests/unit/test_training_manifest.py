"""A round's plan and manifest: one of many gets in, and what stands is never put over."""

from __future__ import annotations

import pytest
from obstore.store import MemoryStore

from headrace.catalog import ROUNDS
from headrace.errors import LostRace, NotFound
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectWriter
from headrace.training import manifest


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> ObjectWriter:
    """The rounds, in an object store in memory."""
    memory = MemoryStore()
    monkeypatch.setattr("headrace.storage.objects.connect", lambda *_: memory)
    return ObjectWriter(ROUNDS, Endpoints.model_construct(s3_endpoint="memory:", bucket=""), Meter(Ledger(), "test"))


def test_a_round_is_committed_once_and_the_same_commit_again_is_no_other(rounds: ObjectWriter) -> None:
    manifest.publish(rounds, 1, {"run": "ours"})
    manifest.publish(rounds, 1, {"run": "ours"})  # its answer was lost
    with pytest.raises(LostRace):
        manifest.publish(rounds, 1, {"run": "theirs"})
    assert manifest.read(rounds, 1) == {"run": "ours"}
    with pytest.raises(NotFound):
        manifest.read(rounds, 2)


def test_a_round_is_begun_once_and_can_be_begun_anew_after_it_was_taken_back(rounds: ObjectWriter) -> None:
    assert manifest.begin(rounds, 1, {"seed": 17}) == manifest.plan(rounds, 1) == {"seed": 17}
    with pytest.raises(LostRace):
        manifest.begin(rounds, 1, {"seed": 18})
    assert manifest.plan(rounds, 1) == {"seed": 17}
    assert manifest.numbers(rounds) == [], "a plan is no round"
    manifest.withdraw(rounds, 1)
    assert manifest.plan(rounds, 1) is None
    assert manifest.begin(rounds, 1, {"seed": 18}) == {"seed": 18}


def test_rounds_are_in_the_order_of_their_numbers(rounds: ObjectWriter) -> None:
    for number in (10, 2, 1_000_000, 1):
        manifest.publish(rounds, number, {})
    assert manifest.numbers(rounds) == [1, 2, 10, 1_000_000]
