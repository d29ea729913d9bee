"""A turn's plan and manifest: one of many gets in, and what stands is never put over."""

from __future__ import annotations

import pytest
from obstore.store import MemoryStore

from headrace.catalog import TURNS
from headrace.errors import LostRace, NotFound
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectWriter
from headrace.training import manifest


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> ObjectWriter:
    """The turns, in an object store in memory."""
    memory = MemoryStore()
    monkeypatch.setattr("headrace.storage.objects.connect", lambda *_: memory)
    return ObjectWriter(TURNS, Endpoints.model_construct(s3_endpoint="memory:", bucket=""), Meter(Ledger(), "test"))


def test_a_turn_is_committed_once_and_the_same_commit_again_is_no_other(turns: ObjectWriter) -> None:
    manifest.publish(turns, 1, {"run": "ours"})
    manifest.publish(turns, 1, {"run": "ours"})  # its answer was lost
    with pytest.raises(LostRace):
        manifest.publish(turns, 1, {"run": "theirs"})
    assert manifest.read(turns, 1) == {"run": "ours"}
    with pytest.raises(NotFound):
        manifest.read(turns, 2)


def test_a_turn_is_begun_once_and_can_be_begun_anew_after_it_was_taken_back(turns: ObjectWriter) -> None:
    assert manifest.begin(turns, 1, {"seed": 17}) == manifest.plan(turns, 1) == {"seed": 17}
    with pytest.raises(LostRace):
        manifest.begin(turns, 1, {"seed": 18})
    assert manifest.plan(turns, 1) == {"seed": 17}
    assert manifest.numbers(turns) == [], "a plan is no turn"
    manifest.withdraw(turns, 1)
    assert manifest.plan(turns, 1) is None
    assert manifest.begin(turns, 1, {"seed": 18}) == {"seed": 18}


def test_turns_are_in_the_order_of_their_numbers(turns: ObjectWriter) -> None:
    for turn in (10, 2, 1_000_000, 1):
        manifest.publish(turns, turn, {})
    assert manifest.numbers(turns) == [1, 2, 10, 1_000_000]
