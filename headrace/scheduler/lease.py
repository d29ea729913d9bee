"""Which loop trains, where several share one installation: the holder of a lease, one object replaced by compare-and-swap.

The holder adds one to a count every so often. A count that stands still is that of a loop that is gone, judged by each reader's
own clock. For a moment two may think that the lease is theirs; plan and manifest then let one round count, so that this is about
not training twice and never about what comes of it.
"""

from __future__ import annotations

import json
import socket
import time
from typing import Any

from headrace.errors import LostRace, NotFound
from headrace.storage.objects import ObjectWriter

BEAT_S = 3.0
GONE_S = 30.0
"""A holder at low priority on a busy machine may beat late."""
_KEY = "loop/training.json"


class LeaderLease:
    """The lease as one loop sees it; `name` is the same for a loop that was started again in another's place."""

    def __init__(self, leases: ObjectWriter, name: str, *, gone_s: float = GONE_S) -> None:
        self.name = name
        self.is_held = False
        self.holder = ""
        """Who has it if we do not, for people: machine and name."""
        self._leases = leases
        self._gone_s = gone_s
        self._seen: tuple[str, int] = ("", -1)
        self._changed = time.monotonic()

    def beat(self) -> bool:
        """Take the lease where it is free, keep it where it is ours; whether we have it."""
        try:
            data, etag = self._leases.get_with_etag(_KEY)
            lease: dict[str, Any] = json.loads(data)
        except NotFound:
            lease, etag = {"name": "", "count": 0, "machine": ""}, ""
        holder = (str(lease["name"]), int(lease["count"]))
        if holder != self._seen:
            self._seen, self._changed = holder, time.monotonic()
        gone = time.monotonic() - self._changed > self._gone_s
        if holder[0] not in ("", self.name) and not gone:
            self.is_held, self.holder = False, f"{lease['machine']} ({holder[0]})"
            return False
        try:
            self._put({"name": self.name, "count": holder[1] + 1, "machine": socket.gethostname()}, etag)
        except LostRace:  # the next beat sees who was quicker
            self.is_held = False
        else:
            self.is_held, self.holder = True, ""
        return self.is_held

    def leave(self) -> None:
        """Give it up at once, rather than by silence."""
        if self.is_held:
            try:
                data, etag = self._leases.get_with_etag(_KEY)
                lease = json.loads(data)
                if lease["name"] == self.name:
                    self._put({**lease, "name": ""}, etag)
            except (LostRace, NotFound):
                pass
            self.is_held = False

    def _put(self, what: dict[str, Any], etag: str) -> None:
        data = json.dumps(what, sort_keys=True).encode()
        if etag:
            self._leases.put_if_match(_KEY, data, etag)
        else:
            self._leases.put_if_absent(_KEY, data)
