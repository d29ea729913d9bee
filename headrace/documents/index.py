"""From source files to an index: the stages in their order, the indices over the embeddings, and other generations."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, TypeVar

from headrace.catalog import CHUNKS, DIMENSIONS, DOCUMENT_EVENTS
from headrace.core.runner import Runner
from headrace.core.stage import stage
from headrace.documents.chunk import Chunked, chunk
from headrace.documents.embed import Embedded, embed
from headrace.documents.embedding import Embedding
from headrace.documents.failed import GiveUp, Unfit, give_up, refuse
from headrace.documents.formats.contract import ParseLimits
from headrace.documents.generations import begin, endpoint_for, finish_pass, index_state, resolve, serving, sweep, switch
from headrace.documents.parse import SOON_S, Failure, ParsedDocuments, parse
from headrace.documents.parsing import Parsing
from headrace.documents.put import Put, put
from headrace.documents.restrict import restrict
from headrace.documents.revoke import revoke, settle_revocations
from headrace.documents.sources.follow import SourceChanges
from headrace.documents.splitting import Splitting
from headrace.errors import LostRace, NotFound, StorageFull, Transient
from headrace.landing.land import Landed, land
from headrace.retry import backoff
from headrace.settings import Inference, SourceSettings
from headrace.storage.timeline import AHEAD
from headrace.storage.vectors.generations import IndexGeneration
from headrace.storage.vectors.handles import VectorWriter

R = TypeVar("R")

_TRIES = 8

log = logging.getLogger("headrace.index")


@dataclass(frozen=True)
class Index:
    """The version that answers questions now, and its number of chunks."""

    version: str
    chunks: int


@stage("Builds the full-text and vector indices that questions are answered from.", phase=AHEAD)
def index(vectors: Annotated[VectorWriter, CHUNKS], into: IndexGeneration | None = None) -> Index:
    """Build the missing indices of a generation (the first unless named), and maintain them if that is due."""
    made = vectors.for_generation(into.number) if into else vectors
    version = made.build(into.width if into else DIMENSIONS)
    return Index(version, made.count())


After = Callable[[str], None]
"""Called with the name of each stage that has ended; an exception ends the pass, and the next pass completes it."""


def _nothing(_stage: str) -> None:
    """The default `After`."""


@dataclass(frozen=True)
class Filled:
    """What one pass did to a generation of the index."""

    chunked: Chunked
    embedded: Embedded
    index: Index


@dataclass(frozen=True)
class CaughtUp:
    """What one pass did, from the head to the index."""

    landed: Landed
    parsed: ParsedDocuments
    filled: Filled


@dataclass(frozen=True)
class Indexed:
    """What one pass from documents to index did."""

    put: Put
    parsed: ParsedDocuments
    chunked: Chunked
    embedded: Embedded
    index: Index
    seconds: float


def index_documents(
    runner: Runner,
    places: Sequence[str | Path],
    *,
    tenant: str,
    settings: Inference,
    readers: Sequence[str] | None = None,
    attributes: Sequence[str] | None = None,
    retry: bool = False,
    compare: bool = False,
    accept_deletions: bool = False,
    rules: Sequence[SourceSettings] = (),
    changes: SourceChanges | None = None,
) -> Indexed:
    """Put the documents at `places` and bring the index up to date with all that the head says of documents.

    `compare` is as in `embed`, the others are as in `put`.
    """
    started = time.perf_counter()
    was_put, before = put_documents(
        runner,
        places,
        tenant=tenant,
        settings=settings,
        readers=readers,
        attributes=attributes,
        retry=retry,
        accept_deletions=accept_deletions,
        rules=rules,
        changes=changes,
    )
    done = _beside_others(lambda: catch_up(runner, settings, compare=compare))
    chunked, embedded = done.filled.chunked, done.filled.embedded
    later = ParsedDocuments(0, 0, tuple(Failure(one.uri, one.reason) for one in (*chunked.failed, *embedded.failed)))
    parsed = sum(before, start=done.parsed + later)
    return Indexed(was_put, parsed, chunked, embedded, done.filled.index, time.perf_counter() - started)


def put_documents(
    runner: Runner,
    places: Sequence[str | Path],
    *,
    tenant: str,
    settings: Inference,
    readers: Sequence[str] | None = None,
    attributes: Sequence[str] | None = None,
    retry: bool = False,
    accept_deletions: bool = False,
    rules: Sequence[SourceSettings] = (),
    changes: SourceChanges | None = None,
) -> tuple[Put, list[ParsedDocuments]]:
    """Put the documents at `places`; the second has what was parsed before that, where `put` needed the newest state."""
    before: list[ParsedDocuments] = []

    def settle() -> None:
        runner.run(land, only=(DOCUMENT_EVENTS,)).require(DOCUMENT_EVENTS)
        before.append(_beside_others(lambda: runner.run(parse, limits=ParseLimits.from_settings(settings))))

    def restrict_now(readers: Mapping[str, Sequence[str]]) -> None:
        try:
            _beside_others(lambda: runner.run(restrict, readers=readers))
        except (Transient, StorageFull) as error:  # the events say the same, and take longer
            log.warning("%d documents are closed only when their events are indexed: %s", len(readers), error.message)

    was_put = runner.run(
        put,
        tenant=tenant,
        places=places,
        most_bytes=settings.document_bytes,
        readers=readers,
        attributes=attributes,
        settle=settle,
        retry=retry,
        accept_deletions=accept_deletions,
        rules=rules,
        changes=changes,
        restrict=restrict_now,
    )
    return was_put, before


def _beside_others(step: Callable[[], R]) -> R:
    """Run a step again if another process (`headrace up`) finished the same documents first; the second run finds them done."""
    for failures in range(1, _TRIES):
        try:
            return step()
        except LostRace:
            time.sleep(backoff(failures, first_s=0.2, longest_s=2.0))
    return step()


def catch_up(runner: Runner, settings: Inference, *, compare: bool = False, after: After = _nothing) -> CaughtUp:
    """Bring the index up to date with all that the head says of documents; `compare` as in `embed`."""
    landed, parsed = land_and_parse(runner, settings, after=after)
    return CaughtUp(landed, parsed, update_index(runner, settings, compare=compare, after=after))


def land_and_parse(
    runner: Runner,
    settings: Inference,
    *,
    parse_s: float = math.inf,
    soon_s: float = SOON_S,
    parsing: Parsing | None = None,
    waits: bool = True,
    gives_way: Callable[[Collection[str]], bool] | None = None,
    after: After = _nothing,
) -> tuple[Landed, ParsedDocuments]:
    """Land the events of documents and parse those announced; `parse_s` is `seconds` of `parse`, the others are as there.

    Raises `OffsetsRefused` where a partition does not land.
    """
    landed = runner.run(land, only=(DOCUMENT_EVENTS,))
    landed.require(DOCUMENT_EVENTS)
    after("land")
    limits = ParseLimits.from_settings(settings)
    parsed = runner.run(parse, limits=limits, seconds=parse_s, soon_s=soon_s, parsing=parsing, waits=waits, gives_way=gives_way)
    after("parse")
    return landed, parsed


def update_index(
    runner: Runner,
    settings: Inference,
    *,
    gives_way: Callable[[Collection[str]], bool] | None = None,
    split_s: float | None = None,
    splitting: Splitting | None = None,
    embedding: Embedding | None = None,
    compare: bool = False,
    after: After = _nothing,
) -> Filled:
    """Bring the index that answers up to date with the documents table, and then any index that is served instead by now."""
    into = runner.run(serving, window=settings.chunk_tokens, embedder=runner.endpoints.embedder)
    revoked = runner.run(revoke)

    def failing(unfit: Sequence[Unfit]) -> None:
        runner.run(give_up, unfit=unfit)

    filled = fill(
        runner,
        into,
        failing,
        gives_way=gives_way,
        split_s=split_s,
        splitting=splitting,
        embedding=embedding,
        compare=compare,
        after=after,
    )
    while (then := runner.run(finish_pass, into=into, changed=filled.embedded.changed)) is not None:
        into = then
        filled = replace(filled, index=fill(runner, into, failing).index)
    runner.run(sweep)
    if not filled.chunked.unfinished and not filled.embedded.unfinished:
        runner.run(settle_revocations, position=revoked)
    return filled


def fill(
    runner: Runner,
    into: IndexGeneration,
    failing: GiveUp = refuse,
    *,
    gives_way: Callable[[Collection[str]], bool] | None = None,
    split_s: float | None = None,
    splitting: Splitting | None = None,
    embedding: Embedding | None = None,
    compare: bool = False,
    after: After = _nothing,
) -> Filled:
    """Bring one generation of the index up to date with the documents table.

    `failing` is called with documents that it cannot take in; `split_s` and `splitting` are `seconds` and `splitting` of
    `chunk`, `embedding` is that of `embed`. Raises `BadSettings` where the endpoint does not have that generation's embedder.
    """
    chunked = runner.run(
        chunk,
        window=into.window,
        generation=into.number,
        give_up=failing,
        seconds=split_s,
        splitting=splitting,
        hold=embedding.full() if embedding else frozenset(),
    )
    after("chunk")
    made_by = endpoint_for(runner.endpoints.embedder, into.embedder)
    embedded = runner.run(
        embed,
        embedder=made_by,
        into=into,
        gives_way=gives_way,
        give_up=failing,
        compare=compare,
        unsplit=chunked.unfinished,
        embedding=embedding,
    )
    after("embed")
    built = runner.run(index, into=into)
    after("index")
    return Filled(chunked, embedded, built)


@dataclass(frozen=True)
class Reindexed:
    """The index that answers now, its generation, and the generation to go back to."""

    index: Index
    generation: IndexGeneration
    fallback: IndexGeneration | None
    seconds: float


def reindex(runner: Runner, settings: Inference, *, embedder: str = "") -> Reindexed:
    """Build a generation with these settings, or complete one that was begun, and serve it.

    It is made with `embedder`, by default the embedder of the served generation if the endpoint has that, else the endpoint's
    own. Raises `NotFound` where nothing is indexed yet.
    """
    started = time.perf_counter()
    runner.run(land, only=(DOCUMENT_EVENTS,)).require(DOCUMENT_EVENTS)
    runner.run(parse, limits=ParseLimits.from_settings(settings))
    own, served = runner.endpoints.embedder, runner.run(index_state)[0].serving
    if not embedder:
        embedder = served.embedder if served and resolve(own, served.embedder) else own.model
    to = runner.run(begin, window=settings.chunk_tokens, embedder=endpoint_for(own, embedder))
    return _switched(runner, to, started)


def made_with(runner: Runner, settings: Inference, embedder: str) -> IndexGeneration:
    """Serve an index made with `embedder`, with chunks of the same size as now; returns its generation.

    That is the served one, the fallback, or a new one. Raises `NotFound` where nothing is indexed yet.
    """
    now = runner.run(index_state)[0]
    if now.serving is not None and now.serving.embedder == embedder:
        return now.serving
    try:
        if now.serving is not None and now.fallback is not None and _like(now.fallback, now.serving, embedder):
            return _switched(runner, now.fallback, time.perf_counter()).generation
        window = now.serving.window if now.serving else settings.chunk_tokens
        return reindex(runner, settings.model_copy(update={"chunk_tokens": window}), embedder=embedder).generation
    except LostRace:
        served = runner.run(index_state)[0].serving
        if served is None or served.embedder != embedder:
            raise
        return served  # another process did the same first


def back(runner: Runner) -> Reindexed:
    """Serve the previous generation again, brought up to date first.

    Raises `NotFound` where there is none, and `BadSettings` where the endpoint does not have its embedder.
    """
    started = time.perf_counter()
    to = runner.run(index_state)[0].fallback
    if to is None:
        raise NotFound("There is no earlier index to go back to.", hint="headrace reindex keeps the one it replaces.")
    endpoint_for(runner.endpoints.embedder, to.embedder)
    return _switched(runner, to, started)


def _switched(runner: Runner, to: IndexGeneration, started: float) -> Reindexed:
    # Filling may take hours before the first look and takes a moment after it: most passes of others end before it.
    fill(runner, to)
    while True:
        seen = runner.run(index_state)
        if to not in (seen[0].building, seen[0].fallback):
            raise LostRace(f"Another process gave up or served index g{to.number}.", hint="Run the command again.")
        built = fill(runner, to).index
        if runner.run(switch, to=to, seen=seen):
            break
    runner.run(sweep)
    return Reindexed(built, to, seen[0].serving, time.perf_counter() - started)


def _like(one: IndexGeneration, other: IndexGeneration, embedder: str) -> bool:
    return one.embedder == embedder and one.window == other.window
