"""Commands that turn measurements into what a presenter needs: sizing and slides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from headrace.cli.common import AsJson, cli, out, print_json, settings_of
from headrace.errors import NotFound, WrongUsage

_PANEL = "Explaining it"


@cli.command(rich_help_panel=_PANEL)
def size(
    model: Annotated[str | None, typer.Option(help="A preset (see --list), or a model's config.json file.")] = None,
    gpus: Annotated[int | None, typer.Option(help="GPUs that train.")] = None,
    users: Annotated[int | None, typer.Option(help="Users who ask questions.")] = None,
    context: Annotated[int | None, typer.Option(help="Tokens of a question's context.")] = None,
    documents: Annotated[int | None, typer.Option(help="Documents that are searched.")] = None,
    events: Annotated[float | None, typer.Option(help="Events that arrive a second.")] = None,
    event_bytes: Annotated[float | None, typer.Option(help="Bytes of an event.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Precision recipe of a checkpoint (see --list).")] = None,
    stall: Annotated[float | None, typer.Option(help="Seconds for which training may stop to write a checkpoint.")] = None,
    interval: Annotated[float | None, typer.Option(help="Seconds between checkpoints; default: the optimal interval.")] = None,
    mttf: Annotated[float | None, typer.Option(help="Mean time to failure of the training job, in hours.")] = None,
    retention: Annotated[float | None, typer.Option(help="Days that tables keep events.")] = None,
    also: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other parameter of --list; repeatable.")
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="Compare with this run; default: the newest that measured the same quantity.")
    ] = None,
    show_all: Annotated[bool, typer.Option("--list", help="List models, recipes and parameters, and size nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Size storage: capacity and bandwidth per tier, beside reference architectures and what this home measured."""
    from headrace.cli.render.sizing import say_parameters, say_sizing
    from headrace.explain.sizing.measured import measurements
    from headrace.explain.sizing.parameters import parameters_of
    from headrace.explain.sizing.sizing import choices, size

    if show_all:
        print_json(choices()) if as_json else say_parameters(out, choices())
        return
    named = {
        "model": model,
        "gpus": gpus,
        "users": users,
        "context_tokens": context,
        "documents": documents,
        "events_per_s": events,
        "event_bytes": event_bytes,
        "recipe": recipe,
        "stall_s": stall,
        "checkpoint_interval_s": interval,
        "mttf_h": mttf,
        "table_days": retention,
    }
    given = {name: value for name, value in named.items() if value is not None}
    parameters = parameters_of({**_assigned(also or ()), **given})
    measured = measurements(settings_of().home, run)
    if run and not measured:
        raise NotFound(f"Run {run!r} measured nothing that a sizing estimates.", hint="Name one that indexed, asked or trained.")
    sizing = size(parameters, measured)
    if as_json:
        print_json(sizing.model_dump(mode="json"))
    else:
        say_sizing(out, sizing)


def _assigned(words: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name.strip():
            raise WrongUsage(f"--set takes NAME=VALUE, not {word!r}.", hint="headrace size --list shows the names.")
        values[name.strip()] = value.strip().replace("_", "") if value.strip()[:1].isdigit() else value.strip()
    return values


@cli.command(rich_help_panel=_PANEL)
def deck(
    output: Annotated[Path, typer.Option("-o", "--output", help="FILE.pptx")],
    audience: Annotated[
        str, typer.Option(help="Who it is for: ncp, builder or enterprise; the same numbers, another lead.")
    ] = "ncp",
    brand: Annotated[Path | None, typer.Option(help="FILE.toml with colours, fonts, logo and product names.")] = None,
    run: Annotated[str | None, typer.Option(help="A run's id; default: the newest run of both pipelines.")] = None,
) -> None:
    """Make slides of a measured run: native shapes, charts and speaker notes, ready to present and to edit."""
    from headrace.explain.deck.brand import load_brand
    from headrace.explain.deck.deck import both_pipelines, build, write_deck

    loaded = load_brand(brand)
    journal = both_pipelines(settings_of().home, run)
    write_deck(output, build(journal, audience=audience, brand=loaded))
    out.print(f"Wrote {output} from run {journal['run']}, for {audience}.", highlight=False)


@cli.command(rich_help_panel=_PANEL)
def export(
    run: Annotated[str | None, typer.Argument(help="A run's id or a prefix of it; default: the newest.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="FILE.jsonl; default: standard output.")] = None,
    namespace: Annotated[str, typer.Option(help="Namespace of the jobs.")] = "headrace",
) -> None:
    """Export a run as OpenLineage events, one JSON document a line, for a lineage server such as Marquez."""
    import json
    import sys

    from headrace.atomic import write_atomically
    from headrace.core.run import journal_of
    from headrace.explain.openlineage import events

    journal = journal_of(settings_of().home, run)
    lines = [json.dumps(event) for event in events(journal, namespace=namespace)]
    if output is None:
        sys.stdout.writelines(f"{line}\n" for line in lines)  # JSON of ASCII, which cannot steer a terminal
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, "".join(f"{line}\n" for line in lines).encode(), mode=0o644)
    out.print(f"Wrote {len(lines):,} events of run {journal['run']} to {output}.", highlight=False)
