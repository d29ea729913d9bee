"""Serving an embedder: build an index with it, then move its pointer.

Vectors of two embedders cannot be compared, so a released embedder is served through an index generation made with it, built
beside the served one. The served index determines the embedder; `embedder/champion.json` follows it. A process may die at any
moment: `ServedEmbedder.reconcile` finishes what a round, a promotion or a rollback began.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from headrace.catalog import MODELS, ROUNDS
from headrace.core.runner import Runner
from headrace.core.stage import stage
from headrace.documents import index as indexing
from headrace.documents.generations import index_state, name_of, version_of
from headrace.documents.index import Reindexed
from headrace.errors import BadSettings, LostRace
from headrace.models import EMBEDDER
from headrace.models.client import Embedder
from headrace.models.connection import wait_ready
from headrace.models.pointer import NONE, ChampionPointer
from headrace.platform import open_platform
from headrace.registry.champion import rollback, set_champion
from headrace.settings import Endpoint, Inference, Settings
from headrace.storage.objects import ObjectReader
from headrace.storage.vectors.generations import IndexGeneration
from headrace.training.manifest import Manifest
from headrace.training.promote import newest
from headrace.training.promotions import card, champion

_READY_S = 120.0


@stage("Reads the embedder's pointer, and the newest round whose promotion it has not followed yet.")
def pending_promotion(
    models: Annotated[ObjectReader, MODELS], rounds: Annotated[ObjectReader, ROUNDS]
) -> tuple[ChampionPointer, Manifest | None]:
    """The pointer, and that round's manifest. A pointer moved after a round's commit overrides that round."""
    pointer, _ = champion(models, EMBEDDER)
    return pointer, newest(rounds, models, EMBEDDER, since=pointer.at)


@stage("Checks that a version of the embedder was released.")
def released(models: Annotated[ObjectReader, MODELS], version: str) -> None:
    """Raise `NotFound` if it was not."""
    if version != NONE:
        card(models, EMBEDDER, version)


@dataclass(frozen=True)
class _EmbedderState:
    """The pointer, the served index generation, and the round whose promotion the pointer has not followed yet."""

    pointer: ChampionPointer
    serving: IndexGeneration | None
    round: Manifest | None

    @property
    def answering(self) -> str | None:
        """The embedder version behind the served index; `None` if it is not a Headrace version."""
        return version_of(self.serving.embedder) if self.serving else None

    @property
    def pending(self) -> str | None:
        """The version that round promoted."""
        return str(self.round.weights.version) if self.round else None


@dataclass(frozen=True)
class ServedEmbedder:
    """The embedder that questions are asked with, and its index."""

    settings: Settings
    runner: Runner

    def require_ours(self) -> None:
        """Raise `BadSettings` if the settings name the user's own embedder, which can be neither trained nor moved."""
        theirs = self.settings.models.embedder
        if isinstance(theirs, Endpoint):
            raise BadSettings(
                f"The settings name your own embedder ({theirs.model} at {theirs.url}), which Headrace does not train.",
                hint="Remove [models.embedder] from the settings and run `headrace reindex`, or train another model.",
            )

    def reconcile(self) -> ChampionPointer:
        """Serve what the newest round promoted, unless the pointer has been moved since; then update the pointer.

        Changes nothing if nothing is unfinished, nothing is indexed yet, or the settings name the user's own embedder.
        """
        state = self._state()
        if state.serving is None or isinstance(self.settings.models.embedder, Endpoint):
            return state.pointer
        if state.pending and state.pending != state.answering:
            self._index(state.pending)
            state = self._state()
        return self._align_pointer(state)

    def serve(self, version: str, *, who: str, why: str) -> ChampionPointer:
        """Serve a released version, or the packaged embedder ("none"). Raises `NotFound`, also if nothing is indexed yet."""
        self.require_ours()
        self.runner.run(released, version=version)
        self._index(version)
        return self._moved(version, who=who, why=why)

    def rollback(self, *, who: str, why: str) -> ChampionPointer:
        """Serve the previous version again. Raises `NotFound` if there is none.

        The previous index is still there, unless it was made with a different version.
        """
        self.require_ours()
        state = self._state()
        pointer = state.pointer
        if state.answering not in pointer.history[-1:]:  # if it is, another rollback has already switched the index
            pointer = self._align_pointer(state)
        if pointer.history:
            self._index(pointer.history[-1])
        return self.runner.run(rollback, model=EMBEDDER, who=who, why=why)

    def rebuild(self, settings: Inference) -> Reindexed:
        """Build another index with these settings and serve it, with the embedder promoted last or the served one."""
        if isinstance(self.settings.models.embedder, Endpoint):
            return indexing.reindex(self.runner, settings)
        state = self._state()
        version = state.pending or state.answering or state.pointer.version
        done = indexing.reindex(self.runner, settings, embedder=name_of(version))
        self._align_pointer(self._state())
        return done

    def index_before(self) -> Reindexed:
        """Serve the previous index again, with the embedder that made it. Raises `NotFound` if there is none."""
        done = indexing.back(self.runner)
        self._align_pointer(self._state())
        return done

    def load(self, version: str) -> None:
        """Load a released version into the model server before anything depends on it; not for the user's own endpoint."""
        if isinstance(self.settings.models.embedder, Endpoint):
            return
        endpoint = self.runner.endpoints.embedder
        with self._model_server(), Embedder(endpoint.model_copy(update={"model": name_of(version)})) as client:
            client.embed(["Is it there?"], kind="query")

    def _state(self) -> _EmbedderState:
        pointer, promoting = self.runner.run(pending_promotion)
        return _EmbedderState(pointer, self.runner.run(index_state)[0].serving, promoting)

    def _index(self, version: str) -> None:
        """Serve an index made with this version; starts the model server if needed."""
        with self._model_server():
            indexing.made_with(self.runner, self.settings.inference, name_of(version))

    def _align_pointer(self, state: _EmbedderState) -> ChampionPointer:
        """Update the pointer to match the served index."""
        pointer, version = state.pointer, state.answering
        if state.round is not None and version == state.pending:
            return self._moved(str(version), who=f"round {state.round.round}", why=state.round.decision.why)
        if state.serving is None or version is None or version == pointer.version:
            return pointer
        move = {"who": f"index g{state.serving.number}", "why": "the served index was made with this embedder"}
        if version in pointer.history[-1:]:
            return self.runner.run(rollback, model=EMBEDDER, **move)
        return self._moved(version, **move)

    def _moved(self, version: str, *, who: str, why: str) -> ChampionPointer:
        try:
            return self.runner.run(set_champion, model=EMBEDDER, version=version, who=who, why=why)
        except LostRace:
            pointer, _ = self.runner.run(pending_promotion)
            if pointer.version != version:
                raise
            return pointer  # another process made the same move first

    @contextmanager
    def _model_server(self) -> Iterator[None]:
        with open_platform(self.settings, parts=frozenset({"models"})):
            wait_ready(self.runner.endpoints.embedder, _READY_S)
            yield
