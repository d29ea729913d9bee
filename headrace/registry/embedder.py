"""The served embedder: an index made with it, then its pointer.

Vectors of two embedders cannot be compared, so a released embedder is served by an index generation that was made with it, built
beside the one that answers. Which embedder answers is what that index says; `embedder/champion.json` follows it. A process may
die at any moment: `reconcile_embedder` finishes what a round, a promotion or a rollback began.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from headrace.catalog import MODELS, ROUNDS
from headrace.core.stage import stage
from headrace.documents import index as indexing
from headrace.documents.generations import name_of, standing, version_of
from headrace.documents.index import Reindexed
from headrace.errors import BadSettings, LostRace
from headrace.models.client import Embedder, wait_ready
from headrace.models.pointer import NONE, ChampionPointer
from headrace.platform import open_platform
from headrace.registry.champion import rollback, set_champion
from headrace.session import Session
from headrace.settings import Endpoint, Inference
from headrace.storage.objects import ObjectReader
from headrace.storage.vectors.generations import IndexGeneration
from headrace.training.champion import card, champion
from headrace.training.manifest import Manifest
from headrace.training.promote import newest
from headrace.training.recipe import EMBEDDER

_READY_S = 120.0


def require_ours(session: Session) -> None:
    """Raise `BadSettings` where the settings name an embedder of the user's own: it can neither be trained nor be moved."""
    theirs = session.settings.models.embedder
    if isinstance(theirs, Endpoint):
        raise BadSettings(
            f"The settings name an embedder of their own ({theirs.model} at {theirs.url}), which Headrace does not train.",
            hint="Take [models.embedder] out of the settings and run `headrace reindex`, or train another model.",
        )


def reconcile_embedder(session: Session) -> ChampionPointer:
    """Serve what the newest round promoted, unless somebody has moved the pointer since; then bring the pointer in line.

    Changes nothing where nothing was left unfinished, where nothing is indexed yet, and where the settings name an embedder of
    the user's own.
    """
    stands = _stands(session)
    if stands.serving is None or isinstance(session.settings.models.embedder, Endpoint):
        return stands.pointer
    if stands.promised and stands.promised != stands.answering:
        _index(session, stands.promised)
        stands = _stands(session)
    return _follow(session, stands)


def serve_embedder(session: Session, version: str, *, who: str, why: str) -> ChampionPointer:
    """Serve a released version, or the packaged embedder ("none"). Raises `NotFound`, also where nothing is indexed yet."""
    require_ours(session)
    session.runner.run(released, version=version)
    _index(session, version)
    return _moved(session, version, who=who, why=why)


def return_embedder(session: Session, *, who: str, why: str) -> ChampionPointer:
    """Serve the version before again. Raises `NotFound` where there is none.

    The index before stands ready, unless it was made with yet another version.
    """
    require_ours(session)
    stands = _stands(session)
    pointer = stands.pointer
    if stands.answering not in pointer.history[-1:]:  # where it is, another rollback got as far as the index
        pointer = _follow(session, stands)
    if pointer.history:
        _index(session, pointer.history[-1])
    return session.runner.run(rollback, model=EMBEDDER, who=who, why=why)


def rebuild(session: Session, settings: Inference) -> Reindexed:
    """Build another index with these settings and serve it, with the embedder that answers or that the newest round promoted."""
    if isinstance(session.settings.models.embedder, Endpoint):
        return indexing.reindex(session.runner, settings)
    stands = _stands(session)
    version = stands.promised or stands.answering or stands.pointer.version
    done = indexing.reindex(session.runner, settings, embedder=name_of(version))
    _follow(session, _stands(session))
    return done


def index_before(session: Session) -> Reindexed:
    """Serve the index before this one again, and with it the embedder that made it. Raises `NotFound` where there is none."""
    done = indexing.back(session.runner)
    _follow(session, _stands(session))
    return done


def load_embedder(session: Session, model: str, version: str) -> None:
    """Have the model server load a released embedder, before anything hangs on it; other models are passed over."""
    if model != EMBEDDER or isinstance(session.settings.models.embedder, Endpoint):
        return
    endpoint = session.runner.endpoints.embedder
    with _model_server(session), Embedder(endpoint.model_copy(update={"model": name_of(version)})) as client:
        client.embed(["Is it there?"], kind="query")


@stage("Reads the embedder's pointer, and the newest round that promoted an embedder and was not followed by it yet.")
def promised(
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
class _Stands:
    """The pointer, the index generation that answers, and the round that promoted an embedder and was not followed yet."""

    pointer: ChampionPointer
    serving: IndexGeneration | None
    round: dict[str, Any] | None

    @property
    def answering(self) -> str | None:
        """The version that made the index; `None` where that is none of ours."""
        return version_of(self.serving.embedder) if self.serving else None

    @property
    def promised(self) -> str | None:
        """The version that round promoted."""
        return str(self.round["weights"]["version"]) if self.round else None


def _stands(session: Session) -> _Stands:
    pointer, promoting = session.runner.run(promised)
    return _Stands(pointer, session.runner.run(standing)[0].serving, promoting)


def _index(session: Session, version: str) -> None:
    """Have an index made with a version answer. The model server need not run before."""
    with _model_server(session):
        indexing.made_with(session.runner, session.settings.inference, name_of(version))


def _follow(session: Session, stands: _Stands) -> ChampionPointer:
    """Bring the pointer in line with the index that answers."""
    pointer, version = stands.pointer, stands.answering
    if stands.round is not None and version == stands.promised:
        return _moved(session, str(version), who=f"round {stands.round['round']}", why=stands.round["decision"]["why"])
    if stands.serving is None or version is None or version == pointer.version:
        return pointer
    told = {"who": f"index g{stands.serving.number}", "why": "it answers, and this embedder made it"}
    if version in pointer.history[-1:]:
        return session.runner.run(rollback, model=EMBEDDER, **told)
    return _moved(session, version, **told)


def _moved(session: Session, version: str, *, who: str, why: str) -> ChampionPointer:
    try:
        return session.runner.run(set_champion, model=EMBEDDER, version=version, who=who, why=why)
    except LostRace:
        pointer, _ = session.runner.run(promised)
        if pointer.version != version:
            raise
        return pointer  # another process was at the same, and quicker


@contextmanager
def _model_server(session: Session) -> Iterator[None]:
    with open_platform(session.settings, parts=frozenset({"models"})):
        wait_ready(session.runner.endpoints.embedder, _READY_S)
        yield
