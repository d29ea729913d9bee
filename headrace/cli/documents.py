"""Documents: put into the index, and the index built anew."""

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
        list[str] | None, typer.Option(help="Only this user or group may read them; repeatable. Otherwise it stays as it is.")
    ] = None,
    everybody: Annotated[bool, typer.Option("--everybody", help="Everybody of the tenant may read them from now on.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Documents that failed are tried again, though unchanged.")] = False,
    skip: Annotated[
        list[str] | None,
        typer.Option(metavar="URI", help="Leave out this document, which holds others up, until it is put again; repeatable."),
    ] = None,
    reason: Annotated[str, typer.Option(help="With --skip: why, as its status will say.")] = "it held others up",
    on: On = "local",
    as_json: AsJson = False,
) -> None:
    """Index documents: put, land, parse, chunk, embed, index."""
    from dataclasses import asdict

    from headrace.app import App
    from headrace.cli.render.results import say_indexed

    if reader and everybody:
        raise WrongUsage("Say --reader or --everybody, not both.")
    if not paths and not skip:
        raise WrongUsage("Nothing to index is named.", hint="Name files or folders: headrace index PATH...")
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
        int | None, typer.Option(help="Word pieces of a chunk; the settings' number unless named.", min=32, max=254)
    ] = None,
    back: Annotated[bool, typer.Option("--back", help="Serve the index before this one again.")] = False,
    on: On = "local",
    as_json: AsJson = False,
) -> None:
    """Build another index beside the one that answers (chunk size, embedder), then serve it."""
    from dataclasses import asdict

    from headrace.app import App

    if back and chunk_tokens is not None:
        raise WrongUsage("--back serves the earlier index as it was made: it takes no --chunk-tokens.")
    with App(settings_of(), "reindex", on=checked_on(on), quiet=as_json) as app:
        done = app.documents.index_before() if back else app.documents.reindex(chunk_tokens)
        app.storage.archive()
    if as_json:
        print_json(asdict(done))
        return
    made = done.generation
    out.print(
        f"Index {done.index.version} answers: {done.index.chunks:,} chunks of {made.window} word pieces, {made.width} numbers by"
        f" {made.embedder}; {done.seconds:.1f} s. To serve the earlier one again: headrace reindex --back",
        highlight=False,
    )
