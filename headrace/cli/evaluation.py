"""Evaluation on a folder in BEIR layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.common import AsJson, app, out, print_json, settings_of

evaluation = typer.Typer(help="How good retrieval and answers are, on a folder in BEIR layout.", no_args_is_help=True)
app.add_typer(evaluation, name="eval", rich_help_panel="Evaluation")
Beir = Annotated[Path, typer.Argument(metavar="DIR", help="Has corpus.jsonl, queries.jsonl and qrels/test.tsv.")]


@evaluation.command("retrieval")
def eval_retrieval(directory: Beir, as_json: AsJson = False) -> None:
    """nDCG@10, recall@5 and MRR@10 of dense, full-text, fused and re-ranked retrieval, with 95 % intervals."""
    from headrace.cli.render.results import say_retrieval
    from headrace.session import opened
    from headrace.simulate.beir import read
    from headrace.simulate.evaluate import retrieval

    folder, settings = read(directory), settings_of()
    with opened("eval", settings, quiet=as_json) as session:
        rows = retrieval(session.runner, folder, settings.inference)
    if as_json:
        print_json({"rows": [row.as_dict() for row in rows], "documents": len(folder.documents), "tenant": folder.tenant})
    else:
        say_retrieval(out, folder, rows)


@evaluation.command("answers")
def eval_answers(
    directory: Beir,
    limit: Annotated[int | None, typer.Option(help="Questions to ask, spread evenly; all unless given.", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Exact match, F1, citation precision, groundedness and refusal rate of the answers, with 95 % intervals."""
    from headrace.cli.render.results import say_answers
    from headrace.session import opened
    from headrace.simulate.beir import read
    from headrace.simulate.evaluate import answers

    folder, settings = read(directory), settings_of()
    with opened("eval", settings, quiet=as_json) as session:
        found = answers(session.runner, session.engine(), folder, settings.inference, limit)
    if as_json:
        print_json(found.as_dict())
    else:
        say_answers(out, folder, found)
