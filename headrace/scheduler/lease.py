"""The lease that lets one of several training loops of an installation train: an object replaced by compare-and-swap.

The holder increments a heartbeat count. If it has not changed for `GONE_S` seconds, by the observer's own clock, the holder is
considered gone. For a moment two loops may both believe they hold the lease; plan and manifest then let only one round count.
The lease avoids duplicate training; correctness does not depend on it.
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
"""Long, because a holder at low priority on a busy machine may beat late."""
_KEY = "loop/training.json"


class LeaderLease:
    """The lease as one loop sees it; a restarted loop takes over its predecessor's `name`."""

    def __init__(self, leases: ObjectWriter, name: str, *, gone_s: float = GONE_S) -> None:
        self.name = name
        self.is_held = False
        self.holder = ""
        """The other holder, for people: machine and name; empty if we hold it."""
        self._leases = leases
        self._gone_s = gone_s
        self._seen: tuple[str, int] = ("", -1)
        self._changed = time.monotonic()

    def beat(self) -> bool:
        """Take the lease if it is free, renew it if it is ours; returns whether we hold it."""
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
        except LostRace:  # the next beat finds the new holder
            self.is_held = False
        else:
            self.is_held, self.holder = True, ""
        return self.is_held

    def leave(self) -> None:
        """Release the lease at once, so that others need not wait for the timeout."""
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
