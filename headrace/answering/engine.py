"""The inference pipeline, and the query engine that answers questions."""

from __future__ import annotations

import time
from collections import abc
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace

from headrace.answering.follow_up import TOKENS, Turn, chat_of, rewrite, stand_alone
from headrace.answering.generate import count_stored, documents_of, generate, prompt
from headrace.answering.intent import intent_of, small_talk_reply, task_reply
from headrace.answering.options import DEFAULT, AnswerOptions, limited
from headrace.answering.quotes import NOT_FOUND, quote
from headrace.answering.record import Answer, answer, feedback, moved, new_id, row_of
from headrace.answering.rerank import rerank
from headrace.answering.retrieve import retrieve
from headrace.answering.unrecorded import NOTE, Unrecorded
from headrace.answering.verdicts import Verdicts
from headrace.catalog import CHUNK_ROWS, DOCUMENT_EVENTS
from headrace.core.runner import FirstAlone, Runner
from headrace.core.stage import Pipeline, Trigger
from headrace.documents.chunk import chunk
from headrace.documents.embed import embed
from headrace.documents.generations import Embedders, serving
from headrace.documents.index import index
from headrace.documents.parse import parse
from headrace.documents.put import put
from headrace.errors import HeadraceError, NotFound, Transient
from headrace.landing.land import land
from headrace.models.citations import Citations
from headrace.models.client import Completion, Embedder, Generator, Reranker, SamplingParameters
from headrace.models.pointer import NONE
from headrace.models.prompt import STOP
from headrace.settings import AnswerMode, Inference
from headrace.storage.filters import NO_FILTERS, Filters
from headrace.storage.ledger import Ledger

INFERENCE = Pipeline(
    "inference",
    "Enterprise RAG: embeddings ahead of time, then retriever, re-ranker and generator with a KV cache on files.",
    (put, land, parse, serving, chunk, embed, index, retrieve, rerank, generate, answer, feedback),
    (
        Trigger(DOCUMENT_EVENTS, "land", "when documents are put"),
        Trigger(CHUNK_ROWS, "embed", "for chunks not embedded yet"),
    ),
)

_PATIENCE_S = 5.0
"""How long the caller waits for the head, where the answer can be recorded later."""
_SETTLE_S = 5.0
_STOPS = 4  # that OpenAI's endpoints take; `limited` obeys the others
NOT_STORED = "the KV cache could not be written, so the same prompt is computed again"
_AnswerStream = abc.Generator[str, None, Answer]  # yields pieces of the text and returns the answer

Withheld = Callable[[str, Collection[str], Collection[str]], Collection[str]]
"""Tenant, uris and readers → those of the documents that are deleted, or closed to these readers, and still in the index."""


class GivenUp(Exception):
    """The caller no longer waits for the answer."""


class QueryEngine:
    """Answers questions and takes verdicts; keeps model clients and handles open from one question to the next.

    With `unrecorded`, an answer that the head does not accept is returned with a note and recorded later. `embedded` means
    that embedder and generator are the embedded models, which quote better than they write.
    """

    def __init__(
        self, runner: Runner, settings: Inference, unrecorded: Unrecorded | None = None, *, embedded: bool = False
    ) -> None:
        self._runner, self._embedded = runner, embedded
        self.unrecorded = unrecorded
        self.first = FirstAlone()
        """For callers with several threads: a tenant's first question opens topics and catalogs."""
        self.verdicts = Verdicts(runner, unrecorded, self.first)
        self._settings = settings
        self._withheld: Withheld = _nothing_withheld
        self._stores = False  # whether KV is stored behind an answer
        self._embedders = Embedders(runner.endpoints.embedder)
        self.embedder = Embedder(runner.endpoints.embedder)
        """As configured, whatever embedder the index is of: what clients keep stays comparable."""
        patient = runner.endpoints.reranker
        seconds = min(patient.timeout_s, settings.rerank_seconds)
        self._reranker = Reranker(patient.model_copy(update={"timeout_s": seconds}))
        writer = runner.endpoints.generator
        salt_key = runner.endpoints.cache_salt_key
        self._generator = Generator(writer, salt_key=salt_key)
        seconds = min(writer.timeout_s, settings.rewrite_seconds or writer.timeout_s)
        self._rewriter = Generator(writer.model_copy(update={"timeout_s": seconds}), salt_key=salt_key)

    def withhold(self, withheld: Withheld) -> None:
        """Leave out of the passages those documents that `withheld` returns, though the index still has them."""
        self._withheld = withheld

    def search(
        self,
        question: str,
        *,
        tenant: str,
        user: str,
        simulated: bool = False,
        key: str | None = None,
        record: bool = True,
        readers: Sequence[str] = (),
        filters: Filters = NO_FILTERS,
        history: Sequence[Turn] = (),
    ) -> Answer:
        """The re-ranked passages for a question, recorded as an interaction of kind `search` unless `record` is false.

        Passages come from documents that `filters` select and that are open to the whole tenant or to one of `readers` (the user
        and their groups). A follow-up to the questions of `history` is rewritten to stand alone (`asked_as`). `key` is as in
        `Answer`.
        """
        found, _ = self._passages(question, tenant, user, simulated, key, readers, filters, history)
        return self._recorded(found) if record else found

    def ask(
        self,
        question: str,
        *,
        tenant: str,
        user: str,
        simulated: bool = False,
        key: str | None = None,
        record: bool = True,
        readers: Sequence[str] = (),
        filters: Filters = NO_FILTERS,
        history: Sequence[Turn] = (),
        options: AnswerOptions = DEFAULT,
        kv_cache_bytes: int | None = None,
        answer_id: str | None = None,
        given_up: Callable[[], bool] = lambda: False,
    ) -> Iterator[str | Answer]:
        """Stream the answer's text with its citations, then the `Answer`, recorded unless `record` is false.

        - `readers`, `filters`, `history` and `key` are as in `search`; `options` override the settings.
        - `kv_cache_bytes` bounds the tenant's part of the KV cache.
        - `answer_id` is for callers that need the id before the answer (`new_id`).
        - `given_up` is polled while the generator writes; once it returns true the generator is stopped and `GivenUp` raised.

        The text says so if the passages contain no answer (extractive) or none is similar enough to the question (generated).
        Small talk and clients' tasks (`intent.py`) get a reply without passages, which is not recorded.
        """
        started = time.perf_counter()
        watched = Ledger()
        intent = intent_of(question)
        quoted = self.mode(options.mode) == "extractive"
        if intent != "question":
            aside = Answer(question, tenant, user, (), NONE, NONE, intent, simulated=simulated, answer_id=answer_id or new_id())
            stream = self._replied(aside, history, options, watched, kv_cache_bytes, given_up, readers)
            quoted = intent == "small_talk" or self._embedded
        else:
            retrieved, embedder = self._passages(question, tenant, user, simulated, key, readers, filters, history, answer_id)
            retrieved = replace(retrieved, kind="answer")
            if quoted:
                stream = self._extracted(retrieved, embedder, options)
            else:
                stream = self._generated(retrieved, options, watched, kv_cache_bytes, given_up, readers)
        first = 0.0
        stream = limited(stream, options, counted=quoted)  # a generator counts its tokens itself
        while True:
            try:
                piece = next(stream)
            except StopIteration as ended:
                result: Answer = ended.value
                break
            first = first or time.perf_counter() - started
            yield piece
        total = time.perf_counter() - started
        result = replace(
            result,
            timings_ms={**result.timings_ms, "first_token": _ms(first or total), "total": _ms(total)},
            bytes=_sum(result.bytes, moved(watched)),
        )
        own = Ledger()
        if record and result.kind == "answer":
            with own.watched():
                result = self._recorded(result)
        yield replace(result, bytes=_sum(result.bytes, moved(own)))

    def mode(self, wanted: AnswerMode | None = None) -> AnswerMode:
        """How a question is answered: `wanted`, or by default the settings' mode."""
        return self._settings.mode(wanted, embedded=self._embedded)

    def _extracted(self, retrieved: Answer, embedder: Embedder | None, options: AnswerOptions) -> _AnswerStream:
        """Stream a line for each part of the question; return the answer."""
        began = time.perf_counter()
        quoted = quote(retrieved.in_full, retrieved.passages, embedder)
        text = "\n".join(quoted.lines)
        yield from text.splitlines(keepends=True)
        # Quoted passages come first, then the best of the others.
        shown = max(self._settings.passages, len({support.number for support in quoted.supports}))
        return replace(
            retrieved,
            mode="extractive",
            text=text,
            passages=quoted.passages[:shown],
            supports=quoted.supports,
            groundedness=len(quoted.supports) / len(quoted.lines) if quoted.supports else None,
            refused=not quoted.supports,
            note="; ".join(filter(None, (retrieved.note, quoted.note, options.unused))),
            timings_ms={**retrieved.timings_ms, "extract": _ms(time.perf_counter() - began)},
        )

    def _generated(
        self,
        retrieved: Answer,
        options: AnswerOptions,
        watched: Ledger,
        kv_cache_bytes: int | None,
        given_up: Callable[[], bool],
        readers: Sequence[str],
    ) -> _AnswerStream:
        """Stream the generator's text, its sentences cited; return the answer."""
        passages = retrieved.passages[: self._settings.passages]
        citations = Citations([passage.hit.text for passage in passages], retrieved.in_full)
        completion: Completion | None = None

        def pieces() -> Iterator[str]:
            nonlocal completion
            chat = prompt(retrieved.in_full, passages, options.instructions)
            documents = documents_of(retrieved.tenant, passages)
            completion = yield from self._written(
                retrieved, chat, options, watched, kv_cache_bytes, given_up, readers, documents=documents
            )

        text = ""
        refused = not passages or (retrieved.similarity is not None and retrieved.similarity < self._settings.least_similarity)
        for marked in iter([NOT_FOUND]) if refused else citations.mark(pieces()):
            text += marked
            yield marked
        notes = [retrieved.note]
        if count := len(citations.withheld):
            sentences = "a sentence" if count == 1 else f"{count} sentences"
            notes.append(f"{sentences} of the model's answer left out: the passages have other figures")
            if not text.strip():
                refused, text = True, NOT_FOUND
                yield NOT_FOUND
        if completion is not None:
            self._runner.record.count(kv_tokens_read=completion.reused_tokens, kv_tokens_written=completion.stored_tokens)
        if completion is not None and completion.finish_reason == "length":
            most, own = self._settings.answer_tokens, options.most_tokens
            notes.append(
                f"cut off at {own} tokens" if own and own < most else f"cut off at {most} tokens (inference.answer_tokens)"
            )
        if completion is not None and completion.not_stored:
            notes.append(f"{NOT_STORED}: {completion.not_stored.rstrip('.')}")
        if completion is not None and completion.left_out:
            notes.append(f"the model's endpoint does not know {', '.join(completion.left_out)}")
        timings = dict(retrieved.timings_ms)
        if completion is not None:
            timings |= {f"generate_{name}": round(ms, 1) for name, ms in completion.timings_ms.items()}
        return replace(
            retrieved,
            mode="generated",
            text=text.strip(),
            passages=passages,
            refused=refused,
            note="; ".join(filter(None, notes)),
            supports=tuple(citations.supports),
            groundedness=citations.groundedness,
            completion=completion,
            finish_reason=completion.finish_reason if completion else "stop",
            timings_ms=timings,
        )

    def _replied(
        self,
        aside: Answer,
        history: Sequence[Turn],
        options: AnswerOptions,
        watched: Ledger,
        kv_cache_bytes: int | None,
        given_up: Callable[[], bool],
        readers: Sequence[str],
    ) -> _AnswerStream:
        """Stream a reply to small talk or to a client's task, by rules, or by the generator if it is the user's own."""
        if aside.kind == "task" and not self._embedded:
            system = [{"role": "system", "content": options.instructions}] if options.instructions else []
            chat = [*system, *chat_of(history), {"role": "user", "content": aside.question}]
            completion = yield from self._written(aside, chat, options, watched, kv_cache_bytes, given_up, readers, stop=())
            assert completion is not None  # a generator's stream ends with it
            text, ended = completion.text.strip(), completion.finish_reason
            return replace(aside, mode="generated", text=text, completion=completion, finish_reason=ended)
        questions = [turn.question for turn in history]
        text = task_reply(aside.question, questions) if aside.kind == "task" else small_talk_reply(aside.question)
        yield text
        return replace(aside, text=text)

    def _written(
        self,
        answer: Answer,
        chat: Sequence[Mapping[str, str]],
        options: AnswerOptions,
        watched: Ledger,
        kv_cache_bytes: int | None,
        given_up: Callable[[], bool],
        readers: Sequence[str],
        stop: Sequence[str] = STOP,
        documents: Collection[str] | None = None,
    ) -> abc.Generator[str, None, Completion | None]:
        """Stream what the generator writes; return its completion. Raises `GivenUp`."""
        stream = self._runner.run(
            generate,
            tenant=answer.tenant,
            chat=chat,
            generator=self._generator,
            most_tokens=min(self._settings.answer_tokens, options.most_tokens or self._settings.answer_tokens),
            kv_cache_bytes=kv_cache_bytes,
            sampling=SamplingParameters(**{"temperature": self._settings.temperature, **options.sampling}),
            answer_id=answer.answer_id,
            readers=readers,
            documents=documents,
            run=self._runner.record.id,
            stop=(*stop, *options.stop)[:_STOPS],
        )
        completion = None
        # Closing stops the generator at once, even while another thread still references the exception raised here.
        with closing(stream):
            while True:
                with watched.watched():
                    piece = next(stream, None)
                if piece is None:
                    return completion
                if given_up():
                    raise GivenUp
                if isinstance(piece, Completion):
                    completion = piece
                    self._stores = self._stores or piece.stored_tokens > 0
                else:
                    yield piece

    def settle(self, seconds: float = _SETTLE_S) -> None:
        """Count the KV that was stored behind the answers; waits for at most so many seconds until it is."""
        if self._stores:
            with suppress(HeadraceError):  # the answers are given: only these bytes are missing in the ledger
                self._runner.run(count_stored, generator=self._generator, run=self._runner.record.id, seconds=seconds)

    def turn(self, answer_id: str, *, tenant: str, user: str, readers: Sequence[str] = ()) -> Turn:
        """The question and text of an earlier answer, as history for a follow-up.

        The text is omitted if it may contain what these `readers` may not read. Raises `NotFound` for an answer of another
        tenant or user.
        """
        known = self.verdicts.answer(answer_id, tenant)
        if known is None or known.user != user:
            raise NotFound(f"No answer {answer_id} is known here.", hint="Name an answer of the same user, or leave it out.")
        return Turn(known.question, known.text if known.readers is not None and known.readers <= frozenset(readers) else "")

    def _in_full(self, question: str, history: Sequence[Turn], tenant: str) -> str:
        """The question in standalone form, rewritten by the user's own generator or by rules."""
        if self._embedded or not self._settings.rewrite_seconds:
            return stand_alone(question, history)

        def write(chat: list[dict[str, str]]) -> str | None:
            try:
                *_, last = self._runner.run(
                    generate, tenant=tenant, chat=chat, generator=self._rewriter, most_tokens=TOKENS, stop=("\n",)
                )
            except HeadraceError:  # the rule will do
                return None
            return last.text if isinstance(last, Completion) else None

        return rewrite(question, history, write)

    def _recorded(self, result: Answer) -> Answer:
        """Record the answer on the head, or on disk to be recorded later; its note says which."""
        unrecorded, run = self.unrecorded, self._runner.record.id
        if unrecorded is None or not unrecorded.away:
            try:
                patience = {} if unrecorded is None else {"patience_s": _PATIENCE_S}
                self._runner.for_tenant(result.tenant).run(answer, answers=[result], run=run, **patience)
                return result
            except Transient:
                if unrecorded is None:
                    raise
        unrecorded.add(row_of(result, run))
        return replace(result, note="; ".join(filter(None, (result.note, NOTE))))

    def _passages(
        self,
        question: str,
        tenant: str,
        user: str,
        simulated: bool,
        key: str | None,
        readers: Sequence[str],
        filters: Filters,
        history: Sequence[Turn],
        answer_id: str | None = None,
    ) -> tuple[Answer, Embedder | None]:
        """The answer without its text, and the embedder that embedded its question."""
        watched = Ledger()
        self._runner.record.count(questions=1)
        answer_id = answer_id or new_id()  # needed first: the id decides which model versions answer (canary)
        with watched.watched():
            began = time.perf_counter()
            in_full = self._in_full(question, history, tenant)
            started = time.perf_counter()
            found = self._runner.run(
                retrieve,
                tenant=tenant,
                question=in_full,
                embedders=self._embedders,
                most=self._settings.retrieve,
                readers=readers,
                filters=filters,
                by_rank=self._settings.fusion == "ranks",
            )
            # What was closed or deleted is so at once, however long the pass takes that the index waits for.
            named = {source.document for hit in found.hits for source in hit.sources}
            withheld = self._withheld(tenant, named, readers)
            hits = tuple(left for hit in found.hits if (left := hit.without(withheld)) is not None) if withheld else found.hits
            retrieved = time.perf_counter()
            self._runner.record.counts["index_chunks"] = found.index_chunks
            ordered = self._runner.for_tenant(tenant).run(
                rerank, question=in_full, hits=hits, reranker=self._reranker, answer_id=answer_id
            )
            reranked = time.perf_counter()
        answer = Answer(
            answer_id=answer_id,
            question=question,
            tenant=tenant,
            user=user,
            simulated=simulated,
            key=key,
            kind="search",
            filters=filters.said,
            asked_as="" if in_full == question else in_full,
            passages=ordered.passages,
            candidates=ordered.passages,
            model_version=ordered.model_version,
            ranking_version=ordered.ranking_version,
            index_version=found.index_version,
            note="; ".join(filter(None, (found.note, ordered.note))),
            similarity=max((hit.similarity for hit in hits if hit.similarity is not None), default=None),
            timings_ms={
                **({"rewrite": _ms(started - began)} if in_full != question else {}),
                "retrieve": _ms(retrieved - started),
                "rerank": _ms(reranked - retrieved),
            },
            bytes=moved(watched),
        )
        return answer, found.embedder


def _nothing_withheld(_tenant: str, _uris: Collection[str], _readers: Collection[str]) -> Collection[str]:
    return ()


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 1)


def _sum(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in sorted({*one, *other})}
