"""The KV cache of one model server: opens each prompt's cache, stores behind the answers, and follows revocations.

A thread looks every `LOOK_S` seconds for revocations and for representations that were closed. If it has not been able to for
`BLIND_S` seconds, the cache is left alone: it might serve what was revoked.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from headrace.catalog import KV_CACHE
from headrace.errors import HeadraceError, Unavailable
from headrace.models.kv.backends import backend_of
from headrace.models.kv.blocks import BlockBackend, BlockStore
from headrace.models.kv.cache import KvCache
from headrace.models.kv.canary import PrefixCanary
from headrace.models.kv.closing import ClosedRepresentations
from headrace.models.kv.economy import BreakEven
from headrace.models.kv.format import Array, Shape
from headrace.models.kv.index import EVERY, BlockIndex
from headrace.models.kv.prompt_memory import PromptMemory
from headrace.models.kv.revocation import LOOK_S, Revocations, delete_all
from headrace.models.kv.use import DAMAGED, DECISION, FIGURES, KvCounts, UseCounter
from headrace.models.kv.writes import WriteBehind
from headrace.storage.endpoints import Endpoints, MetadataEndpoint
from headrace.storage.ledger import Ledger
from headrace.storage.metadata import Metadata
from headrace.storage.meter import Meter

BLIND_S = 10.0
"""Seconds without a look for revocations after which the cache is not used."""
_FIRST_LOOK_S = 3.0
_AGAIN_S = 5.0  # after a revocation has ended: what was being read then is in memory by now
_FLUSH_S = 5.0
_SOON_S = 0.1
_EXPIRE_S = 60.0
_END_S = 2.0  # for a look that is under way
_EXPIRED = 256
_SAID = 100
_RUNS = 1_000
_NOTED = 10_000

log = logging.getLogger("headrace.models")


def escaped(text: str) -> str:
    """A label's value in Prometheus' text format."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


@dataclass
class _Followed:
    """A revocation whose blocks may be in this server's memory."""

    revocation: str
    tenant: str
    document: str
    ended_at: float | None = None


class CachedModel(Protocol):
    """What the cache needs to know of a model."""

    @property
    def version(self) -> str:
        """Its name for people."""

    @property
    def identity(self) -> str:
        """What its keys and values depend on besides the tokens."""

    @property
    def shape(self) -> Shape:
        """The shape of its keys and values."""

    def recomputed(self, tokens: Sequence[int]) -> Iterator[Array]:
        """Keys and values of the full blocks of a prefix, computed anew."""


@dataclass
class _Behind:
    """See `cache.Behind`."""

    service: KvService
    cache: KvCache
    model: CachedModel
    metadata: Metadata | None
    share: float
    count: UseCounter
    moved: Ledger
    tenant: str
    run: str

    @property
    def writes(self) -> WriteBehind:
        """The queue."""
        return self.service.writes

    def store(self, tokens: Sequence[int], values: Array, *, restored: int) -> None:
        """Store blocks and keep what that moved until the run asks for it."""
        try:
            self.cache.store(tokens, values, restored=restored)
        finally:
            self.service.unreported.add(self.run, self.tenant, self.moved)

    def check(self, tokens: Sequence[int], restored: Sequence[Array]) -> None:
        """Have a share of restored prefixes recomputed."""
        model = self.model

        def differs(what: str) -> None:
            log.error("the KV cache of %s is closed: %s; `headrace kv reopen %s` opens it", model.version, what, model.version)
            self.service.closed.close(model.identity, model.version, what, self.metadata)

        self.service.canary.check(self.share, restored, lambda: model.recomputed(tokens), self.count, differs)

    def notes(self, last: str, documents: frozenset[str] | None) -> bool:
        """Whether these documents were not noted with that block lately."""
        return bool(documents) and self.service.noted.is_new((last, documents))


class _Lately:
    """What was seen lately."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: OrderedDict[object, None] = OrderedDict()

    def is_new(self, one: object) -> bool:
        if one in self._seen:
            return False
        self._seen[one] = None
        while len(self._seen) > self._most:
            self._seen.popitem(last=False)
        return True


class UnreportedWrites:
    """What was moved after its answer, by run and tenant, until that run asks for it; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._moved: OrderedDict[tuple[str, str], Ledger] = OrderedDict()

    def add(self, run: str, tenant: str, moved: Ledger) -> None:
        """Keep what was moved."""
        with self._lock:
            self._moved.setdefault((run, tenant), Ledger()).fold(moved.export())
            while len(self._moved) > _RUNS:  # of runs that have died
                self._moved.popitem(last=False)

    def take(self, run: str, tenant: str | None = None) -> list[dict[str, Any]]:
        """The entries of a run (and a tenant) for `Ledger.fold`; each is returned once."""
        with self._lock:
            mine = [key for key in self._moved if key[0] == run and tenant in (None, key[1])]
            return [entry for key in mine for entry in self._moved.pop(key).export()]


class KvService:
    """See the module.

    `endpoints` raises `Unavailable` while there are none; `secret` is what blocks are named and authenticated with; `submit` runs
    work in the background on the thread that computes.
    """

    def __init__(self, endpoints: Callable[[], Endpoints], secret: bytes, submit: Callable[[Callable[[], None]], object]) -> None:
        self.canary = PrefixCanary(submit)
        self._endpoints = endpoints
        self._secret = secret
        self.use = KvCounts()
        self.memory = PromptMemory()
        self.writes = WriteBehind()
        self.unreported = UnreportedWrites()
        self.noted = _Lately(_NOTED)
        self.closed = ClosedRepresentations()
        self._backends: dict[tuple[str, int], BlockBackend] = {}
        self._economies: dict[tuple[str, str], BreakEven] = {}
        self._lock = threading.Lock()
        self._looked = threading.Event()
        self._stopping = threading.Event()
        self._looked_at = self._first_look_by = -math.inf
        self._metadata: tuple[MetadataEndpoint, Metadata] | None = None
        self._following: list[_Followed] = []
        self._position: int | None = None
        self._flushed_at = self._expired_at = -math.inf
        self._last: dict[str, str] = {}  # tenant → the model version that it asked last
        self._thread: threading.Thread | None = None
        self._said: set[str] = set()

    def start(self) -> None:
        """Start looking for revocations."""
        with self._lock:
            if self._thread is None:
                self._first_look_by = time.monotonic() + _FIRST_LOOK_S
                self._thread = threading.Thread(target=self._look_on, name="kv revocations", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Begin to stop. Takes no lock, so that a signal handler may call it."""
        self._stopping.set()

    def close(self, seconds: float) -> None:
        """Store what waits, for at most so many seconds, and write the figures down."""
        self.stop()
        self.writes.close(seconds)
        self._flush()
        if self._thread is not None:
            self._thread.join(_END_S)
        if self._metadata is not None:  # the process ends at once: the last one to leave SQLite's log would not be in its file
            self._metadata[1].close()

    def prompt(
        self,
        model: CachedModel,
        ledger: Ledger,
        *,
        tenant: str,
        readers_id: str = "",
        share_bytes: int | None = None,
        documents: Collection[str] | None = None,
        run: str = "",
    ) -> KvCache | None:
        """The cache for one prompt, or `None` where it is not used.

        `ledger` counts what it reads, and what earlier prompts of this run and tenant have stored since the run last asked.
        `documents` and `readers_id` are as in `KvCache`.
        """
        count = self.use.of(tenant, model.version)
        try:
            endpoints = self._endpoints()
        except Unavailable as error:
            self._say(f"prompts are not cached: {error}")
            return None
        metadata = self._metadata_of(endpoints)
        if metadata is None:
            self._say("the KV cache has no metadata store: blocks are not revoked by document, only with all of their tenant")
        elif not self._sees():
            count.decided("load", False, "revocations unknown")
            return None
        identity = self.closed.identity_of(model.identity)
        if identity is None:
            count.decided("load", False, "closed")
            return None
        ledger.fold(self.unreported.take(run, tenant))
        self._last[tenant] = model.version
        known = None if documents is None else frozenset(documents)

        def opened(counted: Ledger, behind: _Behind | None = None) -> KvCache:
            return KvCache(
                self._store(endpoints, counted, tenant),
                identity=identity,
                tenant=tenant,
                shape=model.shape,
                secret=self._secret,
                limit_bytes=endpoints.kv_cache_bytes,
                share_bytes=share_bytes,
                readers_id=readers_id,
                documents=known,
                index=None if metadata is None else BlockIndex(metadata),
                economy=self._economy(endpoints, model.identity),
                count=count,
                behind=behind,
            )

        later = Ledger()
        share = endpoints.kv_cache_canary
        return opened(ledger, _Behind(self, opened(later), model, metadata, share, count, later, tenant, run))

    def account(self, tenant: str, model: str, entries: Iterable[Mapping[str, Any]]) -> None:
        """Count the bytes of the cache by tier, from entries of `Ledger.export` that are about to be reported."""
        for entry in entries:
            if entry["store"] == KV_CACHE.name and entry["bytes"]:
                self.use.add(tenant, model, {f"bytes:{entry['tier']}:{entry['direction']}": entry["bytes"]})

    def settle(self, run: str, seconds: float) -> list[dict[str, Any]]:
        """Wait until a run's blocks are stored, for at most so many seconds; returns what that moved, for `Ledger.fold`."""
        self.writes.wait(seconds, run)
        entries = self.unreported.take(run)
        for entry in entries:
            self.account(entry["tenant"], self._last.get(entry["tenant"], ""), [entry])
        self._flush()
        return entries

    def economies(self) -> dict[tuple[str, str], dict[str, float]]:
        """(backend, identity of the representation) → what was measured."""
        with self._lock:
            return {key: one.figures() for key, one in self._economies.items()}

    def metrics_text(self) -> str:
        """The figures of this process in Prometheus' text format."""
        lines: dict[str, list[str]] = {}

        def sample(name: str, kind: str, help: str, value: float, **labels: str) -> None:
            known = lines.setdefault(name, [f"# HELP {name} {help}", f"# TYPE {name} {kind}"])
            shown = ",".join(f'{label}="{escaped(text)}"' for label, text in labels.items())
            known.append(f"{name}{{{shown}}} {value:.12g}" if shown else f"{name} {value:.12g}")

        for model, figures in sorted(self.use.by_model().items()):
            for figure, value in sorted(figures.items()):
                kind, *rest = figure.split(":")
                if kind == DECISION:
                    action, yes, reason = rest
                    sample(
                        "headrace_models_kv_decisions_total",
                        "counter",
                        "Decisions of the KV cache to load or store, with their reason.",
                        value,
                        **{"model": model, "action": action, "done": yes, "reason": reason},
                    )
                elif kind == DAMAGED:
                    name, help = "headrace_models_kv_damaged_total", "KV blocks that were not used and were removed."
                    sample(name, "counter", help, value, model=model, reason=rest[0])
                elif kind == "bytes":
                    name, help = "headrace_models_kv_bytes_total", "Bytes of KV blocks that were moved, by tier."
                    sample(name, "counter", help, value, model=model, tier=rest[0], direction=rest[1])
                else:
                    sample(f"headrace_models_kv_{kind}_total", "counter", f"{FIGURES.get(kind, kind)}.", value, model=model)
        sample("headrace_models_kv_waiting_writes", "gauge", "Prompts whose KV waits to be stored.", self.writes.waiting())
        help = "Memory that is kept for the keys and values of the next prompts."
        sample("headrace_models_kv_unused_memory_bytes", "gauge", help, self.memory.unused_bytes)
        for one in self.closed.now():
            help = "KV caches that are closed, since a restored prefix differed from its recomputation."
            sample("headrace_models_kv_closed", "gauge", help, 1, model=one.model)
        return "".join(f"{line}\n" for some in lines.values() for line in some)

    def _economy(self, endpoints: Endpoints, identity: str) -> BreakEven:
        with self._lock:
            return self._economies.setdefault((endpoints.kv_backend, identity), BreakEven(endpoints.kv_cache_policy))

    def _store(self, endpoints: Endpoints, ledger: Ledger, tenant: str = "") -> BlockStore:
        with self._lock:
            chosen = endpoints.kv_backend, endpoints.kv_memory_bytes
            if chosen not in self._backends:
                self._backends[chosen] = backend_of(endpoints)
            backend = self._backends[chosen]
        return backend.open(backend.store, endpoints, Meter(ledger, "models", tenant), wait=False)

    def _metadata_of(self, endpoints: Endpoints) -> Metadata | None:
        if endpoints.metadata is None:
            return None
        with self._lock:
            if self._metadata is None or self._metadata[0] != endpoints.metadata:
                self._metadata = endpoints.metadata, Metadata(endpoints)
                self._looked_at, self._position = -math.inf, None
            return self._metadata[1]

    def _sees(self) -> bool:
        """Whether the last look for revocations was lately; waits for the first."""
        self.start()
        self._looked.wait(max(0.0, self._first_look_by - time.monotonic()))
        return time.monotonic() - self._looked_at < BLIND_S

    def _look_on(self) -> None:
        while not self._stopping.wait(LOOK_S if self._looked.is_set() else _SOON_S):
            try:
                endpoints = self._endpoints()
                metadata = self._metadata_of(endpoints)
                if metadata is not None:
                    self._look(endpoints, metadata)
                    if time.monotonic() - self._flushed_at > _FLUSH_S:
                        self._flush()
            except Unavailable as error:
                log.debug("revocations of KV blocks cannot be looked for: %s", error)
            except Exception as error:  # a thread that ends would leave the cache unused
                self._say(f"revocations of KV blocks cannot be looked for: {error}")

    def _look(self, endpoints: Endpoints, metadata: Metadata) -> None:
        revocations = Revocations(metadata)
        if self._position is None:
            # Nothing is in memory yet; what has not ended is ended below.
            self._position = revocations.position()
        for position, revocation, tenant, document in revocations.since(self._position):
            self.writes.revoke(tenant, document, EVERY)
            self._following.append(_Followed(revocation, tenant, document))
            self._position = position
        self.closed.follow(metadata)
        self._looked_at = time.monotonic()
        self._looked.set()
        store = self._store(endpoints, Ledger())
        self._following = [one for one in self._following if not self._purged(one, revocations, store)]
        revocations.end(store)
        index = BlockIndex(metadata)
        if abandoned := index.stamps(revocations.unwritten()):
            for block in abandoned:
                store.delete(block)
            index.dropped(abandoned)
        if endpoints.kv_cache_ttl_s is not None and time.monotonic() - self._expired_at > _EXPIRE_S:
            self._expire(store, endpoints.kv_cache_ttl_s, metadata)

    def _expire(self, store: BlockStore, seconds: float, metadata: Metadata) -> None:
        """Remove some of the blocks that were not used for so long."""
        index = BlockIndex(metadata)
        old = [block for block in store.oldest(_EXPIRED) if block.used < time.time() - seconds]
        noted = index.stamps([block.name for block in old])
        gone = {block.name for block in old if store.evict(block)}
        index.dropped({name: notes for name, notes in noted.items() if name in gone})
        if len(gone) < _EXPIRED:
            self._expired_at = time.monotonic()

    def _purged(self, one: _Followed, revocations: Revocations, store: BlockStore) -> bool:
        """Remove a revocation's blocks from this server's memory, too: until a while after it has ended; true once that is so."""
        blocks, ended = revocations.blocks_of(one.revocation)
        if one.ended_at is not None and time.monotonic() - one.ended_at < _AGAIN_S:
            return False
        if one.document == EVERY:
            store.drop(one.tenant, lambda _: None)
        delete_all(store, blocks)
        if ended and one.ended_at is None:
            one.ended_at = time.monotonic()
            return False
        return ended

    def _flush(self) -> None:
        if self._metadata is None:
            return
        self._flushed_at = time.monotonic()
        try:
            self.use.flush(self._metadata[1])
        except HeadraceError as error:
            self._say(f"figures of the KV cache are not recorded: {error}")

    def _say(self, message: str) -> None:
        if message not in self._said and len(self._said) < _SAID:
            self._said.add(message)
            log.warning("%s", message)
