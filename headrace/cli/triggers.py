"""Commands about triggers: what became of their events, and their dead letters."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from headrace.cli.common import AsJson, cli, out, print_json, settings_of
from headrace.errors import NotFound

triggers = typer.Typer(help="Triggers of the settings: what became of their events.", invoke_without_command=True)
cli.add_typer(triggers, name="triggers", rich_help_panel="The head")
Name = Annotated[str, typer.Argument(help="The trigger.")]


@triggers.callback()
def show(context: typer.Context, as_json: AsJson = False) -> None:
    """Show each trigger of the settings, and its events that wait, run, were done in the last days, and are dead.

    Below them is what `headrace up` does without one, and the setting that switches each step.
    """
    if context.invoked_subcommand is not None:
        return
    from dataclasses import asdict

    from headrace.cli.render.results import rows_table
    from headrace.scheduler.triggers.built_in import built_in_triggers
    from headrace.scheduler.triggers.thread import trigger_reports

    settings = settings_of()
    with _queue() as queue:
        found = trigger_reports(settings.triggers, queue)
    steps = built_in_triggers(settings)
    if as_json:
        print_json({"triggers": [asdict(one) for one in found], "built_in": [asdict(one) for one in steps]})
        return
    rows = [
        {
            "trigger": one.name,
            "on": ", ".join(one.causes),
            "action": one.action,
            **{name: f"{getattr(one, name):,}" for name in ("waiting", "running", "done", "dead")},
            "last failure": one.reason,
        }
        for one in found
    ]
    out.print(rows_table(rows) if rows else "The settings have no triggers. docs/how-to/react-to-changes.md shows some.")
    out.print("What `headrace up` does without one:", style="dim")
    built_in = [
        {
            "step": one.name,
            "on": ", ".join(one.causes),
            "what": one.does,
            "state": "on" if one.on else "off",
            "setting": one.setting,
            "by hand": one.command,
        }
        for one in steps
    ]
    out.print(rows_table(built_in))


@triggers.command("dead")
def dead(
    name: Name,
    most: Annotated[int, typer.Option(help="Dead letters to show, the newest first.", min=1, max=10_000)] = 20,
    as_json: AsJson = False,
) -> None:
    """Show events that a trigger gave up, and why."""
    from headrace.cli.render.results import rows_table

    _known(name)
    with _queue() as queue:
        found = queue.dead(name, most)
    if as_json:
        rows = [{"id": one.id, "event": one.event, "attempts": one.attempts, "reason": one.reason} for one in found]
        print_json({"trigger": name, "dead": rows})
        return
    shown = [
        {"id": one.id, "event": one.event["type"], "subject": one.event.get("subject", ""), "reason": one.reason} for one in found
    ]
    out.print(rows_table(shown) if shown else f"Trigger {name} has no dead letters.")


@triggers.command("retry")
def retry(
    name: Name,
    letter: Annotated[str | None, typer.Argument(metavar="[ID]", help="One dead letter; default: all of the trigger.")] = None,
    as_json: AsJson = False,
) -> None:
    """Deliver dead letters of a trigger again; `headrace up` does so within a second."""
    _known(name)
    with _queue() as queue:
        count = queue.retry(name, letter)
    if as_json:
        print_json({"trigger": name, "retried": count})
    else:
        out.print(f"{count:,} of {name} wait to be delivered again.", highlight=False)


def _known(name: str) -> None:
    """Raise `NotFound` for a trigger that the settings do not have."""
    if name not in {one.name for one in settings_of().triggers}:
        raise NotFound(f"The settings have no trigger {name}.", hint="headrace triggers shows them.")


def _queue() -> Any:
    """The deliveries, while a block runs. No other part of the platform is started."""
    from contextlib import contextmanager

    from headrace.platform import open_platform
    from headrace.platform.home import Home
    from headrace.scheduler.triggers.queue import DeliveryQueue
    from headrace.storage.metadata import Metadata

    @contextmanager
    def opened() -> Any:
        settings = settings_of()
        Home(settings.home).prepare()
        with open_platform(settings, parts=frozenset()) as endpoints:
            metadata = Metadata(endpoints)
            try:
                yield DeliveryQueue(metadata)
            finally:
                metadata.close()

    return opened()
