"""Commands that index, show and delete documents, and rebuild the index."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.common import AsJson, On, Tenant, check_tenant, checked_on, cli, err, out, print_json, settings_of, user
from headrace.errors import NotFound, WrongUsage

if TYPE_CHECKING:
    from headrace.documents.index import Indexed
    from headrace.documents.sources.follow import SourceChanges
    from headrace.documents.view import Document
    from headrace.settings import SourceSettings

documents = typer.Typer(help="Show and delete documents.", no_args_is_help=True)
cli.add_typer(documents, name="documents", rich_help_panel="Inference")


@cli.command(rich_help_panel="Inference")
def index(
    places: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH|s3://BUCKET/PREFIX|git+URL...",
            help="Files, folders, prefixes of a bucket and Git repositories. A document is named by its folder and its path in it"
            " (handbook/pump.md), a file that is named alone by its name (pump.md): as a document of its own.",
        ),
    ] = None,
    tenant: Tenant = None,
    reader: Annotated[
        list[str] | None, typer.Option(help="Only this user or group may read them; repeatable. Default: unchanged.")
    ] = None,
    everybody: Annotated[bool, typer.Option("--everybody", help="Everyone in the tenant may read them.")] = False,
    attribute: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="An attribute of these documents, for --filter; repeatable. Default: unchanged."),
    ] = None,
    no_attributes: Annotated[bool, typer.Option("--no-attributes", help="Remove all their attributes.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Retry documents that failed, even if unchanged.")] = False,
    skip: Annotated[
        list[str] | None,
        typer.Option(metavar="URI", help="Leave out this document, which blocks others, until it is put again; repeatable."),
    ] = None,
    reason: Annotated[str, typer.Option(help="With --skip: the reason, shown in its status.")] = "it held others up",
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare the whole index with the tables, and repair what it lacks. This takes long.")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Stay, and index what changes there, is added and is deleted, until Ctrl-C.")
    ] = False,
    every: Annotated[
        float | None,
        typer.Option(help="With --follow: polling interval in seconds. Default: 1, or 30 beside a Git server.", min=0.1),
    ] = None,
    accept_deletions: Annotated[
        bool,
        typer.Option(
            "--accept-deletions",
            help="Delete missing documents even if more than ten, and more than a tenth, disappear at once.",
        ),
    ] = False,
    permissions: Annotated[
        bool,
        typer.Option(
            "--permissions",
            help="Readers by the permissions in the source: mode and ACL of files, the tag `readers` of objects."
            " Default: as the settings say under [[sources]], if they name the place.",
        ),
    ] = False,
    on: On = "local",
    as_json: AsJson = False,
) -> None:
    """Index documents: put, land, parse, chunk, embed and index them."""
    from dataclasses import asdict

    from headrace.app import App
    from headrace.cli.follow import follow_sources
    from headrace.cli.render.results import say_indexed
    from headrace.documents.sources.git import url_of
    from headrace.documents.sources.places import is_path, is_repository
    from headrace.settings import usual_every_s

    if reader and everybody:
        raise WrongUsage("Give --reader or --everybody, not both.")
    if attribute and no_attributes:
        raise WrongUsage("Give --attribute or --no-attributes, not both.")
    if not places and (follow or (not skip and not verify)):
        raise WrongUsage("There is nothing to index.", hint="Name files, folders or prefixes: headrace index PATH...")
    settings = settings_of(tenant)
    for place in places or ():
        if is_path(place) and not Path(place).exists():
            raise NotFound(f"{place} does not exist.", hint="Name a file or a folder.")
        if is_repository(place):
            url_of(place)
    with App(settings, "index", on=checked_on(on), quiet=as_json) as app:
        check_tenant(app, tenant)
        for uri in skip or ():
            app.documents.leave_out(uri, f"left out by {user()}: {reason}")
            err.print(f"{uri} is left out until it is put again.", highlight=False)
        readers = [] if everybody else reader or None
        rules = [_by_permissions(place, readers) for place in places or () if permissions]
        attributes = [] if no_attributes else attribute or None

        def indexed(*, first: bool = True, changes: SourceChanges | None = None) -> Indexed:
            return app.documents.index(
                places or [],
                readers=readers,
                attributes=attributes,
                retry=retry and first,
                compare=verify and first,
                accept_deletions=accept_deletions,
                rules=rules,
                changes=changes,
            )

        if follow:
            rules_of_all = [*rules, *app.documents.rules]
            every = every or max(map(usual_every_s, places or []))
            follow_sources(app, places or [], indexed, every_s=every, rules=rules_of_all, as_json=as_json)
            return
        done = indexed()
    if as_json:
        print_json(asdict(done))
    else:
        say_indexed(out, done)
        if places and not (done.put.put or done.put.unchanged or done.put.refused):
            out.print(
                "  No file was found there; hidden ones are left out, and links to folders are not followed.", highlight=False
            )
    failed = done.parsed.failed or done.put.failed_before
    if failed and not done.parsed.parsed and done.put.unchanged <= len(done.put.failed_before):
        raise typer.Exit(1)


def _by_permissions(place: str, readers: list[str] | None) -> SourceSettings:
    """A source whose permissions count; objects without the tag have the readers named."""
    from headrace.documents.sources.places import is_bucket, is_repository
    from headrace.settings import PosixPermissions, SourceSettings, TagPermissions

    if is_repository(place):
        raise WrongUsage("The files of a Git repository have no permissions.", hint="Name the readers: --reader NAME.")
    if is_bucket(place):
        return SourceSettings(
            place=place, permissions=TagPermissions(type="tags"), readers=None if readers is None else tuple(readers)
        )
    if readers is not None:
        raise WrongUsage(
            "Give --permissions, or --reader and --everybody, for a folder.", hint="Its files have their own readers."
        )
    return SourceSettings(place=place, permissions=PosixPermissions(type="posix"))


@cli.command(rich_help_panel="Inference")
def reindex(
    chunk_tokens: Annotated[
        int | None, typer.Option(help="Word pieces per chunk; default: from the settings.", min=32, max=254)
    ] = None,
    back: Annotated[bool, typer.Option("--back", help="Serve the previous index again.")] = False,
    on: On = "local",
    as_json: AsJson = False,
) -> None:
    """Build a new index (chunk size, embedder) beside the served one, then switch to it."""
    from dataclasses import asdict

    from headrace.app import App

    if back and chunk_tokens is not None:
        raise WrongUsage("--back serves the previous index as it was built; it takes no --chunk-tokens.")
    with App(settings_of(), "reindex", on=checked_on(on), quiet=as_json) as app:
        done = app.documents.index_before() if back else app.documents.reindex(chunk_tokens)
        app.storage.archive()
    if as_json:
        print_json(asdict(done))
        return
    made = done.generation
    out.print(
        f"Now serving index {done.index.version}: {done.index.chunks:,} chunks of {made.window} word pieces, {made.width}"
        f" dimensions by {made.embedder}; {done.seconds:.1f} s. To serve the previous one again: headrace reindex --back",
        highlight=False,
    )


@documents.command("list")
def list_documents(
    tenant: Tenant = None,
    status: Annotated[str | None, typer.Option(help="Only those put, parsed, indexed, failed or deleting.")] = None,
    after: Annotated[str, typer.Option(metavar="URI", help="Start after this document.")] = "",
    most: Annotated[int, typer.Option(help="Documents to show.", min=1, max=100_000)] = 100,
    as_json: AsJson = False,
) -> None:
    """List the documents of a tenant by name, with their status and readers."""
    from headrace.app import App
    from headrace.cli.render.results import rows_table
    from headrace.documents.view import STATUSES, DocumentView
    from headrace.explain.diagram.format import human_bytes

    if status is not None and status not in STATUSES:
        raise WrongUsage(f"There is no status {status!r}.", hint=f"Choose from {', '.join(STATUSES)}.")
    settings = settings_of(tenant)
    with App(settings, "documents", models=False, quiet=as_json) as app:
        check_tenant(app, tenant)
        found, more = DocumentView(app.runner).page(settings.tenant, after=after, most=most, status=status)
    if as_json:
        print_json({"documents": [document.as_dict() for document in found], "more": more})
        return
    rows = [
        {
            "document": document.uri,
            "status": document.status,
            "bytes": human_bytes(document.bytes),
            "readers": ", ".join(document.readers) or "everybody",
            "put": document.at.astimezone().strftime("%d %b %H:%M"),
            "reason": document.reason,
        }
        for document in found
    ]
    if not any(row["reason"] for row in rows):
        rows = [{name: value for name, value in row.items() if name != "reason"} for row in rows]
    out.print(rows_table(rows) if rows else f"Tenant {settings.tenant} has no such documents. Put some: headrace index PATH...")
    if more:
        out.print(f"There are more: --after {found[-1].uri!r}, or --most N.", style="dim", highlight=False, soft_wrap=True)


@documents.command("show")
def show_document(uri: Annotated[str, typer.Argument(help="Its name, as in `documents list`.")], tenant: Tenant = None) -> None:
    """Show one document, as JSON: its status, readers, versions, and the passages it has in the index."""
    from headrace.app import App
    from headrace.documents.view import DocumentView

    settings = settings_of(tenant)
    with App(settings, "documents", models=False, quiet=True) as app:
        check_tenant(app, tenant)
        view = DocumentView(app.runner)
        document = _document(view.stored, settings.tenant, uri)
        shown = {**document.as_dict(), "versions": sorted(filter(None, view.versions_of(settings.tenant, document.uri)))}
        shown["passages"] = view.passages_of(document)
    print_json(shown)


@documents.command("delete")
def delete_document(
    uri: Annotated[str, typer.Argument(help="Its name, as in `documents list`.")],
    tenant: Tenant = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete a document: its source in every version and its passages; questions no longer find it.

    Its text stays in the tables' history until maintenance removes it, and may be put again. See `headrace forget` for good.
    """
    import sys

    from headrace.app import App
    from headrace.documents.put import delete
    from headrace.documents.view import DocumentView
    from headrace.terminal import printable

    settings = settings_of(tenant)
    if not yes:
        if not sys.stdin.isatty():
            raise WrongUsage("Nothing was deleted.", hint="Give --yes where no terminal can ask for confirmation.")
        typer.confirm(f"Delete {printable(uri)} of tenant {settings.tenant}?", abort=True, err=True)
    with App(settings, "documents", quiet=as_json) as app:
        check_tenant(app, tenant)
        view = DocumentView(app.runner)
        document = _document(view.stored, settings.tenant, uri)
        versions = view.freed_by_deletion(settings.tenant, document.uri)
        app.runner.run(delete, tenant=settings.tenant, uri=document.uri, versions=versions)
        app.documents.index([])
    if as_json:
        print_json({"deleted": document.uri, "document_id": document.id})
    else:
        out.print(f"Deleted {printable(document.uri)}.", highlight=False)


def _document(find: Callable[[str, str], Document | None], tenant: str, uri: str) -> Document:
    from headrace.documents.names import composed

    document = find(tenant, composed(uri)) or find(tenant, uri)
    if document is None:
        raise NotFound(f"Tenant {tenant} has no document {uri!r}.", hint="headrace documents list shows the names.")
    return document
