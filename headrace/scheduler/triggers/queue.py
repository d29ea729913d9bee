"""The deliveries of events to triggers, in the metadata store: at least once each, also if a process is killed at any moment.

An event is queued in the transaction that moves the position behind it. Who delivers it takes it for a while; what is not settled
by then is delivered again, by any process that shares the store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from headrace.errors import NotFound
from headrace.storage.database import Statements
from headrace.storage.metadata import Metadata

WAITING, RUNNING, DONE, DEAD = "waiting", "running", "done", "dead"
_TENANTS = 200  # that are looked at for one delivery, of those with any that waits
_LOOKED_AT = 1_000  # the newest deliveries of a trigger in a state, for the last failure
_KEPT = timedelta(days=7)  # of what is done: so long the same event is not queued again
DEAD_KEPT = 10_000
"""Dead letters of a trigger that are kept, the newest: another program may send any number of records that are no events."""
MOST_WAITING = 1_000
"""Events of a trigger that may wait while its topic is read: what more there is waits in the topic."""
_DUE = f"((state = '{WAITING}' AND due <= :now) OR (state = '{RUNNING}' AND due <= :now))"  # `due` of a running one: its end


@dataclass(frozen=True)
class Delivery:
    """An event on its way to a trigger. `attempts` counts those begun; `reason` is that of the last failure, or empty."""

    id: str
    trigger: str
    event: dict[str, Any]
    state: str
    attempts: int
    due: datetime
    reason: str
    at: datetime


@dataclass(frozen=True)
class TriggerState:
    """The deliveries of a trigger by state, `oldest_s` that of the oldest one that waits or runs, and the last failure."""

    waiting: int = 0
    running: int = 0
    done: int = 0
    dead: int = 0
    oldest_s: float = 0.0
    reason: str = ""


class DeliveryQueue:
    """Safe to share between threads and processes."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._last: dict[str, str] = {}  # trigger → the tenant that was served last

    def position(self, name: str) -> tuple[str, datetime] | None:
        """How far something was looked through, and when; `None` if it never was."""
        with self._metadata.transaction() as run:
            rows = run("SELECT position, at FROM trigger_positions WHERE name = :name", {"name": name})
        return next(((position, datetime.fromisoformat(at)) for position, at in rows), None)

    def add(
        self,
        events: Iterable[tuple[str, Mapping[str, Any]]],
        *,
        name: str = "",
        position: str = "",
        refused: Iterable[tuple[str, Mapping[str, Any], str]] = (),
    ) -> None:
        """Queue (trigger, event) pairs, each once by the event's source and id, and note the position behind them.

        Those of a topic (`name` begins with `topic/`) are never the same as others: any program may write there whatever source
        and id it likes. `refused` are dead letters from the start, with the reason.
        """
        now = datetime.now(UTC)
        every = [(trigger, event, WAITING, "") for trigger, event in events]
        every += [(trigger, event, DEAD, reason) for trigger, event, reason in refused]
        rows = [
            {
                **{"id": _id(trigger, event, name), "trigger": trigger, "event": json.dumps(event)},
                "tenant": _tenant_of(event, name),
                # Each a little later than the one before it, by which they are taken in their order.
                **{"state": state, "reason": reason, "now": (now + timedelta(microseconds=place)).isoformat()},
            }
            for place, (trigger, event, state, reason) in enumerate(every)
        ]
        with self._metadata.transaction(writing=True) as run:
            run.many(
                "INSERT INTO trigger_deliveries (id, trigger_name, event, tenant, state, attempts, due, reason, at)"
                " VALUES (:id, :trigger, :event, :tenant, :state, 0, :now, :reason, :now) ON CONFLICT (id) DO NOTHING",
                rows,
            )
            if name:
                run(
                    "INSERT INTO trigger_positions (name, position, at) VALUES (:name, :position, :now)"
                    " ON CONFLICT (name) DO UPDATE SET position = excluded.position, at = excluded.at",
                    {"name": name, "position": position, "now": now.isoformat()},
                )

    def is_full(self, trigger: str) -> bool:
        """Whether so many events wait for a trigger that no more are to be taken from its topic."""
        waiting = f"SELECT 1 FROM trigger_deliveries WHERE trigger_name = :trigger AND state = '{WAITING}' LIMIT :most"
        with self._metadata.transaction() as run:
            rows = run(f"SELECT count(*) FROM ({waiting}) AS waiting", {"trigger": trigger, "most": MOST_WAITING})
        return bool(rows[0][0] >= MOST_WAITING)

    def take(self, trigger: str, most: int, *, lease_s: float) -> list[Delivery]:
        """Take deliveries that are due: those of tenants in turn, of each the oldest first.

        One that is not settled within `lease_s` seconds is due again.
        """
        now = datetime.now(UTC)
        values = {"trigger": trigger, "now": now.isoformat(), "most": most}
        until = (now + timedelta(seconds=lease_s)).isoformat()
        due = (
            "SELECT id FROM trigger_deliveries WHERE trigger_name = :trigger AND state = '{}'{} AND due <= :now ORDER BY due, id"
        )
        with self._metadata.transaction(writing=True) as run:
            abandoned = [name for (name,) in run(due.format(RUNNING, "") + " LIMIT :most", values)]
            waiting: dict[str, list[str]] = {}
            for tenant in self._in_turn(run, trigger):
                own = run(due.format(WAITING, " AND tenant = :tenant") + " LIMIT :most", {**values, "tenant": tenant})
                waiting[tenant] = [name for (name,) in own]
                if len(abandoned) + sum(map(len, waiting.values())) >= most and len(waiting) >= most:
                    break
            # The first of each tenant, then the second of each, and so on.
            turns = sorted((place, turn, tenant) for turn, tenant in enumerate(waiting) for place in range(len(waiting[tenant])))
            chosen = turns[: max(0, most - len(abandoned))]
            if waiting:
                self._last[trigger] = chosen[-1][2] if chosen else next(reversed(waiting))
            rows = []
            for name in [*abandoned, *(waiting[tenant][place] for place, _, tenant in chosen)]:
                rows += run(
                    f"UPDATE trigger_deliveries SET state = '{RUNNING}', due = :until, attempts = attempts + 1"
                    # The condition again, since another process may have taken one that was selected.
                    f" WHERE id = :id AND {_DUE} RETURNING {_COLUMNS}",
                    {"id": name, "now": now.isoformat(), "until": until},
                )
        return sorted(map(_delivery, rows), key=lambda one: (one.at, one.id))

    def _in_turn(self, run: Statements, trigger: str) -> Iterator[str]:
        """The tenants with waiting deliveries, behind the one that was served last, each by a step in the index: some of them."""
        # Which comes first, the database says each time: PostgreSQL orders names as its locale does.
        step = (
            f"SELECT tenant FROM trigger_deliveries WHERE trigger_name = :trigger AND state = '{WAITING}' AND {{}}"
            " ORDER BY tenant LIMIT 1"
        )
        values = {"trigger": trigger, "begin": self._last.get(trigger, "")}
        last, behind, wrapped = values["begin"], "tenant > :last", False
        for _ in range(_TENANTS):
            rows = run(step.format(behind), {**values, "last": last})
            if not rows and not wrapped:
                behind, wrapped = "tenant > :last AND tenant <= :begin", True
                rows = run(step.format("tenant <= :begin"), values)
            if not rows:
                return
            last = rows[0][0]
            yield last

    def renew(self, deliveries: Iterable[Delivery], *, lease_s: float) -> None:
        """Say that these are under way: none of them is due for so many seconds."""
        until = (datetime.now(UTC) + timedelta(seconds=lease_s)).isoformat()
        rows = [{"id": one.id, "attempts": one.attempts, "until": until} for one in deliveries]
        if rows:
            with self._metadata.transaction(writing=True) as run:
                run.many(
                    f"UPDATE trigger_deliveries SET due = :until WHERE id = :id AND state = '{RUNNING}' AND attempts = :attempts",
                    rows,
                )

    def done(self, delivery: Delivery) -> None:
        """Say that it was delivered. It is known for a week, without what was in it."""
        self._settle(delivery, DONE, "", 0.0)

    def failed(self, delivery: Delivery, reason: str, *, retry_s: float | None) -> None:
        """Say that it was not, and why: it is due again in so many seconds, or with `None` a dead letter."""
        self._settle(delivery, DEAD if retry_s is None else WAITING, reason, retry_s or 0.0)

    def states(self) -> dict[str, TriggerState]:
        """Trigger → its deliveries. Reads the index alone, and of what is done nothing else: that may be millions."""
        now = datetime.now(UTC)
        found = {}
        with self._metadata.transaction() as run:
            for trigger in _triggers(run):
                own: dict[str, Any] = {"reason": ""}
                newest = ""
                for state in (WAITING, RUNNING, DONE, DEAD):
                    values = {"trigger": trigger, "state": state}
                    where = "FROM trigger_deliveries WHERE trigger_name = :trigger AND state = :state"
                    own[state] = run(f"SELECT count(*) {where}", values)[0][0]
                    if state in (WAITING, RUNNING) and own[state]:
                        oldest = run(f"SELECT min(at) {where}", values)[0][0]
                        age = (now - datetime.fromisoformat(oldest)).total_seconds()
                        own["oldest_s"] = max(own.get("oldest_s", 0.0), age)
                    if state != DONE and own[state]:
                        latest = f"SELECT reason, due {where} ORDER BY due DESC LIMIT {_LOOKED_AT}"
                        failure = f"SELECT reason, due FROM ({latest}) AS latest WHERE reason <> '' ORDER BY due DESC LIMIT 1"
                        for reason, due in run(failure, values):
                            own["reason"], newest = (reason, due) if due > newest else (own["reason"], newest)
                found[trigger] = TriggerState(**own)
        return found

    def dead(self, trigger: str, most: int) -> list[Delivery]:
        """Dead letters of a trigger, the newest first."""
        with self._metadata.transaction() as run:
            rows = run(
                f"SELECT {_COLUMNS} FROM trigger_deliveries WHERE trigger_name = :trigger AND state = '{DEAD}'"
                " ORDER BY due DESC, id LIMIT :most",
                {"trigger": trigger, "most": most},
            )
        return [_delivery(row) for row in rows]

    def retry(self, trigger: str, delivery: str | None = None) -> int:
        """Try dead letters of a trigger again, or the one with this id; returns how many. Raises `NotFound` if there is none."""
        which, values = "", {"trigger": trigger, "now": datetime.now(UTC).isoformat()}
        if delivery is not None:
            which, values = " AND id = :id", {**values, "id": delivery}
        with self._metadata.transaction(writing=True) as run:
            rows = run(
                f"UPDATE trigger_deliveries SET state = '{WAITING}', attempts = 0, due = :now"
                f" WHERE trigger_name = :trigger AND state = '{DEAD}'{which} RETURNING id",
                values,
            )
        if not rows:
            raise NotFound(f"Trigger {trigger} has no such dead letter.", hint="headrace triggers dead NAME shows them.")
        return len(rows)

    def tidy(self) -> None:
        """Drop what was done long ago, and of each trigger the oldest dead letters but for some thousand."""
        oldest = (datetime.now(UTC) - _KEPT).isoformat()
        dead = f"SELECT id FROM trigger_deliveries WHERE trigger_name = :trigger AND state = '{DEAD}'"
        with self._metadata.transaction(writing=True) as run:
            for trigger in _triggers(run):
                of_trigger = "DELETE FROM trigger_deliveries WHERE trigger_name = :trigger"
                run(f"{of_trigger} AND state = '{DONE}' AND due < :oldest", {"trigger": trigger, "oldest": oldest})
                if run(f"SELECT count(*) FROM ({dead}) AS dead", {"trigger": trigger})[0][0] > DEAD_KEPT:
                    run(
                        f"{of_trigger} AND state = '{DEAD}' AND id NOT IN ({dead} ORDER BY due DESC, id LIMIT :most)",
                        {"trigger": trigger, "most": DEAD_KEPT},
                    )

    def _settle(self, delivery: Delivery, state: str, reason: str, later_s: float) -> None:
        with self._metadata.transaction(writing=True) as run:
            run(
                "UPDATE trigger_deliveries SET state = :state, reason = :reason, due = :due"
                f"{_EMPTY if state == DONE else ''}"
                # Not if its time was up and another process has it by now.
                f" WHERE id = :id AND state = '{RUNNING}' AND attempts = :attempts",
                {
                    **{"id": delivery.id, "attempts": delivery.attempts, "state": state, "reason": reason},
                    "due": (datetime.now(UTC) + timedelta(seconds=later_s)).isoformat(),
                },
            )


_EMPTY = ", event = '{}'"
_COLUMNS = "id, trigger_name, event, state, attempts, due, reason, at"


def _triggers(run: Statements) -> Iterator[str]:
    """The triggers that have deliveries, each found by a step in the index, however many these are."""
    last = ""
    while name := run("SELECT min(trigger_name) FROM trigger_deliveries WHERE trigger_name > :last", {"last": last})[0][0]:
        yield name
        last = name


def _delivery(row: Sequence[Any]) -> Delivery:
    name, trigger, event, state, attempts, due, reason, at = row
    times = datetime.fromisoformat(due), datetime.fromisoformat(at)
    return Delivery(name, trigger, json.loads(event), state, attempts, times[0], reason, times[1])


def _tenant_of(event: Mapping[str, Any], name: str) -> str:
    """Whose turn an event takes; those of a topic are nobody's, since any program may name any tenant there."""
    data = event.get("data")
    tenant = data.get("tenant") if isinstance(data, Mapping) and not name.startswith("topic/") else None
    return tenant if isinstance(tenant, str) else ""


def _id(trigger: str, event: Mapping[str, Any], name: str) -> str:
    """Source and id are what tells two events apart (CloudEvents 1.0.2, section 3.1), of those whose source may be believed."""
    named = json.dumps([trigger, event.get("source", ""), event["id"], *([name] if name.startswith("topic/") else [])])
    return hashlib.sha256(named.encode()).hexdigest()[:16]
