"""What the API does, without HTTP: questions, verdicts, the live run and its scores, shared by many at once."""

from __future__ import annotations

import contextlib
import getpass
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from headrace.catalog import CHUNKS, FEEDBACK, INTERACTION_ROWS, Tier
from headrace.errors import NotFound, Overloaded, WrongUsage
from headrace.explain import scene_of, score_of, svg
from headrace.inference.answer import Answer
from headrace.inference.feedback import Verdict, feedback
from headrace.inference.pipeline import INFERENCE, Desk
from headrace.pipeline.run import journal_of, runs
from headrace.pipeline.runner import Runner
from headrace.pipeline.stage import Pipeline
from headrace.settings import Settings
from headrace.storage.ledger import Direction, Row
from headrace.storage.meter import Meter
from headrace.storage.tables import TableReader
from headrace.storage.vectors import VectorReader

AT_ONCE = 4
"""Questions worked on at the same time; the models take them one by one, but one can retrieve while another is answered."""
WAITING = 8
"""Questions that may wait beyond those; further ones are turned away."""
_REMEMBERED = 10_000
_WAKE_S = 0.2


@dataclass(frozen=True)
class _Given:
    """An answer given: whose it was and the chunks it stood on."""

    tenant: str
    chunks: frozenset[str]


class Places:
    """Bounds the questions under way: `at_once` are worked on, `waiting` more wait in the order they came."""

    def __init__(self, at_once: int, waiting: int) -> None:
        self._at_once, self._most = at_once, at_once + waiting
        self._inside: list[object] = []
        self._changed = threading.Condition()

    @property
    def counts(self) -> tuple[int, int]:
        """Questions worked on, questions waiting."""
        inside = len(self._inside)
        return min(inside, self._at_once), max(0, inside - self._at_once)

    def enter(self) -> object:
        """Take a place. Raises `Overloaded` where none is free."""
        place = object()
        with self._changed:
            if len(self._inside) >= self._most:
                raise Overloaded(
                    f"{self._most} questions are being answered or waiting, which is as many as this machine takes.",
                    hint="Try again in a moment.",
                )
            self._inside.append(place)
        return place

    def wait(self, place: object, until: Callable[[], bool]) -> bool:
        """Wait for one's turn; false if `until` turned true first."""
        with self._changed:
            while place not in self._inside[: self._at_once]:
                if until():
                    return False
                self._changed.wait(_WAKE_S)
        return not until()

    def leave(self, place: object) -> None:
        """Give the place back."""
        with self._changed:
            self._inside.remove(place)
            self._changed.notify_all()


class Service:
    """Answers for one run of `headrace up`; every method may be called from several threads.

    `stopping` turns true when the server ends: whatever waits or generates then gives up.
    """

    def __init__(self, runner: Runner, desk: Desk, settings: Settings) -> None:
        self.runner = runner
        self.settings = settings
        self.stopping = False
        self.places = Places(AT_ONCE, WAITING)
        self._desk = desk
        self._given: OrderedDict[str, _Given] = OrderedDict()
        self._lock = threading.Lock()
        self._first = threading.Lock()
        self._seen: set[tuple[str, str]] = set()
        self._drawing = threading.Lock()
        self._drawn: dict[str, tuple[tuple[str, int], bytes]] = {}
        self._vectors: VectorReader | None = None
        self._user = _user()

    def stop(self) -> None:
        """Have everything under way give up soon. Takes no lock, so a signal handler may call it."""
        self.stopping = True

    def ask(self, place: object, question: str, tenant: str, *, gone: Callable[[], bool]) -> Iterator[str | dict[str, Any]]:
        """The answer's text in pieces, then the answer as JSON-ready keys; ends early once `gone` says nobody listens.

        `place` comes from `places.enter` and is given back. Raises what retrieval and generation raise.
        """
        with self._turn(place, gone) as begun:
            if not begun:
                return
            # What a tenant's first question opens (topics, catalogs) is opened once, not by several at a time.
            with self._alone("ask", tenant):
                stream = self._desk.ask(question, tenant=tenant, user=self._user)
                for piece in stream:
                    if isinstance(piece, Answer):
                        yield self._remembered(piece)
                    else:
                        yield piece
                    if gone() or self.stopping:
                        return  # dropping the stream closes it, which stops the generator

    def search(self, place: object, question: str, tenant: str, *, gone: Callable[[], bool]) -> dict[str, Any] | None:
        """The passages for a question, best first, or `None` if nobody waits for them any more."""
        with self._turn(place, gone) as begun:
            if not begun:
                return None
            with self._alone("ask", tenant):
                found = self._desk.search(question, tenant=tenant, user=self._user)
            return _without_text(self._remembered(found))

    def judge(self, answer_id: str, up: bool, *, chunk_id: str = "", reason: str = "", correction: str = "") -> dict[str, Any]:
        """Put a verdict on the head and say where it stands. Raises `NotFound` for an answer nobody was given."""
        given = self._answer(answer_id)
        if chunk_id and chunk_id not in given.chunks:
            raise NotFound(f"Answer {answer_id} does not stand on a chunk {chunk_id}.", hint="Take chunk_id from its passages.")
        verdict = Verdict(answer_id, up, given.tenant, self._user, chunk_id=chunk_id, reason=reason, correction=correction)
        with self._alone("feedback", given.tenant):
            partition, offset = self.runner.run(feedback, tenant=given.tenant, verdicts=[verdict])[0]
            self._seen.add(("feedback", given.tenant))
        return {"verdict_id": verdict.verdict_id, "topic": FEEDBACK.name, "partition": partition, "offset": offset}

    def ledger(self) -> dict[str, Any]:
        """The live run's ledger rows."""
        record = self.runner.record
        return {"run": record.id, "state": record.state, "rows": [row.as_dict() for row in record.ledger.rows()]}

    def runs(self) -> list[dict[str, Any]]:
        """Every recorded run of this home, newest first, without its rows."""
        names = ("run", "command", "state", "started", "ended")
        return [{name: journal.get(name) for name in names} for journal in reversed(runs(self.settings.home))]

    def standing(self, tenant: str) -> dict[str, Any]:
        """How many passages of a tenant are indexed, and in which version of the index."""
        with self._lock:
            if self._vectors is None:
                meter = Meter(self.runner.record.ledger, "page")
                self._vectors = VectorReader(CHUNKS, self.runner.endpoints, meter)
        return {
            "run": self.runner.record.id,
            "tenant": tenant,
            "default_tenant": self.settings.tenant,
            "index_version": self._vectors.version(),
            "passages": self._vectors.count(f"tenant = '{tenant}'"),
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

    def score(self, name: str, run: str | None) -> bytes:
        """A pipeline's score as SVG, drawn from `run`, or else from the newest run that moved anything in it.

        Raises `NotFound` where no run did, `WrongUsage` for a pipeline there is not.
        """
        pipeline, own = _pipeline(name)
        run_id, command, started, rows = self._run_for(name, own, run)
        stamp = (run_id, sum(row["ops"] for row in rows))
        with self._drawing:  # one at a time: a drawing takes a processor for a while
            if name in self._drawn and self._drawn[name][0] == stamp:
                return self._drawn[name][1]
            drawn = svg(scene_of(score_of(pipeline, rows, run_id=run_id, when=started, command=f"headrace {command}"))).encode()
            self._drawn[name] = (stamp, drawn)
            return drawn

    def _run_for(self, name: str, own: frozenset[str], run: str | None) -> tuple[str, str, datetime, list[Any]]:
        record = self.runner.record
        rows = [row.as_dict() for row in record.ledger.rows()]
        if run == record.id or (run is None and any(row["stage"] in own for row in rows)):
            return record.id, record.command, record.started, rows
        if run is not None:
            journal = journal_of(self.settings.home, run)
        else:
            fitting = [
                journal
                for journal in runs(self.settings.home)
                if journal["run"] != record.id and any(row["stage"] in own for row in journal["rows"])
            ]
            if not fitting:
                first = "Ask something, or run `headrace index PATH`."
                raise NotFound(
                    f"No run has moved anything in the {name} pipeline yet, so there is nothing to draw.",
                    hint=first if name == INFERENCE.name else "Run `headrace turn`.",
                )
            journal = fitting[-1]
        return journal["run"], journal["command"], datetime.fromisoformat(journal["started"]), journal["rows"]

    @contextmanager
    def _turn(self, place: object, gone: Callable[[], bool]) -> Iterator[bool]:
        try:
            yield self.places.wait(place, lambda: gone() or self.stopping)
        finally:
            self.places.leave(place)

    @contextmanager
    def _alone(self, what: str, tenant: str) -> Iterator[None]:
        """Let a tenant's calls through alone until the first has succeeded, then side by side."""
        with contextlib.nullcontext() if (what, tenant) in self._seen else self._first:
            yield

    def _remembered(self, answer: Answer) -> dict[str, Any]:
        chunks = frozenset(passage.hit.chunk_id for passage in answer.passages)
        with self._lock:
            self._seen.add(("ask", answer.tenant))
            self._given[answer.answer_id] = _Given(answer.tenant, chunks)
            while len(self._given) > _REMEMBERED:
                self._given.popitem(last=False)
        passages = [
            {"number": number, "cited": number in answer.cited, **passage.as_dict()}
            for number, passage in enumerate(answer.passages, 1)
        ]
        return {**answer.as_dict(), "passages": passages}

    def _answer(self, answer_id: str) -> _Given:
        with self._lock:
            given = self._given.get(answer_id)
        if given is not None:
            return given
        # Another command's answer, or one from before a restart: tables know it once it has landed.
        meter = Meter(self.runner.record.ledger, feedback.name)
        table = TableReader(INTERACTION_ROWS, self.runner.endpoints, meter)
        columns = ("answer_id", "tenant", "passages")
        found = table.read(columns, f"answer_id = '{answer_id}'").to_pylist() if answer_id.isalnum() else []
        if not found:
            raise NotFound(
                f"No answer {answer_id} is known here.",
                hint="If another command gave it, land it first: `headrace land --once`.",
            )
        return _Given(found[0]["tenant"], frozenset(passage["chunk_id"] for passage in found[0]["passages"] or ()))


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


def _pipeline(name: str) -> tuple[Pipeline, frozenset[str]]:
    """A pipeline by name, and the stages that no other pipeline has: those that tell whether a run was one of its."""
    from headrace.training.pipeline import TRAINING

    pipelines = {pipeline.name: pipeline for pipeline in (INFERENCE, TRAINING)}
    if name not in pipelines:
        raise WrongUsage(f"There is no pipeline {name!r}.", hint=f"There are: {', '.join(pipelines)}.")
    others = {stage.name for other in pipelines.values() if other.name != name for stage in other.stages}
    return pipelines[name], frozenset(stage.name for stage in pipelines[name].stages if stage.name not in others)


def _without_text(found: dict[str, Any]) -> dict[str, Any]:
    """A search's keys: an answer's without those that only text has."""
    left_out = ("answer", "citations", "generator_version")
    passages = [{name: value for name, value in passage.items() if name != "cited"} for passage in found["passages"]]
    return {name: value for name, value in found.items() if name not in left_out} | {"passages": passages}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
