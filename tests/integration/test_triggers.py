"""Triggers: what is done when documents change, models are promoted, time passes or the head lags."""

from __future__ import annotations

import json
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import victims
from forks import ForkedProcess
from http_thread import on_thread
from servers import serving
from traffic import until
from words import words

from headrace.catalog import PROMOTIONS
from headrace.core.run import recorded
from headrace.core.runner import Runner
from headrace.documents.index import index_documents
from headrace.errors import BadSettings
from headrace.lineage.forget import Subject, forget
from headrace.lineage.forget.subject import DOCUMENT
from headrace.platform.address import brought, overlay
from headrace.scheduler.triggers.events import EventFinder
from headrace.scheduler.triggers.queue import DeliveryQueue
from headrace.scheduler.triggers.thread import TriggerThreads, trigger_reports
from headrace.settings import Settings, TriggerSettings
from headrace.storage.endpoints import MetadataEndpoint
from headrace.storage.metadata import Metadata
from headrace.storage.records import batch
from headrace.storage.stream.cloud_events import EVENT_BYTES, CloudEventWriter
from headrace.storage.tables.handles import TableWriter

SETTINGS = Settings.model_fields["inference"].default


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    folder = tmp_path_factory.mktemp("triggers")
    with pytest.MonkeyPatch.context() as patch, words() as served, serving(folder) as servers:
        patch.setenv("HEADRACE_SETTINGS", str(folder / "none.toml"))
        endpoints = overlay(servers.endpoints, brought(Settings(home=folder, models=served.models)))
        with recorded("triggers", folder) as run:
            yield Runner(run, endpoints)


@pytest.fixture
def queue(runner: Runner, tmp_path: Path) -> Iterator[DeliveryQueue]:
    """One in a store of its own, so that each test begins at the end of the tables."""
    own = runner.endpoints.model_copy(update={"metadata": MetadataEndpoint(file=tmp_path / "triggers.db")})
    metadata = Metadata(own)
    yield DeliveryQueue(metadata)
    metadata.close()


@pytest.fixture
def tenant() -> str:
    return f"t{uuid.uuid4().hex[:8]}"


def trigger(name: str = "hook", **more: Any) -> TriggerSettings:
    return TriggerSettings.model_validate({"action": {"type": "http", "url": "http://127.0.0.1:1"}, "name": name, **more})


DOCUMENTS = [f"document.{what}" for what in ("created", "changed", "tagged", "deleted", "failed")]


def queued(queue: DeliveryQueue, name: str = "hook") -> list[dict[str, Any]]:
    found = queue.take(name, 100, lease_s=60)
    for one in found:
        queue.done(one)
    return [one.event for one in found]


def told(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return sorted((one["type"].removeprefix("io.headrace."), one["subject"]) for one in found)


def test_changes_of_documents_are_events_once_they_are_in_the_table(
    runner: Runner, queue: DeliveryQueue, tenant: str, tmp_path: Path
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    triggers = [
        trigger(on=DOCUMENTS),
        trigger("of-another", on=DOCUMENTS, tenant="another"),
        trigger("models", on=["model.promoted"]),
    ]
    finder = EventFinder(triggers, runner, queue, lambda: 0)

    def after(**more: Any) -> list[dict[str, Any]]:
        index_documents(runner, [docs], tenant=tenant, settings=SETTINGS, **more)
        finder.find()
        return queued(queue)

    (docs / "before.md").write_text("It was there before.")
    index_documents(runner, [docs], tenant=tenant, settings=SETTINGS)
    finder.find()
    assert queued(queue) == [], "what was before the first look is none"

    (docs / "a.md").write_text("The first text.")
    (docs / "empty.md").write_text("")
    found = after()
    assert told(found) == [("document.created", "docs/a.md"), ("document.failed", "docs/empty.md")]
    [created] = [one for one in found if one["subject"] == "docs/a.md"]
    assert (created["data"]["tenant"], created["data"]["uri"], created["data"]["readers"]) == (tenant, "docs/a.md", [])
    assert after() == []
    assert told(after(attributes=["team=hydro"])) == [
        ("document.failed", "docs/empty.md"),
        ("document.tagged", "docs/a.md"),
        ("document.tagged", "docs/before.md"),
    ]
    (docs / "a.md").write_text("The second text.")
    (docs / "before.md").unlink()
    assert told(after()) == [("document.changed", "docs/a.md"), ("document.deleted", "docs/before.md")]
    assert queued(queue, "of-another") == []
    assert queued(queue, "models") == []


def test_a_finder_that_died_loses_nothing_and_doubles_nothing(
    runner: Runner, queue: DeliveryQueue, tenant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    triggers = [trigger(on=DOCUMENTS)]
    (docs / "earlier.md").write_text("It was there before the first look.")
    index_documents(runner, [docs], tenant=tenant, settings=SETTINGS)
    EventFinder(triggers, runner, queue, lambda: 0).find()
    (docs / "died.md").write_text("The first text.")  # a name of its own: other tests have documents here too
    index_documents(runner, [docs], tenant=tenant, settings=SETTINGS)
    before = queue.position("documents")
    EventFinder(triggers, runner, queue, lambda: 0).find()
    assert before is not None
    # As if the process had been killed before it noted how far it was, but the events were there, and the other way about.
    queue.add((), name="documents", position=before[0])
    EventFinder(triggers, runner, queue, lambda: 0).find()
    assert told(queued(queue)) == [("document.created", "docs/died.md")]
    # Rows were removed, by a purge: the table's revisions are others, and its rows are told by their times.
    queue.add((), name="documents", position="another/7")
    EventFinder(triggers, runner, queue, lambda: 0).find()
    assert queued(queue) == [], "neither what was delivered nor what was there before the first look"
    # So it is for a trigger that was added later, of which the table's position knows nothing.
    (docs / "between.md").write_text("Nobody looked when this came.")
    index_documents(runner, [docs], tenant=tenant, settings=SETTINGS)
    triggers.append(trigger("later", on=DOCUMENTS))
    EventFinder(triggers, runner, queue, lambda: 0).find()
    queue.add((), name="documents", position="another/7")
    EventFinder(triggers, runner, queue, lambda: 0).find()
    assert told(queued(queue)) == [("document.created", "docs/between.md")]
    assert queued(queue, "later") == []


def test_a_document_that_is_forgotten_is_an_event_and_nothing_else_is(
    runner: Runner, queue: DeliveryQueue, tenant: str, tmp_path: Path
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("kept", "forgotten"):
        (docs / f"{name}.md").write_text(f"The text that is {name}.")
    index_documents(runner, [docs], tenant=tenant, settings=SETTINGS)
    both = ["document.created", "document.forgotten"]
    triggers = [trigger(on=both), trigger("of-another", on=both, tenant="another")]
    finder = EventFinder(triggers, runner, queue, lambda: 0)
    finder.find()
    assert queued(queue) == []
    forget(runner, Subject(DOCUMENT, tenant, "docs/forgotten.md"), who="ann", embedded=True)
    finder.find()
    [event] = queued(queue)
    assert (event["type"], event["subject"]) == ("io.headrace.document.forgotten", "docs/forgotten.md")
    assert event["data"]["tenant"] == tenant
    assert queued(queue, "of-another") == []
    finder.find()
    assert queued(queue) == []


def test_a_table_that_stays_as_it_is_counts_as_looked_at(
    runner: Runner, queue: DeliveryQueue, tenant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or rows would be looked through again from its last change on, when the queue has long dropped their events."""
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.md").write_text("A text.")
    index_documents(runner, [docs], tenant=tenant, settings=SETTINGS)
    finder = EventFinder([trigger(on=DOCUMENTS)], runner, queue, lambda: 0)
    finder.find()
    first = queue.position("documents")
    finder.find()
    assert queue.position("documents") == first, "written now and then, not at each look"
    monkeypatch.setattr("headrace.scheduler.triggers.events._OVERLAP", timedelta(0))
    finder.find()
    later = queue.position("documents")
    assert first is not None
    assert later is not None
    assert later[0] == first[0]
    assert later[1] > first[1]


def test_promotions_schedules_and_lag_are_events(runner: Runner, queue: DeliveryQueue) -> None:
    lag = 0
    triggers = [
        trigger("models", on=["model.promoted", "model.rolled_back"]),
        trigger("clock", every_s=1),
        trigger("lagging", lag=10),
    ]
    finder = EventFinder(triggers, runner, queue, lambda: lag)
    finder.find()
    promotions = runner.open(TableWriter, PROMOTIONS, stage="test")
    base = {"model": "reranker", "version": "v2", "previous": "none", "round": 1, "who": "loop", "why": "better"}
    at = datetime.now(UTC)  # of all of them: two moves in one microsecond are two events
    rows = [{**base, "kind": kind, "at": at} for kind in ("canary", "promote", "rollback")]
    promotions.append(batch(PROMOTIONS.columns, rows))
    finder.find()
    found = queued(queue, "models")
    assert told(found) == [("model.promoted", "reranker"), ("model.rolled_back", "reranker")]
    assert found[0]["data"]["version"] == "v2"

    clock: list[dict[str, Any]] = []

    def ticked() -> bool:
        finder.find()
        clock.extend(queued(queue, "clock"))
        return len(clock) >= 2

    until(20, ticked, lambda: clock)
    assert len({one["id"] for one in clock}) == len(clock)

    lag = 25
    EventFinder(triggers, runner, queue, lambda: lag).find()
    EventFinder(triggers, runner, queue, lambda: lag).find()
    [lagging] = queued(queue, "lagging")
    assert lagging["data"] == {"lag": 25, "above": 10}
    lag = 3
    EventFinder(triggers, runner, queue, lambda: lag).find()
    lag = 11
    EventFinder(triggers, runner, queue, lambda: lag).find()
    assert len(queued(queue, "lagging")) == 1, "again, after it was less"


class Hooks(ThreadingHTTPServer):
    """Answers with the next of `answers`, then 204; counts how many it has at a time."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[int] = []
        self.got: list[dict[str, Any]] = []
        self.now = self.most = 0
        self.lock = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    server: Hooks

    def do_POST(self) -> None:
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.now += 1
            server.most = max(server.most, server.now)
            server.got.append(event)
            status = server.answers.pop(0) if server.answers else 204
        threading.Event().wait(0.05)
        with server.lock:
            server.now -= 1
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hooks() -> Iterator[Hooks]:
    with on_thread(Hooks()) as server:
        yield server


def test_events_are_delivered_again_after_failures_and_no_more_at_a_time_than_said(
    runner: Runner, tenant: str, tmp_path: Path, hooks: Hooks
) -> None:
    action = {"type": "http", "url": f"http://127.0.0.1:{hooks.server_address[1]}"}
    hooks.answers = [503, 500, 404]
    made = (
        trigger(
            f"hook-{tenant}", on=["document.created"], tenant=tenant, action=action, concurrency=2, first_s=0.1, longest_s=0.2
        ),
    )
    docs = tmp_path / "docs"
    docs.mkdir()
    for number in range(8):
        (docs / f"{number}.md").write_text(f"The number is {number}.")
    queue = DeliveryQueue(runner.metadata)

    def state() -> Any:
        return trigger_reports(made, queue)[0]

    with TriggerThreads(made, runner, lambda: 0):
        until(20, lambda: queue.position("documents") is not None, lambda: "no look")
        index_documents(runner, [docs], tenant=tenant, settings=SETTINGS)
        until(60, lambda: state().done == 7 and state().dead == 1, state)
    assert hooks.most <= 2
    assert len(hooks.got) == 10, "two were tried again, and the one that was not found was not"
    assert {one["subject"] for one in hooks.got} == {f"docs/{number}.md" for number in range(8)}
    assert state().reason == "the address answered 404"
    with TriggerThreads(made, runner, lambda: 0):
        assert queue.retry(made[0].name) == 1
        until(20, lambda: state().done == 8, state)


def test_events_are_written_to_a_topic_as_cloud_events(runner: Runner, tenant: str, tmp_path: Path) -> None:
    from confluent_kafka import Consumer, TopicPartition
    from confluent_kafka.admin import AdminClient, NewTopic

    topic = f"events-{tenant}"
    kafka = {"bootstrap.servers": runner.endpoints.kafka_bootstrap}
    administrator = AdminClient(kafka)
    administrator.create_topics([NewTopic(topic, 1, 1)])[topic].result(20)
    made = (trigger(f"topic-{tenant}", on=["document.created"], tenant=tenant, action={"type": "topic", "topic": topic}),)
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.md").write_text("The first text.")
    queue = DeliveryQueue(runner.metadata)
    with ExitStack() as stack:
        stack.enter_context(TriggerThreads(made, runner, lambda: 0))
        until(20, lambda: queue.position("documents") is not None, lambda: "no look")
        index_documents(runner, [docs], tenant=tenant, settings=SETTINGS)
        until(60, lambda: trigger_reports(made, queue)[0].done == 1, lambda: trigger_reports(made, queue))
    consumer = Consumer({**kafka, "group.id": "test", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    message = consumer.poll(20)
    consumer.close()
    assert message is not None
    assert message.error() is None
    assert dict(message.headers() or ())["content-type"] == b"application/cloudevents+json; charset=utf-8"
    assert (message.key(), json.loads(message.value() or b"")["type"]) == (b"docs/a.md", "io.headrace.document.created")
    assert sum(row.bytes for row in runner.record.ledger.rows() if row.store == "cloud-events") > 0, "metered"


def test_a_service_that_is_killed_again_and_again_delivers_every_event(runner: Runner, tenant: str, tmp_path: Path) -> None:
    """kill -9 while it finds events and while programs run: each event is delivered, some more than once, none is lost."""
    written = tmp_path / "events"
    program = (
        "import json, os, sys, time; event = json.load(sys.stdin); time.sleep(0.1);"
        f" fd = os.open({str(written)!r}, os.O_APPEND | os.O_CREAT | os.O_WRONLY);"
        " os.write(fd, (event['subject'] + chr(10)).encode())"
    )
    action = {"type": "command", "command": [sys.executable, "-S", "-c", program]}
    made = (trigger(f"kill-{tenant}", on=["document.created"], tenant=tenant, action=action, concurrency=3, attempts=50),)
    docs, queue = tmp_path / "docs", DeliveryQueue(runner.metadata)
    docs.mkdir()
    EventFinder(made, runner, queue, lambda: 0).find()
    for number in range(20):
        (docs / f"{number}.md").write_text(f"The number is {number}.")
    index_documents(runner, [docs], tenant=tenant, settings=SETTINGS)

    def state() -> Any:
        return trigger_reports(made, queue)[0]

    def delivered() -> list[str]:
        return written.read_text().splitlines() if written.exists() else []

    kills, moments = 0, iter((0, 1, 4, 9, 13))
    before: tuple[int, int] = (0, 0)
    while state().done < 20:
        assert kills < 40, state()
        home = tmp_path / f"home{kills}"
        home.mkdir(mode=0o700)
        service = ForkedProcess(victims.triggering, home, runner.endpoints, made, 1.0)
        moment = next(moments, 20)
        try:
            until(60, lambda: bool(service.said) and len(delivered()) >= moment, lambda: (service.said, state()))  # noqa: B023
            if moment == 20:
                until(60, lambda: state().done == 20, state)
        finally:
            service.kill()
        kills += 1
        before = (state().done, state().dead)
    assert before == (20, 0)
    assert set(delivered()) == {f"docs/{number}.md" for number in range(20)}
    assert kills >= 5


def test_what_other_programs_write_to_a_topic_is_events(runner: Runner, queue: DeliveryQueue, tenant: str) -> None:
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient, NewTopic

    topic = f"orders-{tenant}"
    kafka = {"bootstrap.servers": runner.endpoints.kafka_bootstrap}
    administrator = AdminClient(kafka)
    administrator.create_topics([NewTopic(topic, 1, 1)])[topic].result(20)
    producer = Producer(kafka)

    def sent(value: bytes, **headers: str) -> None:
        producer.produce(topic, value, headers=[(name.replace("__", "-"), text.encode()) for name, text in headers.items()])
        assert producer.flush(20) == 0

    def structured(identity: str, kind: str = "com.example.paid") -> bytes:
        return json.dumps({"specversion": "1.0", "id": identity, "source": "/shop", "type": kind, "data": {"a": 1}}).encode()

    triggers = [trigger(events={"topic": topic, "types": ["com.example.paid"]})]

    def look() -> EventFinder:
        return EventFinder(triggers, runner, queue, lambda: 0)

    def seen(wanted: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        finder = look()

        def enough() -> bool:
            finder.find()
            found.extend(queued(queue))
            return len(found) >= wanted

        try:
            until(30, enough, lambda: found)
        finally:
            finder.close()
        return found

    sent(structured("before"))
    first = look()
    first.find()
    first.close()
    sent(structured("1"))
    sent(structured("2", "com.example.other"))
    sent(
        b'{"a": 2}',
        ce_specversion="1.0",
        ce_id="3",
        ce_source="/shop",
        ce_type="com.example.paid",
        content__type="application/json",
    )
    sent(b"\xff", ce_specversion="1.0", ce_id="4", ce_source="/shop", ce_type="com.example.paid", content__type="image/png")
    found = seen(3)
    assert [one["id"] for one in found] == ["1", "3", "4"], "from the end on that it had when the trigger was new"
    assert (found[1]["data"], found[1]["datacontenttype"]) == ({"a": 2}, "application/json")
    assert found[2]["data_base64"] == "/w=="

    without_type = b'{"specversion": "1.0", "id": "5", "source": "/shop"}'
    for odd in (b"nothing", b"[]", b'{"specversion": "0.3"}', without_type, b"[" * 60_000):
        sent(odd)
    sent(structured("1"))  # again, as a producer does that heard no answer
    sent(structured("6"))
    assert [one["id"] for one in seen(1)] == ["6"]
    assert sorted(one.reason for one in queue.dead("hook", 10)) == [
        "it has no type",
        "it is no CloudEvent of version 1.0",
        "it is no JSON object",
        "it is not JSON, and has no header ce_specversion",
        "it is not JSON, and has no header ce_specversion",
    ]


def test_a_topic_of_any_number_of_events_fills_no_metadata_store(
    runner: Runner, queue: DeliveryQueue, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some gigabytes of them were all moved into it within a minute, wherever they were to be delivered to."""
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient, NewTopic

    monkeypatch.setattr("headrace.scheduler.triggers.queue.MOST_WAITING", 30)
    topic = f"flood-{tenant}"
    kafka = {"bootstrap.servers": runner.endpoints.kafka_bootstrap}
    administrator = AdminClient(kafka)
    administrator.create_topics([NewTopic(topic, 1, 1)])[topic].result(20)
    finder = EventFinder([trigger(events={"topic": topic})], runner, queue, lambda: 0)
    finder.find()  # from here on
    producer = Producer(kafka)
    about = {"specversion": "1.0", "source": "/shop", "type": "com.example.paid"}
    sizes = [EVENT_BYTES, *[10] * 1_200]
    for number, size in enumerate(sizes):
        producer.produce(topic, json.dumps({**about, "id": str(number), "data": "x" * size}))
    assert producer.flush(20) == 0
    found: list[dict[str, Any]] = []

    def all_found() -> bool:
        for _ in range(3):
            finder.find()
        waiting = queue.states()["hook"].waiting if queue.states() else 0
        assert waiting < 30 + 500, "no more than were taken in one look"
        while some := queued(queue):
            found.extend(some)
        return len(found) >= 1_200

    try:
        until(60, all_found, lambda: len(found))
    finally:
        finder.close()
    assert [one["id"] for one in found] == [str(number) for number in range(1, 1_201)], "each once, in their order"
    [large] = queue.dead("hook", 10)
    assert large.reason.startswith("it has 65,6")
    assert len(json.dumps(large.event)) < 1_000


def test_a_topic_that_is_not_there_holds_up_no_other_trigger(
    runner: Runner, queue: DeliveryQueue, caplog: pytest.LogCaptureFixture
) -> None:
    triggers = [trigger("gone", events={"topic": "there-is-no-such-topic"}), trigger("tick", every_s=1)]
    finder = EventFinder(triggers, runner, queue, lambda: 0)
    found: list[dict[str, Any]] = []

    def ticked() -> bool:
        finder.find()  # raises nothing
        found.extend(queued(queue, "tick"))
        return len(found) >= 2

    try:
        with caplog.at_level("WARNING", "headrace.triggers"):
            until(30, ticked, lambda: found)
    finally:
        finder.close()
    said = [record.message for record in caplog.records if "there-is-no-such-topic" in record.message]
    assert said[0].startswith("trigger gone: Topic there-is-no-such-topic cannot be read")
    assert len(set(said)) == len(said), "each reason once"


def test_a_topic_of_headraces_own_is_refused(runner: Runner) -> None:
    from headrace.storage.meter import Meter

    with pytest.raises(BadSettings, match="Headrace's own"):
        CloudEventWriter("document-events", {"bootstrap.servers": "127.0.0.1:1"}, Meter(runner.record.ledger, "test"))
