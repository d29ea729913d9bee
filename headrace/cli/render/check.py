"""Terminal output of `headrace check` and `headrace doctor`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from headrace.check.doctor import Diagnosis
from headrace.check.promise import Finding, Outcome
from headrace.check.report import Change, CheckReport
from headrace.explain.acceptance import WORDS, changed, facts_words, summary, workload_rows
from headrace.terminal import harmless

_MARKS = {
    Outcome.KEPT: ("✓", "green"),
    Outcome.BROKEN: ("✗", "red"),
    Outcome.NOT_NEEDED: ("○", "yellow"),
    Outcome.NOT_TESTED: ("?", "yellow"),
}


def say_checked(console: Console, report: CheckReport, changes: Sequence[Change] | None = None) -> None:
    """Print the whole report: what was checked, promises, workloads, requirements, and what changed since a baseline."""
    header = report.provenance
    for one in header.subjects:
        place = Text(f"{one.tier:<7}").append(harmless(f"{one.where}{' (embedded)' if one.embedded else ''}"))
        console.print(place.append(harmless(f"  {facts_words(one.facts)}"), style="dim"), soft_wrap=True)
    console.print()
    _say_promises(console, report.findings)
    if report.results:
        title = f"\nThroughput and latency from {header.host['name']}, {header.host['cores']} cores"
        console.print(_grid(title, *workload_rows(report.results)))
    if report.requirements:
        table = Table(title="\nNVIDIA's storage requirements for AI clouds", **_PLAIN)
        for name in ("id", "asks for", "", "seen"):
            table.add_column(name, overflow="fold")
        for requirement in report.requirements:
            mark = {True: ("✓", "green"), False: ("✗", "yellow"), None: ("·", "")}[requirement.met]
            table.add_row(requirement.id, requirement.asks, Text(*mark), Text(harmless(requirement.seen)))
        console.print(table)
    if changes is not None:
        sentences, grid = changed(changes)
        console.print(_grid("\nBeside the baseline", grid.columns, grid.rows, grid.numbers))
        console.print(*sentences, style="dim", highlight=False)
    console.print()
    console.print(summary(report), style="red" if report.broken else "", highlight=False)
    if report.other_users:
        console.print(report.other_users, style="yellow", highlight=False)


_PLAIN: dict[str, Any] = {
    "title_justify": "left",
    "title_style": "bold",
    "header_style": "bold",
    "box": None,
    "pad_edge": False,
}


def _grid(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: Collection[int]) -> Table:
    table = Table(title=title, **_PLAIN)
    for at, name in enumerate(columns):
        table.add_column(name, justify="right" if at in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(harmless(cell)) for cell in row))
    return table


def _say_promises(console: Console, findings: Sequence[Finding]) -> None:
    """Print the promises by tier with their measurements; below a broken one, what was seen and what it would cost."""
    table = Table(title_justify="left", header_style="bold", box=None, pad_edge=False)
    for name in ("tier", "", "promise", "measured"):
        table.add_column(name)
    tier = None
    for finding in findings:
        if finding.tier is not tier:
            table.add_section()
        label = Text("" if finding.tier is tier else str(finding.tier))
        table.add_row(label, Text(*_MARKS[finding.outcome]), Text(finding.promise), Text(finding.figure))
        if finding.outcome is not Outcome.KEPT:
            words = "" if finding.outcome is Outcome.BROKEN else f"{WORDS[finding.outcome]}: "
            table.add_row("", "", Text(f"{words}{finding.seen}", style="dim"), "")
        if finding.outcome is Outcome.BROKEN:
            table.add_row("", "", Text(f"Headrace would lose {finding.loses}", style="red"), "")
        tier = finding.tier
    console.print(table)


def say_diagnosed(console: Console, diagnoses: Sequence[Diagnosis]) -> None:
    """Print each part with its address and what was found; below one that does not work, what to change."""
    marks = {True: ("✓", "green"), False: ("✗", "red")}
    table = Table(header_style="bold", box=None, pad_edge=False)
    for name in ("part", "", "where", "found"):
        table.add_column(name, overflow="fold")
    tried = [one for one in diagnoses if one.works is not None]
    embedded = [one.part for one in diagnoses if one.works is None]
    for one in tried:
        table.add_row(Text(one.part), Text(*marks[bool(one.works)]), Text(one.where), Text(one.message))
        if one.hint:
            table.add_row("", "", "", Text(one.hint, "yellow"))
    if tried:
        console.print(table)
    if embedded:
        console.print(f"Embedded, Headrace starts them: {', '.join(embedded)}.", style="dim", highlight=False, soft_wrap=True)
    failed = sum(one.works is False for one in tried)
    if not tried:
        summary = "All parts are embedded; there is nothing to try. Name your own in headrace.toml: headrace init"
    elif failed:
        summary = f"{failed} of {len(tried)} parts of your own {'does' if failed == 1 else 'do'} not work."
    else:
        summary = f"All {len(tried)} parts of your own work. Next: headrace check, which asks for what Headrace relies on."
    console.print(summary, style="red" if failed else "", highlight=False, soft_wrap=True)
