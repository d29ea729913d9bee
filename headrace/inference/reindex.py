"""reindex: another generation of the index, built beside the one that answers, and the way back.

Questions are answered by the old one until the new one holds every document that the old one answers from; then one small object
is replaced, and every searcher follows within a second.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from headrace.catalog import DOCUMENT_EVENTS
from headrace.errors import BadSettings, LostRace, NotFound
from headrace.head.land import land
from headrace.inference.generation import begin, standing, sweep, switch
from headrace.inference.index import Index
from headrace.inference.parse import parse
from headrace.inference.parsing.limits import Limits
from headrace.inference.pipeline import fill
from headrace.pipeline.runner import Runner
from headrace.settings import Inference
from headrace.storage.indexes import Generation


@dataclass(frozen=True)
class Reindexed:
    """What answers now, what it was made with, and the generation that can be gone back to."""

    index: Index
    generation: Generation
    fallback: Generation | None
    seconds: float


def reindex(runner: Runner, settings: Inference) -> Reindexed:
    """Build a generation with these settings and this runner's embedder, and serve it; one that was begun is gone on with."""
    started = time.perf_counter()
    runner.run(land).require(DOCUMENT_EVENTS)
    runner.run(parse, limits=Limits.of(settings))
    to = runner.run(begin, window=settings.chunk_tokens, embedder=runner.endpoints.embedder)
    return _switched(runner, to, started)


def back(runner: Runner) -> Reindexed:
    """Serve the generation before again, once it holds what has changed meanwhile. Raises `NotFound` where there is none."""
    started = time.perf_counter()
    to, ours = runner.run(standing)[0].fallback, runner.endpoints.embedder.model
    if to is None:
        raise NotFound("There is no earlier index to go back to.", hint="headrace reindex keeps the one it replaces.")
    if to.embedder != ours:
        raise BadSettings(
            f"The earlier index was made with the embedder {to.embedder}; the settings name {ours}.",
            hint="Name the earlier one under [models.embedder] and run the command again.",
        )
    return _switched(runner, to, started)


def _switched(runner: Runner, to: Generation, started: float) -> Reindexed:
    # Before the first look there may be hours of embedding, and after it a moment: most passes of others end before it.
    list(fill(runner, to))
    while True:
        seen = runner.run(standing)
        if to not in (seen[0].building, seen[0].fallback):
            raise LostRace(f"Somebody else gave up or served index g{to.number}.", hint="Run the command again.")
        *_, built = fill(runner, to)
        if runner.run(switch, to=to, seen=seen):
            break
    runner.run(sweep)
    return Reindexed(built, to, seen[0].serving, time.perf_counter() - started)
