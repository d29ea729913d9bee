"""What a production engine says of its KV cache in its Prometheus metrics: bytes and seconds by tier, as rows of the ledger.

The names are those of the projects' own sources:

- vLLM's tiered offloading (vllm/v1/kv_offload/tiering): `vllm:kv_offload_tiering_*_total`, labelled with `tier`, such as `1:fs`.
  Before 0.28 its chunks were called blocks.
- llm-d's file system connector: `vllm:kv_offload_total_{bytes,time}_total`, labelled with `transfer_type`; beside another
  connector `vllm:kv_offload_total_{bytes,time}_sharedstorage_total` (its metrics.py).
- LMCache's multiprocess mode (docs/source/mp/observability/metrics.rst): `lmcache_mp_*`. It counts requests and chunks of its
  second level, and no bytes: those are chunks times the bytes of one, where these are given, and marked as estimated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from headrace.catalog import KV_CACHE, KV_STORES, Tier
from headrace.errors import Unavailable, WrongUsage
from headrace.storage.ledger import Direction, Ledger

_MOST_BYTES = 64 << 20
_ANSWER_S = 10.0
_VLLM = "vllm:kv_offload_tiering_"
_LLM_D = "vllm:kv_offload_total_"
_LLM_D_SUFFIXES = ("", "_sharedstorage")
_LMCACHE = "lmcache_mp_"
_FILES = ("fs", "fs_native", "nixl_store", "nixl_store_dynamic", "raw_block", "dax", "hf3fs", "posix", "gds", "gds_mt")
_OBJECTS = ("obj", "s3", "hfbucket", "sagemaker-hyperpod")


@dataclass(frozen=True)
class EngineTier:
    """One tier of one engine's KV cache: totals since the engine started, or since an earlier look.

    `tier` is `None` for memory and for peers, which are no storage. Lookups and hits are in `unit`: chunks or tokens. Seconds
    are those of all transfers together. What an engine does not say is `None`.
    """

    source: str
    engine: str
    model: str
    name: str
    tier: Tier | None
    read_bytes: int | None = None
    read_s: float | None = None
    write_bytes: int | None = None
    write_s: float | None = None
    read_ops: int | None = None
    write_ops: int | None = None
    lookups: int | None = None
    hits: int | None = None
    unit: str = "chunks"
    held_bytes: int | None = None
    failures: int = 0
    estimated: bool = False

    @property
    def hit_rate(self) -> float | None:
        """Hits as a share of lookups, 0 to 1."""
        return self.hits / self.lookups if self.hits is not None and self.lookups else None

    def rows(self) -> list[dict[str, Any]]:
        """Two rows with the keys of the ledger's, and `source`, `engine_tier`, `seconds`. Percentiles are not in its metrics."""
        if self.tier is None:
            return []
        moved = (
            (Direction.READ, self.read_bytes, self.read_s, self.read_ops),
            (Direction.WRITE, self.write_bytes, self.write_s, self.write_ops),
        )
        return [
            {
                "stage": self.engine,
                "store": KV_CACHE.name,
                "tier": str(self.tier),
                "direction": str(direction),
                "tenant": "",
                "ops": ops,
                "bytes": size,
                "p50_ms": None,
                "p95_ms": None,
                "max_ms": None,
                "estimated": self.estimated,
                "seconds": seconds,
                "source": self.source,
                "model": self.model,
                "engine_tier": self.name,
            }
            for direction, size, seconds, ops in moved
        ]

    def as_dict(self) -> dict[str, Any]:
        """The totals under the CLI's JSON keys."""
        return {**asdict(self), "hit_rate": self.hit_rate}


@dataclass(frozen=True)
class _Sample:
    name: str
    labels: Mapping[str, str]
    value: float


def metrics_url(address: str) -> str:
    """The address of an engine's metrics; the path is /metrics unless it names another. Raises `WrongUsage`."""
    try:
        parts = urlsplit(address if "//" in address else f"http://{address}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError
        parts.port  # noqa: B018 - raises for what is no port
    except ValueError:
        raise WrongUsage(
            f"{address!r} is not the address of an engine.", hint="For example http://127.0.0.1:8000, or with /metrics."
        ) from None
    return (parts if parts.path.strip("/") else parts._replace(path="/metrics")).geturl()


def fetch_metrics(url: str) -> str:
    """The text at `url`. Raises `Unavailable` if there is no answer, an error, or more than any engine says."""
    from headrace.lean_httpx import httpx

    data = bytearray()
    try:
        with httpx.stream("GET", url, timeout=_ANSWER_S, headers={"accept": "text/plain"}) as answer:
            if answer.status_code != 200:
                raise Unavailable(
                    f"{url} answers with status {answer.status_code}.",
                    hint="vLLM serves /metrics at its own port, `lmcache server` at --http-port (8080).",
                )
            for piece in answer.iter_bytes():
                data += piece
                if len(data) > _MOST_BYTES:
                    raise Unavailable(f"{url} answers with more than {_MOST_BYTES >> 20} MiB.", hint="Is it an engine's metrics?")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(f"{url} does not answer: {error}.", hint="Check host, port and that the engine runs.") from None
    return data.decode(errors="replace")


def engine_tiers(text: str, source: str, *, chunk_bytes: float | None = None) -> list[EngineTier]:
    """The tiers that metrics in the Prometheus text format tell of, none if they are of something else.

    `chunk_bytes` are those of a chunk of LMCache. Raises `Unavailable` if the text is not in that format.
    """
    from prometheus_client.parser import text_string_to_metric_families

    names = (_VLLM, _LLM_D, _LMCACHE)
    try:
        samples = [
            _Sample(one.name, one.labels, float(one.value))
            for family in text_string_to_metric_families(text)
            for one in family.samples
            if one.name.startswith(names)
        ]
    except (ValueError, KeyError, IndexError, TypeError):
        raise Unavailable(f"{source} does not answer in the Prometheus text format.", hint="Name an engine's /metrics.") from None
    return [*_of_vllm(samples, source), *_of_llm_d(samples, source), *_of_lmcache(samples, source, chunk_bytes)]


def advice(tiers: Iterable[EngineTier]) -> list[str]:
    """What these totals say is wrong, as sentences."""
    found = []
    for one in tiers:
        where = f"{one.engine} at {one.source}, tier {one.name}"
        if one.failures:
            found.append(
                f"{where}: {one.failures:,} restores failed, for want of memory to stage them or because blocks were gone: give"
                " more staging memory (`headrace kv config` says how much a prompt needs)."
            )
        if one.tier is not None and one.write_bytes and not one.read_bytes and one.lookups:
            found.append(f"{where}: written to and never read: it costs bandwidth and saves nothing.")
    return found


def since(before: Sequence[EngineTier], now: Sequence[EngineTier]) -> list[EngineTier]:
    """What was counted between two looks. A total that fell is of an engine that was started again: all of it is new."""
    known = {(one.source, one.engine, one.model, one.name): one for one in before}
    found = []
    for one in now:
        was = known.get((one.source, one.engine, one.model, one.name))
        if was is not None:
            fields = ("read_bytes", "read_s", "write_bytes", "write_s", "read_ops", "write_ops", "lookups", "hits", "failures")
            restarted = any((getattr(one, name) or 0) < (getattr(was, name) or 0) for name in fields)
            if not restarted:
                change: dict[str, Any] = {
                    name: None if getattr(one, name) is None else getattr(one, name) - (getattr(was, name) or 0)
                    for name in fields
                }
                one = replace(one, **change)
        found.append(one)
    return found


def count_into(ledger: Ledger, tiers: Iterable[EngineTier]) -> None:
    """Count totals in a ledger, as estimated: all operations of a row have its mean duration."""
    for one in tiers:
        store = next((store for store in KV_STORES if store.tier == one.tier), None)
        if store is None:
            continue
        for direction, size, seconds, ops in (
            (Direction.READ, one.read_bytes, one.read_s, one.read_ops),
            (Direction.WRITE, one.write_bytes, one.write_s, one.write_ops),
        ):
            if size or ops:
                count = ops or 1
                ledger.count(
                    one.engine, store, direction, bytes=size or 0, seconds=(seconds or 0.0) / count, ops=count, estimated=True
                )


def _of_vllm(samples: Sequence[_Sample], source: str) -> Iterator[EngineTier]:
    mine = [one for one in samples if one.name.startswith(_VLLM)]
    allocation = _sum(mine, lambda one: one.name == f"{_VLLM}promotion_allocation_failures_total") or 0
    for (model, tier), some in _groups(mine, "model_name", "tier"):
        if not tier:
            continue

        def total(*names: str, some: Sequence[_Sample] = some) -> float | None:
            return _sum(some, lambda one: one.name in {f"{_VLLM}{name}_total" for name in names})

        kind = tier.partition(":")[2] or tier
        hits = _whole(total("chunk_hits", "block_hits"))
        staged = _tier_of(kind) is not None
        yield EngineTier(
            source,
            "vllm",
            model,
            tier,
            _tier_of(kind),
            read_bytes=_whole(total("read_bytes")),
            read_s=total("read_time"),
            write_bytes=_whole(total("write_bytes")),
            write_s=total("write_time"),
            read_ops=hits,
            lookups=_whole(total("chunk_queries", "block_queries")),
            hits=hits,
            failures=int((total("promotion_job_failures") or 0) + (allocation if staged else 0)),
        )


def _of_llm_d(samples: Sequence[_Sample], source: str) -> Iterator[EngineTier]:
    mine = [one for one in samples if one.name.startswith(_LLM_D)]
    for (model,), some in _groups(mine, "model_name"):

        def total(what: str, way: str, some: Sequence[_Sample] = some) -> float | None:
            names = {f"{_LLM_D}{what}{suffix}_total" for suffix in _LLM_D_SUFFIXES}
            return _sum(some, lambda one: one.name in names and one.labels.get("transfer_type") == way)

        stored, loaded = "GPU_to_SHARED_STORAGE", "SHARED_STORAGE_to_GPU"
        if total("bytes", stored) is None and total("bytes", loaded) is None:
            continue
        yield EngineTier(
            source,
            "llm-d",
            model,
            "shared storage",
            Tier.FILE,
            read_bytes=_whole(total("bytes", loaded)),
            read_s=total("time", loaded),
            write_bytes=_whole(total("bytes", stored)),
            write_s=total("time", stored),
        )


def _of_lmcache(samples: Sequence[_Sample], source: str, chunk_bytes: float | None) -> Iterator[EngineTier]:
    mine = [one for one in samples if one.name.startswith(_LMCACHE)]
    if not mine:
        return

    def total(pattern: str, **labels: str) -> float | None:
        whole = re.compile(f"{_LMCACHE}{pattern}")
        return _sum(
            mine,
            lambda one: bool(whole.fullmatch(one.name)) and all(one.labels.get(name) == value for name, value in labels.items()),
        )

    def size(chunks: float | None) -> int | None:
        return None if chunks is None or chunk_bytes is None else round(chunks * chunk_bytes)

    requested = _whole(total("lookup_requested(_tokens)?_total"))
    models = sorted({one.labels["model_name"] for one in mine if one.labels.get("model_name")})
    model = ", ".join(models)
    read, written = total("l1_read(_chunks)?_total"), total("l1_write(_chunks)?_total")
    yield EngineTier(
        source,
        "lmcache",
        model,
        "l1",
        None,
        read_bytes=size(read),
        write_bytes=size(written),
        read_ops=_whole(read),
        write_ops=_whole(written),
        lookups=requested,
        hits=_whole(total("lookup_hit_l1(_tokens)?_total")),
        unit="tokens",
        held_bytes=_whole(total("l1_memory_usage_bytes")),
        failures=int(total("l1_allocation_failure(_[a-z]+)?_total") or 0),
        estimated=True,
    )
    names = sorted({one.labels["l2_name"] for one in mine if one.labels.get("l2_name")})
    loads = {name: total("l2_load_completed(_requests)?_total", l2_name=name) or 0.0 for name in names}
    stores = {name: total("l2_store_completed(_requests)?_total", l2_name=name) or 0.0 for name in names}
    loaded, stored = total("l2_prefetch_load_completed(_chunks)?_total"), total("l2_store_completed_objects(_chunks)?_total")
    for name in names:
        # Chunks have no label of the adapter: of several, each gets as many as its share of the requests.
        in_, out = _share(loaded, loads, name), _share(stored, stores, name)
        yield EngineTier(
            source,
            "lmcache",
            model,
            name,
            _tier_of(name),
            read_bytes=size(in_),
            write_bytes=size(out),
            read_ops=_whole(in_),
            write_ops=_whole(out),
            lookups=requested,
            hits=_whole(total("lookup_hit_l2(_tokens)?_total")) if len(names) == 1 else None,
            unit="tokens",
            held_bytes=_whole(total("l2_usage_bytes", l2_name=name)),
            failures=int(total("l2_prefetch_failure(_[a-z]+)?_total") or 0) if name == names[0] else 0,
            estimated=True,
        )


def _share(total: float | None, by_name: Mapping[str, float], name: str) -> float | None:
    every = sum(by_name.values())
    return None if total is None else total * (by_name[name] / every if every else 1 / len(by_name))


def _tier_of(kind: str) -> Tier | None:
    return Tier.FILE if kind in _FILES else Tier.OBJECT if kind in _OBJECTS else None


def _sum(samples: Iterable[_Sample], chosen: Callable[[_Sample], bool]) -> float | None:
    values = [one.value for one in samples if chosen(one)]
    return sum(values) if values else None


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _groups(samples: Iterable[_Sample], *labels: str) -> Iterator[tuple[tuple[str, ...], list[_Sample]]]:
    groups: dict[tuple[str, ...], list[_Sample]] = {}
    for one in samples:
        groups.setdefault(tuple(one.labels.get(name, "") for name in labels), []).append(one)
    yield from sorted(groups.items())
