"""Commands that train, and that list, promote and roll back models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.common import AsJson, On, checked_on, cli, one_of, out, print_json, settings_of, user
from headrace.errors import LostRace
from headrace.models import MODEL_NAMES
from headrace.training.recipes import AUTO, RECIPES

if TYPE_CHECKING:
    from headrace.models.pointer import ChampionPointer

Model = Annotated[str, typer.Argument(help=f"The model: {one_of(MODEL_NAMES)}.")]


@cli.command(rich_help_panel="Training")
def train(
    recipe: Annotated[
        str, typer.Option(help=f"How to train: {one_of(RECIPES)}; auto: the cheapest that today's verdicts support.")
    ] = AUTO,
    before: Annotated[
        str | None, typer.Option(metavar="TOPIC/PARTITION/OFFSET", help="Learn only from events before this one.")
    ] = None,
    canary: Annotated[
        float, typer.Option(help="Share of the traffic that a winning challenger answers at first; 0: all at once.", min=0, max=1)
    ] = 0.0,
    simulated: Annotated[bool, typer.Option("--simulated", help="Also learn from simulated users (`headrace replay`).")] = False,
    on: On = "local",
    as_json: AsJson = False,
) -> None:
    """Run one training round: land, plan, prepare, power, finetune, evaluate, promote or reject."""
    from headrace.app import App
    from headrace.cli.render.results import say_round
    from headrace.training.recipes import recipe_of

    settings = settings_of()
    if simulated:
        training = settings.training
        preparing = training.preparing.model_copy(update={"simulated": True})
        settings = settings.model_copy(update={"training": training.model_copy(update={"preparing": preparing})})
    for name in RECIPES if recipe == AUTO else (recipe,):
        recipe_of(name).settings(settings.training.recipe.get(name, {}))  # fail on a wrong setting before anything starts
    if before is None:  # a round with --before may replace the one in progress
        _not_beside_the_loop(settings.home)
    embeds = recipe != AUTO and recipe_of(recipe).model == "embedder"
    with App(settings, "train", models=embeds, on=checked_on(on), quiet=as_json) as app:
        done = app.training.round(recipe, before=before, canary=canary)
        app.storage.archive()
    if as_json:
        print_json(done.as_dict())
    else:
        say_round(out, done)


def _not_beside_the_loop(home: Path) -> None:
    """Raise `LostRace` while this home's training loop runs a round: a second one would do the same work in vain.

    A loop elsewhere, or one that begins a moment later, is not noticed; of two such rounds, one fails at its commit.
    """
    from headrace.cli.render.training import doing
    from headrace.scheduler import status

    state = status.read(home)
    if state["running"] and state["state"] == status.TRAINING:
        raise LostRace(
            f"`headrace up` is running a round. {doing(state)}",
            hint="Run the command again when it has ended; `headrace loop` shows its progress.",
        )


@cli.command(rich_help_panel="Training")
def models(
    last: Annotated[
        int, typer.Option(help="Show so many versions of each model: the newest, and those that are served.", min=1)
    ] = 20,
    as_json: AsJson = False,
) -> None:
    """List the released versions of every model, and which is served."""
    from headrace.app import App
    from headrace.catalog import MODELS, ROUNDS
    from headrace.cli.render.results import rows_table, weights_line
    from headrace.explain.diagram.format import human_bytes
    from headrace.storage.objects import ObjectReader
    from headrace.training import manifest
    from headrace.training.promotions import card, champion, version_names

    with App(settings_of(), "models", models=False, quiet=as_json) as app:
        store = app.runner.open(ObjectReader, MODELS, stage="models")
        pointers = {name: champion(store, name)[0] for name in MODEL_NAMES}
        names = {name: version_names(store, name) for name in MODEL_NAMES}
        shown = {name: [v for v in known[:-last] if pointers[name].share(v)] + known[-last:] for name, known in names.items()}
        cards = [card(store, name, version) for name, versions in shown.items() for version in versions]
        rounds = app.runner.open(ObjectReader, ROUNDS, stage="models")
        numbers = manifest.numbers(rounds)
        newest = manifest.read(rounds, numbers[-1]) if numbers else None
    rejected = newest if newest is not None and not newest.decision.promote else None
    rows = [
        {
            "model": stored.get("model", "reranker"),
            "version": stored["version"],
            "round": stored["round"],
            "recipe": stored.get("recipe", "reranker"),
            "bytes": sum(file["bytes"] for file in stored["files"]),
            "share": pointers[stored.get("model", "reranker")].share(stored["version"]),
        }
        for stored in cards
    ]
    earlier = sum(map(len, names.values())) - len(rows)
    if as_json:
        reason = {"round": rejected.round, "recipe": rejected.recipe, **rejected.decision.model_dump()} if rejected else None
        champions = {name: pointer.as_dict() for name, pointer in pointers.items()}
        print_json({"models": rows, "earlier": earlier, "champions": champions, "rejected": reason})
        return
    if rows:
        out.print(rows_table([{**row, "bytes": human_bytes(row["bytes"]), "share": _answers(row["share"])} for row in rows]))
        if earlier:
            out.print(f"{earlier:,} earlier versions are not shown: headrace models --last N", style="dim", highlight=False)
        for row, stored in zip(rows, cards, strict=True):
            if row["share"] and "ranking" in stored:
                weights = weights_line(stored["ranking"]["weights"])
                out.print(f"{row['model']} {row['version']} weighs: {weights}", style="dim", highlight=False, soft_wrap=True)
        for name, pointer in pointers.items():
            if pointer.moves:
                sentence = f"{name}: {pointer.kind} by {pointer.who}, {pointer.at[:19]}: {pointer.why}"
                out.print(sentence, style="dim", highlight=False, soft_wrap=True)
    else:
        out.print("No model has been released yet: retrieval order and the packaged models are served. Train one: headrace train")
    if rejected is not None:
        said = f"round {rejected.round} ({rejected.recipe}) was rejected: {rejected.decision.why}"
        out.print(said, style="dim", highlight=False, soft_wrap=True)


@cli.command(rich_help_panel="Training")
def promote(model: Model, version: Annotated[str, typer.Argument(help="A released version.")], as_json: AsJson = False) -> None:
    """Serve a released version."""
    _move(model, as_json, lambda training, **by: training.promote(model, version=version, **by))


@cli.command(rich_help_panel="Training")
def rollback(model: Model, as_json: AsJson = False) -> None:
    """Serve the previous version again; a running canary ends."""
    _move(model, as_json, lambda training, **by: training.rollback(model, **by))


def _move(model: str, as_json: bool, move: Callable[..., ChampionPointer]) -> None:
    from headrace.app import App
    from headrace.cli.render.results import served
    from headrace.training.promotions import check_model_name

    check_model_name(model)
    with App(settings_of(), "promote", models=model == "embedder", quiet=as_json) as app:
        pointer = move(app.training, who=user(), why="asked on the command line")
    if as_json:
        print_json(pointer.as_dict())
    else:
        out.print(f"Now served: {served(model, pointer.version)}.")


def _answers(share: float) -> str:
    return {0.0: "", 1.0: "all answers"}.get(share, f"{share:.0%} of the answers")
