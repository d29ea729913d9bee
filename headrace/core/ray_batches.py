"""Batch work on actors under Ray Data. Import it through `ray_cluster.cluster` only, which sets Ray's environment first."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa
import ray
import ray.data

from headrace.core.batches import Work, listed
from headrace.errors import HeadraceError

# Errors arrive as exceptions; Ray Data would print them, and each dataset it finished, as well.
logging.getLogger("ray.data").setLevel(logging.CRITICAL)

_GROUP_BATCHES = 256
_GROUP_BYTES = 64 << 20
_ACTOR_CPUS = 0.5


class RayBatches:
    """Batch work on Ray actors: the source is read in groups of at most 256 batches or 64 MiB, one group in memory at a time.

    Work is built once per actor and group. Rows and schema are those of `Threads`; Ray may join neighbouring results into one
    batch, and leaves out batches without rows.
    """

    def map(
        self, source: Iterable[pa.RecordBatch], work: Callable[..., Work], *args: Any, workers: int = 2
    ) -> Iterator[pa.RecordBatch]:
        """See `Batches.map`. Of Headrace's errors the first ends the map and is raised here as itself."""
        built = None
        for group in _groups(source):
            # By reference, since Ray keeps constructor arguments in its records and an endpoint holds a key.
            built = built or ray.put((work, args))
            try:
                yield from _mapped(group, built, min(workers, len(group)))
            except Exception as error:
                if (ours := _ours(error)) is not None:
                    raise ours from None
                raise


class _Actor:
    """One worker: the work class, built once."""

    def __init__(self, built: list[Any]) -> None:
        work, args = ray.get(built[0])
        self._work: Work = work(*args)

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        for rows in table.combine_chunks().to_batches():
            for result in listed(self._work(rows)):
                yield pa.Table.from_batches([result])


def _groups(source: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    group: list[pa.RecordBatch] = []
    held = 0
    for rows in source:
        if rows.num_rows:
            group.append(rows)
            held += rows.nbytes
        if len(group) >= _GROUP_BATCHES or held >= _GROUP_BYTES:
            yield group
            group, held = [], 0
    if group:
        yield group


def _mapped(group: list[pa.RecordBatch], built: Any, workers: int) -> Iterator[pa.RecordBatch]:
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Actors that hold every CPU of a cluster leave none for Ray Data's own tasks, and it waits for one for ever.
    cpus = min(_ACTOR_CPUS, ray.cluster_resources().get("CPU", 1.0) / (2 * workers))
    results = ray.data.from_arrow([pa.Table.from_batches([rows]) for rows in group]).map_batches(
        _Actor,
        fn_constructor_args=([built],),
        batch_format="pyarrow",
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=round(cpus, 4),
    )
    for table in results.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from (rows for rows in table.combine_chunks().to_batches() if rows.num_rows)


def _ours(error: BaseException | None) -> HeadraceError | None:
    """Headrace's error at the bottom of Ray's, if there is one. Ray's copy of it carries a traceback as its message."""
    while error is not None:
        if isinstance(error, ray.exceptions.RayTaskError):
            error = error.cause
        elif isinstance(error, HeadraceError):
            return error
        else:
            error = error.__cause__ or error.__context__
    return None
