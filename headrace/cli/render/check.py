"""Terminal output of `headrace check`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

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
