"""Commands that index documents and rebuild the index."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.common import AsJson, On, Tenant, checked_on, cli, err, out, print_json, settings_of, user
from headrace.errors import NotFound, WrongUsage


@cli.command(rich_help_panel="Inference")
def index(
    paths: Annotated[list[Path] | None, typer.Argument(metavar="PATH...", help="Files and folders to index.")] = None,
    tenant: Tenant = None,
    reader: Annotated[
        list[str] | None, typer.Option(help="Only this user or group may read them; repeatable. Default: unchanged.")
    ] = None,
    everybody: Annotated[bool, typer.Option("--everybody", help="Everyone in the tenant may read them.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Retry documents that failed, even if unchanged.")] = False,
    skip: Annotated[
        list[str] | None,
        typer.Option(metavar="URI", help="Leave out this document, which blocks others, until it is put again; repeatable."),
    ] = None,
    reason: Annotated[str, typer.Option(help="With --skip: the reason, shown in its status.")] = "it held others up",
    on: On = "local",
    as_json: AsJson = False,
) -> None:
    """Index documents: put, land, parse, chunk, embed and index them."""
    from dataclasses import asdict

    from headrace.app import App
    from headrace.cli.render.results import say_indexed

    if reader and everybody:
        raise WrongUsage("Give --reader or --everybody, not both.")
    if not paths and not skip:
        raise WrongUsage("There is nothing to index.", hint="Name files or folders: headrace index PATH...")
    settings = settings_of(tenant)
    for path in paths or ():
        if not path.exists():
            raise NotFound(f"{path} does not exist.", hint="Name a file or a folder.")
    with App(settings, "index", on=checked_on(on), quiet=as_json) as app:
        for uri in skip or ():
            app.documents.leave_out(uri, f"left out by {user()}: {reason}")
            err.print(f"{uri} is left out until it is put again.", highlight=False)
        done = app.documents.index(paths or [], readers=[] if everybody else reader or None, retry=retry)
        app.storage.archive()
    if as_json:
        print_json(asdict(done))
    else:
        say_indexed(out, done)


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
