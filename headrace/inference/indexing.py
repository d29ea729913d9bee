"""From source files to an index: the stages in their order, over everything that is on the head."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.catalog import DOCUMENT_EVENTS
from headrace.head.land import land
from headrace.inference.chunk import Chunked, chunk
from headrace.inference.embed import Embedded, embed
from headrace.inference.embedders import maker
from headrace.inference.failed import GiveUp, Unfit, give_up, refuse
from headrace.inference.generation import serving, settled, sweep
from headrace.inference.index import Index, index
from headrace.inference.parse import Failure, ParsedDocuments, parse
from headrace.inference.parsing.limits import Limits
from headrace.inference.put import Put, put
from headrace.pipeline.runner import Runner
from headrace.settings import Inference
from headrace.storage.indexes import Generation


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
        before.append(runner.run(parse, limits=Limits.of(settings)))

    most = settings.document_bytes
    was_put = runner.run(put, tenant=tenant, paths=paths, most_bytes=most, readers=readers, settle=settle, retry=retry)
    _, parsed, chunked, embedded, built = catch_up(runner, settings)
    later = ParsedDocuments(0, 0, tuple(Failure(one.uri, one.reason) for one in (*chunked.failed, *embedded.failed)))
    parsed += later
    return Indexed(was_put, sum(before, start=parsed), chunked, embedded, built, time.perf_counter() - started)


def catch_up(
    runner: Runner,
    settings: Inference,
    *,
    gives_way: Callable[[Collection[str]], bool] | None = None,
    parse_s: float | None = None,
) -> Iterator[Any]:
    """Bring the index up to date with everything that is on the head; yields what each stage did, so a caller may end between.

    With `gives_way` (as in `embed`) and `parse_s` (as in `parse`) a pass may leave something for another.
    """
    landed = runner.run(land)
    landed.require(DOCUMENT_EVENTS)
    yield landed
    yield runner.run(parse, limits=Limits.of(settings), seconds=parse_s)
    embedder = runner.endpoints.embedder
    into = runner.run(serving, window=settings.chunk_tokens, embedder=embedder)

    def failing(unfit: Sequence[Unfit]) -> None:
        runner.run(give_up, unfit=unfit)

    filling = fill(runner, into, failing, gives_way)
    yield next(filling)
    embedded = next(filling)
    yield embedded
    built = next(filling)
    while (then := runner.run(settled, into=into, changed=embedded.changed)) is not None:  # another is served by now
        into = then
        *_, built = fill(runner, into, failing)
    runner.run(sweep)
    yield built


def fill(
    runner: Runner,
    into: Generation,
    failing: GiveUp = refuse,
    gives_way: Callable[[Collection[str]], bool] | None = None,
) -> Iterator[Any]:
    """Bring one generation of the index up to date with the documents table; yields what each stage did.

    What becomes of documents that it cannot take in is `failing`'s. Raises `BadSettings` where the embedder that made it cannot
    be asked.
    """
    yield runner.run(chunk, window=into.window, generation=into.number, give_up=failing)
    made_by = maker(runner.endpoints.embedder, into.embedder)
    yield runner.run(embed, embedder=made_by, into=into, gives_way=gives_way, give_up=failing)
    yield runner.run(index, into=into)
