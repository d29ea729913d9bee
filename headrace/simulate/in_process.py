"""Asked in this process, the way `headrace ask` asks."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from headrace.answering.engine import QueryEngine
from headrace.answering.feedback import Verdict, feedback
from headrace.answering.record import Answer
from headrace.core.runner import Runner
from headrace.simulate.judgement import GivenAnswer, Judgement, Shown

AT_ONCE = 4
"""Questions worked on at the same time, as the service does; further users wait here and not at the models."""


class InProcessClient:
    """Asks a tenant's index through a query engine; users may call it side by side."""

    def __init__(self, runner: Runner, engine: QueryEngine, tenant: str) -> None:
        self.tenant = tenant
        self._runner = runner
        self._engine = engine
        self._places = threading.Semaphore(AT_ONCE)
        self._first = threading.Lock()
        self._seen: set[str] = set()

    def ask(self, question: str, user: str, *, generate: bool) -> GivenAnswer:
        """The answer, or what a search finds. Raises what retrieval and generation raise."""
        with self._places, self._alone("ask"):
            if generate:
                *_, answer = self._engine.ask(question, tenant=self.tenant, user=user, simulated=True)
                assert isinstance(answer, Answer)
            else:
                answer = self._engine.search(question, tenant=self.tenant, user=user, simulated=True)
        passages = tuple(Shown(p.hit.chunk_id, p.hit.uri, p.hit.text) for p in answer.passages)
        return GivenAnswer(answer.answer_id, passages, answer.text if generate else None, answer.refused)

    def judge(self, given: GivenAnswer, user: str, verdicts: Sequence[Judgement]) -> Iterator[int]:
        """Put the verdicts on the head; yields how many more it has acknowledged."""
        said = [Verdict(given.answer_id, tenant=self.tenant, user=user, simulated=True, **vars(verdict)) for verdict in verdicts]
        with self._alone("judge"):
            yield len(self._runner.run(feedback, tenant=self.tenant, verdicts=said))

    def close(self) -> None:
        """Nothing is held: the session closes what it opened."""

    @contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        """Let calls through alone until the first has succeeded: what that opens is opened once."""
        with contextlib.nullcontext() if what in self._seen else self._first:
            yield
        self._seen.add(what)
