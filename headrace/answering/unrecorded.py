"""Answers given while the head is unavailable: kept as files in the home, and recorded once the head is back.

Each answer is one file, synced to disk before the answer ends with its note; names sort in the order of the answers. The row is
written to the head later with the same key and id. The head may have stored an answer without confirming it in time, so each
pass first looks which answers are already there, landed or not. If two processes still record the same one, it lands twice and
counts once, by its `answer_id`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from headrace.atomic import write_atomically
from headrace.catalog import INTERACTION_ROWS, INTERACTIONS
from headrace.core.runner import Runner
from headrace.core.stage import stage
from headrace.errors import OutOfRange, Transient, Unavailable
from headrace.landing.positions import positions
from headrace.platform.home import Home, Lock, write_error
from headrace.storage.records import encode
from headrace.storage.stream.reader import TopicReader
from headrace.storage.stream.writer import TopicWriter
from headrace.storage.tables.handles import TableReader, quoted

MOST = 10_000
MOST_BYTES = 256 << 20
NOTE = "the answer is not recorded yet; a verdict on it can be given once it is"
_AT_ONCE = 100
_AGAIN_S = (1.0, 30.0)
_NAME = re.compile(r"(\d{20})-([0-9a-f]{1,64})\.json")

log = logging.getLogger("headrace.api")


@dataclass(frozen=True)
class UnrecordedAnswer:
    """One answer that waits to be recorded."""

    path: Path
    answer_id: str


class Unrecorded:
    """The answers of a home that wait to be recorded; safe to share between threads, and between processes."""

    def __init__(self, home: Path) -> None:
        self.away = False
        """Whether the head did not accept the last answer, so that the next ones need not wait for its timeout."""
        self._home = Home(home)
        self._folder = self._home.root / "unrecorded"
        self._lock = threading.Lock()
        self._last = 0
        self._bytes = 0
        self._names: set[str] = set()
        self._look()

    def __len__(self) -> int:
        return len(self._names)

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep an answer as its row in the topic; it is on disk when this returns.

        Raises `Unavailable` at the limit of kept answers, `StorageFull`, `HomeRefused`.
        """
        # On a nearly full disk the rest is for the stores: answers are rejected like documents.
        if (full := self._home.fullness()) is not None:
            raise full
        data = encode(INTERACTIONS, row)
        with self._lock:
            if len(self._names) >= MOST or self._bytes + len(data) > MOST_BYTES:
                raise Unavailable(
                    f"The head accepts no answers, and {len(self._names):,} wait for it, the most that are kept.",
                    hint="Try again when it does: `headrace status`.",
                )
            # Later than all before it, even if the clock was set back.
            self._last = max(time.time_ns(), self._last + 1)
            name = f"{self._last:020d}-{row['answer_id']}.json"
            try:
                self._folder.mkdir(mode=0o700, exist_ok=True)
                write_atomically(self._folder / name, data)
                folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
            except OSError as error:
                raise write_error(error, self._folder) from None
            self._names.add(name)
            self._bytes += len(data)
            self.away = True

    def find(self, answer_id: str) -> dict[str, Any] | None:
        """The row of an answer that waits, or `None`."""
        for one in self.waiting():
            if one.answer_id == answer_id:
                with contextlib.suppress(OSError, ValueError):
                    found: dict[str, Any] = json.loads(one.path.read_bytes())
                    return found
        return None

    def waiting(self) -> list[UnrecordedAnswer]:
        """The waiting answers, oldest first."""
        self._look()
        found = [(_NAME.fullmatch(name), name) for name in sorted(self._names)]
        return [UnrecordedAnswer(self._folder / name, match[2]) for match, name in found if match]

    def record(self, runner: Runner) -> int:
        """Record all waiting answers, oldest first; returns how many. Raises what the head and the tables raise.

        One process at a time does this; a second one returns 0.
        """
        waiting = self.waiting()
        if not waiting:
            return 0
        lock = Lock(self._folder / "lock")
        if not lock.acquire():
            return 0
        try:
            there = runner.run(find_recorded, wanted={one.answer_id for one in waiting})
            count = 0
            unread: dict[UnrecordedAnswer, str] = {}
            for start in range(0, len(waiting), _AT_ONCE):
                some = waiting[start : start + _AT_ONCE]
                rows = []
                for one in some:
                    try:
                        row = None if one.answer_id in there else self._row(one)
                    except OSError as error:  # which may be of this moment, like too many open files
                        unread[one] = error.strerror or type(error).__name__
                        continue
                    rows += [row] if row is not None else []
                runner.run(record_late, rows=rows)
                count += len(rows)
                self._remove([one for one in some if one not in unread])
            self.away = False
            if unread:
                one, reason = next(iter(unread.items()))
                raise Unavailable(
                    f"{one.path} cannot be read, and waits to be recorded: {reason}.", hint="Check the disk of the home."
                )
            return count
        finally:
            lock.release()

    def _row(self, one: UnrecordedAnswer) -> dict[str, Any] | None:
        """The row, or `None` if its file is gone or damaged; a damaged file is renamed. Raises `OSError` if it cannot be read."""
        try:
            data = one.path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            row = json.loads(data)
            encode(INTERACTIONS, row)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.error("an answer that waited to be recorded cannot be read, and its file was renamed: %s", type(error).__name__)
            with contextlib.suppress(OSError):
                one.path.rename(one.path.with_suffix(".damaged"))
            return None
        return dict(row)

    def _remove(self, some: Sequence[UnrecordedAnswer]) -> None:
        for one in some:
            one.path.unlink(missing_ok=True)
        self._look()

    def _look(self) -> None:
        with self._lock:
            sizes = {}
            with contextlib.suppress(FileNotFoundError), os.scandir(self._folder) as entries:
                for entry in entries:
                    if match := _NAME.fullmatch(entry.name):
                        with contextlib.suppress(FileNotFoundError):
                            sizes[entry.name] = entry.stat().st_size
                        self._last = max(self._last, int(match[1]))
            self._names, self._bytes = set(sizes), sum(sizes.values())


@stage("Finds the answers that are recorded already, landed or not.")
def find_recorded(
    landed: Annotated[TableReader, INTERACTION_ROWS], head: Annotated[TopicReader, INTERACTIONS], wanted: set[str]
) -> set[str]:
    """The ids of `wanted` that are recorded."""
    names = sorted(wanted)
    recorded: set[str] = set()
    # The head first: what lands meanwhile is then in the table.
    landed_positions = positions(landed.snapshot_properties(), INTERACTIONS.name)
    spans = head.spans()
    start = {p: max(span.low, landed_positions[p].next if p in landed_positions else 0) for p, span in spans.items()}
    signed_from = {p: position.signed or 0 for p, position in landed_positions.items()}
    with contextlib.suppress(OutOfRange):  # the topic was recreated and holds nothing from before
        for fetched in head.read(start):
            forged = head.forged(fetched, signed_from)  # which will not land
            for index, value in enumerate(fetched.values):
                if index not in forged:
                    with contextlib.suppress(ValueError, TypeError, AttributeError):
                        recorded.add(str(json.loads(value or b"").get("answer_id")))
    for at in range(0, len(names), _AT_ONCE):
        some = ", ".join(quoted(name) for name in names[at : at + _AT_ONCE])
        recorded.update(landed.read(("answer_id",), f"answer_id in ({some})")["answer_id"].to_pylist())
    return recorded & wanted


@stage("Records answers that were given while the head was unavailable.")
def record_late(interactions: Annotated[TopicWriter, INTERACTIONS], rows: Sequence[Mapping[str, Any]]) -> None:
    """Append the rows unchanged."""
    interactions.append(rows, key="answer_id")


class Recorder:
    """A thread that records waiting answers as soon as the head accepts them."""

    def __init__(self, runner: Runner, unrecorded: Unrecorded) -> None:
        self._runner, self._unrecorded = runner, unrecorded
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._record, name="unrecorded", daemon=True)

    def start(self) -> None:
        """Start the thread; answers left by an earlier process come first."""
        self._thread.start()

    def stop(self, seconds: float = 0.0) -> None:
        """Stop after the current pass; wait for it at most `seconds`."""
        self._over.set()
        if seconds and self._thread.is_alive():
            self._thread.join(seconds)

    def _record(self) -> None:
        wait_s = _AGAIN_S[0]
        while not self._over.wait(wait_s):
            if not len(self._unrecorded):
                wait_s = _AGAIN_S[0]
                continue
            try:
                if count := self._unrecorded.record(self._runner):
                    log.info("%d answers that had waited are recorded", count)
                wait_s = _AGAIN_S[0]
            except Exception as error:  # if the thread ended, they would never be recorded
                if not isinstance(error, Transient):
                    log.error("answers wait to be recorded: %s", type(error).__name__)
                wait_s = min(2 * wait_s, _AGAIN_S[1])
