"""The served embedder: an index made with it, then its pointer.

Vectors of two embedders cannot be compared, so a released embedder is served by an index generation that was made with it, built
beside the one that answers. Which embedder answers is what that index says; `embedder/champion.json` follows it. A process may
die at any moment: `ServedEmbedder.reconcile` finishes what a round, a promotion or a rollback began.
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
from headrace.models.client import Embedder, wait_ready
from headrace.models.pointer import NONE, ChampionPointer
from headrace.platform import open_platform
from headrace.registry.champion import rollback, set_champion
from headrace.settings import Endpoint, Inference, Settings
from headrace.storage.objects import ObjectReader
from headrace.storage.vectors.generations import IndexGeneration
from headrace.training.champion import card, champion
from headrace.training.manifest import Manifest
from headrace.training.names import EMBEDDER
from headrace.training.promote import newest

_READY_S = 120.0


@stage("Reads the embedder's pointer, and the newest round that promoted an embedder and was not followed by it yet.")
def pending_promotion(
    models: Annotated[ObjectReader, MODELS], rounds: Annotated[ObjectReader, ROUNDS]
) -> tuple[ChampionPointer, Manifest | None]:
    """The pointer, and that round's manifest. A pointer that was moved after a round was committed has had its say."""
    pointer, _ = champion(models, EMBEDDER)
    return pointer, newest(rounds, EMBEDDER, since=pointer.at)


@stage("Looks whether a version of the embedder was released.")
def released(models: Annotated[ObjectReader, MODELS], version: str) -> None:
    """Raise `NotFound` where it was not."""
    if version != NONE:
        card(models, EMBEDDER, version)


@dataclass(frozen=True)
class _EmbedderState:
    """The pointer, the index generation that answers, and the round that promoted an embedder and was not followed yet."""

    pointer: ChampionPointer
    serving: IndexGeneration | None
    round: Manifest | None

    @property
    def answering(self) -> str | None:
        """The version that made the index; `None` where that is none of ours."""
        return version_of(self.serving.embedder) if self.serving else None

    @property
    def promised(self) -> str | None:
        """The version that round promoted."""
        return str(self.round.weights.version) if self.round else None


@dataclass(frozen=True)
class ServedEmbedder:
    """The embedder that questions are asked with, and its index."""

    settings: Settings
    runner: Runner

    def require_ours(self) -> None:
        """Raise `BadSettings` where the settings name an embedder of the user's own: it can neither be trained nor be moved."""
        theirs = self.settings.models.embedder
        if isinstance(theirs, Endpoint):
            raise BadSettings(
                f"The settings name an embedder of their own ({theirs.model} at {theirs.url}), which Headrace does not train.",
                hint="Take [models.embedder] out of the settings and run `headrace reindex`, or train another model.",
            )

    def reconcile(self) -> ChampionPointer:
        """Serve what the newest round promoted, unless somebody has moved the pointer since; then bring the pointer in line.

        Changes nothing where nothing was left unfinished, where nothing is indexed yet, and where the settings name an embedder
        of the user's own.
        """
        state = self._state()
        if state.serving is None or isinstance(self.settings.models.embedder, Endpoint):
            return state.pointer
        if state.promised and state.promised != state.answering:
            self._index(state.promised)
            state = self._state()
        return self._align_pointer(state)

    def serve(self, version: str, *, who: str, why: str) -> ChampionPointer:
        """Serve a released version, or the packaged embedder ("none"). Raises `NotFound`, also where nothing is indexed yet."""
        self.require_ours()
        self.runner.run(released, version=version)
        self._index(version)
        return self._moved(version, who=who, why=why)

    def rollback(self, *, who: str, why: str) -> ChampionPointer:
        """Serve the version before again. Raises `NotFound` where there is none.

        The index before stands ready, unless it was made with yet another version.
        """
        self.require_ours()
        state = self._state()
        pointer = state.pointer
        if state.answering not in pointer.history[-1:]:  # where it is, another rollback got as far as the index
            pointer = self._align_pointer(state)
        if pointer.history:
            self._index(pointer.history[-1])
        return self.runner.run(rollback, model=EMBEDDER, who=who, why=why)

    def rebuild(self, settings: Inference) -> Reindexed:
        """Build another index with these settings and serve it, with the embedder that answers or the one promoted last."""
        if isinstance(self.settings.models.embedder, Endpoint):
            return indexing.reindex(self.runner, settings)
        state = self._state()
        version = state.promised or state.answering or state.pointer.version
        done = indexing.reindex(self.runner, settings, embedder=name_of(version))
        self._align_pointer(self._state())
        return done

    def index_before(self) -> Reindexed:
        """Serve the index before this one again, and with it the embedder that made it. Raises `NotFound` where there is none."""
        done = indexing.back(self.runner)
        self._align_pointer(self._state())
        return done

    def load(self, version: str) -> None:
        """Have the model server load a released version before anything depends on it; a user's own endpoint is not asked."""
        if isinstance(self.settings.models.embedder, Endpoint):
            return
        endpoint = self.runner.endpoints.embedder
        with self._model_server(), Embedder(endpoint.model_copy(update={"model": name_of(version)})) as client:
            client.embed(["Is it there?"], kind="query")

    def _state(self) -> _EmbedderState:
        pointer, promoting = self.runner.run(pending_promotion)
        return _EmbedderState(pointer, self.runner.run(index_state)[0].serving, promoting)

    def _index(self, version: str) -> None:
        """Have an index made with a version answer. The model server need not run before."""
        with self._model_server():
            indexing.made_with(self.runner, self.settings.inference, name_of(version))

    def _align_pointer(self, state: _EmbedderState) -> ChampionPointer:
        """Bring the pointer in line with the index that answers."""
        pointer, version = state.pointer, state.answering
        if state.round is not None and version == state.promised:
            return self._moved(str(version), who=f"round {state.round.round}", why=state.round.decision.why)
        if state.serving is None or version is None or version == pointer.version:
            return pointer
        told = {"who": f"index g{state.serving.number}", "why": "it answers, and this embedder made it"}
        if version in pointer.history[-1:]:
            return self.runner.run(rollback, model=EMBEDDER, **told)
        return self._moved(version, **told)

    def _moved(self, version: str, *, who: str, why: str) -> ChampionPointer:
        try:
            return self.runner.run(set_champion, model=EMBEDDER, version=version, who=who, why=why)
        except LostRace:
            pointer, _ = self.runner.run(pending_promotion)
            if pointer.version != version:
                raise
            return pointer  # another process was at the same, and quicker

    @contextmanager
    def _model_server(self) -> Iterator[None]:
        with open_platform(self.settings, parts=frozenset({"models"})):
            wait_ready(self.runner.endpoints.embedder, _READY_S)
            yield
