"""Following sources: index what changes in folders, buckets and repositories, until Ctrl-C."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from headrace.cli.common import err, out
from headrace.errors import NotFound, StorageFull, Transient, WrongUsage
from headrace.terminal import printable

if TYPE_CHECKING:
    from headrace.app import App
    from headrace.documents.index import Indexed
    from headrace.documents.sources.follow import SourceChanges
    from headrace.settings import SourceSettings


class IndexPass(Protocol):
    """One pass over what changed; those after the first do not retry or compare."""

    def __call__(self, *, first: bool, changes: SourceChanges) -> Indexed: ...


def follow_sources(
    app: App,
    places: Sequence[str],
    index: IndexPass,
    *,
    every_s: float,
    rules: Sequence[SourceSettings] = (),
    as_json: bool,
) -> None:
    """Index now, and again whenever a listing differs from the one before, until Ctrl-C.

    A change is seen at the next look, `every_s` seconds or five times a listing's own time later, and in a folder that the kernel
    watches as soon as it is over. What fails for a while is said and tried again, less often. With `as_json` each pass that did
    something is a line of JSON.
    """
    from headrace.catalog import SOURCES
    from headrace.documents.sources.follow import Follower
    from headrace.documents.sources.git import Repositories
    from headrace.storage.objects import BucketReader

    buckets = app.runner.open(BucketReader, SOURCES, stage="follow")
    follower, first = Follower(places, buckets.of, every_s, rules, repositories=Repositories(buckets)), True
    while True:
        try:
            looked = time.monotonic()
            if (changes := follower.changed()) is not None:
                done = index(first=first, changes=changes)
                put = done.put
                if first or put.put or put.refused or put.deleted or put.held_back or done.parsed.failed:
                    _say(done, as_json=as_json, first=first)
                unread = bool(put.refused or put.failed_before)
                follower.followed(changes, seconds=time.monotonic() - looked, held=bool(put.held_back), unread=unread)
                first = False
            follower.succeeded()
        except (NotFound, WrongUsage, StorageFull, Transient) as error:
            # Only at the start are these the command's mistake: later, anyone who can write there could end it by adding a name.
            if first and isinstance(error, NotFound | WrongUsage):
                raise
            follower.failed()
            words = f"{_time()}  {printable(str(error))} Next look in {follower.wait_s:.0f} s."
            err.print(words, style="yellow", soft_wrap=True)
        follower.wait()


def _say(done: Indexed, *, as_json: bool, first: bool) -> None:
    from headrace.cli.render.results import counted, say_indexed, say_not_indexed

    if as_json:
        sys.stdout.write(json.dumps(asdict(done), default=str, ensure_ascii=False) + "\n")
        sys.stdout.flush()
    elif first:
        say_indexed(out, done)
        err.print("Following; Ctrl-C ends it.", style="dim")
    else:
        put = done.put
        parts = [f"{counted(put.put, 'document')} put"] if put.put else []
        parts += [f"{put.deleted:,} deleted"] if put.deleted else []
        out.print(f"{_time()}  {', '.join(parts) or 'nothing new'}; searchable after {done.seconds:.1f} s", highlight=False)
        say_not_indexed(out, done)


def _time() -> str:
    return datetime.now().astimezone().strftime("%H:%M:%S")
