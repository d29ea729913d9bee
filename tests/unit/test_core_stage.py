"""Stages: the signature is the storage contract, and the runner keeps to it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import pytest

import headrace.answering
import headrace.documents
import headrace.lineage
from headrace.answering.engine import INFERENCE
from headrace.catalog import (
    CHUNKS,
    DOCUMENT_ROWS,
    DOCUMENTS,
    FEEDBACK_ROWS,
    INTERACTIONS,
    KV_CACHE,
    KV_OBJECTS,
    KV_STORES,
    LANDINGS,
    SOURCES,
    STORES,
    Store,
    Tier,
)
from headrace.core.launch import Batches, Threads
from headrace.core.progress import ProgressBars
from headrace.core.run import Run
from headrace.core.runner import Runner
from headrace.core.stage import Pipeline, Stage, each, stage
from headrace.landing.backlog import backlog
from headrace.landing.dead_letters import reland, skip
from headrace.landing.divergence import resolve_divergence
from headrace.landing.land import land
from headrace.landing.trim import trim
from headrace.lineage.forget.remains import in_head
from headrace.lineage.graph import trace_event
from headrace.models.kv.backends import BACKENDS
from headrace.storage.endpoints import Endpoints, ModelEndpoint
from headrace.storage.files import FileReader, FileWriter
from headrace.storage.ledger import Direction, Ledger
from headrace.storage.meter import ReportedWriter
from headrace.storage.objects import ObjectWriter
from headrace.storage.stream.writer import TopicWriter
from headrace.storage.tables.handles import TableReader
from headrace.storage.vectors.handles import VectorReader
from headrace.training.cutoff import bound
from headrace.training.round import TRAINING

STAGES = {s.name: s for pipeline in (TRAINING, INFERENCE) for s in pipeline.stages}


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    none = ModelEndpoint(url="http://127.0.0.1:9/v1", model="none")
    endpoints = Endpoints(
        s3_endpoint="http://127.0.0.1:9",
        s3_access_key="a",
        s3_secret_key="b",
        s3_region="us-east-1",
        bucket="headrace",
        catalog_uri="http://127.0.0.1:9",
        warehouse="w",
        kafka_bootstrap="127.0.0.1:9",
        files_dir=tmp_path,
        kv_cache_bytes=0,
        vectors_uri=str(tmp_path / "vectors"),
        embedder=none,
        reranker=none,
        generator=none,
    )
    return Runner(Run("test", tmp_path), endpoints)


def test_a_signature_says_which_stores_a_stage_touches() -> None:
    @stage("Does a thing.", phase="now")
    def thing(
        sources: Annotated[ObjectWriter, DOCUMENTS],
        known: Annotated[TableReader, DOCUMENT_ROWS],
        events: Annotated[TopicWriter, INTERACTIONS],
        vectors: Annotated[VectorReader, CHUNKS],
        bars: ProgressBars,
        most: int,
    ) -> int:
        return most

    assert (thing.name, thing.sentence, thing.phase) == ("thing", "Does a thing.", "now")
    assert [(p.parameter, p.store, p.direction) for p in thing.ports] == [
        ("sources", DOCUMENTS, Direction.WRITE),
        ("known", DOCUMENT_ROWS, Direction.READ),
        ("events", INTERACTIONS, Direction.WRITE),
        ("vectors", CHUNKS, Direction.READ),
    ]
    assert thing.inputs == ("bars", "most")


@pytest.mark.parametrize("kind", [TableReader, Annotated[TableReader, "documents"], ObjectWriter, FileWriter])
def test_a_handle_without_a_store_is_refused_at_once(kind: Any) -> None:
    def bad(documents: Any) -> None: ...

    bad.__annotations__["documents"] = kind
    with pytest.raises(TypeError, match=r"bad\(documents\) is a handle but names no store"):
        stage("Bad.")(bad)


def test_a_generator_is_at_work_until_its_last_item(runner: Runner) -> None:
    @stage("Says words.")
    def say(files: Annotated[FileWriter, KV_CACHE], many: int) -> Iterator[int]:
        for number in range(many):
            files.write(f"{number}", b"word")
            yield number

    words = runner.run(say, many=3)
    timeline = runner.record.ledger.timeline
    assert timeline.export() == [], "it has not begun"
    assert [next(words), next(words)] == [0, 1]
    (under_way,) = timeline.export()
    assert list(words) == [2]
    (ended,) = timeline.export()
    assert (ended["stage"], ended["calls"], len(ended["spans"])) == ("say", 1, 1)
    assert under_way["active_s"] < ended["active_s"]
    assert 0 < ended["waited_s"] <= ended["storage_s"] <= ended["active_s"]
    assert ended["tiers"].keys() == {"file"}


def test_a_parameter_without_a_type_is_refused_at_once() -> None:
    def bad(documents) -> None: ...  # type: ignore[no-untyped-def]

    with pytest.raises(KeyError, match="documents"):
        stage("Bad.")(bad)


def test_the_runner_gives_the_declared_handles_and_counts_under_the_stage_and_tenant(runner: Runner) -> None:
    @stage("Writes a file.")
    def writes(files: Annotated[FileWriter, KV_CACHE], tenant: str, data: bytes) -> str:
        files.write("a", data)
        return tenant

    @stage("Reads a file.")
    def reads(files: Annotated[FileReader, KV_CACHE]) -> tuple[type, bytes | None]:
        return type(files), files.read("a")

    assert runner.run(writes, tenant="acme", data=b"four") == "acme"
    assert runner.run(reads) == (FileReader, b"four")
    rows = [(r.stage, r.store, r.tier, r.direction, r.tenant, r.bytes) for r in runner.record.ledger.rows()]
    assert rows == [
        ("writes", "kv-cache", str(Tier.FILE), "write", "acme", 4),
        ("reads", "kv-cache", str(Tier.FILE), "read", "", 4),
    ]


def test_the_runner_gives_nothing_that_was_not_declared(runner: Runner) -> None:
    @stage("Looks around.")
    def looks(files: Annotated[FileReader, KV_CACHE], **rest: Any) -> dict[str, Any]:
        return rest

    assert runner.run(looks) == {}


def test_a_stage_gets_a_handle_of_each_of_many_stores_and_can_be_run_over_others(runner: Runner) -> None:
    @stage("Reads all of them.")
    def reads(tables: Annotated[Mapping[Store, TableReader], each((DOCUMENT_ROWS, FEEDBACK_ROWS))], most: int) -> list[Store]:
        assert all(type(table) is TableReader and table.store is store for store, table in tables.items())
        return [*tables][:most]

    assert [port.store for port in reads.ports] == [DOCUMENT_ROWS, FEEDBACK_ROWS]
    assert runner.run(reads, most=5) == [DOCUMENT_ROWS, FEEDBACK_ROWS]
    assert runner.run(reads.over(tables=[FEEDBACK_ROWS]), most=5) == [FEEDBACK_ROWS]
    assert runner.run(reads, 1) == [DOCUMENT_ROWS], "inputs by position are those behind the handles"


def test_a_handle_behind_an_input_is_refused_at_once() -> None:
    def bad(most: int, files: Annotated[FileReader, KV_CACHE]) -> None: ...

    with pytest.raises(TypeError, match=r"bad\(files\) is a handle and must come before 'most'"):
        stage("Bad.")(bad)


@pytest.mark.parametrize(
    "declared", [land, resolve_divergence, skip, reland, trim, backlog, trace_event, bound, in_head], ids=lambda s: s.name
)
def test_a_topic_added_to_the_catalog_is_landed_traced_and_forgotten_by_that_alone(declared: Stage[..., Any]) -> None:
    """What concerns every topic takes them from the catalog, none by name."""
    many = {port.store for port in declared.ports if port.many}
    assert many >= set(LANDINGS) or many >= set(LANDINGS.values())
    assert not {port.store for port in declared.ports if not port.many} & {*LANDINGS, *LANDINGS.values()}


def test_the_runner_gives_its_batches_and_bars_where_asked_and_an_input_wins(runner: Runner) -> None:
    @stage("Asks.")
    def asks(batches: Batches, bars: ProgressBars) -> tuple[Batches, ProgressBars]:
        return batches, bars

    mine = ProgressBars(quiet=True)
    assert runner.run(asks) == (runner.batches, runner.bars)
    assert runner.run(asks, bars=mine)[1] is mine
    assert isinstance(runner.batches, Threads)


def test_a_stage_lacking_an_input_says_which(runner: Runner) -> None:
    @stage("Needs.")
    def needs(files: Annotated[FileReader, KV_CACHE], most: int) -> int:
        return most

    with pytest.raises(TypeError, match="most"):
        runner.run(needs)


def test_handles_are_kept_for_a_tenant_and_not_shared_between_tenants(runner: Runner) -> None:
    @stage("Shows its handle.")
    def shows(files: Annotated[FileReader, KV_CACHE]) -> FileReader:
        return files

    one, other = runner.for_tenant("a"), runner.for_tenant("b")
    assert one.run(shows) is one.run(shows)
    assert one.run(shows) is runner.open(FileReader, KV_CACHE, stage="shows", tenant="a")
    assert one.run(shows) is not other.run(shows)


def test_stores_of_one_name_in_two_tiers_have_handles_of_their_own(runner: Runner) -> None:
    @stage("Counts what the model server moved.")
    def counts(
        files: Annotated[ReportedWriter, KV_CACHE],
        objects: Annotated[ReportedWriter, KV_OBJECTS],
        moved: list[dict[str, Any]],
        tenant: str,
    ) -> None:
        for kv in (files, objects):
            kv.take(moved)

    assert KV_CACHE.name == KV_OBJECTS.name
    for tenant in ("acme", "globex"):
        for store, size in ((KV_CACHE, 100), (KV_OBJECTS, 7)):
            moved = Ledger()
            moved.count("models", store, Direction.WRITE, bytes=size, seconds=0.1, tenant=tenant)
            runner.run(counts, moved=moved.export(), tenant=tenant)
    assert [(row.tier, row.tenant, row.ops, row.bytes) for row in runner.record.ledger.rows()] == [
        ("file", "acme", 1, 100),
        ("object", "acme", 1, 7),
        ("file", "globex", 1, 100),
        ("object", "globex", 1, 7),
    ]


@pytest.mark.parametrize("declared", STAGES.values(), ids=lambda s: s.name)
def test_every_stage_names_stores_of_the_catalog_by_handles_of_their_tier(declared: Stage[..., Any]) -> None:
    for port in declared.ports:
        assert port.store in STORES
        name = port.handle.__name__.removesuffix("Reader").removesuffix("Writer")
        allowed = {"Table": "table", "Object": "object", "Topic": "stream", "Vector": "vector", "File": "file"}
        allowed |= {"Index": "object", "Ranking": "object", "Bucket": "object"}
        assert name == "Reported" or allowed[name] == port.store.tier
    assert declared.sentence.endswith(".")
    assert declared.ports


def test_each_stage_that_uses_the_kv_cache_names_its_stores_of_all_backends() -> None:
    """docs/how-to/add-a-kv-backend.md: it names the stages that lack the store of a new backend."""
    assert {make().store for make in BACKENDS.values()} == set(KV_STORES)
    lacks: dict[str, list[str]] = {}
    users = 0
    for package in (headrace.answering, headrace.documents, headrace.lineage):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for one in vars(importlib.import_module(found.name)).values():
                used = {port.store for port in one.ports} & set(KV_STORES) if isinstance(one, Stage) else set()
                users += bool(used)
                if used and (missing := [store.tier.value for store in KV_STORES if store not in used]):
                    lacks[f"{one.name} ({found.name})"] = missing
    assert users
    assert lacks == {}, "stages without a store of the KV cache"


@pytest.mark.parametrize("pipeline", [TRAINING, INFERENCE], ids=lambda p: p.name)
def test_a_pipelines_stages_have_names_of_their_own_and_its_triggers_start_one(pipeline: Pipeline) -> None:
    names = [s.name for s in pipeline.stages]
    assert len(names) == len(set(names))
    for trigger in pipeline.triggers:
        assert trigger.store in {port.store for port in STAGES[trigger.stage].ports}


def test_what_a_stage_reads_some_stage_writes() -> None:
    ports = [port for s in STAGES.values() for port in s.ports]
    written = {port.store for port in ports if port.direction is Direction.WRITE}
    theirs = {SOURCES}  # written by their owners
    assert {port.store for port in ports if port.direction is Direction.READ} <= written | theirs
