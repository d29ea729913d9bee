"""What LanceDB moves is counted once, whoever moved it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from headrace.catalog import CHUNKS, DIMENSIONS
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.vectors.handles import VectorReader, VectorWriter
from headrace.storage.vectors.io import LANCE_IO, LanceIo

ROWS = 400


def chunks() -> pa.Table:
    columns: dict[str, pa.Array] = {}
    required = pa.schema([field for field in CHUNKS.columns if not field.nullable])
    for field in required:
        if field.name == "embedding":
            numbers = np.random.default_rng(1).normal(size=ROWS * DIMENSIONS).astype(np.float32)
            columns[field.name] = pa.FixedSizeListArray.from_arrays(pa.array(numbers), DIMENSIONS)
        elif field.name == "readers":
            columns[field.name] = pa.array([[]] * ROWS, field.type)
        elif field.name == "position":
            columns[field.name] = pa.array(range(ROWS), field.type)
        else:
            columns[field.name] = pa.array(["acme" if field.name == "tenant" else f"{field.name} {n}" for n in range(ROWS)])
    return pa.table(columns).cast(required)


def moved(ledger: Ledger, direction: str) -> int:
    return sum(row.bytes for row in ledger.rows() if row.direction == direction)


@pytest.fixture
def endpoints(tmp_path: Path) -> Endpoints:
    return Endpoints.model_construct(vectors_uri=str(tmp_path / "index"))


def test_what_is_written_is_what_stands_in_the_directory(endpoints: Endpoints, tmp_path: Path) -> None:
    assert LANCE_IO.counted
    LANCE_IO.take()
    ledger = Ledger()
    writer = VectorWriter(CHUNKS, endpoints, Meter(ledger, "embed"))
    assert writer.upsert(chunks()) == ROWS
    files = sum(path.stat().st_size for path in (tmp_path / "index").rglob("*") if path.is_file())
    assert files > ROWS * DIMENSIONS * 4
    assert moved(ledger, "write") == pytest.approx(files, rel=0.02)
    assert not any(row.estimated for row in ledger.rows())


def test_searches_at_once_take_every_byte_once(endpoints: Endpoints) -> None:
    VectorWriter(CHUNKS, endpoints, Meter(Ledger(), "embed")).upsert(chunks())
    LANCE_IO.take()
    counted = LanceIo()  # a second look at the same count, which nobody takes from
    counted.take()
    ledger = Ledger()
    reader = VectorReader(CHUNKS, endpoints, Meter(ledger, "retrieve"))
    questions = np.random.default_rng(2).normal(size=(24, DIMENSIONS)).astype(np.float32)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda question: reader.dense(question, tenant="acme", most=3), questions))
    assert [len(hits) for hits in found] == [3] * 24
    (row,) = ledger.rows()
    assert row.ops == 24
    assert row.bytes == counted.take()[0] > ROWS * DIMENSIONS * 4  # all embeddings once, and the texts that each found


def test_what_cannot_be_counted_is_marked(endpoints: Endpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LANCE_IO, "counted", False)
    ledger = Ledger()
    VectorWriter(CHUNKS, endpoints, Meter(ledger, "embed")).upsert(chunks())
    assert all(row.estimated for row in ledger.rows())
