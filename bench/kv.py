"""kv: the time to the first token with the KV cache in each kind of storage, the bandwidth of loading, and the cost of storing.

The packaged generator answers prompts of 512 and 1,500 tokens and of as many as its window holds:

- recompute: without a cache
- memory: blocks in memory, in front of files
- page cache: files that the kernel still has in memory
- file: the same files after the kernel was asked to drop them (posix_fadvise); whether it did is looked at
- network mount: SeaweedFS's filer over FUSE, after the same; its own cache may still answer
- objects: SeaweedFS's S3

Kinds take turns within a round, so that other work on the machine meets all of them. `python -m bench kv`
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.mounted import NotMounted, mounted
from headrace.catalog import KV_CACHE, KV_OBJECTS
from headrace.core.statistics import percentile
from headrace.models.kv.backends import backend_of
from headrace.models.kv.blocks import BlockStore, FileBackend
from headrace.models.kv.cache import KvCache
from headrace.models.kv.format import BLOCK, Shape
from headrace.models.kv.memory import BlockMemory, FrontedBlocks
from headrace.models.kv.writes import WriteBehind
from headrace.platform import open_platform, running
from headrace.platform.home import Home
from headrace.settings import Settings
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter

if TYPE_CHECKING:
    from headrace.models.server.generator import Generated, SmolLM

_TOKENS = (512, 1_500, 4_000)
_MIDDLE = 1_500
_ROUNDS = 9
_READS = 15
_ANSWER = 32
_FASTER, _OF_PLAIN, _OVERHEAD = 25.0, 0.6, 0.02


def measure(rounds: int = _ROUNDS, tokens: Sequence[int] = _TOKENS) -> dict[str, Any]:
    """Bounds: at 1,500 tokens a prefix is restored from files 25 times as fast as it is computed; loading has 60 % of the
    bandwidth of a plain read; storing adds 2 % to an answer.

    `p50_ms` and `faster` are of the whole first token, so also of computing what is behind the last full block.
    """
    from headrace.models.server import generator

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = generator.load(folder / "weights")
        settings = Settings.load(home=folder / "home")
        endpoints = stack.enter_context(open_platform(settings, parts=frozenset({"objects"})))
        stores, left_out = _stores(stack, settings, endpoints, folder)
        rows = []
        for length in sorted({min(length, model.window - 1) for length in tokens}):
            rows.append(_at(model, length, stores, rounds))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        middle = min(rows, key=lambda row: abs(row["tokens"] - _MIDDLE))
        return {
            "model": model.version,
            "window": model.window,
            "bytes_per_token": _bytes_per_token(model),
            "rounds": rounds,
            "first_token": rows,
            "left_out": left_out,
            "file_over_recompute_at_1500": middle["restore_over_recompute"]["file"],
            "bound_file_over_recompute": _FASTER,
            "load_bandwidth": bandwidth(model.shape, folder),
            "bound_of_plain_read": _OF_PLAIN,
            "storing": _storing(model, folder, _MIDDLE, max(2, rounds // 3)),
            "bound_storing": _OVERHEAD,
        }


class _Place:
    """A block store, and what is done before it is read."""

    def __init__(self, blocks: BlockStore, before: Callable[[], str] = lambda: "") -> None:
        self.blocks, self.before = blocks, before


def _stores(stack: ExitStack, settings: Settings, endpoints: Endpoints, folder: Path) -> tuple[dict[str, _Place], dict[str, str]]:
    left_out: dict[str, str] = {}

    def files(place: Path) -> BlockStore:
        place.mkdir(exist_ok=True)
        return FileBackend().open(KV_CACHE, endpoints.model_copy(update={"files_dir": place}), _meter(), wait=True)

    def dropped(place: Path) -> Callable[[], str]:
        return lambda: drop_pages(list(place.rglob("*.safetensors")))

    stores = {
        "memory": _Place(FrontedBlocks(files(folder / "behind"), BlockMemory(1 << 30))),
        "page cache": _Place(files(folder / "warm")),
        "file": _Place(files(folder / "cold"), dropped(folder / "cold")),
    }
    state = running(settings)
    try:
        if state is None:
            raise NotMounted("the platform's ports are not known")
        place = folder / "mount"
        place.mkdir()
        stack.enter_context(mounted(Home(settings.home), state.ports, place))
        stores["network mount"] = _Place(files(place / "kv"), dropped(place / "kv"))
    except NotMounted as error:
        left_out["network mount"] = str(error)
    objects = endpoints.model_copy(update={"kv_backend": "objects"})
    stores["objects"] = _Place(backend_of(objects).open(KV_OBJECTS, objects, _meter(), wait=True))
    return stores, left_out


def drop_pages(paths: Sequence[Path]) -> str:
    """Ask the kernel to drop files' pages; returns whether it did, as far as their file system says."""
    seen = set()
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.preadv(descriptor, [bytearray(1)], 0, os.RWF_NOWAIT)
            seen.add("still cached")
        except BlockingIOError:
            seen.add("dropped")
        except OSError:
            seen.add("unknown")
        finally:
            os.close(descriptor)
    return ", ".join(sorted(seen))


def _at(model: SmolLM, tokens: int, stores: dict[str, _Place], rounds: int) -> dict[str, Any]:
    prompt = _prompt(model, tokens)
    first, *others = (place.blocks for place in stores.values())
    before = {block.name for block in first.oldest(100_000)}
    _first_token(model, prompt, _cache(model, first))  # computes and stores
    for name in {block.name for block in first.oldest(100_000)} - before:
        data = first.get(name)
        if data is None:
            raise RuntimeError(f"{name} was not stored")
        for blocks in others:
            blocks.put(name, data)
    took: dict[str, list[float]] = {"recompute": [], **{name: [] for name in stores}}
    read: dict[str, list[float]] = {name: [] for name in stores}
    rest: list[float] = []
    pages: dict[str, set[str]] = {name: set() for name in stores}
    for _ in range(rounds):
        took["recompute"].append(_ms(_first_token(model, prompt, None)))
        for name, place in stores.items():
            pages[name].add(place.before())
            generated = _first_token(model, prompt, _cache(model, place.blocks))
            restored = (tokens - 1) // BLOCK * BLOCK
            if generated.reused_tokens != restored:
                raise RuntimeError(f"{name}: {generated.reused_tokens} of {restored} tokens were restored")
            took[name].append(_ms(generated))
            read[name].append(generated.timings_ms["kv_read"])
            rest.append(generated.timings_ms["prefill"])
    middle = {name: statistics.median(values) for name, values in took.items()}
    restore = {name: statistics.median(values) for name, values in read.items()}
    spared = middle["recompute"] - statistics.median(rest)
    return {
        "tokens": tokens,
        "restored_tokens": (tokens - 1) // BLOCK * BLOCK,
        "bytes": (tokens - 1) // BLOCK * BLOCK * _bytes_per_token(model),
        "p50_ms": {name: round(value, 1) for name, value in middle.items()},
        "p95_ms": {name: round(percentile(values, 0.95), 1) for name, values in took.items()},
        "faster": {name: round(middle["recompute"] / value, 1) for name, value in middle.items()},
        "restore_p50_ms": {name: round(value, 1) for name, value in restore.items()},
        "rest_p50_ms": round(statistics.median(rest), 1),
        "restore_over_recompute": {name: round(spared / value, 1) for name, value in restore.items()},
        "pages": {name: ", ".join(sorted(filter(None, seen))) for name, seen in pages.items() if any(seen)},
    }


def _prompt(model: SmolLM, tokens: int) -> list[int]:
    words = np.random.default_rng(tokens).integers(1_000, 40_000, size=tokens)
    return [int(word) for word in words]


class _Behind:
    """Stores what answers hand over, in the queue's thread, as the model server does."""

    def __init__(self, model: SmolLM, blocks: BlockStore) -> None:
        self.writes, self.run = WriteBehind(), "bench"
        self._model, self._blocks = model, blocks

    def store(self, tokens: Sequence[int], values: Any, *, restored: int) -> None:
        _cache(self._model, self._blocks).save(tokens, values, restored=restored)

    def check(self, tokens: Sequence[int], restored: Sequence[Any]) -> None:
        """Nothing is compared here."""


def _cache(model: SmolLM, blocks: BlockStore, behind: _Behind | None = None) -> KvCache:
    return KvCache(
        blocks,
        identity=model.identity,
        tenant="bench",
        shape=model.shape,
        secret=b"bench",
        limit_bytes=1 << 40,
        behind=behind,
    )


def _first_token(model: SmolLM, prompt: Sequence[int], cache: KvCache | None, tokens: int = 1) -> Generated:
    from headrace.models.server.generator import Generated, Sampling

    generated = Generated(list(prompt))
    for _ in model.generate(prompt, Sampling(tokens, 0.0), cache=cache, into=generated):
        pass
    return generated


def _ms(generated: Generated) -> float:
    """Milliseconds until the logits of the first token."""
    return generated.timings_ms["kv_read"] + generated.timings_ms["prefill"]


def _bytes_per_token(model: SmolLM) -> int:
    shape = model.shape
    return shape.layers * 2 * shape.heads * shape.width * np.dtype(shape.dtype).itemsize


def bandwidth(shape: Shape, folder: Path, tokens: int = _MIDDLE) -> dict[str, Any]:
    """Restoring a prefix beside reading the same files, each from the page cache and after dropping it; bytes a second."""
    from headrace.models.server.generator import fill

    place = folder / "bandwidth"
    place.mkdir()
    prompt = [*range(1_000, 1_000 + tokens)]
    endpoints = Endpoints.model_construct(files_dir=place)
    blocks = FileBackend().open(KV_CACHE, endpoints, _meter(), wait=True)
    cache = KvCache(blocks, identity="bench", tenant="bench", shape=shape, secret=b"bench", limit_bytes=1 << 40)
    values = np.random.default_rng(1).standard_normal(shape.array(tokens), dtype=np.float32)
    cache.save(prompt, values, restored=0)
    paths = sorted(place.rglob("*.safetensors"))
    size = sum(path.stat().st_size for path in paths)

    def restore() -> None:
        if cache.restore(prompt, values, fill=fill) != tokens // BLOCK * BLOCK:
            raise RuntimeError("not everything was restored")

    def plain() -> None:
        for path in paths:
            path.read_bytes()

    found: dict[str, Any] = {"bytes": size}
    for name, before in (("cached", lambda: ""), ("dropped", lambda: drop_pages(paths))):
        took: dict[str, list[float]] = {"load": [], "plain": []}
        for _ in range(_READS):
            for kind, work in (("load", restore), ("plain", plain)):
                before()
                took[kind].append(_seconds(work))
        load, bare = (statistics.median(took[kind]) for kind in ("load", "plain"))
        found[name] = {
            "load_bytes_per_s": round(size / load),
            "plain_read_bytes_per_s": round(size / bare),
            "load_over_plain": round(bare / load, 3),
        }
    return found


def _storing(model: SmolLM, folder: Path, tokens: int, rounds: int) -> dict[str, Any]:
    """An answer whose prompt is stored behind it, beside the same without a cache: seconds, and the share that storing adds.

    The wall time of the whole call counts: what happens on the way to the last token and before the call returns. What is then
    written is waited for outside it.
    """
    place = folder / "storing"
    place.mkdir()
    took: dict[str, list[float]] = {"with": [], "without": []}
    writing: list[float] = []
    for number in range(rounds):
        prompt = _prompt(model, tokens)
        prompt[0] = 1_000 + number  # no block of it is there
        endpoints = Endpoints.model_construct(files_dir=place / str(number))
        blocks = FileBackend().open(KV_CACHE, endpoints, _meter(), wait=True)
        behind = _Behind(model, blocks)
        for kind, cache in (("without", None), ("with", _cache(model, blocks, behind))):
            began = time.perf_counter()
            generated = _first_token(model, prompt, cache, _ANSWER)
            took[kind].append(time.perf_counter() - began)
        writing.append(generated.timings_ms["kv_write"] / 1e3)
        if not behind.writes.wait(60.0) or not any((place / str(number)).rglob("*.safetensors")):
            raise RuntimeError("nothing was stored behind the answer")
        behind.writes.close(1.0)
    with_, without = statistics.median(took["with"]), statistics.median(took["without"])
    return {
        "answer_tokens": _ANSWER,
        "with_s": round(with_, 3),
        "without_s": round(without, 3),
        "added": round(with_ / without - 1, 4),
        "handed_over_s": round(statistics.median(writing), 4),
        "handed_over_share": round(statistics.median(writing) / without, 4),
    }


def _meter() -> Meter:
    return Meter(Ledger(), "bench")


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
