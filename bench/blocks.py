"""blocks: what the KV cache's block store costs with a thousand, a hundred thousand and a million blocks in one directory.

The files have a block's size and no content, so what is timed is the work around a block: a lookup (reading and noting its use),
a walk through the directory, the first look at it, a save of two blocks, which looks at what changed, and one that has to make
room. Seconds are wall time, `cpu` the processor time of this process.

The same lookups by the index of blocks in objects (SQLite), which decides whether a block is there, are beside: the object is one
request to the store, whose cost is the store's. A use is noted behind the answer, so it is timed apart.

`python -m bench.blocks [SIZE ...]`
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from headrace.catalog import KV_CACHE
from headrace.core.statistics import percentile
from headrace.models.kv.blocks import FileBlocks
from headrace.models.kv.cache import KvCache
from headrace.models.kv.format import BLOCK, Shape, pack
from headrace.models.kv.object_index import ObjectIndex
from headrace.storage.endpoints import Endpoints, MetadataEndpoint
from headrace.storage.files import FileWriter
from headrace.storage.ledger import Ledger
from headrace.storage.metadata import Metadata
from headrace.storage.meter import Meter

_SIZES = (1_000, 100_000, 1_000_000)
_TENANTS = ("acme", "globex", "initech", "umbrella")
_LOOKUPS = 2_000
_TOUCHES = 200
_SAVES = 20
_SHAPE = Shape(1, 1, 2)
_BLOCK_BYTES = len(pack("0" * 64, np.zeros(_SHAPE.array(BLOCK), np.float32), _SHAPE, b"s"))


def measure(sizes: Sequence[int] = _SIZES) -> dict[str, Any]:
    """Bound: a lookup's p95 at a million blocks is at most twice that at a thousand.

    Lookups in all directories take turns, since other work on the machine changes within the minutes that filling them takes.
    """
    with ExitStack() as stack:
        folders = {size: Path(stack.enter_context(tempfile.TemporaryDirectory())) for size in sizes}
        files = {size: FileWriter(KV_CACHE, _endpoints(folder), Meter(Ledger(), "bench")) for size, folder in folders.items()}
        names = {size: list(_filled(files[size].root, size, _BLOCK_BYTES)) for size in sizes}
        stores = {size: FileBlocks(files[size], files[size].listing()) for size in sizes}
        indexes = {size: _index_of(size, folder / "metadata.db") for size, folder in folders.items()}
        found = {size: random.Random(1).choices(names[size], k=_LOOKUPS) for size in sizes}
        lookups: dict[tuple[str, int], list[float]] = {}
        for number in range(_LOOKUPS):
            for size in sizes:
                name = found[size][number]
                lookups.setdefault(("files", size), []).append(_seconds(lambda: _look_up(stores[size], name)))  # noqa: B023
                lookups.setdefault(("objects", size), []).append(_seconds(lambda: indexes[size].used(name)))  # noqa: B023
        rows = []
        for size in sizes:
            rows.append(
                {
                    "blocks": size,
                    "files": _percentiles(lookups["files", size]),
                    "objects": {**_percentiles(lookups["objects", size]), **_uses_of(indexes[size], found[size])},
                    **_work_at(size, files[size], stores[size]),
                }
            )
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)

    def ratio(kind: str) -> float:
        return round(rows[-1][kind]["lookup_p95_ms"] / rows[0][kind]["lookup_p95_ms"], 2)

    return {"sizes": rows, "lookup_p95_ratio": {kind: ratio(kind) for kind in ("files", "objects")}, "bound": 2.0}


def _endpoints(folder: Path) -> Endpoints:
    return Endpoints.model_construct(files_dir=folder)


def _look_up(store: FileBlocks, name: str) -> None:
    """As the cache does: read, and note the use."""

    def there(data: bytes | memoryview | None) -> bool:
        if data is None:
            raise RuntimeError(f"{name} is not there")
        return True

    store.read_each([name], _BLOCK_BYTES + 1, there)
    store.touch(name)


def _work_at(size: int, files: FileWriter, store: FileBlocks) -> dict[str, Any]:
    walk = _both(lambda: [*files.list()])
    first = _both(lambda: store.bytes("acme"))
    time.sleep(2.1)  # until directories that were just made are settled
    store.bytes("acme")
    saves = [_both(lambda number=number: _save(store, number, 1 << 40)) for number in range(_SAVES)]  # type: ignore[misc]
    room = _both(lambda: _save(store, _SAVES, size * _BLOCK_BYTES))
    return {"walk_s": walk, "first_look_s": first, "save_s": _middle(saves), "save_that_evicts_s": room}


def _index_of(size: int, file: Path) -> ObjectIndex:
    endpoints = Endpoints.model_construct(metadata=MetadataEndpoint(file=file))
    metadata = Metadata(endpoints)
    index, scope = ObjectIndex(metadata, "bench"), ObjectIndex(metadata, "bench")._scope
    names = [_name(number) for number in range(size)]
    for start in range(0, size, 50_000):
        rows = [{"scope": scope, "name": name, "used": float(at)} for at, name in enumerate(names[start : start + 50_000], start)]
        with metadata.transaction(writing=True) as run:
            run.many(
                "INSERT INTO kv_objects (scope, name, tenant, bytes, used)"
                " VALUES (:scope, :name, substr(:name, 1, instr(:name, '/') - 1), 1, :used)",
                rows,
            )
    return index


def _uses_of(index: ObjectIndex, chosen: Sequence[str]) -> dict[str, float]:
    touches = _percentiles([_seconds(lambda name=name: index.touch(name)) for name in chosen[:_TOUCHES]])  # type: ignore[misc]
    oldest = _seconds(lambda: index.oldest(1_024))
    return {"note_use_p95_ms": touches["lookup_p95_ms"], "oldest_s": round(oldest, 4)}


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    return {
        "lookup_p50_ms": round(1e3 * percentile(seconds, 0.5), 3),
        "lookup_p95_ms": round(1e3 * percentile(seconds, 0.95), 3),
    }


def _name(number: int) -> str:
    tenant, key = _TENANTS[number % len(_TENANTS)], hashlib.sha256(str(number).encode()).hexdigest()
    return f"{tenant}/{key[:2]}/{key}.{number % 8}.safetensors"


def _filled(root: Path, size: int, block: int) -> Iterator[str]:
    for number in range(size):
        name = _name(number)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with (root / name).open("wb") as file:
            file.truncate(block)
        yield name


def _save(store: FileBlocks, number: int, limit: int) -> None:
    cache = KvCache(store, identity="m", tenant="acme", shape=_SHAPE, secret=b"s", limit_bytes=limit)
    cache.save([number] * 2 * BLOCK, np.zeros(_SHAPE.array(2 * BLOCK), np.float32), restored=0)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _both(work: Callable[[], object]) -> dict[str, float]:
    began = time.process_time()
    wall = _seconds(work)
    return {"wall": round(wall, 4), "cpu": round(time.process_time() - began, 4)}


def _middle(measured: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sorted(one[name] for one in measured)[len(measured) // 2] for name in measured[0]}


if __name__ == "__main__":
    print(json.dumps(measure([int(size) for size in sys.argv[1:]] or _SIZES), indent=1))
