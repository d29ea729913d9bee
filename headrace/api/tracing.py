"""Spans of questions for an OpenTelemetry collector, by the GenAI semantic conventions.

Without an address in the settings or the environment no span is made and nothing is sent. No span holds a question, an answer
or a passage. https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NoOpTracer, Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from headrace import __version__
from headrace.answering.record import Answer
from headrace.errors import HeadraceError
from headrace.settings import Telemetry

MODEL = "headrace"
_ADDRESSES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class QuestionSpan:
    """The span of one question."""

    def __init__(self, tracer: Tracer, span: Span, begun_ns: int) -> None:
        self._tracer, self._span, self._begun_ns = tracer, span, begun_ns

    def answered(self, answer: Answer) -> None:
        """Say what came of it: versions, tokens, and the parts that the answer timed as spans below it."""
        span, done = self._span, answer.completion
        span.set_attribute("gen_ai.response.id", answer.answer_id)
        span.set_attribute("headrace.index.version", answer.index_version)
        span.set_attribute("headrace.reranker.version", answer.model_version)
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
        """A part that is over, as a span below the question's; returns when it ended."""
        ended_ns = begun_ns + int(ms * 1e6)
        context = set_span_in_context(self._span)
        part = self._tracer.start_span(name, context, SpanKind.INTERNAL, attributes, start_time=begun_ns)
        part.end(ended_ns)
        return ended_ns


class Traces:
    """Makes the spans of questions; without a provider it makes none."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self._tracer: Tracer = provider.get_tracer("headrace", __version__) if provider else NoOpTracer()

    @classmethod
    def of(cls, settings: Telemetry) -> Traces:
        """Those for the collector that the settings or OpenTelemetry's own variables name, if they name one."""
        named = any(os.environ.get(name) for name in _ADDRESSES)
        if not (settings.otlp_endpoint or named) or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
            return cls()
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        provider = TracerProvider(resource=Resource.create({"service.name": "headrace", "service.version": __version__}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.otlp_endpoint or None)))
        return cls(provider)

    @contextmanager
    def question(self, operation: str, tenant: str, headers: Mapping[str, str]) -> Iterator[QuestionSpan]:
        """The span around a question (`chat` or `retrieval`), below the one that the request's `traceparent` names."""
        context = TraceContextTextMapPropagator().extract(headers)
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
        """Send what waits to be sent."""
        if self._provider is not None:
            self._provider.shutdown()


def tokens(answer: Answer) -> tuple[int, int, int]:
    """Tokens of an answer: of its prompt, of its text, and of the prompt those that came from the tenant's KV cache."""
    done = answer.completion
    if done is None:
        return 0, 0, 0
    read = int(done.usage.get("prompt_tokens") or len(done.prompt_tokens))
    return read, int(done.usage.get("completion_tokens") or len(done.completion_tokens)), done.reused_tokens
