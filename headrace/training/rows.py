"""A dataset's rows, as recipes and measures read them (schema: `EXAMPLES` of the catalog)."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow.parquet as pq

from headrace.storage.objects import ObjectReader

TRAIN, TUNE, TEST = "train", "tune", "test"


def read(datasets: ObjectReader, files: Iterable[Mapping[str, Any]], split: str) -> list[dict[str, Any]]:
    """The rows of one split, in the order of its shards. Raises `NotFound` where the dataset was deleted meanwhile."""
    rows: list[dict[str, Any]] = []
    for file in files:
        if file["split"] == split:
            rows += pq.read_table(io.BytesIO(datasets.get(file["key"]))).to_pylist()
    return rows


def passages(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those that are a verdict on a passage."""
    return [row for row in rows if (row.get("kind") or "passage") == "passage"]


def answers(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those that are a verdict on a whole answer."""
    return [row for row in rows if row.get("kind") == "answer"]


def by_question(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Rows by (question, tenant), questions in alphabetical order, a question's rows in retrieval order."""
    grouped: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        grouped.setdefault((row["question"], row["tenant"]), []).append(row)
    return {question: sorted(grouped[question], key=_rank) for question in sorted(grouped)}


def tellable(grouped: Mapping[Any, Sequence[Mapping[str, Any]]]) -> list[Sequence[Mapping[str, Any]]]:
    """The questions that can tell two orders apart: at least one passage liked and one not."""
    return [rows for rows in grouped.values() if 0 < sum(row["label"] > 0 for row in rows) < len(rows)]


def fewer(rows: Sequence[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    """Rows of at most `most` questions that can tell two orders apart, chosen by the hash of their words; whole answers stay."""
    asked = {(found[0]["question"], found[0]["tenant"]) for found in tellable(by_question(passages(rows)))}
    kept = set(sorted(asked, key=lambda one: hashlib.sha256("\0".join(one).encode()).digest())[:most])
    return [row for row in rows if row.get("kind") == "answer" or (row["question"], row["tenant"]) in kept]


def _rank(row: Mapping[str, Any]) -> tuple[int, str]:
    return row["retrieval_rank"], row["example_id"]
