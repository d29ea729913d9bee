"""Questions and verdicts of many callers at once, without HTTP: admitted in a fair order, answered, counted, traced."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from headrace.answering.engine import GivenUp, QueryEngine
from headrace.answering.follow_up import Turn, in_full
from headrace.answering.intent import intent_of
from headrace.answering.options import DEFAULT, AnswerOptions, limited
from headrace.answering.record import Answer, Verdict, new_id
from headrace.answering.verdicts import KnownAnswer, RecordedVerdict
from headrace.api.admission import AdmissionQueue, Ticket
from headrace.api.auth import PAGE, Asker, Caller, asker
from headrace.api.telemetry import ServiceMetrics, Traces, tokens
from headrace.errors import NotFound, WrongUsage
from headrace.models.client import Vectors
from headrace.models.connection import EndpointRefusal
from headrace.settings import TenantLimits
from headrace.storage.filters import Filters

_TEXTS, _CHARACTERS = 32, 100_000  # that are embedded in one turn; a longer text is a turn of its own
LOOKUPS, WAITING_LOOKUPS = 4, 28  # of answers that only a table has: each reads all of it


@dataclass(frozen=True)
class AdmittedQuestion:
    """A question with a slot in the queue: its caller, tenant, readers, filters, history and options.

    Its history is what the request has, or the answer that it follows (`after`), which has to be looked up.
    """

    ticket: Ticket
    text: str
    caller: Caller
    tenant: str
    readers: tuple[str, ...]
    filters: Filters
    history: Sequence[Turn]
    after: str | None
    who: Asker
    headers: Mapping[str, str]
    options: AnswerOptions = DEFAULT
    answer_id: str = field(default_factory=new_id)


class QuestionService:
    """Answers questions and takes verdicts; safe to share between threads. What waits or generates ends once `stopping`."""

    def __init__(
        self,
        engine: QueryEngine,
        admission: AdmissionQueue,
        metrics: ServiceMetrics,
        traces: Traces,
        limits_of: Callable[[str], TenantLimits],
        require_tenant: Callable[[str], None],
        stopping: Callable[[], bool],
    ) -> None:
        self._engine = engine
        self._admission = admission
        self._lookups = AdmissionQueue(LOOKUPS, WAITING_LOOKUPS)
        self._metrics = metrics
        self._traces = traces
        self._limits_of = limits_of
        self._require_tenant = require_tenant
        self._stopping = stopping
        self._operator = _user()

    def admit(
        self,
        caller: Caller,
        text: str,
        headers: Mapping[str, str],
        *,
        tenant: str | None,
        readers: Sequence[str],
        filters: Sequence[str] = (),
        history: Sequence[Turn] = (),
        after: str | None = None,
        user: str | None,
        simulated: str | None = None,
        options: AnswerOptions = DEFAULT,
    ) -> AdmittedQuestion:
        """Take a slot for a question. Raises `Forbidden` for what the caller may not name, `Overloaded` if no slot is free."""
        whose, open_to, selected = caller.tenant_for(tenant), caller.principals_for(readers), Filters.parse(filters)
        who = self._who(caller, user, simulated)
        if after is not None and history:
            raise WrongUsage("The request has a history, and names an answer to follow up on.", hint="Leave one of them out.")
        ticket = self._admission.enter(whose, caller.limits.questions, text)
        return AdmittedQuestion(ticket, text, caller, whose, open_to, selected, history, after, who, headers, options)

    def ask(self, asked: AdmittedQuestion, put: Callable[[str | Answer], None], gone: Callable[[], bool]) -> None:
        """Put the answer's text in pieces, then the answer.

        Frees the question's slot. Raises `GivenUp` once `gone` says that nobody listens or the service is stopping, and what
        retrieval and generation raise.
        """
        tenant, caller = asked.tenant, asked.caller
        with self._turn(asked.ticket, gone), self._traces.question("chat", tenant, asked.headers) as span:
            if tenant != caller.tenant:
                self._require_tenant(tenant)
            # What a tenant's first question opens (topics, catalogs) is opened once, not by several questions at a time.
            with self._engine.first(("ask", tenant)):
                limits = caller.limits if tenant == caller.tenant else self._limits_of(tenant)
                stream = self._engine.ask(
                    asked.text,
                    tenant=tenant,
                    user=asked.who.user,
                    simulated=asked.who.simulated,
                    key=asked.who.key,
                    readers=asked.readers,
                    filters=asked.filters,
                    history=self._history(asked),
                    options=asked.options,
                    kv_cache_bytes=limits.kv_cache_bytes,
                    answer_id=asked.answer_id,
                    given_up=lambda: gone() or self._stopping(),
                )
                for piece in stream:
                    if isinstance(piece, Answer):
                        span.answered(piece)
                        read, written, _ = tokens(piece)
                        first = piece.timings_ms.get("first_token", 0.0) / 1e3
                        self._metrics.question(tenant, piece.kind, read=read, written=written, first_s=first)
                        if piece.kind == "answer":
                            self._engine.verdicts.remember(piece, asked.readers)
                    put(piece)

    def search(self, asked: AdmittedQuestion, put: Callable[[Answer], None], gone: Callable[[], bool]) -> None:
        """Put the passages for a question, best first; frees its slot. Raises `GivenUp` as `ask`."""
        tenant, who = asked.tenant, asked.who
        with self._turn(asked.ticket, gone), self._traces.question("retrieval", tenant, asked.headers) as span:
            if tenant != asked.caller.tenant:
                self._require_tenant(tenant)
            with self._engine.first(("ask", tenant)):
                found = self._engine.search(
                    asked.text,
                    tenant=tenant,
                    user=who.user,
                    simulated=who.simulated,
                    key=who.key,
                    readers=asked.readers,
                    filters=asked.filters,
                    history=self._history(asked),
                )
            span.answered(found)
            self._metrics.question(tenant, "search")
            self._engine.verdicts.remember(found, asked.readers)
            put(found)

    def list_passages(
        self,
        asked: AdmittedQuestion,
        listing: Callable[[Answer], Answer],
        put: Callable[[str | Answer], None],
        gone: Callable[[], bool],
    ) -> None:
        """As `ask`, with the passages that are found, which `listing` makes a text of; small talk and tasks get their reply."""
        if intent_of(asked.text) != "question":
            self.ask(asked, put, gone)
            return

        def found(answer: Answer) -> Generator[str, None, Answer]:
            listed = listing(answer)
            yield listed.text
            return listed

        def shown(answer: Answer) -> None:
            pieces = limited(found(answer), asked.options, counted=True)
            while True:
                try:
                    put(next(pieces))
                except StopIteration as ended:
                    put(ended.value)
                    return

        self.search(asked, shown, gone)

    def embed(
        self,
        caller: Caller,
        texts: Sequence[str],
        put: Callable[[tuple[Vectors, int]], None],
        gone: Callable[[], bool],
        *,
        kind: Literal["query", "passage"],
    ) -> None:
        """Put the texts' embeddings and their tokens, by the configured embedder, in a question's slot.

        A turn is for a few texts and few characters (cutting a text into tokens takes time too), so that questions of other
        tenants wait for no more than these.
        Raises `GivenUp` as `ask`, `WrongUsage` for a text that the model finds too long, and as `admit` and the model client do.
        """
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))  # a batch costs as much as its longest text
        found: list[Vectors] = []
        read = 0
        ticket = self._admission.enter(caller.tenant, caller.limits.questions, texts[0])
        try:
            for turn in _turns(texts, order):
                if not self._admission.wait(ticket, lambda: gone() or self._stopping()):
                    raise GivenUp
                try:
                    vectors, tokens = self._engine.embedder.embed_whole([texts[index] for index in turn], kind=kind)
                except EndpointRefusal as error:
                    if error.reply.status not in (400, 413, 422):
                        raise
                    raise WrongUsage(f"The embedder refused a text: {error.reply.message}") from None
                found.append(vectors)
                read += tokens
                self._admission.give_way(ticket)
        finally:
            self._admission.leave(ticket)
        self._metrics.question(caller.tenant, "embeddings", read=read)
        put((np.concatenate(found)[np.argsort(order)], read))

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
        tenant: str | None = None,
        user: str | None = None,
        simulated_user: str | None = None,
        key: str | None = None,
    ) -> RecordedVerdict:
        """Put a verdict on the head; returns its partition and offset.

        Raises `NotFound` for an answer of another tenant, `Overloaded` where many old answers are looked up, and as `admit`.

        The same verdict under the same `key` is recorded once, as far as this process and the landed events show, and gets the
        same response each time.
        """
        who = self._who(caller, user, simulated_user)
        if (named := caller.tenant_for(tenant)) != caller.tenant:
            self._require_tenant(named)
        answer = self._answer(caller, answer_id)
        if (
            answer is None
            or not (answer.tenant == named or (caller.admin and tenant is None))
            or not _may_judge(caller, answer, who.user)
        ):
            # The same words for both: a caller does not learn whether another tenant has such an answer.
            raise NotFound(
                f"No answer {answer_id} is known here.",
                hint="If another command gave it, land it first: `headrace land --once`.",
            )
        if chunk_id and chunk_id not in answer.chunks:
            raise NotFound(f"Answer {answer_id} is not based on a chunk {chunk_id}.", hint="Take chunk_id from its passages.")
        verdict = Verdict(
            answer_id,
            up,
            answer.tenant,
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

    def name_of(self, caller: Caller) -> str:
        """A caller's name where it names no user: the key, or for the page the user who started the service."""
        return self._operator if caller.key_id == PAGE else caller.key_id

    def _answer(self, caller: Caller, answer_id: str) -> KnownAnswer | None:
        verdicts = self._engine.verdicts
        if verdicts.remembers(answer_id):
            return verdicts.answer(answer_id)
        ticket = self._lookups.enter(caller.tenant, caller.limits.questions, answer_id)
        try:
            return verdicts.answer(answer_id) if self._lookups.wait(ticket, self._stopping) else None
        finally:
            self._lookups.leave(ticket)

    def _history(self, asked: AdmittedQuestion) -> list[Turn]:
        """The turns before a question, each in full. Raises `NotFound` as `QueryEngine.turn`, which may read a table."""
        if asked.after is None:
            return in_full(asked.history)
        return in_full([self._engine.turn(asked.after, tenant=asked.tenant, user=asked.who.user, readers=asked.readers)])

    def _who(self, caller: Caller, user: str | None, simulated: str | None) -> Asker:
        """Who is recorded: the user that is named, else the caller."""
        return asker(caller, self.name_of(caller), user, simulated)

    @contextmanager
    def _turn(self, ticket: Ticket, gone: Callable[[], bool]) -> Iterator[None]:
        """Wait for a question's turn, then free its slot. Raises `GivenUp` if nobody waits for it any more."""
        try:
            if not self._admission.wait(ticket, lambda: gone() or self._stopping()):
                raise GivenUp
            yield
        finally:
            self._admission.leave(ticket)


def _may_judge(caller: Caller, answer: KnownAnswer, user: str) -> bool:
    """Whether a key that is bound to readers may know of an answer: its user's own, or one that was made for its readers.

    With any other it could find out, chunk by chunk, what a document closed to it says.
    """
    if caller.readers is None or answer.user == user:
        return True
    return answer.readers is not None and answer.readers <= set(caller.readers)


def _turns(texts: Sequence[str], order: Sequence[int]) -> Iterator[list[int]]:
    """The numbers of the texts in this order, those of one turn together."""
    turn: list[int] = []
    characters = 0
    for index in order:
        if turn and (len(turn) == _TEXTS or characters + len(texts[index]) > _CHARACTERS):
            yield turn
            turn, characters = [], 0
        turn.append(index)
        characters += len(texts[index])
    yield turn


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
