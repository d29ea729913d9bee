"""The slide level: what it leaves out is counted, what it shows a guest can read, on recorded runs of both pipelines."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.catalog import CHUNKS, KV_STORES, Tier
from headrace.catalog import STORES as CATALOG
from headrace.core.run import Run
from headrace.errors import NotFound
from headrace.explain.diagram.diagram import Diagram, diagram_for
from headrace.explain.diagram.draw import draw
from headrace.explain.diagram.flow import Flow
from headrace.explain.diagram.format import grown, human_bytes, human_s
from headrace.explain.diagram.recorded import PIPELINES, diagram_of
from headrace.explain.diagram.scene import Box, Label, Rect, Scene
from headrace.explain.diagram.slide import STAGES, STORES, STORIES, TITLES, slide
from headrace.explain.diagram.theme import DARK, LIGHT
from headrace.explain.diagram.time_axis import TimeAxis
from headrace.explain.diagram.time_view import waits
from headrace.explain.diagram.title import facts_of
from headrace.explain.diagram.views import Detail, View, scene_for
from headrace.storage.ledger import Direction

RECORDED = Path(__file__).parent / "recorded"
RUNS: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_text()) for path in sorted(RECORDED.glob("*.json"))}
NAMES = list(PIPELINES)
CASES = [(run, name) for run in RUNS for name in NAMES]


def of(run: str, name: str, **changed: Any) -> Diagram:
    journal: Mapping[str, Any] = RUNS[run] | changed
    return diagram_for(
        PIPELINES[name],
        journal["rows"],
        run_id=journal["run"],
        when=datetime.fromisoformat(journal["started"]),
        command=f"headrace {journal['command']}",
        journal=journal,
    )


def items(scene: Scene, kind: type, *kinds: str) -> list[Any]:
    return [i for g in scene.groups for i in g.items if isinstance(i, kind) and (not kinds or g.kind in kinds)]


def shrunk(box: Box) -> Box:
    return Box(box.x + 0.02, box.y + 0.02, box.width - 0.04, box.height - 0.04)


def check(scene: Scene) -> None:
    """What every picture of slide level keeps to."""
    assert (scene.width, scene.height) == (960, 540), "13.33 × 7.5 inches in points"
    whole = Box(-0.01, -0.01, 960.02, 540.02)
    texts = [text for text in items(scene, Label) if text.text]
    for text in texts:
        assert text.size >= 12, text.text
        box, bounds = text.box, text.bounds
        assert box.x >= bounds.x - 0.02, text
        assert box.right <= bounds.right + 0.02, text
        assert whole.x <= box.x, text
        assert box.right <= whole.right, text
        assert box.y >= whole.y, text
        assert box.bottom <= whole.bottom, text
    for one, other in combinations(texts, 2):
        assert not shrunk(one.box).meets(shrunk(other.box)), (one.text, other.text)
    solid = [rect.box for rect in items(scene, Rect, "stage", "bar", "flow") if rect.box.height > 18.5]
    for one, other in combinations(solid, 2):
        assert not shrunk(one).meets(shrunk(other)), (one, other)


@pytest.mark.parametrize(("run", "name"), CASES)
@pytest.mark.parametrize("view", list(View))
def test_every_view_of_a_recorded_run_fits_a_slide_without_overlaps(run: str, name: str, view: View) -> None:
    check(scene_for(of(run, name), view=view))
    check(scene_for(of(run, name), view=view, triggers=False, palette=DARK))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("view", list(View))
def test_a_pipeline_that_has_not_run_is_drawn_without_numbers(name: str, view: View) -> None:
    diagram = diagram_for(PIPELINES[name], ())
    assert not diagram.measured
    scene = scene_for(diagram, view=view)
    check(scene)
    assert not any(re.search(r"\d [KMG]?B\b", text.text) for text in items(scene, Label))
    assert "nothing is measured yet" in scene.title
    assert {stage.name for stage in slide(diagram).diagram.stages} == {step.title for step in STORIES[name]}
    scene_for(diagram, view=view, detail=Detail.FULL)


@pytest.mark.parametrize(("run", "name"), CASES)
def test_what_is_shown_gathered_and_beside_is_the_ledger(run: str, name: str) -> None:
    diagram = of(run, name)
    short = slide(diagram)
    shown = sum(flow.bytes for flow in short.diagram.flows)
    gathered = sum(flow.bytes for flow in short.gathered)
    assert shown + gathered == sum(flow.bytes for flow in diagram.flows)
    beside = sum(flow.bytes for flow in short.diagram.beside)
    assert shown + gathered + beside == sum(row["bytes"] for row in RUNS[run]["rows"])
    scene = scene_for(diagram)
    assert len(items(scene, Rect, "flow")) == len(short.diagram.flows), "all of the slide fits"
    note = f"+ {len(short.gathered)} small flows, {human_bytes(gathered)}"
    assert any(text.text.startswith(note) for text in items(scene, Label, "note"))


@pytest.mark.parametrize(("run", "name"), CASES)
def test_the_lanes_totals_and_the_stream_are_the_pipelines_bytes(run: str, name: str) -> None:
    diagram = of(run, name)
    texts = {text.text for text in items(scene_for(diagram), Label, "lane")}
    for tier in (Tier.FILE, Tier.VECTOR, Tier.TABLE, Tier.OBJECT):
        total = sum(flow.bytes for flow in diagram.flows if flow.tier is tier)
        if total and tier in {flow.tier for flow in slide(diagram).diagram.flows}:
            assert human_bytes(total) in texts


@pytest.mark.parametrize(("run", "name"), CASES)
def test_a_slide_is_short_and_nothing_on_it_moved_nothing(run: str, name: str) -> None:
    drawn = slide(of(run, name)).diagram
    assert len(drawn.stages) <= STAGES
    assert len({flow.key for flow in drawn.flows}) <= STORES
    assert all(flow.bytes for flow in drawn.flows)
    largest = max(flow.bytes for flow in of(run, name).flows)
    kept = {(flow.tier, flow.store) for flow in drawn.flows}
    titles = {(store.tier, store.name): title for store, title in TITLES.items()}
    for flow in of(run, name).flows:
        if flow.bytes >= largest / 100:
            assert (flow.tier, titles[flow.key]) in kept


def test_a_guest_reads_titles_and_no_internal_names() -> None:
    titled = {(store.tier, store.name) for store in TITLES}
    for name in NAMES:
        drawn = slide(diagram_for(PIPELINES[name], ())).diagram
        assert {flow.store for flow in drawn.flows} <= set(TITLES.values())
        for step in STORIES[name]:
            assert {(store.tier, store.name) for store, _ in step.flows} <= titled
            assert set(step.stages) <= {stage.name for stage in PIPELINES[name].stages}
    assert not {store.name for store in CATALOG} & {title for title in TITLES.values() if "-" in title}


def test_the_kv_cache_of_every_backend_is_drawn_and_has_a_title() -> None:
    (generate,) = (step for step in STORIES["inference"] if step.title == "Generate")
    assert set(generate.flows) >= {(store, direction) for store in KV_STORES for direction in Direction}
    assert {TITLES.get(store) for store in KV_STORES} == {"KV cache"}


def test_every_stage_of_a_pipeline_belongs_to_one_step_of_its_story() -> None:
    for name in NAMES:
        of_steps = [stage for step in STORIES[name] for stage in step.stages]
        assert sorted(of_steps) == sorted(stage.name for stage in PIPELINES[name].stages)


def test_small_flows_of_the_story_are_drawn_and_others_gathered() -> None:
    run = next(iter(RUNS))
    diagram = of(run, "training")
    short = slide(diagram)
    keys = {(flow.stage, flow.store, flow.direction) for flow in short.diagram.flows}
    assert ("Promote", "Manifests", Direction.WRITE) in keys
    short = slide(of(run, "inference"))
    assert "Index versions" not in {flow.store for flow in short.diagram.flows}
    assert "Index versions" in {flow.store for flow in short.gathered}


def test_a_kv_cache_in_objects_is_drawn_in_their_lane_under_the_same_name() -> None:
    rows = [{**row, "tier": "object"} if row["store"] == "kv-cache" else row for row in RUNS["demo"]["rows"]]
    on_files, in_objects = of("demo", "inference"), of("demo", "inference", rows=rows)

    def drawn(diagram: Diagram) -> dict[tuple[Tier, Direction], int]:
        flows = slide(diagram).diagram.flows
        return {
            (flow.tier, flow.direction): flow.bytes for flow in flows if flow.store == "KV cache" and flow.stage == "Generate"
        }

    assert drawn(on_files)
    assert drawn(in_objects) == {(Tier.OBJECT, way): moved for (_, way), moved in drawn(on_files).items()}
    for view in View:
        check(scene_for(in_objects, view=view))
    scene = scene_for(in_objects, detail=Detail.FULL)
    assert any("kv-cache" in group.name or "kv-cache" in group.alt for group in scene.groups)


def test_a_stage_that_did_not_run_is_not_drawn() -> None:
    run = next(iter(RUNS))
    rows = [row for row in RUNS[run]["rows"] if row["stage"] in {"retrieve", "answer"}]
    times = [time for time in RUNS[run]["timeline"] if time["stage"] in {"retrieve", "answer"}]
    diagram = of(run, "inference", rows=rows, timeline=times)
    assert [stage.name for stage in slide(diagram).diagram.stages] == ["Retrieve", "Record"]
    check(scene_for(diagram))


def test_a_pipeline_without_a_story_keeps_the_stages_that_moved_most() -> None:
    from test_explain_diagram_scene import diagram_from

    lines = "\n".join(f"s{at}: w object store-{at}, r table other-{at}" for at in range(12))
    diagram = replace(diagram_from(lines), name="another")
    short = slide(diagram)
    assert len(short.diagram.stages) == STAGES
    assert len({flow.key for flow in short.diagram.flows}) <= STORES
    moved = sum(flow.bytes for flow in (*short.diagram.flows, *short.gathered))
    assert moved == sum(flow.bytes for flow in diagram.flows)


def test_what_was_rejected_says_so() -> None:
    run = next(iter(RUNS))
    for promoted, word in ((True, "outcome: promoted"), (False, "outcome: rejected")):
        scene = scene_for(of(run, "training", detail={"round": {"promoted": promoted}}))
        assert word in {text.text for text in items(scene, Label, "stage")}


def test_a_command_that_only_touches_a_pipeline_is_not_drawn_for_it(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    small = {
        **RUNS["tiny"],
        "run": "20990101-000000-feedback-0000",
        "command": "feedback",
        "timeline": [],
        "started": "2099-01-01T00:00:00+00:00",
    }
    small["rows"] = [row for row in RUNS["tiny"]["rows"] if row["stage"] == "feedback"]
    for journal in (RUNS["tiny"], small):
        (tmp_path / "runs" / f"{journal['run']}.json").write_text(json.dumps(journal))
    assert diagram_of(tmp_path, "inference").run_id == RUNS["tiny"]["run"]
    assert diagram_of(tmp_path, "inference", run=small["run"]).run_id == small["run"]
    assert not diagram_of(tmp_path / "another", "inference").measured
    with pytest.raises(NotFound):
        diagram_of(tmp_path, "inference", run="nope")


def test_a_pass_that_found_nothing_new_is_not_drawn(tmp_path: Path) -> None:
    """`headrace up` begins with one, and hid what the demo had measured."""
    (tmp_path / "runs").mkdir()
    up = RUNS["tiny"] | {
        "run": "20990101-000000-up-0000",
        "command": "up",
        "timeline": [],
        "started": "2099-01-01T00:00:00+00:00",
    }
    looked = [row for row in RUNS["tiny"]["rows"] if (row["stage"], row["direction"]) == ("embed", "read")]
    assert looked
    for journal in (RUNS["tiny"], up | {"rows": looked}):
        (tmp_path / "runs" / f"{journal['run']}.json").write_text(json.dumps(journal))
    assert diagram_of(tmp_path, "inference").run_id == RUNS["tiny"]["run"]
    live = Run("up", tmp_path / "runs", id="20990101-000000-up-0000")
    live.ledger.count("embed", CHUNKS, Direction.READ, bytes=1_982, seconds=0.1)
    assert diagram_of(tmp_path, "inference", live=live).run_id == RUNS["tiny"]["run"]
    live.ledger.count("retrieve", CHUNKS, Direction.READ, bytes=40_000, seconds=0.1)
    assert diagram_of(tmp_path, "inference", live=live).run_id == live.id, "it has been asked since"


def test_the_storage_is_named_where_the_run_names_it() -> None:
    run = next(iter(RUNS))
    storage = {"object": "S3 at storage.example:9000", "table": "VAST DB at vast.example"}
    full = scene_for(of(run, "training", storage=storage), detail=Detail.FULL)
    assert any("VAST DB at vast" in text.text for text in items(full, Label, "lane"))
    assert any("S3 at storage.example:9000" in group.alt for group in full.groups if group.kind == "lane")


def test_facts_are_the_runs() -> None:
    run = next(iter(RUNS))
    facts = " · ".join(facts_of(of(run, "inference")))
    counts = RUNS[run]["counts"]
    assert f"{counts['documents']} documents · {counts['questions']} questions, " in facts
    assert "1 round, " in " · ".join(facts_of(of(run, "training")))
    assert facts_of(diagram_for(PIPELINES["training"], ())) == ()
    old = of(run, "inference", counts={})
    assert "question" not in " ".join(facts_of(old))


# time


def test_times_are_drawn_for_each_stage_with_bytes_by_tier() -> None:
    run = next(iter(RUNS))
    diagram = of(run, "training")
    scene = scene_for(diagram, view=View.TIME, detail=Detail.FULL)
    rows = [group for group in scene.groups if group.kind == "row"]
    ran = {time.stage for time in diagram.times}
    expected = [stage.label if stage.name in ran else f"{stage.label} did not run" for stage in diagram.stages]
    assert [row.alt.split(":")[0] for row in rows] == expected
    for row, stage in zip(rows, diagram.stages, strict=True):
        if stage.name not in ran:
            continue
        texts = {item.text for item in row.items if isinstance(item, Label)}
        time = next(time for time in diagram.times if time.stage == stage.name)
        assert human_s(time.active_s) in texts
        for tier in Tier:
            moved = sum(flow.bytes for flow in diagram.flows if flow.stage == stage.name and flow.tier is tier)
            assert not moved or human_bytes(moved) in texts
        assert time.compute_s + min(time.storage_s, time.active_s) == pytest.approx(time.active_s)


def test_blocks_are_as_long_as_the_work_and_their_lower_part_is_storage() -> None:
    run = next(iter(RUNS))
    diagram = of(run, "training")
    scene = scene_for(diagram, view=View.TIME, detail=Detail.FULL)
    (row,) = [group for group in scene.groups if group.kind == "row" and group.alt.startswith("Finetune")]
    work = [item.box for item in row.items if isinstance(item, Rect) and item.fill == LIGHT.faint]
    (row,) = [group for group in scene.groups if group.kind == "row" and group.alt.startswith("Evaluate")]
    other = [item.box for item in row.items if isinstance(item, Rect) and item.fill == LIGHT.faint]
    seconds = {time.stage: time.active_s for time in diagram.times}
    assert work[0].width / other[0].width == pytest.approx(seconds["finetune"] / seconds["evaluate"], rel=0.02)
    (row,) = [group for group in scene.groups if group.kind == "row" and group.alt.startswith("Promote")]
    rects = [item for item in row.items if isinstance(item, Rect)]
    work, stored = ([rect.box for rect in rects if rect.fill == fill] for fill in (LIGHT.faint, LIGHT.write))
    ((start, end, _, stored_s, _),) = next(time for time in diagram.times if time.stage == "promote").spans
    assert stored[0].height / work[0].height == pytest.approx(stored_s / (end - start), rel=0.02)
    assert stored[0].bottom == pytest.approx(work[0].bottom)


def test_gaps_between_calls_are_drawn_neither_as_compute_nor_as_storage() -> None:
    made = of("tiny", "training")
    times = [
        replace(time, active_s=2.0, storage_s=0.5, spans=((0.0, 8.0, 100, 0.5, 2.0),)) if time.stage == "land" else time
        for time in made.times
    ]
    scene = scene_for(replace(made, times=tuple(times)), view=View.TIME, detail=Detail.FULL)
    (row,) = [group for group in scene.groups if group.kind == "row" and group.alt.startswith("Land")]
    frame, work, stored = (item.box for item in row.items if isinstance(item, Rect))
    assert work.height / frame.height == pytest.approx(2 / 8)
    assert stored.height / frame.height == pytest.approx(0.5 / 8)
    assert (frame.width, frame.bottom) == (work.width, pytest.approx(work.bottom)) == (stored.width, pytest.approx(stored.bottom))
    assert "between calls" in {text.text for text in items(scene, Label, "key")}


def test_the_times_of_an_older_journal_are_drawn_as_they_were() -> None:
    assert all(len(span) == 4 for one in RUNS["tiny"]["timeline"] for span in one["spans"])
    for time in of("tiny", "training").times:
        assert all(active == end - start for start, end, _, _, active in time.spans)


def test_the_title_that_drawing_says_is_that_of_the_view(tmp_path: Path) -> None:
    made = of("tiny", "training")
    titles = [draw(made, tmp_path / "picture.svg", view=view) for view in (View.STORAGE, View.TIME)]
    assert titles == [scene_for(made, view=view).title for view in (View.STORAGE, View.TIME)]
    assert titles[1].startswith("Training: storage was under way for")
    assert titles[1] in (tmp_path / "picture.svg").read_text()


def test_a_long_pause_is_cut_and_said() -> None:
    diagram = of("tiny", "training")
    land = next(time for time in diagram.times if time.stage == "land")
    pause = land.spans[1][0] - land.spans[0][1]
    texts = {text.text for text in items(scene_for(diagram, view=View.TIME), Label, "axis")}
    assert f"{human_s(pause)} pause" in texts


@given(st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 1e4)), min_size=1, max_size=30))
def test_an_axis_keeps_the_order_of_times_and_its_ends(spans: list[tuple[float, float]]) -> None:
    work = [(start, start + length) for start, length in spans]
    axis = TimeAxis(work, 100, 600, 20)
    times = sorted({time for span in work for time in span})
    places = [axis.x(time) for time in times]
    assert places == sorted(places)
    assert places[0] == pytest.approx(100)
    assert places[-1] <= 600.001
    assert all(100 <= axis.x(tick) <= 600.001 for tick in axis.ticks())
    for before, after in axis.pauses:
        assert after.left - before.right == pytest.approx(20)
        assert not any(before.end < start < after.start for start, _ in work)


def test_each_stage_waits_for_the_last_to_end_of_those_that_feed_it() -> None:
    run = next(iter(RUNS))
    found = waits(of(run, "training"))
    assert "land" not in found
    assert (found["finetune"], found["evaluate"], found["promote"]) == ("prepare", "finetune", "evaluate")
    found = waits(of(run, "inference"))
    assert (found["parse"], found["embed"], found["retrieve"]) == ("land", "chunk", "index")


def test_a_run_without_times_has_no_view_of_time() -> None:
    run = next(iter(RUNS))
    with pytest.raises(NotFound, match="older Headrace"):
        scene_for(of(run, "training", timeline=[]), view=View.TIME)


# ray


def test_rays_libraries_are_those_that_the_signatures_name() -> None:
    run = next(iter(RUNS))
    scene = scene_for(of(run, "training"), view=View.RAY)
    captions = {
        group.alt.split(",")[0]: [item.text for item in group.items if isinstance(item, Label)][-1]
        for group in scene.groups
        if group.kind == "stage"
    }
    assert captions["Build dataset"] == "Ray Data"
    assert captions["Fine-tune"] == "Ray Train"
    assert captions["Evaluate"] == "driver"
    assert any("did not use Ray" in note for note in scene.notes)
    used = {"nodes": 2, "cpus": 4.0, "object_store_bytes": 256_000_000, "spilled_bytes": 12_000_000}
    notes = " ".join(scene_for(of(run, "training", ray=used), view=View.RAY).notes)
    assert "256 MB of shared memory on 2 nodes; of Ray Data's results 12 MB were spilled to local disk" in notes
    where = used | {"spill_dir": "/mnt/nvme/spill", "storage_path": "/mnt/nfs/ray"}
    notes = " ".join(scene_for(of(run, "training", ray=where), view=View.RAY).notes)
    assert "12 MB were spilled to /mnt/nvme/spill" in notes
    assert "Ray's storage_path, /mnt/nfs/ray, has its notes" in notes


def test_what_ray_wrote_itself_is_drawn_in_its_view_alone() -> None:
    run = next(iter(RUNS))
    own = [
        {"stage": stage, "store": store, "tier": "file", "direction": "write", "ops": 3, "bytes": size, "p95_ms": 0.0}
        | {"estimated": True}
        for stage, store, size in (("prepare", "ray-spill", 12_000_000), ("finetune", "ray-storage", 4_000))
    ]
    diagram = of(run, "training", rows=[*RUNS[run]["rows"], *own])
    scenes = {view: scene_for(diagram, view=view, detail=Detail.FULL) for view in (View.STORAGE, View.RAY)}
    alts = {view: " ".join(group.alt for group in scene.groups if group.kind == "flow") for view, scene in scenes.items()}
    for store in ("ray-spill", "ray-storage"):
        assert store in alts[View.RAY]
        assert store not in alts[View.STORAGE]


# compared


def halved(diagram: Diagram) -> Diagram:
    flows = [replace(flow, bytes=flow.bytes // 2) for flow in diagram.flows if flow.store != "rounds"]
    times = [replace(time, active_s=time.active_s / 2) for time in diagram.times]
    return replace(
        diagram,
        flows=(*flows, Flow("land", "models", Tier.OBJECT, Direction.WRITE, 5_000_000, 3, 1.0)),
        headline=replace(diagram.headline, text="Half", holds=lambda moved: True),
        run_id="20260101-000000-demo-0000",
        times=tuple(times),
    )


def test_a_comparison_says_what_grew_what_shrank_and_what_is_gone() -> None:
    diagram = of("tiny", "training")
    compared = diagram.compared(halved(diagram))
    flows = {(flow.stage, flow.store, flow.direction): flow for flow in compared.flows}
    grew = flows["finetune", "checkpoints", Direction.WRITE]
    assert grew.before == grew.bytes // 2
    assert flows["promote", "rounds", Direction.WRITE].before == 0
    gone = flows["land", "models", Direction.WRITE]
    assert (gone.bytes, gone.ops, gone.before) == (0, 0, 5_000_000)
    moved = human_bytes(sum(flow.bytes for flow in diagram.flows))
    assert re.fullmatch(rf"Training moved {moved}, \d+ % more than in 20260101-000000-demo-0000", compared.title)
    scene = scene_for(compared)
    check(scene)
    chips = {text.text for text in items(scene, Label, "flow")}
    assert {"+100 %", "gone"} <= chips
    check(scene_for(compared, view=View.TIME))
    assert any(text.text.endswith(", +100 %") for text in items(scene_for(compared, view=View.TIME), Label, "row"))
    assert any("(+100 %, before" in group.alt for group in scene_for(compared, detail=Detail.FULL).groups)


@pytest.mark.parametrize(
    ("factor", "words"),
    [(1, "exactly as much as in"), (0.999, "about as much as in"), (0.1, "10 times as much as in"), (1.25, "20 % less than in")],
)
def test_a_comparison_in_words(factor: float, words: str) -> None:
    diagram = of("demo", "training")
    flows = tuple(replace(flow, bytes=round(flow.bytes * factor)) for flow in diagram.flows)
    other = replace(diagram, flows=flows, headline=replace(diagram.headline, holds=lambda moved: True), run_id="r0")
    assert words in diagram.compared(other).title


@pytest.mark.parametrize(
    ("now", "before", "words"),
    [
        (5, 5, "="),
        (5, 0, "new"),
        (0, 5, "gone"),
        (112, 100, "+12 %"),
        (97, 100, "−3 %"),
        (420, 100, "×4.2"),
        (10**9, 1, "×9,999"),
        (1_000_001, 1_000_000, "±0 %"),
    ],
)
def test_changes_in_words(now: int, before: int, words: str) -> None:
    assert grown(now, before) == words


def test_seconds_in_words() -> None:
    assert [human_s(s) for s in (0.2, 12.34, 112.4, 750, 9000)] == ["200 ms", "12.3 s", "112 s", "12.5 min", "2.5 h"]
