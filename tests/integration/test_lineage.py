"""Lineage both ways on real storage, and what a round leaves out: from an answer to verdicts, from an event to models."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from forgetting import METER, NOON, World, example, interaction, passage, verdict
from rich.console import Console
from servers import serving

from headrace.catalog import FEEDBACK, INDEXES, INTERACTIONS, ROUNDS
from headrace.cli.render.lineage import answer_tree, event_tree
from headrace.core.run import recorded
from headrace.core.runner import Runner
from headrace.errors import NotFound, WrongUsage
from headrace.landing.land import land
from headrace.lineage.graph import MOST_PARENTS, trace_answer, trace_event
from headrace.storage.vectors.generations import Indexes, IndexGeneration, IndexWriter
from headrace.training.cutoff import bound, parent_before, suppressed

TENANT = "acme"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("lineage")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SETTINGS", str(folder / "none.toml"))
        with serving(folder / "servers") as servers, recorded("trace", folder / "runs") as run:
            yield World(servers.endpoints, Runner(run, servers.endpoints))


@pytest.fixture(scope="module")
def story(world: World) -> dict[str, Any]:
    """Two answers and their verdicts, two rounds that learned from them, and an answer given by what came of it."""
    (chunk_id,) = world.document("pump.md", "# Pump\n\nThe pump is greased on Mondays by the crew.", tenant=TENANT)
    given = {"passages": [passage(chunk_id, "pump.md")]}
    asked = world.say(
        INTERACTIONS, [interaction(f"q-{n}", "ann", f"pumps {n}", tenant=TENANT, minute=10 * n, **given) for n in range(2)]
    )
    judged = world.say(
        FEEDBACK, [verdict(f"q-{n}", "ann", f"pumps {n}", tenant=TENANT, minute=10 * n + 5, up=n == 0) for n in range(2)]
    )
    world.runner.run(land)
    first = [example("q-0", [asked[0], judged[0]], "pumps", tenant=TENANT, dataset="", kind="passage", chunk_id=chunk_id)]
    second = [
        example("q-0", [asked[0], judged[0]], "pumps", tenant=TENANT, dataset="", split="test"),
        example("q-1", [asked[1], judged[1]], "pumps", tenant=TENANT, dataset=""),
    ]
    files = [world.dataset("aaaa00000001", first), world.dataset("aaaa00000002", second)]

    def at(n: int) -> dict[str, Any]:
        """The offsets of a round that had landed so many answers and verdicts."""
        position = {"next": n, "cluster": None, "topic": None, "topic_epoch": 1, "last": None}
        return {"offsets": {"interactions": {"0": position}, "feedback": {"0": position}}}

    reranker = world.round(1, "aaaa00000001", files[0], model="reranker", **at(1))
    generator = world.round(2, "aaaa00000002", files[1], model="generator", **at(2))
    grown = world.round(3, "aaaa000000ff", [], model="generator", start=f"generator/{generator}", **at(2))
    world.serve("reranker", reranker)
    world.serve("generator", grown)
    made = IndexGeneration(2, 200, "embedder@v000009", 384)
    IndexWriter(INDEXES, world.endpoints, METER).change(lambda now: Indexes(serving=made, fallback=now.serving, newest=2))
    more = {"model_version": reranker, "generator_version": grown, "index_version": "g2.7", **given}
    last = world.say(INTERACTIONS, [interaction("q-2", "bob", "more pumps", tenant=TENANT, minute=60, **more)])
    world.runner.run(land)
    return {"asked": asked, "judged": judged, "last": last, "chunk": chunk_id, "versions": (reranker, generator, grown)}


def shown(tree: Any, *, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(tree, highlight=False)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    return text


def test_an_answer_is_followed_to_the_verdicts_behind_it(world: World, story: dict[str, Any]) -> None:
    found = world.runner.run(trace_answer, answer_id="q-2")
    assert found["answer"]["event"] == story["last"][0]
    (read,) = found["passages"]
    assert (read["chunk_id"], read["document"], read["event"]) == (story["chunk"], "pump.md", "document-events/0/0")
    ranking, reranker, generator, embedder = found["models"]
    assert (ranking["model"], ranking["version"], ranking["round"]) == ("ranking", "none", None)
    assert (reranker["version"], reranker["served"]) == (story["versions"][0], True)
    assert reranker["round"]["key"] == "rounds/000001.json"
    assert reranker["dataset"]["files"][0]["sha256"]
    assert [one["origins"] for one in reranker["examples"]] == [[story["asked"][0], story["judged"][0]]]
    assert [(one["event"], one["up"], one["correction"]) for one in reranker["verdicts"]] == [
        (story["judged"][0], True, "it is pumps 0")
    ]
    # The generator learned nothing itself in its last round; what it began from did.
    assert (generator["version"], generator["examples"]) == (story["versions"][2], [])
    assert [one["event"] for one in generator["parent"]["verdicts"]] == story["judged"]
    assert [one["learned"] for one in sorted(generator["parent"]["examples"], key=lambda one: one["split"])] == [False, True]
    assert (embedder["version"], embedder["round"]) == ("v000009", None)
    json.dumps(found)  # complete and JSON-ready
    text = shown(answer_tree(found))
    for said in ("answer q-2", "re-ranker v000001  made by round 1", "began from", story["judged"][0], "pump.md"):
        assert said in text, text


def test_a_model_of_many_rounds_is_followed_back_so_many_of_them(world: World, story: dict[str, Any]) -> None:
    first, last = 101, 101 + MOST_PARENTS + 5
    start = ""
    for number in range(first, last + 1):
        start = f"generator/{world.round(number, f'aaaa{number:08d}', [], model='generator', start=start)}"
    try:
        world.say(INTERACTIONS, [interaction("q-many", "eve", "valves", tenant=TENANT, minute=90, generator_version=start[10:])])
        world.runner.run(land)
        found = world.runner.run(trace_answer, answer_id="q-many")
    finally:  # the story has three rounds
        for number in range(first, last + 1):
            world.objects(ROUNDS).delete(f"{number:06d}.json")
    model, numbers = found["models"][2], []
    while model is not None:
        numbers.append(model["round"]["round"])
        oldest, model = model, model["parent"]
    assert numbers == list(range(last, last - MOST_PARENTS - 1, -1))
    assert oldest["began_from"] == f"generator/v{last - MOST_PARENTS - 1:06d}"
    json.dumps(found)  # not nested deeper than readers of JSON accept
    assert f"{oldest['began_from']}, and so on" in " ".join(shown(answer_tree(found), width=400).split())


def test_an_answer_of_before_any_round_has_no_teacher(world: World, story: dict[str, Any]) -> None:
    found = world.runner.run(trace_answer, answer_id="q-0")
    assert [(one["version"], one["round"]) for one in found["models"]] == [("none", None)] * 4
    assert [one["event"] for one in found["verdicts"]] == [story["judged"][0]]
    assert "retrieval's own order" in shown(answer_tree(found))


def test_an_event_is_followed_to_whoever_learned_from_it(world: World, story: dict[str, Any]) -> None:
    reranker, generator, grown = story["versions"]
    found = world.runner.run(trace_event, event=story["judged"][0])
    assert (found["event"]["status"], found["event"]["up"]) == ("landed", True)
    assert {one["dataset"]: one["examples"] for one in found["datasets"]} == {
        "aaaa00000001": {"train": 1},
        "aaaa00000002": {"test": 1},
    }
    assert [one["round"] for one in found["rounds"]] == [1, 2]
    # In the second dataset it only judged: no weight depends on it.
    assert [(one["model"], one["version"]) for one in found["models"]] == [("reranker", reranker)]
    assert (found["models"][0]["answers"], found["models"][0]["share"]) == (1, 1.0)
    found = world.runner.run(trace_event, event=story["judged"][1])
    assert [(one["version"], one["began_from"], one["answers"], one["served"]) for one in found["models"]] == [
        (generator, None, 0, False),
        (grown, f"generator/{generator}", 1, True),
    ]
    text = shown(event_tree(found))
    assert f"began from generator/{generator}" in text
    assert f"headrace train --before {story['judged'][1]}" in text


def test_an_event_that_nobody_learned_from_is_traced_without_reading_answers(world: World, story: dict[str, Any]) -> None:
    """All answers were counted by their models, for models that there were none of."""
    [event] = world.say(FEEDBACK, [verdict("x-1", "eve", "weirs", tenant="elsewhere", minute=1)])
    world.runner.run(land)

    def answers_read() -> int:
        rows = world.runner.record.ledger.rows()
        return sum(row.bytes for row in rows if (row.store, row.tier, row.direction) == ("interactions", "table", "read"))

    before = answers_read()
    assert before > 0
    found = world.runner.run(trace_event, event=event)
    assert (found["event"]["status"], found["models"]) == ("landed", [])
    assert answers_read() == before


def test_a_document_s_event_is_followed_through_its_passages(world: World, story: dict[str, Any]) -> None:
    found = world.runner.run(trace_event, event="document-events/0/0")
    assert (found["event"]["uri"], found["answers"]) == ("pump.md", 3)
    assert len(found["examples"]) == 3
    assert [one["version"] for one in found["models"]] == list(story["versions"])


def test_what_is_not_there_is_said(world: World, story: dict[str, Any]) -> None:
    with pytest.raises(NotFound, match="No answer 'q-9' has landed"):
        world.runner.run(trace_answer, answer_id="q-9")
    with pytest.raises(NotFound, match="No event has landed from feedback/0/999"):
        world.runner.run(trace_event, event="feedback/0/999")
    with pytest.raises(WrongUsage, match="'feedback/x' is not an event's address"):
        world.runner.run(trace_event, event="feedback/x")
    with pytest.raises(NotFound):
        world.runner.run(bound, event="feedback/0/999")


def test_a_bound_leaves_out_what_came_at_or_after_an_event(world: World, story: dict[str, Any]) -> None:
    # Verdict 0 came at minute 5: answer 1 (minute 10) and all behind it are out, answer 0 is not.
    assert NOON.minute == 0
    limits = world.runner.run(bound, event=story["judged"][0])
    assert {"feedback/0": 0, "interactions/0": 1}.items() <= limits.items()
    limits = world.runner.run(bound, event=story["asked"][1])
    assert {"feedback/0": 1, "interactions/0": 1}.items() <= limits.items()
    # The document landed long after, by the clock of this test.
    assert limits["document-events/0"] == 0
    limits = world.runner.run(bound, event=story["last"][0])
    assert (limits["interactions/0"], "feedback/0" in limits) == (2, False)
    nothing = {"origins": [], "users": [], "documents": [], "tenants": [], "before": {}}
    assert world.runner.run(suppressed).as_dict() == nothing


def test_parents_are_those_that_learned_nothing_beyond_the_bound(world: World, story: dict[str, Any]) -> None:
    reranker, generator, grown = story["versions"]

    def parent(model: str, **before: int) -> str:
        found: str = world.runner.run(parent_before, model=model, before={f"{topic}/0": n for topic, n in before.items()})
        return found

    assert parent("reranker", interactions=1) == f"reranker/{reranker}"
    assert parent("reranker", interactions=0) == ""
    assert parent("generator", feedback=2) == f"generator/{grown}"
    # Both generators had landed two verdicts, the second by way of the first.
    assert parent("generator", feedback=1) == ""
    later = {"offsets": {"feedback": {"0": {"next": 9, "topic_epoch": 1}}}, "exclusions": {"before": {"feedback/0": 1}}}
    try:
        clean = world.round(4, "aaaa000000fe", [], model="generator", **later)
        assert parent("generator", feedback=1) == f"generator/{clean}"
        world.round(5, "aaaa000000fd", [], model="generator", start=f"generator/{generator}", **later)
        assert parent("generator", feedback=1) == f"generator/{clean}"
    finally:  # the story has three rounds
        for number in (4, 5):
            world.objects(ROUNDS).delete(f"{number:06d}.json")
    # Of a topic made anew under its name nothing had landed yet.
    assert world.runner.run(parent_before, model="reranker", before={"feedback@02/0": 0}) == f"reranker/{reranker}"
