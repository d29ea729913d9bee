"""Questions, and verdicts on what they were answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.common import As, AsJson, Tenant, app, checked_question, out, print_json, settings_of, user
from headrace.errors import NotFound, WrongUsage

if TYPE_CHECKING:
    from headrace.core.runner import Runner


@app.command(rich_help_panel="Inference")
def search(
    question: Annotated[str, typer.Argument(help="What to search for.")],
    tenant: Tenant = None,
    principals: As = None,
    as_json: AsJson = False,
) -> None:
    """The passages for a question, with both scores and both ranks."""
    from headrace.cli.render.results import rows_table
    from headrace.session import opened
    from headrace.terminal import printable

    settings, question = settings_of(tenant), checked_question(question)
    with opened("search", settings, quiet=as_json) as session:
        found = session.engine().search(question, tenant=settings.tenant, user=user(), readers=principals or ())
    passages = [passage.as_dict() for passage in found.passages]
    if as_json:
        print_json(
            {
                "answer_id": found.answer_id,
                "passages": passages,
                "model_version": found.model_version,
                "index_version": found.index_version,
                "timings_ms": found.timings_ms,
                "bytes": found.bytes,
                **({"note": found.note} if found.note else {}),
            }
        )
        return
    shown = [
        {
            "#": number,
            "document": printable(" · ".join(filter(None, (passage.hit.uri, passage.hit.place)))),
            "passage": " ".join(passage.hit.text.split())[:70],
            "retrieval": f"{passage.hit.score:.4f} (rank {passage.retrieval_rank})",
            "re-ranker": "-" if passage.rerank_score is None else f"{passage.rerank_score:+.2f} (rank {passage.rerank_rank})",
        }
        for number, passage in enumerate(found.passages[:10], 1)
    ]
    out.print(rows_table(shown))
    if found.note:  # that the re-ranker was left out, for one
        out.print(f"note: {printable(found.note)}", style="yellow", highlight=False, soft_wrap=True)


@app.command(rich_help_panel="Inference")
def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    tenant: Tenant = None,
    principals: As = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question from the documents, with citations."""
    from headrace.answering.record import Answer
    from headrace.cli.render.results import say_sources
    from headrace.session import opened

    settings, question = settings_of(tenant), checked_question(question)
    with opened("ask", settings, quiet=as_json) as session:
        for piece in session.engine().ask(question, tenant=settings.tenant, user=user(), readers=principals or ()):
            if isinstance(piece, Answer):
                if as_json:
                    print_json(piece.as_dict())
                else:
                    out.print()
                    say_sources(out, piece)
                    out.print(
                        f"  judge it: headrace feedback {piece.answer_id} --up  (or --down --reason …)",
                        style="dim",
                        highlight=False,
                    )
            elif not as_json:
                out.out(piece, end="", highlight=False)
                out.file.flush()


@app.command(rich_help_panel="Inference")
def feedback(
    answer_id: Annotated[str, typer.Argument(help="The answer's id.")],
    up: Annotated[bool, typer.Option("--up", help="It helped.")] = False,
    down: Annotated[bool, typer.Option("--down", help="It did not.")] = False,
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    correction: Annotated[str, typer.Option(help="What the answer should have been.")] = "",
    consent: Annotated[
        bool | None,
        typer.Option("--consent/--no-consent", help="Whether models may learn from it; the settings say what unsaid means."),
    ] = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Judge an answer: the verdict goes onto the head and into the next round."""
    from headrace.answering.record import Verdict
    from headrace.answering.record import feedback as feedback_stage
    from headrace.session import opened

    if up == down:
        raise WrongUsage("Say --up or --down, one of them.")
    settings = settings_of(tenant)
    verdict = Verdict(answer_id, up, settings.tenant, user(), reason=reason, correction=correction, consent=consent)
    with opened("feedback", settings, models=False, quiet=as_json) as session:
        _known_answer(session.runner, answer_id, settings.tenant)
        places = session.runner.for_tenant(settings.tenant).run(feedback_stage, verdicts=[verdict])
    if as_json:
        print_json({"verdict_id": verdict.verdict_id, "topic": "feedback", "partition": places[0][0], "offset": places[0][1]})
    else:
        asked = settings.training.preparing.require_consent
        suppressed = consent is False or (asked and consent is None)
        learns = "No round will learn from it." if suppressed else "The next round learns from it: headrace train"
        out.print(f"Recorded at feedback/{places[0][0]}/{places[0][1]}. {learns}")


def _known_answer(runner: Runner, answer_id: str, tenant: str) -> None:
    """Raise `NotFound` unless that answer of the tenant's was given: a verdict on nothing would be lost silently."""
    from headrace.catalog import INTERACTION_ROWS, INTERACTIONS
    from headrace.ingest.land import land as land_stage
    from headrace.storage.tables.handles import TableReader, quoted

    runner.run(land_stage).require(INTERACTIONS)
    table = runner.open(TableReader, INTERACTION_ROWS, stage="feedback", tenant=tenant)
    rows = table.read(("answer_id", "tenant"), f"answer_id = {quoted(answer_id)}")
    if tenant not in rows["tenant"].to_pylist():
        raise NotFound(f"Tenant {tenant!r} was given no answer {answer_id!r}.", hint="`headrace ask` prints the id.")
