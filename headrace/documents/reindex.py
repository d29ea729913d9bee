"""reindex: another generation of the index, built beside the one that answers, and the way back.

Questions are answered by the old one until the new one holds every document that the old one answers from; then one small object
is replaced, and every searcher follows within a second.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from headrace.catalog import DOCUMENT_EVENTS
from headrace.core.runner import Runner
from headrace.documents.embedders import endpoint_for, resolve
from headrace.documents.formats.limits import ParseLimits
from headrace.documents.generations import begin, standing, sweep, switch
from headrace.documents.index import Index
from headrace.documents.indexing import fill
from headrace.documents.parse import parse
from headrace.errors import LostRace, NotFound
from headrace.ingest.land import land
from headrace.settings import Inference
from headrace.storage.vectors.generations import IndexGeneration


@dataclass(frozen=True)
class Reindexed:
    """What answers now, what it was made with, and the generation that can be gone back to."""

    index: Index
    generation: IndexGeneration
    fallback: IndexGeneration | None
    seconds: float


def reindex(runner: Runner, settings: Inference, *, embedder: str = "") -> Reindexed:
    """Build a generation with these settings, and serve it; one that was begun is gone on with.

    It is made with `embedder`; unless that is named, with the embedder of the served one where this runner can ask for that,
    and else with the runner's own. Raises `NotFound` where nothing is indexed yet.
    """
    started = time.perf_counter()
    runner.run(land).require(DOCUMENT_EVENTS)
    runner.run(parse, limits=ParseLimits.of(settings))
    ours, served = runner.endpoints.embedder, runner.run(standing)[0].serving
    if not embedder:
        embedder = served.embedder if served and resolve(ours, served.embedder) else ours.model
    to = runner.run(begin, window=settings.chunk_tokens, embedder=endpoint_for(ours, embedder))
    return _switched(runner, to, started)


def made_with(runner: Runner, settings: Inference, embedder: str) -> IndexGeneration:
    """Serve an index that `embedder` made, its chunks cut as those that answer now; the generation that answers then.

    That is the one that answers, or the one before it, or else a new one. Raises `NotFound` where nothing is indexed yet.
    """
    now = runner.run(standing)[0]
    if now.serving is not None and now.serving.embedder == embedder:
        return now.serving
    try:
        if now.serving is not None and now.fallback is not None and _like(now.fallback, now.serving, embedder):
            return _switched(runner, now.fallback, time.perf_counter()).generation
        window = now.serving.window if now.serving else settings.chunk_tokens
        return reindex(runner, settings.model_copy(update={"chunk_tokens": window}), embedder=embedder).generation
    except LostRace:
        served = runner.run(standing)[0].serving
        if served is None or served.embedder != embedder:
            raise
        return served  # another process was at the same, and quicker


def back(runner: Runner) -> Reindexed:
    """Serve the generation before again, once it holds what has changed meanwhile.

    Raises `NotFound` where there is none, and `BadSettings` where its embedder cannot be asked.
    """
    started = time.perf_counter()
    to = runner.run(standing)[0].fallback
    if to is None:
        raise NotFound("There is no earlier index to go back to.", hint="headrace reindex keeps the one it replaces.")
    endpoint_for(runner.endpoints.embedder, to.embedder)
    return _switched(runner, to, started)


def _switched(runner: Runner, to: IndexGeneration, started: float) -> Reindexed:
    # Before the first look there may be hours of embedding, and after it a moment: most passes of others end before it.
    fill(runner, to)
    while True:
        seen = runner.run(standing)
        if to not in (seen[0].building, seen[0].fallback):
            raise LostRace(f"Somebody else gave up or served index g{to.number}.", hint="Run the command again.")
        built = fill(runner, to).index
        if runner.run(switch, to=to, seen=seen):
            break
    runner.run(sweep)
    return Reindexed(built, to, seen[0].serving, time.perf_counter() - started)


def _like(one: IndexGeneration, other: IndexGeneration, embedder: str) -> bool:
    return one.embedder == embedder and one.window == other.window
