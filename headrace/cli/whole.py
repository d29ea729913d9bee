"""Everything at once: the demo, and the service until Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.common import On, app, checked_on, err, out, settings_of


@app.command(rich_help_panel="Start here")
def demo(
    docs: Annotated[Path | None, typer.Option(help="A folder of your own; Python's language reference unless named.")] = None,
    on: On = "local",
    out_dir: Annotated[Path, typer.Option("--out", help="Where the scores are drawn.")] = Path("out"),
    questions: Annotated[int, typer.Option(help="Searches of the simulated user.", min=1, max=10_000)] = 160,
) -> None:
    """Both pipelines once, for real, on the embedded platform, with a report."""
    from headrace.demo import run_demo

    run_demo(settings_of(), docs=docs, on=checked_on(on), out_dir=out_dir, questions=questions, console=out)


@app.command(rich_help_panel="Start here")
def up(
    port: Annotated[int, typer.Option(help="Port of the API and the page.", min=1, max=65535)] = 8484,
) -> None:
    """The platform, the API and the page, until Ctrl-C."""
    import secrets

    from headrace.pipeline.progress import Bars
    from headrace.session import opened
    from headrace.web import Service, create_app, serve
    from headrace.web.serve import bound

    settings = settings_of()
    bound(port).close()  # a taken port is said before anything is started
    token = secrets.token_urlsafe(18)
    err.print("Starting the platform …", style="dim")
    with opened("up", settings) as session:
        # Nobody watches a bar that moves whenever somebody puts a document.
        session.runner.bars = Bars(quiet=True)
        service = Service(session.runner, session.desk(), settings)
        out.print(f"Headrace is up: http://127.0.0.1:{port}/?token={token}", highlight=False, soft_wrap=True)
        out.print("Ctrl-C ends it.", style="dim")
        serve(create_app(service, token), port)
