"""Preparing from real tables: the same bytes whatever files they lie in, made once, and of what was planned only."""

from __future__ import annotations

import hashlib
import io
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from servers import Servers

from headrace.catalog import CHUNK_ROWS, DATASETS, DOCUMENT_ROWS, EXAMPLES, FEEDBACK_ROWS, INTERACTION_ROWS, Store
from headrace.core.launch import Threads
from headrace.settings import Maintenance, Preparing
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectWriter
from headrace.storage.tables.handles import TableWriter
from headrace.training.data import Dataset, prepare
from headrace.training.data.dataset import read

pytest_plugins = ["shared"]
METER = Meter(Ledger(), "test")
START = datetime(2026, 1, 1, tzinfo=UTC)
MERGE = Maintenance(every=1, merge=2, keep_s=3600, keep_snapshots=100, history_s=3600)
SETTINGS = Preparing(shard_rows=7)


@pytest.fixture(scope="module")
def endpoints(shared_servers: Servers) -> Endpoints:
    return shared_servers.endpoints


def own(store: Store, endpoints: Endpoints, *, older: bool = False) -> TableWriter:
    """A table of its own; an older one has only the columns that its rows must have."""
    schema = pa.schema([field for field in store.columns if not (older and field.nullable)])
    return TableWriter(replace(store, name=f"{store.name}-{uuid.uuid4().hex[:8]}", schema=schema), endpoints, METER)


def append(table: TableWriter, *rows: dict[str, Any]) -> None:
    filled: dict[str, Any] = {"at": START, "simulated": False, "partition": 0, "topic": "t", "position": 0}
    for field in table.store.columns:
        filled.setdefault(field.name, None if field.nullable else [] if pa.types.is_list(field.type) else "")
    names = table.store.columns.names
    listed = [{name: {**filled, **row}[name] for name in names} for row in rows]
    table.append(pa.Table.from_pylist(listed, schema=table.store.columns))


def judge(answers: TableWriter, verdicts: TableWriter, chunks: TableWriter, first: int, last: int) -> None:
    """Questions with two passages each, of which the first is liked, and an answer that is liked."""
    for n in range(first, last):
        passages = [
            {"chunk_id": f"c{n}{side}", "document": "d", "retrieval_score": 0.5, "retrieval_rank": rank, "cited": rank == 1}
            for rank, side in enumerate("ab", 1)
        ]
        asked = {"answer_id": f"a{n}", "kind": "answer", "question": f"What is the matter with {n}?", "answer": f"It is {n}."}
        tokens = {"prompt_tokens": [n], "completion_tokens": [n, n], "logprobs": [-0.5, -0.5]}
        append(answers, {**asked, **tokens, "tenant": "acme", "user": "ann", "offset": n, "passages": passages})
        given = {"answer_id": f"a{n}", "tenant": "acme", "user": "ann", "at": START + timedelta(minutes=n)}
        append(
            verdicts,
            {**given, "verdict_id": f"v{n}a", "chunk_id": f"c{n}a", "up": True, "offset": 3 * n},
            {**given, "verdict_id": f"v{n}b", "chunk_id": f"c{n}b", "up": False, "offset": 3 * n + 1},
            {**given, "verdict_id": f"v{n}", "chunk_id": "", "up": True, "offset": 3 * n + 2},
        )
        append(chunks, *({"chunk_id": f"c{n}{s}", "document_id": f"d{n}", "text": f"text {n}{s}", "offset": n} for s in "ab"))


@pytest.mark.soak(minutes=0.4)
def test_the_same_snapshots_give_the_same_bytes_from_other_files_and_once_only(endpoints: Endpoints) -> None:
    interactions, feedback, chunks = (
        own(store, endpoints, older=True) for store in (INTERACTION_ROWS, FEEDBACK_ROWS, CHUNK_ROWS)
    )
    documents, examples = own(DOCUMENT_ROWS, endpoints), own(EXAMPLES, endpoints, older=True)
    judge(interactions, feedback, chunks, 0, 12)
    append(examples, {"label": 1.0, "retrieval_score": 0.5, "retrieval_rank": 1, "dataset": "v0"})
    # As this version has them: with columns that the tables were made without.
    interactions, feedback, chunks = (
        TableWriter(replace(store, name=table.store.name), endpoints, METER)
        for store, table in ((INTERACTION_ROWS, interactions), (FEEDBACK_ROWS, feedback), (CHUNK_ROWS, chunks))
    )
    examples = TableWriter(replace(EXAMPLES, name=examples.store.name), endpoints, METER)
    tables = (interactions, feedback, documents, chunks)

    def now() -> dict[str, int | None]:
        return {table.store.name: table.snapshot() for table in tables}

    def made(snapshots: dict[str, int | None], into: ObjectWriter, version: str = "v1") -> Dataset:
        return prepare.function(
            interactions, feedback, documents, chunks, examples, into, Threads(), snapshots, version, 17, SETTINGS
        )

    planned = now()
    assert planned[documents.store.name] is None
    first, second, third, fourth = (ObjectWriter(replace(DATASETS, name=uuid.uuid4().hex), endpoints, METER) for _ in range(4))
    data = made(planned, first)
    assert (data.examples, data.kinds["train"]) == ({"train": 21, "tune": 6, "test": 9}, {"answer": 7, "passage": 14})
    assert data.questions == {"train": 7, "tune": 2, "test": 3}
    assert [file["examples"] for file in data.files] == [7, 7, 7, 6, 7, 2]
    for file in data.files:
        held = first.get(file["key"])
        assert (len(held), hashlib.sha256(held).hexdigest()) == (file["bytes"], file["sha256"])
        assert pq.read_table(io.BytesIO(held)).schema.equals(EXAMPLES.columns)
    whole = [row for row in read(first, data.files, "train") if row["kind"] == "answer"]
    for row in whole:
        n = int(row["answer_id"].removeprefix("a"))
        assert row["passages"] == [f"text {n}a", f"text {n}b"]
        assert (row["prompt"], row["completion"], row["logprobs"]) == ([n], [n, n], [-0.5, -0.5])
        assert row["origins"] == [f"t/0/{n}", f"t/0/{3 * n + 2}"]

    # Rows that came later, of newer columns, do not count; a list that stands is not made again.
    judge(interactions, feedback, chunks, 12, 14)
    append(documents, {"document_id": "d3", "status": "deleted", "bytes": 0, "offset": 99})
    assert made(planned, first) == data
    assert made(planned, second) == data

    # In one file for each table instead of one for each commit.
    newest = made(now(), third, "v2")
    assert (sum(newest.examples.values()), newest.left_out) == (
        39,
        {"answer: document deleted": 1, "passage: document deleted": 2},
    )
    for table in (interactions, feedback, chunks):
        kept = table.maintain(MERGE)
        assert kept is not None
        assert kept.files_after < kept.files_before
    assert made(now(), fourth, "v2") == newest

    # The table of examples has each once, without what only training reads.
    rows = examples.read()
    assert rows.num_rows == 1 + 36 + 39
    assert rows["users"].null_count == 1
    assert rows["prompt"].null_count == rows.num_rows
    assert examples.snapshot_property("datasets") == ["v1", "v2"]
