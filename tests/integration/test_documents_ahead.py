"""Documents parsed by workers: the very rows that the driver makes alone, whatever the documents are."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest
from documents import row as sheet_row
from documents import sheets

from headrace.catalog import DOCUMENT_ROWS, DOCUMENTS
from headrace.core.launch import Threads, Work
from headrace.core.run import Run
from headrace.core.runner import Runner
from headrace.documents.formats.contract import ParseLimits
from headrace.documents.names import object_key
from headrace.documents.parse import parse
from headrace.documents.put import delete, put_document
from headrace.landing.land import land
from headrace.platform import open_platform
from headrace.settings import Inference, Settings
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectWriter
from headrace.storage.tables.handles import TableReader

LIMITS = ParseLimits.from_settings(Inference())
BOOK = sheets({"levels": sheet_row("level", "flow") + sheet_row(7, 8), "notes": sheet_row("high", "water")})
COMPARED = ("uri", "status", "reason", "media", "title", "text", "parts", "version")


class Others(Threads):
    """Workers that count as other processes; `parsed` is what they were given and gave back."""

    remote = True

    def __init__(self) -> None:
        super().__init__(2)
        self.parsed: list[tuple[str, str]] = []
        self._noting = threading.Lock()

    def map(self, source: Iterator[pa.RecordBatch], work: Callable[..., Work], *args: Any) -> Iterator[pa.RecordBatch]:  # type: ignore[override]
        def noting(*args: Any) -> Work:
            inner = work(*args)

            def run(rows: pa.RecordBatch) -> pa.RecordBatch:
                result = inner(rows)
                with self._noting:
                    self.parsed += zip(rows["uri"].to_pylist(), result["state"].to_pylist(), strict=True)  # type: ignore[union-attr]
                return result  # type: ignore[return-value]

            return run

        return super().map(source, noting, *args)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    folder = tmp_path_factory.mktemp("ahead")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SETTINGS", str(folder / "none.toml"))
        settings = Settings(home=folder / "home")
        with open_platform(settings, parts=frozenset({"objects", "head"})) as endpoints:
            yield Runner(Run("test", settings.home), endpoints)


def put_all(runner: Runner, tenant: str) -> None:
    """Documents of every kind of outcome, some of them more than once."""
    for uri, data in (
        ("a.md", b"# Gates\n\nThe gate is open.\n"),
        ("b.html", b"<html><head><title>Weir</title></head><body><p>The weir is low.</p></body></html>"),
        ("levels.xlsx", BOOK),
        ("broken.pdf", b"%PDF-1.7\nnothing follows"),
        ("gone.md", f"# Gone of {tenant}\n".encode()),
        ("a.md", b"# Gates\n\nThe gate is shut.\n"),
        ("deleted.md", b"# For a day\n"),
        *((f"many-{n}.md", f"# Number {n}\n\nThere are many.\n".encode()) for n in range(40)),
    ):
        runner.run(put_document, tenant=tenant, uri=uri, data=data)
    runner.run(delete, tenant=tenant, uri="deleted.md", versions=())
    runner.run(land)
    sources = ObjectWriter(DOCUMENTS, runner.endpoints, Meter(runner.record.ledger, "test"))
    sources.delete(object_key(tenant, hashlib.sha256(f"# Gone of {tenant}\n".encode()).hexdigest()))


def rows(runner: Runner, tenant: str) -> list[dict[str, Any]]:
    table = TableReader(DOCUMENT_ROWS, runner.endpoints, Meter(runner.record.ledger, "test"))
    mine = [row for row in table.read((*COMPARED, "tenant", "offset")).to_pylist() if row["tenant"] == tenant]
    mine.sort(key=lambda row: row["offset"])
    return [{name: row[name] for name in COMPARED if (row["uri"], name) != ("gone.md", "version")} for row in mine]


def test_workers_make_the_rows_that_the_driver_makes(runner: Runner) -> None:
    put_all(runner, "here")
    alone = runner.run(parse, limits=LIMITS)
    put_all(runner, "there")
    others = Others()
    there = Runner(runner.record, runner.endpoints, batches=others)
    shared = there.run(parse, limits=LIMITS)
    assert rows(runner, "there") == rows(runner, "here")
    assert (shared.parsed, shared.deleted, len(shared.failed), shared.left) == (
        alone.parsed,
        alone.deleted,
        len(alone.failed),
        alone.left,
    )
    states = dict(others.parsed)
    assert (states["broken.pdf"], states["gone.md"], states["levels.xlsx"]) == ("refused", "gone", "parsed")
    assert len(others.parsed) == 47, "every document that was put, once each"


def test_what_is_known_is_not_given_to_workers_again(runner: Runner) -> None:
    for _ in range(2):
        runner.run(put_document, tenant="twice", uri="a.md", data=b"# The same\n")
    runner.run(land)
    others = Others()
    there = Runner(runner.record, runner.endpoints, batches=others)
    there.run(parse, limits=LIMITS)
    assert [row["uri"] for row in rows(runner, "twice")] == ["a.md"]
    runner.run(put_document, tenant="twice", uri="a.md", data=b"# The same\n")
    runner.run(land)
    others.parsed.clear()
    there.run(parse, limits=LIMITS)
    assert others.parsed in ([], [("a.md", "left")])
    assert [row["uri"] for row in rows(runner, "twice")] == ["a.md"]


def test_a_pass_with_a_bound_parses_by_itself(runner: Runner) -> None:
    runner.run(put_document, tenant="soon", uri="a.md", data=b"# Soon\n")
    runner.run(land)
    others = Others()
    Runner(runner.record, runner.endpoints, batches=others).run(parse, limits=LIMITS, seconds=60.0)
    assert others.parsed == []
    assert [row["status"] for row in rows(runner, "soon")] == ["parsed"]
