"""Rows that recipes learn from, in the words of the tiny models, as a dataset's files."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tiny

from headrace.catalog import DATASETS, EXAMPLES
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectWriter

GENERATORS = ("sft", "kto", "grpo", "online")
SMALL: dict[str, Any] = {"epochs": 2, "batch": 2, "checkpoint_steps": 1, "max_tokens": 64, "most_steps": 6, "start": "packaged"}


def passages(count: int) -> list[dict[str, Any]]:
    """Questions with a liked and a disliked passage."""
    return [
        {
            "kind": "passage",
            "question": f"which colour is the sky {n}",
            "passage": f"the sky {n} is {colour}",
            "label": float(colour == "blue"),
            "retrieval_score": 0.5,
            "retrieval_rank": rank,
            "chunk_id": f"{n}-{rank}",
            "document_id": f"d{n}",
        }
        for n in range(count)
        for rank, colour in enumerate(("red", "blue"), 1)
    ]


def answers(count: int) -> list[dict[str, Any]]:
    """Judged answers, drawn at temperature 1, in the words of the tiny generator."""
    rows = []
    for n in range(count):
        said = ("blue", "red", "green")[n % 3]
        completion = list(tiny.ids(f"{said} ."))
        rows.append(
            tiny.row(
                question="which colour is it " + "the sky " * (1 + n),
                answer=said,
                target="blue" if n % 3 != 1 else None,
                label=float(said == "blue"),
                prompt=list(tiny.ids("user which colour is the sky assistant")),
                completion=completion,
                logprobs=[-1.0] * len(completion),
                sampling={"temperature": 1.0, "top_p": 1.0},
                user=f"user-{n % 2}",
            )
        )
    return rows


def rows_as_files(endpoints: Endpoints, rows: list[dict[str, Any]], key: str) -> tuple[dict[str, Any], ...]:
    """Write them as a dataset's only file, and return the files as a manifest names them."""
    empty: dict[str, Any] = {"retrieval_score": 0.0, "retrieval_rank": 0, "origins": [], "split": "train", "tenant": "acme"}
    filled = []
    for number, row in enumerate(rows):
        every = {field.name: None if field.nullable else "" for field in EXAMPLES.columns}
        filled.append({**every, **empty, "example_id": str(number), **row})
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(filled, schema=EXAMPLES.columns), buffer)
    ObjectWriter(DATASETS, endpoints, Meter(Ledger(), "test")).put(key, buffer.getvalue())
    return ({"key": key, "split": "train"},)
