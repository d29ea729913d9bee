"""A round's plan and manifest: one of many gets in, and what stands is never put over."""

from __future__ import annotations

import json
from typing import Any

import pytest
from obstore.store import MemoryStore
from rounds import manifest as a_manifest
from rounds import plan as a_plan

from headrace.catalog import ROUNDS
from headrace.errors import InvalidState, LostRace, NotFound
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
    ours = a_manifest(1, run="ours")
    manifest.publish(rounds, ours)
    manifest.publish(rounds, ours)  # its answer was lost
    with pytest.raises(LostRace):
        manifest.publish(rounds, a_manifest(1, run="theirs"))
    assert manifest.read(rounds, 1) == ours
    with pytest.raises(NotFound):
        manifest.read(rounds, 2)


def test_a_round_is_begun_once_and_can_be_begun_anew_after_it_was_taken_back(rounds: ObjectWriter) -> None:
    first, second = a_plan(1, dataset_version="d17"), a_plan(1, dataset_version="d18")
    assert manifest.begin(rounds, first) == manifest.plan(rounds, 1) == first
    with pytest.raises(LostRace):
        manifest.begin(rounds, second)
    assert manifest.plan(rounds, 1) == first
    assert manifest.numbers(rounds) == [], "a plan is no round"
    manifest.withdraw(rounds, 1)
    assert manifest.plan(rounds, 1) is None
    assert manifest.begin(rounds, second) == second


def test_rounds_are_in_the_order_of_their_numbers(rounds: ObjectWriter) -> None:
    for number in (10, 2, 1_000_000, 1):
        manifest.publish(rounds, a_manifest(number))
    assert manifest.numbers(rounds) == [1, 2, 10, 1_000_000]


def test_a_manifest_is_read_as_it_was_written_with_all_that_people_read_in_it(rounds: ObjectWriter) -> None:
    written = a_manifest(1, evaluation={"measure": "KL", "champion": 0.1, "challenger": 0.2, "questions": 3, "users": 2})
    manifest.publish(rounds, written)
    stored = json.loads(rounds.get("000001.json"))
    assert stored["format"] == 1
    assert stored["evaluation"]["users"] == 2
    assert manifest.read(rounds, 1) == written
    del stored["format"]
    rounds.put("000002.json", json.dumps(stored).encode())
    assert manifest.read(rounds, 2) == written, "as it was before it had a format"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"format": 2, "new": 1}, "format: Input should be 1"),
        ({"round": "one"}, "round: "),
        ({"decision": {"promote": True, "why": "", "alarms": [], "by": "ann"}}, "decision.by: Extra"),
        ({"offsets": {"feedback": 7}}, "offsets.feedback: "),
        ({"seed": 7}, "seed: Extra"),
    ],
)
def test_what_is_no_manifest_is_refused_with_the_field_that_is_wrong(
    rounds: ObjectWriter, wrong: dict[str, Any], said: str
) -> None:
    rounds.put("000001.json", json.dumps(a_manifest(1).model_dump() | wrong).encode())
    with pytest.raises(InvalidState, match=f"^rounds/000001.json cannot be read .{said}.*restore it from a backup"):
        manifest.read(rounds, 1)


def test_a_plan_that_was_cut_off_is_refused(rounds: ObjectWriter) -> None:
    data = json.dumps(a_plan(1).model_dump()).encode()
    rounds.put("000001.plan.json", data[: len(data) // 2])
    with pytest.raises(InvalidState, match=r"^rounds/000001.plan.json cannot be read .Invalid JSON"):
        manifest.plan(rounds, 1)
