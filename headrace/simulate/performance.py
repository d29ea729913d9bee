"""Replays user plans: users run concurrently, each asking and judging in turn; counts and latencies are recorded."""

from __future__ import annotations

import queue
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

from headrace.core.progress import ProgressBars
from headrace.core.statistics import percentile
from headrace.errors import HeadraceError, Overloaded, Transient
from headrace.retry import backoff
from headrace.simulate.beir import BeirQuestion
from headrace.simulate.users import GivenAnswer, Judgement, UserPlan, judged

T = TypeVar("T")

_TRIES = 5
_PAUSE_S = 1.0
_FAILURES = 5


class AnsweringClient(Protocol):
    """A client for questions and verdicts."""

    tenant: str

    def ask(self, question: str, user: str, *, generate: bool) -> GivenAnswer:
        """Ask, or only search."""

    def judge(self, answer: GivenAnswer, user: str, verdicts: Sequence[Judgement]) -> Iterator[int]:
        """Give the verdicts in order; yields the number acknowledged."""


@dataclass
class ReplayReport:
    """The results of a replay.

    `up`, `down` and `flipped` count acknowledged verdicts, `answers_up` and `answers_down` those on whole answers. `refusals`
    counts answers that found nothing in the documents, `waits` throttled requests, `retries` attempts after a failure. `asked` is
    the latency of each question in seconds, including waits and retries.
    """

    tenant: str
    kind: str
    questions: int
    users: int
    answers: int = 0
    refusals: int = 0
    up: int = 0
    down: int = 0
    flipped: int = 0
    answers_up: int = 0
    answers_down: int = 0
    unjudged: int = 0
    waits: int = 0
    waited_s: float = 0.0
    retries: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    asked: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    failure: HeadraceError | None = None

    def as_dict(self) -> dict[str, Any]:
        """The figures under the CLI's JSON keys."""
        return {
            "tenant": self.tenant,
            "kind": self.kind,
            "users": self.users,
            "questions": self.questions,
            "answers": self.answers,
            "refusals": self.refusals,
            "verdicts": {
                "up": self.up,
                "down": self.down,
                "flipped": self.flipped,
                "answers_up": self.answers_up,
                "answers_down": self.answers_down,
            },
            "unjudged_passages": self.unjudged,
            "p50_ms": self._ms(0.50),
            "p95_ms": self._ms(0.95),
            "max_ms": self._ms(1.0),
            "waits": self.waits,
            "waited_s": round(self.waited_s, 1),
            "retries": self.retries,
            "errors": len(self.errors),
            "first_errors": list(dict.fromkeys(self.errors))[:5],
            "seconds": round(self.seconds, 1),
            "interrupted": self.interrupted,
        }

    def _ms(self, share: float) -> float | None:
        return round(percentile(self.asked, share) * 1e3, 1) if self.asked else None


class _Stopped(Exception):
    """Raised in a user's thread when no more questions are to be asked."""


class _Replay:
    """State shared by the users of one replay."""

    def __init__(
        self,
        client: AnsweringClient,
        names: Callable[[str], str | None],
        report: ReplayReport,
        generate: bool,
        rate: float | None,
    ) -> None:
        self.client = client
        self.names = names
        self.report = report
        self.generate = generate
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.done: queue.SimpleQueue[bool] = queue.SimpleQueue()
        """True for each completed question, False for each user who has ended."""
        self._gap_s = 60 / rate if rate else 0.0
        self._next = time.monotonic()
        self._failed = 0

    def perform(self, plan: UserPlan) -> None:
        """Run one user's plan to its end, or until stopped."""
        try:
            for question in plan.questions:
                self._one_by_one()
                try:
                    self._one(plan, question)
                    self._failed = 0
                except HeadraceError as error:
                    self._note(error)
                self.done.put(True)
        except _Stopped:
            pass
        except BaseException as error:  # a bug must not look like a normal end
            self.report.failure = self.report.failure or HeadraceError(f"Replay failed: {type(error).__name__}: {error}.")
            self.stop.set()
        finally:
            self.done.put(False)

    def _one(self, plan: UserPlan, question: BeirQuestion) -> None:
        started = time.perf_counter()
        answer = self.patiently(lambda: self.client.ask(question.text, plan.user, generate=self.generate), begun=False)
        seconds = time.perf_counter() - started
        verdicts = judged(question, answer, self.names, poisoned=plan.poisoned)
        with self.lock:
            self.report.answers += 1
            self.report.refusals += answer.refused
            self.report.asked.append(seconds)
            self.report.unjudged += len(answer.passages) - sum(bool(verdict.chunk_id) for verdict in verdicts)
        # Continue after the acknowledged ones: count none before it is recorded, and send none twice.
        while verdicts:
            acknowledged = self.patiently(partial(self._judge, answer, plan.user, verdicts))
            with self.lock:
                self._count(verdicts[:acknowledged], plan.poisoned)
            verdicts = verdicts[acknowledged:]

    def _judge(self, answer: GivenAnswer, user: str, verdicts: Sequence[Judgement]) -> int:
        """The number of verdicts recorded; raises only if there was none."""
        taken = 0
        try:
            for more in self.client.judge(answer, user, verdicts):
                taken += more
        except HeadraceError:
            if not taken:
                raise
        return taken

    def _count(self, verdicts: Sequence[Judgement], flipped: bool) -> None:
        report = self.report
        for verdict in verdicts:
            report.up += verdict.up
            report.down += not verdict.up
            report.flipped += flipped
            if not verdict.chunk_id:
                report.answers_up += verdict.up
                report.answers_down += not verdict.up

    def _one_by_one(self) -> None:
        """Wait until the rate limit allows another question."""
        with self.lock:
            now = time.monotonic()
            at = self._next = max(self._next, now)
            self._next += self._gap_s
        if self.stop.wait(at - now) if at > now else self.stop.is_set():
            raise _Stopped

    def patiently(self, call: Callable[[], T], *, begun: bool = True) -> T:
        """Retry while throttled, and a few times on transient errors. A call that has not `begun` ends on a stop."""
        tries = 0
        while True:
            # Jitter: clients throttled together must not return together.
            spread = random.uniform(1.0, 1.25)
            try:
                return call()
            except Overloaded as error:
                pause = error.retry_s * spread
                with self.lock:
                    self.report.waits += 1
                    self.report.waited_s += pause
            except Transient:
                tries += 1
                if tries >= _TRIES:
                    raise
                pause = backoff(tries, first_s=_PAUSE_S, longest_s=_PAUSE_S * 2**_TRIES)
                with self.lock:
                    self.report.retries += 1
            if begun:
                time.sleep(pause)
            elif self.stop.wait(pause):
                raise _Stopped

    def _note(self, error: HeadraceError) -> None:
        with self.lock:
            self.report.errors.append(str(error))
            self._failed += 1
            if self._failed >= _FAILURES:  # consecutive failures are not caused by the question
                self.report.failure = self.report.failure or error
                self.stop.set()


def play(
    plans: Sequence[UserPlan],
    client: AnsweringClient,
    document_of: Callable[[str], str | None],
    *,
    generate: bool,
    rate: float | None = None,
    bars: ProgressBars | None = None,
) -> ReplayReport:
    """Run the plans concurrently, with at most `rate` questions per minute in total; `generate`: ask for answers, not search.

    The first Ctrl-C stops asking; answers already received are still judged and counted. Five consecutive failures also stop it,
    and `failure` says why.
    """
    total = sum(len(plan.questions) for plan in plans)
    report = ReplayReport(client.tenant, "answers" if generate else "searches", total, len(plans))
    replay = _Replay(client, document_of, report, generate, rate)
    started = time.monotonic()
    with _until_interrupted(replay.stop) as interrupted:
        for plan in plans:
            threading.Thread(target=replay.perform, args=(plan,), name=plan.user, daemon=True).start()
        for _ in (bars or ProgressBars(quiet=True)).track(
            _through(replay.done, len(plans)), "replay", total=total, of="questions"
        ):
            pass
    report.seconds = time.monotonic() - started
    report.interrupted = interrupted.is_set()
    return report


def patiently(call: Callable[[], T]) -> T:
    """Retry a call while it is throttled."""
    while True:
        try:
            return call()
        except Overloaded as error:
            time.sleep(error.retry_s)


def _through(done: queue.SimpleQueue[bool], users: int) -> Iterator[None]:
    while users:
        if done.get():
            yield None
        else:
            users -= 1


@contextmanager
def _until_interrupted(stop: threading.Event) -> Iterator[threading.Event]:
    """The first Ctrl-C sets `stop` and the yielded event; the second has its usual effect."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.getsignal(signal.SIGINT)

    def asked(*_: object) -> None:
        signal.signal(signal.SIGINT, before)
        interrupted.set()
        stop.set()

    signal.signal(signal.SIGINT, asked)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
