"""The ledger of a run: operations, bytes and latency per (stage, store, direction, tenant).

Latencies are kept in a histogram with fixed log-spaced buckets, so a ledger does not grow with the length of a run, and two
ledgers can be added. A percentile is the upper edge of its bucket, at most 10 % above the true value.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from headrace.catalog import Store
from headrace.storage.timeline import Timeline


class Direction(StrEnum):
    """Direction of the bytes, as seen by the stage."""

    READ = "read"
    WRITE = "write"


@dataclass(frozen=True)
class Row:
    """One line of the ledger. `estimated` rows come from stores whose library hides its I/O."""

    stage: str
    store: str
    tier: str
    direction: str
    tenant: str
    ops: int
    bytes: int
    p50_ms: float
    p95_ms: float
    max_ms: float
    estimated: bool

    def as_dict(self) -> dict[str, Any]:
        """The row, JSON-ready."""
        return asdict(self)


_STEP = math.log(1.1)
_FLOOR_S = 1e-6


def _bucket(seconds: float) -> int:
    return max(0, math.ceil(math.log(max(seconds, _FLOOR_S) / _FLOOR_S) / _STEP))


def _upper_ms(bucket: int) -> float:
    return _FLOOR_S * math.exp(bucket * _STEP) * 1e3


@dataclass
class _Tally:
    ops: int = 0
    bytes: int = 0
    seconds: float = 0.0  # of all operations
    max_s: float = 0.0
    latency: Counter[int] = field(default_factory=Counter)

    def add(self, entry: Mapping[str, Any]) -> None:
        """Add an entry of `Ledger.export`."""
        self.ops += int(entry["ops"])
        self.bytes += int(entry["bytes"])
        self.seconds += float(entry.get("seconds", 0.0))  # not in what an older version exported
        self.max_s = max(self.max_s, float(entry["max_s"]))
        for bucket, count in entry["latency"].items():
            self.latency[int(bucket)] += count

    def figures(self) -> dict[str, Any]:
        """The figures of a row."""
        return {
            "ops": self.ops,
            "bytes": self.bytes,
            "p50_ms": self.percentile_ms(0.50),
            "p95_ms": self.percentile_ms(0.95),
            "max_ms": round(self.max_s * 1e3, 3),
        }

    def counted(self) -> dict[str, Any]:
        """The counts of an entry of `Ledger.export`."""
        return {
            "ops": self.ops,
            "bytes": self.bytes,
            "seconds": self.seconds,
            "max_s": self.max_s,
            "latency": {str(bucket): count for bucket, count in self.latency.items()},
        }

    def percentile_ms(self, share: float) -> float:
        wanted, seen = share * self.latency.total(), 0
        for bucket in sorted(self.latency):
            seen += self.latency[bucket]
            if seen >= wanted:
                return round(min(_upper_ms(bucket), self.max_s * 1e3), 3)
        return 0.0


_Key = tuple[str, str, str, str, str, bool]
_NAMES = ("stage", "store", "tier", "direction", "tenant")
_KEY = (*_NAMES, "estimated")


# A second ledger for the current context, e.g. for one answer among many at once.
_watch: ContextVar[Ledger | None] = ContextVar("watch", default=None)


class Ledger:
    """Counts operations and bytes; thread-safe. `timeline` has the time of the stages.

    `export` and `fold` carry a ledger between processes: the embedded model server counts each request's storage operations,
    and the caller folds them into its own ledger under its stage.
    """

    def __init__(self) -> None:
        self.timeline = Timeline()
        self._tallies: dict[_Key, tuple[_Tally, _Tally]] = {}  # a tenant's own, and that of all of them, which is in:
        self._together: dict[_Key, _Tally] = {}  # a page asks for these each second, however many tenants there are
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """A ledger is unpickled empty; `export` in the other process and `fold` here bring its counts back."""
        return Ledger, ()

    def count(
        self,
        stage: str,
        store: Store,
        direction: Direction,
        *,
        bytes: int,
        seconds: float,
        ops: int = 1,
        tenant: str = "",
        estimated: bool = False,
    ) -> None:
        """Add `ops` operations that together moved `bytes` bytes and took `seconds` seconds each."""
        watch = _watch.get()
        if watch is not None and watch is not self:
            watch.count(stage, store, direction, bytes=bytes, seconds=seconds, ops=ops, tenant=tenant, estimated=estimated)
        key = (stage, store.name, str(store.tier), str(direction), tenant, estimated)
        bucket = _bucket(seconds)
        with self._lock:
            for tally in self._of(key):
                tally.ops += ops
                tally.bytes += bytes
                tally.seconds += seconds
                tally.max_s = max(tally.max_s, seconds)
                tally.latency[bucket] += ops
        self.timeline.counted(stage, str(store.tier), seconds)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Also count in this ledger whatever the block counts in another."""
        token = _watch.set(self)
        try:
            yield
        finally:
            _watch.reset(token)

    def _of(self, key: _Key) -> tuple[_Tally, _Tally]:
        """What a count is added to."""
        if (known := self._tallies.get(key)) is None:
            stage, store, tier, direction, _, estimated = key
            together = self._together.setdefault((stage, store, tier, direction, "", estimated), _Tally())
            known = self._tallies[key] = _Tally(), together
        return known

    def rows(self, *, by_tenant: bool = True) -> list[Row]:
        """All rows, in the order in which they were first counted; not `by_tenant`, of all tenants together (`tenant` is "")."""
        return list(self.each_row(by_tenant=by_tenant))

    def each_row(self, *, by_tenant: bool = True) -> Iterator[Row]:
        """The same, one at a time."""
        for (stage, store, tier, direction, tenant, estimated), figures in self._each(_Tally.figures, by_tenant):
            yield Row(stage=stage, store=store, tier=tier, direction=direction, tenant=tenant, estimated=estimated, **figures)

    def bytes_by_tenant(self) -> dict[tuple[str, str, str], int]:
        """(tier, direction, tenant) → bytes."""
        found: Counter[tuple[str, str, str]] = Counter()
        with self._lock:
            for (_, _, tier, direction, tenant, _), (tally, _) in self._tallies.items():
                found[tier, direction, tenant] += tally.bytes
        return found

    def export(self, *, by_tenant: bool = True) -> list[dict[str, Any]]:
        """The ledger as JSON-ready entries for `fold`, with histograms; as `rows`."""
        return list(self.each_entry(by_tenant=by_tenant))

    def each_entry(self, *, by_tenant: bool = True) -> Iterator[dict[str, Any]]:
        """The same, one at a time."""
        for key, counted in self._each(_Tally.counted, by_tenant):
            yield {**dict(zip(_KEY, key, strict=True)), **counted}

    def _each(self, read: Callable[[_Tally], dict[str, Any]], by_tenant: bool) -> Iterator[tuple[_Key, dict[str, Any]]]:
        """Each key with what `read` finds in its tally; what is counted meanwhile does not wait for a thousand others."""
        with self._lock:
            tallies = [(key, own) for key, (own, _) in self._tallies.items()] if by_tenant else list(self._together.items())
        for key, tally in tallies:
            with self._lock:
                found = read(tally)
            yield key, found

    def fold(self, entries: Iterable[dict[str, Any]], *, stage: str | None = None, tenant: str | None = None) -> None:
        """Add exported entries; `stage` and `tenant`, if given, replace theirs.

        In the timeline, the operations of an entry are one that ends now, since entries do not say when each was.
        """
        entries = list(entries)
        watch = _watch.get()
        if watch is not None and watch is not self:
            watch.fold(entries, stage=stage, tenant=tenant)
        for entry in entries:
            key = (
                entry["stage"] if stage is None else stage,
                entry["store"],
                entry["tier"],
                entry["direction"],
                entry["tenant"] if tenant is None else tenant,
                bool(entry["estimated"]),
            )
            with self._lock:
                for tally in self._of(key):
                    tally.add(entry)
            self.timeline.counted(key[0], key[2], float(entry.get("seconds", 0.0)))


def summed(entries: Iterable[Mapping[str, Any]], by: Collection[str]) -> list[dict[str, Any]]:
    """Sum entries of `Ledger.export` by some of stage, store, tier and tenant, and always by direction.

    The keys are those of a row; those not in `by` are empty. Percentiles are over all operations of a sum, and a sum is
    `estimated` if any part of it is.
    """
    tallies: dict[tuple[str, ...], _Tally] = {}
    estimated: set[tuple[str, ...]] = set()
    for entry in entries:
        key = tuple(str(entry[name]) if name in by or name == "direction" else "" for name in _NAMES)
        tallies.setdefault(key, _Tally()).add(entry)
        if entry["estimated"]:
            estimated.add(key)
    return [
        {**dict(zip(_NAMES, key, strict=True)), **tally.figures(), "estimated": key in estimated}
        for key, tally in tallies.items()
    ]
