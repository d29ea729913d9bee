"""Promises of the place of the vector index, tested on a LanceDB table of the check's own."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from headrace.catalog import DIMENSIONS, Tier
from headrace.check.promise import Broken, Measured, Promise, Promises, TimeBudget, promise
from headrace.errors import Unavailable
from headrace.settings import Settings
from headrace.storage.endpoints import Endpoints
from headrace.storage.vectors.table import lance_options

_TABLE = "vectors"
_ROWS = 500


class VectorsSandbox:
    """A temporary LanceDB database beside the index."""

    def __init__(self, endpoints: Endpoints) -> None:
        import lancedb  # it takes a second, which is not the storage's

        self._connect = lancedb.connect
        self._session = lancedb.Session
        place, sign, parameters = endpoints.vectors_uri.partition("?")
        self.uri = f"{place.rstrip('/')}/headrace-check-{secrets.token_hex(6)}{sign}{parameters}"
        self._options = lance_options(endpoints)

    def table(self) -> Any:
        """The table, opened anew: nothing of it is cached in this process."""
        return self._connect(self.uri, storage_options=self._options, session=self._session()).open_table(_TABLE)

    def write(self, rows: int) -> Any:
        """Write the table anew with so many random vectors of `DIMENSIONS` float32 values; returns them, a row each."""
        vectors = np.random.default_rng(11).standard_normal((rows, DIMENSIONS), dtype=np.float32)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIMENSIONS)
        database = self._connect(self.uri, storage_options=self._options)
        database.drop_table(_TABLE, ignore_missing=True)  # LanceDB warns on standard error of a table that it overwrites
        database.create_table(_TABLE, pa.table({"id": np.arange(rows), "embedding": column}))
        return vectors

    def clear(self) -> None:
        """Drop the table, and the directory if the index is in one."""
        with suppress(ValueError, FileNotFoundError):
            self._connect(self.uri, storage_options=self._options).drop_table(_TABLE, ignore_missing=True)
        if "://" not in self.uri:
            shutil.rmtree(Path(self.uri), ignore_errors=True)
            if Path(self.uri).exists():
                raise Unavailable(f"{self.uri} could not be deleted.", hint="Delete it by hand.")


@promise(
    "vectors come back unchanged",
    loses="searches would return other passages than the nearest",
)
def unchanged(sandbox: VectorsSandbox, budget: TimeBudget) -> Measured:
    began = time.perf_counter()
    written = sandbox.write(_ROWS)
    wrote = time.perf_counter()
    rows = sandbox.table().to_arrow().sort_by("id")
    took = time.perf_counter() - wrote
    stored = np.asarray(rows["embedding"].combine_chunks().flatten()).reshape(-1, DIMENSIONS)
    if stored.shape != written.shape or not np.array_equal(stored, written):
        raise Broken(f"{_ROWS} vectors were written, and {len(stored)} came back, or different ones")
    figures = {"write_ms": (wrote - began) * 1e3, "read_ms": took * 1e3}
    return Measured(f"{_ROWS} vectors: written in {figures['write_ms']:.0f} ms, read in {figures['read_ms']:.0f} ms", **figures)


@contextmanager
def opened(settings: Settings, endpoints: Endpoints) -> Iterator[VectorsSandbox]:
    """A sandbox in the vector tier, for a block."""
    sandbox = VectorsSandbox(endpoints)
    try:
        yield sandbox
    finally:
        sandbox.clear()


FAULTS: tuple[type[Exception], ...] = (OSError, RuntimeError, ValueError, Unavailable)
PROMISES: Sequence[Promise[VectorsSandbox]] = (unchanged,)
SUBJECT: Promises[Any] = Promises(Tier.VECTOR, PROMISES, FAULTS, opened)
