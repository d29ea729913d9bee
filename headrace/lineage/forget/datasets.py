"""Forgetting in datasets: removes examples from table and shards, and notes it in each dataset's list, which keeps its hashes."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from headrace.catalog import DATASETS, EXAMPLES
from headrace.core.stage import stage
from headrace.errors import NotFound
from headrace.lineage.forget.journal import REMOVED, REWRITTEN, Journal
from headrace.lineage.forget.subject import Subject, digest
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.storage.tables.handles import TableReader, TableWriter

_LIST = "list.json"
_COLUMNS = ("tenant", "chunk_id", "answer_id", "origins", "kind", "user", "users", "document_id")


@stage("Finds training examples made from the data to forget.")
def find_examples(
    examples: Annotated[TableReader, EXAMPLES], datasets: Annotated[ObjectReader, DATASETS], subject: Subject, journal: Journal
) -> int:
    """Add matching examples and shards to the journal; returns the number of both."""
    matching: list[dict[str, Any]] = []
    for rows in examples.scan():
        matching += rows.filter(_meant(rows, subject, journal)).to_pylist()
    journal.take(
        EXAMPLES, REMOVED, (f"{row['dataset']}/{row['example_id']}" for row in matching), [digest(matching)] if matching else []
    )
    splits: dict[str, Counter[str]] = {}
    for row in matching:
        splits.setdefault(row["dataset"], Counter())[row["split"]] += 1
    shards = [(key, rows.filter(mask)) for key, rows, mask in _shards(datasets, subject, journal)]
    for key, rows in shards:
        version, name = key.split("/", 1)
        journal.take(DATASETS, REWRITTEN, [key], size=rows.nbytes)
        # A dataset whose round died while writing it is in no table.
        if version not in splits and version not in journal.datasets:
            journal.datasets[version] = {str(split): 0 for split in rows["split"].unique().to_pylist()}
            journal.datasets[version][name.partition("-")[0]] = rows.num_rows
    for version, counts in splits.items():
        known = journal.datasets.setdefault(version, {})
        for split, count in counts.items():
            known[split] = max(count, known.get(split, 0))
    return len(matching) + len(shards)


@stage("Removes training examples from the table and from their shards.")
def strike_examples(
    examples: Annotated[TableWriter, EXAMPLES],
    datasets: Annotated[ObjectWriter, DATASETS],
    subject: Subject,
    journal: Journal,
    at: str,
) -> int:
    """Remove the examples; returns the number of shards rewritten.

    The list keeps the original hash, which the round's manifest names, and adds the shard's new one.
    """
    examples.rewrite(_COLUMNS, lambda rows: _meant(rows, subject, journal))
    count = 0
    for key, rows, mask in _shards(datasets, subject, journal):
        left = rows.filter(pc.invert(mask))
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_batches([left]), buffer, compression="zstd")
        data = buffer.getvalue()
        record = {"at": at, "suppression": subject.id, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        # The list first: a rewritten shard could not be found again.
        _record(datasets, key, {**record, "examples": rows.num_rows - left.num_rows})
        datasets.put(key, data)
        count += 1
    return count


def _meant(rows: pa.RecordBatch, subject: Subject, journal: Journal) -> pa.BooleanArray:
    return pc.fill_null(subject.own_examples(rows, journal.answers, journal.origins, journal.chunks), False)


def _shards(datasets: ObjectReader, subject: Subject, journal: Journal) -> list[tuple[str, pa.RecordBatch, pa.BooleanArray]]:
    """Every shard with matching rows: key, rows, and mask."""
    shards = []
    for info in list(datasets.list()):
        if not info.key.endswith(".parquet"):
            continue
        try:
            table = pq.read_table(io.BytesIO(datasets.get(info.key)))
        except NotFound:
            continue  # cleaned up meanwhile
        # Older shards lack newer columns.
        lacking = [EXAMPLES.columns.field(name) for name in _COLUMNS if name not in table.column_names]
        rows = pa.RecordBatch.from_arrays([c.combine_chunks() for c in table.columns], schema=table.schema)
        seen = pa.RecordBatch.from_arrays(
            [*rows.columns, *(pa.nulls(rows.num_rows, field.type) for field in lacking)],
            schema=pa.schema([*table.schema, *lacking]),
        )
        mask = _meant(seen, subject, journal)
        if pc.any(mask).as_py():
            shards.append((info.key, rows, mask))
    return shards


def _record(datasets: ObjectWriter, shard: str, record: dict[str, Any]) -> None:
    key = f"{shard.partition('/')[0]}/{_LIST}"
    try:
        data, etag = datasets.get_with_etag(key)
    except NotFound:
        return  # the round that made the shard died before its list
    listed = json.loads(data)
    for file in listed["files"]:
        if file["key"] == shard:
            before = file.get("forgotten", {})
            if before.get("sha256") == record["sha256"]:
                return
            file["forgotten"] = {**record, "examples": record["examples"] + before.get("examples", 0)}
    datasets.put_if_match(key, json.dumps(listed, indent=1, sort_keys=True).encode(), etag)
