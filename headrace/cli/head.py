"""Commands for the head: land its events, and show what has not landed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.common import AsJson, cli, err, out, print_json, settings_of, user
from headrace.errors import WrongUsage

if TYPE_CHECKING:
    from headrace.app import App


@cli.command(rich_help_panel="The head")
def land(
    once: Annotated[bool, typer.Option("--once", help="Stop when the head is drained; default: follow it.")] = False,
    accept_gap: Annotated[
        str | None, typer.Option(metavar="TOPIC/PARTITION", help="Skip events that the head lost before they landed.")
    ] = None,
    accept_new_head: Annotated[
        str | None,
        typer.Option(metavar="TOPIC/PARTITION", help="Accept that this is a different head from the one landed so far."),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TOPIC/PARTITION/OFFSET",
            help="Move this record, which blocks its topic, to the dead letters unread; repeatable.",
        ),
    ] = None,
    reason: Annotated[str, typer.Option(help="With --skip: the reason, kept in the dead letter.")] = "it held others up",
    dead_letters: Annotated[
        bool, typer.Option("--dead-letters", help="After a fix: first land the dead letters that can be read now.")
    ] = False,
    unsigned: Annotated[
        bool, typer.Option("--unsigned", help="With --dead-letters: also unsigned ones. Inspect them first.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Land events from the head in the tables, each exactly once."""
    from headrace.app import App
    from headrace.cli.render.results import say_landed
    from headrace.landing.dead_letters import reland
    from headrace.landing.dead_letters import skip as skip_stage
    from headrace.landing.divergence import resolve_divergence

    if unsigned and not dead_letters:
        raise WrongUsage("--unsigned selects dead letters.", hint="Give --dead-letters with it.")
    settings = settings_of()
    with App(settings, "land", models=False, quiet=as_json) as app:
        for topic_partition, gap in ((accept_gap, True), (accept_new_head, False)):
            if topic_partition is not None:
                resolved = app.runner.run(resolve_divergence, topic_partition=topic_partition, gap=gap, who=user())
                err.print(resolved.sentence, highlight=False)
        for event in skip or ():
            sentence = app.runner.run(skip_stage, event=event, reason=f"skipped by {user()}: {reason}")
            err.print(sentence, highlight=False)
        if dead_letters:
            again = app.runner.run(reland, unsigned=unsigned)
            sentence = ", ".join(f"{count:,} {topic}" for topic, count in again.events.items() if count) or "none"
            err.print(f"Dead letters landed: {sentence}; {again.dead:,} still cannot be read.", highlight=False)
        if not once:
            _follow_head(app, as_json)
            return
        done = app.storage.land()
    if as_json:
        refused = [{"partition": r.topic_partition, "kind": r.kind, "seen": r.seen, "remedy": r.remedy} for r in done.divergences]
        print_json({"landed": done.events, "dead_letters": done.dead, "refused": refused})
    else:
        say_landed(out, done)
    done.require()


def _follow_head(app: App, as_json: bool) -> None:
    import signal
    import threading
    from types import FrameType

    from headrace.cli.render.results import LandingLines
    from headrace.landing.land import Following
    from headrace.settings import EmbeddedPart

    lines = LandingLines(out, err, as_json)
    following = Following(threading.Event(), lines.committed, lines.diverged, lines.waiting)

    def stop(number: int, frame: FrameType | None) -> None:
        if following.stop.is_set():
            signal.default_int_handler(number, frame)  # a second signal ends it at once
        following.stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
    err.print("Landing events until Ctrl-C.", style="dim")
    # Embedded servers that have ended are not restarted here.
    app.storage.follow(following, lines.failed, most_patience_s=60.0 if isinstance(app.settings.head, EmbeddedPart) else math.inf)
    lines.total()


@cli.command(rich_help_panel="The head")
def head(as_json: AsJson = False) -> None:
    """Show each partition's end, landed offset, lag in events and bytes, and the age of its oldest event not landed."""
    from headrace.app import App
    from headrace.cli.render.results import say_backlog

    with App(settings_of(), "head", models=False, quiet=as_json) as app:
        partitions = app.storage.backlog()
    if as_json:
        print_json({"partitions": [partition.as_dict() for partition in partitions]})
    else:
        say_backlog(out, partitions)
