"""Puts together what one `headrace up` serves over its `App`: questions, documents, the audit, metrics and health."""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from typing import Any

from headrace.answering.unrecorded import Recorder
from headrace.api.admission import AdmissionQueue, Rate, Strangers
from headrace.api.audit import Audit
from headrace.api.auth import PAGE, SCOPES, Caller, Callers, limits_of
from headrace.api.document_text import DocumentTexts
from headrace.api.documents import Documents
from headrace.api.follow_thread import FollowedSource, FollowThread
from headrace.api.index_thread import IndexThread
from headrace.api.live import LiveRun
from headrace.api.questions import QuestionService
from headrace.api.recorded_events import RecordedEvents
from headrace.api.telemetry import ServiceMetrics, Traces
from headrace.api.training_view import TrainingView
from headrace.app import App
from headrace.documents.view import DocumentView
from headrace.errors import StorageFull, Transient
from headrace.platform.address import embedded_parts
from headrace.platform.home import Home
from headrace.readiness import Ask, Readiness, Trouble, asks
from headrace.scheduler.triggers.queue import DeliveryQueue
from headrace.scheduler.triggers.thread import TriggerReport, trigger_reports
from headrace.settings import TenantLimits
from headrace.storage.metadata import Metadata

AT_ONCE = 4
"""Questions worked on at the same time: the models take them one by one, but one can retrieve while another is answered."""
WAITING = 28
"""Further questions that may wait; all others are rejected."""
PLACES = 4
"""Other requests of a tenant that are worked on at the same time; more wait. Some read whole tables, for seconds."""
_CLOSE_S = 5.0


class Service:
    """The parts of a service; every method may be called from several threads.

    `stopping` turns true when the server ends: whatever waits or generates then gives up. `places` are each tenant's, and
    belong to the event loop.
    """

    def __init__(self, app: App, traces: Traces | None = None) -> None:
        self.app = app
        self.runner = runner = app.runner
        self.settings = settings = app.settings
        self.stopping = False
        self.places: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(PLACES))
        admission = AdmissionQueue(AT_ONCE, WAITING)
        self.metadata = Metadata(runner.endpoints)
        self.callers = Callers(self.metadata, settings.limits)
        whole = settings.limits.model_copy(update={"questions": AT_ONCE + WAITING})
        self.page = Caller(settings.tenant, PAGE, frozenset(SCOPES), whole)
        self.strangers = Strangers()
        self.audit = Audit(self.metadata, runner, self.strangers)
        self.rate = Rate()
        view = DocumentView(runner)
        app.answers.withhold(view.withheld)
        self._indexing = IndexThread(view, runner, settings.inference)
        self.documents = Documents(runner, view, self._indexing.announce)
        self._following = [
            FollowThread(
                source,
                settings.tenant,
                runner,
                settings.inference,
                self._indexing,
                app.documents.require_tenant,
            )
            for source in settings.sources
        ]
        self.texts = DocumentTexts(runner, self.documents, AdmissionQueue(AT_ONCE, WAITING))
        self.training = TrainingView(app)
        self.events = RecordedEvents(runner)
        self.readiness = Readiness(
            [
                *asks(settings, runner.endpoints),
                Ask("metadata", self._metadata_trouble, "Check the metadata store: [metadata], or metadata.db in the home."),
                Ask("indexing", self._indexing.trouble, "The log names what failed. `headrace index --skip URI` leaves one out."),
            ]
        )
        self.metrics = ServiceMetrics(
            runner.record.ledger,
            lambda: admission.counts,
            lambda: self.readiness.recent(math.inf) or (),
            lambda: self.unrecorded_answers,
            self.followed_sources,
            self.documents.waiting,
            self.triggers,
        )
        self._traces = traces or Traces.from_settings(settings.telemetry)
        self.questions = QuestionService(
            app.answers,
            admission,
            self.metrics,
            self._traces,
            self.limits_of,
            app.documents.require_tenant,
            lambda: self.stopping,
        )
        self.live = LiveRun(runner, settings.home, lambda: admission.counts, lambda: self.stopping, self.documents.waiting)
        self._unrecorded = app.answers.unrecorded
        self._recorder = Recorder(runner, self._unrecorded) if self._unrecorded is not None else None

    def start(self) -> None:
        """Start indexing, following sources, the audit, and the recording of answers that wait for the head."""
        self._indexing.start()
        for following in self._following:
            following.start()
        self.audit.start()
        if self._recorder is not None:
            self._recorder.start()

    def stop(self) -> None:
        """Make everything under way give up soon. Takes no lock, so a signal handler may call it."""
        self.stopping = self._indexing.stopping = True
        for following in self._following:
            following.stop()

    def close(self) -> None:
        """Stop, wait a few seconds for the threads, and close what is open."""
        self.stop()
        end = time.monotonic() + _CLOSE_S
        self._indexing.stop(_CLOSE_S)
        for following in self._following:
            following.join(max(0.0, end - time.monotonic()))
        self.audit.stop(_CLOSE_S)
        if self._recorder is not None:
            self._recorder.stop(_CLOSE_S)
        self._traces.stop()
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

    def followed_sources(self) -> list[FollowedSource]:
        """How far the index follows each source of the settings."""
        return [following.state() for following in self._following]

    def triggers(self) -> list[TriggerReport]:
        """The triggers of the settings, and what became of their events."""
        return trigger_reports(self.settings.triggers, DeliveryQueue(self.metadata)) if self.settings.triggers else []

    def cause_of(self, error: BaseException) -> BaseException:
        """The error to report: `StorageFull` where an embedded store fails because the disk is full, and no path in it."""
        embedded = bool(embedded_parts(self.settings, frozenset({"objects", "head"})))
        if isinstance(error, Transient | StorageFull) and embedded and Home(self.settings.home).fullness() is not None:
            return StorageFull("The disk of this service is full.", hint="Its operator has to free some space; then try again.")
        return error

    def _metadata_trouble(self) -> Trouble | None:
        self.metadata.holder_of("")
        return None
