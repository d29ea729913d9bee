"""A text as it may be learned from: without personal data, and in the form in which two are compared."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from headrace.catalog import TEXT
from headrace.core.batches import Batches
from headrace.training.data.personal import scrub

_WORD = re.compile(r"[^\W_]+")
_BATCH_ROWS = 2048

GIVEN = pa.schema([pa.field("text", TEXT, nullable=False)])
CLEANED = pa.schema(
    [
        pa.field("text", TEXT, nullable=False),
        pa.field("normal", TEXT, nullable=False),
        pa.field("personal", pa.list_(TEXT), nullable=False),  # the kinds of personal data that were replaced
    ]
)


def normal(text: str) -> str:
    """Words in lower case, one space between them: Unicode's compatible form (NFKC), case folded, without punctuation."""
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


class Clean:
    """Batch work: texts in, each without personal data and with its normal form out, in their order; 1:1."""

    def __call__(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Clean a batch of `GIVEN` rows into `CLEANED` ones."""
        scrubbed = [scrub(text) for text in rows.column("text").to_pylist()]
        texts = [text for text, _ in scrubbed]
        columns = [texts, [normal(text) for text in texts], [list(kinds) for _, kinds in scrubbed]]
        return pa.RecordBatch.from_arrays(
            [pa.array(column, field.type) for column, field in zip(columns, CLEANED, strict=True)], schema=CLEANED
        )


@dataclass(frozen=True)
class Texts:
    """Cleaned texts, each once (`CLEANED`), and for each column they came from which of them its values became."""

    cleaned: pa.Table
    places: Mapping[str, pa.Array]

    @cached_property
    def private(self) -> frozenset[int]:
        """Places of those in which something was replaced."""
        return frozenset(place for place, kinds in enumerate(self.cleaned["personal"].to_pylist()) if kinds)


def clean(columns: Mapping[str, pa.ChunkedArray], batches: Batches) -> Texts:
    """Clean columns of texts; what stands in several of them, or often in one, is cleaned once. A null stays a null."""
    texts = {name: column.cast(TEXT) for name, column in columns.items()}
    distinct = pa.chunked_array([chunk for column in texts.values() for chunk in column.chunks], TEXT).unique().drop_null()

    def source() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(distinct), _BATCH_ROWS):
            yield pa.RecordBatch.from_arrays([distinct.slice(start, _BATCH_ROWS)], schema=GIVEN)

    cleaned = pa.Table.from_batches(list(batches.map(source(), Clean)), CLEANED)
    return Texts(cleaned, {name: whole(pc.index_in(column, value_set=distinct)) for name, column in texts.items()})


def whole(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column as one array."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
