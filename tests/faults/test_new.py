"""A pass that reads only what is new: killed before any of its writes, met by late events, beside others, and after losses."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from forks import ForkedProcess
from words import words

from headrace.catalog import CHUNK_ROWS, CHUNKS, DOCUMENT_EVENT_ROWS, DOCUMENT_ROWS, DOCUMENTS
from headrace.core.run import Run
from headrace.core.runner import Runner
from headrace.documents.formats.contract import ParseLimits
from headrace.documents.index import Indexed, index_documents, update_index
from headrace.documents.lookup import DocumentLookup
from headrace.documents.names import document_id, object_key
from headrace.documents.parse import parse
from headrace.platform import open_platform
from headrace.settings import Inference, Maintenance, Settings
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.metadata import Metadata
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectWriter
from headrace.storage.records import batch
from headrace.storage.stream.writer import TopicWriter
from headrace.storage.tables.handles import TableReader, TableWriter
from headrace.storage.tables.iceberg.append import IcebergAppend
from headrace.storage.vectors.handles import VectorReader, VectorWriter

METER = Meter(Ledger(), "test")
SETTINGS = Inference()
TENANT = "default"


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    folder = tmp_path_factory.mktemp("new")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SETTINGS", str(folder / "none.toml"))
        with words() as models, open_platform(Settings(home=folder / "home", models=models.models)) as endpoints:
            yield endpoints


@pytest.fixture
def runner(endpoints: Endpoints, tmp_path: Path) -> Runner:
    return Runner(Run("index", tmp_path), endpoints)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / f"docs-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    for name in ("stays", "changes", "goes"):
        (folder / f"{name}.md").write_text(f"# The {name}\n\nThe pump {name} at {uuid.uuid4()}.")
    return folder


def index(runner: Runner, *paths: Path, **more: bool) -> Indexed:
    return index_documents(runner, list(paths), tenant=TENANT, settings=SETTINGS, **more)


def assert_whole(runner: Runner) -> None:
    """The index has the chunks of every version that answers and no others; a comparison of the stores finds nothing to do."""
    lookup = DocumentLookup(runner.metadata, runner.open(TableReader, DOCUMENT_ROWS, stage="test"))
    lookup.rebuild()
    live = lookup.live()
    rows = runner.open(TableReader, CHUNK_ROWS, stage="test").read(("chunk_id", "document_id", "version")).to_pylist()
    ids = [row["chunk_id"] for row in rows if live.get(row["document_id"]) == row["version"]]
    assert len(set(ids)) == len(ids)
    indexed = runner.open(VectorReader, CHUNKS, stage="test").indexed()["chunk_id"].to_pylist()
    assert sorted(indexed) == sorted(ids)
    filled = update_index(runner, SETTINGS, compare=True)
    assert (filled.chunked.chunks, filled.embedded.changed) == (0, False)


def killed_before(link: Connection, folder: Path, endpoints: Endpoints, docs: Path, moments: list[int]) -> None:
    """Passes in processes of their own, each over new changes, each killed (-9) before a later one of its writes."""
    for moment in moments:
        if (child := os.fork()) == 0:
            _kill_before(moment)
            _change(docs, moment)
            index(Runner(Run("index", folder), endpoints), docs)
            os._exit(0)
        link.send(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _kill_before(moment: int) -> None:
    """Have this process killed before so many further writes to any store, tables and notes in the metadata store among them."""
    left = [moment]
    writes: list[tuple[type, str]] = [
        (TopicWriter, "append"),
        (ObjectWriter, "put"),
        (IcebergAppend, "commit"),
        (Metadata, "transaction"),
    ]
    writes += [(VectorWriter, name) for name in ("upsert", "describe", "delete", "build")]
    for kind, name in writes:
        setattr(kind, name, _counted(getattr(kind, name), left, only_writing=name == "transaction"))


def _counted(write: Callable[..., Any], left: list[int], *, only_writing: bool) -> Callable[..., Any]:
    def counting(*given: Any, **named: Any) -> Any:
        if not only_writing or named.get("writing"):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return write(*given, **named)

    return counting


def _change(docs: Path, moment: int) -> None:
    """One file anew, one changed, one gone since the last time."""
    (docs / f"new-{moment}.md").write_text(f"# New {moment}\n\nThe weir was measured at {uuid.uuid4()}.")
    (docs / "changes.md").write_text(f"# Changes\n\nThe gate was greased at {uuid.uuid4()}.")
    for gone in (docs / "goes.md", docs / f"new-{moment - 1}.md"):
        gone.unlink(missing_ok=True)


@pytest.mark.parametrize("moments", [[3, 9, 15], pytest.param(list(range(1, 40)), marks=pytest.mark.soak(minutes=3))])
def test_a_pass_killed_before_any_write_is_completed_by_the_next(
    runner: Runner, endpoints: Endpoints, docs: Path, tmp_path: Path, moments: list[int]
) -> None:
    index(runner, docs)
    children = ForkedProcess(killed_before, tmp_path, endpoints, docs, moments)
    assert children.wait() == 0, children.said
    assert -signal.SIGKILL in children.said, children.said
    assert set(children.said) <= {0, -signal.SIGKILL}, children.said
    done = index(runner, docs)
    assert done.parsed.failed == ()
    assert_whole(runner)
    lookup = DocumentLookup(runner.metadata, runner.open(TableReader, DOCUMENT_ROWS, stage="test"))
    lookup.follow()
    uris = [f"{docs.name}/{path.name}" for path in docs.iterdir()]
    known = lookup.of_uris(TENANT, uris)
    assert {uri: row["status"] for uri, row in known.items()} == dict.fromkeys(uris, "parsed")
    assert lookup.of_uris(TENANT, [f"{docs.name}/goes.md"])[f"{docs.name}/goes.md"]["status"] == "deleted"


def test_a_pass_reads_what_is_new_and_not_what_is_there(runner: Runner, docs: Path, tmp_path: Path) -> None:
    index(runner, docs)

    def read(number: int) -> dict[str, int]:
        """Bytes read per table by a pass over one more document."""
        path = docs / f"more-{number}.md"
        path.write_text(f"# More {number}\n\nThe turbine turned at {uuid.uuid4()}.")
        run = Run("index", tmp_path)
        own = Runner(run, runner.endpoints)
        index(own, path)
        return {row.store: row.bytes for row in run.ledger.rows() if row.tier == "table" and row.direction == "read"}

    before = read(0)
    for number in range(1, 30):
        (docs / f"bulk-{number}.md").write_text("The sluice is long. " * 200 + str(uuid.uuid4()))
    index(runner, docs)
    read(1)  # what the bulk committed is not read by every pass from here on
    after = read(2)
    assert after.keys() == before.keys()
    for store, size in after.items():
        assert size < 2 * before[store] + 20_000, (store, before, after)


def test_an_event_that_lands_late_with_a_lower_offset_on_another_partition_is_parsed(runner: Runner, docs: Path) -> None:
    index(runner, docs)
    uri, data = f"late-{uuid.uuid4().hex}.md", b"# Late\n\nIt came late."
    sources = runner.open(ObjectWriter, DOCUMENTS, stage="test")
    event = {
        **{"event_id": uuid.uuid4().hex, "kind": "put", "tenant": TENANT, "uri": uri, "bytes": len(data), "reason": ""},
        **{"at": datetime.now(UTC), "readers": None, "source": None, "attributes": None, "extra": None},
        **{"sha256": "ab" * 32, "topic": "document-events", "partition": 7, "offset": 0},
    }
    sources.put(object_key(TENANT, event["sha256"]), data)
    runner.open(TableWriter, DOCUMENT_EVENT_ROWS, stage="test").append(batch(DOCUMENT_EVENT_ROWS.columns, [event]))
    assert runner.run(parse, limits=ParseLimits.from_settings(SETTINGS)).parsed == 1
    # And one more there, after the table was merged into one file.
    runner.open(TableWriter, DOCUMENT_EVENT_ROWS, stage="test").maintain(Maintenance(every=1, merge=2, keep_s=0))
    again = {**event, "event_id": uuid.uuid4().hex, "sha256": "cd" * 32, "offset": 1}
    sources.put(object_key(TENANT, again["sha256"]), data + b" Twice.")
    # A repetition of the first event, which must not undo the second.
    events = [again, {**event, "offset": 2}]
    runner.open(TableWriter, DOCUMENT_EVENT_ROWS, stage="test").append(batch(DOCUMENT_EVENT_ROWS.columns, events))
    assert runner.run(parse, limits=ParseLimits.from_settings(SETTINGS)).parsed == 1
    update_index(runner, SETTINGS)
    lookup = DocumentLookup(runner.metadata, runner.open(TableReader, DOCUMENT_ROWS, stage="test"))
    lookup.follow()
    name = document_id(TENANT, uri)
    assert lookup.live([name]) == {name: "cd" * 32}
    assert set(runner.open(VectorReader, CHUNKS, stage="test").indexed([name])["version"].to_pylist()) == {"cd" * 32}


def test_verifying_repairs_an_index_that_lost_rows(runner: Runner, docs: Path) -> None:
    index(runner, docs)
    name = document_id(TENANT, f"{docs.name}/stays.md")
    vectors = runner.open(VectorWriter, CHUNKS, stage="test")
    held = vectors.indexed([name])["chunk_id"].to_pylist()
    assert held
    vectors.delete({name: ""})
    assert index(runner, docs).embedded.chunks == 0, "nothing is new"
    assert index(runner, docs, compare=True).embedded.chunks == len(held)
    assert vectors.indexed([name])["chunk_id"].to_pylist() == held
    assert_whole(runner)


def test_an_index_that_was_replaced_by_an_older_copy_or_none_is_compared(runner: Runner, docs: Path) -> None:
    index(runner, docs)
    chunks = runner.open(VectorReader, CHUNKS, stage="test").count()
    runner.open(VectorWriter, CHUNKS, stage="test").drop()
    done = index(Runner(runner.record, runner.endpoints), docs)
    assert (done.embedded.chunks, done.index.chunks) == (chunks, chunks)
    assert_whole(Runner(runner.record, runner.endpoints))


@pytest.mark.soak(minutes=0.4)
def test_a_new_metadata_store_is_filled_from_the_tables(runner: Runner, docs: Path, tmp_path: Path) -> None:
    index(runner, docs)
    assert runner.endpoints.metadata is not None
    elsewhere = runner.endpoints.metadata.model_copy(update={"file": tmp_path / "metadata.db"})
    other = Runner(runner.record, runner.endpoints.model_copy(update={"metadata": elsewhere}))
    done = index(other, docs)
    assert (done.put.put, done.put.unchanged, done.embedded.changed) == (0, 3, False)
    (docs / "goes.md").unlink()
    (docs / "changes.md").write_text("It has other words now.")
    assert index(other, docs).embedded.retired == 2
    assert index(runner, docs).put.put == 0, "the first store follows what was done beside it"
    assert_whole(runner)


@pytest.mark.soak(minutes=0.3)
def test_a_version_that_is_put_again_has_all_its_chunks(runner: Runner, docs: Path) -> None:
    first = (docs / "changes.md").read_text()
    index(runner, docs)
    (docs / "changes.md").write_text("Other words for a while.")
    index(runner, docs)
    (docs / "changes.md").write_text(first)
    done = index(runner, docs)
    assert (done.chunked.chunks, done.embedded.retired) == (0, 1)
    assert_whole(runner)


def test_many_deletions_make_one_version_of_the_index(runner: Runner, docs: Path) -> None:
    for number in range(20):
        (docs / f"short-{number}.md").write_text(f"Number {number}, {uuid.uuid4()}.")
    index(runner, docs)
    vectors = runner.open(VectorReader, CHUNKS, stage="test")
    before = vectors.table_version()
    for number in range(20):
        (docs / f"short-{number}.md").unlink()
    assert index(runner, docs, accept_deletions=True).embedded.retired == 20
    assert vectors.table_version() <= before + 2  # and one where the last pass's rows were due for the indices
    assert_whole(runner)
