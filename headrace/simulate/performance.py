"""Plays a script: its users at the same time, each asking, reading and judging in turn, and everything counted."""

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
    """Where questions are asked and verdicts given."""

    tenant: str

    def ask(self, question: str, user: str, *, generate: bool) -> GivenAnswer:
        """Ask, or search."""

    def judge(self, answer: GivenAnswer, user: str, verdicts: Sequence[Judgement]) -> Iterator[int]:
        """Give the verdicts in their order; yields how many more the head has acknowledged."""


@dataclass
class ReplayReport:
    """What a replay came to.

    `up`, `down` and `flipped` count verdicts that the head has acknowledged, `answers_up` and `answers_down` those of them that
    are on a whole answer. `refusals` are answers that the documents hold none; `waits` how often the service said to come back
    later, `retries` how often something did not answer. Seconds of `asked` are those until a question was answered, with both.
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
        """The counts under the JSON keys of the command."""
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
    """No more is asked."""


class _Replay:
    """What the users of one replay share."""

    def __init__(
        self, door: AnsweringClient, names: Callable[[str], str | None], played: ReplayReport, generate: bool, rate: float | None
    ) -> None:
        self.door = door
        self.names = names
        self.played = played
        self.generate = generate
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.done: queue.SimpleQueue[bool] = queue.SimpleQueue()
        """True for each question that is through, False for each user who has ended."""
        self._gap_s = 60 / rate if rate else 0.0
        self._next = time.monotonic()
        self._failed = 0

    def perform(self, part: UserPlan) -> None:
        """Play one user to the end of the part, or until no more is to be asked."""
        try:
            for question in part.questions:
                self._one_by_one()
                try:
                    self._one(part, question)
                    self._failed = 0
                except HeadraceError as error:
                    self._note(error)
                self.done.put(True)
        except _Stopped:
            pass
        except BaseException as error:  # a mistake of ours must not look like a quiet end
            self.played.failure = self.played.failure or HeadraceError(f"Replay failed: {type(error).__name__}: {error}.")
            self.stop.set()
        finally:
            self.done.put(False)

    def _one(self, part: UserPlan, question: BeirQuestion) -> None:
        started = time.perf_counter()
        answer = self.patiently(lambda: self.door.ask(question.text, part.user, generate=self.generate), begun=False)
        seconds = time.perf_counter() - started
        verdicts = judged(question, answer, self.names, poisoned=part.poisoned)
        with self.lock:
            self.played.answers += 1
            self.played.refusals += answer.refused
            self.played.asked.append(seconds)
            self.played.unjudged += len(answer.passages) - sum(bool(verdict.chunk_id) for verdict in verdicts)
        # From where the head has acknowledged them on: none is counted before it is there, none that is there is sent again.
        while verdicts:
            acknowledged = self.patiently(partial(self._judge, answer, part.user, verdicts))
            with self.lock:
                self._count(verdicts[:acknowledged], part.poisoned)
            verdicts = verdicts[acknowledged:]

    def _judge(self, answer: GivenAnswer, user: str, verdicts: Sequence[Judgement]) -> int:
        """How many of the verdicts were taken; the error of the first only if none was."""
        taken = 0
        try:
            for more in self.door.judge(answer, user, verdicts):
                taken += more
        except HeadraceError:
            if not taken:
                raise
        return taken

    def _count(self, verdicts: Sequence[Judgement], flipped: bool) -> None:
        played = self.played
        for verdict in verdicts:
            played.up += verdict.up
            played.down += not verdict.up
            played.flipped += flipped
            if not verdict.chunk_id:
                played.answers_up += verdict.up
                played.answers_down += not verdict.up

    def _one_by_one(self) -> None:
        """Wait until the rate allows another question."""
        with self.lock:
            now = time.monotonic()
            at = self._next = max(self._next, now)
            self._next += self._gap_s
        if self.stop.wait(at - now) if at > now else self.stop.is_set():
            raise _Stopped

    def patiently(self, call: Callable[[], T], *, begun: bool = True) -> T:
        """Call until it is let in; where storage or a model does not answer, a few times. What has not `begun` ends on a stop."""
        tries = 0
        while True:
            # Those who were sent away together must not come back together.
            spread = random.uniform(1.0, 1.25)
            try:
                return call()
            except Overloaded as error:
                pause = error.retry_s * spread
                with self.lock:
                    self.played.waits += 1
                    self.played.waited_s += pause
            except Transient:
                tries += 1
                if tries >= _TRIES:
                    raise
                pause = backoff(tries, first_s=_PAUSE_S, longest_s=_PAUSE_S * 2**_TRIES)
                with self.lock:
                    self.played.retries += 1
            if begun:
                time.sleep(pause)
            elif self.stop.wait(pause):
                raise _Stopped

    def _note(self, error: HeadraceError) -> None:
        with self.lock:
            self.played.errors.append(str(error))
            self._failed += 1
            if self._failed >= _FAILURES:  # in a row: it is not the question
                self.played.failure = self.played.failure or error
                self.stop.set()


def play(
    parts: Sequence[UserPlan],
    door: AnsweringClient,
    document_of: Callable[[str], str | None],
    *,
    generate: bool,
    rate: float | None = None,
    bars: ProgressBars | None = None,
) -> ReplayReport:
    """Play the parts at the same time, `rate` questions a minute in all at most; `generate` asks for answers, else searches.

    The first Ctrl-C ends the asking: what was asked is still judged and counted. After five failures in a row nothing more is
    asked either, and `failure` says why.
    """
    total = sum(len(part.questions) for part in parts)
    played = ReplayReport(door.tenant, "answers" if generate else "searches", total, len(parts))
    stage = _Replay(door, document_of, played, generate, rate)
    started = time.monotonic()
    with _until_interrupted(stage.stop) as interrupted:
        for part in parts:
            threading.Thread(target=stage.perform, args=(part,), name=part.user, daemon=True).start()
        for _ in (bars or ProgressBars(quiet=True)).track(
            _through(stage.done, len(parts)), "replay", total=total, of="questions"
        ):
            pass
    played.seconds = time.monotonic() - started
    played.interrupted = interrupted.is_set()
    return played


def patiently(call: Callable[[], T]) -> T:
    """Call again what was told to come back later."""
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
    """Have the first Ctrl-C set `stop`, and the event that is yielded; the second ends everything, as ever."""
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
