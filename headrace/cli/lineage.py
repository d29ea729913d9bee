"""Commands that trace answers and events, and forget users and documents."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from headrace.cli.common import AsJson, Tenant, check_tenant, cli, err, out, print_json, settings_of, user
from headrace.errors import NotFound, WrongUsage
from headrace.terminal import printable


@cli.command(rich_help_panel="Lineage")
def trace(
    what: Annotated[str, typer.Argument(metavar="ANSWER_ID|TOPIC/PARTITION/OFFSET", help="An answer, or an event of the head.")],
    as_json: AsJson = False,
) -> None:
    """Trace an answer back to the verdicts behind it, or an event forward to the models that learned from it."""
    from headrace.app import App
    from headrace.cli.render.lineage import answer_tree, event_tree
    from headrace.lineage.graph import trace_answer, trace_event

    with App(settings_of(), "trace", models=False, quiet=as_json) as app:
        app.storage.land()
        run, event = app.runner.run, "/" in what
        tree = run(trace_event, event=what) if event else run(trace_answer, answer_id=what)
    if as_json:
        print_json(tree)
    else:
        out.print(event_tree(tree) if event else answer_tree(tree), highlight=False)


@cli.command(rich_help_panel="Lineage")
def forget(
    of_user: Annotated[str | None, typer.Option("--user", metavar="ID", help="The user to forget.")] = None,
    document: Annotated[str | None, typer.Option(metavar="URI", help="The document to forget, all versions.")] = None,
    tenant: Tenant = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="PROOF.json", help="Also write the proof to this file.")
    ] = None,
    verify: Annotated[
        Path | None, typer.Option(metavar="PROOF.json", help="Only check that this proof is unmodified, by its own hash.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Remove a user's data or a document for good, keep it out of later datasets, and write a proof."""
    import json
    from contextlib import closing

    from headrace.answering.unrecorded import Unrecorded
    from headrace.api.audit import audit
    from headrace.app import App
    from headrace.atomic import write_atomically
    from headrace.catalog import FEEDBACK_ROWS, INTERACTION_ROWS
    from headrace.lineage.forget import Subject
    from headrace.lineage.forget import forget as go
    from headrace.lineage.forget.subject import DOCUMENT, USER
    from headrace.settings import EmbeddedPart
    from headrace.storage.metadata import AuditLine, By, Metadata

    if sum(one is not None for one in (of_user, document, verify)) != 1:
        raise WrongUsage("Give one of --user ID, --document URI and --verify PROOF.json.")
    if verify is not None:
        _verify(verify, as_json=as_json)
        return
    settings = settings_of(tenant)
    name = of_user if of_user is not None else document
    if not name:
        raise WrongUsage("The name is empty.")
    subject = Subject(USER if of_user is not None else DOCUMENT, settings.tenant, name)
    if not yes:
        if not sys.stdin.isatty():
            raise WrongUsage("Forgetting cannot be undone.", hint="Give --yes where no terminal can ask for confirmation.")
        typer.confirm(f"Forget {printable(str(subject))} for good? This cannot be undone.", abort=True, err=True)
    with (
        App(settings, "forget", models=False, quiet=as_json) as app,
        closing(Metadata(app.runner.endpoints)) as metadata,
    ):
        embedded = isinstance(settings.head, EmbeddedPart)
        metadata.tenants()  # fail before anything is removed if the metadata store does not answer
        Unrecorded(settings.home).record(app.runner)  # or the answers waiting there would bring the data back
        if tenant is not None:
            app.storage.land()  # a user's first event may be on the head alone
            check_tenant(app, tenant, also=(INTERACTION_ROWS, FEEDBACK_ROWS))
        proof = go(app.runner, subject, who=f"cli:{user()}", embedded=embedded)
        app.runner.record.detail["proof"] = proof["sha256"]
        # Name the proof, not the subject: the audit log must not remember who was forgotten.
        line = AuditLine(
            By(subject.tenant, f"cli:{user()}", "local"),
            f"{subject.kind}.forget",
            _proof_location(proof),
        )
        metadata.note([line])
        app.runner.run(audit)
        app.storage.archive()
    if as_json:
        print_json(proof)
    else:
        _say(subject, proof)
    if output is not None:  # last: where it cannot be written, the lines above say what was done, and where the proof is kept
        write_atomically(output, json.dumps(proof, indent=1, ensure_ascii=False).encode())
        err.print(f"Wrote {output}.", highlight=False)


def _verify(path: Path, *, as_json: bool) -> None:
    """Say whether a proof is unmodified; ends with exit code 1 where it is not."""
    import json

    from headrace.lineage.forget.forget import is_unmodified
    from headrace.regular_file import read_regular

    try:
        proof = json.loads(read_regular(path))
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError:
        proof = None
    if not isinstance(proof, dict) or not isinstance(proof.get("sha256"), str):
        raise WrongUsage(f"{path} is not a proof.", hint="headrace forget -o PROOF.json writes one.")
    unmodified = is_unmodified(proof)
    if as_json:
        print_json({"unmodified": unmodified, "sha256": proof["sha256"]})
    else:
        out.print(f"The proof {'is unmodified' if unmodified else 'was modified'}: {path}", highlight=False, soft_wrap=True)
    if not unmodified:
        raise typer.Exit(1)


def _say(subject: Any, proof: dict[str, Any]) -> None:
    from rich.text import Text

    from headrace.cli.render.results import rows_table

    out.print(Text(f"Forgotten: {printable(str(subject))}.", style="bold"))
    removed = [
        {"store": piece["store"], "tier": piece["tier"], "what": piece["what"], "count": f"{piece['count']:,}"}
        for piece in proof["removed"]
    ]
    if removed:
        out.print(rows_table(removed))
    for one in proof["remains"]:
        out.print(Text(printable(f"  remains: {one['where']}: {one['what']} ({one['why']})")), soft_wrap=True)
    for model in proof["learned"]:
        now = f"answers {model['share']:.0%} now" if model["served"] else "not served now"
        out.print(
            Text(f"  had learned from it: {model['model']} {model['version']} of round {model['round']}, {now}", style="yellow")
        )
    if subject.kind == "document":
        again = "its file, if it is still in a folder, is yours to remove: the next `headrace index` of the folder brings it back"
        out.print(f"  {again}", highlight=False, soft_wrap=True)
    for command in proof["retrain"]:
        out.print(f"  to train a model that never saw it: {command}", highlight=False)
    out.print(f"  proof {proof['sha256'][:16]}… kept as {_proof_location(proof)}", style="dim")


def _proof_location(proof: dict[str, Any]) -> str:
    """Where the proof is stored; a proof from an earlier run has no `kept` field."""
    return str(proof.get("kept", f"proofs/{proof['id']}.json"))
