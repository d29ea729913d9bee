"""Terminal output of `headrace check` and `headrace doctor`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from headrace.check.doctor import Diagnosis
from headrace.check.promise import Finding, Outcome

_MARKS = {Outcome.KEPT: ("✓", "green"), Outcome.BROKEN: ("✗", "red"), Outcome.UNKNOWN: ("?", "yellow")}


def say_checked(console: Console, findings: Sequence[Finding]) -> None:
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
            table.add_row("", "", Text(f"seen: {finding.seen}", style="dim"), "")
        if finding.outcome is Outcome.BROKEN:
            table.add_row("", "", Text(f"Headrace would lose {finding.loses}", style="red"), "")
        tier = finding.tier
    console.print(table)
    counts = {outcome: sum(finding.outcome is outcome for finding in findings) for outcome in Outcome}
    summary = f"{counts[Outcome.KEPT]} promises kept, {counts[Outcome.BROKEN]} broken, {counts[Outcome.UNKNOWN]} unknown."
    console.print(summary, style="red" if counts[Outcome.BROKEN] else "", highlight=False)


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
