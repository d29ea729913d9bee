"""What happened, as CloudEvents 1.0: found in the rows of three tables, on the clock and on the head.

Tables are what events can be relied on for: a row is there once what it says is durable, and stays. The id of an event is that of
its row, so an event that is found twice is the same one. What a table has at the first look with a trigger is no event for it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from headrace.catalog import DOCUMENT_ROWS, PROMOTIONS, SUPPRESSIONS
from headrace.core.runner import Runner
from headrace.documents.lookup import DocumentLookup, follows
from headrace.documents.versions import ORIGIN, origin_of
from headrace.errors import HeadraceError
from headrace.retry import backoff
from headrace.scheduler.triggers.queue import DeliveryQueue
from headrace.settings import TopicCause, TriggerSettings
from headrace.storage.meter import Meter
from headrace.storage.stream.cloud_events import CloudEventReader
from headrace.storage.tables.handles import TableReader, quoted
from headrace.terminal import printable

log = logging.getLogger("headrace.triggers")

_TYPE = "io.headrace."
_OVERLAP = timedelta(hours=1)  # rows are looked through again by their times where a table's revision is no longer known
_ROW = ("document_id", "status", "at", *ORIGIN)
_PROMOTION = ("model", "version", "previous", "kind", "round", "who", "why", "at")
_SUPPRESSION = ("suppression_id", "tenant", "name", "document_id", "at")
_FORGOTTEN = "document.forgotten"
_KINDS = {"promote": "model.promoted", "rollback": "model.rolled_back"}
_LAG = "lag"
_TOPIC_S, _TOPIC_LONGEST_S = 2.0, 60.0  # until a topic that cannot be read is looked at again
_LAG_S = 30.0  # between looks at the head, which take requests to the broker
_ABOVE, _BELOW = "above", "below"


def cloud_event(kind: str, identity: str, source: str, subject: str, at: datetime, data: Mapping[str, Any]) -> dict[str, Any]:
    """A CloudEvent in the JSON format (CloudEvents 1.0.2, section 3). `kind` as in the settings of a trigger."""
    event: dict[str, Any] = {
        **{"specversion": "1.0", "id": identity, "source": source, "type": f"{_TYPE}{kind}", "subject": subject},
        **{"time": at.astimezone(UTC).isoformat().replace("+00:00", "Z"), "datacontenttype": "application/json"},
        "data": dict(data),
    }
    return event


class EventFinder:
    """Finds events for triggers, and queues each with the position behind it in one transaction; for one thread."""

    def __init__(
        self, triggers: Sequence[TriggerSettings], runner: Runner, queue: DeliveryQueue, unlanded: Callable[[], int]
    ) -> None:
        self._triggers, self._queue, self._unlanded = triggers, queue, unlanded
        self._documents = runner.open(TableReader, DOCUMENT_ROWS, stage="triggers")
        self._promotions = runner.open(TableReader, PROMOTIONS, stage="triggers")
        self._suppressions = runner.open(TableReader, SUPPRESSIONS, stage="triggers")
        self._lookup = DocumentLookup(runner.metadata, self._documents)
        self._lag_looked = -_LAG_S
        self._runner = runner
        self._readers: dict[str, CloudEventReader] = {}
        self._failing: dict[str, tuple[int, float, str]] = {}  # by trigger: how often its topic failed, until when it rests, why
        self._began: dict[str, datetime] = {}  # by trigger: its first look, kept in the queue's store
        self._first: set[str] = set()  # triggers whose first look has not succeeded yet

    def close(self) -> None:
        """Close the connections to topics of other programs."""
        for reader in self._readers.values():
            reader.close()
        self._readers = {}

    def find(self) -> None:
        """Look once. Raises what reading a table raises; the next look begins where this one did.

        A topic that cannot be read is logged, and is looked at less often; it holds up nothing else.
        """
        self._begin()
        if self._wants("document."):
            self._follow(self._documents, "documents", self._of_documents)
        if self._wants(_FORGOTTEN):
            self._follow(self._suppressions, "suppressions", self._of_suppressions)
        if self._wants("model."):
            self._follow(self._promotions, "promotions", self._of_promotions)
        self._first.clear()
        self._clock()
        if any(trigger.lag for trigger in self._triggers) and time.monotonic() - self._lag_looked > _LAG_S:
            self._lag_looked = time.monotonic()
            self._lag()
        for trigger in self._triggers:
            if trigger.events is not None:
                self._look_at_topic(trigger, trigger.events)

    def _wants(self, prefix: str) -> bool:
        return any(kind.startswith(prefix) for trigger in self._triggers for kind in trigger.on)

    def _begin(self) -> None:
        """Note when each trigger was first looked for. Noted before its first look, which loses nothing if it is cut short."""
        for trigger in self._triggers:
            if not trigger.on or trigger.name in self._began:
                continue
            name = f"began/{trigger.name}"
            known = self._queue.position(name)
            began = datetime.now(UTC) if known is None else datetime.fromisoformat(known[0])
            if known is None:
                self._queue.add((), name=name, position=began.isoformat())
                self._first.add(trigger.name)
            self._began[trigger.name] = began

    def _follow(
        self,
        table: TableReader,
        name: str,
        events_in: Callable[[TableReader, str | None, str | None], Iterator[tuple[str, str, datetime, dict[str, Any]]]],
    ) -> None:
        """Queue the events of the rows committed since the last look; at the first one only note where it is."""
        revision = table.state().revision
        known = self._queue.position(name)
        if revision is None or (known is not None and known[0] == revision):
            # The time of the last look says how far rows are looked through again by their times. Were it as old as the last
            # change, events could be among them that the queue has long dropped, and would be taken for new.
            if known is None or datetime.now(UTC) - known[1] > _OVERLAP:
                self._queue.add((), name=name, position=revision or "")
            return
        found: list[tuple[str, dict[str, Any]]] = []
        if known is not None:
            since = (known[0] or None) if follows(known[0] or None, revision) else None
            # Rows were removed since, or the table was made anew: new rows are found by time, and known ones by their ids.
            where = None if since or not known[0] else f"at >= {quoted((known[1] - _OVERLAP).isoformat())}"
            for kind, tenant, at, event in events_in(table, since, where):
                found += [
                    (trigger.name, event)
                    for trigger in self._triggers
                    if kind in trigger.on
                    and (not tenant or trigger.tenant in ("", tenant))
                    and trigger.name not in self._first
                    and (where is None or at >= self._began[trigger.name])
                ]
        self._queue.add(found, name=name, position=revision)

    def _of_documents(
        self, table: TableReader, since: str | None, where: str | None
    ) -> Iterator[tuple[str, str, datetime, dict[str, Any]]]:
        rows = table.read(_ROW, where, since=since) if where else table.read(_ROW, since=since)
        new = {(*origin_of(row), row["status"]) for row in rows.to_pylist()}
        self._lookup.follow()
        for history in self._lookup.histories({row["document_id"] for row in rows.select(["document_id"]).to_pylist()}):
            for index, row in enumerate(history):
                if (*origin_of(row), row["status"]) in new and (kind := change_of(history[:index], row)):
                    yield kind, row["tenant"], row["at"], _document_event(kind, row)

    def _of_promotions(
        self, table: TableReader, since: str | None, where: str | None
    ) -> Iterator[tuple[str, str, datetime, dict[str, Any]]]:
        rows = table.read(_PROMOTION, where, since=since) if where else table.read(_PROMOTION, since=since)
        for row in rows.to_pylist():
            if (kind := _KINDS.get(row["kind"])) is not None:
                data = {name: row[name] for name in _PROMOTION if name != "at"}
                # Two moves of a version may be in one microsecond.
                told_apart = f"{row['model']}/{row['version']}/{row['kind']}/{row['at'].isoformat()}"
                identity = hashlib.sha256(told_apart.encode()).hexdigest()[:16]
                event = cloud_event(kind, f"promotions/{identity}", "/headrace/models", row["model"], row["at"], data)
                yield kind, "", row["at"], event

    def _of_suppressions(
        self, table: TableReader, since: str | None, where: str | None
    ) -> Iterator[tuple[str, str, datetime, dict[str, Any]]]:
        """Of documents that were forgotten: their own rows are removed, mostly before they are looked at."""
        rows = table.read(_SUPPRESSION, where, since=since) if where else table.read(_SUPPRESSION, since=since)
        for row in rows.to_pylist():
            if row["document_id"]:  # empty for a user
                data = {"tenant": row["tenant"], "uri": row["name"], "document_id": row["document_id"]}
                identity = f"suppressions/{row['suppression_id']}/{row['at'].isoformat()}"
                event = cloud_event(_FORGOTTEN, identity, "/headrace/documents", row["name"], row["at"], data)
                yield _FORGOTTEN, row["tenant"], row["at"], event

    def _clock(self) -> None:
        now = datetime.now(UTC)
        for trigger in self._triggers:
            if trigger.every_s is None:
                continue
            turn = int(now.timestamp() // trigger.every_s)
            name = f"schedule/{trigger.name}"
            known = self._queue.position(name)
            if known is not None and known[0] == str(turn):
                continue
            at = datetime.fromtimestamp(turn * trigger.every_s, UTC)
            event = cloud_event(
                "schedule", f"{name}/{turn}", "/headrace/schedule", trigger.name, at, {"every_s": trigger.every_s}
            )
            # Several turns that were missed are one; the first is the next one.
            self._queue.add([(trigger.name, event)] if known is not None else [], name=name, position=str(turn))

    def _look_at_topic(self, trigger: TriggerSettings, cause: TopicCause) -> None:
        failures, until, before = self._failing.get(trigger.name, (0, 0.0, ""))
        if time.monotonic() < until:
            return
        try:
            self._topic(trigger, cause)
        except HeadraceError as error:
            why = printable(error.message)
            if why != before:
                log.warning("trigger %s: %s", trigger.name, why)
            rests_s = backoff(failures + 1, first_s=_TOPIC_S, longest_s=_TOPIC_LONGEST_S)
            self._failing[trigger.name] = failures + 1, time.monotonic() + rests_s, why
        else:
            self._failing.pop(trigger.name, None)

    def _topic(self, trigger: TriggerSettings, cause: TopicCause) -> None:
        """Queue what other programs wrote to a topic, and with it how far the topic was read, unless much of it waits already."""
        if self._queue.is_full(trigger.name):
            return
        reader = self._readers.get(trigger.name)
        if reader is None:
            head = self._runner.endpoints
            own = {"bootstrap.servers": head.kafka_bootstrap, **head.kafka_properties}
            client = cause.client() if cause.bootstrap else own
            reader = CloudEventReader(cause.topic, client, Meter(self._runner.record.ledger, "triggers"))
            self._readers[trigger.name] = reader
        name = f"topic/{trigger.name}/{cause.topic}"
        known = self._queue.position(name)
        offsets = None if known is None else {int(partition): at for partition, at in json.loads(known[0]).items()}
        read = reader.read(offsets)
        if read.offsets == offsets:
            return
        wanted = [(trigger.name, event) for event in read.events if not cause.types or event["type"] in cause.types]
        now = datetime.now(UTC)
        refused = [
            (trigger.name, cloud_event("refused", origin, "/headrace/topics", cause.topic, now, {"record": origin}), reason)
            for origin, reason in read.refused
        ]
        self._queue.add(wanted, name=name, position=json.dumps(read.offsets), refused=refused)

    def _lag(self) -> None:
        lag = self._unlanded()
        now = datetime.now(UTC)
        for trigger in self._triggers:
            if trigger.lag is None:
                continue
            name = f"{_LAG}/{trigger.name}"
            known = self._queue.position(name)
            state = _ABOVE if lag >= trigger.lag else _BELOW
            if (known[0] if known else _BELOW) == state:
                continue
            event = cloud_event(
                _LAG, f"{name}/{now.isoformat()}", "/headrace/head", trigger.name, now, {"lag": lag, "above": trigger.lag}
            )
            self._queue.add([(trigger.name, event)] if state == _ABOVE else [], name=name, position=state)


def change_of(before: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> str | None:
    """What a row of the documents table says of a document, by the rows before it; `None` if nothing changed."""
    last = before[-1]["status"] if before else "deleted"
    if row["status"] != "parsed":
        return "document.failed" if row["status"] == "failed" else "document.deleted" if last != "deleted" else None
    since_deleted: list[Mapping[str, Any]] = []
    for one in before:
        since_deleted = [] if one["status"] == "deleted" else [*since_deleted, one]
    parsed = [one for one in since_deleted if one["status"] == "parsed"]
    if not parsed:
        return "document.created"
    if parsed[-1]["version"] != row["version"]:
        return "document.changed"
    labels = ("readers", "attributes")
    same = all(sorted(parsed[-1][name] or ()) == sorted(row[name] or ()) for name in labels)
    return None if same else "document.tagged"


def _document_event(kind: str, row: Mapping[str, Any]) -> dict[str, Any]:
    data = {name: row[name] for name in ("tenant", "uri", "document_id", "version", "bytes", "media", "title", "reason")}
    data |= {name: list(row[name] or ()) for name in ("readers", "attributes")}
    identity = f"{row['topic']}/{row['partition']}/{row['offset']}/{row['status']}"
    return cloud_event(kind, identity, "/headrace/documents", row["uri"], row["put_at"] or row["at"], data)
