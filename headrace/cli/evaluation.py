"""Commands that evaluate on a folder in BEIR layout, and replay simulated users on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.common import AsJson, check_tenant, cli, err, out, print_json, settings_of
from headrace.errors import Permanent

if TYPE_CHECKING:
    from headrace.simulate import ReplayReport, UserPlan
    from headrace.simulate.beir import BeirFolder


evaluation = typer.Typer(help="Measure the quality of retrieval and answers on a folder in BEIR layout.", no_args_is_help=True)
cli.add_typer(evaluation, name="eval", rich_help_panel="Evaluation")
Beir = Annotated[Path, typer.Argument(metavar="DIR", help="Folder with corpus.jsonl, queries.jsonl and qrels/test.tsv.")]


@evaluation.command("retrieval")
def eval_retrieval(directory: Beir, as_json: AsJson = False) -> None:
    """Measure nDCG@10, recall@5 and MRR@10 of dense, full-text, fused and re-ranked retrieval, with 95 % intervals."""
    from headrace.app import App
    from headrace.cli.render.results import say_retrieval
    from headrace.simulate.beir import read
    from headrace.simulate.evaluate import retrieval

    folder, settings = read(directory), settings_of()
    with App(settings, "eval", quiet=as_json) as app:
        rows = retrieval(app.runner, folder, settings.inference)
    if as_json:
        print_json({"rows": [row.as_dict() for row in rows], "documents": len(folder.documents), "tenant": folder.tenant})
    else:
        say_retrieval(out, folder, rows)


@evaluation.command("answers")
def eval_answers(
    directory: Beir,
    limit: Annotated[int | None, typer.Option(help="Ask this many questions, spread evenly; default: all.", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Measure exact match, F1, citation precision, groundedness and refusal rate of the answers, with 95 % intervals."""
    from headrace.app import App
    from headrace.cli.render.results import say_answers
    from headrace.simulate.beir import read
    from headrace.simulate.evaluate import answers

    folder, settings = read(directory), settings_of()
    with App(settings, "eval", quiet=as_json) as app:
        measured = answers(app.runner, app.answers, folder, settings.inference, limit)
    if as_json:
        print_json(measured.as_dict())
    else:
        say_answers(out, folder, measured)


@cli.command(rich_help_panel="Inference")
def replay(
    directory: Beir,
    questions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Ask only these: an id or a question on each line, or JSON lines.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Ask this many questions, spread evenly; default: all.", min=1)] = None,
    tenant: Annotated[
        str | None,
        typer.Option(help="Ask this tenant's existing index; default: index the folder for its own tenant."),
    ] = None,
    users: Annotated[int, typer.Option(help="Simulated users who ask at the same time.", min=1, max=256)] = 4,
    poison: Annotated[
        float,
        typer.Option(metavar="SHARE", help="Share of the questions whose verdicts one extra user inverts.", min=0.0, max=1.0),
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Random seed: who asks what, and in which order.")] = 0,
    generate: Annotated[
        bool | None,
        typer.Option("--answers/--searches", help="Ask for answers, or only search; default: answers if the folder has them."),
    ] = None,
    rate: Annotated[float | None, typer.Option(metavar="PER_MINUTE", help="Maximum questions per minute.", min=0.1)] = None,
    via: Annotated[str | None, typer.Option(metavar="URL", help="Ask the `headrace up` running at this address.")] = None,
    token: Annotated[str, typer.Option(help="API key for --via.", envvar="HEADRACE_TOKEN", show_envvar=True)] = "",
    as_json: AsJson = False,
) -> None:
    """Replay a folder's questions as simulated users, who judge by its relevance judgements."""
    from headrace.simulate import chosen, user_plans
    from headrace.simulate.beir import read
    from headrace.simulate.evaluate import spread
    from headrace.simulate.users import RULE

    folder = read(directory)
    asked = spread(chosen(folder, questions), limit)
    plans = user_plans(asked, users=users, poison=poison, seed=seed)
    answers = any(question.answers for question in asked) if generate is None else generate
    if not as_json:
        err.print(f"SIMULATED users, not people: {RULE}", style="italic", highlight=False)
    if via is None:
        played = _here(folder, plans, tenant, answers, rate, as_json)
    else:
        played = _via(folder, plans, tenant, answers, rate, as_json, via, token)
    if as_json:
        print_json(played.as_dict())
    else:
        _say(played)
    if played.failure is not None:
        raise played.failure
    if played.interrupted or played.errors:
        raise typer.Exit(1)
    if not played.up + played.down:
        raise Permanent(
            f"No retrieved passage is from a document of {directory}, so there was nothing to judge.",
            hint="Omit --tenant, or index the folder's documents for that tenant under their ids, e.g. ID.md.",
        )


def _here(
    folder: BeirFolder, plans: tuple[UserPlan, ...], tenant: str | None, answers: bool, rate: float | None, quiet: bool
) -> ReplayReport:
    from headrace.app import App
    from headrace.simulate import DocumentNames, InProcessClient, play
    from headrace.simulate.evaluate import indexed

    settings = settings_of(tenant)
    with App(settings, "replay", quiet=quiet) as app:
        check_tenant(app, tenant)
        if tenant is None:
            indexed(app.runner, folder, settings.inference)
        client = InProcessClient(app.answers, tenant or folder.tenant)
        return play(plans, client, DocumentNames(folder).document_id, generate=answers, rate=rate, bars=app.runner.bars)


def _via(
    folder: BeirFolder,
    plans: tuple[UserPlan, ...],
    tenant: str | None,
    answers: bool,
    rate: float | None,
    quiet: bool,
    url: str,
    key: str,
) -> ReplayReport:
    from headrace.core.progress import ProgressBars
    from headrace.simulate import ApiClient, DocumentNames, play
    from headrace.simulate.performance import patiently

    names = DocumentNames(folder)
    client = ApiClient(url, key, settings_of(tenant).tenant if tenant else None)
    try:
        if tenant is None:
            client.bring(names, patiently)
        return play(plans, client, names.document_id, generate=answers, rate=rate, bars=ProgressBars(quiet=quiet))
    finally:
        client.close()


def _say(played: ReplayReport) -> None:
    from headrace.cli.render.results import rows_table
    from headrace.explain.diagram.format import human_ms
    from headrace.terminal import printable

    report = played.as_dict()
    figures = {name: f"{report[name]:,}" for name in ("questions", "answers", "refusals")}
    figures |= {f"verdicts {way}": f"{report['verdicts'][way]:,}" for way in ("up", "down")}
    if played.flipped:
        figures["verdicts inverted"] = f"{played.flipped:,}"
    figures |= {f"latency {name}": "-" if report[key] is None else human_ms(report[key]) for name, key in _TIMES}
    figures |= {"throttled": f"{played.waits:,}", "errors": f"{len(played.errors):,}"}
    out.print(rows_table([{"": name, "count": figure} for name, figure in figures.items()]))
    out.print(
        f"{played.users} simulated user{'s' if played.users > 1 else ''}, {played.seconds:.0f} s, tenant {played.tenant}."
        + (f" {played.unjudged:,} passages are from other documents and were not judged." if played.unjudged else ""),
        highlight=False,
    )
    for error in report["first_errors"]:
        if error != str(played.failure):  # printed at the end
            err.print(printable(error), style="red", highlight=False)
    if played.interrupted:
        left = played.questions - played.answers - len(played.errors)
        err.print(f"Interrupted: {left:,} questions were not asked; all answers received are judged.", highlight=False)
    elif played.up + played.down:
        out.print("To learn from these verdicts: headrace train --simulated", style="dim")


_TIMES = (("p50", "p50_ms"), ("p95", "p95_ms"), ("max", "max_ms"))
