"""Commands that show runs, their ledgers and diagrams, and query the tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.common import AsJson, cli, out, print_json, settings_of
from headrace.errors import NotFound, WrongUsage
from headrace.terminal import printable


@cli.command(rich_help_panel="What happened")
def runs(
    last: Annotated[int, typer.Option(help="Show this many, newest first.", min=1)] = 20,
    as_json: AsJson = False,
) -> None:
    """List recent runs: state, duration, bytes moved, and on which storage."""
    from itertools import islice

    from headrace.cli.render.results import runs_table, storage_lines
    from headrace.core.run import newest_first, summary

    recorded = [summary(journal) for journal in islice(newest_first(settings_of().home), last)]
    if as_json:
        print_json({"runs": recorded})
    elif recorded:
        out.print(runs_table(recorded))
        for line in storage_lines(recorded):
            out.print(printable(line), style="dim", highlight=False, soft_wrap=True)
    else:
        out.print("Nothing has run in this home yet. Try: headrace demo")


@cli.command(rich_help_panel="What happened")
def ledger(
    run: Annotated[str | None, typer.Argument(help="A run's id or a prefix of it; default: the newest.")] = None,
    by: Annotated[str | None, typer.Option(help="Sum by tier, stage or tenant.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a run moved, how fast and on which storage: operations, bytes and latency by stage, store and direction."""
    from headrace.cli.render.results import (
        ledger_table,
        measured_lines,
        merged,
        stages_table,
        summary_table,
        tier_table,
        total_line,
    )
    from headrace.core.rates import stage_rates, with_rates
    from headrace.core.run import journal_of, summary
    from headrace.storage.ledger import summed

    if by not in (None, "tier", "stage", "tenant"):
        raise WrongUsage(f"--by takes tier, stage or tenant, not {by!r}.")
    journal = journal_of(settings_of().home, run)
    if by is not None:
        if "ledger" not in journal:
            raise NotFound(
                f"Run {journal['run']} was recorded by an older Headrace, without the histograms that sums need.",
                hint=f"Show its rows: headrace ledger {journal['run']}",
            )
        rows = with_rates(journal, summed(journal["ledger"], by=(by,)))
        if as_json:
            print_json({"run": journal["run"], "state": journal["state"], "by": by, "rows": rows})
        else:
            out.print(summary_table(rows, by, title=f"What {journal['run']} moved, by {by}"))
        return
    if as_json:
        print_json({**summary(journal), "stages": stage_rates(journal), "rows": with_rates(journal, journal["rows"])})
        return
    rows = summed(journal["ledger"], by=("stage", "store", "tier")) if "ledger" in journal else merged(journal["rows"])
    out.print(ledger_table(rows, title=f"What {journal['run']} moved"))
    out.print()
    out.print(stages_table(stage_rates(journal)))
    out.print()
    out.print(tier_table(rows))
    out.print()
    out.print(total_line(summary(journal), journal.get("counts") or {}), highlight=False, soft_wrap=True)
    for line in measured_lines(journal.get("provenance") or {}):
        out.print(printable(line), highlight=False, soft_wrap=True)
    if any(row["estimated"] for row in rows):
        out.print("≈ estimated: that store's library hides its I/O (docs/explanation/ledger.md).", style="dim")


@cli.command(rich_help_panel="What happened")
def diagram(
    pipeline: Annotated[str, typer.Argument(help="training or inference.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="FILE.svg, .png, .pdf, .pptx, .md or .mmd (Mermaid)")],
    view: Annotated[
        str, typer.Option(help="storage; ray: which of Ray's libraries runs what; time: compute and storage over the run.")
    ] = "storage",
    detail: Annotated[str, typer.Option(help="slide: what moves bytes or carries the story; full: everything.")] = "slide",
    run: Annotated[str | None, typer.Option(help="A run's id; default: the newest run of this pipeline.")] = None,
    against: Annotated[str | None, typer.Option(help="A run to compare with: what grew, what shrank.")] = None,
    triggers: Annotated[bool, typer.Option("--triggers/--no-triggers", help="Draw what starts each stage.")] = True,
    theme: Annotated[str, typer.Option(help="light or dark.")] = "light",
) -> None:
    """Draw a pipeline from a measured run; before the first run, as it is declared."""
    from headrace.explain.diagram.draw import draw
    from headrace.explain.diagram.recorded import diagram_of
    from headrace.explain.diagram.theme import PALETTES
    from headrace.explain.diagram.views import Detail, View

    chosen = View(_one_of("--view", view, [*View]))
    level = Detail(_one_of("--detail", detail, [*Detail]))
    palette = PALETTES[_one_of("--theme", theme, [*PALETTES])]
    drawn = diagram_of(settings_of().home, pipeline, run=run, against=against)
    title = draw(drawn, output, view=chosen, detail=level, palette=palette, triggers=triggers)
    of = f" from run {drawn.run_id}" if drawn.measured else ""
    out.print(f"Wrote {output}{of}: {title}", highlight=False)


def _one_of(option: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        *others, last = choices
        raise WrongUsage(f"{option} takes {', '.join(others)} or {last}, not {value!r}.")
    return value


@cli.command(rich_help_panel="What happened")
def sql(
    query: Annotated[str, typer.Argument(help="One SELECT over the tables, SHOW TABLES, or DESCRIBE table.")],
    as_json: AsJson = False,
) -> None:
    """Query the tables with read-only SQL (DuckDB)."""
    from headrace.app import App
    from headrace.cli.render.results import say_rows

    with App(settings_of(), "sql", models=False, quiet=as_json) as app:
        rows = app.storage.select(query)
    if as_json:
        print_json({"rows": rows})
    elif rows:
        say_rows(out, rows)
    else:
        out.print("No rows.")
