"""Slides about single topics: tables' roles, Ray, ways of training, the KV cache, triggers, and what was not measured."""

from __future__ import annotations

from typing import Any

from headrace.answering.engine import INFERENCE
from headrace.catalog import (
    CHUNK_ROWS,
    DATASETS,
    DOCUMENT_EVENT_ROWS,
    DOCUMENT_ROWS,
    EXAMPLES,
    FEEDBACK_ROWS,
    INTERACTION_ROWS,
    KV_OBJECTS,
    PROMOTIONS,
    SUPPRESSIONS,
    Store,
    Tier,
)
from headrace.core.stage import Stage
from headrace.explain.deck.canvas import BOTTOM, LEFT, RIGHT, TOP, WHITE, Area, Style, centred
from headrace.explain.deck.draft import Draft
from headrace.explain.deck.numbers import Number, SlideHeadline
from headrace.explain.deck.sizing import sizing
from headrace.explain.diagram.format import human_bytes, human_count
from headrace.explain.diagram.slide import STEPS
from headrace.explain.sizing import formulas
from headrace.explain.sizing.models import PRESETS
from headrace.training.recipes import RECIPES
from headrace.training.round import TRAINING

# What a database does in the two pipelines: the role, its tables, and what is said of it.
_ROLES: tuple[tuple[str, tuple[Store, ...], str], ...] = (
    (
        "Data preparation",
        (DOCUMENT_ROWS, CHUNK_ROWS, EXAMPLES),
        "text, chunks and examples as rows; a round's data set goes out as Parquet",
    ),
    ("Logging", (INTERACTION_ROWS, FEEDBACK_ROWS), "each answer and verdict with its versions, landed from Kafka"),
    ("Archive", (DOCUMENT_EVENT_ROWS, PROMOTIONS, SUPPRESSIONS), "what was put, promoted and forgotten; kept"),
)


def roles(draft: Draft) -> None:
    """The roles of a database."""
    numbers = draft.numbers
    total = numbers.bytes(tier=Tier.TABLE)
    written = numbers.bytes(tier=Tier.TABLE, direction="write")
    parquet = numbers.bytes(tier=Tier.OBJECT, store=DATASETS.name, direction="write")
    draft.headline(
        SlideHeadline(
            f"The database prepares, logs and archives: {written} written to tables, {parquet} out as Parquet for training",
            lambda moved, out: moved > 0 and out > 0,
            (written, parquet),
        ),
        SlideHeadline(f"The database prepares, logs and archives: {total} through tables", lambda moved: moved > 0, (total,)),
    )
    rows = []
    for role, stores, words in _ROLES:
        read = [numbers.bytes(tier=Tier.TABLE, store=store.name, direction="read") for store in stores]
        wrote = [numbers.bytes(tier=Tier.TABLE, store=store.name, direction="write") for store in stores]
        rows.append([role, ", ".join(store.name for store in stores), draft.say(_added(wrote)), draft.say(_added(read)), words])
    rows.append(
        [
            "Parquet for training",
            DATASETS.name,
            draft.say(parquet),
            draft.say(numbers.bytes(store=DATASETS.name, direction="read")),
            "shards and their index, one version a round, on the object tier",
        ]
    )
    rows.append(
        [
            "KV metadata (optional)",
            "SQL metadata store",
            "-",
            "-",
            "state of documents, tenants, quotas; not metered. KV blocks need no database: their name is their hash",
        ]
    )
    draft.canvas.table(
        Area(LEFT, TOP + 4, RIGHT - LEFT, BOTTOM - TOP - 40),
        ("role", "stores", "written", "read", "what it holds"),
        rows,
        (1.35, 1.9, 0.8, 0.8, 3.2),
        alt="Roles of the database, their stores, and bytes written and read.",
        right=(2, 3),
    )
    draft.note(
        "Reads exceed writes because each round and each index pass compares tables; they are listed by stage in the ledger."
    )


def _added(parts: list[Number]) -> Number:
    """Numbers of bytes added up."""
    value = sum(part.value for part in parts)
    return Number(
        " + ".join(part.name for part in parts), value, human_bytes(round(value)), "; ".join(part.how for part in parts)
    )


_TITLE = {stage: title for title, stages in STEPS.items() for stage in stages}


def ray(draft: Draft) -> None:
    """Which Ray library runs which stage."""
    numbers = draft.numbers
    every: list[Stage[Any, Any]] = list(dict.fromkeys((*INFERENCE.stages, *TRAINING.stages)))
    on_data = [stage for stage in every if "batches" in stage.inputs]
    on_train = [stage for stage in every if "launch" in stage.inputs]
    libraries = Number(
        "stages that a Ray library runs",
        len(on_data) + len(on_train),
        str(len(on_data) + len(on_train)),
        f"stages whose declaration takes batches or a launcher: {len(on_data) + len(on_train)} of {len(every)}",
    )
    whole = Number("stages of both pipelines", len(every), str(len(every)), f"declared stages: {len(every)}")
    moved = numbers.bytes(stage=tuple(stage.name for stage in (*on_data, *on_train)))
    draft.headline(
        SlideHeadline(
            f"Ray computes, storage stays behind the same handles: {libraries} of {whole} stages scale out on Ray",
            lambda some, all_: 0 < some < all_,
            (libraries, whole),
        )
    )
    rows = []
    for stage in every:
        if stage in on_data:
            how = "Ray Data", "maps batches on an actor pool; results return to the driver, which commits once"
        elif stage in on_train:
            how = "Ray Train", "one training function; a killed worker resumes from the newest checkpoint"
        else:
            continue
        read, wrote = numbers.bytes(stage=stage.name, direction="read"), numbers.bytes(stage=stage.name, direction="write")
        rows.append([_TITLE.get(stage.name, stage.name.capitalize()), how[0], draft.say(read), draft.say(wrote), how[1]])
    rest = numbers.bytes(stage=tuple(stage.name for stage in every if stage not in (*on_data, *on_train)))
    rows.append(["The other stages", "driver", draft.say(rest), "", "read or write storage more than they compute"])
    draft.canvas.table(
        Area(LEFT, TOP + 4, RIGHT - LEFT, 190),
        ("stage", "runs on", "read", "written", "how"),
        rows,
        (1.1, 0.9, 0.8, 0.8, 3.4),
        alt="Stages, the Ray library that runs each, and bytes read and written.",
        right=(2, 3),
    )
    used = (
        f"This run used Ray on {numbers.ray.get('nodes', 1)} node(s) and spilled"
        f" {human_bytes(int(numbers.ray.get('spilled_bytes', 0)))} to local disk."
        if numbers.ray
        else "This run used one machine without Ray; the same classes and functions run with --on ray."
    )
    draft.points(
        Area(LEFT, 330, RIGHT - LEFT, BOTTOM - 330),
        "Where Ray's own bytes go",
        [
            "Spilling: Ray's object store spills to local disk of each node; give it an NVMe volume, not NFS.",
            "Checkpoints: the worker writes them to the object tier, metered like every write; nothing stays in storage_path.",
            used,
        ],
    )
    draft.say(moved)


_KINDS = {
    "ranking": ("learning to rank, a few weights", "users' verdicts on passages"),
    "reranker": ("supervised fine-tuning", "users' verdicts on passages"),
    "embedder": ("supervised fine-tuning, contrastive", "users' verdicts on passages"),
    "sft": ("supervised fine-tuning", "liked and corrected answers"),
    "kto": ("preference optimisation, offline", "single thumbs, up or down"),
    "grpo": ("RL fine-tuning, verifiable reward", "samples of the model, scored"),
    "online": ("RL fine-tuning, online", "answers in production, judged by users"),
}


def recipes(draft: Draft) -> None:
    """Fine-tuning, reinforcement learning and online RL, in their right places."""
    numbers = draft.numbers
    recipe = str(numbers.round("recipe") or "")
    count = Number("recipes", len(RECIPES), str(len(RECIPES)), f"`headrace train --help` lists {len(RECIPES)} recipes")
    rl = sum("RL" in kind for kind, _ in _KINDS.values())
    learning = Number("recipes that are RL", rl, str(rl), f"{rl} of them sample and move the policy by a reward")
    draft.headline(
        SlideHeadline(
            f"RL is one way of fine-tuning: {learning} of {count} recipes use it, and all share one storage path",
            lambda some, all_: 0 < some < all_,
            (learning, count),
        )
    )
    rows = []
    for name in RECIPES:
        kind, data = _KINDS.get(name, (RECIPES[name].about, ""))  # a recipe that somebody added
        mark = "measured" if name == recipe else ""
        rows.append([name, kind, data, RECIPES[name].model, mark])
    draft.canvas.table(
        Area(LEFT, TOP + 4, RIGHT - LEFT, 220),
        ("recipe", "what it is", "learns from", "makes a better", "in this run"),
        rows,
        (0.9, 2.4, 2.4, 1.2, 1.0),
        alt="Recipes, what kind of training each is, its data and its model.",
    )
    stage = {name: numbers.bytes(stage="finetune", direction=name) for name in ("read", "write")}
    steps, promoted = numbers.of_round("training", "steps"), numbers.round("promoted")
    checkpoints = numbers.of_round("training", "checkpoints")
    said = [
        "Fine-tuning says what is changed: weights of a trained model. RL says how: sample, score, move by the score.",
        "Online RL is about where data comes from: production, now. On-policy is about which weights made it.",
    ]
    if recipe:
        verdict = "promoted" if promoted else "rejected by the gate"
        said.append(
            f"This run: {recipe}, {draft.say(steps)} step{'' if steps.value == 1 else 's'}, {draft.say(stage['read'])} read,"
            f" {draft.say(stage['write'])} of {'checkpoints and ' if checkpoints.value else ''}weights written; the challenger"
            f" was {verdict}."
        )
    if recipe and not checkpoints.value:
        said.append(
            f"Recipe {recipe} wrote no checkpoint, only its weights, to the store of both; sizing estimates checkpoints."
            " To measure them: headrace train --recipe reranker, then headrace diagram training."
        )
    draft.points(Area(LEFT, 352, RIGHT - LEFT, BOTTOM - 352), "Said right", said)
    draft.note("Terms: docs/glossary.md. Reasons for each recipe's loss: docs/explanation/training.md.")


def kv_cache(draft: Draft) -> None:
    """The KV cache where this run had it, GPU-direct to object beside it."""
    numbers, canvas = draft.numbers, draft.canvas
    store = numbers.kv_store
    where = "in objects" if store == KV_OBJECTS else "on files"
    written, reused = numbers.count("kv_tokens_written"), numbers.count("kv_tokens_read")
    moved = numbers.bytes(tier=store.tier, store=store.name, direction="write")
    loaded = numbers.bytes(tier=store.tier, store=store.name, direction="read")
    of = (moved, written) if written.value else (loaded, reused)
    each = numbers.each(*of, lambda value: f"{human_count(value)} B")
    draft.headline(
        SlideHeadline(
            f"The KV cache lives {where} today: {reused} tokens were read instead of computed, {each} a token",
            lambda tokens, size: tokens > 0 and size > 0,
            (reused, each),
        ),
        SlideHeadline(
            f"The KV cache lives {where} today: {written} tokens were written, {each} a token",
            lambda tokens, size: tokens > 0 and size > 0,
            (written, each),
        ),
        SlideHeadline(
            f"The KV cache lives {where} today: {moved} written, {loaded} read",
            lambda wrote, read: wrote + read > 0,
            (moved, loaded),
        ),
        SlideHeadline(
            f"The KV cache lives {where} today; this run did not use it", lambda wrote, read: wrote + read == 0, (moved, loaded)
        ),
    )
    cards = (
        (moved, f"written to the {store.tier} tier"),
        (loaded, f"read from the {store.tier} tier"),
        *([(each, "of keys and values a token")] if each.value else []),
    )
    for at, (number, words) in enumerate(cards):
        draft.card(Area(LEFT + at * 298, TOP + 4, 284, 86), number, words, colour=draft.colour(store.tier))
    left, right = Area(LEFT, 226, 430, 262), Area(490, 226, 430, 262)
    canvas.box(left, stroke=draft.colour(store.tier), fill=WHITE, rounded=True, alt="", name="Panel")
    canvas.box(right, stroke=draft.brand.colours.muted, fill=WHITE, rounded=True, dashed=True, alt="", name="Panel")
    draft.points(
        Area(left.x + 14, left.y + 10, left.width - 28, left.height - 20),
        f"Measured here: {draft.brand.tier(store.tier)}",
        [
            "Blocks of 128 tokens, named by a hash of model, tenant and every token before them.",
            "A block that does not match its checksum is a miss: never a wrong answer.",
            "Bounded by bytes, per tenant; least recently used blocks go first.",
            "On storage a token may be several times what the GPU keeps: size with the offloaded type.",
        ],
    )
    draft.points(
        Area(right.x + 14, right.y + 10, right.width - 28, right.height - 20),
        "Sold on certified storage, not measured here",
        [
            "GPU-direct to object: S3 as control path, RDMA as data path (NVIDIA cuObject).",
            "vLLM and LMCache take files, S3 and NIXL as second tier; vLLM reads by way of host memory.",
            "Plain files do not evict: bound the directory, and check blocks when they are read.",
        ],
    )
    draft.note(
        "The generator here has 135 million parameters; Llama-3.1-70B keeps"
        f" {formulas.kv_bytes_per_token(PRESETS['llama-3.1-70b'], 2):,.0f} B a token in bf16 (headrace size)."
    )


def triggers(draft: Draft) -> None:
    """The same pipelines with triggers and without."""
    canvas, colours = draft.canvas, draft.brand.colours
    known = [*INFERENCE.triggers, *TRAINING.triggers]
    count = Number("declared triggers", len(known), str(len(known)), f"triggers declared by both pipelines: {len(known)}")
    moved = draft.numbers.bytes()
    draft.headline(
        SlideHeadline(
            f"With {count} triggers the loop runs itself; without them a command starts each of the same stages",
            lambda triggers, total: triggers > 0 and total > 0,
            (count, moved),
        )
    )
    canvas.text(Area(LEFT, TOP, 430, 24), ("With triggers: headrace up", Style(17.0, bold=True, colour=colours.accent)))
    canvas.text(Area(490, TOP, 430, 24), ("Without: a command per step", Style(17.0, bold=True, colour=colours.accent)))
    commands = {"land": "headrace land --once", "embed": "headrace index PATH", "train": "headrace train"}
    rows = [(f"{trigger.store.name} ({trigger.store.tier})", trigger.when, trigger.stage) for trigger in known]
    rows.append(("verdicts landed", "enough of them, or an hour after the first", "train"))
    for at, (store, when, stage) in enumerate(rows):
        y = 150 + at * 66
        box = canvas.box(
            Area(LEFT, y, 178, 50),
            store,
            fill="#F8FAFC",
            stroke=draft.colour(Tier.STREAM),
            rounded=True,
            style=centred(14.0),
        )
        target = canvas.box(
            Area(350, y, 110, 50),
            stage.capitalize(),
            fill=WHITE,
            stroke=colours.ink,
            rounded=True,
            style=centred(15.0, bold=True),
        )
        canvas.arrow(box, "right", target, "left", colour=colours.ink, dashed=True, alt=f"{store} starts {stage} {when}")
        canvas.text(Area(222, y + 27, 124, 36), (when, Style(12.0, align="centre", colour=colours.muted)))
        by_hand = canvas.box(
            Area(490, y, 220, 50),
            commands.get(stage, f"headrace {stage}"),
            fill="#F8FAFC",
            stroke=colours.muted,
            rounded=True,
            style=centred(14.0),
        )
        same = canvas.box(
            Area(810, y, 110, 50),
            stage.capitalize(),
            fill=WHITE,
            stroke=colours.ink,
            rounded=True,
            style=centred(15.0, bold=True),
        )
        canvas.arrow(by_hand, "right", same, "left", colour=colours.ink, alt=f"The command runs {stage}")
    canvas.text(
        Area(LEFT, 150 + len(rows) * 66 + 2, RIGHT - LEFT, 60),
        "A trigger only says when. What a stage reads and writes is declared by the stage, and is the same with and without."
        f" This run started each step itself (headrace {draft.numbers.command}) and moved {draft.say(moved)}.",
        style=Style(14.0, colour=colours.muted),
    )
    draft.note("The diagram with and without: headrace diagram training --triggers or --no-triggers.")


def limits(draft: Draft) -> None:
    """What was measured and what was not."""
    numbers = draft.numbers
    rows = Number(
        "rows of the ledger",
        len(numbers.rows),
        f"{len(numbers.rows):,}",
        f"rows printed by `{numbers.ledger}`: {len(numbers.rows)}",
    )
    guessed = sum(bool(row["estimated"]) for row in numbers.rows)
    estimated = Number("estimated rows", guessed, f"{guessed:,}", f"rows with `estimated`: {guessed}")
    total = numbers.bytes()
    draft.headline(
        SlideHeadline(
            f"Measured: {total} in {rows} ledger rows, {estimated} of them estimated; not measured: GPUs, fabrics, scale",
            lambda moved, all_, some: moved > 0 and all_ > some,
            (total, rows, estimated),
        )
    )
    counts = [(name, numbers.count(name)) for name in ("documents", "chunks", "questions", "verdicts", "events")]
    said = ", ".join(f"{draft.say(number)} {name}" for name, number in counts if number.value)
    draft.points(
        Area(LEFT, TOP + 4, 425, BOTTOM - TOP - 8),
        "Measured in this run",
        [
            f"{said} on one machine, in {draft.say(numbers.took)}.",
            "Bytes, operations and latency of every read and write, by stage, store and direction, at the handle.",
            "A test holds the ledger against the object store's own counters.",
            f"{draft.say(estimated)} of its rows are estimates, where a library hides its I/O.",
            *(["When each stage was at work, and how long it waited for storage."] if numbers.has_times else []),
        ],
    )
    draft.points(
        Area(495, TOP + 4, 425, BOTTOM - TOP - 8),
        "Not measured in this run",
        [
            "GPUs: models are small and run on CPUs. GPU-direct paths are named where they are sold, not timed.",
            "Scale: sizing is formulas with sources, not a load test.",
            "Storage fabrics: one host. headrace check tests what a platform promises; run it on yours.",
            "Users: simulated ones are marked so in every record they leave.",
            "Prices, power, durability over years.",
        ],
    )


SLIDES: dict[str, Any] = {
    "roles": roles,
    "ray": ray,
    "recipes": recipes,
    "kv": kv_cache,
    "triggers": triggers,
    "sizing": sizing,
    "limits": limits,
}
