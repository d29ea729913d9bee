"""From source files to an index: the stages in their order, over everything that is on the head."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from headrace.catalog import DOCUMENT_EVENTS
from headrace.core.runner import Runner
from headrace.documents.chunk import Chunked, chunk
from headrace.documents.embed import Embedded, embed
from headrace.documents.embedders import endpoint_for
from headrace.documents.failed import GiveUp, Unfit, give_up, refuse
from headrace.documents.formats.limits import ParseLimits
from headrace.documents.generations import serving, settled, sweep
from headrace.documents.index import Index, index
from headrace.documents.parse import Failure, ParsedDocuments, parse
from headrace.documents.put import Put, put
from headrace.ingest.land import Landed, land
from headrace.settings import Inference
from headrace.storage.vectors.generations import IndexGeneration

After = Callable[[str], None]
"""Called with the name of each stage that is through; what it raises ends the pass, which the next one completes."""


def _nothing(_stage: str) -> None:
    """What is done after a stage by default."""


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
    paths: list[Path],
    *,
    tenant: str,
    settings: Inference,
    readers: Sequence[str] | None = None,
    retry: bool = False,
) -> Indexed:
    """Put the files below `paths` and bring the index up to date with everything that is on the head.

    `readers` may read them, as in `put`; `retry` takes those up again that failed.
    """
    started = time.perf_counter()
    before: list[ParsedDocuments] = []  # what was on the head already, where `put` had to know

    def settle() -> None:
        runner.run(land).require(DOCUMENT_EVENTS)
        before.append(runner.run(parse, limits=ParseLimits.of(settings)))

    most = settings.document_bytes
    was_put = runner.run(put, tenant=tenant, paths=paths, most_bytes=most, readers=readers, settle=settle, retry=retry)
    done = catch_up(runner, settings)
    chunked, embedded = done.filled.chunked, done.filled.embedded
    later = ParsedDocuments(0, 0, tuple(Failure(one.uri, one.reason) for one in (*chunked.failed, *embedded.failed)))
    parsed = sum(before, start=done.parsed + later)
    return Indexed(was_put, parsed, chunked, embedded, done.filled.index, time.perf_counter() - started)


def catch_up(
    runner: Runner,
    settings: Inference,
    *,
    gives_way: Callable[[Collection[str]], bool] | None = None,
    parse_s: float | None = None,
    after: After = _nothing,
) -> CaughtUp:
    """Bring the index up to date with everything that is on the head.

    With `gives_way` (as in `embed`) and `parse_s` (as in `parse`) a pass may leave something for another.
    """
    landed, parsed = take_in(runner, settings, parse_s=parse_s, after=after)
    return CaughtUp(landed, parsed, bring_up(runner, settings, gives_way=gives_way, after=after))


def take_in(
    runner: Runner, settings: Inference, *, parse_s: float | None = None, after: After = _nothing
) -> tuple[Landed, ParsedDocuments]:
    """Land what is on the head and parse what was announced. Raises `OffsetsRefused` where a partition of it does not land."""
    landed = runner.run(land)
    landed.require(DOCUMENT_EVENTS)
    after("land")
    parsed = runner.run(parse, limits=ParseLimits.of(settings), seconds=parse_s)
    after("parse")
    return landed, parsed


def bring_up(
    runner: Runner,
    settings: Inference,
    *,
    gives_way: Callable[[Collection[str]], bool] | None = None,
    after: After = _nothing,
) -> Filled:
    """Bring the index that answers up to date with the documents table; in another that is served by then it is done again."""
    into = runner.run(serving, window=settings.chunk_tokens, embedder=runner.endpoints.embedder)

    def failing(unfit: Sequence[Unfit]) -> None:
        runner.run(give_up, unfit=unfit)

    filled = fill(runner, into, failing, gives_way=gives_way, after=after)
    while (then := runner.run(settled, into=into, changed=filled.embedded.changed)) is not None:
        into = then
        filled = replace(filled, index=fill(runner, into, failing).index)
    runner.run(sweep)
    return filled


def fill(
    runner: Runner,
    into: IndexGeneration,
    failing: GiveUp = refuse,
    *,
    gives_way: Callable[[Collection[str]], bool] | None = None,
    after: After = _nothing,
) -> Filled:
    """Bring one generation of the index up to date with the documents table.

    What becomes of documents that it cannot take in is `failing`'s. Raises `BadSettings` where the embedder that made it cannot
    be asked.
    """
    chunked = runner.run(chunk, window=into.window, generation=into.number, give_up=failing)
    after("chunk")
    made_by = endpoint_for(runner.endpoints.embedder, into.embedder)
    embedded = runner.run(embed, embedder=made_by, into=into, gives_way=gives_way, give_up=failing)
    after("embed")
    built = runner.run(index, into=into)
    after("index")
    return Filled(chunked, embedded, built)
