"""Commands that search, ask, and judge answers."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from headrace.cli.common import (
    As,
    AsJson,
    Filtered,
    Tenant,
    check_tenant,
    checked_question,
    cli,
    in_this_home,
    out,
    print_json,
    settings_of,
    user,
)
from headrace.errors import NotFound, WrongUsage
from headrace.storage.filters import Filters

if TYPE_CHECKING:
    from headrace.settings import Settings

AnswerModeName = Literal["extractive", "generated"]


@cli.command(rich_help_panel="Inference")
def search(
    question: Annotated[str, typer.Argument(help="What to search for.")],
    tenant: Tenant = None,
    principals: As = None,
    filters: Filtered = None,
    as_json: AsJson = False,
) -> None:
    """Retrieve the passages for a question, with retrieval and re-ranker scores and ranks."""
    from headrace.cli.render.results import rows_table, where
    from headrace.cli.running import running_api
    from headrace.terminal import printable

    settings, question, chosen = settings_of(tenant), checked_question(question), Filters.parse(filters or ())
    if (api := running_api(settings)) is not None:
        found = api.post("/v1/search", _asked(question, settings.tenant, principals, chosen))
    else:
        from headrace.app import App

        _require_documents(settings)
        with App(settings, "search", quiet=as_json) as app:
            check_tenant(app, tenant)
            answer = app.answers.search(question, tenant=settings.tenant, user=user(), readers=principals or (), filters=chosen)
        found = answer.as_dict() | {"passages": [passage.as_dict() for passage in answer.passages]}
    if as_json:
        print_json({name: found[name] for name in _SEARCHED if name in found})
        return
    shown = [
        {
            "#": number,
            "document": where(passage | {"heading": ""}),
            "passage": textwrap.shorten(passage["text"], 90, placeholder=" …"),
            "retrieval": f"{passage['retrieval_score']:.4f} (rank {passage['retrieval_rank']})",
            "re-ranker": "-" if passage.get("rerank_score") is None else f"{passage['rerank_score']:+.2f}",
        }
        for number, passage in enumerate(found["passages"][:10], 1)
    ]
    out.print(rows_table(shown))
    judge = f"judge a passage: {in_this_home('feedback')} {found['answer_id']} --passage CHUNK_ID --up  (chunk ids: --json)"
    out.print(judge, style="dim", highlight=False)
    if (ranking := found["ranking_version"]) != "none":  # its scores are sums over features, and are not shown
        out.print(f"ordered by ranking {ranking}", style="dim", highlight=False)
    if found.get("note"):  # e.g. that the re-ranker was skipped
        out.print(f"note: {printable(found['note'])}", style="yellow", highlight=False, soft_wrap=True)


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
        AnswerModeName | None,
        typer.Option(help="Quote the passages or have the generator write; default: inference.answers."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question from the documents, with citations."""
    from headrace.cli.render.results import say_sources

    settings, question, chosen = settings_of(tenant), checked_question(question), Filters.parse(filters or ())
    found: dict[str, Any] = {}
    for piece in _pieces(settings, question, tenant, principals, chosen, after, answers, quiet=as_json):
        if isinstance(piece, dict):
            found = piece
        elif not as_json:
            out.out(piece, end="", highlight=False)
            out.file.flush()
    if as_json:
        print_json(found)
        return
    out.print()
    say_sources(out, found)
    if found["kind"] == "answer":
        judge = f"judge it: {in_this_home('feedback')} {found['answer_id']} --up  (or --down --reason …)"
        more = f"follow up: {in_this_home('ask')} QUESTION --after {found['answer_id']}"
        out.print(f"  {judge}\n  {more}", style="dim", highlight=False)


def _pieces(
    settings: Settings,
    question: str,
    tenant: str | None,
    principals: list[str] | None,
    filters: Filters,
    after: str | None,
    answers: AnswerModeName | None,
    *,
    quiet: bool,
) -> Iterator[str | dict[str, Any]]:
    """The pieces of an answer's text, then the answer as JSON: by the `headrace up` of this home, else by this process."""
    from headrace.cli.running import running_api

    if (api := running_api(settings)) is not None:
        body = _asked(question, settings.tenant, principals, filters, after=after, answers=answers, stream=True)
        for name, event in api.events("/v1/ask", body):
            yield event["text"] if name == "piece" else {"kind": "answer", **event}
        return
    from headrace.answering.options import AnswerOptions
    from headrace.answering.record import Answer
    from headrace.app import App
    from headrace.catalog import INTERACTIONS

    _require_documents(settings)
    with App(settings, "ask", quiet=quiet) as app:
        check_tenant(app, tenant)
        history = []
        if after is not None:
            app.storage.land().require(INTERACTIONS)
            history = [app.answers.turn(after, tenant=settings.tenant, user=user())]
        for piece in app.answers.ask(
            question,
            tenant=settings.tenant,
            user=user(),
            readers=principals or (),
            filters=filters,
            history=history,
            options=AnswerOptions(mode=answers),
        ):
            yield piece.with_passages() if isinstance(piece, Answer) else piece


def _require_documents(settings: Settings) -> None:
    """Raise `NothingIndexed` where the embedded object store is empty, before servers and models are started for that."""
    from headrace.errors import NothingIndexed
    from headrace.platform.home import Home
    from headrace.settings import EmbeddedPart

    objects = Home(settings.home).objects
    embedded = isinstance(settings.objects, EmbeddedPart) and settings.vectors.uri is None
    if embedded and not (objects.is_dir() and any(objects.iterdir())):
        raise NothingIndexed


def _asked(question: str, tenant: str, principals: list[str] | None, filters: Filters, **more: Any) -> dict[str, Any]:
    """The body of a question to the API."""
    body = {"question": question, "tenant": tenant, "readers": principals or [], "filters": list(filters.said), **more}
    return {name: value for name, value in body.items() if value is not None}


_SEARCHED = (
    *("answer_id", "passages", "model_version", "ranking_version", "index_version", "timings_ms", "bytes", "filters", "note"),
)
"""Keys of `headrace search --json`."""


@cli.command(rich_help_panel="Inference")
def feedback(
    answer_id: Annotated[str, typer.Argument(help="The answer's id.")],
    up: Annotated[bool, typer.Option("--up", help="It helped.")] = False,
    down: Annotated[bool, typer.Option("--down", help="It did not help.")] = False,
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    correction: Annotated[str, typer.Option(help="What the answer should have been.")] = "",
    passage: Annotated[
        str, typer.Option(metavar="CHUNK_ID", help="Judge this passage of it, by the chunk_id that --json shows, not the answer.")
    ] = "",
    consent: Annotated[
        bool | None,
        typer.Option("--consent/--no-consent", help="Whether models may learn from it; default: from the settings."),
    ] = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Judge an answer, or one of its passages; the next training round learns from the verdict."""
    from dataclasses import asdict

    from headrace.answering.record import Verdict
    from headrace.cli.running import running_api

    if up == down:
        raise WrongUsage("Give either --up or --down.")
    settings = settings_of(tenant)
    verdict = Verdict(answer_id, up, settings.tenant, user(), passage, reason=reason, correction=correction, consent=consent)
    if (api := running_api(settings)) is not None:
        body = {"answer_id": answer_id, "up": up, "chunk_id": passage, "reason": reason, "correction": correction}
        recorded = api.post("/v1/feedback", body | {"consent": consent, "tenant": settings.tenant})
    else:
        from headrace.app import App
        from headrace.catalog import INTERACTIONS

        with App(settings, "feedback", models=False, quiet=as_json) as app:
            check_tenant(app, tenant)
            app.storage.land().require(INTERACTIONS)
            answer = app.answers.verdicts.answer(answer_id, settings.tenant)
            if answer is None:  # or the verdict would be lost silently
                raise NotFound(f"Tenant {settings.tenant!r} has no answer {answer_id!r}.", hint="`headrace ask` prints the id.")
            if passage and passage not in answer.chunks:
                raise NotFound(f"Answer {answer_id} is not based on a chunk {passage}.", hint="Take chunk_id from its passages.")
            recorded = asdict(app.answers.verdicts.record([verdict])[0])
    if as_json:
        print_json(recorded)
    else:
        consent_required = settings.training.preparing.require_consent
        suppressed = consent is False or (consent_required and consent is None)
        later = "A later round learns from it: run `headrace train`, or leave that to the loop of `headrace up`."
        learns = "No round will learn from it." if suppressed else later
        place = "{topic}/{partition}/{offset}".format(**recorded)
        out.print(f"Recorded at {place}. {learns}", soft_wrap=True)
