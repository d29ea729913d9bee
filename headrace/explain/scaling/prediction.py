"""What N workers do a second, what they ask of storage, which store limits them first, and what that costs.

Amdahl's law for the workers, and a roofline for storage: a unit takes `serial + shared ÷ workers` seconds (G. Amdahl, AFIPS
1967), and no more units pass than a tier supplies bytes and operations for (S. Williams et al., CACM 52(4), 2009). Gradients of a
data-parallel step are exchanged by a ring, 2 (N − 1) ÷ N times their bytes (P. Patarasuk and X. Yuan, JPDC 69(2), 2009).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from headrace.catalog import Tier
from headrace.errors import NotFound
from headrace.explain.scaling.demand import DOCUMENTS, EVENTS, QUESTIONS, STEPS, UnitDemand, demands_of
from headrace.explain.scaling.parameters import ScalingParameters
from headrace.explain.scaling.supply import TierSupply
from headrace.storage.ledger import Direction

_MOST_WORKERS = 10_000_000  # as far as a limit is looked for
_DAY_S = 86_400.0
_HOUR_S = 3_600.0
_STEPS_OF_TEN = (1, 2, 5)

WORKERS, DRIVER, GPUS, NETWORK = "workers", "driver", "GPUs", "network"
"""What limits a pipeline where no tier does. The driver is the process that drives the passes of a platform."""


class TierTraffic(BaseModel):
    """Bytes and operations a second on a tier in one direction, and as shares of what it supplies, where that is known."""

    model_config = ConfigDict(frozen=True)

    tier: str
    direction: str
    bytes_per_s: float
    ops_per_s: float
    share: float | None


class Throughput(BaseModel):
    """What `workers` workers do: units a second, what limits them, and what that asks of each tier.

    `hours_per_million` are worker-hours of a million units, `gpu_hours_per_million` GPU-hours; `price_per_million` is `None`
    without prices.
    """

    model_config = ConfigDict(frozen=True)

    unit: str
    workers: int
    nodes: int
    gpus: float
    per_s: float
    limited_by: str
    traffic: tuple[TierTraffic, ...]
    hours_per_million: float
    gpu_hours_per_million: float
    price_per_million: float | None


class StoreLimit(BaseModel):
    """The store that limits a pipeline once its tier is used up: units a second at most, reached with so many workers.

    `workers` is `None` where no number of workers asks that much, because something else limits them before. `share` is the
    store's part of what the tier then carries.
    """

    model_config = ConfigDict(frozen=True)

    unit: str
    store: str
    tier: str
    direction: str
    of: str
    """bytes or operations."""
    per_unit: float
    supply: float
    source: str
    most_per_s: float
    workers: int | None
    share: float


class TenantLoad(BaseModel):
    """What all tenants ask a second beside what the workers can do, and the workers that it takes (`None`: no number does)."""

    model_config = ConfigDict(frozen=True)

    unit: str
    per_s: float
    share: float
    workers: int | None


class TierCapacity(BaseModel):
    """Bytes that a tier holds for all tenants, from what the measured run wrote, and what a month of it costs."""

    model_config = ConfigDict(frozen=True)

    tier: str
    bytes: float
    price_per_month: float | None


class Validation(BaseModel):
    """The prediction for another run beside what that run did; `error` is predicted ÷ measured − 1."""

    model_config = ConfigDict(frozen=True)

    unit: str
    run: str
    from_workers: int
    workers: int
    predicted_per_s: float
    measured_per_s: float
    error: float


class Prediction(BaseModel):
    """A prediction, JSON-ready. `first` is the limit reached with the fewest workers, if any is known."""

    model_config = ConfigDict(frozen=True)

    parameters: ScalingParameters
    demands: tuple[UnitDemand, ...]
    supplies: tuple[TierSupply, ...]
    points: tuple[Throughput, ...]
    limits: tuple[StoreLimit, ...]
    first: StoreLimit | None
    load: tuple[TenantLoad, ...]
    capacity: tuple[TierCapacity, ...]
    against: tuple[Validation, ...]
    assumptions: tuple[str, ...]


def predict(
    parameters: ScalingParameters,
    demands: Sequence[UnitDemand],
    supplies: Sequence[TierSupply] = (),
    against: Sequence[Mapping[str, Any]] = (),
) -> Prediction:
    """The prediction from what was measured; `against` are journals of other runs to compare it with.

    Raises `NotFound` where nothing was measured.
    """
    if not demands:
        raise NotFound(
            "No run of this home says what a document, a question, an event or a step costs.",
            hint="Run `headrace demo`, or index and ask, then simulate again.",
        )
    p = parameters
    limits = [limit for demand in demands for limit in _limits(demand, p, supplies)]
    reached = [limit for limit in limits if limit.workers is not None]
    return Prediction(
        parameters=p,
        demands=tuple(demands),
        supplies=tuple(supplies),
        points=tuple(_throughput(demand, p, supplies, workers) for demand in demands for workers in scale(p.workers)),
        limits=tuple(sorted(limits, key=lambda limit: (limit.unit, limit.most_per_s))),
        first=min(reached, key=lambda limit: limit.workers or 0, default=None),
        load=tuple(_loads(demands, p, supplies)),
        capacity=tuple(_capacity(demands, p)),
        against=tuple(one for journal in against for one in validate(demands, journal)),
        assumptions=tuple(_assumptions(demands, p, supplies)),
    )


def scale(most: int) -> tuple[int, ...]:
    """1, 2, 5, 10, 20 … and `most`."""
    steps = (step * 10**power for power in range(len(str(most))) for step in _STEPS_OF_TEN)
    return (*(step for step in steps if step < most), most)


def unit_s(demand: UnitDemand, workers: float, p: ScalingParameters) -> dict[str, float]:
    """Seconds of one unit on so many workers of one platform, by what they are spent on."""
    gpus = p.gpus * p.gpu_speed * workers / p.workers
    times = {DRIVER: demand.serial_s, WORKERS: demand.shared_s(on_models=False) / workers}
    models = demand.shared_s(on_models=True)
    if gpus:
        times[GPUS] = models / gpus
    else:
        times[WORKERS] += models / workers
    if demand.gradient_bytes and workers > 1:
        link = p.node_network / min(workers, p.workers_per_node)
        times[NETWORK] = 2 * (workers - 1) / workers * demand.gradient_bytes / link
    return times


def _unlimited(demand: UnitDemand, p: ScalingParameters, workers: float) -> float:
    """Units a second of all platforms, were storage without limits."""
    seconds = sum(unit_s(demand, workers / p.platforms, p).values())
    return p.platforms / seconds if seconds else float("inf")


def _ceilings(demand: UnitDemand, supplies: Sequence[TierSupply]) -> Iterator[tuple[TierSupply, str, float, float]]:
    """Of each tier and direction: the supply, of bytes or operations, what a unit takes of it, and the units that it allows."""
    for supply in supplies:
        rows = [row for row in demand.traffic if (row.tier, row.direction) == (supply.tier, supply.direction)]
        for of, supplied, each in (
            ("bytes", supply.bytes_per_s, sum(row.bytes for row in rows)),
            ("operations", supply.ops_per_s, sum(row.ops for row in rows)),
        ):
            if supplied and each:
                yield supply, of, each, supplied / each


def _throughput(demand: UnitDemand, p: ScalingParameters, supplies: Sequence[TierSupply], workers: int) -> Throughput:
    per_s = _unlimited(demand, p, workers)
    times = unit_s(demand, workers / p.platforms, p)
    limited_by = max(times, key=lambda name: times[name])
    for supply, of, _, most in _ceilings(demand, supplies):
        if most < per_s:
            per_s, limited_by = most, f"{supply.tier} {supply.direction}{'' if of == 'bytes' else ', operations'}"
    gpus = p.gpus * workers / p.workers
    hours, gpu_hours = (count * 1e6 / per_s / _HOUR_S for count in (workers, gpus))
    prices = [price * hours_ for price, hours_ in ((p.worker_hour, hours), (p.gpu_hour, gpu_hours)) if price is not None]
    return Throughput(
        unit=demand.unit,
        workers=workers,
        nodes=-(-workers // p.workers_per_node),
        gpus=gpus,
        per_s=per_s,
        limited_by=limited_by,
        traffic=tuple(_traffic(demand, supplies, per_s)),
        hours_per_million=hours,
        gpu_hours_per_million=gpu_hours,
        price_per_million=sum(prices) if prices else None,
    )


def _traffic(demand: UnitDemand, supplies: Sequence[TierSupply], per_s: float) -> Iterator[TierTraffic]:
    shares: dict[tuple[str, str], float] = {}
    for supply, _, _, most in _ceilings(demand, supplies):
        key = supply.tier, supply.direction
        shares[key] = max(shares.get(key, 0.0), per_s / most)
    for tier in Tier:
        for direction in Direction:
            rows = [row for row in demand.traffic if (row.tier, row.direction) == (tier, direction)]
            if rows:
                yield TierTraffic(
                    tier=tier,
                    direction=direction,
                    bytes_per_s=per_s * sum(row.bytes for row in rows),
                    ops_per_s=per_s * sum(row.ops for row in rows),
                    share=shares.get((tier, direction)),
                )


def _limits(demand: UnitDemand, p: ScalingParameters, supplies: Sequence[TierSupply]) -> Iterator[StoreLimit]:
    for supply, of, each, most in _ceilings(demand, supplies):
        parts: dict[str, float] = {}
        for row in demand.traffic:
            if (row.tier, row.direction) == (supply.tier, supply.direction):
                parts[row.store] = parts.get(row.store, 0.0) + (row.bytes if of == "bytes" else row.ops)
        store = max(parts, key=lambda name: parts[name])
        yield StoreLimit(
            unit=demand.unit,
            store=store,
            tier=supply.tier,
            direction=supply.direction,
            of=of,
            per_unit=each,
            supply=most * each,
            source=supply.source,
            most_per_s=most,
            workers=_fewest(lambda workers: _unlimited(demand, p, workers) >= most),  # noqa: B023 - called at once
            share=parts[store] / each,
        )


def _fewest(enough: Callable[[int], bool]) -> int | None:
    """The fewest workers that are enough, where more are not worse; `None` if no number is."""
    low, high = 0, _MOST_WORKERS
    if not enough(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _loads(demands: Sequence[UnitDemand], p: ScalingParameters, supplies: Sequence[TierSupply]) -> Iterator[TenantLoad]:
    wanted = {DOCUMENTS: p.documents_per_day, QUESTIONS: p.questions_per_day, EVENTS: p.events_per_day}
    for demand in demands:
        per_s = p.tenants * wanted.get(demand.unit, 0.0) / _DAY_S
        if per_s:
            yield _load(demand, p, supplies, per_s)


def _load(demand: UnitDemand, p: ScalingParameters, supplies: Sequence[TierSupply], per_s: float) -> TenantLoad:
    def enough(workers: int) -> bool:
        return _throughput(demand, p, supplies, workers).per_s >= per_s

    share = per_s / _throughput(demand, p, supplies, p.workers).per_s
    return TenantLoad(unit=demand.unit, per_s=per_s, share=share, workers=_fewest(enough))


def _capacity(demands: Sequence[UnitDemand], p: ScalingParameters) -> Iterator[TierCapacity]:
    """Documents once; questions and events for `days`, on the head and in the KV cache for one day. Checkpoints are replaced."""
    kept: dict[str, Callable[[Tier], float]] = {
        DOCUMENTS: lambda tier: p.documents if tier != Tier.STREAM else p.documents_per_day,
        QUESTIONS: lambda tier: p.questions_per_day * (1 if tier in (Tier.STREAM, Tier.FILE) else p.days),
        EVENTS: lambda tier: p.events_per_day * (1 if tier == Tier.STREAM else p.days),
    }
    for tier in Tier:
        held = sum(
            p.tenants * kept[demand.unit](tier) * row.bytes
            for demand in demands
            if demand.unit in kept
            for row in demand.traffic
            if (row.tier, row.direction) == (tier, Direction.WRITE)
        )
        if held:
            price = None if p.tb_month is None else held / 1e12 * p.tb_month
            yield TierCapacity(tier=tier, bytes=held, price_per_month=price)


def validate(demands: Sequence[UnitDemand], journal: Mapping[str, Any]) -> tuple[Validation, ...]:
    """The prediction for the workers of another run, beside what that run measured of the same units."""
    known = {demand.unit: demand for demand in demands}
    found = []
    for other in demands_of(journal):
        if (mine := known.get(other.unit)) is None:
            continue
        # Each worker of questions and events is a process, and a run is of one.
        workers = other.workers if other.unit in (DOCUMENTS, STEPS) else 1
        predicted = _unlimited(mine, ScalingParameters(workers=workers), workers)
        found.append(
            Validation(
                unit=other.unit,
                run=other.run,
                from_workers=mine.workers,
                workers=workers,
                predicted_per_s=predicted,
                measured_per_s=other.per_s,
                error=predicted / other.per_s - 1,
            )
        )
    return tuple(found)


def _assumptions(demands: Sequence[UnitDemand], p: ScalingParameters, supplies: Sequence[TierSupply]) -> Iterator[str]:
    units = {demand.unit for demand in demands}
    yield "More workers share work evenly, each as fast as in the measured run, its model endpoint included."
    yield "Each pipeline is predicted alone. Those that run at once share the tiers: add up what they ask."
    yield "Near a limit requests queue, which is not predicted: real throughput bends below it earlier."
    if DOCUMENTS in units:
        yield "What one document costs does not grow with the corpus; docs/reference/benchmarks.md has how far that was measured."
    if p.gpus:
        yield f"A GPU runs the models {p.gpu_speed:g} times as fast as a measured worker: stated, not measured."
    if any(supply.source != "as given" for supply in supplies):
        yield "A tier supplies what the check's clients got of it, at their number: more clients may get more."
    if any(supply.tier == Tier.TABLE and supply.source != "as given" for supply in supplies):
        yield "The check counts the bytes of rows before compression, so limits of the table tier are too high."
    yield "Capacity is what the measured run wrote, files that were merged and written again included; nothing is replicated."
