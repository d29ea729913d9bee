"""Learning only from what came before an event: how far each partition is read, and whose weights may be begun from.

The tables are those of VAST DB, whose server is the engine in memory of tests/vast; the rounds are in an object store in memory.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
import vast_objects
from obstore.store import MemoryStore
from rounds import manifest as a_manifest
from vast_engine import Engine

from headrace.catalog import DOCUMENT_EVENT_ROWS, FEEDBACK_ROWS, INTERACTION_ROWS, LANDINGS, ROUNDS, Store
from headrace.errors import NotFound
from headrace.landing.positions import Position, property_name
from headrace.storage.endpoints import Endpoints, VastEndpoint
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectWriter
from headrace.storage.tables.handles import TableWriter
from headrace.training import manifest
from headrace.training.cutoff import bound, parent_before

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
METER = Meter(Ledger(), "test")


@pytest.fixture
def endpoints(monkeypatch: pytest.MonkeyPatch) -> Endpoints:
    memory = MemoryStore()
    monkeypatch.setattr("vastdb.connect", vast_objects.connect(Engine("lake")))
    monkeypatch.setattr("headrace.storage.objects.connect", lambda *_: memory)
    vast = VastEndpoint(endpoint="http://127.0.0.1:1", access_key="a", secret_key="s", bucket="lake", db_schema="headrace")
    return Endpoints.model_construct(s3_endpoint="memory:", bucket="", vast=vast)


# how far


def happened(endpoints: Endpoints, store: Store, *minutes: float, partition: int = 0, topic: str = "", first: int = 0) -> None:
    """An event at each offset from `first` on, so many minutes after noon. Marks move even where there is none."""
    empty = {pa.string(): "", pa.bool_(): False, pa.int64(): 0}
    rows = []
    for offset, minute in enumerate(minutes, first):
        row: dict[str, Any] = {f.name: None if f.nullable else empty.get(f.type, []) for f in store.columns}
        row |= {"topic": topic or store.name, "partition": partition, "offset": offset, "at": NOON + timedelta(minutes=minute)}
        rows.append(row)
    end = Position(first + len(minutes), None, None, int((topic or "@1").partition("@")[2]))
    columns = {field.name: pa.array([row[field.name] for row in rows], field.type) for field in store.columns}
    TableWriter(store, endpoints, METER).append(
        pa.table(columns, schema=store.columns), properties={property_name(store.name, partition): end.as_property()}
    )


def before(endpoints: Endpoints, event: str) -> dict[str, int]:
    limits: dict[str, int] = bound({store: TableWriter(store, endpoints, METER) for store in LANDINGS.values()}, event)
    return limits


def test_of_its_own_partition_the_event_and_of_others_what_is_no_older_than_it_is_left_out(endpoints: Endpoints) -> None:
    happened(endpoints, FEEDBACK_ROWS, 1, 5, 2)
    happened(endpoints, FEEDBACK_ROWS, 1, 4, partition=1)
    happened(endpoints, INTERACTION_ROWS, 0, 5, 9)  # the second in the same moment
    happened(endpoints, DOCUMENT_EVENT_ROWS, 6, 0)
    happened(endpoints, FEEDBACK_ROWS, 0, 7, 8, topic="feedback@02")
    assert before(endpoints, "feedback/0/1") == {
        "feedback/0": 1,
        "interactions/0": 1,
        "document-events/0": 0,
        "feedback@02/0": 1,
    }
    # What came before it in its own partition and says that it came later is left out, too.
    assert before(endpoints, "feedback/0/2") == {
        "feedback/0": 1,
        "feedback/1": 1,
        "interactions/0": 1,
        "document-events/0": 0,
        "feedback@02/0": 1,
    }


def test_an_event_in_no_row_has_the_time_of_the_next_and_the_last_one_bounds_its_own_partition_alone(
    endpoints: Endpoints,
) -> None:
    happened(endpoints, FEEDBACK_ROWS, 1, 5)
    happened(endpoints, FEEDBACK_ROWS, 8, first=3)  # the third was a dead letter
    happened(endpoints, INTERACTION_ROWS, 6, 8)
    assert before(endpoints, "feedback/0/2") == {"feedback/0": 2, "interactions/0": 1}
    happened(endpoints, FEEDBACK_ROWS, first=5)  # and so was the last: landing went by it
    assert before(endpoints, "feedback/0/4") == {"feedback/0": 4}
    with pytest.raises(NotFound, match="No event has landed from feedback/0/5"):
        before(endpoints, "feedback/0/5")


# whose weights


def committed_round(
    endpoints: Endpoints, number: int, reached: int, *, start: str = "", released: bool = True, **more: Any
) -> None:
    """A round that had landed feedback up to an offset."""
    offsets = {"feedback": {"0": Position(reached, None, None).as_property()}}
    found = {"version": f"v{number:06}" if released else None, "start": start, "offsets": offsets, **more}
    manifest.publish(ObjectWriter(ROUNDS, endpoints, METER), a_manifest(number, **found))


def parent(endpoints: Endpoints, limit: int, place: str = "feedback/0") -> str:
    return parent_before(rounds=ObjectWriter(ROUNDS, endpoints, METER), model="reranker", before={place: limit})


def test_weights_that_had_landed_just_up_to_the_event_are_begun_from_and_those_that_had_landed_it_are_not(
    endpoints: Endpoints,
) -> None:
    committed_round(endpoints, 1, reached=5)
    committed_round(endpoints, 2, reached=6)
    committed_round(endpoints, 3, reached=4, model="generator")
    committed_round(endpoints, 4, reached=4, released=False)
    assert parent(endpoints, 5) == "reranker/v000001", "offsets 0 to 4"
    assert parent(endpoints, 6) == "reranker/v000002"
    assert parent(endpoints, 4) == ""
    assert parent(endpoints, 0, "interactions/0") == "reranker/v000002", "nothing of that had landed"


def test_weights_are_no_cleaner_than_those_they_began_from(endpoints: Endpoints) -> None:
    committed_round(endpoints, 1, reached=9)
    committed_round(endpoints, 2, reached=9, exclusions={"before": {"feedback/0": 5}})  # it was told to leave the rest out
    committed_round(endpoints, 3, reached=9, start="reranker/v000001", exclusions={"before": {"feedback/0": 5}})
    committed_round(endpoints, 4, reached=9, start="reranker/v000002", exclusions={"before": {"feedback/0": 4}})
    committed_round(endpoints, 5, reached=9, start="reranker/v000099", exclusions={"before": {"feedback/0": 4}})
    assert parent(endpoints, 5) == "reranker/v000004"
    assert parent(endpoints, 4) == "", "the second had learned from offset 4"


def test_a_head_that_was_made_anew_had_been_read_to_its_end_before(endpoints: Endpoints) -> None:
    committed_round(endpoints, 1, reached=3)
    anew = {"feedback": {"0": Position(2, None, None, 2).as_property()}}
    committed_round(endpoints, 2, reached=0, offsets=anew)
    assert parent(endpoints, 1_000, "feedback/0") == "reranker/v000001"
    assert parent(endpoints, 2, "feedback@02/0") == "reranker/v000002"
    assert parent(endpoints, 1, "feedback@02/0") == "reranker/v000001"
