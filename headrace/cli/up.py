"""Everything at once: the demo, and the service until Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from headrace.cli.common import AsJson, On, app, checked_on, err, out, print_json, settings_of
from headrace.errors import Unavailable


@app.command(rich_help_panel="Start here")
def demo(
    docs: Annotated[Path | None, typer.Option(help="A folder of your own; Python's language reference unless named.")] = None,
    on: On = "local",
    out_dir: Annotated[Path, typer.Option("--out", help="Where the scores are drawn.")] = Path("out"),
    questions: Annotated[int, typer.Option(help="Searches of the simulated user.", min=1, max=10_000)] = 160,
) -> None:
    """Both pipelines once, for real, on the embedded platform, with a report."""
    from headrace.cli.demo import run_demo

    run_demo(settings_of(), docs=docs, on=checked_on(on), out_dir=out_dir, questions=questions, console=out)


@app.command(rich_help_panel="Start here")
def up(
    port: Annotated[int, typer.Option(help="Port of the API and the page.", min=1, max=65535)] = 8484,
    train: Annotated[bool, typer.Option("--train/--no-train", help="Run the training loop, in a process of its own.")] = True,
) -> None:
    """The platform, the API and the page, landing and the training loop, until Ctrl-C."""
    import secrets
    from contextlib import ExitStack

    from headrace.api import Service, create_app, serve
    from headrace.api.serve import bound
    from headrace.core.progress import Bars
    from headrace.platform import running
    from headrace.platform.home import Home
    from headrace.platform.state import recorded_service
    from headrace.readiness import Ask
    from headrace.scheduler.ingest_thread import IngestThread
    from headrace.scheduler.process import SchedulerProcess
    from headrace.session import opened

    settings = settings_of()
    bound(port).close()  # a taken port is said before anything is started
    token = secrets.token_urlsafe(18)
    err.print("Starting the platform …", style="dim")
    with opened("up", settings, ends=True) as session, ExitStack() as beside:
        # Nobody watches a bar that moves whenever somebody puts a document.
        session.runner.bars = Bars(quiet=True)
        service = Service(session.runner, session.engine(keeps=True), settings)
        application = create_app(service, token)
        application.state.landing = landing = beside.enter_context(IngestThread(session))
        service.readiness.add(Ask("landing", landing.trouble, "`headrace head` says what does not land, and what goes on."))
        application.state.trains = train
        if train:
            beside.enter_context(SchedulerProcess(settings, session.run.id))
        beside.callback(landing.stop)  # first of all, so that both end at the same time
        beside.enter_context(recorded_service(Home(settings.home), port))
        out.print(f"Headrace is up: http://127.0.0.1:{port}/#token={token}", highlight=False, soft_wrap=True)
        out.print("Ctrl-C ends it.", style="dim")
        embedded = running(settings) is not None
        serve(application, port, ended=lambda: embedded and running(settings) is None)
        if embedded and running(settings) is None:  # so that a service manager starts all of it anew
            raise Unavailable("The embedded servers have ended and could not be kept up.")


@app.command(rich_help_panel="Start here")
def down(
    force: Annotated[bool, typer.Option("--force", help="Also while another command uses them.")] = False,
    as_json: AsJson = False,
) -> None:
    """End the embedded servers, which stay up for a while after each command (`platform.idle_s`)."""
    from headrace.platform import down as end_platform

    settings = settings_of()
    ended = end_platform(settings, force=force)
    if as_json:
        print_json({"home": str(settings.home), "ended": sorted(ended.parts) if ended else []})
    elif ended:
        out.print(
            f"Ended the embedded servers of {settings.home}: {', '.join(sorted(ended.parts))}.", highlight=False, soft_wrap=True
        )
    else:
        out.print(f"No embedded servers run in {settings.home}.", highlight=False, soft_wrap=True)


@app.command(rich_help_panel="Training")
def loop(as_json: AsJson = False) -> None:
    """What the training loop of `headrace up` waits for or does, its last decision, and what is on trial."""
    from headrace.scheduler.status import read

    told = read(settings_of().home)
    if as_json:
        print_json(told)
    else:
        _say_loop(told)


def _say_loop(told: dict[str, Any]) -> None:
    from headrace.cli.render.results import rows_table
    from headrace.cli.render.training import deciding, doing, serving, troubled, waiting
    from headrace.terminal import printable

    def line(text: str, style: str = "") -> None:
        out.print(printable(text), style=style, highlight=False, soft_wrap=True)

    line(doing(told), "bold")
    for text in troubled(told):
        line(text, "yellow")
    if told["recipes"]:
        out.print(rows_table([waiting(one) for one in told["recipes"]]))
    for text in deciding(told):
        line(text)
    for text in serving(told):
        line(text, "dim")
