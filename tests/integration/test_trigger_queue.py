"""The deliveries of triggers on both databases of the metadata store: each at least once, and at a time by one process."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from test_metadata import endpoints_of
from traffic import until

from headrace.errors import NotFound
from headrace.scheduler.triggers.queue import DeliveryQueue, TriggerState
from headrace.storage.endpoints import MetadataEndpoint
from headrace.storage.metadata import Metadata

if TYPE_CHECKING:
    from postgresql import Server

pytest_plugins = ["postgresql"]


@pytest.fixture(params=["sqlite", "postgresql"])
def queue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DeliveryQueue]:
    if request.param == "sqlite":
        found = MetadataEndpoint(file=tmp_path / "home" / "metadata.db")
    else:
        found = MetadataEndpoint(url=request.getfixturevalue("server").url, db_schema=f"t{uuid4().hex}")
    with closing(Metadata(endpoints_of(found))) as metadata:
        yield DeliveryQueue(metadata)


def events(*numbers: int, trigger: str = "hook") -> list[tuple[str, dict[str, Any]]]:
    return [(trigger, {"id": f"event/{number}", "type": "x"}) for number in numbers]


def test_tenants_take_turns(queue: DeliveryQueue) -> None:
    """The events of one came before those of all others, however many they were: 150 delayed another tenant's by 86 s."""

    def of(tenant: str, *numbers: int) -> list[tuple[str, dict[str, Any]]]:
        return [("hook", {"id": f"{tenant}/{number}", "type": "x", "data": {"tenant": tenant}}) for number in numbers]

    def taken(most: int) -> list[str]:
        return sorted(one.event["id"] for one in queue.take("hook", most, lease_s=60))

    queue.add(of("acme", *range(1, 151)))
    queue.add(of("beta", 1, 2))
    queue.add([("hook", {"id": "nobody/1", "type": "x", "data": 7})])
    first = [name for _ in range(6) for name in taken(1)]
    assert sorted(first[:3]) == ["acme/1", "beta/1", "nobody/1"]
    assert sorted(first[3:]) == ["acme/2", "acme/3", "beta/2"]
    queue.add(of("beta", 3))
    assert taken(4) == ["acme/4", "acme/5", "acme/6", "beta/3"]
    assert len(taken(1_000)) == 144
    assert taken(1) == []


def test_tenants_take_turns_whatever_comes_first_in_the_databases_language(server: Server) -> None:
    """In Czech, ch comes behind h: with Python's order beside it nobody's turn came any more, until a restart."""
    import psycopg

    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE czech TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'cs'")
    url = server.url.removesuffix("postgres") + "czech"
    with closing(Metadata(endpoints_of(MetadataEndpoint(url=url, db_schema="t")))) as metadata:
        queue = DeliveryQueue(metadata)
        for number in range(3):
            for tenant in ("charlie", "hotel"):
                queue.add([("hook", {"id": f"{tenant}/{number}", "type": "x", "data": {"tenant": tenant}})])
        taken = [one.event["data"]["tenant"] for _ in range(6) for one in queue.take("hook", 1, lease_s=60)]
    assert taken == ["hotel", "charlie"] * 3


def test_an_event_is_queued_once_and_the_position_with_it(queue: DeliveryQueue) -> None:
    assert queue.position("documents") is None
    queue.add(events(1, 2), name="documents", position="a/1")
    queue.add(events(2, 3), name="documents", position="a/2")
    queue.add(events(1, trigger="other"))
    position = queue.position("documents")
    assert position is not None
    assert position[0] == "a/2"
    taken = queue.take("hook", 10, lease_s=60)
    assert sorted(one.event["id"] for one in taken) == ["event/1", "event/2", "event/3"]
    assert [one.event["id"] for one in queue.take("other", 10, lease_s=60)] == ["event/1"]
    for one in taken:
        queue.done(one)
    queue.add(events(1, 2, 3))
    assert queue.take("hook", 10, lease_s=60) == [], "what was done is not queued again"


def test_what_was_delivered_is_known_without_what_was_in_it(queue: DeliveryQueue) -> None:
    """For a week: of another program's events that would be any number of gigabytes."""
    queue.add([("hook", {"id": "event/1", "type": "x", "data": "much"})])
    [one] = queue.take("hook", 10, lease_s=60)
    queue.done(one)
    with queue._metadata.transaction() as run:
        assert [tuple(row) for row in run("SELECT state, event FROM trigger_deliveries", {})] == [("done", "{}")]


def test_a_forged_event_takes_no_other_events_place(queue: DeliveryQueue) -> None:
    """Written to the topic of a trigger before it happened, with its source and id: the true one was taken for known."""
    [(_, event)] = events(1)
    for kind in ("forged", "forged", "true"):
        name = "topic/hook/shop" if kind == "forged" else "documents"
        queue.add([("hook", {**event, "source": "/headrace/documents", "type": kind})], name=name, position="a/1")
    assert [one.event["type"] for one in queue.take("hook", 10, lease_s=60)] == ["forged", "true"], "each once"


def test_dead_letters_do_not_grow_without_end(queue: DeliveryQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program may send any number of records that are no events: they filled the metadata store."""
    monkeypatch.setattr("headrace.scheduler.triggers.queue.DEAD_KEPT", 3)
    for number in range(5):
        queue.add((), refused=[("hook", {"id": f"topic/0/{number}"}, "it is no JSON object")])
    queue.add(events(1), refused=[("other", {"id": "topic/0/0"}, "it is no JSON object")])
    queue.tidy()
    assert [one.event["id"] for one in queue.dead("hook", 10)] == ["topic/0/4", "topic/0/3", "topic/0/2"], "the newest"
    assert (len(queue.dead("other", 10)), queue.states()["hook"].waiting) == (1, 1)


def test_what_is_not_settled_in_time_is_taken_again(queue: DeliveryQueue) -> None:
    """As that of a process that was killed."""
    queue.add(events(1))
    [first] = queue.take("hook", 1, lease_s=0.0)
    [second] = queue.take("hook", 1, lease_s=60)
    assert (first.attempts, second.attempts) == (1, 2)
    assert queue.take("hook", 1, lease_s=60) == []
    queue.failed(first, "too late", retry_s=0.0)
    assert queue.take("hook", 1, lease_s=60) == [], "the one that has it now decides"
    queue.done(second)
    assert queue.states() == {"hook": TriggerState(done=1)}


def test_a_failure_is_due_later_and_a_dead_letter_not_at_all(queue: DeliveryQueue) -> None:
    queue.add(events(1))
    [one] = queue.take("hook", 1, lease_s=60)
    queue.failed(one, "away", retry_s=0.2)
    assert queue.take("hook", 1, lease_s=60) == []
    again: list[Any] = []
    until(10, lambda: again.extend(queue.take("hook", 1, lease_s=60)) or bool(again), lambda: queue.states())
    queue.failed(again[0], "it is not wanted", retry_s=None)
    assert queue.take("hook", 1, lease_s=60) == []
    state = queue.states()["hook"]
    assert (state.dead, state.waiting, state.reason) == (1, 0, "it is not wanted")
    [dead] = queue.dead("hook", 5)
    assert (dead.event["id"], dead.attempts) == ("event/1", 2)
    with pytest.raises(NotFound):
        queue.retry("hook", "0" * 16)
    with pytest.raises(NotFound):
        queue.retry("other")
    assert queue.retry("hook", dead.id) == 1
    [revived] = queue.take("hook", 1, lease_s=60)
    assert revived.attempts == 1
    queue.done(revived)
    queue.tidy()
    assert queue.states()["hook"].done == 1, "kept for a while, so that the same event is known"


def test_the_last_failure_of_each_trigger_is_told(queue: DeliveryQueue) -> None:
    queue.add([*events(1, 2, 3), *events(4, trigger="another")])
    first, second, third = queue.take("hook", 3, lease_s=60)
    queue.failed(second, "it is not wanted", retry_s=None)
    queue.failed(first, "away", retry_s=60.0)
    queue.done(third)
    states = queue.states()
    assert list(states) == ["another", "hook"]
    assert (states["another"].waiting, states["another"].reason) == (1, "")
    assert states["another"].oldest_s > 0
    hook = states["hook"]
    assert (hook.waiting, hook.running, hook.done, hook.dead, hook.reason) == (1, 0, 1, 1, "away"), "by when each is due"


def test_of_many_that_take_at_once_each_event_has_one(queue: DeliveryQueue) -> None:
    queue.add(events(*range(40)))

    def take(_: int) -> list[str]:
        return [one.id for _ in range(6) for one in queue.take("hook", 3, lease_s=60)]

    with ThreadPoolExecutor(8) as pool:
        taken = [name for names in pool.map(take, range(8)) for name in names]
    assert len(taken) == len(set(taken)) == 40
