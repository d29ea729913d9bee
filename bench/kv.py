"""kv: the time to the first token with the KV cache in each kind of storage, the bandwidth of loading, and the cost of storing.

The packaged generator answers prompts of 512 and 1,500 tokens and of as many as its window holds:

- recompute: without a cache
- memory: blocks in memory, in front of files
- page cache: files that the kernel still has in memory
- file: the same files after the kernel was asked to drop them (posix_fadvise); whether it did is looked at
- network mount: SeaweedFS's filer over FUSE, after the same; its own cache may still answer
- objects: SeaweedFS's S3

Kinds take turns within a round, so that other work on the machine meets all of them. Isolation is measured as wall time, too:
lookups of prompts that another tenant has cached beside lookups of prompts that nobody has.

`load_over_plain` is, for each kind, the bandwidth of restoring as a share of that of reading the same bytes: files one after
another into one buffer, objects with one GET each. `load_bandwidth` takes restoring from files apart.

`python -m bench.kv [MINUTES]` takes about so many minutes (8), `python -m bench kv` the same.
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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.mounted import NotMounted, mounted
from headrace.catalog import KV_CACHE, KV_OBJECTS
from headrace.core.statistics import percentile
from headrace.models.kv.backends import backend_of
from headrace.models.kv.blocks import BlockStore, FileBackend
from headrace.models.kv.cache import KvCache
from headrace.models.kv.format import BLOCK, Shape, block_keys, unpacked
from headrace.models.kv.memory import BlockMemory, FrontedBlocks
from headrace.models.kv.prompt_memory import PromptMemory
from headrace.models.kv.writes import WriteBehind
from headrace.platform import open_platform, running
from headrace.platform.home import Home
from headrace.settings import Settings
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectWriter

if TYPE_CHECKING:
    from headrace.models.server.generator import Generated, SmolLM

_TOKENS = (512, 1_500, 4_000)
_MIDDLE = 1_500
_ROUNDS, _LEAST_ROUNDS = 15, 3
_MINUTES = 8.0
_STORING = 0.25
"""Share of the time that goes into the cost of storing; the rest goes into first tokens."""
_READS = 15
_ANSWER = 32
_FASTER, _OF_PLAIN, _OVERHEAD = 25.0, 0.6, 0.02


def measure(minutes: float = _MINUTES, tokens: Sequence[int] = _TOKENS) -> dict[str, Any]:
    """Bounds: at 1,500 tokens a prefix is restored from files 25 times as fast as it is computed; loading has 60 % of the
    bandwidth of a plain read; storing adds 2 % to an answer.

    `p50_ms` and `faster` are of the whole first token, so also of computing what is behind the last full block.
    """
    from headrace.models.server import generator

    began = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = generator.load(folder / "weights")
        settings = Settings.load(home=folder / "home")
        endpoints = stack.enter_context(open_platform(settings, parts=frozenset({"objects"})))
        stores, left_out = _stores(stack, settings, endpoints, folder)
        rows = []
        lengths = sorted({min(length, model.window - 1) for length in tokens})
        for number, length in enumerate(lengths):
            share = (1 - _STORING) * sum(lengths[: number + 1]) / sum(lengths)
            rows.append(_at(model, length, stores, began + 60 * minutes * share))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        middle = min(rows, key=lambda row: abs(row["tokens"] - _MIDDLE))
        return {
            "model": model.version,
            "window": model.window,
            "bytes_per_token": _bytes_per_token(model),
            "first_token": rows,
            "left_out": left_out,
            "file_over_recompute_at_1500": middle["restore_over_recompute"]["file"],
            "bound_file_over_recompute": _FASTER,
            "load_over_plain": load_over_plain(model.shape, stores),
            "load_bandwidth": bandwidth(model.shape, folder),
            "bound_of_plain_read": _OF_PLAIN,
            "storing": _storing(model, folder, _MIDDLE, began + 60 * minutes),
            "bound_storing": _OVERHEAD,
            "isolation": isolation(folder),
        }


class _Place:
    """A block store, what is done before it is read, and how its bytes are read without it, given the names of blocks."""

    def __init__(
        self,
        blocks: BlockStore,
        before: Callable[[], str] = lambda: "",
        plain: Callable[[Sequence[str]], object] | None = None,
    ) -> None:
        self.blocks, self.before, self.plain = blocks, before, plain


def _stores(stack: ExitStack, settings: Settings, endpoints: Endpoints, folder: Path) -> tuple[dict[str, _Place], dict[str, str]]:
    left_out: dict[str, str] = {}

    def files(place: Path) -> BlockStore:
        place.mkdir(exist_ok=True)
        return FileBackend().open(KV_CACHE, endpoints.model_copy(update={"files_dir": place}), _meter(), wait=True)

    def dropped(place: Path) -> Callable[[], str]:
        return lambda: drop_pages(list(place.rglob("*.safetensors")))

    def read(place: Path) -> Callable[[Sequence[str]], object]:
        return lambda names: plain_read([place / KV_CACHE.name / name for name in names])

    stores = {
        "memory": _Place(FrontedBlocks(files(folder / "behind"), BlockMemory(1 << 30))),
        "page cache": _Place(files(folder / "warm"), plain=read(folder / "warm")),
        "file": _Place(files(folder / "cold"), dropped(folder / "cold"), read(folder / "cold")),
    }
    state = running(settings)
    try:
        if state is None:
            raise NotMounted("the platform's ports are not known")
        place = folder / "mount"
        place.mkdir()
        stack.enter_context(mounted(Home(settings.home), state.ports, place))
        stores["network mount"] = _Place(files(place / "kv"), dropped(place / "kv"), read(place / "kv"))
    except NotMounted as error:
        left_out["network mount"] = str(error)
    objects = endpoints.model_copy(update={"kv_backend": "objects"})
    bucket = ObjectWriter(KV_OBJECTS, objects, _meter())
    stores["objects"] = _Place(
        backend_of(objects).open(KV_OBJECTS, objects, _meter(), wait=True), plain=lambda names: [*map(bucket.get, names)]
    )
    return stores, left_out


def plain_read(paths: Sequence[Path], room: memoryview | None = None) -> None:
    """Read files one after another into one buffer, which is used again if it is `room`."""
    room = room or memoryview(bytearray(max(path.stat().st_size for path in paths)))
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(room) == len(room):
                pass


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


def _at(model: SmolLM, tokens: int, stores: dict[str, _Place], until: float) -> dict[str, Any]:
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
    behind = {name: _behind(model, place.blocks) for name, place in stores.items()}
    pages: dict[str, set[str]] = {name: set() for name in stores}
    while _goes_on(len(rest) // len(stores), until):
        took["recompute"].append(_ms(_first_token(model, prompt, None)))
        for name, place in stores.items():
            pages[name].add(place.before())
            generated = _first_token(model, prompt, _cache(model, place.blocks, behind[name]))
            behind[name].writes.wait(60.0)  # for its use to be noted, as behind an answer
            restored = (tokens - 1) // BLOCK * BLOCK
            if generated.reused_tokens != restored:
                raise RuntimeError(f"{name}: {generated.reused_tokens} of {restored} tokens were restored")
            took[name].append(_ms(generated))
            read[name].append(generated.timings_ms["kv_read"])
            rest.append(generated.timings_ms["prefill"])
    for one in behind.values():
        one.writes.close(1.0)
    middle = {name: statistics.median(values) for name, values in took.items()}
    restore = {name: statistics.median(values) for name, values in read.items()}
    spared = middle["recompute"] - statistics.median(rest)
    return {
        "tokens": tokens,
        "rounds": len(took["recompute"]),
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

    def __init__(self, save: Callable[[Sequence[int], Any, int], object]) -> None:
        self.writes, self.run = WriteBehind(), "bench"
        self.cpu_s = 0.0
        self._save = save

    def store(self, tokens: Sequence[int], values: Any, *, restored: int) -> None:
        began = time.thread_time()
        self._save(tokens, values, restored)
        self.cpu_s += time.thread_time() - began

    def notes(self, last: str, documents: frozenset[str] | None) -> bool:
        """There is no index here."""
        return False

    def check(self, tokens: Sequence[int], restored: Sequence[Any]) -> None:
        """Nothing is compared here."""


def _behind(model: SmolLM, blocks: BlockStore) -> _Behind:
    return _Behind(lambda tokens, values, restored: _cache(model, blocks).save(tokens, values, restored=restored))


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


def load_over_plain(shape: Shape, stores: dict[str, _Place], tokens: int = _MIDDLE) -> dict[str, Any]:
    """For each kind of storage, milliseconds of restoring a prefix and of plainly reading the same bytes, and the share.

    Medians; `best_over_plain` is that of the fastest of either. Files are read as forgetting reads them, without a deadline.
    """
    from headrace.models.server.generator import fill

    prompt = [*range(1_000, 1_000 + tokens)]
    values = np.random.default_rng(1).standard_normal(shape.array(tokens), dtype=np.float32)
    memory, behind = PromptMemory(), _Behind(lambda tokens, values, restored: None)

    def cache(place: _Place, behind: _Behind | None = None) -> KvCache:
        return KvCache(
            place.blocks, identity="load", tenant="load", shape=shape, secret=b"bench", limit_bytes=1 << 40, behind=behind
        )

    def restore(place: _Place) -> None:
        if cache(place, behind).restore(prompt, memory.take(shape, tokens), fill=fill) != tokens // BLOCK * BLOCK:
            raise RuntimeError("not everything was restored")

    for place in stores.values():
        cache(place).save(prompt, values, restored=0)
    first = next(iter(stores.values()))
    names = [block.name for block in first.blocks.oldest(1_000, "load")]
    took: dict[str, tuple[list[float], list[float]]] = {kind: ([], []) for kind in stores}
    for _ in range(_READS):
        for kind, place in stores.items():
            for times, work in zip(
                took[kind], (partial(restore, place), place.plain and partial(place.plain, names)), strict=True
            ):
                if work:
                    place.before()
                    times.append(1e3 * _seconds(work))
                    behind.writes.wait(60.0)
    behind.writes.close(1.0)
    return {
        kind: {
            "load_ms": round(statistics.median(load), 1),
            **(
                {
                    "plain_read_ms": round(statistics.median(plain), 1),
                    "load_over_plain": round(statistics.median(plain) / statistics.median(load), 3),
                    "best_over_plain": round(min(plain) / min(load), 3),
                }
                if plain
                else {}
            ),
        }
        for kind, (load, plain) in took.items()
    }


def bandwidth(shape: Shape, folder: Path, tokens: int = _MIDDLE) -> dict[str, Any]:
    """Restoring a prefix as the model server does, beside reading the same files; each from the page cache and after dropping it.

    Milliseconds, wall and processor time, of the same number of bytes. What notes the uses behind the answer is not in them:

    - `load`: as an answer does, into memory that an earlier one used
    - `load_anew`: into memory that was just taken, as the first answer does
    - `unconverted`: what would be left without conversion: each block read into its own memory, used before, and checked
    - `float32_written`: nothing but writing as many float32 values, to memory that was used before
    - `plain_read`: one file after the other into one buffer; `plain_read_anew`: each into its own memory
    """
    from headrace.models.server.generator import fill

    place = folder / "bandwidth"
    place.mkdir()
    prompt = [*range(1_000, 1_000 + tokens)]
    endpoints = Endpoints.model_construct(files_dir=place)
    blocks = FileBackend().open(KV_CACHE, endpoints, _meter(), wait=False)
    behind = _Behind(lambda tokens, values, restored: None)  # uses are noted there; nothing is new
    cache = KvCache(blocks, identity="bench", tenant="bench", shape=shape, secret=b"bench", limit_bytes=1 << 40, behind=behind)
    values = np.random.default_rng(1).standard_normal(shape.array(tokens), dtype=np.float32)
    cache.save(prompt, values, restored=0)
    keys = block_keys(prompt, identity="bench", tenant="bench", shape=shape, secret=b"bench")
    paths = sorted(place.rglob("*.safetensors"), key=lambda path: int(path.name.split(".")[1]))
    size = sum(path.stat().st_size for path in paths)
    memory = PromptMemory()
    room = memoryview(bytearray(shape.stored_bytes))
    rooms = [memoryview(bytearray(path.stat().st_size)) for path in paths]

    def restore(into: Any) -> None:
        if cache.restore(prompt, into, fill=fill) != tokens // BLOCK * BLOCK:
            raise RuntimeError("not everything was restored")

    def unconverted() -> None:
        for key, path, own in zip(keys, paths, rooms, strict=True):
            plain_read([path], own)
            if isinstance(unpacked(key, own, shape, b"bench"), str):
                raise RuntimeError("not everything was restored")

    def plain_anew() -> None:
        for path in paths:
            path.read_bytes()

    works: dict[str, Callable[[], object]] = {
        "load": lambda: restore(memory.take(shape, tokens)),
        "load_anew": lambda: restore(np.empty(shape.array(tokens), np.float32)),
        "unconverted": unconverted,
        "float32_written": lambda: values.fill(1.0),
        "plain_read": lambda: plain_read(paths, room),
        "plain_read_anew": plain_anew,
    }
    found: dict[str, Any] = {"bytes": size, "float32_bytes": values.nbytes}
    for name, before in (("cached", lambda: ""), ("dropped", lambda: drop_pages(paths))):
        took: dict[str, list[tuple[float, float]]] = {kind: [] for kind in works}
        for _ in range(_READS):
            for kind, work in works.items():
                before()
                used = time.process_time()
                seconds = _seconds(work)
                took[kind].append((seconds, time.process_time() - used))
                behind.writes.wait(60.0)
        wall = {kind: statistics.median(seconds for seconds, _ in some) for kind, some in took.items()}
        best = {kind: min(seconds for seconds, _ in some) for kind, some in took.items()}
        found[name] = {
            **{f"{kind}_ms": round(1e3 * seconds, 1) for kind, seconds in wall.items()},
            **{f"{kind}_cpu_ms": round(1e3 * statistics.median(used for _, used in some), 1) for kind, some in took.items()},
            "best_ms": {kind: round(1e3 * seconds, 1) for kind, seconds in best.items()},
            "load_bytes_per_s": round(size / wall["load"]),
            "plain_read_bytes_per_s": round(size / wall["plain_read"]),
            **{f"{kind}_over_plain": round(wall["plain_read"] / wall[kind], 3) for kind in ("load", "load_anew", "unconverted")},
            **{
                f"best_{kind}_over_plain": round(best["plain_read"] / best[kind], 3)
                for kind in ("load", "load_anew", "unconverted")
            },
        }
    behind.writes.close(1.0)
    return found


def isolation(folder: Path, prompts: int = 300) -> dict[str, Any]:
    """Seconds of lookups by a tenant that has nothing stored: of prompts that another tenant has, and of prompts that nobody has.

    `auc` is the share of pairs in which the lookup of a cached prompt took longer, 0.5 where the times say nothing; `p` is that
    of the two-sided Mann-Whitney test. For comparison, `own_auc` is that of a tenant's own cached prompts.
    """
    from scipy.stats import mannwhitneyu

    place = folder / "isolation"
    place.mkdir()
    endpoints = Endpoints.model_construct(files_dir=place)
    blocks = FrontedBlocks(FileBackend().open(KV_CACHE, endpoints, _meter(), wait=False), BlockMemory(1 << 26))
    shape = Shape(1, 1, 64)
    into = np.zeros(shape.array(BLOCK), np.float32)

    def cache(tenant: str) -> KvCache:
        return KvCache(blocks, identity="bench", tenant=tenant, shape=shape, secret=b"bench", limit_bytes=1 << 40)

    tokens = np.random.default_rng(1).integers(0, 40_000, size=(2 * prompts, BLOCK)).tolist()
    cached = tokens[:prompts]
    for prompt in cached:
        cache("globex").save(prompt, into, restored=0)
    took: dict[tuple[str, bool], list[float]] = {}
    for number in np.random.default_rng(2).permutation(2 * prompts):
        for tenant in ("acme", "globex"):
            seconds = _seconds(lambda tenant=tenant, number=number: cache(tenant).restore(tokens[number], into))  # type: ignore[misc]
            took.setdefault((tenant, bool(number < prompts)), []).append(seconds)
    tests = {tenant: mannwhitneyu(took[tenant, True], took[tenant, False]) for tenant in ("acme", "globex")}
    return {
        "lookups": prompts,
        "cached_by_another_p50_us": round(1e6 * statistics.median(took["acme", True]), 1),
        "cached_by_nobody_p50_us": round(1e6 * statistics.median(took["acme", False]), 1),
        "auc": round(float(tests["acme"].statistic) / prompts**2, 3),
        "p": round(float(tests["acme"].pvalue), 3),
        "own_auc": round(float(tests["globex"].statistic) / prompts**2, 3),
    }


def _goes_on(rounds: int, until: float) -> bool:
    return rounds < _LEAST_ROUNDS or (rounds < _ROUNDS and time.monotonic() < until)


def _storing(model: SmolLM, folder: Path, tokens: int, until: float) -> dict[str, Any]:
    """An answer whose prompt is stored behind it, beside the same without a cache: seconds, and the share that storing adds.

    The wall time of the whole call counts: what happens on the way to the last token and before the call returns. What is then
    written is waited for outside it; `behind_cpu_s` is the processor time that this takes from whatever runs then. Other work on
    the machine shows in `added`, and hardly in `added_cpu`, which compares the processor time of the thread that answers.
    """
    place = folder / "storing"
    place.mkdir()
    took: dict[str, list[float]] = {"with": [], "without": []}
    cpu: dict[str, list[float]] = {"with": [], "without": []}
    writing: list[float] = []
    behind_cpu: list[float] = []
    while _goes_on(number := len(writing), until):
        prompt = _prompt(model, tokens)
        prompt[0] = 1_000 + number  # no block of it is there
        endpoints = Endpoints.model_construct(files_dir=place / str(number))
        blocks = FileBackend().open(KV_CACHE, endpoints, _meter(), wait=True)
        behind = _behind(model, blocks)
        pair = (("without", None), ("with", _cache(model, blocks, behind)))
        for kind, cache in pair if number % 2 else reversed(pair):
            began, used = time.perf_counter(), time.thread_time()
            generated = _first_token(model, prompt, cache, _ANSWER)
            took[kind].append(time.perf_counter() - began)
            cpu[kind].append(time.thread_time() - used)
            if kind == "with":
                writing.append(generated.timings_ms["kv_write"] / 1e3)
                behind.writes.wait(60.0)  # else it would be written during the other answer
        behind_cpu.append(behind.cpu_s)
        if not behind.writes.wait(60.0) or not any((place / str(number)).rglob("*.safetensors")):
            raise RuntimeError("nothing was stored behind the answer")
        behind.writes.close(1.0)
    with_, without = statistics.median(took["with"]), statistics.median(took["without"])
    return {
        "answer_tokens": _ANSWER,
        "rounds": len(writing),
        "with_s": round(with_, 3),
        "without_s": round(without, 3),
        "added": round(_added(took), 4),
        "added_cpu": round(_added(cpu), 4),
        "behind_cpu_s": round(statistics.median(behind_cpu), 4),
        "handed_over_s": round(statistics.median(writing), 4),
        "handed_over_share": round(statistics.median(writing) / without, 4),
    }


def _added(took: dict[str, list[float]]) -> float:
    """The middle of the pairs' ratios, minus 1."""
    return statistics.median(one / other for one, other in zip(took["with"], took["without"], strict=True)) - 1


def _meter() -> Meter:
    return Meter(Ledger(), "bench")


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    print(json.dumps(measure(float(sys.argv[1]) if sys.argv[1:] else _MINUTES), indent=1))
