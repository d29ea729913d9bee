"""What a diagram says: from ledger rows and a declaration, with a headline the numbers support."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any

import pytest

from headrace.catalog import (
    CHECKPOINTS,
    CHUNKS,
    DATASETS,
    DOCUMENT_EVENT_ROWS,
    DOCUMENT_EVENTS,
    DOCUMENTS,
    FEEDBACK,
    FEEDBACK_ROWS,
    KV_CACHE,
    Store,
    Tier,
)
from headrace.core.stage import Pipeline, Trigger, stage
from headrace.errors import Permanent
from headrace.explain.diagram.diagram import Diagram, diagram_for
from headrace.explain.diagram.flow import Flow, StageBox
from headrace.explain.diagram.headline import Headline, Moved
from headrace.storage.files import FileWriter
from headrace.storage.ledger import Direction
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.storage.stream.reader import TopicReader
from headrace.storage.stream.writer import TopicWriter
from headrace.storage.tables.handles import TableReader, TableWriter
from headrace.storage.timeline import ASKED
from headrace.storage.vectors.handles import VectorReader, VectorWriter

READ, WRITE = Direction.READ, Direction.WRITE
AHEAD = "ahead of time"


@stage("Trains.")
def finetune(datasets: Annotated[ObjectReader, DATASETS], checkpoints: Annotated[ObjectWriter, CHECKPOINTS]) -> None: ...


@stage("Lands.")
def land(
    documents: Annotated[TopicReader, DOCUMENT_EVENTS],
    feedback: Annotated[TopicReader, FEEDBACK],
    document_rows: Annotated[TableWriter, DOCUMENT_EVENT_ROWS],
    feedback_rows: Annotated[TableWriter, FEEDBACK_ROWS],
) -> None: ...


@stage("Puts.", phase=AHEAD)
def put(sources: Annotated[ObjectWriter, DOCUMENTS], events: Annotated[TopicWriter, DOCUMENT_EVENTS]) -> None: ...


@stage("Embeds.", phase=AHEAD)
def embed(events: Annotated[TableReader, DOCUMENT_EVENT_ROWS], vectors: Annotated[VectorWriter, CHUNKS]) -> None: ...


@stage("Finds.", phase=ASKED)
def retrieve(vectors: Annotated[VectorReader, CHUNKS], cache: Annotated[FileWriter, KV_CACHE]) -> None: ...


TRAINING = Pipeline("training", "Learns.", (land, finetune), (Trigger(FEEDBACK, "land", "when verdicts came in"),))
INFERENCE = Pipeline("inference", "Answers.", (put, land, embed, retrieve))
WHEN = datetime(2026, 8, 1, 12, tzinfo=UTC)


def row(name: str, store: Store, direction: str, moved: int, **more: Any) -> dict[str, Any]:
    return {
        "stage": name,
        "store": store.name,
        "tier": str(store.tier),
        "direction": direction,
        "ops": 2,
        "bytes": moved,
        "p50_ms": 1.0,
        "p95_ms": 5.0,
        "estimated": False,
    } | more


def measured(pipeline: Pipeline, *rows: dict[str, Any]) -> Diagram:
    return diagram_for(pipeline, rows, run_id="r1", when=WHEN, command="headrace train")


def flow(diagram: Diagram, name: str, store: Store, direction: Direction) -> Flow:
    return next(f for f in diagram.flows if (f.stage, f.key, f.direction) == (name, (store.tier, store.name), direction))


def test_rows_of_all_tenants_are_summed_and_the_slowest_p95_kept() -> None:
    diagram = measured(
        TRAINING,
        row("finetune", CHECKPOINTS, "write", 100, tenant="a", p95_ms=9.0),
        row("finetune", CHECKPOINTS, "write", 50, tenant="b", p95_ms=4.0, estimated=True),
    )
    assert flow(diagram, "finetune", CHECKPOINTS, WRITE) == Flow("finetune", "checkpoints", Tier.OBJECT, WRITE, 150, 4, 9.0, True)


def test_a_declared_port_that_moved_nothing_is_drawn_idle() -> None:
    assert flow(measured(TRAINING), "finetune", DATASETS, READ).ops == 0


def test_a_writer_that_read_its_objects_shows_that_but_a_commit_stays_beside() -> None:
    diagram = measured(TRAINING, row("finetune", CHECKPOINTS, "read", 70), row("land", FEEDBACK_ROWS, "read", 30))
    assert flow(diagram, "finetune", CHECKPOINTS, READ).bytes == 70
    assert [(f.stage, f.bytes) for f in diagram.beside] == [("land", 30)]
    ahead = measured(INFERENCE, row("embed", CHUNKS, "write", 70), row("embed", CHUNKS, "read", 30))
    assert flow(ahead, "embed", CHUNKS, WRITE).bytes == 70
    assert [(f.stage, f.bytes) for f in ahead.beside] == [("embed", 30)]


def test_stages_of_other_pipelines_stay_beside_and_no_byte_is_lost() -> None:
    rows = [
        row("record", FEEDBACK_ROWS, "write", 12),
        row("finetune", DATASETS, "read", 30),
        row("land", CHUNKS, "read", 5),
    ]
    diagram = measured(TRAINING, *rows)
    assert {f.stage for f in diagram.beside} == {"record", "land"}
    assert sum(f.bytes for f in (*diagram.flows, *diagram.beside)) == sum(r["bytes"] for r in rows)


def test_a_lent_stage_takes_its_neighbours_phase_and_only_the_stores_they_touch() -> None:
    diagram = measured(INFERENCE, row("land", FEEDBACK, "read", 9))
    assert [(s.name, s.phase) for s in diagram.stages][1] == ("land", AHEAD)
    assert {f.store for f in diagram.flows if f.stage == "land"} == {"document-events"}
    assert [(f.store, f.bytes) for f in diagram.beside] == [("feedback", 9)]


def test_triggers_and_labels_come_from_the_declaration() -> None:
    diagram = measured(TRAINING)
    assert [(m.stage, m.store, m.text) for m in diagram.marks] == [("land", "feedback", "when verdicts came in")]
    assert [s.label for s in diagram.stages] == ["Land", "Finetune"]


@pytest.mark.parametrize(
    ("pipeline", "rows", "expected"),
    [
        (
            TRAINING,
            [row("finetune", CHECKPOINTS, "write", 710_000), row("finetune", DATASETS, "read", 290_000)],
            "Training moved 1 MB; 71 % of it is checkpoints",
        ),
        (TRAINING, [row("land", FEEDBACK_ROWS, "write", 600)], "Training moved 600 B; 100 % of it went through tables"),
        (TRAINING, [], "Training moved nothing in this run"),
        (
            INFERENCE,
            [row("put", DOCUMENTS, "write", 900), row("embed", CHUNKS, "write", 600), row("retrieve", CHUNKS, "read", 200)],
            "1.5 KB moved ahead of time, so that questions moved only 200 B",
        ),
        (
            INFERENCE,
            [row("retrieve", KV_CACHE, "write", 800), row("put", DOCUMENTS, "write", 200)],
            "Inference moved 1 KB; 80 % of it is the KV cache",
        ),
        (
            INFERENCE,
            [
                row("put", DOCUMENTS, "write", 30),
                row("land", DOCUMENT_EVENTS, "read", 40),
                row("retrieve", CHUNKS, "read", 30),
            ],
            "Inference moved 100 B through 3 stores",
        ),
        # What was read again: only that, beside what was written, and from twice as much on.
        (
            TRAINING,
            [row("finetune", DATASETS, "write", 100), row("finetune", DATASETS, "read", 250)],
            "250 B were read from datasets, 2.5 times what was written",
        ),
        (
            TRAINING,
            [row("finetune", DATASETS, "write", 100), row("finetune", DATASETS, "read", 200)],
            "200 B were read from datasets, 2.0 times what was written",
        ),
        (
            TRAINING,
            [row("finetune", DATASETS, "write", 100), row("finetune", DATASETS, "read", 1234)],
            "1.2 KB were read from datasets, 12 times what was written",
        ),
        (
            TRAINING,
            [row("finetune", DATASETS, "write", 100), row("finetune", DATASETS, "read", 199)],
            "Training moved 299 B; 100 % of it went through object storage",
        ),
        # Two fifths of all are enough for a store to be named, a half for a tier, three times as much for being ahead.
        (
            TRAINING,
            [row("finetune", CHECKPOINTS, "write", 400), row("land", FEEDBACK_ROWS, "write", 600)],
            "Training moved 1 KB; 40 % of it is checkpoints",
        ),
        (
            TRAINING,
            [row("finetune", CHECKPOINTS, "write", 399), row("land", FEEDBACK_ROWS, "write", 601)],
            "Training moved 1 KB; 60 % of it went through tables",
        ),
        (
            TRAINING,
            [row("land", FEEDBACK_ROWS, "write", 500), row("land", FEEDBACK, "read", 500)],
            "Training moved 1 KB; 50 % of it went through tables",
        ),
        (
            INFERENCE,
            [row("put", DOCUMENTS, "write", 600), row("retrieve", CHUNKS, "read", 200)],
            "600 B moved ahead of time, so that questions moved only 200 B",
        ),
        (
            INFERENCE,
            [row("put", DOCUMENTS, "write", 599), row("retrieve", CHUNKS, "read", 200)],
            "Inference moved 799 B; 75 % of it went through object storage",
        ),
        (
            INFERENCE,
            [row("put", DOCUMENTS, "write", 30)],
            "Inference moved 30 B; 100 % of it went through object storage",
        ),
    ],
)
def test_the_headline_is_the_first_claim_the_rows_support(pipeline: Pipeline, rows: list[dict[str, Any]], expected: str) -> None:
    assert measured(pipeline, *rows).title == expected


def test_a_headline_of_other_numbers_is_refused() -> None:
    diagram = measured(TRAINING, row("finetune", CHECKPOINTS, "write", 710_000), row("finetune", DATASETS, "read", 290_000))
    more = tuple(replace(f, bytes=f.bytes + 400_000) if f.store == "datasets" else f for f in diagram.flows)
    with pytest.raises(Permanent, match="false for run r1"):
        replace(diagram, flows=more)


def test_a_headline_of_ones_own_must_hold_too() -> None:
    diagram = measured(TRAINING, row("finetune", CHECKPOINTS, "write", 10))
    assert replace(diagram, headline=Headline("Ten bytes", lambda moved: moved.bytes() == 10)).title == "Ten bytes"
    with pytest.raises(Permanent, match="headrace ledger"):
        replace(diagram, headline=Headline("Eleven bytes", lambda moved: moved.bytes() == 11))


def test_flows_of_no_stage_and_repeated_flows_are_refused() -> None:
    diagram = measured(TRAINING)
    with pytest.raises(ValueError, match="repeat"):
        replace(diagram, flows=(*diagram.flows, diagram.flows[0]))
    with pytest.raises(ValueError, match="stage"):
        replace(diagram, flows=(Flow("nowhere", "x", Tier.FILE, READ),))


def test_moved_counts_by_every_word() -> None:
    moved = Moved(
        (StageBox("a", "A", phase="one"), StageBox("b", "B", phase="two")),
        (
            Flow("a", "x", Tier.FILE, READ, 1, 1),
            Flow("b", "x", Tier.OBJECT, READ, 10, 1),
            Flow("b", "x", Tier.FILE, WRITE, 100, 1),
        ),
    )
    assert moved.bytes() == moved.bytes(store="x") == 111
    assert moved.bytes(tier=Tier.FILE) == 101
    assert moved.bytes(phase="two") == 110
    assert moved.bytes(direction=READ, tier=Tier.OBJECT) == 10
    assert moved.share(111) == 1
