"""A sizing as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from headrace.explain.diagram.format import percent
from headrace.explain.sizing.figure import Figure, amount, signed
from headrace.explain.sizing.measured import Measurement
from headrace.explain.sizing.sizing import Sizing
from headrace.terminal import harmless


def say_sizing(console: Console, sizing: Sizing) -> None:
    """Print demand by tier, its figures, the supply beside it, what was measured, and sources."""
    p, model = sizing.parameters, sizing.model
    console.print(
        f"{model.name}: {model.parameters / 1e9:,.4g} billion parameters, {model.layers} layers, {model.layout} attention;"
        f" {p.gpus:,} GPUs train, {p.users:,} users ask every {p.question_interval_s:g} s.",
        highlight=False,
    )
    console.print(_demand(sizing))
    numbers = {name: at for at, name in enumerate(sizing.sources, 1)}
    console.print(_supply(sizing, numbers[sizing.supply_source]))
    if sizing.measured:
        console.print(_measured(sizing.measured))
    else:
        console.print("\nThis home has measured none of these yet: headrace demo, then size again.", style="dim")
    for tier in sizing.tiers:
        figures = [figure for figure in sizing.figures if figure.tier == tier.tier and (figure.value or not figure.role)]
        if figures:
            console.print(_figures(tier.tier, figures, numbers))
    console.print("\nSources", style="bold")
    for name, at in numbers.items():
        console.print(Text(f"[{at}] {sizing.sources[name]}", style="dim"), soft_wrap=True)


def plain_table(title: str, *columns: str, left: int = 1) -> Table:
    """A table without lines; its first `left` columns are words, the others numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False)
    for at, name in enumerate(columns):
        table.add_column(name, justify="left" if at < left else "right", overflow="fold")
    return table


def _demand(sizing: Sizing) -> Table:
    table = plain_table("\nWhat each tier must hold and move", "tier", "holds", "reads", "writes", "peak reads", "peak writes")
    for tier in sizing.tiers:
        rates = (tier.read, tier.write, tier.peak_read, tier.peak_write)
        table.add_row(tier.tier, amount(tier.capacity, "B"), *(amount(rate, "B/s") if rate else "-" for rate in rates))
    return table


def _figures(tier: str, figures: list[Figure], numbers: Mapping[str, int]) -> Table:
    table = plain_table(f"\n{tier.capitalize()}", "figure", "", "formula", left=1)
    table.columns[2].justify = "left"
    for one in figures:
        inputs = ", ".join(f"{name} {_number(value)}" for name, value in one.inputs.items())
        said = Text(one.formula)
        if inputs:
            said.append(f"\n{inputs}", style="dim")
        if one.note:
            said.append(f"\n{one.note}", style="dim italic")
        said.append(" " + "".join(f"[{numbers[source]}]" for source in one.sources), style="dim")
        table.add_row(one.label, amount(one.value, one.unit), said)
    return table


def _number(value: float | str) -> str:
    if isinstance(value, str):
        return value
    for least, word in ((1e12, "trillion"), (1e9, "billion"), (1e7, "million")):
        if value >= least:
            return f"{value / least * (10 if least == 1e7 else 1):.4g} {word}"
    return f"{value:,.0f}" if value >= 1e4 else f"{value:.4g}"


def _supply(sizing: Sizing, source: int) -> Table:
    table = plain_table(
        f"\nDemand beside DGX SuperPOD's guideline for {sizing.parameters.gpus:,} GPUs [{source}]",
        "level",
        "read",
        "demand/supply",
        "write",
        "demand/supply",
        "meant for",
    )
    table.columns[5].justify = "left"
    for level in sizing.supply:
        table.add_row(
            level.level,
            amount(level.read, "B/s"),
            _needed(level.read_share),
            amount(level.write, "B/s"),
            _needed(level.write_share),
            level.meant_for,
        )
    return table


def _needed(share: float) -> Text:
    said = percent(share) if share < 10 else f"{share:,.0f} ×"
    return Text(said, style="" if share <= 1 else "bold red")


def _measured(measured: tuple[Measurement, ...]) -> Table:
    table = plain_table(
        "\nMeasured by this home beside the same formulas for that run", "quantity", "measured", "formula says", "off", "how"
    )
    table.columns[4].justify = "left"
    for one in measured:
        how = Text(harmless(f"{one.how}, {one.source}"))
        how.append(f"\n{one.formula}", style="dim")
        if one.note:
            how.append(f"\n{one.note}", style="dim italic")
        table.add_row(one.label, amount(one.measured, one.unit), amount(one.estimated, one.unit), signed(one.error), how)
    return table


def say_parameters(console: Console, choices: Mapping[str, Any]) -> None:
    """Print the presets, recipes and parameters."""
    models = plain_table("Models (--model)", "name", "parameters", "layers", "attention", "KV a token, bf16")
    for one in choices["models"]:
        models.add_row(
            one["name"],
            f"{one['parameters'] / 1e9:,.4g} B",
            str(one["layers"]),
            one["layout"],
            f"{one['kv_bytes_per_token']:,.0f} B",
        )
    console.print(models)
    recipes = plain_table("\nRecipes (--recipe)", "name", "bytes a parameter", "of which")
    recipes.columns[2].justify = "left"
    for one in choices["recipes"]:
        recipes.add_row(one["name"], f"{one['bytes']:g}", one["parts"])
    console.print(recipes)
    console.print(parameters_table(choices["parameters"]))


def parameters_table(parameters: Iterable[Mapping[str, Any]]) -> Table:
    """Parameters with their defaults and what they are."""
    table = plain_table("\nParameters (--set NAME=VALUE)", "name", "default", "")
    table.columns[2].justify = "left"
    for one in parameters:
        table.add_row(one["name"], "-" if one["default"] is None else str(one["default"]), one["description"])
    return table
