"""A dataset: its version, its contents, its Parquet shards, and the list that names them."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headrace.errors import NotFound
from headrace.settings import Preparing
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.training.cutoff import NOTHING, Exclusions
from headrace.training.data.duplicates import Questions

TRAIN, TUNE, TEST = "train", "tune", "test"


def read(datasets: ObjectReader, files: Iterable[Mapping[str, Any]], split: str) -> list[dict[str, Any]]:
    """The rows of one split, in the order of its shards. Raises `NotFound` if the dataset was deleted meanwhile."""
    rows: list[dict[str, Any]] = []
    for file in files:
        if file["split"] == split:
            rows += pq.read_table(io.BytesIO(datasets.get(file["key"]))).to_pylist()
    return rows


def passages(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows with a verdict on a passage."""
    return [row for row in rows if (row.get("kind") or "passage") == "passage"]


def answers(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows with a verdict on a whole answer."""
    return [row for row in rows if row.get("kind") == "answer"]


def by_question(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Rows by (question, tenant), questions in alphabetical order, a question's rows in retrieval order."""
    grouped: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        grouped.setdefault((row["question"], row["tenant"]), []).append(row)
    return {question: sorted(grouped[question], key=_rank) for question in sorted(grouped)}


def tellable(grouped: Mapping[Any, Sequence[Mapping[str, Any]]]) -> list[Sequence[Mapping[str, Any]]]:
    """The questions for which two orders can differ in score: at least one passage liked and one not."""
    return [rows for rows in grouped.values() if 0 < sum(row["label"] > 0 for row in rows) < len(rows)]


def fewer(rows: Sequence[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    """Rows of at most `most` questions of `tellable`, chosen by the hash of their words; rows of whole answers stay."""
    chosen = {(group[0]["question"], group[0]["tenant"]) for group in tellable(by_question(passages(rows)))}
    keep = set(sorted(chosen, key=lambda one: hashlib.sha256("\0".join(one).encode()).digest())[:most])
    return [row for row in rows if row.get("kind") == "answer" or (row["question"], row["tenant"]) in keep]


def _rank(row: Mapping[str, Any]) -> tuple[int, str]:
    return row["retrieval_rank"], row["example_id"]


# Increased whenever the same snapshots would give other bytes.
_MADE = 3
_LIST = "list.json"
DEFAULTS = Preparing()


@dataclass(frozen=True)
class Dataset:
    """A dataset: examples and questions per split, and examples of each kind per split.

    `left_out` counts verdicts, answers and examples that were left out, by reason; `scrubbed` counts the texts in which each
    kind of personal data was replaced.
    """

    version: str
    examples: dict[str, int]
    questions: dict[str, int]
    files: tuple[dict[str, Any], ...]
    kinds: dict[str, dict[str, int]] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    scrubbed: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The dataset as in the manifest."""
        return {**vars(self), "files": list(self.files)}


def dataset_version(
    snapshots: Mapping[str, int | None],
    seed: int,
    settings: Preparing = DEFAULTS,
    exclusions: Exclusions = NOTHING,
    generator_history: Sequence[str] = ("none",),
) -> str:
    """The version of a dataset with these inputs: a hash of 12 hex digits. Reads the evaluation questions."""
    settings_json = settings.model_dump(mode="json", exclude={"evaluation"})
    settings_json["opted_out"] = sorted(set(settings.opted_out))
    identity = {
        "made": _MADE,
        "snapshots": dict(snapshots),
        "seed": seed,
        "settings": settings_json,
        "evaluation": Questions.read(settings.evaluation).digest,
        "exclusions": exclusions.as_dict(),
        "generator_history": list(generator_history),
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def listed(datasets: ObjectReader, version: str) -> Dataset | None:
    """The dataset of that version, or `None` while it has no list."""
    try:
        stored = json.loads(datasets.get(f"{version}/{_LIST}"))
    except NotFound:
        return None
    return Dataset(**{**stored, "files": tuple(stored["files"])})


@dataclass
class Shards:
    """The files of a dataset being written: each split starts a file, and another when one is full."""

    datasets: ObjectWriter
    version: str
    most_rows: int
    files: list[dict[str, Any]] = field(default_factory=list)
    kinds: dict[str, Counter[str]] = field(default_factory=lambda: {split: Counter() for split in (TRAIN, TUNE, TEST)})

    def write(self, split: str, first: int, end: int, rows: Callable[[int, int], pa.Table]) -> None:
        """Write rows `first` to `end` (exclusive) of a split; `rows(start, end)` is called for one file at a time.

        A split without rows gets a file too.
        """
        for number, start in enumerate(range(first, max(end, first + 1), self.most_rows)):
            part = rows(start, min(end, start + self.most_rows)).combine_chunks()
            kinds = Counter(part["kind"].to_pylist())
            data = parquet(part)
            key = f"{self.version}/{split}-{number:05d}.parquet"
            self.datasets.put(key, data)
            self.kinds[split].update(kinds)
            self.files.append(
                {
                    "key": key,
                    "split": split,
                    "bytes": len(data),
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "examples": part.num_rows,
                    "kinds": dict(sorted(kinds.items())),
                }
            )

    def finish(self, questions: Mapping[str, int], left_out: Mapping[str, int], scrubbed: Mapping[str, int]) -> Dataset:
        """Write the list, which completes the dataset."""
        made = Dataset(
            self.version,
            {split: sum(kinds.values()) for split, kinds in self.kinds.items()},
            {split: questions.get(split, 0) for split in self.kinds},
            tuple(self.files),
            {split: dict(sorted(kinds.items())) for split, kinds in self.kinds.items()},
            {reason: count for reason, count in sorted(left_out.items()) if count},
            dict(sorted(scrubbed.items())),
        )
        self.datasets.put(f"{self.version}/{_LIST}", json.dumps(made.as_dict(), indent=1, sort_keys=True).encode())
        return made


def parquet(rows: pa.Table) -> bytes:
    """Rows as a Parquet file; the same rows give the same bytes."""
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, compression="zstd")
    return buffer.getvalue()
