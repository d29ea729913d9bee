"""What the API does, without HTTP: questions, verdicts, the live run and its diagrams, shared by many at once."""

from __future__ import annotations

import getpass
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from headrace.answering.engine import GivenUp, QueryEngine
from headrace.answering.record import Answer, Verdict, new_id
from headrace.answering.unrecorded import Recorder
from headrace.answering.verdicts import RecordedVerdict
from headrace.api.admission import AdmissionQueue, Rate, Strangers, Ticket
from headrace.api.audit import Audit
from headrace.api.auth import PAGE, SCOPES, Asker, Caller, Callers, asker, limits_of
from headrace.api.documents import Documents
from headrace.api.telemetry import ServiceMetrics, Traces, tokens
from headrace.catalog import CHUNKS, INDEXES, Tier
from headrace.core.runner import Runner
from headrace.documents.generations import active_reader
from headrace.errors import NotFound, StorageFull, Transient
from headrace.explain.diagram.layout import scene_for
from headrace.explain.diagram.recorded import measured
from headrace.explain.diagram.svg import svg
from headrace.platform.address import embedded_parts
from headrace.platform.home import Home
from headrace.readiness import Ask, Readiness, Trouble, asks
from headrace.settings import Settings, TenantLimits
from headrace.storage.ledger import Direction, Row
from headrace.storage.metadata import Metadata
from headrace.storage.tables.handles import quoted
from headrace.storage.vectors.generations import IndexReader
from headrace.storage.vectors.handles import VectorReader

AT_ONCE = 4
"""Questions worked on at the same time; the models take them one by one, but one can retrieve while another is answered."""
WAITING = 28
"""Questions that may wait beyond those; further ones are turned away."""
_CLOSE_S = 5.0


@dataclass(frozen=True)
class AdmittedQuestion:
    """A question that has a place: who asks it, whose documents and on behalf of which readers, and its answer's id."""

    ticket: Ticket
    text: str
    caller: Caller
    tenant: str
    readers: tuple[str, ...]
    who: Asker
    headers: Mapping[str, str]
    answer_id: str = field(default_factory=new_id)


class Service:
    """Answers for one run of `headrace up`; every method may be called from several threads.

    `stopping` turns true when the server ends: whatever waits or generates then gives up.
    """

    def __init__(self, runner: Runner, engine: QueryEngine, settings: Settings, traces: Traces | None = None) -> None:
        self.runner = runner
        self.settings = settings
        self.stopping = False
        self.places = AdmissionQueue(AT_ONCE, WAITING)
        self.metadata = Metadata(runner.endpoints)
        self.callers = Callers(self.metadata, settings.limits)
        whole = settings.limits.model_copy(update={"questions": AT_ONCE + WAITING})
        self.page = Caller(settings.tenant, PAGE, frozenset(SCOPES), whole)
        self.strangers = Strangers()
        self.audit = Audit(self.metadata, runner, self.strangers)
        self.rate = Rate()
        self.documents = Documents(runner, settings)
        self.readiness = Readiness(
            [
                *asks(settings, runner.endpoints),
                Ask("metadata", self._metadata_trouble, "Check the metadata store: [metadata], or metadata.db in the home."),
                Ask("indexing", self.documents.trouble, "The log names what failed. `headrace index --skip URI` leaves one out."),
            ]
        )
        self.metrics = ServiceMetrics(
            runner.record.ledger,
            lambda: self.places.counts,
            lambda: self.readiness.recent(math.inf) or (),
            lambda: self.unrecorded_answers,
        )
        self.traces = traces or Traces.from_settings(settings.telemetry)
        self._engine = engine
        self._unrecorded = engine.unrecorded if engine is not None else None
        self._recorder = Recorder(runner, self._unrecorded) if self._unrecorded is not None else None
        self._lock = threading.Lock()
        self._drawing = threading.Lock()
        self._drawn: dict[str, tuple[tuple[str, int], bytes]] = {}
        self._vectors: VectorReader | None = None
        self._indexes: IndexReader
        self._user = _user()

    def start(self) -> None:
        """Begin to index what is put, to keep the audit, and to record answers that wait for it."""
        self.documents.start()
        self.audit.start()
        if self._recorder is not None:
            self._recorder.start()

    def stop(self) -> None:
        """Have everything under way give up soon. Takes no lock, so a signal handler may call it."""
        self.stopping = True
        self.documents.stopping = True

    def close(self) -> None:
        """Wait a little for what `start` began, and let go of everything."""
        self.stop()
        self.documents.stop(_CLOSE_S)
        self.audit.stop(_CLOSE_S)
        if self._recorder is not None:
            self._recorder.stop(_CLOSE_S)
        self.traces.stop()
        self.metadata.close()

    def limits_of(self, tenant: str, quotas: dict[str, Any] | None = None) -> TenantLimits:
        """A tenant's limits; its quotas are looked up unless they are given."""
        if quotas is None:
            quotas = next((known.quotas for known in self.metadata.tenants() if known.name == tenant), {})
        return limits_of(self.settings.limits, quotas)

    @property
    def unrecorded_answers(self) -> int:
        """Answers that wait until the head takes them."""
        return len(self._unrecorded) if self._unrecorded is not None else 0

    def cause_of(self, error: BaseException) -> BaseException:
        """The error to tell: where an embedded store does not answer since the disk is full, that it is; no path is named."""
        embedded = bool(embedded_parts(self.settings, frozenset({"objects", "head"})))
        if isinstance(error, Transient | StorageFull) and embedded and Home(self.settings.home).fullness() is not None:
            return StorageFull("The disk of this service is full.", hint="Its operator has to free some space; then try again.")
        return error

    def _metadata_trouble(self) -> Trouble | None:
        self.metadata.holder_of("")
        return None

    def who(self, caller: Caller, user: str | None = None, simulated: str | None = None) -> Asker:
        """Who is recorded with an answer or a verdict: who is named, else the key, or who started the service for its page.

        Raises `Forbidden` where the key may not name one.
        """
        return asker(caller, self._user if caller.key_id == PAGE else caller.key_id, user, simulated)

    def admit(
        self,
        caller: Caller,
        text: str,
        headers: Mapping[str, str],
        *,
        tenant: str | None,
        readers: Sequence[str],
        user: str | None,
        simulated: str | None = None,
    ) -> AdmittedQuestion:
        """Take a place for a question. Raises `Forbidden` for what the caller may not name, `Overloaded` where none is free."""
        whose, open_to = caller.tenant_for(tenant), caller.principals_for(readers)
        who = self.who(caller, user, simulated)
        ticket = self.places.enter(whose, caller.limits.questions, text)
        return AdmittedQuestion(ticket, text, caller, whose, open_to, who, headers)

    def ask(self, asked: AdmittedQuestion, put: Callable[[str | Answer], None], gone: Callable[[], bool]) -> None:
        """Put the answer's text in pieces, then the answer; ends early once `gone` says nobody listens.

        Gives the question's place back. Raises what retrieval and generation raise.
        """
        tenant, caller = asked.tenant, asked.caller
        with (
            suppress(GivenUp),
            self._admitted(asked.ticket, gone) as begun,
            self.traces.question("chat", tenant, asked.headers) as span,
        ):
            if not begun:
                return
            # What a tenant's first question opens (topics, catalogs) is opened once, not by several at a time.
            with self._engine.first(("ask", tenant)):
                limits = caller.limits if tenant == caller.tenant else self.limits_of(tenant)
                stream = self._engine.ask(
                    asked.text,
                    tenant=tenant,
                    user=asked.who.user,
                    simulated=asked.who.simulated,
                    readers=asked.readers,
                    kv_cache_bytes=limits.kv_cache_bytes,
                    answer_id=asked.answer_id,
                    given_up=lambda: gone() or self.stopping,
                )
                for piece in stream:
                    if isinstance(piece, Answer):
                        span.answered(piece)
                        read, written, _ = tokens(piece)
                        first = piece.timings_ms.get("first_token", 0.0) / 1e3
                        self.metrics.question(tenant, "answer", read=read, written=written, first_s=first)
                        self._engine.verdicts.remember(piece)
                    put(piece)

    def search(self, asked: AdmittedQuestion, put: Callable[[Answer], None], gone: Callable[[], bool]) -> None:
        """Put the passages for a question, best first, unless nobody waits for them any more; gives its place back."""
        tenant, who = asked.tenant, asked.who
        with self._admitted(asked.ticket, gone) as begun, self.traces.question("retrieval", tenant, asked.headers) as span:
            if not begun:
                return
            with self._engine.first(("ask", tenant)):
                found = self._engine.search(
                    asked.text, tenant=tenant, user=who.user, simulated=who.simulated, readers=asked.readers
                )
            span.answered(found)
            self.metrics.question(tenant, "search")
            self._engine.verdicts.remember(found)
            put(found)

    def judge(
        self,
        caller: Caller,
        answer_id: str,
        up: bool,
        *,
        chunk_id: str = "",
        reason: str = "",
        correction: str = "",
        consent: bool | None = None,
        user: str | None = None,
        simulated_user: str | None = None,
        key: str | None = None,
    ) -> RecordedVerdict:
        """Put a verdict on the head and say where it stands. Raises `NotFound` for one the caller was not given, as `who`.

        The same verdict under the same `key` is recorded once, as far as this process and what has landed know, and answered
        alike.
        """
        who = self.who(caller, user, simulated_user)
        given = self._engine.verdicts.answer(answer_id)
        if given is None or not (caller.admin or given.tenant == caller.tenant):
            # The same words for both: whether another tenant has such an answer is not told.
            raise NotFound(
                f"No answer {answer_id} is known here.",
                hint="If another command gave it, land it first: `headrace land --once`.",
            )
        if chunk_id and chunk_id not in given.chunks:
            raise NotFound(f"Answer {answer_id} does not stand on a chunk {chunk_id}.", hint="Take chunk_id from its passages.")
        verdict = Verdict(
            answer_id,
            up,
            given.tenant,
            who.user,
            chunk_id=chunk_id,
            reason=reason,
            correction=correction,
            consent=consent,
            simulated=who.simulated,
            key=who.key,
        )
        verdicts = self._engine.verdicts
        return verdicts.record([verdict])[0] if key is None else verdicts.record_once(verdict, key)

    def index_status(self, caller: Caller, tenant: str) -> dict[str, Any]:
        """How many passages of a tenant are indexed, and in which version of the index."""
        with self._lock:
            if self._vectors is None:
                self._vectors = self.runner.open(VectorReader, CHUNKS, stage="page")
                self._indexes = self.runner.open(IndexReader, INDEXES, stage="page")
        served = active_reader(self._indexes.recent(), self._vectors)
        return {
            "run": self.runner.record.id,
            "tenant": tenant,
            "default_tenant": caller.tenant,
            "index_version": served.version(),
            "passages": served.count(f"tenant = {quoted(tenant)}"),
        }

    def totals(self) -> dict[str, Any]:
        """What the live run has moved so far by tier, its state, and how many questions are under way."""
        record = self.runner.record
        answering, waiting = self.places.counts
        return {
            "run": record.id,
            "command": f"headrace {record.command}",
            "state": "stopping" if self.stopping else record.state,
            "seconds": round((datetime.now(UTC) - record.started).total_seconds()),
            "answering": answering,
            "waiting": waiting,
            "tiers": by_tier(record.ledger.rows()),
        }

    def diagram(self, name: str, run: str | None) -> bytes:
        """A pipeline's diagram as SVG, drawn from `run`, or else from the newest run that moved anything in it.

        Raises `NotFound` where no run did, `WrongUsage` for a pipeline there is not.
        """
        found = measured(self.settings.home, name, run=run, live=self.runner.record)
        stamp = (found.run_id, sum(row["ops"] for row in found.rows))
        with self._drawing:  # one at a time: a drawing takes a processor for a while
            if name not in self._drawn or self._drawn[name][0] != stamp:
                self._drawn[name] = (stamp, svg(scene_for(found.diagram())).encode())
            return self._drawn[name][1]

    @contextmanager
    def _admitted(self, place: Ticket, gone: Callable[[], bool]) -> Iterator[bool]:
        try:
            yield self.places.wait(place, lambda: gone() or self.stopping)
        finally:
            self.places.leave(place)


def by_tier(rows: list[Row]) -> list[dict[str, Any]]:
    """Operations and bytes of ledger rows summed by tier, every tier named, shallow to deep."""
    totals: dict[str, dict[str, Any]] = {
        str(tier): {"tier": str(tier), "ops": 0, "read_bytes": 0, "written_bytes": 0, "estimated": False} for tier in Tier
    }
    for row in rows:
        total = totals[row.tier]
        total["ops"] += row.ops
        total["read_bytes" if row.direction == Direction.READ else "written_bytes"] += row.bytes
        total["estimated"] = total["estimated"] or row.estimated
    return list(totals.values())


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
