"""Labels of chunks: who may read them, and what a search may filter by. Each is a string in a list column with an index.

`readers` holds one label per reader, prefixed with the tenant, or the tenant's own label if everyone in it may read. `labels`
holds `key=value` of the document's attributes, its kinds, its name and the folders above it. Conditions on both run inside the
index, before ranking, in both searches.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from typing import NamedTuple

import pyarrow as pa

from headrace.storage.filters import DOCUMENT, KIND, NOBODY, Filters
from headrace.storage.tables.handles import quoted

EVERYBODY = ""
LABELS = pa.list_(pa.string())
UNLABELLED = "(array_length(readers) IS NULL OR array_length(readers) = 0)"  # rows from before readers were labels
_FOLDERS = 16  # above a document that can be filtered by


class Description(NamedTuple):
    """What the index holds of a document beside its text: who may read it (nobody named: everyone), what it is filtered by.

    `changed_s` is the time of its version, in whole seconds since 1970.
    """

    readers: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    changed_s: int = 0

    @property
    def id(self) -> str:
        """The same for the same description, whatever the order: 16 hex digits of sha256."""
        canonical = json.dumps([sorted(self.readers), sorted(self.labels), self.changed_s])
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def labels_of(uri: str, kinds: Collection[str], attributes: Collection[str]) -> tuple[str, ...]:
    """The labels of a document."""
    folders = [uri[: place + 1] for place, character in enumerate(uri) if character == "/"][:_FOLDERS]
    return (
        *sorted(attributes),
        *(f"{KIND}={kind}" for kind in kinds),
        *(f"{DOCUMENT}={name}" for name in (*folders, uri)),
    )


def reader_label(tenant: str, reader: str) -> str:
    """The label of a reader of a tenant, unique for every pair."""
    return f"{len(tenant)}:{tenant}{reader}"


def reader_labels(tenant: str, readers: Collection[str] | None) -> list[str]:
    """The labels of the readers of a tenant's chunk."""
    return [reader_label(tenant, reader) for reader in readers or (EVERYBODY,)]


def readers_of(tenant: str, labels: Sequence[str] | None) -> list[str]:
    """The readers behind a chunk's labels."""
    front = len(reader_label(tenant, EVERYBODY))
    return [label[front:] for label in labels or () if len(label) > front]


def condition(tenant: str, readers: Sequence[str], filters: Filters, indices: Collection[str]) -> str:
    """The SQL filter for chunks that a tenant's user may read and wants; `readers` are the user and its groups."""
    principals = dict.fromkeys((EVERYBODY, *(reader for reader in readers if reader != NOBODY)))
    mine = f"array_has_any(readers, [{_listed(reader_labels(tenant, principals))}])"
    if "readers_idx" not in indices:
        mine = f"({mine} OR (tenant = {quoted(tenant)} AND {UNLABELLED}))"
    wanted = [mine, *(f"array_has_any(labels, [{_listed(any_of)}])" for any_of in filters.labels)]
    if filters.since_s is not None:
        wanted.append(f"changed_s >= {filters.since_s:d}")
    if filters.until_s is not None:
        wanted.append(f"changed_s <= {filters.until_s:d}")
    return " AND ".join(wanted)


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(quoted, names))
