"""Maintenance against the real catalog and store: rows, properties and named snapshots stay; files and objects stay few."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow.fs import FileSelector, FileType
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation
from rounds import manifest as a_manifest
from rounds import plan as a_plan
from servers import Servers

from headrace.catalog import FEEDBACK_ROWS, INTERACTION_ROWS, ROUNDS, Store, Tier, stores
from headrace.core.maintain import maintain, retained_snapshots
from headrace.core.run import Run
from headrace.core.runner import Runner
from headrace.errors import LostRace, NotFound
from headrace.settings import Maintenance
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectWriter
from headrace.storage.records import batch
from headrace.storage.tables.handles import TableReader, TableWriter
from headrace.storage.tables.iceberg.compaction import groups
from headrace.storage.tables.iceberg.table import IcebergTable
from headrace.training import manifest

pytest_plugins = ["shared"]
# Everything at once: a table is due at once, nothing but the newest snapshot is kept, and objects go after two seconds.
BRISK = Maintenance(every=1, merge=2, keep_s=0, keep_snapshots=1, history_s=0, grace_s=1)
GRACE_PASSED_S = 3.1  # the store's times are whole seconds
Story = Callable[[Endpoints, TableWriter], Iterator[None]]
STORIES: dict[str, Story] = {}


@pytest.fixture(scope="module")
def endpoints(shared_servers: Servers) -> Endpoints:
    return shared_servers.endpoints


def own(store: Store) -> Store:
    return replace(store, name=f"{store.name}-{uuid.uuid4().hex[:8]}")


@pytest.fixture
def table(endpoints: Endpoints) -> TableWriter:
    return TableWriter(own(FEEDBACK_ROWS), endpoints, Meter(Ledger(), "test"))


def story(told: Story) -> Callable[[dict[str, Exception]], None]:
    """A test that yields where a grace time passes. All that were asked for wait together: the waiting is done once."""
    STORIES[told.__name__] = told

    def test(ended: dict[str, Exception]) -> None:
        if told.__name__ in ended:
            raise ended[told.__name__]

    test.__name__, test.__doc__ = told.__name__, told.__doc__
    return test


@pytest.fixture(scope="module")
def ended(request: pytest.FixtureRequest, endpoints: Endpoints) -> dict[str, Exception]:
    """How each story failed, if it did, once all are told, each on a table of its own."""
    asked = {item.name for item in request.session.items if item.path == request.path} & STORIES.keys()
    under_way = {
        name: STORIES[name](endpoints, TableWriter(own(FEEDBACK_ROWS), endpoints, Meter(Ledger(), "test"))) for name in asked
    }
    failed: dict[str, Exception] = {}
    while under_way:
        for name, steps in list(under_way.items()):
            try:
                next(steps)
            except StopIteration:
                del under_way[name]
            except Exception as error:
                failed[name] = error
                del under_way[name]
        if under_way:
            time.sleep(GRACE_PASSED_S)
    return failed


def again(table: TableWriter, endpoints: Endpoints) -> TableWriter:
    """Another process's handle of the same table."""
    return TableWriter(table.store, endpoints, Meter(Ledger(), "test"))


def row(number: int) -> dict[str, Any]:
    return {
        "verdict_id": f"v{number}",
        "answer_id": f"a{number}",
        "tenant": "acme",
        "user": "ann",
        "simulated": True,
        "up": number % 2 == 0,
        "chunk_id": "",
        "reason": f"because {number}",
        "correction": "",
        "at": datetime(2026, 1, 1, tzinfo=UTC),
        "topic": "feedback",
        "partition": 0,
        "offset": number,
    }


def land(table: TableWriter, first: int, count: int = 1, *, per_commit: int = 1) -> int:
    """Commit rows as a lander does, each commit moving the property; return the next offset."""
    for at in range(first, first + count * per_commit, per_commit):
        rows = batch(table.store.columns, [row(number) for number in range(at, at + per_commit)])
        table.append(rows, properties={"offsets": at + per_commit}, expected={"offsets": at or None})
    return first + count * per_commit


def offsets(table: TableReader, **how: Any) -> list[int]:
    return [int(offset) for offset in table.read(("offset",), **how)["offset"].to_pylist()]


def iceberg(table: TableReader) -> Table:
    assert isinstance(table.format, IcebergTable)
    loaded = table.format.load()
    assert loaded is not None
    return loaded


def objects(table: TableReader) -> dict[str, int]:
    """What lies under a table's location: name → bytes."""
    loaded = iceberg(table)
    scheme, host, root = loaded.io.parse_location(loaded.location())  # type: ignore[attr-defined]
    infos = loaded.io.fs_by_scheme(scheme, host).get_file_info(FileSelector(root, recursive=True))  # type: ignore[attr-defined]
    return {info.path.removeprefix(f"{root}/"): info.size for info in infos if info.type == FileType.File}


def put(table: TableReader, name: str, data: bytes = b"x") -> None:
    with iceberg(table).io.new_output(f"{iceberg(table).location()}/{name}").create() as stream:
        stream.write(data)


def files(table: TableReader) -> int:
    return len(list(iceberg(table).scan().plan_files()))


# what is merged


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([1] * 3, []),
        ([1] * 4, [[0, 1, 2, 3]]),
        ([1] * 9, [list(range(9))]),
        ([60_000] * 4, [[0, 1, 2, 3]]),
        ([500_000, 1, 1, 1, 1], [[1, 2, 3, 4]]),
        ([9_000_000, 1, 1, 1], []),  # large enough to be left alone
        ([300_000] * 3 + [60_000] * 5, [list(range(8))]),  # what is merged counts in its new class at once
        ([4_000_000] * 5, [[0, 1, 2, 3], [4]][:1]),  # no file above the most
        ([], []),
    ],
)
def test_files_of_a_class_are_merged_once_there_are_enough(sizes: list[int], expected: list[list[int]]) -> None:
    files = list(enumerate(sizes))
    chosen = groups(files, lambda file: file[1], merge=4, most=16_000_000)
    assert [[number for number, _ in group] for group in chosen] == expected


def test_a_day_of_commits_rewrites_each_byte_a_few_times_and_leaves_few_files() -> None:
    held: list[list[int]] = []
    written = 0
    for second in range(86_400):
        held.append([4_000])
        if second % 100 == 99:
            for group in groups(held, sum, merge=8, most=128 << 20):
                one = [sum(sum(file) for file in group)]
                written += one[0]
                held = [file for file in held if all(file is not gone for gone in group)] + [one]
    assert sum(map(sum, held)) == 86_400 * 4_000
    assert len(held) < 8 * 5
    assert written < 5 * 86_400 * 4_000


def test_merging_keeps_rows_order_marks_and_says_replace(table: TableWriter, endpoints: Endpoints) -> None:
    land(table, 0, 12)
    table.append(batch(table.store.columns, []), properties={"other": [1]})
    before = table.read()
    done = table.maintain(replace_(BRISK, merge=8))
    assert done is not None
    assert (done.files_before, done.files_after, done.merged) == (12, 1, 12)
    assert done.bytes_after < done.bytes_before
    fresh = again(table, endpoints)
    assert files(fresh) == 1
    assert offsets(fresh) == list(range(12))
    assert fresh.read().sort_by("offset") == before.sort_by("offset")
    assert (fresh.snapshot_property("offsets"), fresh.snapshot_property("other")) == (12, [1])
    snapshot = iceberg(fresh).current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    assert snapshot.summary.operation == Operation.REPLACE
    assert snapshot.summary["total-records"] == "12"
    assert snapshot.summary["total-data-files"] == "1"
    assert land(fresh, 12, 2) == 14
    assert sorted(offsets(table)) == list(range(14))


def replace_(rules: Maintenance, **changed: Any) -> Maintenance:
    return rules.model_copy(update=changed)


def test_lists_of_structs_and_columns_added_since_are_merged_as_they_are(endpoints: Endpoints) -> None:
    columns = INTERACTION_ROWS.columns
    older = replace(own(INTERACTION_ROWS), schema=pa.schema([field for field in columns if field.name != "extra"]))
    first = TableWriter(older, endpoints, Meter(Ledger(), "test"))

    def answer(number: int, **more: Any) -> dict[str, Any]:
        blank: dict[str, Any] = {}
        for field in columns:
            kind = field.type
            listed, text = pa.types.is_list(kind), pa.types.is_string(kind)
            flag = pa.types.is_boolean(kind)
            blank[field.name] = [] if listed else "" if text else False if flag else None if field.nullable else number
        passages = [
            {"chunk_id": f"c{n}", "document": "d", "retrieval_score": 0.5, "retrieval_rank": n, "cited": n == 0} for n in range(3)
        ]
        return {**blank, "at": datetime(2026, 1, 1, tzinfo=UTC), "passages": passages, "logprobs": [-0.5, -1.0], **more}

    for number in range(3):
        first.append(batch(older.columns, [answer(number)]))
    newer = TableWriter(replace(older, schema=columns), endpoints, Meter(Ledger(), "test"))
    for number in range(3, 6):
        newer.append(batch(columns, [answer(number, extra='{"x": 1}')]))
    before = newer.read().sort_by("offset")
    done = newer.maintain(BRISK)
    assert done is not None
    assert (done.files_before, done.files_after) == (6, 1)
    assert newer.read().sort_by("offset") == before
    assert before["extra"].to_pylist() == [None] * 3 + ['{"x": 1}'] * 3
    assert before["passages"].to_pylist()[0][2]["chunk_id"] == "c2"


def test_a_table_that_nobody_made_or_that_is_in_order_is_left_alone(table: TableWriter) -> None:
    assert table.maintain(BRISK) is None
    assert not table.due(BRISK)
    land(table, 0, 3)
    rules = replace_(BRISK, every=5, merge=8, keep_snapshots=10)
    assert not table.due(rules)
    before = table.snapshot()
    assert table.maintain(rules) is not None
    assert table.snapshot() == before


def test_due_is_told_by_commits_since_the_last_maintenance_without_reading_a_file(table: TableWriter) -> None:
    ledger = Ledger()
    told = []
    watched = TableWriter(table.store, table.format._endpoints, Meter(ledger, "test"))  # type: ignore[attr-defined]
    rules = replace_(BRISK, every=3)
    for number in range(8):
        land(table, number)
        told.append(watched.due(rules))
        if told[-1]:
            assert table.maintain(rules) is not None
    assert told == [False, False, True, False, False, True, False, False]
    assert ledger.rows() == []


@story
def test_everything_that_maintenance_moves_is_counted(endpoints: Endpoints, table: TableWriter) -> Iterator[None]:
    land(table, 0, 4)
    ledger = Ledger()
    kept = TableWriter(table.store, endpoints, Meter(ledger, "maintenance"))
    for _ in range(2):  # one merges, one expires
        kept.maintain(BRISK)
        yield
    before = {line.direction: line.ops for line in ledger.rows()}
    done = kept.maintain(BRISK)
    assert done is not None
    assert done.removed >= 8  # a data file and a manifest for each commit
    moved = {line.direction: line.ops for line in ledger.rows()}
    assert moved["write"] - before["write"] >= done.removed
    assert all(line.bytes > 0 and line.stage == "maintenance" for line in ledger.rows())


# what stays


@story
def test_snapshots_that_rounds_name_outlive_all_others_and_can_be_read(
    endpoints: Endpoints, table: TableWriter
) -> Iterator[None]:
    rounds = ObjectWriter(own(ROUNDS), endpoints, Meter(Ledger(), "test"))
    land(table, 0, 3)
    planned = table.snapshot()
    land(table, 3, 3)
    published = table.snapshot()
    manifest.begin(rounds, a_plan(1, snapshots={"feedback": published}))
    manifest.publish(rounds, a_manifest(1, snapshots={"feedback": published}))
    manifest.begin(rounds, a_plan(2, snapshots={"feedback": planned}))
    land(table, 6, 3)
    unnamed = table.snapshot()
    land(table, 9, 3)
    for _ in range(3):
        done = table.maintain(BRISK, retained_snapshots(rounds))
        yield
    assert table.maintain(BRISK, retained_snapshots(rounds)).removed == 0  # type: ignore[union-attr]
    assert done is not None
    assert done.removed > 0
    assert done.snapshots_after == 3
    assert sorted(offsets(table, snapshot=planned)) == [0, 1, 2]
    assert sorted(offsets(table, snapshot=published)) == [0, 1, 2, 3, 4, 5]
    assert sorted(offsets(table)) == list(range(12))
    with pytest.raises(NotFound, match="maintenance has expired it"):
        offsets(table, snapshot=unnamed)


@story
def test_one_snapshot_per_step_stays_so_that_marks_of_the_past_are_known(
    endpoints: Endpoints, table: TableWriter
) -> Iterator[None]:
    rules = replace_(BRISK, history_s=60, history_step_s=1)
    times = []
    at = 0
    for _ in range(3):
        at = land(table, at, 4)
        times.append((datetime.now(UTC), at))
        yield
    done = table.maintain(rules)
    assert done is not None
    assert 4 <= done.snapshots_after < 13  # of each burst those of different seconds, and maintenance's own
    for moment, landed in times:
        assert again(table, endpoints).snapshot_properties(moment)["offsets"] == landed
    assert table.snapshot_properties(times[0][0].replace(year=2020)) == {}


@story
def test_what_reads_an_old_snapshot_is_not_disturbed_within_the_grace(endpoints: Endpoints, table: TableWriter) -> Iterator[None]:
    rules = replace_(BRISK, grace_s=600)
    land(table, 0, 4)
    reader = again(table, endpoints)
    plan = iceberg(reader).scan()
    land(table, 4, 2)
    for _ in range(2):
        done = table.maintain(rules)
        yield
    assert done is not None
    assert done.removed == 0
    assert iceberg(again(table, endpoints)).metadata.snapshots[0].snapshot_id != plan.snapshot_id
    assert sorted(plan.to_arrow()["offset"].to_pylist()) == list(range(4))


@story
def test_the_grace_is_counted_from_when_a_file_was_left_not_from_when_it_was_written(
    endpoints: Endpoints, table: TableWriter
) -> Iterator[None]:
    land(table, 0, 4)
    plan = iceberg(table).scan()
    tasks = list(plan.plan_files())
    yield  # the files are older than the grace by now, but named until this maintenance
    done = table.maintain(BRISK)
    assert done is not None
    assert done.merged == 4
    assert done.removed == 0
    here = objects(table)
    assert all(any(task.file.file_path.endswith(name) for name in here) for task in tasks)


# what is removed


@story
def test_what_nobody_names_is_removed_and_only_that(endpoints: Endpoints, table: TableWriter) -> Iterator[None]:
    land(table, 0, 3)
    orphans = [
        "data/left-behind.parquet",
        "metadata/left-behind-m0.avro",
        "metadata/snap-1-0-x.avro",
        "metadata/v0.metadata.json",
    ]
    others = ["data/somebody.orc", "metadata/version-hint.text"]
    for name in [*orphans, *others]:
        put(table, name)
    rules = replace_(BRISK, merge=8, every=1000, keep_snapshots=10)
    first = table.maintain(rules)
    assert first is not None
    assert (first.marked_for_deletion, first.removed) == (0, 0)  # too young to be anything but somebody's commit under way
    yield
    second = table.maintain(rules)
    assert second is not None
    assert (second.marked_for_deletion, second.removed) == (4, 0)
    assert set(orphans) <= objects(table).keys()
    yield
    third = table.maintain(rules)
    assert third is not None
    assert (third.marked_for_deletion, third.removed, third.removed_bytes) == (0, 4, 4)
    left = objects(table).keys()
    assert not left & set(orphans)
    assert set(others) <= left
    assert [name for name in left if "maintenance-" in name] == ["data/maintenance-clock.parquet"]
    assert sorted(offsets(table)) == [0, 1, 2]


@story
def test_the_files_of_another_table_whose_name_begins_alike_are_not_touched(
    endpoints: Endpoints, table: TableWriter
) -> Iterator[None]:
    longer = TableWriter(replace(table.store, name=f"{table.store.name}-more"), endpoints, Meter(Ledger(), "test"))
    land(longer, 0, 3)
    put(longer, "data/left-behind.parquet")
    land(table, 0, 3)
    before = objects(longer)
    for _ in range(3):
        table.maintain(BRISK)
        yield
    assert objects(longer) == before


@story
def test_a_writer_slower_than_the_grace_is_refused_and_leaves_no_hole(endpoints: Endpoints, table: TableWriter) -> Iterator[None]:
    """The counter-example is a writer that commits what it wrote, however long ago: the table would name a removed file."""
    land(table, 0, 3)
    slow = again(table, endpoints)
    assert isinstance(slow.format, IcebergTable)
    wakes, commit = threading.Event(), slow.format.commit

    def late(*given: Any, **how: Any) -> int:
        assert wakes.wait(120)
        return commit(*given, **how)

    slow.format.commit = late  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(slow.append, batch(table.store.columns, [row(3)]))
        try:
            for _ in range(3):
                yield
                assert not written.done()
                table.maintain(BRISK)
        finally:
            wakes.set()
        with pytest.raises(LostRace, match="written so long before"):
            written.result()
    slow.format.commit = commit  # type: ignore[method-assign]
    assert sorted(offsets(table)) == [0, 1, 2]
    assert land(slow, 3) == 4
    assert sorted(offsets(again(table, endpoints))) == [0, 1, 2, 3]


def test_a_writer_that_an_maintenance_overtakes_within_the_grace_commits_what_it_wrote(
    table: TableWriter, endpoints: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = replace_(BRISK, grace_s=60, keep_s=60)
    land(table, 0, 3)
    slow = again(table, endpoints)
    commit = IcebergTable.commit

    def overtaken(self: IcebergTable, *given: Any, **how: Any) -> int:
        if self is slow.format:
            assert again(table, endpoints).maintain(rules).merged == 3  # type: ignore[union-attr]
        return commit(self, *given, **how)

    monkeypatch.setattr(IcebergTable, "commit", overtaken)
    land(slow, 3)
    monkeypatch.undo()
    assert sorted(offsets(table)) == [0, 1, 2, 3]
    assert table.snapshot_property("offsets") == 4
    assert table.snapshot_property("maintenance") is not None


@story
def test_nothing_is_removed_from_a_table_that_lacks_files(endpoints: Endpoints, table: TableWriter) -> Iterator[None]:
    land(table, 0, 3)
    put(table, "data/left-behind.parquet")
    lost = next(iter(iceberg(table).scan().plan_files())).file.file_path
    iceberg(table).io.delete(lost)
    yield
    before = objects(table)
    with pytest.raises(NotFound, match=r"1 data files .* are missing from the object store"):
        table.maintain(BRISK)
    assert objects(table).keys() - before.keys() == {"data/maintenance-clock.parquet"}


# for long


@story
def test_commits_without_end_leave_few_files_snapshots_and_objects(endpoints: Endpoints, table: TableWriter) -> Iterator[None]:
    """What was left long ago is gone, however much has come since; the soak below has hundreds of commits without a pause."""
    rules = Maintenance(every=12, merge=4, keep_s=0, keep_snapshots=3, history_s=0, grace_s=1)
    kept, at, commits = again(table, endpoints), 0, 48
    held: list[dict[str, int]] = []
    for _ in range(commits // rules.every):
        at = land(table, at, rules.every, per_commit=2)
        assert kept.due(rules)
        yield
        done = kept.maintain(rules)
        assert done is not None
        here = objects(table)
        metadata = sum(name.endswith(".metadata.json") for name in here)
        held.append({"files": files(table), "snapshots": done.snapshots_after, "metadata": metadata, "objects": len(here)})
    assert max(one["files"] for one in held) < rules.merge, held
    assert max(one["snapshots"] for one in held) <= rules.keep_snapshots + 1, held  # and maintenance's own
    assert max(one["metadata"] for one in held) <= 21, held
    # Three objects a commit (data, manifest, list) wait for a grace to pass, a period long: those of the periods before are gone.
    assert held[-1]["objects"] < held[1]["objects"] + 2 * rules.merge, held
    assert sorted(offsets(table)) == list(range(2 * commits))
    assert table.snapshot_property("offsets") == 2 * commits
    yield
    assert kept.maintain(rules).removed > 0  # type: ignore[union-attr]
    # What is left: few files, the metadata the catalog keeps, and what the newest snapshots name.
    assert len(objects(table)) < 21 + 3 * rules.keep_snapshots + 2 * (rules.every + rules.merge)
    assert sorted(offsets(again(table, endpoints))) == list(range(2 * commits))


@pytest.mark.soak(minutes=1.5)
def test_hundreds_of_commits_leave_few_files_snapshots_and_objects(table: TableWriter, endpoints: Endpoints) -> None:
    rules = Maintenance(every=25, merge=4, keep_s=1, keep_snapshots=5, history_s=0, grace_s=1)
    kept = again(table, endpoints)
    at, commits = 0, 400
    most = {"files": 0, "snapshots": 0, "metadata": 0, "objects": 0}
    upkeeps, rate = 0, 0.0
    started = time.monotonic()
    for number in range(commits):
        at = land(table, at, per_commit=2)
        if kept.due(rules):
            done = kept.maintain(rules)
            assert done is not None
            upkeeps += 1
            assert done.files_after < rules.merge
        if number % 10 == 9:
            here = objects(table)
            loaded = iceberg(table)
            counts = {
                "files": files(table),
                "snapshots": len(loaded.metadata.snapshots),
                "metadata": sum(name.endswith(".metadata.json") for name in here),
                "objects": len(here),
            }
            most = {name: max(most[name], count) for name, count in counts.items()}
            rate, started = max(rate, 10 / (time.monotonic() - started)), time.monotonic()
    assert upkeeps == commits // rules.every
    assert most["files"] < rules.every + rules.merge
    # Kept for keep_s, two seconds of rounding, and one period between upkeeps.
    assert most["snapshots"] <= rules.keep_snapshots + 3 * rate + 2 * rules.every
    assert most["metadata"] <= 40
    # Three objects a commit (data, manifest, list), until expired and for a grace, rounded up, a period each.
    assert most["objects"] <= 3 * (9 * rate + 4 * rules.every) + 150, (most, rate)
    assert most["objects"] < 3 * commits
    assert sorted(offsets(table)) == list(range(2 * commits))
    assert table.snapshot_property("offsets") == 2 * commits
    for _ in range(3):
        time.sleep(GRACE_PASSED_S)
        done = kept.maintain(rules)
    assert done is not None
    assert done.snapshots_after <= rules.keep_snapshots
    # What is left: few files, the metadata the catalog keeps, and what the newest snapshots name.
    assert len(objects(table)) < 21 + 3 * rules.keep_snapshots + 2 * (rules.every + rules.merge)
    assert sorted(offsets(again(table, endpoints))) == list(range(2 * commits))


def at_once(acts: list[Callable[[], Any]]) -> list[Any]:
    """What came of each, begun together; an exception where one was raised."""
    barrier = threading.Barrier(len(acts))
    results: list[Any] = [None] * len(acts)

    def go(number: int) -> None:
        barrier.wait()
        try:
            results[number] = acts[number]()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=go, args=(number,)) for number in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_an_append_is_given_up_before_its_commit_and_never_behind_it(table: TableWriter, endpoints: Endpoints) -> None:
    at = land(table, 0)
    before = set(objects(table))
    rows = batch(table.store.columns, [row(number) for number in range(at, at + 5)])
    given_up = table.begin()
    given_up.write(rows)
    given_up.discard()
    assert set(objects(table)) == before
    made = table.begin()
    made.write(rows)
    made.commit({"offsets": at + 5}, {"offsets": at})
    made.discard()  # as a lander does that is interrupted while its last commit is under way
    assert sorted(offsets(again(table, endpoints))) == list(range(at + 5))
    overtaken = table.begin()
    overtaken.write(rows)
    named = set(objects(table))
    with pytest.raises(LostRace):
        overtaken.commit({"offsets": at + 10}, {"offsets": at})
    overtaken.discard()
    assert set(objects(table)) == named


def test_a_lander_and_a_reader_that_never_pause_neither_stop_maintenance_nor_are_stopped(
    table: TableWriter, endpoints: Endpoints
) -> None:
    rules = replace_(BRISK, merge=4, keep_s=2, grace_s=60)
    land(table, 0, 10)
    ended = threading.Event()

    def lander() -> int:
        mine, at = again(table, endpoints), 10
        while not ended.is_set():
            at = land(mine, at)
        return at

    def reader() -> int:
        mine, seen = again(table, endpoints), 0
        while not ended.is_set():
            found = sorted(offsets(mine))
            assert found == list(range(len(found)))
            assert len(found) >= seen
            seen = len(found)
        return seen

    def keeper() -> list[Any]:
        mine, done, latest = again(table, endpoints), [], time.monotonic() + 120
        try:
            while sum(one.merged > 0 for one in done) < 2 and time.monotonic() < latest:  # some find too little to merge yet
                done.append(mine.maintain(rules))
            return done
        finally:
            ended.set()

    landed, seen, kept = at_once([lander, reader, keeper])
    assert isinstance(landed, int), landed
    assert isinstance(seen, int), seen
    assert isinstance(kept, list), kept
    assert sum(done.merged > 0 for done in kept) >= 2, kept
    assert landed >= 10 + 2  # it went on landing between them
    assert sorted(offsets(table)) == list(range(landed))
    assert table.snapshot_property("offsets") == landed


@story
def test_upkeeps_at_once_do_it_once(endpoints: Endpoints, table: TableWriter) -> Iterator[None]:
    at = 0
    for _ in range(2):
        at = land(table, at, 4)
        mine = [again(table, endpoints) for _ in range(3)]
        done = at_once([lambda one=one: one.maintain(BRISK) for one in mine])  # type: ignore[misc]
        assert all(hasattr(one, "merged") for one in done), done
        assert sum(one.merged >= 4 for one in done) == 1
        assert sorted(offsets(table)) == list(range(at))
        assert table.snapshot_property("offsets") == at
        assert files(table) == 1
        yield
    for _ in range(2):
        table.maintain(BRISK)
        yield
    assert table.maintain(BRISK).removed == 0  # type: ignore[union-attr]
    assert sorted(offsets(again(table, endpoints))) == list(range(at))


# the stage


def test_the_stage_has_a_port_for_every_table_and_keeps_those_that_are_due(
    endpoints: Endpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "headrace.storage.tables.iceberg.core.NAMESPACE", "maintained"
    )  # the tables of the catalog, and nobody else's rows
    assert {port.store for port in maintain.ports if port.handle is TableWriter} == set(stores(Tier.TABLE))
    runner = Runner(Run("maintenance", tmp_path), endpoints)
    rules = Maintenance(every=5, merge=4)
    for name, count in (("feedback", 6), ("runs", 0), ("dead-letters", 3)):
        store = next(store for store in stores(Tier.TABLE) if store.name == name)
        mine = TableWriter(store, endpoints, Meter(Ledger(), "test"))
        for number in range(count):
            letter = {"key": b"", "value": b"x", "reason": "no", "at": datetime.now(UTC)}
            mine.append(batch(store.columns, [{**row(number), **letter} if store.name == "dead-letters" else row(number)]))
    assert [done.table for done in runner.run(maintain, settings=rules, only_due=True)] == ["feedback"]
    every = {done.table: done for done in runner.run(maintain, settings=rules)}
    assert set(every) == {"feedback", "dead-letters"}
    assert (every["feedback"].files_before, every["feedback"].files_after) == (1, 1)
    assert json.dumps([done.as_dict() for done in every.values()])
    stages = {(line.stage, line.store) for line in runner.record.ledger.rows()}
    assert ("maintain", "feedback") in stages
