"""Landers as processes of their own, to be killed.

They land numbered events, a topic with three partitions that the catalog does not have: any topic lands by naming its table.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa
from forks import ForkedProcess

from headrace.catalog import EXTRA, ORIGIN_COLUMNS, Store, Tier
from headrace.core.run import Run
from headrace.core.runner import Runner
from headrace.landing import partitions as share
from headrace.landing.land import Following, land
from headrace.settings import LandingSettings
from headrace.storage.endpoints import Endpoints

_EVENT = (pa.field("n", pa.int64(), nullable=False), pa.field("text", pa.string(), nullable=False))
_ORIGIN = tuple(field.with_nullable(False) for field in ORIGIN_COLUMNS)
EVENTS = Store("events", Tier.STREAM, "a numbered event", "until landed", pa.schema(_EVENT), partitions=3)
EVENT_ROWS = Store("events", Tier.TABLE, "one row per event", "archive", pa.schema([*_EVENT, *_ORIGIN, EXTRA]))
land_events = land.over(topics=[EVENTS], tables=[EVENT_ROWS])


class Lander(ForkedProcess):
    """One that drains the head, or follows it until it is asked to stop, and says what it does.

    Landers of a test notice each other, and each other's death, in a fifth of the time.
    """

    def __init__(self, endpoints: Endpoints, *, follow: bool = False, **settings: Any) -> None:
        super().__init__(_land, endpoints, follow, LandingSettings(**settings))

    def finish(self) -> dict[str, Any]:
        """Ask one that follows to stop; how many events it landed, buried and was refused."""
        self.send("stop")
        done: dict[str, Any] = self.result()
        return done

    @property
    def committed(self) -> int:
        """The events that it has said it committed."""
        return sum(said.get("committed", 0) for said in self.said)

    def has_said(self, word: str) -> bool:
        """Whether it has said something of that kind."""
        return any(word in said for said in self.said)


def _land(link: Connection, endpoints: Endpoints, follow: bool, settings: LandingSettings) -> None:
    share.BEAT_S, share.GONE_S = share.BEAT_S / 5, share.GONE_S / 5
    following = None
    if follow:
        following = Following(
            threading.Event(),
            lambda commit: link.send({"committed": commit.events}),
            lambda refusal: link.send({"refused": refusal.kind, "partition": refusal.partition}),
            lambda topic, error: link.send({"waiting": str(error)}),
        )

        def listen(stop: threading.Event) -> None:
            with contextlib.suppress(EOFError):
                link.recv()
            stop.set()

        threading.Thread(target=listen, args=(following.stop,), daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        done = Runner(Run("land", Path(folder)), endpoints).run(land_events, settings=settings, following=following)
    link.send({"landed": done.total, "dead": done.dead, "refused": [refusal.kind for refusal in done.divergences]})
