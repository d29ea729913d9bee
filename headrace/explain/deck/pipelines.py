"""Slides about the two pipelines: both in one picture, what each stage moves, tiers, the head, time."""

from __future__ import annotations

from typing import Any

from headrace.catalog import (
    CHECKPOINTS,
    CHUNKS,
    DATASETS,
    DOCUMENTS,
    FEEDBACK_ROWS,
    INTERACTION_ROWS,
    KV_CACHE,
    LANDINGS,
    MODELS,
    Store,
    Tier,
)
from headrace.explain.deck.canvas import BOTTOM, LEFT, RIGHT, TOP, WHITE, Area, Series, Style, centred, tint
from headrace.explain.deck.draft import TIERS, Draft
from headrace.explain.deck.numbers import SlideHeadline
from headrace.explain.diagram.recorded import PIPELINES, MeasuredRun
from headrace.explain.diagram.slide import ROUND_STEPS, STEPS
from headrace.explain.diagram.views import scene_for

_LANES = (Tier.STREAM, Tier.FILE, Tier.VECTOR, Tier.TABLE, Tier.OBJECT)
_LABEL = 132.0
_COLUMN = (RIGHT - LEFT - _LABEL) / 6

# Step, stages, tier, stores, direction, what the box is called. Inference runs left to right, training back right to left.
_Step = tuple[str, tuple[str, ...], Tier, tuple[Store, ...], str, str]
_ABOVE: tuple[_Step, ...] = (
    ("Ingest", ("put",), Tier.OBJECT, (DOCUMENTS,), "write", "Documents"),
    ("Prepare text", ("parse", "chunk"), Tier.TABLE, (), "write", "Text"),
    ("Embed & index", ("embed", "index"), Tier.VECTOR, (CHUNKS,), "write", "Index"),
    ("Retrieve", ("retrieve",), Tier.VECTOR, (CHUNKS,), "read", "Index"),
    ("Generate", ("generate",), KV_CACHE.tier, (KV_CACHE,), "write", "KV cache"),
    ("Record", ("answer", "feedback"), Tier.STREAM, (), "write", "Verdicts"),
)
_BELOW: tuple[_Step | None, ...] = (
    None,
    ("Promote", ("promote",), Tier.OBJECT, (MODELS,), "write", "Weights"),
    ("Evaluate", ("evaluate",), Tier.OBJECT, (CHECKPOINTS,), "read", "Challenger"),
    ("Fine-tune", ("finetune",), Tier.OBJECT, (CHECKPOINTS,), "write", "Checkpoints"),
    ("Build dataset", ("prepare",), Tier.OBJECT, (DATASETS,), "write", "Parquet"),
    ("Land", ("land",), Tier.TABLE, (INTERACTION_ROWS, FEEDBACK_ROWS), "write", "Events"),
)


def overview(draft: Draft) -> None:
    """Both pipelines on the same tiers, in one picture."""
    numbers, canvas = draft.numbers, draft.canvas
    total, took = numbers.bytes(), numbers.took
    draft.headline(*_lead(draft))
    height, top = 53.0, 152.0
    for at, tier in enumerate(_LANES):
        _lane(draft, tier, Area(LEFT, top + at * height, RIGHT - LEFT, height - 5))
    kv = numbers.kv_store
    for at, step in enumerate(_ABOVE):
        if step[3] == (KV_CACHE,):
            step = (*step[:2], kv.tier, (kv,), *step[4:])
        record = _stage(draft, at, step, Area(_centre(at) - 58, 112, 116, 30), top, height, above=True)
    saved = numbers.of_round("training", "checkpoints").value > 0
    for at, below in enumerate(_BELOW):
        if below is not None:
            if below[0] == "Fine-tune" and not saved:  # what a fitted recipe writes there are its weights
                below = (*below[:-1], "Weights")
            landed = _stage(draft, at, below, Area(_centre(at) - 58, top + 5 * height + 8, 116, 30), top, height, above=False)
    if record is not None and landed is not None:
        canvas.arrow(
            record, "bottom", landed, "top", colour=draft.brand.colours.feedback, dashed=True, alt="Verdicts land in tables"
        )
    canvas.text(Area(LEFT, 114, _LABEL - 10, 32), ("Inference →", Style(16.0, bold=True, anchor="middle")), name="Inference")
    canvas.text(
        Area(LEFT, top + 5 * height + 8, _LABEL - 10, 32),
        ("Training loop ←", Style(16.0, bold=True, anchor="middle")),
        name="Training",
    )
    canvas.text(
        Area(LEFT, 464, RIGHT - LEFT, 36),
        f"{draft.say(total)} moved in {draft.say(took)}. Each box: what its stage moved there, one direction. Kafka is the head"
        " and the feedback path, not a storage tier.",
        style=Style(14.0, colour=draft.brand.colours.muted),
    )
    draft.note(
        "Top row: enterprise RAG, left to right. Ahead of time: ingest, prepare text, embed and index. At question time:"
        " retrieve, generate, record.",
        "Bottom row: the training loop, right to left. It begins with what users said and ends with weights that answer.",
    )


def inference(draft: Draft) -> None:
    """The inference pipeline as the run measured it."""
    _diagram(draft, "inference")


def training(draft: Draft) -> None:
    """The training loop as the run measured it."""
    _diagram(draft, "training")


def _diagram(draft: Draft, name: str) -> None:
    journal = {**draft.numbers.journal, "storage": {**draft.numbers.storage, **draft.brand.named}}
    # Its headline was checked against the run when the diagram was made.
    scene = scene_for(MeasuredRun(PIPELINES[name], journal).diagram(), palette=draft.brand.palette, triggers=False)
    draft.title = scene.title
    draft.canvas.scene(scene)
    draft.note(
        scene.description,
        *scene.notes,
        f"How it was measured: bytes of a chip are sums over the rows of `{draft.numbers.ledger}`; the picture alone is"
        f" `headrace diagram {name} --run {draft.numbers.run} -o {name}.pptx`.",
    )


def _lead(draft: Draft) -> tuple[SlideHeadline, ...]:
    """What the first slide says, by audience: the same numbers, another lead."""
    numbers = draft.numbers
    total, questions = numbers.bytes(), numbers.count("questions")
    busiest = max(TIERS, key=lambda tier: numbers.bytes(tier=tier).value)
    most = numbers.bytes(tier=busiest)
    share = numbers.share(most, total)
    trained, asked = numbers.bytes(stage=_all(ROUND_STEPS)), numbers.bytes(tier=Tier.VECTOR, stage="retrieve", direction="read")
    plain = SlideHeadline(f"Two AI pipelines on one storage platform moved {total}", lambda moved: moved > 0, (total,))
    if draft.audience == "ncp":
        first = SlideHeadline(
            f"Two AI pipelines, one storage platform: {share} of {total} went through the {busiest.value} tier",
            lambda part, whole, of: part >= 0.3 * whole > 0 and of > 0,
            (most, total, share),
        )
    elif draft.audience == "builder":
        first = SlideHeadline(
            f"One loop: inference feeds training, and one round of training moved {trained} of {total}",
            lambda part, whole: whole >= part > 0,
            (trained, total),
        )
    else:
        each = numbers.each(asked, questions)
        first = SlideHeadline(
            f"Answers from your documents, better by your verdicts: {questions} questions read {each} each from the index",
            lambda count, moved, of: count > 0 and moved > 0 and of > 0,
            (questions, asked, each),
        )
    return first, plain


def _lane(draft: Draft, tier: Tier, area: Area) -> None:
    head = tier is Tier.STREAM
    colour = draft.colour(tier)
    draft.canvas.box(
        area, fill="#F8FAFC" if head else tint(colour), stroke=colour if head else "", dashed=head, alt="", name="Lane"
    )
    moved = draft.numbers.bytes(tier=tier)
    amount = draft.say(moved)
    product = draft.brand.named.get(tier)
    said = product or ("head, feedback" if head else f"{amount} moved")
    draft.canvas.text(
        Area(area.x + 8, area.y + 4, _LABEL - 14, area.height - 6),
        (f"{tier.value.capitalize()} {amount}" if product else tier.value.capitalize(), Style(14.0, bold=True, colour=colour)),
        (said, Style(12.5, colour=draft.brand.colours.ink)),
        name=f"Tier {tier.value}",
    )


def _centre(at: int) -> float:
    return LEFT + _LABEL + (at + 0.5) * _COLUMN


def _stage(draft: Draft, at: int, step: _Step, area: Area, top: float, height: float, *, above: bool) -> Any:
    """Draw a stage and what it moved; return the box of that, `None` where it moved nothing."""
    title, stages, tier, stores, direction, called = step
    colours = draft.brand.colours
    store = stores[0].name if len(stores) == 1 else None
    moved = draft.numbers.bytes(tier=tier, stage=stages, store=store, direction=direction)
    lane = top + _LANES.index(tier) * height
    said = draft.say(moved)
    ink = colours.ink if moved.value else colours.muted
    stage = draft.canvas.box(
        area, title, stroke=ink, dashed=not moved.value, fill=WHITE, rounded=True, style=centred(14.0, bold=True, colour=ink),
        alt=title if moved.value else f"{title} moved nothing", name="Stage",
    )  # fmt: skip
    if not moved.value:
        return None
    box = draft.canvas.box(
        Area(_centre(at) - 60, lane + (2 if above else 24), 120, 21),
        f"{called} {said}",
        fill=draft.colour(tier),
        rounded=True,
        style=centred(12.5, colour=WHITE),
        alt=f"{title} {'wrote' if direction == 'write' else 'read'} {said}: {called}, {tier.value} tier",
        name="Store",
    )
    near, far = ("bottom", "top") if above else ("top", "bottom")
    write = direction == "write"
    draft.canvas.arrow(
        *((stage, near, box, far) if write else (box, far, stage, near)),
        colour=draft.brand.colours.write if write else draft.brand.colours.read,
        alt=f"{title} {'writes to' if write else 'reads from'} {called}",
    )
    return box


def _all(steps: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(stage for stages in steps.values() for stage in stages)


def stages(draft: Draft) -> None:
    """What each stage moves, by tier."""
    numbers = draft.numbers
    moved = {step: numbers.bytes(stage=names) for step, names in STEPS.items()}
    shown = {step: number for step, number in moved.items() if number.value}
    busiest, most = max(shown.items(), key=lambda pair: pair[1].value)
    total = numbers.bytes()
    others = numbers.bytes(stage=tuple({row["stage"] for row in numbers.rows} - set(_all(STEPS))))
    share = numbers.share(most, total)
    draft.headline(
        SlideHeadline(
            f"{busiest} is the heaviest stage: {most}, {share} of all bytes",
            lambda part, whole, *rest: whole > 0 and all(part >= other for other in rest),
            (most, total, *shown.values()),
        )
    )
    categories = [*shown, "Maintenance"]
    series = []
    for tier in TIERS:
        values = [numbers.bytes(tier=tier, stage=STEPS[step]) for step in shown]
        values.append(numbers.bytes(tier=tier, stage=tuple({row["stage"] for row in numbers.rows} - set(_all(STEPS)))))
        if any(number.value for number in values):
            series.append(Series(draft.brand.tier(tier), draft.colour(tier), [number.value / 1e6 for number in values]))
    draft.say(others)
    said = ", ".join(f"{step} {number}" for step, number in shown.items())
    draft.canvas.chart(
        Area(LEFT, TOP, RIGHT - LEFT, BOTTOM - TOP),
        "stacked",
        categories,
        series,
        alt=f"Megabytes read and written by stage and tier: {said}; other stages {others}.",
        unit="MB read and written",
    )
    draft.note("Reads and writes are added. Maintenance: also retention, and the loop's bookkeeping.")


def tiers(draft: Draft) -> None:
    """Which tier carries the load."""
    numbers = draft.numbers
    storage = [tier for tier in TIERS if tier is not Tier.STREAM]
    by_tier = {tier: numbers.bytes(tier=tier) for tier in TIERS}
    busiest = max(storage, key=lambda tier: by_tier[tier].value)
    total, stream = numbers.bytes(), by_tier[Tier.STREAM]
    share = numbers.share(by_tier[busiest], total)
    draft.headline(
        SlideHeadline(
            f"The {busiest.value} tier carries the load: {share} of {total}; Kafka carries {numbers.share(stream, total)}",
            lambda most, whole, head, *rest: whole > 0 and all(most >= other for other in rest) and head < most,
            (by_tier[busiest], total, stream, *(by_tier[tier] for tier in storage)),
        )
    )
    reads = [numbers.bytes(tier=tier, direction="read") for tier in TIERS]
    writes = [numbers.bytes(tier=tier, direction="write") for tier in TIERS]
    names = [draft.brand.tier(tier) for tier in TIERS]
    draft.canvas.chart(
        Area(LEFT, TOP, 450, BOTTOM - TOP),
        "bar",
        names,
        [
            Series("read, MB", draft.brand.colours.read, [number.value / 1e6 for number in reads]),
            Series("written, MB", draft.brand.colours.write, [number.value / 1e6 for number in writes]),
        ],
        alt="Megabytes read and written by tier: "
        + "; ".join(f"{name} read {read}, written {write}" for name, read, write in zip(names, reads, writes, strict=True)),
        unit="",
        labels="[>=10]#,##0;[>=0.1]0.0;0.00",
    )
    rows = []
    for tier, read, write in zip(TIERS, reads, writes, strict=True):
        ops = numbers.ops(tier=tier)
        p95 = numbers.p95_ms(tier=tier, direction="read"), numbers.p95_ms(tier=tier, direction="write")
        cells = (read, write, ops, *p95)
        rows.append([tier.value.capitalize(), *(draft.say(cell) for cell in cells)])
    draft.canvas.table(
        Area(510, TOP + 6, RIGHT - 510, 300),
        ("tier", "read", "written", "ops", "p95 read", "p95 write"),
        rows,
        (1.6, 1.2, 1.2, 0.9, 1.1, 1.1),
        alt="Bytes, operations and slowest 95th percentile by tier.",
        right=(1, 2, 3, 4, 5),
    )
    where = [f"{tier}: {place}" for tier, place in numbers.storage.items()]
    draft.canvas.text(
        Area(510, 404, RIGHT - 510, BOTTOM - 404),
        "p95: the slowest 95th percentile of a stage, per operation; not a bandwidth.",
        *([("Measured on " + "; ".join(where), Style(12.5))] if where else []),
        style=Style(13.0, colour=draft.brand.colours.muted),
    )


def head(draft: Draft) -> None:
    """Kafka is the head, measured."""
    numbers = draft.numbers
    events, total = numbers.count("events"), numbers.bytes()
    stream = numbers.bytes(tier=Tier.STREAM)
    written = numbers.bytes(tier=Tier.STREAM, direction="write")
    landed = [numbers.bytes(tier=Tier.TABLE, stage="land", store=table.name, direction="write") for table in LANDINGS.values()]
    tables = numbers.bytes(tier=Tier.TABLE, stage="land", direction="write")
    share = numbers.share(stream, total)
    draft.headline(
        SlideHeadline(
            f"Kafka is the head, not a tier: it carried {share} of the bytes, and {events} events landed in tables",
            lambda count, part, whole: count > 0 and 0 < part <= 0.2 * whole,
            (events, stream, total),
        ),
        SlideHeadline(
            f"Kafka is the head, not a tier: {events} events landed in tables",
            lambda count, moved: count > 0 and moved > 0,
            (events, tables),
        ),
    )
    canvas, colours = draft.canvas, draft.brand.colours
    style = centred(14.0, colour=colours.ink)
    produced = canvas.box(
        Area(LEFT, 150, 190, 92), ("What happened", centred(15.0, bold=True)),
        "documents put, questions answered, verdicts given", stroke=colours.ink, fill=WHITE, rounded=True, style=style,
    )  # fmt: skip
    kafka = canvas.box(
        Area(385, 150, 190, 92), (draft.brand.tier(Tier.STREAM), centred(15.0, bold=True, colour=draft.colour(Tier.STREAM))),
        f"{draft.say(written)} written, kept only until landed", stroke=draft.colour(Tier.STREAM),
        fill="#F8FAFC", dashed=True, style=style,
    )  # fmt: skip
    table = canvas.box(
        Area(730, 150, 190, 92), (draft.brand.tier(Tier.TABLE), centred(15.0, bold=True, colour=WHITE)),
        f"{draft.say(tables)} written, with the offsets, in one commit", fill=draft.colour(Tier.TABLE),
        style=centred(14.0, colour=WHITE),
    )  # fmt: skip
    canvas.arrow(produced, "right", kafka, "left", colour=colours.ink, width=2.5, alt="Events are written to Kafka")
    canvas.arrow(
        kafka,
        "right",
        table,
        "left",
        colour=draft.brand.colours.write,
        width=2.5,
        alt="The lander commits events and offsets to tables",
    )
    canvas.text(Area(232, 164, 150, 26), ("append", Style(13.0, align="centre")))
    canvas.text(Area(578, 164, 150, 26), (f"{draft.say(events)} events", Style(13.0, align="centre", bold=True)))
    rows = [
        [
            topic.name,
            topic.holds,
            draft.say(numbers.bytes(tier=Tier.STREAM, store=topic.name, direction="write")),
            draft.say(number),
        ]
        for topic, number in zip(LANDINGS, landed, strict=True)
    ]
    canvas.table(
        Area(LEFT, 268, RIGHT - LEFT, 130),
        ("topic", "an event says", "written to the topic", "written to its table"),
        rows,
        (1.3, 2.0, 1.2, 1.2),
        alt="Bytes written to each topic and to the table it lands in.",
        right=(2, 3),
    )
    draft.points(
        Area(LEFT, 410, RIGHT - LEFT, BOTTOM - 410),
        "What follows for storage",
        [
            "Capacity of the head is a window of hours; the tables are the record, and replay comes from them.",
            "Offsets are committed with the rows: after a crash nothing lands twice and nothing is lost.",
        ],
    )
    draft.note("Table bytes include Iceberg's metadata, which weighs more the smaller the commits are.")


def storage_time(draft: Draft) -> None:
    """Storage time of a round beside its compute time."""
    numbers = draft.numbers
    known = {step: names for step, names in ROUND_STEPS.items() if numbers.seconds(names).value > 0}
    everything = tuple(stage for names in known.values() for stage in names)
    active, waited = numbers.seconds(everything), numbers.seconds(everything, "waited_s")
    share = numbers.share(waited, active)
    stalled = numbers.of_round("training", "stalled_s")
    draft.headline(
        SlideHeadline(
            f"From data set to promotion a round worked {active} and waited {waited} for storage ({share})",
            lambda at_work, waiting: 0 <= waiting < at_work,
            (active, waited),
        )
    )
    waits = [numbers.seconds(names, "waited_s") for names in known.values()]
    works = [numbers.seconds(names) for names in known.values()]
    draft.canvas.chart(
        Area(LEFT, TOP, 520, BOTTOM - TOP),
        "stacked",
        list(known),
        [
            Series(
                "compute, s",
                draft.brand.colours.accent,
                [work.value - wait.value for work, wait in zip(works, waits, strict=True)],
            ),
            Series("waiting for storage, s", draft.brand.colours.write, [wait.value for wait in waits]),
        ],
        alt="Seconds of each stage of a round, computing and waiting for storage: "
        + "; ".join(f"{step} {work}, of that {wait} waiting" for step, work, wait in zip(known, works, waits, strict=True)),
        unit="seconds",
    )
    rows = []
    for step, work, wait in zip(known, works, waits, strict=True):
        rows.append([step, draft.say(work), draft.say(wait), draft.say(numbers.bytes(stage=known[step]))])
    draft.canvas.table(
        Area(585, TOP + 6, RIGHT - 585, 240),
        ("stage", "at work", "waiting", "moved"),
        rows,
        (1.5, 1.0, 1.0, 1.0),
        alt="Seconds at work and waiting, and bytes moved, by stage of a round.",
        right=(1, 2, 3),
    )
    beside = numbers.of_round("training", "checkpoint_s")
    draft.points(
        Area(585, 376, RIGHT - 585, BOTTOM - 376),
        "How to read it",
        [
            *(
                [f"Checkpoints are written beside the steps: {draft.say(beside)} of writing, {draft.say(stalled)} of stall."]
                if beside.value
                else []
            ),
            "Waiting: a storage operation was under way in the stage's own thread.",
        ],
    )


SLIDES: dict[str, Any] = {
    "overview": overview,
    "inference": inference,
    "training": training,
    "stages": stages,
    "tiers": tiers,
    "head": head,
    "time": storage_time,
}
