"""Maintenance killed at each of its boundaries: a reader sees each row once at any time, and the next run completes the work."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import victims
from forks import ForkedProcess
from pyarrow.fs import FileSelector, FileType
from pyiceberg.table import Table
from servers import Servers
from wire import wire

from headrace.catalog import FEEDBACK_ROWS, Store
from headrace.errors import Unavailable
from headrace.settings import Maintenance
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.records import batch
from headrace.storage.tables.handles import TableWriter
from headrace.storage.tables.iceberg.orphans import ReachableFiles, TableFolder
from headrace.storage.tables.iceberg.table import IcebergTable
from headrace.storage.tables.maintenance import MaintenanceReport

pytest_plugins = ["shared"]
RULES = Maintenance(every=1, merge=2, keep_s=0, keep_snapshots=1, history_s=0, grace_s=1)
CLOCK = "data/maintenance-clock.parquet"
GRACE_PASSED_S = 3.1  # the store's times are whole seconds

# Where it can be cut: what it is about to do, which server is asked what, on which side of its work; whether the small files
# are then merged.
Cut = tuple[str, str, str, str, bool]
CUTS: tuple[Cut, ...] = (
    ("merge", "s3", r"PUT /lake/headrace/{table}/metadata/[0-9a-f-]+-m0\.avro", "after", False),
    ("merge", "catalog", r"POST \S+/tables/{table} ", "before", False),
    ("merge", "catalog", r"POST \S+/tables/{table} ", "after", True),
    ("expire", "catalog", r"POST \S+/tables/{table} ", "after", True),
    ("expire", "s3", r"PUT /lake/headrace/{table}/data/maintenance-[0-9a-f]{8}-", "after", True),
    ("remove", "s3", r"DELETE /lake/headrace/{table}/data/00000-", "after", True),
)
OTHERS: tuple[Cut, ...] = (
    ("merge", "s3", r"PUT /lake/headrace/{table}/data/00000-merged", "before", False),
    ("merge", "s3", r"PUT /lake/headrace/{table}/data/00000-merged", "after", False),
    ("merge", "s3", r"PUT /lake/headrace/{table}/metadata/snap-", "after", False),
    ("expire", "catalog", r"POST \S+/tables/{table} ", "before", True),
    ("expire", "s3", r"PUT /lake/headrace/{table}/data/maintenance-[0-9a-f]{8}-", "before", True),
    ("remove", "s3", r"DELETE /lake/headrace/{table}/data/00000-", "before", True),
    ("remove", "s3", r"DELETE /lake/headrace/{table}/data/maintenance-", "before", True),
)


@pytest.fixture(scope="module")
def endpoints(shared_servers: Servers) -> Endpoints:
    return shared_servers.endpoints


def named(name: str) -> Store:
    return replace(FEEDBACK_ROWS, name=name)


def table(endpoints: Endpoints, name: str) -> TableWriter:
    return TableWriter(named(name), endpoints, Meter(Ledger(), "test"))


def row(number: int) -> dict[str, Any]:
    texts = ("verdict_id", "answer_id", "tenant", "user", "chunk_id", "reason", "correction", "topic")
    return {
        **dict.fromkeys(texts, f"{number}"),
        "simulated": True,
        "up": True,
        "at": datetime(2026, 1, 1, tzinfo=UTC),
        "partition": 0,
        "offset": number,
    }


def fill(endpoints: Endpoints, name: str, count: int) -> None:
    """Commit rows as a lander does, one a commit."""
    mine = table(endpoints, name)
    for at in range(count):
        line = batch(FEEDBACK_ROWS.columns, [row(at)])
        mine.append(line, properties={"offsets": at + 1}, expected={"offsets": at or None})


def standing(endpoints: Endpoints, name: str) -> tuple[list[int], Any, int]:
    """What a reader sees: the rows, the property, and in how many files the rows are."""
    mine = table(endpoints, name)
    rows = sorted(int(offset) for offset in mine.read(("offset",))["offset"].to_pylist())
    return rows, mine.snapshot_property("offsets"), len(list(loaded(mine).scan().plan_files()))


def loaded(mine: TableWriter) -> Table:
    assert isinstance(mine.format, IcebergTable)
    found = mine.format.load()
    assert found is not None
    return found


def keep(endpoints: Endpoints, names: list[str]) -> list[MaintenanceReport]:
    done = [table(endpoints, name).maintain(RULES) for name in names]
    return [one for one in done if one is not None]


def cut(endpoints: Endpoints, name: str, server: str, request: str, side: str) -> None:
    """Maintenance in a process that is killed before that request arrives, or once it was answered but nobody heard it."""
    victim: list[ForkedProcess] = []

    def strike() -> bool:
        victim[0].kill()
        return False

    def asked() -> None:
        if side == "before":
            strike()
            raise ConnectionAbortedError

    properties = endpoints.catalog_properties
    upstream = endpoints.catalog_uri if server == "catalog" else properties["s3.endpoint"]
    with wire(upstream, request.replace("{table}", name).encode(), asked=asked, answered=strike) as between:
        through = (
            {"catalog_uri": between.url}
            if server == "catalog"
            else {"catalog_properties": {**properties, "s3.endpoint": between.url}}
        )
        victim.append(ForkedProcess(victims.keep, endpoints.model_copy(update=through), named(name), RULES))
        victim[0].killed()


@pytest.mark.parametrize("cuts", [CUTS, pytest.param(OTHERS, marks=pytest.mark.soak(minutes=0.7))], ids=["some", "others"])
def test_maintenance_killed_at_any_boundary_loses_and_doubles_nothing_and_is_completed(
    endpoints: Endpoints, cuts: tuple[Cut, ...]
) -> None:
    names = [f"kept{CUTS.index(cut)}" if cut in CUTS else f"others{OTHERS.index(cut)}" for cut in cuts]
    rows = [0, 1]
    for name in names:
        fill(endpoints, name, 2)
    # Each table is brought to where the next maintenance's first act on it is the one to be cut.
    first = [name for name, (act, *_) in zip(names, cuts, strict=True) if act != "merge"]
    assert all(done.merged == 2 for done in keep(endpoints, first))
    time.sleep(GRACE_PASSED_S)
    second = [name for name, (act, *_) in zip(names, cuts, strict=True) if act == "remove"]
    assert all(done.marked_for_deletion >= 4 for done in keep(endpoints, second))
    time.sleep(GRACE_PASSED_S)
    for name, (_, server, request, side, merged) in zip(names, cuts, strict=True):
        cut(endpoints, name, server, request, side)
        assert standing(endpoints, name) == (rows, 2, 1 if merged else 2), (request, side)
        keep(endpoints, [name])
        assert standing(endpoints, name) == (rows, 2, 1), (request, side)
    under_way = names
    for _ in range(8):
        time.sleep(GRACE_PASSED_S)
        done = dict(zip(under_way, keep(endpoints, under_way), strict=True))
        under_way = [n for n in under_way if done[n].snapshots_after > 1 or left(table(endpoints, n)) != [CLOCK]]
        if not under_way:
            break
    assert under_way == []
    for name in names:
        assert standing(endpoints, name) == (rows, 2, 1)


def test_an_exchange_whose_answer_is_lost_is_recognised_and_not_made_twice(endpoints: Endpoints) -> None:
    fill(endpoints, "unheard", 4)
    with wire(endpoints.catalog_uri, rb"POST \S+/tables/unheard ", answered=lambda: False) as between:
        through = table(endpoints.model_copy(update={"catalog_uri": between.url}), "unheard")
        done = through.maintain(RULES.model_copy(update={"keep_s": 60, "keep_snapshots": 10}))
        assert between.met >= 1
    assert done is not None
    assert (done.merged, done.files_after, done.snapshots_after) == (4, 1, 5)
    assert standing(endpoints, "unheard") == (list(range(4)), 4, 1)


def test_a_writer_whose_lost_commit_was_expired_meanwhile_does_not_commit_again(endpoints: Endpoints) -> None:
    """The counter-example looks for its snapshot, does not find it, and appends the same files once more."""
    fill(endpoints, "late", 3)

    def overtaken() -> bool:
        table(endpoints, "late").append(batch(FEEDBACK_ROWS.columns, []))
        time.sleep(GRACE_PASSED_S)
        keep(endpoints, ["late"])
        return False

    with wire(endpoints.catalog_uri, rb"POST \S+/tables/late ", answered=overtaken) as between:
        through = table(endpoints.model_copy(update={"catalog_uri": between.url}), "late")
        with pytest.raises(Unavailable, match="no longer shows whether it succeeded"):
            through.append(batch(FEEDBACK_ROWS.columns, [row(3)]))
    assert standing(endpoints, "late") == (list(range(4)), 3, 1)


def left(mine: TableWriter) -> list[str]:
    """The objects under a table's location that nothing names."""
    found = loaded(mine)
    folder = TableFolder(found, mine.store, Meter(Ledger(), "test"))
    reached = {folder.key(uri) for uri in ReachableFiles(lambda snapshot: False).all_files(found)}
    scheme, host, root = found.io.parse_location(found.location())  # type: ignore[attr-defined]
    infos = found.io.fs_by_scheme(scheme, host).get_file_info(FileSelector(root, recursive=True))  # type: ignore[attr-defined]
    return sorted(info.path.removeprefix(f"{root}/") for info in infos if info.type == FileType.File and info.path not in reached)
