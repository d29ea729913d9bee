"""The picture itself: nothing touches, nothing is clipped, and numbers never move anything."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from itertools import combinations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.catalog import Tier
from headrace.explain.diagram import theme
from headrace.explain.diagram.arrange import LANES
from headrace.explain.diagram.diagram import Diagram
from headrace.explain.diagram.flow import Flow, Mark, StageBox
from headrace.explain.diagram.geometry import PAGE, SLIDE, Scale
from headrace.explain.diagram.headline import Headline
from headrace.explain.diagram.layout import storage_scene
from headrace.explain.diagram.scene import Box, Group, Label, Line, Rect, Scene
from headrace.explain.diagram.theme import DARK
from headrace.storage.ledger import Direction

READ, WRITE = Direction.READ, Direction.WRITE
AHEAD, ASKED = "ahead of time", "at question time"
EPSILON = 0.02
SIZES = [0, 3, 999, 999_499, 48_200_000, 310_000, 1_300_000_000_000, 888_800_000]
TIMES = [0.0, 0.02, 0.1, 3.4, 44.0, 850.0, 12_000.0, 88_800.0, 900_000.0]


def flows_of(text: str) -> list[Flow]:
    """Flows from lines like `parse: r table documents, w object models`."""
    flows = []
    for line in text.strip().splitlines():
        stage, ports = line.split(":")
        for port in filter(None, (part.strip() for part in ports.split(","))):
            direction, tier, store = port.split()
            flows.append(Flow(stage.strip(), store, Tier(tier), READ if direction == "r" else WRITE))
    return flows


def diagram_from(
    text: str, phases: dict[str, str] | None = None, *, shift: int = 0, name: str = "training", estimated: bool = False
) -> Diagram:
    names = dict.fromkeys(line.split(":")[0].strip() for line in text.strip().splitlines())
    flows = [
        replace(
            flow,
            bytes=SIZES[(at + shift) % len(SIZES)],
            ops=(at + shift) % 4 * 1000,
            p95_ms=TIMES[(at * 5 + shift) % len(TIMES)],
            estimated=estimated,
        )
        for at, flow in enumerate(flows_of(text))
    ]
    stages = tuple(StageBox(n, n.capitalize(), f"Does {n}.", (phases or {}).get(n, "")) for n in names)
    return made(stages, tuple(flows), name=name)


def made(stages: tuple[StageBox, ...], flows: tuple[Flow, ...], *, name: str = "training") -> Diagram:
    return Diagram(
        name,
        "One sentence.",
        stages,
        flows,
        Headline("Training moved 48.2 MB; 71 % of it is checkpoints", lambda moved: True),
        "20260801-120000-demo-ab12",
        datetime(2026, 8, 1, 12, tzinfo=UTC),
        "headrace demo",
        beside=(Flow("record", "runs", Tier.TABLE, WRITE, 12_000, 1, 3.0),),
        marks=(Mark("feedback", Tier.STREAM, stages[0].name, "when verdicts came in"),),
    )


TRAINING = """
land: r stream interactions, r stream feedback, r stream document-events
land: w table interactions, w table feedback, w table document-events, w table dead-letters
prepare: r table interactions, r table feedback, r table chunks, w table examples, w object datasets
finetune: r object datasets, r object checkpoints, w object checkpoints
evaluate: r object datasets, r object checkpoints, r object models
promote: r object checkpoints, w object models, w object rounds, w table promotions
"""
INFERENCE = """
put: w object documents, w stream document-events
land: r stream document-events, w table document-events
parse: r table document-events, r object documents, w table documents
chunk: r table documents, w table chunks
embed: r table documents, r table chunks, r vector chunks, w vector chunks
index: w vector chunks
retrieve: r vector chunks
rerank: r object models
generate: r file kv-cache, w file kv-cache
answer: w stream interactions
feedback: w stream feedback
"""
PHASES = dict.fromkeys(("put", "land", "parse", "chunk", "embed", "index"), AHEAD) | dict.fromkeys(
    ("retrieve", "rerank", "generate", "answer", "feedback"), ASKED
)
PIPELINES = {
    "training": diagram_from(TRAINING),
    "inference": diagram_from(INFERENCE, PHASES, name="inference"),
    "one stage": diagram_from("land: r stream feedback, w table feedback"),
    "no storage": diagram_from("think:"),
}


def items(scene: Scene, kind: type, *kinds: str) -> list[tuple[Group, Rect | Line | Label]]:
    return [(g, i) for g in scene.groups for i in g.items if isinstance(i, kind) and (not kinds or g.kind in kinds)]


def chips(scene: Scene) -> list[Box]:
    return [i.box for _, i in items(scene, Rect, "flow") if isinstance(i, Rect)]


def shrunk(box: Box) -> Box:
    return Box(box.x + EPSILON, box.y + EPSILON, box.width - 2 * EPSILON, box.height - 2 * EPSILON)


def inside(inner: Box, outer: Box) -> bool:
    return (
        inner.x >= outer.x - EPSILON
        and inner.y >= outer.y - EPSILON
        and inner.right <= outer.right + EPSILON
        and inner.bottom <= outer.bottom + EPSILON
    )


def swept(line: Line) -> Box:
    half = line.width / 2
    return Box(line.x1 - half, min(line.y1, line.y2), line.width, abs(line.y2 - line.y1))


def check(diagram: Diagram, scale: Scale) -> Scene:
    """Everything a picture must keep to."""
    scene = storage_scene(diagram, scale=scale)
    whole = Box(0, 0, scene.width, scene.height)

    # text stays in its box by the font's real widths, and no two texts touch
    texts = [text for _, text in items(scene, Label) if isinstance(text, Label)]
    for text in texts:
        assert inside(text.box, text.bounds), text
        assert inside(text.box, whole), text
        assert text.size >= (11 if scale is PAGE else 12)
    for one, other in combinations(texts, 2):
        assert not shrunk(one.box).meets(shrunk(other.box)), (one.text, other.text)

    # chips: one for each flow, apart from each other, from stages and from bars
    boxes = chips(scene)
    assert len(boxes) == len(diagram.flows)
    solid = [i.box for _, i in items(scene, Rect, "stage", "bar") if isinstance(i, Rect) and i.box.height > scale.caption * 1.6]
    for one, other in combinations(boxes, 2):
        assert not one.meets(other)
    for box in boxes:
        assert inside(box, whole)
        assert not any(box.meets(other) for other in solid)
    for one, other in combinations(solid, 2):
        assert not shrunk(one).meets(shrunk(other))

    # arrows: one for each flow, vertical, from a stage to a bar of the right name, beside every chip but their own
    bars = {tuple(g.alt.split(":")[0].rsplit(" (", 1)): i.box for g, i in items(scene, Rect, "bar") if isinstance(i, Rect)}
    stages = [g.items[0].box for g in scene.groups if g.kind == "stage" and isinstance(g.items[0], Rect)]
    arrows = [(g, i) for g, i in items(scene, Line, "flow", "shaft") if isinstance(i, Line) and i.head]
    assert len(arrows) == len(diagram.flows)
    for group, arrow in arrows:
        assert arrow.x1 == arrow.x2
        flow = next(f for f in diagram.flows if f"{f.store} ({f.tier})" in group.alt and group.alt.startswith(f"{f.stage} "))
        bar = bars[flow.store, f"{flow.tier})"]
        at_bar, at_stage = (arrow.y1, arrow.y2) if " reads " in group.alt else (arrow.y2, arrow.y1)
        assert at_bar == pytest.approx(bar.bottom if flow.tier is Tier.STREAM else bar.y)
        assert bar.x <= arrow.x1 - arrow.width / 2
        assert arrow.x1 + arrow.width / 2 <= bar.right
        assert any(
            box.x < arrow.x1 < box.right and at_stage == pytest.approx(box.y if flow.tier is Tier.STREAM else box.bottom)
            for box in stages
        )
        own = [box for box in boxes if box.x + box.width / 2 == pytest.approx(arrow.x1)]
        assert not any(swept(arrow).meets(box) for box in boxes if box not in own)

    # the name of a bar lies free: no arrow in front of it
    order = {id(group): at for at, group in enumerate(scene.groups)}
    for bar_group, name in items(scene, Label, "bar"):
        assert isinstance(name, Label)
        for group, arrow in arrows:
            if order[id(group)] > order[id(bar_group)]:
                assert not swept(arrow).meets(name.box), (name.text, group.alt)
    return scene


@pytest.mark.parametrize("scale", [PAGE, SLIDE], ids=["page", "slide"])
@pytest.mark.parametrize("name", PIPELINES)
def test_nothing_touches_and_nothing_is_clipped(name: str, scale: Scale) -> None:
    check(PIPELINES[name], scale)


NAMES = st.sampled_from(
    [
        "documents",
        "document-events",
        "dead-letters",
        "kv",
        "checkpoints",
        "a-very-long-store-name-indeed-it-is",
        "模型",
        "feedback",
    ]
)


@st.composite
def pipelines(draw: st.DrawFn) -> Diagram:
    names = draw(
        st.lists(
            st.sampled_from(["put", "land", "parse", "embed", "answer", "reinforce-with-feedback", "x"]),
            min_size=1,
            max_size=6,
            unique=True,
        )
    )
    two = draw(st.booleans())
    stages = tuple(StageBox(n, n.capitalize(), "", (AHEAD if at < 2 else ASKED) if two else "") for at, n in enumerate(names))
    ends = st.tuples(st.sampled_from(names), NAMES, st.sampled_from(list(Tier)), st.sampled_from([READ, WRITE]))
    keys = draw(st.lists(ends, max_size=16, unique=True))
    flows = tuple(
        Flow(
            *key,
            draw(st.sampled_from(SIZES)),
            draw(st.sampled_from([0, 1, 12_400])),
            draw(st.sampled_from(TIMES)),
            draw(st.booleans()),
        )
        for key in keys
    )
    return made(stages, flows)


@given(pipelines(), st.sampled_from([PAGE, SLIDE]))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_any_pipeline_is_drawn_without_overlap(diagram: Diagram, scale: Scale) -> None:
    check(diagram, scale)


def places(scene: Scene) -> list[object]:
    """Every rectangle, and every line's ends: what must stay when numbers change."""
    found: list[object] = [(scene.width, scene.height)]
    for group in scene.groups:
        for item in group.items:
            if isinstance(item, Rect):
                found.append((group.kind, item.box))
            elif isinstance(item, Line):
                found.append((group.kind, item.x1, item.y1, item.x2, item.y2))
    return found


@pytest.mark.parametrize(("text", "phases"), [(TRAINING, {}), (INFERENCE, PHASES)], ids=["training", "inference"])
def test_numbers_alone_move_nothing(text: str, phases: dict[str, str]) -> None:
    first = places(storage_scene(diagram_from(text, phases)))
    for shift in (1, 3, 6):
        assert places(storage_scene(diagram_from(text, phases, shift=shift, estimated=True))) == first
    assert places(storage_scene(diagram_from(text.replace("land: ", "land: r vector vectors, ", 1), phases))) != first


def test_arrow_width_grows_with_the_root_of_bytes() -> None:
    stages = (StageBox("a", "A"),)
    flows = tuple(
        Flow("a", store, Tier.OBJECT, WRITE, size, 1, 1.0)
        for store, size in (("one", 1_000_000), ("four", 4_000_000), ("none", 0))
    )
    scene = storage_scene(made(stages, flows))
    widths = {
        next(s for s in ("one", "four", "none") if f" {s} (" in g.alt): i.width
        for g, i in items(scene, Line, "flow")
        if isinstance(i, Line) and i.head
    }
    assert widths["four"] == PAGE.shaft
    assert widths["one"] == pytest.approx(PAGE.shaft / 2)
    assert 0 < widths["none"] < widths["one"]


def test_inference_needs_no_crossing_and_training_few() -> None:
    def rims(diagram: Diagram) -> int:
        return sum(1 for _, line in items(storage_scene(diagram), Line, "flow") if isinstance(line, Line) and not line.head)

    assert rims(PIPELINES["inference"]) == 0
    assert rims(PIPELINES["training"]) <= 2


def test_lanes_go_from_shallow_to_deep_and_only_tiers_in_use_have_one() -> None:
    scene = storage_scene(PIPELINES["inference"])
    lanes = [
        (g.alt.split()[0].lower(), g.items[0].box.y) for g in scene.groups if g.kind == "lane" and isinstance(g.items[0], Rect)
    ]
    assert [name for name, _ in sorted(lanes, key=lambda lane: lane[1])] == [str(tier) for tier in LANES]
    assert [g.alt.split()[0] for g in storage_scene(PIPELINES["training"]).groups if g.kind == "lane"] == ["Table", "Object"]


def test_bars_that_do_not_overlap_share_a_row() -> None:
    scene = storage_scene(diagram_from("a: w object one\nb: w object two\nc: w object three"))
    rows = Counter(i.box.y for _, i in items(scene, Rect, "bar") if isinstance(i, Rect))
    assert list(rows.values()) == [3]


def test_feedback_runs_back_dashed_and_named_in_both_pipelines() -> None:
    for name in ("training", "inference"):
        group = next(g for g in storage_scene(PIPELINES[name]).groups if g.kind == "feedback")
        lines = [item for item in group.items if isinstance(item, Line)]
        assert all(line.dash for line in lines)
        assert all(line.x2 <= line.x1 for line in lines)
        assert any(isinstance(item, Label) and item.text.startswith("feedback") for item in group.items)


def test_the_phases_of_inference_are_drawn_apart() -> None:
    boxes = {g.alt.split(":")[0]: g.items[0].box for g in storage_scene(PIPELINES["inference"]).groups if g.kind == "stage"}  # type: ignore[union-attr]
    within = boxes["Index"].x - boxes["Embed"].right
    assert boxes["Retrieve"].x - boxes["Index"].right >= 2 * within


def test_what_is_outside_the_picture_is_told_below_it() -> None:
    scene = storage_scene(PIPELINES["training"])
    said = [text.text for _, text in items(scene, Label, "note") if isinstance(text, Label)]
    assert any("record 12 KB" in line for line in said)
    assert any("record 12 KB" in note for note in storage_scene(PIPELINES["training"], scale=SLIDE).notes)


def test_triggers_can_be_left_out() -> None:
    diagram = PIPELINES["training"]
    assert any(g.kind == "trigger" for g in storage_scene(diagram).groups)
    assert not any(g.kind == "trigger" for g in storage_scene(diagram, triggers=False).groups)


def test_a_stage_is_called_what_is_written_on_it() -> None:
    diagram = PIPELINES["training"]
    diagram = replace(diagram, stages=tuple(replace(stage, caption="promoted") for stage in diagram.stages))
    for group in storage_scene(diagram).groups:
        if group.kind == "stage":
            written = " ".join(item.text for item in group.items if isinstance(item, Label))
            assert group.alt.replace(",", "").startswith(written)


def test_a_page_is_not_wider_than_two_thousand() -> None:
    for name in ("training", "inference"):
        assert storage_scene(PIPELINES[name]).width <= 2000


def test_a_dark_picture_has_the_same_places_and_other_colours() -> None:
    light, dark = storage_scene(PIPELINES["training"]), storage_scene(PIPELINES["training"], palette=DARK)
    assert places(light) == places(dark)
    assert dark.palette.card == DARK.card
    inks = {item.colour for group in dark.groups for item in group.items if isinstance(item, Label)}
    assert theme.LIGHT.ink not in inks


def test_a_long_headline_is_cut_into_its_room() -> None:
    diagram = replace(PIPELINES["one stage"], headline=Headline("W" * 400, lambda moved: True))
    text = next(text for _, text in items(storage_scene(diagram), Label, "headline") if isinstance(text, Label))
    assert text.text.endswith("…")
    assert theme.width(text.text, text.size, text.weight) <= text.bounds.width
