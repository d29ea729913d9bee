"""Metrics in Prometheus' text format, and spans of questions for an OpenTelemetry collector."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NoOpTracer, Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from headrace import __version__
from headrace.answering.record import Answer
from headrace.api.follow_thread import FollowedSource
from headrace.errors import HeadraceError
from headrace.readiness import PartState
from headrace.scheduler.triggers.thread import TriggerReport
from headrace.settings import Telemetry
from headrace.storage.ledger import Ledger

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class ServiceMetrics:
    """The metrics of one service.

    `queue` returns how many questions are worked on and wait, `parts` the last known state of each part, and `unrecorded` how
    many answers wait to be recorded; `followed` returns the sources that are followed, `unindexed` how many documents wait for
    the index, and the age of the oldest in seconds; `triggers` returns what became of the events of each trigger.
    """

    def __init__(
        self,
        ledger: Ledger,
        queue: Callable[[], tuple[int, int]],
        parts: Callable[[], Sequence[PartState]] = tuple,
        unrecorded: Callable[[], int] = int,
        followed: Callable[[], Sequence[FollowedSource]] = tuple,
        unindexed: Callable[[], tuple[int, float]] = lambda: (0, 0.0),
        triggers: Callable[[], Sequence[TriggerReport]] = tuple,
    ) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "headrace_requests", "Requests answered.", ["tenant", "method", "route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "headrace_request_seconds",
            "Seconds from a request's arrival to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._questions = Counter("headrace_questions", "Questions answered.", ["tenant", "kind"], registry=self._registry)
        self._rejected = Counter("headrace_rejected", "Requests refused.", ["tenant", "code"], registry=self._registry)
        self._tokens = Counter("headrace_tokens", "Tokens read and written.", ["tenant", "direction"], registry=self._registry)
        self._first = Histogram(
            "headrace_first_token_seconds",
            "Seconds from a question's turn to the first word of its answer.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._registry.register(_LiveMetrics(ledger, queue, parts, unrecorded, followed, unindexed, triggers))

    def answered(self, tenant: str, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(tenant, method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def refused(self, tenant: str, code: str) -> None:
        """Count a refusal."""
        self._rejected.labels(tenant, code).inc()

    def question(self, tenant: str, kind: str, *, read: int = 0, written: int = 0, first_s: float | None = None) -> None:
        """Count an answered question, its tokens and the seconds until its first word."""
        self._questions.labels(tenant, kind).inc()
        self._tokens.labels(tenant, "input").inc(read)
        self._tokens.labels(tenant, "output").inc(written)
        if first_s is not None:
            self._first.observe(first_s)

    def text(self) -> bytes:
        """All metrics in the text format."""
        return generate_latest(self._registry)


class _LiveMetrics:
    """Metrics read at each scrape: the queue, which parts are ready, and the bytes in the run's ledger."""

    def __init__(
        self,
        ledger: Ledger,
        queue: Callable[[], tuple[int, int]],
        parts: Callable[[], Sequence[PartState]],
        unrecorded: Callable[[], int],
        followed: Callable[[], Sequence[FollowedSource]],
        unindexed: Callable[[], tuple[int, float]],
        triggers: Callable[[], Sequence[TriggerReport]],
    ) -> None:
        self._ledger, self._queue, self._parts, self._unrecorded = ledger, queue, parts, unrecorded
        self._followed, self._unindexed, self._triggers = followed, unindexed, triggers

    def collect(self) -> Iterator[Metric]:
        queue = GaugeMetricFamily("headrace_queue", "Questions under way.", labels=["state"])
        for state, count in zip(("answering", "waiting"), self._queue(), strict=True):
            queue.add_metric([state], count)
        yield queue
        up = GaugeMetricFamily("headrace_up", "Whether a part is ready, as /health/ready says it.", labels=["part"])
        for part in (parts := self._parts()):
            up.add_metric([part.name], float(part.ready))
        yield up
        ready = {part.name: part.ready for part in parts}
        for name in ("indexing", "landing"):
            failing = float(not ready.get(name, True))
            yield GaugeMetricFamily(f"headrace_{name}_failing", f"Whether {name} is held up now.", value=failing)
        yield GaugeMetricFamily(
            "headrace_unrecorded_answers", "Answers that wait until the head takes them.", value=float(self._unrecorded())
        )
        count, oldest_s = self._unindexed()
        yield GaugeMetricFamily(
            "headrace_unindexed_documents", "Documents put or deleted, not in the index so.", value=float(count)
        )
        yield GaugeMetricFamily("headrace_index_lag_seconds", "Age of the oldest of these.", value=oldest_s)
        behind = GaugeMetricFamily(
            "headrace_source_behind_seconds", "Age of the oldest change that no question finds yet.", labels=["place", "tenant"]
        )
        held_up = GaugeMetricFamily("headrace_source_failing", "Whether following is held up.", labels=["place", "tenant"])
        for source in self._followed():
            behind.add_metric([source.place, source.tenant], source.behind_s)
            held_up.add_metric([source.place, source.tenant], float(bool(source.trouble)))
        yield from (behind, held_up)
        deliveries = GaugeMetricFamily("headrace_trigger_events", "Events of a trigger.", labels=["trigger", "state"])
        waited = GaugeMetricFamily("headrace_trigger_lag_seconds", "Age of its oldest undelivered event.", labels=["trigger"])
        for trigger in self._triggers():
            for state in ("waiting", "running", "dead"):
                deliveries.add_metric([trigger.name, state], getattr(trigger, state))
            waited.add_metric([trigger.name], trigger.oldest_s)
        yield from (deliveries, waited)
        moved = CounterMetricFamily("headrace_bytes", "Bytes moved.", labels=["tier", "direction", "tenant"])
        for labels, moved_bytes in self._ledger.bytes_by_tenant().items():
            moved.add_metric(labels, moved_bytes)
        yield moved


MODEL = "headrace"
_PARENT_CHARACTERS = 100  # a `traceparent` has 55 today (https://www.w3.org/TR/trace-context/#versioning-of-traceparent)
_ADDRESSES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class QuestionSpan:
    """The span of one question."""

    def __init__(self, tracer: Tracer, span: Span, begun_ns: int) -> None:
        self._tracer, self._span, self._begun_ns = tracer, span, begun_ns

    def answered(self, answer: Answer) -> None:
        """Add what the answer says: versions, tokens, and spans for the parts it timed."""
        span, done = self._span, answer.completion
        span.set_attribute("gen_ai.response.id", answer.answer_id)
        span.set_attribute("headrace.index.version", answer.index_version)
        span.set_attribute("headrace.reranker.version", answer.model_version)
        span.set_attribute("headrace.ranking.version", answer.ranking_version)
        if done is not None:
            read, written, cached = tokens(answer)
            span.set_attribute("gen_ai.response.model", done.version)
            span.set_attribute("gen_ai.response.finish_reasons", [done.finish_reason])
            span.set_attribute("gen_ai.usage.input_tokens", read)
            span.set_attribute("gen_ai.usage.output_tokens", written)
            span.set_attribute("gen_ai.usage.cache_read.input_tokens", cached)
        retrieved = self._part("retrieval chunks", self._begun_ns, answer.timings_ms.get("retrieve", 0.0), {
            "gen_ai.operation.name": "retrieval",
            "gen_ai.provider.name": MODEL,
            "gen_ai.data_source.id": "chunks",
        })  # fmt: skip
        self._part("rerank", retrieved, answer.timings_ms.get("rerank", 0.0), {"headrace.passages": len(answer.passages)})

    def _part(self, name: str, begun_ns: int, ms: float, attributes: Mapping[str, str | int]) -> int:
        """Add a finished part as a span below the question's; returns when it ended."""
        ended_ns = begun_ns + int(ms * 1e6)
        context = set_span_in_context(self._span)
        part = self._tracer.start_span(name, context, SpanKind.INTERNAL, attributes, start_time=begun_ns)
        part.end(ended_ns)
        return ended_ns


class Traces:
    """Makes the spans of questions; without a provider, none."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self._tracer: Tracer = provider.get_tracer("headrace", __version__) if provider else NoOpTracer()

    @classmethod
    def from_settings(cls, settings: Telemetry) -> Traces:
        """For the collector that the settings or OpenTelemetry's own variables name, if any."""
        named = any(os.environ.get(name) for name in _ADDRESSES)
        if not (settings.otlp_endpoint or named) or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
            return cls()
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        provider = TracerProvider(resource=Resource.create({"service.name": "headrace", "service.version": __version__}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.otlp_endpoint or None)))
        return cls(provider)

    @contextmanager
    def question(self, operation: str, tenant: str, headers: Mapping[str, str]) -> Iterator[QuestionSpan]:
        """The span of a question (`chat` or `retrieval`), below the span in the request's `traceparent`."""
        # Without `tracestate`: errors in it, up to 8 KiB with each question, would be written to the log.
        parent = headers.get("traceparent", "")[:_PARENT_CHARACTERS]
        context = TraceContextTextMapPropagator().extract({"traceparent": parent})
        attributes = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": MODEL,
            "gen_ai.request.model": MODEL,
            "headrace.tenant": tenant,
        }
        begun_ns = time.time_ns()
        span = self._tracer.start_span(f"{operation} {MODEL}", context, SpanKind.SERVER, attributes, start_time=begun_ns)
        try:
            yield QuestionSpan(self._tracer, span, begun_ns)
        except HeadraceError as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(Status(StatusCode.ERROR))
            raise
        finally:
            span.end()

    def stop(self) -> None:
        """Send the spans that wait."""
        if self._provider is not None:
            self._provider.shutdown()


def tokens(answer: Answer) -> tuple[int, int, int]:
    """Tokens of an answer: in its prompt, in its text, and those of the prompt that came from the KV cache."""
    done = answer.completion
    if done is None:
        return 0, 0, 0
    read = int(done.usage.get("prompt_tokens") or len(done.prompt_tokens))
    return read, int(done.usage.get("completion_tokens") or len(done.completion_tokens)), done.reused_tokens
