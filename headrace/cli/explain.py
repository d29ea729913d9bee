"""Commands that turn measurements into what a presenter needs: sizing and slides."""

from __future__ import annotations

import sys
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
        str | None,
        typer.Option(help="Compare with this run; default: for each quantity, the newest run with the largest sample."),
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


@cli.command(rich_help_panel=_PANEL)
def simulate(
    workers: Annotated[int | None, typer.Option(help="Workers of each pipeline at most; fewer are shown too.")] = None,
    gpus: Annotated[int | None, typer.Option(help="GPUs of all workers, which run the models.")] = None,
    gpu_speed: Annotated[float | None, typer.Option(help="How many times as fast as a measured worker a GPU is.")] = None,
    tenants: Annotated[int | None, typer.Option(help="Tenants.")] = None,
    platforms: Annotated[int | None, typer.Option(help="Platforms (namespaces) on the same storage.")] = None,
    documents: Annotated[int | None, typer.Option(help="Documents that each tenant keeps.")] = None,
    also: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other parameter of --list; repeatable.")
    ] = None,
    supply: Annotated[
        list[str] | None,
        typer.Option(metavar="TIER=READ/WRITE", help="What a tier supplies in GB/s, as object=40/20; repeatable."),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="What `headrace check --json` measured; default: this home's last check."),
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="Predict from this run; default: for each unit, the newest run with most of it.")
    ] = None,
    against: Annotated[
        list[str] | None, typer.Option(metavar="RUN", help="Compare with a run of other workers; repeatable.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Draw the curves: FILE.svg, .png, .pdf or .pptx.")] = None,
    dark: Annotated[bool, typer.Option("--dark", help="Draw them on a dark ground.")] = False,
    show_all: Annotated[bool, typer.Option("--list", help="List the parameters, and predict nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Predict what N workers do, ask of storage and cost, from a measured run; name the store that limits them first."""
    import json

    from headrace.check.report import last_report
    from headrace.cli.render.scaling import say_prediction
    from headrace.cli.render.sizing import parameters_table
    from headrace.core.run import journal_of
    from headrace.explain.scaling.demand import demands
    from headrace.explain.scaling.parameters import ScalingParameters, scaling_of
    from headrace.explain.scaling.prediction import predict
    from headrace.explain.scaling.supply import checked_supply, merged, stated_supply
    from headrace.regular_file import read_regular

    if show_all:
        known = [
            {"name": name, "default": field.default, "description": field.description or ""}
            for name, field in ScalingParameters.model_fields.items()
        ]
        print_json({"parameters": known}) if as_json else out.print(parameters_table(known))
        return
    named = {
        "workers": workers,
        "gpus": gpus,
        "gpu_speed": gpu_speed,
        "tenants": tenants,
        "platforms": platforms,
        "documents": documents,
    }
    given = {name: value for name, value in named.items() if value is not None}
    assigned = _assigned(also or (), command="simulate")
    parameters = scaling_of({**assigned, **given})
    home = settings_of().home
    report = last_report(home)
    if check is not None:
        hint = "Save a check with `headrace check --json > FILE.json`."
        try:
            report = json.loads(read_regular(check))
        except OSError as error:
            raise WrongUsage(f"{check} cannot be read: {error.strerror}.", hint=hint) from None
        except (ValueError, RecursionError) as error:
            raise WrongUsage(f"{check} is not JSON.", hint=hint) from error
    supplies = merged(stated_supply(supply or ()), checked_supply(report) if report else ())
    prediction = predict(parameters, demands(home, run), supplies, [journal_of(home, each) for each in against or ()])
    if output is not None:
        from headrace.explain.diagram.draw import draw_scene
        from headrace.explain.diagram.theme import DARK, LIGHT
        from headrace.explain.scaling.picture import scaling_scene

        draw_scene(scaling_scene(prediction, palette=DARK if dark else LIGHT), output)
    if as_json:
        print_json(prediction.model_dump(mode="json"))
    else:
        say_prediction(out, prediction)
        if output is not None:
            out.print(f"Wrote {output}.", highlight=False)


def _assigned(words: Sequence[str], *, command: str = "size") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name.strip():
            raise WrongUsage(f"--set takes NAME=VALUE, not {word!r}.", hint=f"headrace {command} --list shows the names.")
        values[name.strip()] = value.strip().replace("_", "") if value.strip()[:1].isdigit() else value.strip()
    return values


@cli.command(rich_help_panel=_PANEL)
def deck(
    output: Annotated[Path, typer.Option("-o", "--output", help="FILE.pptx")],
    audience: Annotated[
        str,
        typer.Option(
            help="Who it is for: ncp (an infrastructure provider), builder or enterprise; the same numbers, another lead."
        ),
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
    dataset: Annotated[
        int | None, typer.Option(metavar="ROUND", help="Instead: the dataset of this round, as Croissant (JSON-LD).")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL/VERSION", help="Instead: the card of a released model, as JSON or FILE.md.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="A file; default: standard output.")] = None,
    namespace: Annotated[str, typer.Option(help="Namespace of the jobs.")] = "headrace",
    publisher: Annotated[str, typer.Option(help="Who publishes the dataset.")] = "unknown",
    licence: Annotated[str, typer.Option("--license", help="Licence of the dataset: a URL or an SPDX id.")] = "unknown",
) -> None:
    """Export a run as OpenLineage events, one JSON document a line, for a lineage server such as Marquez."""
    import json

    from headrace.core.run import journal_of
    from headrace.explain.openlineage import events

    if sum(each is not None for each in (run, dataset, model)) > 1:
        raise WrongUsage("A run, a dataset and a model are exported one at a time.")
    if dataset is not None:
        _exported(output, json.dumps(_croissant(dataset, publisher, licence), indent=1), f"the dataset of round {dataset}")
    elif model is not None:
        _exported(output, _card(model, markdown=output is not None and output.suffix == ".md"), f"the card of {model}")
    else:
        journal = journal_of(settings_of().home, run)
        lines = [json.dumps(event) for event in events(journal, namespace=namespace)]
        _exported(output, "\n".join(lines), f"{len(lines):,} events of run {journal['run']}")


def _exported(output: Path | None, text: str, what: str) -> None:
    """Write a text to a file or to standard output. JSON is of ASCII, which cannot steer a terminal."""
    from headrace.atomic import write_atomically

    text = f"{text}\n" if text else ""
    if output is None:
        sys.stdout.write(text)
        return
    write_atomically(output, text.encode(), mode=0o644)
    out.print(f"Wrote {what} to {output}.", highlight=False)


def _croissant(number: int, publisher: str, licence: str) -> dict[str, Any]:
    from headrace.app import App
    from headrace.catalog import DATASETS, ROUNDS
    from headrace.explain.croissant import croissant, place_of
    from headrace.storage.objects import ObjectReader
    from headrace.training import manifest
    from headrace.training.data.dataset import listed

    with App(settings_of(), "export", models=False, quiet=True) as app:
        made = manifest.read(app.runner.open(ObjectReader, ROUNDS, stage="export"), number)
        found = listed(app.runner.open(ObjectReader, DATASETS, stage="export"), made.dataset.version)
        if found is None:
            raise NotFound(f"The dataset of round {number} was deleted.", hint="Name a later round; see `headrace models`.")
        place = place_of(app.runner.endpoints.s3_endpoint, app.runner.endpoints.bucket)
        return croissant(made, found, place=place, publisher=publisher, licence=licence)


def _card(name: str, *, markdown: bool) -> str:
    import json

    from headrace.app import App
    from headrace.catalog import MODELS, ROUNDS
    from headrace.explain.model_card import card_markdown, model_card
    from headrace.storage.objects import ObjectReader
    from headrace.training import manifest
    from headrace.training.promotions import card, champion

    model, sign, version = name.partition("/")
    if not sign or not version:
        raise WrongUsage(f"--model takes MODEL/VERSION, not {name!r}.", hint="headrace models lists them: ranking/v000001")
    with App(settings_of(), "export", models=False, quiet=True) as app:
        store = app.runner.open(ObjectReader, MODELS, stage="export")
        pointer, stored = champion(store, model)[0], card(store, model, version)
        made = manifest.read(app.runner.open(ObjectReader, ROUNDS, stage="export"), int(stored["round"]))
        whole = model_card(stored, made, pointer)
    return card_markdown(whole).rstrip("\n") if markdown else json.dumps(whole, indent=1)
