"""Verdicts on answers: finding a verdict's answer, and recording the verdict once, however often it is sent."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from headrace.answering.record import Answer, Verdict, feedback, repeated_id
from headrace.answering.unrecorded import Unrecorded
from headrace.catalog import FEEDBACK, FEEDBACK_ROWS, INTERACTION_ROWS
from headrace.core.runner import FirstAlone, Runner
from headrace.storage.tables.handles import TableReader, quoted

T = TypeVar("T")

_REMEMBERED = 10_000
_TEXT_CHARACTERS = 500
_LOCKS = 16


@dataclass(frozen=True)
class KnownAnswer:
    """An answer that was given: its tenant, the ids of the chunks it was made from, its user and the question in full.

    `text` is its beginning, and `readers` those that it was made for; both are known of answers of this process alone.
    """

    tenant: str
    chunks: frozenset[str]
    user: str
    question: str
    text: str = ""
    readers: frozenset[str] | None = None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> KnownAnswer:
        """An answer as it is recorded."""
        chunks = frozenset(passage["chunk_id"] for passage in row["passages"] or () if passage)
        return cls(row["tenant"], chunks, row["user"], row.get("asked_as") or row["question"])


@dataclass(frozen=True)
class RecordedVerdict:
    """A verdict and its position in the topic."""

    verdict_id: str
    partition: int
    offset: int
    topic: str = FEEDBACK.name


class Verdicts:
    """Finds the answers of verdicts, and records verdicts; safe to share between threads."""

    def __init__(self, runner: Runner, unrecorded: Unrecorded | None = None, first: FirstAlone | None = None) -> None:
        self._runner = runner
        self._first = first or FirstAlone()
        self._unrecorded = unrecorded
        self._answers: OrderedDict[str, KnownAnswer] = OrderedDict()
        self._repeatable: OrderedDict[str, RecordedVerdict] = OrderedDict()
        self._recording = [threading.Lock() for _ in range(_LOCKS)]
        self._lock = threading.Lock()

    def remember(self, answer: Answer, readers: Sequence[str] = ()) -> None:
        """Remember an answer of this process, made for these readers, so that what follows on it need not wait until it lands."""
        chunks = frozenset(passage.hit.chunk_id for passage in answer.passages)
        text = answer.text[:_TEXT_CHARACTERS]
        known = KnownAnswer(answer.tenant, chunks, answer.user, answer.in_full, text, frozenset(readers))
        self._keep(self._answers, answer.answer_id, known)

    def remembers(self, answer_id: str) -> bool:
        """Whether an answer is one of this process's newest, so that it is found without reading a table."""
        with self._lock:
            return answer_id in self._answers

    def answer(self, answer_id: str, tenant: str | None = None) -> KnownAnswer | None:
        """An answer of this process, one that waits to be recorded, or one that has landed; only of `tenant` if given."""
        with self._lock:
            found = self._answers.get(answer_id)
        if found is None and self._unrecorded is not None and (row := self._unrecorded.find(answer_id)) is not None:
            found = KnownAnswer.from_row(row)
        if found is not None:
            return found if tenant in (None, found.tenant) else None
        where = f"answer_id = {quoted(answer_id)}" + (f" AND tenant = {quoted(tenant)}" if tenant is not None else "")
        table = self._runner.open(TableReader, INTERACTION_ROWS, stage=feedback.name)
        rows = table.read(("answer_id", "tenant", "user", "question", "asked_as", "passages"), where).to_pylist()
        return KnownAnswer.from_row(rows[0]) if rows else None

    def record(self, verdicts: Sequence[Verdict]) -> list[RecordedVerdict]:
        """Put verdicts of one tenant on the head."""
        if not verdicts:
            return []
        tenant = verdicts[0].tenant
        with self._first((feedback.name, tenant)):
            offsets = self._runner.for_tenant(tenant).run(feedback, verdicts=verdicts)
        self._runner.record.count(verdicts=len(verdicts))
        return [RecordedVerdict(verdict.verdict_id, *offset) for verdict, offset in zip(verdicts, offsets, strict=True)]

    def record_once(self, verdict: Verdict, key: str) -> RecordedVerdict:
        """As `record`, but not again for the same verdict and key, as far as this process and the tables know."""
        content = {name: value for name, value in vars(verdict).items() if name != "verdict_id"}
        verdict = replace(verdict, verdict_id=repeated_id(key, content))
        with self._recording[int(verdict.verdict_id, 16) % _LOCKS]:  # the second of two at once finds the first one's
            with self._lock:
                done = self._repeatable.get(verdict.verdict_id)
            done = done or self._landed(verdict) or self.record([verdict])[0]
            self._keep(self._repeatable, verdict.verdict_id, done)
        return done

    def _landed(self, verdict: Verdict) -> RecordedVerdict | None:
        """The verdict as another process recorded it, if it has landed."""
        table = self._runner.open(TableReader, FEEDBACK_ROWS, stage=feedback.name)
        where = f"verdict_id = {quoted(verdict.verdict_id)} AND tenant = {quoted(verdict.tenant)}"
        found = table.read(("partition", "offset"), where).to_pylist()
        return RecordedVerdict(verdict.verdict_id, **found[0]) if found else None

    def _keep(self, known: OrderedDict[str, T], name: str, value: T) -> None:
        with self._lock:
            known[name] = value
            while len(known) > _REMEMBERED:
                known.popitem(last=False)
