"""Forgetting against real storage: afterwards the words are nowhere, others' rows are whole, and a kill anywhere is made good."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pyarrow.parquet as pq
import pytest
import victims
from forgetting import METER, World, example, interaction, passage, verdict
from forks import ForkedProcess
from rounds import plan as a_plan
from servers import serving

from headrace.catalog import (
    CHUNK_ROWS,
    CHUNKS,
    DATASETS,
    DEAD_LETTERS,
    DOCUMENT_ROWS,
    DOCUMENTS,
    EXAMPLES,
    FEEDBACK,
    FEEDBACK_ROWS,
    INTERACTION_ROWS,
    INTERACTIONS,
    PROOFS,
    ROUNDS,
    SUPPRESSIONS,
)
from headrace.core.run import recorded
from headrace.core.runner import Runner
from headrace.documents.chunk import chunk
from headrace.documents.formats.contract import ParseLimits
from headrace.documents.lookup import DocumentLookup
from headrace.documents.parse import parse
from headrace.documents.parsing import Parsing
from headrace.documents.put import put_document
from headrace.documents.splitting import Splitting
from headrace.errors import LostRace, NotFound
from headrace.landing.event import Event
from headrace.landing.land import land
from headrace.lineage.forget import Subject, forget
from headrace.lineage.forget.forget import is_unmodified
from headrace.lineage.forget.subject import DOCUMENT, USER
from headrace.lineage.graph import trace_event
from headrace.settings import Inference
from headrace.storage.stream.reader import TopicReader
from headrace.storage.tables.iceberg.table import IcebergTable
from headrace.storage.vectors import purge as vectors_purge
from headrace.storage.vectors.handles import VectorReader
from headrace.training import manifest
from headrace.training.cutoff import suppressed

WHO = "cli:test"
FOLLOWED_S = 0.4  # nobody searches meanwhile


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("forget")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SETTINGS", str(folder / "none.toml"))
        patch.setattr(vectors_purge, "_FOLLOWED_S", FOLLOWED_S)
        with serving(folder / "servers") as servers, recorded("forget", folder / "runs") as run:
            yield World(servers.endpoints, Runner(run, servers.endpoints))


def remaining(proof: dict[str, Any], where: str) -> dict[str, Any]:
    return next(one for one in proof["remains"] if one["where"] == where)


def removed(proof: dict[str, Any]) -> dict[str, int]:
    return {f"{one['store']} ({one['tier']}) {one['what']}": one["count"] for one in proof["removed"]}


def test_a_user_is_forgotten(world: World) -> None:
    tenant, mine, others = "acme", "zanzibarquux", "ordinary words"
    asked = world.say(
        INTERACTIONS,
        [
            interaction("a-ann", "ann", mine, tenant=tenant, minute=1),
            interaction("a-bob", "bob", others, tenant=tenant, minute=2),
            interaction("a-ann-elsewhere", "ann", others, tenant="other", minute=3),
        ],
    )
    judged = world.say(
        FEEDBACK,
        [
            verdict("a-ann", "ann", mine, tenant=tenant, minute=4),
            verdict("a-ann", "bob", mine, tenant=tenant, minute=5),  # of another, on the user's answer
            verdict("a-bob", "bob", others, tenant=tenant, minute=6),
        ],
    )
    world.raw(INTERACTIONS, [json.dumps({"tenant": tenant, "user": "ann", "question": mine}).encode(), b"not JSON, from ann"])
    world.runner.run(land)
    # A second commit, so that there are older snapshots, and manifests with bounds of the words.
    world.say(INTERACTIONS, [interaction("a-ann-2", "ann", f"{mine} again", tenant=tenant, minute=7)])
    world.runner.run(land)
    files = world.dataset(
        "feedfacecafe",
        [
            example("a-ann", [asked[0], judged[0]], mine, tenant=tenant, dataset="", user="ann"),
            example("a-bob", [asked[1], judged[2]], others, tenant=tenant, dataset="", user="bob"),
        ],
    )
    version = world.round(1, "feedfacecafe", files, model="generator")
    named = {"evaluation": {"without": {"ann": 0.1}}}
    child = world.round(2, "0000000000ff", [], model="generator", start=f"generator/{version}", **named)
    world.round(3, "0000000000ff", [], model="reranker")
    world.serve("generator", child)
    manifest.begin(world.objects(ROUNDS), a_plan(4))
    world.block(tenant, mine.encode())
    world.block("other", b"the other tenant's")
    places = world.holding(mine)
    told = " ".join(places)
    for there in ("lake/", "headrace/datasets/feedfacecafe/train-00000.parquet", f"files/kv-cache/{tenant}/ab/.part-1", "avro"):
        assert there in told, places

    proof = forget(world.runner, Subject(USER, tenant, "ann"), who=WHO, embedded=True)

    assert world.holding(mine) == []
    assert removed(proof) == {
        "interactions (table) removed": 2,
        "feedback (table) removed": 2,
        "dead-letters (table) removed": 1,
        "examples (table) removed": 1,
        "datasets (object) rewritten": 1,
        "kv-cache (file) removed": 1,
    }
    # What is others' is whole.
    assert {row["answer_id"] for row in world.rows(INTERACTION_ROWS) if row["answer_id"].startswith("a-")} == {
        "a-bob",
        "a-ann-elsewhere",
    }
    assert [row["verdict_id"] for row in world.rows(FEEDBACK_ROWS, tenant=tenant)] == ["v-a-bob-bob"]
    assert [row["value"] for row in world.rows(DEAD_LETTERS)] == [b"not JSON, from ann"]
    assert [row["answer_id"] for row in world.rows(EXAMPLES, tenant=tenant)] == ["a-bob"]
    shard = pq.read_table(io.BytesIO(world.objects(DATASETS).get(files[0]["key"])))
    assert shard["answer_id"].to_pylist() == ["a-bob"]
    assert list((world.endpoints.files_dir / "kv-cache").rglob("*.safetensors")) != []
    # The list goes on naming the hash that the manifest names, and says what became of it.
    (listed,) = json.loads(world.objects(DATASETS).get("feedfacecafe/list.json"))["files"]
    assert listed["sha256"] == files[0]["sha256"]
    assert listed["forgotten"]["examples"] == 1
    # Nothing lands again, and nothing of it is learned again.
    assert world.runner.run(land).total == 0
    exclusions = world.runner.run(suppressed)
    assert ("acme", "ann") in exclusions.users
    assert {asked[0], judged[0], judged[1]} <= exclusions.origins
    assert asked[1] not in exclusions.origins
    assert manifest.plan(world.objects(ROUNDS), 4) is None
    # Whoever learned from it is named, also by way of the weights it began from.
    assert [(one["model"], one["version"], one["served"]) for one in proof["learned"]] == [
        ("generator", version, False),
        ("generator", child, True),
    ]
    assert proof["retrain"] == [f"headrace train --recipe generator --before {asked[0]}"]
    assert remaining(proof, "rounds (object)")["keys"] == ["000002.json"]
    # Also by whoever asks for one of its events later.
    traced = world.runner.run(trace_event, event=judged[0])
    assert (traced["event"]["status"], [one["version"] for one in traced["models"]]) == ("forgotten", [version, child])
    # The head is trimmed of what has landed; what its last batches still hold is said.
    held = {e for one in proof["remains"] if "head" in one["where"] for e in one["events"]}
    assert asked[0] not in held
    for event in map(Event.parse, {asked[0], judged[0], judged[1]}):
        topic = TopicReader(event.store, world.endpoints, METER)
        assert (topic.record(event.partition, event.offset) is not None) == (str(event) in held)
    assert len(remaining(proof, "dead-letters (table)")["events"]) == 1
    # The proof is kept, and nobody has changed it.
    assert is_unmodified(proof)
    assert not is_unmodified({**proof, "who": "somebody else"})
    kept = json.loads(world.objects(PROOFS).get(proof["kept"].removeprefix("proofs/")))
    assert kept["sha256"] == proof["sha256"]

    # Again: nothing is left to do; and what comes later goes too.
    assert forget(world.runner, Subject(USER, tenant, "ann"), who=WHO)["sha256"] == proof["sha256"]
    world.say(INTERACTIONS, [interaction("a-ann-3", "ann", mine, tenant=tenant, minute=9)])
    later = forget(world.runner, Subject(USER, tenant, "ann"), who=WHO)
    assert later["id"].endswith("/00002")
    assert removed(later)["interactions (table) removed"] == 1
    assert world.holding(mine) == []
    assert len(world.rows(SUPPRESSIONS, name="ann")) == 2


def test_a_document_is_forgotten(world: World) -> None:
    tenant, mine, others = "docs", "quuxzanzibar", "plain prose"
    text = f"# Secret\n\nThe {mine} is kept in the third drawer of the left cabinet."
    gone = world.document("cabinet.md", text, tenant=tenant)
    put = world.documents(
        {
            "cabinet.md": text + "\n\n## More\n\nIt is opened on Fridays.",
            "copy.md": text.replace(mine, "nothing"),
            "other.md": f"# Other\n\nThis is {others} about pumps and valves.",
        },
        tenant=tenant,
    )
    stays = put["other.md"]
    (version,) = {row["version"] for row in world.rows(DOCUMENT_ROWS, uri="cabinet.md") if "Fridays" not in row["text"]}
    asked = world.say(
        INTERACTIONS,
        [
            interaction(
                "d-1", "eve", mine, tenant=tenant, minute=1, question="where?", passages=[passage(gone[0], "cabinet.md")]
            ),
            interaction("d-2", "eve", others, tenant=tenant, minute=2, passages=[passage(stays[0], "other.md")]),
            interaction("d-3", "eve", others, tenant="other", minute=3, passages=[passage("c", "cabinet.md")]),
        ],
    )
    world.say(
        FEEDBACK, [verdict("d-1", "eve", mine, tenant=tenant, minute=4), verdict("d-2", "eve", others, tenant=tenant, minute=5)]
    )
    world.runner.run(land)
    files = world.dataset(
        "deadbeef0000",
        [
            example("d-1", [asked[0]], mine, tenant=tenant, dataset="", question="where?"),
            example(
                "s-1", ["interactions/0/900000"], "x", tenant=tenant, dataset="", kind="passage", chunk_id=gone[0], passage=mine
            ),
            example("d-2", [asked[1]], others, tenant=tenant, dataset=""),
        ],
    )
    world.block(tenant, mine.encode())
    places = " ".join(world.holding(mine))
    for there in (f"headrace/documents/{tenant}/{version}", "headrace-vectors/chunks.lance/data/", "lake/", "deadbeef0000/train"):
        assert there in places, places

    proof = forget(world.runner, Subject(DOCUMENT, tenant, "cabinet.md"), who=WHO, embedded=True)

    assert world.holding(mine) == []
    counts = removed(proof)
    assert counts["documents (object) removed"] == 2
    assert counts["documents (table) removed"] == 2
    assert counts["interactions (table) emptied"] == 1
    assert counts["feedback (table) emptied"] == 1
    assert counts["examples (table) removed"] == 2
    assert counts["chunks (vector) removed"] == counts["chunks (table) removed"] >= 2
    source = next(one for one in proof["removed"] if (one["store"], one["tier"]) == ("documents", "object"))
    assert version in source["sha256"]
    # The answer is still known, and what it was judged; only words are gone.
    (row,) = world.rows(INTERACTION_ROWS, answer_id="d-1")
    assert (row["question"], row["answer"], row["prompt_tokens"]) == ("where?", "", [])
    assert row["passages"][0]["document"] == "cabinet.md"
    (said,) = world.rows(FEEDBACK_ROWS, answer_id="d-1")
    assert (said["up"], said["reason"], said["correction"]) == (True, "", "")
    assert [one["answer"] for one in world.rows(INTERACTION_ROWS, answer_id="d-2")] == [f"this about {others}"]
    assert [one["answer"] for one in world.rows(INTERACTION_ROWS, answer_id="d-3")] == [f"this about {others}"]
    # Other documents answer as before, by words and by embedding.
    vectors = VectorReader(CHUNKS, world.endpoints, METER)
    assert {hit.uri for hit in vectors.fulltext("drawer pumps cabinet", tenant=tenant, most=9)} == {"copy.md", "other.md"}
    assert {row["uri"] for row in world.rows(CHUNK_ROWS, tenant=tenant)} == {"copy.md", "other.md"}
    assert [row["answer_id"] for row in world.rows(EXAMPLES, dataset="deadbeef0000")] == ["d-2"]
    assert pq.read_table(io.BytesIO(world.objects(DATASETS).get(files[0]["key"]))).num_rows == 1
    assert proof["subject"]["document_id"] in world.runner.run(suppressed).documents
    # The next pass over the documents finds it deleted, and nothing to parse.
    done = world.runner.run(parse, limits=ParseLimits.from_settings(Inference()))
    assert (done.parsed, done.deleted, done.failed) == (0, 1, ())
    lookup = DocumentLookup(world.runner.metadata, world.table(DOCUMENT_ROWS))
    lookup.follow()
    assert proof["subject"]["document_id"] not in lookup.live()
    assert forget(world.runner, Subject(DOCUMENT, tenant, "cabinet.md"), who=WHO)["sha256"] == proof["sha256"]


@pytest.mark.parametrize("slow", [False, True])
def test_a_document_that_is_being_parsed_does_not_come_back(world: World, monkeypatch: pytest.MonkeyPatch, slow: bool) -> None:
    """A pass has read it, or a parser has it for the passes to come, when the proof says that nothing was found."""
    tenant, mine = f"parsed-{slow}".lower(), f"parsedquux{slow}".lower()
    limits = ParseLimits.from_settings(Inference())
    world.runner.run(land)
    world.runner.run(parse, limits=limits)  # what other tests have put
    for uri, text in (("mine.md", f"# Mine\n\nThe {mine} is parsed."), ("other.md", "# Other\n\nThis is of another one.")):
        world.runner.run(put_document, tenant=tenant, uri=uri, data=text.encode())
    world.runner.run(land)
    proofs: list[dict[str, Any]] = []

    def forgotten() -> bool:
        proofs.append(forget(world.runner, Subject(DOCUMENT, tenant, "mine.md"), who=WHO, embedded=True))
        return True

    with closing(Parsing()) as parsing:
        if slow:
            with monkeypatch.context() as patch:
                patch.setattr("headrace.documents.parse._SLICE_S", -60.0)
                assert world.runner.run(parse, limits=limits, seconds=60.0, parsing=parsing, waits=False).left
            forgotten()
        else:
            with pytest.raises(LostRace):
                world.runner.run(parse, limits=limits, seconds=60.0, soon_s=0.0, gives_way=lambda _: forgotten())
        while world.runner.run(parse, limits=limits, seconds=60.0, parsing=parsing).left:
            pass
    assert len(proofs) == 1
    assert world.holding(mine) == []
    assert [row["uri"] for row in world.rows(DOCUMENT_ROWS, tenant=tenant, status="parsed")] == ["other.md"]


def test_a_document_that_is_being_split_does_not_come_back(world: World) -> None:
    tenant, mine = "split", "splitquux"
    world.runner.run(put_document, tenant=tenant, uri="mine.md", data=f"# Mine\n\nThe {mine} is split.".encode())
    world.runner.run(land)
    world.runner.run(parse, limits=ParseLimits.from_settings(Inference()))

    class Late(Splitting):
        def go_on(self, *given: Any) -> Any:
            made = super().go_on(*given)
            forget(world.runner, Subject(DOCUMENT, tenant, "mine.md"), who=WHO, embedded=True)
            return made

    with pytest.raises(LostRace):
        world.runner.run(chunk, window=200, generation=1, splitting=Late())
    world.runner.run(chunk, window=200, generation=1)
    assert world.holding(mine) == []


def test_bytes_that_another_document_has_stay_its_own(world: World) -> None:
    text = "# Twin\n\nBoth of these files say the very same thing about the sluice."
    world.documents({"one.md": text, "two.md": text}, tenant="twins")
    proof = forget(world.runner, Subject(DOCUMENT, "twins", "one.md"), who=WHO)
    (key,) = remaining(proof, "documents (object)")["keys"]
    assert "puts the file again" in remaining(proof, "the folder or bucket it was in")["why"]
    assert world.objects(DOCUMENTS).get(key) == text.encode()
    assert {row["uri"] for row in world.rows(CHUNK_ROWS, tenant="twins")} == {"two.md"}
    copies = remaining(proof, "other documents")
    assert (copies["what"], copies["documents"]) == ("passages word for word in two.md", {"two.md": 1})


def test_what_nobody_knows_is_said(world: World) -> None:
    with pytest.raises(NotFound, match="Nothing is known about user 'nobody'"):
        forget(world.runner, Subject(USER, "acme", "nobody"), who=WHO)
    assert world.rows(SUPPRESSIONS, name="nobody") == []


def killed(world: World, kind: str, name: str, last: str, wait_s: float = 0.0) -> None:
    """Forget in another process, which is killed as it ends a stage, or so many seconds after it began it."""
    ForkedProcess(victims.forgetting, world.endpoints, Subject(kind, "killed", name), last, wait_s, FOLLOWED_S).killed()


@pytest.mark.parametrize(
    "stages",
    [
        pytest.param(("purge",), id="some"),
        pytest.param(
            ("suppress", "note", "strike_examples", "strike_user", "close"), id="others", marks=pytest.mark.soak(minutes=0.5)
        ),
    ],
)
def test_a_kill_is_made_good(world: World, stages: tuple[str, ...]) -> None:
    words = {last: f"wordof{last.replace('_', '')}" for last in stages}
    said = [interaction(f"k-{last}", f"kim-{last}", words[last], tenant="killed", minute=1) for last in stages]
    judged = [verdict(f"k-{last}", f"kim-{last}", words[last], tenant="killed", minute=2) for last in stages]
    places = zip(world.say(INTERACTIONS, said), world.say(FEEDBACK, judged), strict=True)
    events = {last: list(pair) for last, pair in zip(stages, places, strict=True)}
    world.runner.run(land)
    for last in stages:
        learned = example(f"k-{last}", events[last], words[last], tenant="killed", dataset="", user=f"kim-{last}")
        world.dataset(f"{last}0", [learned])
    for last in stages:
        user, mine = f"kim-{last}", words[last]
        killed(world, USER, user, last, 0.2 if last == "purge" else 0.0)
        if last not in ("purge", "close"):
            assert world.holding(mine) != [], last
        proof = forget(world.runner, Subject(USER, "killed", user), who=WHO)
        assert world.holding(mine) == [], last
        # Whatever the killed process had removed is in the proof.
        counts = removed(proof)
        assert [counts[f"{name} (table) removed"] for name in ("interactions", "feedback", "examples")] == [1, 1, 1], last
        assert proof["begun_by"] == "cli:killed", last
        assert len(world.rows(SUPPRESSIONS, name=user)) == 1, last
        assert set(proof["suppressed"]["events"]) == set(events[last]), last
        kept = [info.key for info in world.objects(PROOFS).list(proof["id"].partition("/")[0] + "/")]
        assert kept == [f"{proof['id']}.json"], last


@pytest.mark.parametrize("wait_s", [pytest.param(wait_s, marks=pytest.mark.soak(minutes=0.5)) for wait_s in (0.3, 0.8)])
def test_a_kill_inside_the_index_is_made_good(world: World, wait_s: float) -> None:
    uri, mine = f"note-{wait_s}.md", f"indexword{int(10 * wait_s)}"
    stays = f"stays-{wait_s}.md"
    texts = {uri: f"# Note\n\nHere {mine} stands beside the governor.", stays: f"# Stays\n\nThe governor of {wait_s}."}
    world.documents(texts, tenant="killed")
    killed(world, DOCUMENT, uri, "strike_stored", wait_s)
    proof = forget(world.runner, Subject(DOCUMENT, "killed", uri), who=WHO)
    assert world.holding(mine) == []
    counts = removed(proof)
    assert counts["documents (object) removed"] == counts["documents (table) removed"] == counts["chunks (vector) removed"] == 1
    found = VectorReader(CHUNKS, world.endpoints, METER).fulltext("governor", tenant="killed", most=9)
    assert {hit.uri for hit in found} - {"stays-0.3.md", "stays-0.8.md"} == set()
    assert stays in {hit.uri for hit in found}


def test_what_a_dead_writer_left_goes_too(world: World) -> None:
    mine = "strayword"
    world.say(INTERACTIONS, [interaction("s-1", "sam", mine, tenant="orphan", minute=1)])
    world.runner.run(land)
    table = world.table(INTERACTION_ROWS)
    assert isinstance(table.format, IcebergTable)
    iceberg = table.format.reload()
    rows = table.read(where="tenant = 'orphan'")
    with iceberg.io.new_output(f"{iceberg.location()}/data/00000-0-dead.parquet").create() as stream:
        pq.write_table(rows, stream)  # written, and never committed
    assert any(name.endswith("dead.parquet") for name in world.holding(mine))
    forget(world.runner, Subject(USER, "orphan", "sam"), who=WHO)
    assert world.holding(mine) == []
    assert len(table.format.reload().metadata.snapshots) == 1


def test_landing_goes_on_meanwhile(world: World, within: Callable[[float, Callable[[], bool]], bool]) -> None:
    """A lander commits while rows are taken out: none of its events is lost, and none of the user's stays."""
    stop = threading.Event()
    sent: list[str] = []

    def write() -> None:
        while not stop.is_set():
            user = "gone" if len(sent) % 2 else "stays"
            sent.append(f"l-{len(sent)}")
            world.say(INTERACTIONS, [interaction(sent[-1], user, "words", tenant="busy", minute=1)])
            world.runner.run(land)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert within(30, lambda: len(sent) >= 4)
        rows = world.table(INTERACTION_ROWS)
        taken = rows.rewrite(("tenant", "user"), Subject(USER, "busy", "gone").own_interactions)
    finally:
        stop.set()
        writer.join()
    assert taken >= 1
    rows.rewrite(("tenant", "user"), Subject(USER, "busy", "gone").own_interactions)
    kept = [row["answer_id"] for row in world.rows(INTERACTION_ROWS, tenant="busy")]
    assert sorted(kept) == sorted(sent[::2])
