"""The audit: who did what over the API, into its own table, without holding up answers.

A line goes from memory into the metadata store within a second, and from there into the table, each once: the table's commit
carries the name of the batch, which shows whether a batch that is still in the store was committed. Changes and documents are in
the metadata store before they are answered; a process that is killed loses the reads of the last second.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

from headrace.api.admission import Strangers
from headrace.catalog import AUDIT
from headrace.core.runner import Runner
from headrace.core.stage import stage
from headrace.errors import HeadraceError, LostRace
from headrace.storage.metadata import AuditLine, Metadata
from headrace.storage.records import batch
from headrace.storage.tables.handles import TableWriter
from headrace.terminal import printable

_KEEP_S = 1.0
_COMMIT_S = 5.0
_MOST_LINES = 50_000
_BATCH = "batch"

log = logging.getLogger("headrace.api")


@stage("Moves the audit's lines from the metadata store into their table.")
def audit(lines: Annotated[TableWriter, AUDIT], metadata: Metadata) -> int:
    """Move every waiting line, each once even if several processes do this; return how many."""
    moved = 0
    while True:
        recorded = lines.snapshot_property(_BATCH)
        if recorded is not None:
            metadata.drop_batch(recorded)
        claimed = metadata.claim()
        if claimed is None:
            return moved
        name, rows = claimed
        read = [{**row, "at": datetime.fromisoformat(row["at"])} for row in rows]
        try:
            lines.append(batch(AUDIT.columns, read), properties={_BATCH: name}, expected={_BATCH: recorded})
        except LostRace:
            continue  # another process moved lines, perhaps these
        metadata.drop_batch(name)
        moved += len(rows)


class Audit:
    """Takes lines and moves them to the table; safe to share between threads."""

    def __init__(self, metadata: Metadata, runner: Runner, strangers: Strangers | None = None) -> None:
        self._metadata = metadata
        self._strangers = strangers or Strangers()
        self._runner = runner
        self._waiting: list[AuditLine] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.lost = 0
        """Lines of reads dropped because the metadata store did not answer for too long."""

    def start(self) -> None:
        """Start a thread that moves lines."""
        self._thread = threading.Thread(target=self._keep, name="audit", daemon=True)
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Move the waiting lines; wait for that at most `seconds`."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(seconds)

    def later(self, line: AuditLine) -> None:
        """Take a line without I/O."""
        with self._lock:
            if len(self._waiting) >= _MOST_LINES:
                self.lost += 1
            else:
                self._waiting.append(line)

    def now(self, line: AuditLine) -> None:
        """Take a line, which is on disk when this returns. Raises what the metadata store raises."""
        self._metadata.note([line])

    def flush(self, *, last: bool = False) -> None:
        """Move every line taken so far into the table. Raises what the stores raise; lines are then kept for the next time."""
        self._keep_waiting(last=last)
        self._runner.run(audit)

    def _keep_waiting(self, *, last: bool = False) -> None:
        for line in self._strangers.lines(all_of_them=last):
            self.later(line)
        with self._lock:
            taken, self._waiting = self._waiting, []
        if taken:
            try:
                self._metadata.note(taken)
            except HeadraceError:
                self._back(taken)
                raise

    def _back(self, taken: Iterable[AuditLine]) -> None:
        with self._lock:
            self._waiting = [*taken, *self._waiting]

    def _keep(self) -> None:
        committed = time.monotonic()
        while not self._stop.wait(_KEEP_S):
            try:
                if time.monotonic() - committed >= _COMMIT_S:
                    committed = time.monotonic()
                    self.flush()
                else:
                    self._keep_waiting()
            except HeadraceError as error:
                log.warning("audit lines are not committed yet: %s", printable(error.message))
        try:
            self.flush(last=True)
        except HeadraceError as error:
            log.warning("the audit's last lines stay in the metadata store: %s", type(error).__name__)
