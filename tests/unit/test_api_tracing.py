"""Spans of questions: what they are called and say, that they say nothing of what was asked, and that none is made unasked."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from headrace.answering.record import Answer
from headrace.api.telemetry import Traces
from headrace.errors import Unavailable
from headrace.models.client import Completion
from headrace.settings import Telemetry

SECRET = "Who is paid the most?"
COMPLETION = Completion(
    text="Nobody.", prompt_tokens=[1, 2, 3], completion_tokens=[4], logprobs=[-0.1],
    usage={"prompt_tokens": 3, "completion_tokens": 1}, storage=[], version="smol@1", timings_ms={}, reused_tokens=2,
    finish_reason="stop",
)  # fmt: skip


def answer() -> Answer:
    timings = {"retrieve": 10.0, "rerank": 5.0}
    return Answer(SECRET, "acme", "k", (), "none", "7", text="Nobody.", completion=COMPLETION, timings_ms=timings)


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traces(exporter: InMemorySpanExporter) -> Traces:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Traces(provider)


def test_what_a_client_says_of_its_trace_is_not_logged(traces: Traces, caplog: pytest.LogCaptureFixture) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for state in ("a=" + "b" * 8_000, "\x1b]0;owned\x07", "a=1,,=," * 1_000, "x" * 60_000):
        with traces.question("chat", "acme", {"traceparent": parent, "tracestate": state}):
            pass
    with traces.question("chat", "acme", {"traceparent": parent + "x" * 60_000}):
        pass
    assert caplog.records == []


def test_a_question_is_a_span_of_the_genai_conventions(traces: Traces, exporter: InMemorySpanExporter) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with traces.question("chat", "acme", {"traceparent": parent, "authorization": "Bearer hr_x"}) as span:
        span.answered(answer())
    retrieval, rerank, chat = exporter.get_finished_spans()
    assert (retrieval.name, rerank.name, chat.name) == ("retrieval chunks", "rerank", "chat headrace")
    assert chat.context.trace_id == 0x0AF7651916CD43DD8448EB211C80319C
    assert {span.parent.span_id for span in (retrieval, rerank) if span.parent} == {chat.context.span_id}
    said = dict(chat.attributes or {})
    assert said["gen_ai.operation.name"] == "chat"
    assert said["gen_ai.provider.name"] == "headrace"
    assert (said["gen_ai.usage.input_tokens"], said["gen_ai.usage.output_tokens"]) == (3, 1)
    assert said["gen_ai.usage.cache_read.input_tokens"] == 2
    assert said["gen_ai.response.model"] == "smol@1"
    assert (retrieval.end_time or 0) - (retrieval.start_time or 0) == 10_000_000
    for span in exporter.get_finished_spans():
        assert SECRET not in span.to_json()
        assert "Nobody" not in span.to_json()
        assert "hr_x" not in span.to_json()


def test_an_error_is_named_in_the_span(traces: Traces, exporter: InMemorySpanExporter) -> None:
    with pytest.raises(Unavailable), traces.question("chat", "acme", {}):
        raise Unavailable("The generator is down.")
    (span,) = exporter.get_finished_spans()
    assert dict(span.attributes or {})["error.type"] == "Unavailable"


def test_nothing_is_sent_unless_an_address_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert Traces.from_settings(Telemetry())._provider is None
    with Traces.from_settings(Telemetry()).question("chat", "acme", {}) as span:
        span.answered(answer())
    found = Traces.from_settings(Telemetry(otlp_endpoint="http://127.0.0.1:9/v1/traces"))
    assert found._provider is not None
    found.stop()


class Collector:
    """An OpenTelemetry collector on loopback: keeps every body it is sent, and where it was sent to."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.paths: list[str] = []
        kept = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                kept.bodies.append(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
                kept.paths.append(self.path)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def spans(self) -> dict[str, dict[str, Any]]:
        """Attributes by the span's name, those of the process among them."""
        found = {}
        for body in self.bodies:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                about = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        said = {one.key: one.value.string_value or one.value.int_value for one in span.attributes}
                        found[span.name] = {**about, **said}
        return found


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever, args=(0.02,))
    thread.start()
    yield collector
    collector.server.shutdown()
    thread.join()
    collector.server.server_close()


@pytest.mark.parametrize("by", ["settings", "environment"])
def test_spans_reach_a_collector_and_say_nothing_of_what_was_asked(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    if by == "environment":
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    traces = Traces.from_settings(Telemetry(otlp_endpoint=f"{collector.url}/v1/traces" if by == "settings" else ""))
    with traces.question("chat", "acme", {}) as span:
        span.answered(answer())
    with pytest.raises(Unavailable), traces.question("retrieval", "globex", {}):
        raise Unavailable("The index is away.")
    traces.stop()
    assert set(collector.paths) == {"/v1/traces"}
    spans = collector.spans()
    assert set(spans) == {"chat headrace", "retrieval chunks", "rerank", "retrieval headrace"}
    assert {said["service.name"] for said in spans.values()} == {"headrace"}
    assert (spans["chat headrace"]["headrace.tenant"], spans["chat headrace"]["gen_ai.usage.input_tokens"]) == ("acme", 3)
    assert spans["retrieval headrace"]["error.type"] == "Unavailable"
    sent = b"".join(collector.bodies)
    assert SECRET.encode() not in sent
    assert b"Nobody" not in sent
    assert b"away" not in sent


def test_nothing_is_sent_where_opentelemetry_is_switched_off(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    traces = Traces.from_settings(Telemetry(otlp_endpoint=f"{collector.url}/v1/traces"))
    with traces.question("chat", "acme", {}) as span:
        span.answered(answer())
    traces.stop()
    assert collector.bodies == []
