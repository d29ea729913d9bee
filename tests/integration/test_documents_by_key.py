"""Questions about a tenant's documents cost what is asked, however many documents there are: SQLite's own steps are counted."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from servers import serving

from headrace.catalog import CHUNK_ROWS, DOCUMENT_ROWS
from headrace.core.run import recorded
from headrace.core.runner import Runner
from headrace.documents.claims import SourceClaims
from headrace.documents.lookup import DocumentLookup
from headrace.documents.names import document_id
from headrace.documents.view import Document, DocumentView
from headrace.storage.ledger import Row
from headrace.storage.metadata import Metadata
from headrace.storage.records import batch
from headrace.storage.tables.handles import TableReader, TableWriter

FEW, MANY = 300, 6_000
BEGAN_S = 1_700_000_000
SAME = "0f" * 32
BYTES = 5


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    folder = tmp_path_factory.mktemp("keys")
    with serving(folder) as servers, recorded("documents", folder) as run:
        yield Runner(run, servers.endpoints)


def stored(runner: Runner, tenant: str, count: int) -> DocumentLookup:
    """So many documents of a tenant in the documents table: in the middle ones that failed and were deleted, the rest parsed."""
    status = {count // 2: "failed", count // 2 + 1: "failed", **dict.fromkeys(range(count // 2 + 2, count // 2 + 102), "deleted")}
    rows = [
        {
            **dict.fromkeys(("reason", "title", "text"), ""),
            **{"document_id": document_id(tenant, name(n)), "tenant": tenant, "uri": name(n), "status": status.get(n, "parsed")},
            **{"version": SAME if n < 2 else uuid.uuid4().hex * 2, "media": "text/markdown", "bytes": BYTES},
            **{"at": datetime.fromtimestamp(BEGAN_S + n, UTC), "topic": "document-events", "partition": 0, "offset": n},
        }
        for n in range(count)
    ]
    writer = runner.open(TableWriter, DOCUMENT_ROWS, stage="test")
    writer.append(batch(DOCUMENT_ROWS.columns, rows))
    lookup = DocumentLookup(runner.metadata, runner.open(TableReader, DOCUMENT_ROWS, stage="test"))
    lookup.follow()
    return lookup


def name(number: int) -> str:
    return f"docs/{number:06}.md"


def steps_of(metadata: Metadata, ask: Callable[[], object]) -> int:
    """How many instructions SQLite's virtual machine executes for a question: a scan takes some for each row."""
    with metadata.transaction():
        connection: Any = metadata._database._connect()  # type: ignore[attr-defined]
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    connection.set_progress_handler(step, 1)
    try:
        ask()
    finally:
        connection.set_progress_handler(None, 1)
    return count


def steps_among(runner: Runner, count: int) -> dict[str, int]:
    """What each question costs among so many documents of a tenant, a tenth of which were announced and are not parsed."""
    tenant = f"t{uuid.uuid4().hex[:8]}"
    lookup, claims = stored(runner, tenant, count), SourceClaims(runner.metadata)
    first = document_id(tenant, name(0))
    for number in range(0, count, 10):
        event = {"event_id": uuid.uuid4().hex, "tenant": tenant, "sha256": SAME, "uri": name(number), "at": datetime.now(UTC)}
        claims.add(event)
    asked: dict[str, Callable[[], object]] = {
        "a page": lambda: lookup.after(tenant, name(2), 50),
        "those that failed": lambda: lookup.after(tenant, "", 50, status="failed"),
        "a page behind deleted ones": lambda: lookup.after(tenant, name(count // 2 + 1), 50),
        "the oldest": lambda: lookup.older_than(tenant, BEGAN_S + 10, 50),
        "tenants": lookup.tenants,
        "a source that another document has": lambda: lookup.stored_elsewhere(tenant, first, [SAME]),
        "a newest version that another document has": lambda: lookup.newest_elsewhere(tenant, first, [SAME]),
        "one document": lambda: lookup.newest([first]),
        "whether it was announced": lambda: claims.events_of(tenant, name(10)),
    }
    return {what: steps_of(runner.metadata, ask) for what, ask in asked.items()}


def test_what_is_asked_by_key_costs_the_same_among_many_documents(runner: Runner) -> None:
    few, many = steps_among(runner, FEW), steps_among(runner, MANY)
    # Twenty times as many documents, and one more tenant.
    assert {what: (few[what], many[what]) for what in few if many[what] > 1.5 * few[what] + 100} == {}


def test_documents_are_listed_by_status_expire_by_age_and_share_sources(runner: Runner) -> None:
    tenant = f"t{uuid.uuid4().hex[:8]}"
    lookup = stored(runner, tenant, FEW)
    view = DocumentView(runner)
    failed, more = view.page(tenant, after="", most=10, status="failed")
    assert ([one.uri for one in failed], more) == ([name(FEW // 2), name(FEW // 2 + 1)], False)
    page, more = view.page(tenant, after=name(FEW // 2 + 1), most=1)
    assert ([one.uri for one in page], more) == ([name(FEW // 2 + 102)], True), "deleted documents are left out"
    old, next_s = lookup.older_than(tenant, BEGAN_S + 3, 2)
    assert (set(old), next_s) == ({name(0), name(1)}, BEGAN_S + 2)
    assert tenant in lookup.tenants()
    first, third = (document_id(tenant, name(number)) for number in (0, 2))
    own = lookup.newest([third])[third]["version"]
    assert lookup.stored_elsewhere(tenant, first, [SAME, own]) == {SAME, own}
    assert lookup.stored_elsewhere(tenant, third, [own]) == set()
    assert lookup.stored_elsewhere("another", first, [SAME]) == set()


def read_of_chunks(runner: Runner, count: int) -> int:
    """Bytes read of the chunks table for a page of documents that are parsed and not in the index, of so many."""
    tenant = f"t{uuid.uuid4().hex[:8]}"
    lookup = stored(runner, tenant, count)
    parsed = [row for row, _ in lookup.after(tenant, "", count, status="parsed")]
    rows = [
        {
            **dict.fromkeys(("heading", "text"), ""),
            **{"chunk_id": uuid.uuid4().hex, "document_id": row["document_id"], "version": row["version"], "tenant": tenant},
            **{"readers": [], "uri": row["uri"], "position": 0},
            **{name: row[name] for name in ("topic", "partition", "offset")},
        }
        for row in parsed
    ]
    runner.open(TableWriter, CHUNK_ROWS, stage="test").append(batch(CHUNK_ROWS.columns, rows))
    DocumentView(runner).page(tenant, after="", most=1)  # has the copy follow the table
    before = runner.record.ledger.rows()
    page, _ = DocumentView(runner).page(tenant, after="", most=FEW // 2)
    assert {document.status for document in page} == {"parsed"}
    return moved(runner.record.ledger.rows()) - moved(before)


def moved(rows: list[Row]) -> int:
    return sum(row.bytes for row in rows if (row.stage, row.store, row.tier) == ("documents", CHUNK_ROWS.name, "table"))


def test_a_page_of_many_documents_that_wait_reads_none_of_the_chunks(runner: Runner) -> None:
    """Where more than two hundred waited, it read the whole table of chunks, and so did a service every two seconds."""
    few, many = read_of_chunks(runner, FEW), read_of_chunks(runner, MANY)
    assert many < few + 10_000, "more files of metadata, at most"


def test_no_source_is_free_while_the_copy_is_made_anew(runner: Runner) -> None:
    """A copy that has half of the documents would not know of another one with the same bytes, and their source would go."""
    tenant = f"t{uuid.uuid4().hex[:8]}"
    lookup = stored(runner, tenant, FEW)
    with runner.metadata.transaction(alone=True) as run:  # as `rebuild` begins, in another process
        run("DELETE FROM table_copies", {})
        run("DELETE FROM document_rows WHERE document_id <> :own", {"own": document_id(tenant, name(0))})
    assert lookup.stored_elsewhere(tenant, document_id(tenant, name(0)), [SAME]) == {SAME}
    with runner.metadata.transaction(alone=True) as run:  # as a copy of the table of another identity ends, in another process
        run("DELETE FROM document_states", {})
        run("DELETE FROM document_rows", {})
    assert lookup.newest_elsewhere(tenant, document_id(tenant, name(0)), [SAME]) == {SAME}, "it cannot be told"
    lookup.rebuild()
    assert lookup.newest_elsewhere(tenant, document_id(tenant, name(0)), [SAME, "0" * 64]) == {SAME}


def test_where_no_document_is_left_no_source_is_shared(runner: Runner) -> None:
    """The only document of a home was forgotten: its source would stay for good."""
    tenant = f"t{uuid.uuid4().hex[:8]}"
    lookup = stored(runner, tenant, 3)
    first = document_id(tenant, name(0))
    assert lookup.newest_elsewhere(tenant, first, [SAME]) == {SAME}
    documents = runner.open(TableWriter, DOCUMENT_ROWS, stage="test")
    assert documents.rewrite(("document_id",), lambda rows: pa.array([True] * rows.num_rows))
    lookup.follow()
    assert lookup.newest_elsewhere(tenant, first, [SAME]) == lookup.stored_elsewhere(tenant, first, [SAME]) == set()


def test_rows_that_an_older_version_wrote_are_listed_too(runner: Runner) -> None:
    tenant = f"t{uuid.uuid4().hex[:8]}"
    lookup = stored(runner, tenant, FEW)
    expected = lookup.after(tenant, "", FEW), lookup.older_than(tenant, BEGAN_S + 9, 5)
    with runner.metadata.transaction(writing=True) as run:
        run("UPDATE document_states SET status = '', changed_s = 0 WHERE tenant = :tenant", {"tenant": tenant})
    lookup.follow()
    assert (lookup.after(tenant, "", FEW), lookup.older_than(tenant, BEGAN_S + 9, 5)) == expected
    assert len(lookup.after(tenant, "", FEW, status="failed")) == 2


def put(tenant: str, uri: str, version: str, offset: int, status: str = "put") -> Document:
    """A document as the API adds it to the view: its event is not parsed yet."""
    size = 7 * (int(version[0], 16) + 1) if len(set(version)) == 1 else BYTES
    return Document(tenant, uri, version, status, size, datetime.now(UTC), partition=0, offset=1_000_000 + offset)


def test_what_is_put_and_deleted_is_counted_as_if_all_were_counted_anew(runner: Runner) -> None:
    tenant, view, chance = f"t{uuid.uuid4().hex[:8]}", DocumentView(runner), Random(15)
    lookup = stored(runner, tenant, FEW)
    view.refresh(now=True)
    known = [lookup.newest([document_id(tenant, name(n))])[document_id(tenant, name(n))]["version"] for n in range(4)]
    versions = [*known, *(f"{n}" * 64 for n in range(4))]
    uris = [name(n) for n in range(8)] + [f"new/{n}.md" for n in range(4)]
    assert view.usage(tenant, look=False)[0] == FEW - 100
    for offset in range(300):
        uri, version = chance.choice(uris), chance.choice(versions)
        deleted = view.find(tenant, uri, look=False)
        if chance.random() < 0.3 and deleted is not None:
            view.add(put(tenant, uri, deleted.version, offset, "deleting"))
        else:
            view.add(put(tenant, uri, version, offset))
        found = view.usage(tenant, look=False)
        view._usage.clear()
        assert found == view.usage(tenant, look=False)
        every = {one for one in [*uris, *(name(n) for n in range(8, FEW))] if version in view.stored_of(tenant, one)}
        assert view.stores(tenant, version) == bool(every)
        assert view.stores(tenant, version, beside=uri) == bool(every - {uri})


def test_a_put_costs_the_same_behind_many_that_wait(runner: Runner) -> None:
    """All that were put and not parsed yet were gone through, twice for each put."""
    tenant, view = f"t{uuid.uuid4().hex[:8]}", DocumentView(runner)
    stored(runner, tenant, 300)
    view.refresh(now=True)

    def calls(offset: int) -> int:
        """How many functions are called for one put and its quota."""
        counted = 0

        def count(*_: object) -> None:
            nonlocal counted
            counted += 1

        document = put(tenant, f"new/{offset:06}.md", f"{offset:064x}", offset)
        view.usage(tenant, look=False)
        sys.setprofile(count)
        try:
            view.stores(tenant, document.version)
            view.add(document)
            view.usage(tenant, look=False)
        finally:
            sys.setprofile(None)
        return counted

    few = calls(0)
    for offset in range(1, 2_000):
        view.add(put(tenant, f"new/{offset:06}.md", f"{offset:064x}", offset))
    assert calls(2_000) < 1.5 * few + 50
