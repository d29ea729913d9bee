"""Having what answers load a released version, so that the time that takes is known before anything hangs on it."""

from __future__ import annotations

from headrace.models.client import Generator, Reranker
from headrace.session import Session
from headrace.settings import EmbeddedPart
from headrace.training.recipe import GENERATOR, RERANKER


def load(session: Session, model: str, version: str) -> None:
    """Ask the model server for the version by its name. Raises what that raises where it cannot be loaded.

    An endpoint that the user brought serves its own models and is not asked; the embedder has a way of its own (embedder.py).
    """
    chosen, endpoints = session.settings.models, session.runner.endpoints
    if model == RERANKER and isinstance(chosen.reranker, EmbeddedPart):
        with Reranker(endpoints.reranker) as reranker:
            reranker.rank("Is it there?", ["It is."], version=version)
    elif model == GENERATOR and isinstance(chosen.generator, EmbeddedPart):
        with Generator(endpoints.generator) as generator:
            message = {"role": "user", "content": "Is it there?"}
            for _ in generator.stream([message], max_tokens=1, cache=False, version=version):
                pass
