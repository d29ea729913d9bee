"""Replays a request trace against real storage: clients in processes of their own, which share the blocks they write.

Each client takes every n-th request, in the order of the trace and as fast as storage answers. It looks up the longest prefix of
blocks that is there, whichever client wrote them, reads them, and writes the rest, by the block store that the KV cache itself
uses. The least recently used blocks are evicted at `capacity_bytes`.

MLPerf Storage's KV cache benchmark is the model for the figures (mlcommons/storage, kv_cache_benchmark): bytes read a second over
all clients, the 95th percentile of a read and of a write on the slowest client, tokens a second. There each client has
a directory of its own on a file system; here clients share, on a file system or in an object store.
"""

from __future__ import annotations

import contextlib
import json
import math
import queue
import secrets
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from headrace import __version__
from headrace.catalog import KV_CACHE, KV_OBJECTS, Store
from headrace.check.provenance import UNKNOWN, host_facts, mount_facts
from headrace.core.progress import ProgressBars
from headrace.core.statistics import percentile
from headrace.errors import HeadraceError, HomeRefused, Unavailable, WrongUsage
from headrace.explain.kv.live_client import ClientFigures, ClientTask
from headrace.explain.kv.replay import KvStorage, replay
from headrace.explain.kv.trace import Trace, sampled
from headrace.models.kv.backends import BACKENDS
from headrace.process import python
from headrace.storage.endpoints import Endpoints, MetadataEndpoint, ModelEndpoint
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectWriter

SCHEMA = "headrace-kv-live/1"
_PREFIX = "headrace-kv-replay-"
_DEFAULT_BYTES = 4 << 30
_SHARE = 8
"""Without a capacity, at most one part in so many of the free space is used."""
_READY_S = 60.0
_OVERTIME_S = 60.0
_MOST_CLIENTS = 64
_MOST_SAMPLED = 1 << 20


@dataclass(frozen=True)
class LiveOptions:
    """How a trace is driven: clients, seconds at most, bytes in the store at most (`None`: an eighth of the free space).

    `drop_pages` drops files from this machine's page cache before they are read. `one_in` takes the requests of one in so many
    prefixes (`sampled`); `None`: as many as have all their blocks within the capacity.
    """

    clients: int = 2
    seconds: float = 30.0
    capacity_bytes: int | None = None
    drop_pages: bool = True
    one_in: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.clients <= _MOST_CLIENTS:
            raise WrongUsage(f"--clients takes 1 to {_MOST_CLIENTS}, not {self.clients}.")
        if not 0 < self.seconds < math.inf:
            raise WrongUsage("--seconds must be greater than 0.")
        if self.one_in is not None and self.one_in < 1:
            raise WrongUsage("--sample must be at least 1.")


@dataclass(frozen=True)
class LiveTarget:
    """The storage that is driven: endpoints with the backend to use, where it is in words, and facts about it."""

    endpoints: Endpoints
    store: Store
    where: str
    facts: Mapping[str, Any]
    free_bytes: int | None = None


@dataclass(frozen=True)
class LiveReplay:
    """What a live replay measured. Bytes, seconds, shares from 0 to 1; rates are over all clients and the wall time.

    `read_p95_ms` and `write_p95_ms` are those of one block, on the slowest client; `restore_p95_ms` that of a request's whole
    prefix, over all. `load_bytes_per_s` is over the time that clients spent in reads. `predicted_block_hit_rate` is what
    `replay` says of the same requests and capacity, one after another.
    """

    clients: int
    seconds: float
    requests: int
    tokens: int
    tokens_found: int
    block_hit_rate: float
    token_hit_rate: float
    predicted_block_hit_rate: float
    blocks_read: int
    blocks_written: int
    bytes_read: int
    bytes_written: int
    read_bytes_per_s: float
    load_bytes_per_s: float
    write_bytes_per_s: float
    read_p50_ms: float
    read_p95_ms: float
    write_p50_ms: float
    write_p95_ms: float
    restore_p50_ms: float
    restore_p95_ms: float
    tokens_per_s: float
    """Tokens of prompts that were read instead of computed."""
    not_stored: int
    evicted: int
    damaged: int
    failed: int
    fault: str
    processor_cores: float
    """Processor cores that the clients used together: near the machine's number, they were the limit and not the storage."""
    page_cache: str
    provenance: Mapping[str, Any]
    ledger: tuple[Mapping[str, Any], ...]
    """Rows of the clients' ledgers together."""
    entries: tuple[dict[str, Any], ...]
    """The same as entries of `Ledger.export`."""

    def as_dict(self) -> dict[str, Any]:
        """The figures under the CLI's JSON keys, with those that MLPerf Storage scores under its names for them."""
        scored = {
            "read_gb_per_s": round(self.read_bytes_per_s / 1e9, 4),
            "read_p95_ms": round(self.read_p95_ms, 3),
            "write_p95_ms": round(self.write_p95_ms, 3),
            "tokens_per_s": round(self.tokens_per_s, 1),
        }
        figures = {name: value for name, value in asdict(self).items() if name not in ("provenance", "ledger", "entries")}
        return {**figures, "mlperf": scored, "provenance": dict(self.provenance), "ledger": list(self.ledger)}


@contextmanager
def directory_target(folder: Path) -> Iterator[LiveTarget]:
    """A new directory in `folder`, which is deleted at the end. Raises `WrongUsage`, `HomeRefused`."""
    folder = folder.expanduser().absolute()
    if not folder.is_dir():
        raise WrongUsage(f"{folder} is not a directory.", hint="Name a directory on the file system to measure, or objects.")
    store = replace(KV_CACHE, name=f"{_PREFIX}{secrets.token_hex(6)}")
    root = folder / store.name
    try:
        root.mkdir(mode=0o700)
    except OSError as error:
        raise HomeRefused(
            f"Nothing can be written to {folder}: {error.strerror}.", hint="Name a directory of your own."
        ) from None
    try:
        yield LiveTarget(_only_files(folder), store, str(folder), mount_facts(folder), shutil.disk_usage(folder).free)
    finally:
        shutil.rmtree(root, ignore_errors=True)
        if root.exists():
            raise Unavailable(f"{root} could not be deleted.", hint="Delete it by hand.")


@contextmanager
def object_target(endpoints: Endpoints, facts: Mapping[str, Any]) -> Iterator[LiveTarget]:
    """A new prefix of the object tier's bucket, with an index of its own; both are deleted at the end."""
    store = replace(KV_OBJECTS, name=f"{_PREFIX}{secrets.token_hex(6)}")
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as scratch:
        index = MetadataEndpoint(file=Path(scratch) / "index.db")
        own = endpoints.model_copy(update={"kv_backend": "objects", "kv_memory_bytes": 0, "metadata": index})
        try:
            yield LiveTarget(own, store, f"s3://{endpoints.bucket}/{store.name} at {endpoints.s3_endpoint}", facts)
        finally:
            writer = ObjectWriter(store, own, Meter(Ledger(), "kv-replay"))
            writer.delete_many([info.key for info in writer.list()])


def drive(
    trace: Trace, model: str, storage: KvStorage, target: LiveTarget, options: LiveOptions, bars: ProgressBars | None = None
) -> LiveReplay:
    """Drive a trace. Raises `WrongUsage` for a capacity below two blocks, `Unavailable` if a client ends."""
    block_bytes = math.ceil(storage.bytes_per_token * trace.block_tokens)
    capacity = options.capacity_bytes
    if capacity is None:
        free = target.free_bytes
        capacity = _DEFAULT_BYTES if free is None else min(_DEFAULT_BYTES, free // _SHARE)
    elif target.free_bytes is not None and capacity > target.free_bytes:
        raise WrongUsage(
            f"{target.where} has {target.free_bytes:,} bytes free, less than the capacity.", hint="Give a smaller --capacity."
        )
    if capacity < 2 * block_bytes:
        raise WrongUsage(
            f"A block of {trace.block_tokens} tokens has {block_bytes:,} bytes: {capacity:,} bytes hold fewer than two.",
            hint="Give more --capacity, or a smaller --model.",
        )
    one_in = options.one_in or _fitting(trace, capacity // block_bytes)
    whole, trace = trace, sampled(trace, one_in)
    started = datetime.now(UTC)
    tasks = [
        ClientTask(
            endpoints=target.endpoints,
            store=target.store.name,
            tier=target.store.tier,
            block_bytes=block_bytes,
            block_tokens=trace.block_tokens,
            capacity_bytes=capacity,
            seconds=options.seconds,
            drop_pages=options.drop_pages,
            requests=tuple((one.blocks, one.input_tokens) for one in trace.requests[number :: options.clients]),
        )
        for number in range(options.clients)
    ]
    figures = _run(tasks, len(trace.requests), bars or ProgressBars(quiet=True))
    handled = [trace.requests[number :: options.clients][: one.requests] for number, one in enumerate(figures)]
    done = sorted((request for some in handled for request in some), key=lambda request: request.at_s)
    predicted = replay(replace(trace, requests=tuple(done)), storage, capacity_bytes=capacity).block_hit_rate if done else 0.0
    pages = _page_cache(target, options, figures)
    provenance = {
        "schema": SCHEMA,
        "version": __version__,
        "started": started.isoformat(timespec="seconds"),
        "host": host_facts(),
        "storage": {"tier": str(target.store.tier), "where": target.where, **target.facts},
        "trace": {
            "name": whole.name,
            "sha256": whole.sha256 or UNKNOWN,
            "requests": len(whole.requests),
            "sample_one_in": one_in,
            "sampled_requests": len(trace.requests),
            "sampled_distinct_blocks": trace.distinct_blocks,
        },
        "model": model,
        "block_tokens": trace.block_tokens,
        "block_bytes": block_bytes,
        "capacity_bytes": capacity,
        "clients": options.clients,
        "seconds_asked": options.seconds,
        "page_cache": pages,
        "sharing": "all clients read what any of them wrote",
    }
    return _summed(figures, predicted, pages, provenance)


def _fitting(trace: Trace, blocks: int) -> int:
    """The smallest power of two of which a sample has at most so many distinct blocks."""
    one_in = 1
    while one_in < _MOST_SAMPLED and sampled(trace, one_in).distinct_blocks > blocks:
        one_in *= 2
    return one_in


def _only_files(folder: Path) -> Endpoints:
    """Endpoints of a directory and of nothing else."""
    nobody = ModelEndpoint(url="", model="")
    return Endpoints(
        s3_endpoint="",
        s3_access_key="",
        s3_secret_key="",
        s3_region="",
        bucket="",
        catalog_uri="",
        warehouse="",
        kafka_bootstrap="",
        files_dir=folder,
        kv_cache_bytes=0,
        vectors_uri="",
        embedder=nobody,
        reranker=nobody,
        generator=nobody,
    )


def _run(tasks: Sequence[ClientTask], requests: int, bars: ProgressBars) -> list[ClientFigures]:
    clients: list[_ClientProcess] = []
    said: queue.Queue[tuple[int, dict[str, Any] | None]] = queue.Queue()
    try:
        clients = [_ClientProcess(task, number, said) for number, task in enumerate(tasks)]
        _await(clients, said, "ready", _READY_S)
        for client in clients:
            client.begin()
        # Requests that nobody had time for are not waited for: the bar ends where the time does.
        for _ in bars.track(_finished(clients, said, tasks[0].seconds + _OVERTIME_S), "replay", total=requests, of="requests"):
            pass
        return [ClientFigures.model_validate(client.figures) for client in clients]
    finally:
        for client in clients:
            client.close()


def _await(clients: Sequence[_ClientProcess], said: queue.Queue[tuple[int, dict[str, Any] | None]], what: str, s: float) -> None:
    for _ in clients:
        number, line = _next(said, s)
        if line is None or what not in line:
            raise clients[number].died()


def _finished(
    clients: Sequence[_ClientProcess], said: queue.Queue[tuple[int, dict[str, Any] | None]], seconds: float
) -> Iterator[None]:
    """An item for each request that a client finished, until all have said their figures."""
    left = len(clients)
    while left:
        number, line = _next(said, seconds)
        if line is None:
            if clients[number].figures:
                continue  # it ended after its figures, and others go on
            raise clients[number].died()
        if "figures" in line:
            clients[number].figures = line["figures"]
            left -= 1
        else:
            yield


def _next(said: queue.Queue[tuple[int, dict[str, Any] | None]], seconds: float) -> tuple[int, dict[str, Any] | None]:
    try:
        return said.get(timeout=seconds)
    except queue.Empty:
        raise Unavailable(
            f"A client of the replay has not answered for {seconds:.0f} s.", hint="Check that the storage answers."
        ) from None


class _ClientProcess:
    """A client, and a thread that passes its lines on; `None` once it ended."""

    def __init__(self, task: ClientTask, number: int, said: queue.Queue[tuple[int, dict[str, Any] | None]]) -> None:
        command, env = python("headrace.explain.kv.live_client")
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process does
        # Its own session: only this process gets a Ctrl-C, and ends it.
        self._process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True
        )
        self.figures: dict[str, Any] = {}
        self._number, self._said = number, said
        self._write(task.model_dump_json())
        threading.Thread(target=self._read, name="replay", daemon=True).start()

    def begin(self) -> None:
        """Let it start with its requests."""
        self._write("")

    def died(self) -> HeadraceError:
        """The error for an unexpected end."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return Unavailable(
            f"A client of the replay ended: {lines[-1] if lines else 'without output'}.", hint="Run the replay again."
        )

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._errors):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self.died() from None

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._said.put((self._number, json.loads(line)))
        self._said.put((self._number, None))


def _page_cache(target: LiveTarget, options: LiveOptions, figures: Sequence[ClientFigures]) -> str:
    if BACKENDS[target.endpoints.kv_backend]().store.tier != KV_CACHE.tier:
        return "not used: blocks come over HTTP; the server's own cache still answers"
    if not options.drop_pages:
        return "kept: reads may come from this machine's memory"
    cached, dropped = sum(one.pages_cached for one in figures), sum(one.pages_dropped for one in figures)
    if cached:
        return f"could not be dropped: {cached} of the first {cached + dropped} files were still in this machine's memory"
    if dropped:
        return f"dropped before each read; of the first {dropped} looked at, none was left; a server's own cache still answers"
    return "asked to be dropped before each read (posix_fadvise); whether it was, this file system does not say"


def _summed(figures: Sequence[ClientFigures], predicted: float, pages: str, provenance: Mapping[str, Any]) -> LiveReplay:
    seconds = max((one.seconds for one in figures), default=0.0) or 1e-9
    reads = [took for one in figures for took in one.reads_s]
    writes = [took for one in figures for took in one.writes_s]
    restores = [took for one in figures for took in one.restores_s]
    ledger = Ledger()
    for one in figures:
        ledger.fold(one.ledger)

    def total(name: str) -> int:
        return sum(getattr(one, name) for one in figures)

    def slowest(name: str) -> float:
        return max((percentile(getattr(one, name), 0.95) for one in figures if getattr(one, name)), default=0.0) * 1e3

    def middle(values: Sequence[float]) -> float:
        return percentile(values, 0.5) * 1e3 if values else 0.0

    return LiveReplay(
        clients=len(figures),
        seconds=seconds,
        requests=total("requests"),
        tokens=total("tokens"),
        tokens_found=total("tokens_found"),
        block_hit_rate=total("blocks_found") / max(1, total("blocks")),
        token_hit_rate=total("tokens_found") / max(1, total("tokens")),
        predicted_block_hit_rate=predicted,
        blocks_read=len(reads),
        blocks_written=len(writes),
        bytes_read=total("bytes_read"),
        bytes_written=total("bytes_written"),
        read_bytes_per_s=total("bytes_read") / seconds,
        load_bytes_per_s=sum(one.bytes_read / sum(one.reads_s) for one in figures if one.reads_s),
        write_bytes_per_s=total("bytes_written") / seconds,
        read_p50_ms=middle(reads),
        read_p95_ms=slowest("reads_s"),
        write_p50_ms=middle(writes),
        write_p95_ms=slowest("writes_s"),
        restore_p50_ms=middle(restores),
        restore_p95_ms=percentile(restores, 0.95) * 1e3 if restores else 0.0,
        tokens_per_s=total("tokens_found") / seconds,
        not_stored=total("not_stored"),
        evicted=total("evicted"),
        damaged=total("damaged"),
        failed=total("failed"),
        fault=next((one.fault for one in figures if one.fault), ""),
        processor_cores=sum(one.processor_s for one in figures) / seconds,
        page_cache=pages,
        provenance=provenance,
        ledger=tuple(row.as_dict() for row in ledger.rows()),
        entries=tuple(ledger.export()),
    )
