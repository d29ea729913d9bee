"""Single events in the tables: how far a verdict has come, what stopped a partition, the lines of the audit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow.compute as pc

from headrace.catalog import AUDIT, DIVERGENCES, FEEDBACK, FEEDBACK_ROWS
from headrace.core.runner import Runner
from headrace.errors import NotFound
from headrace.landing.positions import origin, positions
from headrace.storage.tables.handles import TableReader, quoted

_DIVERGENCES = 50
_DIVERGENCES_DAYS = 90
_LOOK_BACK = (timedelta(minutes=10), timedelta(hours=2), timedelta(days=1), timedelta(days=30))


class RecordedEvents:
    """Reads single events; safe to share between threads."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def verdict(self, tenant: str | None, partition: int, offset: int) -> dict[str, Any] | None:
        """A verdict by its partition and offset (of a tenant, if one is given), once it has landed; `None` until then.

        Raises `NotFound` if another verdict, or none, landed from that offset.
        """
        table = self._runner.open(TableReader, FEEDBACK_ROWS, stage="page")
        landed = positions(table.snapshot_properties(), FEEDBACK.name).get(partition)
        if landed is None or landed.next <= offset:
            return None
        name = origin(FEEDBACK.name, landed.topic_epoch)
        where = f"topic = {quoted(name)} AND partition = {partition} AND offset = {offset}"
        if tenant is not None:
            where += f" AND tenant = {quoted(tenant)}"
        rows = table.read(("verdict_id", "answer_id", "up", "at"), where).to_pylist()
        if not rows:
            raise NotFound("There is no such verdict.", hint="POST /v1/feedback returns a verdict's partition and offset.")
        return dict(rows[0])

    def divergences(self) -> list[dict[str, Any]]:
        """Where landing stopped and who let it go on, newest first."""
        table = self._runner.open(TableReader, DIVERGENCES, stage="page")
        since = datetime.now(UTC) - timedelta(days=_DIVERGENCES_DAYS)
        rows = table.read(where=f"at >= {quoted(since.isoformat())}").to_pylist()
        return sorted(rows, key=lambda row: row["at"], reverse=True)[:_DIVERGENCES]

    def audit(self, tenant: str | None, before: datetime | None, most: int, *, reads: bool) -> list[dict[str, Any]]:
        """The newest lines of the audit before a time (of a tenant), newest first; none older than a month before it.

        Without `reads`, those of GET requests that were answered are left out. It looks back minutes first, and further where
        that was too little.
        """
        table = self._runner.open(TableReader, AUDIT, stage="page")
        until = before or datetime.now(UTC) + timedelta(minutes=1)
        rows: list[dict[str, Any]] = []
        for look_back in _LOOK_BACK:
            where = f"at >= {quoted((until - look_back).isoformat())} AND at < {quoted(until.isoformat())}"
            if tenant is not None:
                where += f" AND tenant = {quoted(tenant)}"
            rows = []
            for batch in table.scan(where=where):
                if not reads:
                    read = pc.and_(pc.starts_with(batch["action"], "GET "), pc.equal(batch["outcome"], "done"))
                    batch = batch.filter(pc.invert(read))
                rows = sorted([*rows, *batch.to_pylist()], key=lambda row: row["at"], reverse=True)[:most]
            if len(rows) >= most:
                break
        return rows
