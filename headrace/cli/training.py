"""The training loop: a turn, the models it released, and which is served."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from headrace.cli.common import AsJson, On, app, checked_on, out, print_json, settings_of, user
from headrace.errors import NotFound, WrongUsage

Model = Annotated[str, typer.Argument(help="The model: reranker.")]


@app.command(rich_help_panel="Training")
def turn(
    recipe: Annotated[str, typer.Option(help="What to train: reranker.")] = "reranker",
    on: On = "local",
    as_json: AsJson = False,
) -> None:
    """One trip round the training loop: land, prepare, finetune, evaluate, promote or refuse."""
    from headrace.report import say_turn
    from headrace.session import opened
    from headrace.training.pipeline import RECIPE
    from headrace.training.pipeline import turn as go_round

    if recipe != RECIPE:
        raise WrongUsage(f"There is no recipe {recipe!r}.", hint=f"The one there is: --recipe {RECIPE}")
    settings = settings_of()
    with opened("turn", settings, models=False, on=checked_on(on), quiet=as_json) as session:
        done = go_round(session.runner, launch=session.launch, settings=settings.training)
        session.run.detail["turn"] = done.as_dict()
        session.archive()
    if as_json:
        print_json(done.as_dict())
    else:
        say_turn(out, done)


@app.command(rich_help_panel="Training")
def models(as_json: AsJson = False) -> None:
    """Released versions of the re-ranker, and which is served."""
    from headrace.catalog import MODELS
    from headrace.report import rows_table
    from headrace.session import opened
    from headrace.storage.meter import Meter
    from headrace.storage.objects import ObjectReader
    from headrace.training.champion import champion, versions

    with opened("models", settings_of(), models=False, quiet=as_json) as session:
        store = ObjectReader(MODELS, session.runner.endpoints, Meter(session.run.ledger, "models"))
        standing, _ = champion(store)
        rows = [
            {
                "model": "reranker",
                "version": card["version"],
                "turn": card["turn"],
                "retrieval_weight": card["retrieval_weight"],
                "bytes": sum(file["bytes"] for file in card["files"]),
                "serving": card["version"] == standing.version,
            }
            for card in versions(store)
        ]
    if as_json:
        print_json({"models": rows, "champion": standing.version, "history": standing.history})
    elif rows:
        out.print(rows_table(rows))
    else:
        out.print("No re-ranker was promoted yet; retrieval's own order is served. Train one: headrace turn")


@app.command(rich_help_panel="Training")
def promote(model: Model, version: Annotated[str, typer.Argument(help="A released version.")], as_json: AsJson = False) -> None:
    """Serve a released version from now on."""
    from headrace.training.champion import crown

    _move(model, crown, as_json, version=version, why="asked on the command line")


@app.command(rich_help_panel="Training")
def rollback(model: Model, as_json: AsJson = False) -> None:
    """Serve what was served before."""
    from headrace.training.champion import dethrone

    _move(model, dethrone, as_json, why="asked on the command line")


def _move(model: str, stage: Any, as_json: bool, **inputs: str) -> None:
    from dataclasses import asdict

    from headrace.session import opened
    from headrace.training.champion import RERANKER

    if model != RERANKER:
        raise NotFound(f"There is no model {model!r}.", hint=f"The one there is: {RERANKER}")
    with opened("promote", settings_of(), models=False, quiet=as_json) as session:
        standing = session.runner.run(stage, who=user(), **inputs)
    if as_json:
        print_json(asdict(standing))
    else:
        shown = "retrieval's own order" if standing.version == "none" else standing.version
        out.print(f"Served from now on: {shown}.")
