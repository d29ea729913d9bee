"""Events that look right and are not, in every topic at once: they are dead letters, and nothing behind landing stands still."""

from __future__ import annotations

import hashlib
import json
import threading
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from confluent_kafka import Producer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from signed import signed
from words import words

from headrace.catalog import (
    DOCUMENT_EVENT_ROWS,
    DOCUMENT_EVENTS,
    DOCUMENT_ROWS,
    DOCUMENTS,
    FEEDBACK,
    INTERACTIONS,
    LANDINGS,
    Store,
)
from headrace.head import land as landing
from headrace.head.land import Following, Landed, land
from headrace.inference.parse import _name_of, document_id
from headrace.inference.pipeline import catch_up
from headrace.pipeline.run import Run
from headrace.pipeline.runner import Runner
from headrace.platform import open_platform
from headrace.settings import Landing, Settings
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectWriter
from headrace.storage.records import batch
from headrace.storage.tables import TableReader, TableWriter

NOW = "2026-01-02T03:04:05+00:00"
TEXT = b"# Pumps\n\nThe pump of the northern station was greased on day seven by crew three."


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    folder = tmp_path_factory.mktemp("poison")
    with words() as endpoint, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SETTINGS", str(folder / "none.toml"))
        chosen = Settings(home=folder / "home", models=endpoint.models)
        with open_platform(chosen, parts=frozenset({"objects", "head"})) as endpoints:
            yield Runner(Run("test", folder), endpoints)


def document_event(**changed: Any) -> dict[str, Any]:
    sha256 = hashlib.sha256(TEXT).hexdigest()
    event = {"event_id": "1", "kind": "put", "tenant": "acme", "uri": "pumps.md", "sha256": sha256, "bytes": len(TEXT)}
    return {**event, "reason": "", "at": NOW, "readers": [], **changed}


def verdict(**changed: Any) -> dict[str, Any]:
    event = {"verdict_id": "v", "answer_id": "a", "tenant": "acme", "user": "ann", "simulated": False, "up": True}
    return {**event, "chunk_id": "", "reason": "", "correction": "", "at": NOW, **changed}


def answered(**changed: Any) -> dict[str, Any]:
    texts = ("user", "question", "answer", "generator_version", "model_version", "index_version", "run")
    lists: dict[str, Any] = {
        name: [] for name in ("passages", "prompt_tokens", "completion_tokens", "logprobs", "timings", "moved")
    }
    return {
        **dict.fromkeys(texts, ""),
        **lists,
        "answer_id": "a",
        "kind": "answer",
        "tenant": "acme",
        "simulated": False,
        "at": NOW,
        **changed,
    }


EVENTS = {DOCUMENT_EVENTS: document_event, INTERACTIONS: answered, FEEDBACK: verdict}
POISON: dict[Store, list[dict[str, Any]]] = {
    DOCUMENT_EVENTS: [
        document_event(sha256="../beta/" + "0" * 56),
        document_event(sha256=".."),
        document_event(tenant=""),
        document_event(tenant="beta/.."),
        document_event(kind="frobnicate"),
        document_event(readers="ann"),
        document_event(at="0001-01-01T00:00:00+01:00"),
        document_event(uri=""),
    ],
    INTERACTIONS: [answered(at="9999-12-31T23:59:59-05:00"), answered(kind=""), answered(logprobs=[float("nan")])],
    FEEDBACK: [verdict(at="0001-01-01T00:00:00+01:00"), verdict(tenant=""), verdict(answer_id="")],
}


def produce(runner: Runner, events: dict[Store, list[dict[str, Any]]]) -> None:
    producer = Producer({"bootstrap.servers": runner.endpoints.kafka_bootstrap, "linger.ms": 0})
    for topic, values in events.items():
        for value in values:
            event = json.dumps(value).encode()
            producer.produce(topic.name, event, headers=signed(runner.endpoints, topic.name, event))
    assert producer.flush(30) == 0


def reader(runner: Runner, store: Store) -> TableReader:
    return TableReader(store, runner.endpoints, Meter(runner.record.ledger, "test"))


def index(runner: Runner) -> Any:
    *_, built = catch_up(runner, Settings().inference)
    return built


def put(runner: Runner, uri: str) -> dict[str, Any]:
    """A document that is as it should be: its source is stored, its event to be produced."""
    text = TEXT + uri.encode()
    sha256 = hashlib.sha256(text).hexdigest()
    ObjectWriter(DOCUMENTS, runner.endpoints, Meter(runner.record.ledger, "test")).put(f"acme/{sha256}", text)
    return document_event(uri=uri, sha256=sha256, bytes=len(text))


def statuses(runner: Runner) -> dict[str, tuple[str, str]]:
    rows = reader(runner, DOCUMENT_ROWS).read(("uri", "status", "reason")).to_pylist()
    return {row["uri"]: (row["status"], row["reason"]) for row in rows}


def test_poison_is_buried_and_everybody_else_goes_on(runner: Runner) -> None:
    runner.run(land)  # what another test left; topics and tables are there
    produce(runner, POISON)
    produce(runner, {DOCUMENT_EVENTS: [put(runner, "good.md")], INTERACTIONS: [answered()], FEEDBACK: [verdict()]})
    landed: Landed = runner.run(land)
    assert landed.events == {topic.name: 1 for topic in LANDINGS}
    assert landed.dead == sum(map(len, POISON.values()))
    index(runner)
    assert statuses(runner)["good.md"] == ("parsed", "")


def test_a_document_that_breaks_parsing_fails_alone(runner: Runner) -> None:
    """Rows that landed before constraints were checked are still there, and must not stop the pass for good."""
    runner.run(land)
    good = put(runner, "beside.md")
    bad = document_event(uri="landed-long-ago.md", sha256="../beta/" + "0" * 56)
    rows = TableWriter(DOCUMENT_EVENT_ROWS, runner.endpoints, Meter(runner.record.ledger, "test"))
    origin = {"topic": DOCUMENT_EVENTS.name, "partition": 7}
    whole = [{**event, "at": datetime.now(UTC), **origin, "offset": n} for n, event in enumerate((bad, good))]
    rows.append(batch(DOCUMENT_EVENT_ROWS.columns, whole))
    index(runner)
    found = statuses(runner)
    assert found["beside.md"] == ("parsed", "")
    status, reason = found["landed-long-ago.md"]
    assert status == "failed"
    assert reason.startswith("it could not be parsed")


def test_names_of_events_are_one_in_either_form_of_unicode(runner: Runner) -> None:
    nfc, nfd = (unicodedata.normalize(form, "é.md") for form in ("NFC", "NFD"))
    produce(runner, {DOCUMENT_EVENTS: [put(runner, nfd)]})
    index(runner)
    assert statuses(runner)[nfc] == ("parsed", "")
    produce(runner, {DOCUMENT_EVENTS: [document_event(uri=nfd, kind="delete", sha256="", bytes=0)]})
    index(runner)
    rows = reader(runner, DOCUMENT_ROWS).read(("uri", "status")).to_pylist()
    assert sorted(row["status"] for row in rows if row["uri"] == nfc) == ["deleted", "parsed"]
    assert nfd not in {row["uri"] for row in rows}
    # What was taken in under the other form, before names were composed, is deleted as that, and nothing else is.
    event = {"kind": "delete", "tenant": "acme", "uri": nfd}
    assert _name_of(event, {document_id("acme", nfd): {"status": "parsed"}}) == nfd
    assert _name_of(event, {document_id("acme", nfd): {"status": "deleted"}}) == nfc


def test_a_lander_that_fails_ends_the_others_and_says_so(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody foresaw, in one topic, while the others go on being followed."""

    def broken(store: Store, values: Any) -> Any:
        if store is FEEDBACK:
            raise RuntimeError("nobody foresaw this")
        return read(store, values)

    read = landing.decode
    monkeypatch.setattr(landing, "decode", broken)
    following = Following(threading.Event())
    produce(runner, {FEEDBACK: [verdict(verdict_id="v2")]})
    with pytest.raises(RuntimeError, match="nobody foresaw this"):
        runner.run(land, settings=Landing(commit_s=0.1), following=following)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["..", "0001-01-01T00:00:00+01:00", "a\0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_nonsense_in_every_topic_stops_nothing(runner: Runner, data: st.DataObject) -> None:
    nonsense = {
        topic: [
            event(**data.draw(st.dictionaries(st.sampled_from(topic.columns.names), JSON, min_size=1, max_size=3)))
            for _ in range(12)
        ]
        for topic, event in EVENTS.items()
    }
    runner.run(land)  # what another test left
    produce(runner, nonsense)
    good = put(runner, f"good-{data.draw(st.uuids())}.md")
    produce(runner, {DOCUMENT_EVENTS: [good]})
    landed: Landed = runner.run(land)
    assert landed.total + landed.dead == 37
    index(runner)
    assert statuses(runner)[good["uri"]] == ("parsed", "")
