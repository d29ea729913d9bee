"""Commands that search, ask, and judge answers."""

from __future__ import annotations

import textwrap
from typing import Annotated, Literal

import typer

from headrace.cli.common import As, AsJson, Filtered, Tenant, checked_question, cli, out, print_json, settings_of, user
from headrace.errors import NotFound, WrongUsage
from headrace.storage.filters import Filters


@cli.command(rich_help_panel="Inference")
def search(
    question: Annotated[str, typer.Argument(help="What to search for.")],
    tenant: Tenant = None,
    principals: As = None,
    filters: Filtered = None,
    as_json: AsJson = False,
) -> None:
    """Retrieve the passages for a question, with retrieval and re-ranker scores and ranks."""
    from headrace.app import App
    from headrace.cli.render.results import rows_table, where
    from headrace.terminal import printable

    settings, question, chosen = settings_of(tenant), checked_question(question), Filters.parse(filters or ())
    with App(settings, "search", quiet=as_json) as app:
        if tenant is not None:
            app.documents.require_tenant()
        answer = app.answers.search(question, tenant=settings.tenant, user=user(), readers=principals or (), filters=chosen)
    passages = [passage.as_dict() for passage in answer.passages]
    if as_json:
        print_json(
            {
                "answer_id": answer.answer_id,
                "passages": passages,
                "model_version": answer.model_version,
                "ranking_version": answer.ranking_version,
                "index_version": answer.index_version,
                "timings_ms": answer.timings_ms,
                "bytes": answer.bytes,
                **({"filters": list(answer.filters)} if answer.filters else {}),
                **({"note": answer.note} if answer.note else {}),
            }
        )
        return
    shown = [
        {
            "#": number,
            "document": where(passage.as_dict() | {"heading": ""}),
            "passage": textwrap.shorten(passage.hit.text, 90, placeholder=" …"),
            "retrieval": f"{passage.hit.score:.4f} (rank {passage.retrieval_rank})",
            "re-ranker": "-" if passage.rerank_score is None else f"{passage.rerank_score:+.2f}",
        }
        for number, passage in enumerate(answer.passages[:10], 1)
    ]
    out.print(rows_table(shown))
    if answer.note:  # e.g. that the re-ranker was skipped
        out.print(f"note: {printable(answer.note)}", style="yellow", highlight=False, soft_wrap=True)


@cli.command(rich_help_panel="Inference")
def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    tenant: Tenant = None,
    principals: As = None,
    filters: Filtered = None,
    after: Annotated[
        str | None, typer.Option(metavar="ANSWER_ID", help="The question follows up on this answer.", show_default=False)
    ] = None,
    answers: Annotated[
        Literal["extractive", "generated"] | None,
        typer.Option(help="Quote the passages or have the generator write; default: inference.answers."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question from the documents, with citations."""
    from headrace.answering.options import AnswerOptions
    from headrace.answering.record import Answer
    from headrace.app import App
    from headrace.catalog import INTERACTIONS
    from headrace.cli.render.results import say_sources

    settings, question, chosen = settings_of(tenant), checked_question(question), Filters.parse(filters or ())
    with App(settings, "ask", quiet=as_json) as app:
        history = []
        if after is not None:
            app.storage.land().require(INTERACTIONS)
            history = [app.answers.turn(after, tenant=settings.tenant, user=user())]
        if tenant is not None:
            app.documents.require_tenant()
        for piece in app.answers.ask(
            question,
            tenant=settings.tenant,
            user=user(),
            readers=principals or (),
            filters=chosen,
            history=history,
            options=AnswerOptions(mode=answers),
        ):
            if isinstance(piece, Answer):
                if as_json:
                    print_json(piece.as_dict())
                else:
                    out.print()
                    say_sources(out, piece)
                    if piece.kind == "answer":
                        judge = f"judge it: headrace feedback {piece.answer_id} --up  (or --down --reason …)"
                        more = f"follow up: headrace ask QUESTION --after {piece.answer_id}"
                        out.print(f"  {judge}\n  {more}", style="dim", highlight=False)
            elif not as_json:
                out.out(piece, end="", highlight=False)
                out.file.flush()


@cli.command(rich_help_panel="Inference")
def feedback(
    answer_id: Annotated[str, typer.Argument(help="The answer's id.")],
    up: Annotated[bool, typer.Option("--up", help="It helped.")] = False,
    down: Annotated[bool, typer.Option("--down", help="It did not help.")] = False,
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    correction: Annotated[str, typer.Option(help="What the answer should have been.")] = "",
    consent: Annotated[
        bool | None,
        typer.Option("--consent/--no-consent", help="Whether models may learn from it; default: from the settings."),
    ] = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Judge an answer; the next training round learns from the verdict."""
    from dataclasses import asdict

    from headrace.answering.record import Verdict
    from headrace.app import App
    from headrace.catalog import INTERACTIONS

    if up == down:
        raise WrongUsage("Give either --up or --down.")
    settings = settings_of(tenant)
    verdict = Verdict(answer_id, up, settings.tenant, user(), reason=reason, correction=correction, consent=consent)
    with App(settings, "feedback", models=False, quiet=as_json) as app:
        app.storage.land().require(INTERACTIONS)
        if app.answers.verdicts.answer(answer_id, settings.tenant) is None:  # or the verdict would be lost silently
            raise NotFound(f"Tenant {settings.tenant!r} has no answer {answer_id!r}.", hint="`headrace ask` prints the id.")
        [recorded] = app.answers.verdicts.record([verdict])
    if as_json:
        print_json(asdict(recorded))
    else:
        consent_required = settings.training.preparing.require_consent
        suppressed = consent is False or (consent_required and consent is None)
        learns = "No round will learn from it." if suppressed else "The next round learns from it: headrace train"
        out.print(f"Recorded at {recorded.topic}/{recorded.partition}/{recorded.offset}. {learns}")
