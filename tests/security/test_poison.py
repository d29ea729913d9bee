"""Events that look right and are not, in every topic at once: they are dead letters, and nothing behind landing stands still."""

from __future__ import annotations

import hashlib
import json
import threading
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka import Producer
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from signed import signed
from words import Words, words

import headrace.documents.chunk as chunking
from headrace.catalog import (
    CHUNK_ROWS,
    CHUNKS,
    DEAD_LETTERS,
    DOCUMENT_EVENT_ROWS,
    DOCUMENT_EVENTS,
    DOCUMENT_ROWS,
    DOCUMENTS,
    FEEDBACK,
    FEEDBACK_ROWS,
    INTERACTION_ROWS,
    INTERACTIONS,
    LANDINGS,
    Store,
)
from headrace.core.run import Run
from headrace.core.runner import Runner
from headrace.documents.failed import leave_out
from headrace.documents.index import catch_up
from headrace.documents.names import document_id
from headrace.documents.parse import _name_of
from headrace.documents.versions import ROWS_IN_ORDER
from headrace.errors import NotFound, Overloaded, RequestRefused, Unavailable, WrongUsage
from headrace.landing import land as landing
from headrace.landing.dead_letters import skip
from headrace.landing.land import Following, Landed, land
from headrace.landing.positions import positions
from headrace.models import connection
from headrace.platform import open_platform
from headrace.registry import canary
from headrace.settings import LandingSettings, Preparing, Settings
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.storage.records import batch
from headrace.storage.stream.reader import TopicReader
from headrace.storage.tables.handles import TableReader, TableWriter
from headrace.storage.vectors.handles import VectorReader
from headrace.training.data import prepare

NOW = "2026-01-02T03:04:05+00:00"
TEXT = b"# Pumps\n\nThe pump of the northern station was greased on day seven by crew three."


@pytest.fixture(scope="module")
def models() -> Iterator[Words]:
    with words() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory, models: Words) -> Iterator[Runner]:
    folder = tmp_path_factory.mktemp("poison")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SETTINGS", str(folder / "none.toml"))
        chosen = Settings(home=folder / "home", models=models.models)
        with open_platform(chosen, parts=frozenset({"objects", "head"})) as endpoints:
            made = Runner(Run("test", folder), endpoints)
            made.run(land)  # topics and tables are there
            yield made


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


def arrive(runner: Runner, events: dict[Store, list[dict[str, Any]]]) -> tuple[dict[str, int], int]:
    """Produce events and land them all; how many landed by topic, and how many could not be read.

    A pass may end before the head hands out what was acknowledged a moment ago, on a machine that is busy.
    """
    produce(runner, events)
    counts: Counter[str] = Counter()
    dead, end = 0, time.monotonic() + 30
    while counts.total() + dead < sum(map(len, events.values())):
        assert time.monotonic() < end, (counts, dead)
        landed: Landed = runner.run(land)
        counts.update({topic: count for topic, count in landed.events.items() if count})
        dead += landed.dead
    return dict(counts), dead


def reader(runner: Runner, store: Store) -> TableReader:
    return TableReader(store, runner.endpoints, Meter(runner.record.ledger, "test"))


def index(runner: Runner) -> Any:
    return catch_up(runner, Settings().inference).filled.index


def put(runner: Runner, uri: str, words: str = "") -> dict[str, Any]:
    """A document that is as it should be: its source is stored, its event to be produced."""
    text = TEXT + uri.encode() + b"\n\n" + words.encode()
    sha256 = hashlib.sha256(text).hexdigest()
    ObjectWriter(DOCUMENTS, runner.endpoints, Meter(runner.record.ledger, "test")).put(f"acme/{sha256}", text)
    return document_event(uri=uri, sha256=sha256, bytes=len(text))


def statuses(runner: Runner) -> dict[str, tuple[str, str]]:
    columns = ("uri", "status", "reason", "topic", "partition", "offset")
    rows = reader(runner, DOCUMENT_ROWS).read(columns).sort_by(ROWS_IN_ORDER).to_pylist()
    return {row["uri"]: (row["status"], row["reason"]) for row in rows}


def indexed(runner: Runner) -> dict[str, set[str]]:
    """uri → the versions whose chunks are in the index."""
    held = VectorReader(CHUNKS, runner.endpoints, Meter(runner.record.ledger, "test")).indexed()
    found: dict[str, set[str]] = {}
    for uri, version in zip(held["uri"].to_pylist(), held["version"].to_pylist(), strict=True):
        found.setdefault(uri, set()).add(version)
    return found


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


@pytest.mark.parametrize("status", [400, pytest.param(500, marks=pytest.mark.soak(minutes=0.2))])
def test_a_text_that_the_embedder_refuses_fails_its_document_alone(runner: Runner, models: Words, status: int) -> None:
    before, many = put(runner, f"twice-{status}.md"), [put(runner, f"many-{status}-{n}.md") for n in range(5)]
    arrive(runner, {DOCUMENT_EVENTS: [before]})
    index(runner)
    # Long enough for several chunks, of which one is refused: half a document must not answer.
    long = "\n\n".join(f"## Part {n}\n\n{'The weir was measured again. ' * 30}" for n in range(4))
    worse = put(runner, f"twice-{status}.md", f"{long} xenolith{status}")
    arrive(runner, {DOCUMENT_EVENTS: [*many[:3], put(runner, f"refused-{status}.md", f"xenolith{status}"), worse, *many[3:]]})
    models.refused = {f"xenolith{status}": status}
    try:
        index(runner)
    finally:
        models.refused = {}
    found, held = statuses(runner), indexed(runner)
    for uri in (f"refused-{status}.md", f"twice-{status}.md"):
        assert found[uri] == ("failed", f"the embedder rejected a passage of it ({status})")
    assert f"refused-{status}.md" not in held
    assert held[f"twice-{status}.md"] == {before["sha256"]}, "the version before goes on answering, whole and alone"
    assert all(f"many-{status}-{n}.md" in held for n in range(5))
    index(runner)
    assert statuses(runner)[f"refused-{status}.md"][0] == "failed", "it is not tried at each pass"
    again = {**put(runner, f"refused-{status}.md", f"xenolith{status}"), "event_id": "2"}
    arrive(runner, {DOCUMENT_EVENTS: [again]})
    index(runner)
    assert statuses(runner)[f"refused-{status}.md"] == ("parsed", ""), "put again, it is tried again"
    assert f"refused-{status}.md" in indexed(runner)


@pytest.mark.parametrize(("status", "kind"), [(503, Overloaded), (401, RequestRefused)])
def test_an_embedder_that_refuses_everything_fails_no_document(
    runner: Runner, models: Words, status: int, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_BACKOFF_S", 0.001)
    uri = f"waits-{status}-{kind.__name__}.md"
    arrive(runner, {DOCUMENT_EVENTS: [put(runner, uri)]})
    models.refused = {"": status}
    try:
        with pytest.raises(kind):
            index(runner)
    finally:
        models.refused = {}
    assert statuses(runner)[uri] == ("parsed", "")
    index(runner)
    assert uri in indexed(runner)


def test_a_document_that_cannot_be_split_fails_alone(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = put(runner, "whole.md"), put(runner, "splinters.md", "splinter")
    arrive(runner, {DOCUMENT_EVENTS: [bad, good]})
    cut = chunking.steps

    def breaking(text: str, *given: Any, **more: Any) -> Any:
        if "splinter" in text:
            raise RecursionError("too deep")
        return cut(text, *given, **more)

    monkeypatch.setattr(chunking, "steps", breaking)
    index(runner)
    assert statuses(runner)["splinters.md"] == ("failed", "it could not be split into chunks (RecursionError)")
    assert "whole.md" in indexed(runner)
    assert "splinters.md" not in indexed(runner)


def test_a_document_that_holds_a_pass_up_is_left_out_by_hand(runner: Runner, models: Words) -> None:
    stuck, good = put(runner, "stuck.md", "glutinous"), put(runner, "behind.md")
    arrive(runner, {DOCUMENT_EVENTS: [stuck, good]})
    models.refused = {"glutinous": 504}  # of which nobody can say whose fault it is
    try:
        with pytest.raises(Unavailable):
            index(runner)
        runner.run(leave_out, tenant="acme", uri="stuck.md", reason="left out by ann: it never ends")
        index(runner)
    finally:
        models.refused = {}
    assert statuses(runner)["stuck.md"] == ("failed", "left out by ann: it never ends")
    assert "behind.md" in indexed(runner)
    assert "stuck.md" not in indexed(runner)
    with pytest.raises(NotFound):
        runner.run(leave_out, tenant="acme", uri="nowhere.md", reason="")


def test_a_document_whose_source_never_comes_is_left_out_before_it_is_parsed(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, good = put(runner, "lost.md"), put(runner, "found.md")
    arrive(runner, {DOCUMENT_EVENTS: [lost, good]})
    get = ObjectReader.get

    def failing(handle: ObjectReader, key: str) -> bytes:
        if key.endswith(lost["sha256"]):
            raise Unavailable("The object store answers 500 for this one.")
        return get(handle, key)

    monkeypatch.setattr(ObjectReader, "get", failing)
    with pytest.raises(Unavailable):
        index(runner)
    runner.run(leave_out, tenant="acme", uri="lost.md", reason="left out by ann: its bytes are gone")
    index(runner)
    assert statuses(runner)["lost.md"] == ("failed", "left out by ann: its bytes are gone")
    assert "found.md" in indexed(runner)


def test_a_record_that_holds_a_topic_up_is_skipped_by_hand(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    arrive(runner, {FEEDBACK: [verdict()]})
    read = landing.decode

    def breaking(store: Store, values: Any) -> Any:
        if any(value is not None and b"indigestible" in value for value in values):
            raise RuntimeError("nobody foresaw this")
        return read(store, values)

    monkeypatch.setattr(landing, "decode", breaking)
    produce(runner, {FEEDBACK: [verdict(verdict_id="s1"), verdict(reason="indigestible"), verdict(verdict_id="s2")]})
    end = time.monotonic() + 30
    while True:
        assert time.monotonic() < end
        try:
            runner.run(land)
        except RuntimeError:
            break
    table = reader(runner, FEEDBACK_ROWS)
    first = positions(table.snapshot_properties(), FEEDBACK.name)[0].next
    with pytest.raises(WrongUsage):
        runner.run(skip, event=f"feedback/0/{first - 1}", reason="it has landed")
    with pytest.raises(NotFound):
        runner.run(skip, event=f"feedback/7/{first}", reason="there is no such partition")
    head = TopicReader(FEEDBACK, runner.endpoints, Meter(runner.record.ledger, "test"))
    found: list[int] = []
    while not found:
        assert time.monotonic() < end
        fetched = [pair for some in head.read({0: first}) for pair in zip(some.offsets, some.values, strict=True)]
        found = [offset for offset, value in fetched if b"indigestible" in (value or b"")]
    (at,) = found
    runner.run(skip, event=f"feedback/0/{at}", reason="skipped by ann: indigestible")
    dead = 0
    while not dead:
        assert time.monotonic() < end
        dead = runner.run(land).dead
    letters = reader(runner, DEAD_LETTERS).read(("reason", "value", "offset")).to_pylist()
    (letter,) = (one for one in letters if b"indigestible" in one["value"])
    assert (letter["reason"], letter["offset"]) == ("skipped by ann: indigestible", at)
    while not {"s1", "s2"} <= set(table.read(("verdict_id",))["verdict_id"].to_pylist()):
        assert time.monotonic() < end
        runner.run(land)


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
        runner.run(land, settings=LandingSettings(commit_s=0.1), following=following)


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


def fitting(kind: pa.DataType) -> st.SearchStrategy[Any]:
    """Any JSON value that an event of the schema may have in a place of this type, nulls in lists and structs included."""
    if pa.types.is_list(kind):
        return st.lists(st.none() | fitting(kind.value_type), max_size=3)
    if pa.types.is_struct(kind):
        return st.fixed_dictionaries({field.name: st.none() | fitting(field.type) for field in kind})
    if pa.types.is_timestamp(kind):
        return st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31), timezones=st.just(UTC)).map(str)
    if pa.types.is_boolean(kind):
        return st.booleans()
    if pa.types.is_integer(kind):
        return st.integers(-(1 << (kind.bit_width - 1)), (1 << (kind.bit_width - 1)) - 1)
    if pa.types.is_floating(kind):
        return st.floats(allow_nan=False, allow_infinity=False, width=32)
    return st.text(max_size=12) | st.sampled_from(
        ["acme", "answer", "put", "a", "..", "How warm was the pump?", "\x1f", "\ud7ff"]
    )


BOUNDED = {"deadline": None, "suppress_health_check": list(HealthCheck), "phases": [Phase.generate]}


@settings(max_examples=2, **BOUNDED)
@given(data=st.data())
def test_nonsense_in_every_topic_stops_nothing(runner: Runner, data: st.DataObject) -> None:
    def one(topic: Store, event: Any) -> dict[str, Any]:
        names = data.draw(st.lists(st.sampled_from(topic.columns.names), min_size=1, max_size=3))
        wrong = data.draw(st.booleans())
        return dict(event(**{name: data.draw(JSON if wrong else fitting(topic.columns.field(name).type)) for name in names}))

    nonsense = {topic: [one(topic, event) for _ in range(24)] for topic, event in EVENTS.items()}
    good = put(runner, f"good-{data.draw(st.uuids())}.md")
    nonsense[DOCUMENT_EVENTS].append(good)
    arrive(runner, nonsense)
    index(runner)
    assert statuses(runner)[good["uri"]] == ("parsed", "")
    assert good["uri"] in indexed(runner)


@settings(max_examples=2, **BOUNDED)
@given(data=st.data())
def test_answers_and_verdicts_of_any_kind_end_no_round(runner: Runner, data: st.DataObject) -> None:
    """What fits the schema and no more, answers that were judged included: prepare leaves out what it cannot use."""
    shown = reader(runner, CHUNK_ROWS).read(("chunk_id",))["chunk_id"].to_pylist()[:3] or ["c"]
    run = str(data.draw(st.uuids()))
    answers, verdicts = [], []
    for number in range(16):
        name = f"{run}-{number}"
        columns = INTERACTIONS.columns
        drawn = {f.name: data.draw(fitting(f.type)) for f in columns if f.name not in ("kind", "tenant", "answer_id", "run")}
        for passage in drawn["passages"]:
            if passage is not None and data.draw(st.booleans()):
                passage["chunk_id"] = data.draw(st.sampled_from(shown))
        answers.append(answered(**{**drawn, "answer_id": name, "question": "How warm was the pump of the station?"}))
        for user in ("ann", "bob"):
            about = [passage["chunk_id"] for passage in drawn["passages"] if passage and passage["chunk_id"]]
            named = {
                "verdict_id": f"{name}-{user}",
                "answer_id": name,
                "user": user,
                "correction": data.draw(st.text(max_size=12)),
            }
            verdicts.append(verdict(**named, up=data.draw(st.booleans()), chunk_id=data.draw(st.sampled_from(["", *about]))))
    arrive(runner, {INTERACTIONS: answers, FEEDBACK: verdicts})
    made = runner.run(prepare, snapshots={}, version=run.replace("-", "")[:12], seed=1, settings=Preparing())
    counted = sum(made.examples.values()) + sum(made.left_out.values())
    assert counted > 0
    tables = (reader(runner, INTERACTION_ROWS), reader(runner, FEEDBACK_ROWS))
    for model in ("reranker", "generator"):
        canary.judged_answers(model, *(table.read().to_pylist() for table in tables))
