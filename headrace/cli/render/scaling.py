"""A prediction as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from headrace.cli.render.sizing import plain_table
from headrace.explain.diagram.format import human_bytes, human_s, percent
from headrace.explain.scaling.demand import UnitDemand
from headrace.explain.scaling.picture import headline, rate
from headrace.explain.scaling.prediction import Prediction, StoreLimit, TenantLoad, Throughput, Validation
from headrace.explain.sizing.figure import amount, signed
from headrace.terminal import harmless


def say_prediction(console: Console, prediction: Prediction) -> None:
    """Print what was measured, throughput by workers, the stores' limits, the tenants' load, cost, and what is assumed."""
    p = prediction.parameters
    console.print(Text(headline(prediction), style="bold"), soft_wrap=True)
    console.print(_measured(prediction.demands))
    if prediction.against:
        console.print(_against(prediction.against))
    for demand in prediction.demands:
        console.print(_points([point for point in prediction.points if point.unit == demand.unit], gpus=bool(p.gpus)))
    if prediction.limits:
        console.print(_limits(prediction.limits))
    else:
        console.print(
            "\nWhat storage supplies is not known, so no store is named: headrace check, then simulate again, or --supply.",
            style="dim",
        )
    if prediction.load:
        console.print(_load(prediction.load, p.tenants, p.workers))
    if prediction.capacity:
        table = plain_table(f"\nHeld for {_tenants(p.tenants)}", "tier", "holds", "a month")
        for tier in prediction.capacity:
            table.add_row(tier.tier, amount(tier.bytes, "B"), _price(tier.price_per_month))
        console.print(table)
    console.print("\nAssumed", style="bold")
    for said in prediction.assumptions:
        console.print(Text(f"- {said}", style="dim"), soft_wrap=True)


def _measured(demands: Sequence[UnitDemand]) -> Table:
    table = plain_table("\nMeasured: one unit", "unit", "serial", "worker", "read", "written", "requests", "of", "workers", "run")
    table.columns[8].justify = "left"
    for one in demands:
        read, written = (sum(row.bytes for row in one.traffic if row.direction == way) for way in ("read", "write"))
        table.add_row(
            one.unit.removesuffix("s"),
            human_s(one.serial_s),
            human_s(one.shared_s(on_models=False) + one.shared_s(on_models=True)),
            human_bytes(round(read)),
            human_bytes(round(written)),
            rate(sum(row.ops for row in one.traffic)),
            f"{one.sample:,}",
            str(one.workers),
            Text(harmless(one.run), overflow="fold"),
        )
    return table


def _against(found: Sequence[Validation]) -> Table:
    table = plain_table("\nThe same prediction for other runs", "unit", "from", "to", "predicted", "measured", "off", "run")
    table.columns[6].justify = "left"
    for one in found:
        table.add_row(
            one.unit,
            str(one.from_workers),
            _workers(one.workers),
            f"{rate(one.predicted_per_s)}/s",
            f"{rate(one.measured_per_s)}/s",
            signed(one.error),
            Text(harmless(one.run), overflow="fold"),
        )
    return table


def _points(points: Sequence[Throughput], *, gpus: bool) -> Table:
    names = ["workers", "nodes", *(["GPUs"] if gpus else []), "a second", "reads", "writes", "a million", "limited by"]
    table = plain_table(f"\n{points[0].unit.capitalize()}", *names, left=0)
    table.columns[-1].justify = "left"
    for point in points:
        read, written = (sum(one.bytes_per_s for one in point.traffic if one.direction == way) for way in ("read", "write"))
        hours = f"{rate(point.hours_per_million)} worker-h"
        table.add_row(
            f"{point.workers:,}",
            f"{point.nodes:,}",
            *([rate(point.gpus)] if gpus else []),
            rate(point.per_s),
            amount(read, "B/s"),
            amount(written, "B/s"),
            hours if point.price_per_million is None else _price(point.price_per_million),
            _limited(point),
        )
    return table


def _limited(point: Throughput) -> str:
    known = [one for one in point.traffic if one.share is not None]
    busiest = max(known, key=lambda one: one.share or 0.0, default=None)
    if busiest is None or point.limited_by.startswith(f"{busiest.tier} {busiest.direction}"):
        return point.limited_by
    return f"{point.limited_by} ({busiest.tier} {busiest.direction} {_share(busiest.share or 0.0)} used)"


def _share(share: float) -> str:
    return "<1 %" if 0 < share < 0.01 else percent(share)


def _limits(limits: Sequence[StoreLimit]) -> Table:
    table = plain_table("\nThe store that limits, by tier", "store", "unit", "a unit", "supply", "at most", "from", left=2)
    for one in limits:
        table.add_row(
            f"{one.store} ({one.tier}, {one.direction}{'' if one.of == 'bytes' else ', operations'})",
            one.unit,
            amount(one.per_unit, "B") if one.of == "bytes" else rate(one.per_unit),
            amount(one.supply, "B/s") if one.of == "bytes" else f"{rate(one.supply)}/s",
            f"{rate(one.most_per_s)}/s",
            "never" if one.workers is None else _workers(one.workers),
        )
    return table


def _load(loads: Sequence[TenantLoad], tenants: int, workers: int) -> Table:
    table = plain_table(f"\nAsked by {_tenants(tenants)}", "unit", "a second", f"of what {workers:,} can", "takes")
    for one in loads:
        share = _share(one.share) if one.share < 10 else f"{one.share:,.0f} ×"
        takes = "more than any number" if one.workers is None else _workers(one.workers)
        table.add_row(one.unit, rate(one.per_s), Text(share, style="" if one.share <= 1 else "bold red"), takes)
    return table


def _workers(count: int) -> str:
    return f"{count:,} worker{'' if count == 1 else 's'}"


def _tenants(count: int) -> str:
    return f"{count:,} tenant{'' if count == 1 else 's'}"


def _price(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"
