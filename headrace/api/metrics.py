"""What the service counts, in Prometheus' text format. Labels name tenants, so only an admin's key may read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from headrace.readiness import PartState
from headrace.storage.ledger import Ledger, summed

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class ServiceMetrics:
    """Counters of one service; `queue` says how many questions are worked on and wait.

    `parts` gives the parts as they were asked last, `unrecorded` how many answers wait to be recorded.
    """

    def __init__(
        self,
        ledger: Ledger,
        queue: Callable[[], tuple[int, int]],
        parts: Callable[[], Sequence[PartState]] = tuple,
        unrecorded: Callable[[], int] = int,
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
        self._registry.register(_Standing(ledger, queue, parts, unrecorded))

    def answered(self, tenant: str, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(tenant, method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def refused(self, tenant: str, code: str) -> None:
        """Count a refusal."""
        self._rejected.labels(tenant, code).inc()

    def question(self, tenant: str, kind: str, *, read: int = 0, written: int = 0, first_s: float | None = None) -> None:
        """Count an answered question, its tokens and how long its first word took."""
        self._questions.labels(tenant, kind).inc()
        self._tokens.labels(tenant, "input").inc(read)
        self._tokens.labels(tenant, "output").inc(written)
        if first_s is not None:
            self._first.observe(first_s)

    def text(self) -> bytes:
        """Everything, in the text format."""
        return generate_latest(self._registry)


class _Standing:
    """What is read when it is asked for: the queue, which parts are ready, and the bytes that the run's ledger has counted."""

    def __init__(
        self,
        ledger: Ledger,
        queue: Callable[[], tuple[int, int]],
        parts: Callable[[], Sequence[PartState]],
        unrecorded: Callable[[], int],
    ) -> None:
        self._ledger, self._queue, self._parts, self._unrecorded = ledger, queue, parts, unrecorded

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
        moved = CounterMetricFamily("headrace_bytes", "Bytes moved.", labels=["tier", "direction", "tenant"])
        for row in summed(self._ledger.export(), by=("tier", "tenant")):
            moved.add_metric([row["tier"], row["direction"], row["tenant"]], row["bytes"])
        yield moved
