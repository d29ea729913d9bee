"""Commands that run the demo and the service, stop the embedded servers, and show status."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli.common import AsJson, On, checked_on, cli, err, in_this_home, out, print_json, settings_of
from headrace.errors import Unavailable, WrongUsage

if TYPE_CHECKING:
    from headrace.platform.reset import Reset
    from headrace.platform.state import RunningService


@cli.command(rich_help_panel="Start here")
def demo(
    docs: Annotated[Path | None, typer.Option(help="A folder of your own; default: Python's language reference.")] = None,
    on: On = "local",
    out_dir: Annotated[Path, typer.Option("--out", help="Directory for the diagrams.")] = Path("out"),
    questions: Annotated[int, typer.Option(help="Searches by the simulated user.", min=1, max=10_000)] = 160,
) -> None:
    """Run both pipelines once, on the embedded platform or your storage, and report what moved."""
    from headrace.cli.demo import run_demo

    run_demo(settings_of(), docs=docs, on=checked_on(on), out_dir=out_dir, questions=questions, console=out)


@cli.command(rich_help_panel="Start here")
def up(
    port: Annotated[int, typer.Option(help="Port of the API and the web page.", min=1, max=65535)] = 8484,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; default: the one in the settings, 127.0.0.1.", show_default=False)
    ] = None,
    train: Annotated[
        bool, typer.Option("--train/--no-train", help="Run the training loop, in its own process, unless the settings say no.")
    ] = True,
) -> None:
    """Run the platform, the API, the web page, landing and the training loop until Ctrl-C."""
    import secrets
    from contextlib import ExitStack

    from headrace.api.app import bound, check_certificate, create_app, serve
    from headrace.api.service import Service
    from headrace.app import App
    from headrace.cli.running import digest_of
    from headrace.core.progress import ProgressBars
    from headrace.platform import running
    from headrace.platform.home import Home
    from headrace.platform.state import FileId, RunningService, only_service, recorded_service, this_process
    from headrace.readiness import Ask
    from headrace.scheduler.landing_thread import LandingThread
    from headrace.scheduler.process import SchedulerProcess
    from headrace.scheduler.triggers.thread import TriggerThreads

    settings = settings_of(host=host)
    own = settings.api
    with only_service(Home(settings.home)):
        bound(port, own.host).close()  # fail on a taken port before anything starts
    check_certificate(own)
    if own.open_without_tls:
        err.print(f"{own.host} can be reached without TLS: keys and documents travel unencrypted. Set [api] certificate and key.")
    token = secrets.token_urlsafe(18)
    err.print("Starting the platform …", style="dim")
    with only_service(Home(settings.home)), App(settings, "up", service=True) as app, ExitStack() as beside:
        # A progress bar for every document put through the API would only flicker.
        app.runner.bars = ProgressBars(quiet=True)
        service = Service(app)
        application = create_app(service, token)
        application.state.landing = landing = beside.enter_context(LandingThread(app.settings, app.runner))
        service.readiness.add(Ask("landing", landing.trouble, "`headrace head` shows what does not land, and how to continue."))
        triggers = TriggerThreads(settings.triggers, app.runner, lambda: sum(one.lag for one in app.storage.backlog()))
        beside.enter_context(triggers)
        application.state.trains = trains = train and settings.automatic.rounds
        if trains:
            beside.enter_context(SchedulerProcess(settings, app.runner.record.id))
        beside.callback(triggers.stop)
        beside.callback(landing.stop)  # runs first on exit, so that landing and training end at the same time
        recorded = RunningService(
            process=this_process(),
            url=own.url(port),
            token=token,
            settings=digest_of(settings),
            certificate=own.certificate and own.certificate.resolve(),
            lock=FileId.from_path(Home(settings.home).service_lock),
        )
        beside.enter_context(recorded_service(Home(settings.home), recorded))
        out.print(f"Headrace is up: {own.url(port)}/#token={token}", highlight=False, soft_wrap=True)
        out.print("Press Ctrl-C to stop.", style="dim")
        embedded = running(settings) is not None
        serve(application, port, ended=lambda: embedded and running(settings) is None)
        if embedded and running(settings) is None:  # so that a service manager restarts all of it
            raise Unavailable("The embedded servers ended and could not be restarted.")


@cli.command(rich_help_panel="Start here")
def down(
    force: Annotated[bool, typer.Option("--force", help="Even while another command uses them.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stop the embedded servers, which stay up for a while after each command (`platform.idle_s`)."""
    from headrace.platform import down as end_platform

    settings = settings_of()
    ended = end_platform(settings, force=force)
    if as_json:
        print_json({"home": str(settings.home), "ended": sorted(ended.parts) if ended else []})
    elif ended:
        out.print(
            f"Stopped the embedded servers of {settings.home}: {', '.join(sorted(ended.parts))}.", highlight=False, soft_wrap=True
        )
    else:
        out.print(f"No embedded servers are running in {settings.home}.", highlight=False, soft_wrap=True)


@cli.command(rich_help_panel="Start here")
def reset(
    keys: Annotated[
        bool, typer.Option("--keys", help="Also remove tenants, API keys, and the keys of the embedded servers.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Empty the home: documents, tables, index, models, runs. What lies on storage of your own stays, and so do keys."""
    import sys

    from headrace.core.run import under_way
    from headrace.platform import open_platform
    from headrace.platform.reset import planned
    from headrace.platform.reset import reset as empty
    from headrace.terminal import printable

    settings = settings_of()
    with open_platform(settings, parts=frozenset()) as endpoints:
        plan = planned(settings, endpoints, keys=keys)
    if not as_json:
        _say_reset(plan)
    if not yes:
        if not sys.stdin.isatty():
            raise WrongUsage("Nothing was removed.", hint="Give --yes where no terminal can ask for confirmation.")
        typer.confirm(f"Empty the home {printable(str(plan.home))}? This cannot be undone.", abort=True, err=True)
    with err.status("Emptying the home …"):
        empty(settings, plan, at_work=lambda: under_way(plan.home))
    if as_json:
        print_json(plan.as_dict())
    else:
        out.print(f"Emptied {printable(str(plan.home))}.", highlight=False, soft_wrap=True)


def _say_reset(plan: Reset) -> None:
    """Print what a reset removes and what it leaves."""
    from headrace.cli.render.results import rows_table
    from headrace.explain.diagram.format import human_bytes
    from headrace.terminal import printable

    for heading, entries in (("removes", plan.removes), ("keeps", plan.keeps)):
        rows = [
            {
                heading: entry.name,
                "bytes": human_bytes(entry.bytes),
                "what": entry.what + (f" (a link to {entry.link}, which stays)" if entry.link else ""),
            }
            for entry in entries
        ]
        if rows:
            out.print(rows_table(rows))
            out.print()
    for tier, name in plan.elsewhere.items():
        out.print(f"Your own storage stays as it is: {tier}, {printable(name)}.", highlight=False, soft_wrap=True)


@cli.command(rich_help_panel="Training")
def loop(as_json: AsJson = False) -> None:
    """Show what the training loop of `headrace up` is doing or waiting for, its last decision, and the canary."""
    from headrace.scheduler.status import read

    state = read(settings_of().home)
    if as_json:
        print_json(state)
    else:
        _say_loop(state)


def _say_loop(state: dict[str, Any]) -> None:
    from headrace.cli.render.results import rows_table
    from headrace.cli.render.training import deciding, doing, serving, troubled, waiting
    from headrace.terminal import printable

    def line(text: str, style: str = "") -> None:
        out.print(printable(text), style=style, highlight=False, soft_wrap=True)

    line(doing(state), "bold")
    for text in troubled(state):
        line(text, "yellow")
    if state["recipes"]:
        out.print(rows_table([waiting(one) for one in state["recipes"]]))
    for text in deciding(state):
        line(text)
    for text in serving(state):
        line(text, "dim")


_ASKING_S = 10.0


@cli.command(rich_help_panel="Start here")
def status(as_json: AsJson = False) -> None:
    """Show whether every part is ready, since when not, and what to do. Exits with 1 unless all are ready."""
    from headrace.cli.render.results import rows_table

    services = {**_running_service(), "kv_closed": _closed_caches()}
    if as_json:
        print_json(services)
    else:
        shown = [
            {
                "part": part["part"],
                "state": part["state"],
                "since (UTC)": part.get("since", "")[:19].replace("T", " "),
                "what to do": part.get("remedy", ""),
            }
            for part in services["parts"]
        ]
        out.print(rows_table(shown))
        if services.get("sources"):
            out.print(rows_table([_source_row(one) for one in services["sources"]]))
        for one in services["kv_closed"]:
            out.print(f"! The KV cache of {one['model']} is closed: headrace kv report", style="yellow", highlight=False)
        if (index := services.get("index")) is not None and index["waiting"]:
            waiting = f"{index['waiting']:,} documents are waiting to be indexed, the oldest for {index['lag_s']:,.0f} s."
            out.print(waiting, highlight=False)
        if services["unrecorded_answers"]:
            out.print(f"{services['unrecorded_answers']:,} answers are waiting to be recorded in the head.", highlight=False)
    if services["status"] != "ok":
        raise typer.Exit(1)


def _closed_caches() -> list[dict[str, Any]]:
    """The KV caches that the canary closed; none where the metadata store does not answer, which is said of its part."""
    from contextlib import closing, suppress

    from headrace.errors import HeadraceError
    from headrace.models.kv.closing import closed_caches
    from headrace.platform.address import brought, overlay
    from headrace.platform.home import Home
    from headrace.platform.state import read_state
    from headrace.storage.metadata import Metadata

    settings = settings_of()
    state = read_state(Home(settings.home))
    if state is None:
        return []
    with suppress(HeadraceError), closing(Metadata(overlay(state.endpoints, brought(settings)))) as metadata:
        return [one.as_dict() for one in closed_caches(metadata) if one.closed_at is not None]
    return []


def _source_row(source: dict[str, Any]) -> dict[str, str]:
    behind = f"{source['behind_s']:,.0f} s behind" if source["behind_s"] else "in step"
    documents = f"{source['documents']:,}" if source["documents"] >= 0 else "not listed yet"
    return {
        "source": source["place"],
        "tenant": source["tenant"],
        "documents": documents,
        "index": behind,
        "trouble": source["trouble"],
    }


def _running_service() -> dict[str, Any]:
    """The status that this home's `headrace up` reports; if none runs, the state of the parts themselves."""
    from headrace.platform import open_platform
    from headrace.platform.address import MODEL_PARTS, brought, embedded_parts, overlay
    from headrace.platform.home import Home
    from headrace.platform.platform import EVERY_PART
    from headrace.platform.state import read_service, read_state
    from headrace.readiness import PartState, Readiness, asks, platform_trouble
    from headrace.settings import EmbeddedPart

    settings = settings_of()
    home = Home(settings.home)
    service = read_service(home)
    if service is not None:
        return _service_status(service)
    parts: list[PartState] = []
    state, wanted = read_state(home), embedded_parts(settings, EVERY_PART)
    if state is None and wanted:
        trouble = platform_trouble(home, wanted)
        parts = [
            PartState(
                "platform", trouble.state if trouble else "", math.nan, f"Any command starts them, e.g. `{in_this_home('up')}`."
            )
        ]
    elif state is not None:
        # What no command has needed yet is said of the platform; that it does not answer is no fault.
        idle = wanted - state.parts
        embedded = {name for name in MODEL_PARTS if isinstance(getattr(settings.models, name), EmbeddedPart)}
        asleep = idle | (embedded if "models" in idle else set())
        known = [one for one in asks(settings, overlay(state.endpoints, brought(settings))) if one.part not in asleep]
        parts = [*Readiness(known).check()]
    else:
        with open_platform(settings, parts=frozenset()) as endpoints:
            parts = [*Readiness(asks(settings, endpoints)).check()]
    parts.append(PartState("service", "not running in this home", math.nan, f"Start it: `{in_this_home('up')}`."))
    return {"status": "not_ready", "parts": [part.as_dict() for part in parts], "unrecorded_answers": 0}


def _service_status(service: RunningService) -> dict[str, Any]:
    from headrace.cli.running import RunningApi
    from headrace.readiness import PartState

    try:
        running = RunningApi.in_home(service)
        status = running.get("/health/ready", seconds=_ASKING_S)
        sources = running.get("/v1/sources", seconds=_ASKING_S)["data"]
        index = running.get("/v1/index/lag", seconds=_ASKING_S)
    except Unavailable:
        part = PartState("service", "does not answer", math.nan, "Check its terminal output and restart it.")
        return {"status": "not_ready", "parts": [part.as_dict()], "unrecorded_answers": 0}
    return {name: status.get(name, 0) for name in ("status", "parts", "unrecorded_answers")} | {
        "sources": sources,
        "index": index,
    }
