"""A lander as a process of its own, to be killed: `python lander.py drain|follow`, the endpoints as JSON on standard input.

It lands numbered events, a topic with three partitions that the catalog does not have: any topic lands by naming its table.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from pathlib import Path

import pyarrow as pa

from headrace.catalog import EXTRA, ORIGIN, Store, Tier
from headrace.head.land import Commit, Following, landing
from headrace.head.position import Refusal
from headrace.pipeline.run import Run
from headrace.pipeline.runner import Runner
from headrace.settings import Landing
from headrace.storage.endpoints import Endpoints

_EVENT = (pa.field("n", pa.int64(), nullable=False), pa.field("text", pa.string(), nullable=False))
_ORIGIN = tuple(field.with_nullable(False) for field in ORIGIN)
EVENTS = Store("events", Tier.STREAM, "a numbered event", "until landed", pa.schema(_EVENT), partitions=3)
EVENT_ROWS = Store("events", Tier.TABLE, "one row per event", "archive", pa.schema([*_EVENT, *_ORIGIN, EXTRA]))
land_events = landing({EVENTS: EVENT_ROWS})


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


def main() -> None:
    endpoints = Endpoints.model_validate_json(sys.stdin.readline())
    settings = Landing(**json.loads(sys.argv[2]) if len(sys.argv) > 2 else {})

    def committed(commit: Commit) -> None:
        say(committed=commit.events)

    def refused(refusal: Refusal) -> None:
        say(refused=refusal.kind, partition=refusal.partition)

    following = None
    if sys.argv[1] == "follow":
        following = Following(threading.Event(), committed, refused, lambda topic, error: say(waiting=str(error)))
        threading.Thread(target=lambda: (sys.stdin.read(), following.stop.set()), daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(Run("land", Path(folder)), endpoints)
        say(started=True)
        done = runner.run(land_events, settings=settings, following=following)
    say(landed=done.total, dead=done.dead, refused=[refusal.kind for refusal in done.refusals])


if __name__ == "__main__":
    main()
