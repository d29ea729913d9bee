"""Generations of the index: each is begun, built beside the one that answers, served, kept as the fallback, and removed."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Annotated, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from headrace.catalog import CHUNKS, INDEXES
from headrace.core.stage import stage
from headrace.errors import BadSettings, LostRace, NotFound
from headrace.models.client import Embedder
from headrace.models.pointer import NONE
from headrace.storage.endpoints import ModelEndpoint
from headrace.storage.timeline import AHEAD
from headrace.storage.vectors.generations import Indexes, IndexGeneration, IndexReader, IndexWriter, touched
from headrace.storage.vectors.handles import VectorReader, VectorWriter

PACKAGED = "embedder"

Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)


def name_of(version: str) -> str:
    """The name of the embedded embedder in a released version, or as packaged (`NONE`)."""
    return PACKAGED if version == NONE else f"{PACKAGED}@{version}"


def version_of(name: str) -> str | None:
    """The version in a name of the embedded embedder; `None` for another model's name."""
    model, _, version = name.partition("@")
    return (version or NONE) if model == PACKAGED else None


def resolve(endpoint: ModelEndpoint, made: str) -> ModelEndpoint | None:
    """The endpoint, set to the embedder `made`; `None` where it does not have that one."""
    if made == endpoint.model:
        return endpoint
    packaged = version_of(made) is not None and version_of(endpoint.model) is not None
    return endpoint.model_copy(update={"model": made}) if packaged else None


def endpoint_for(endpoint: ModelEndpoint, made: str) -> ModelEndpoint:
    """The endpoint, set to the embedder `made`, with which an index was made. Raises `BadSettings` where it does not have it."""
    name = resolve(endpoint, made)
    if name is None:
        raise BadSettings(
            f"The index was made with the embedder {made}; the settings name {endpoint.model}.",
            hint="Build one with the new embedder beside it: headrace reindex. Or name the old one under [models.embedder].",
        )
    return name


class Embedders:
    """Clients of one endpoint, one per embedder; safe to share between threads."""

    def __init__(self, endpoint: ModelEndpoint) -> None:
        self.endpoint = endpoint
        self._clients: dict[str, Embedder] = {}
        self._making = threading.Lock()

    def client_for(self, made: str) -> Embedder | None:
        """The embedder of that name; `None` where the endpoint does not have it."""
        name = resolve(self.endpoint, made)
        if name is None:
            return None
        with self._making:
            if name.model not in self._clients:
                self._clients[name.model] = Embedder(name)
            return self._clients[name.model]


# Searches may use a generation for a second after the switch; a slow one that began before has a minute.
_GRACE_S = 60.0


@stage("Says which index generation is served, and begins the first.", phase=AHEAD)
def serving(
    indexes: Annotated[IndexWriter, INDEXES], vectors: Annotated[VectorReader, CHUNKS], window: int, embedder: ModelEndpoint
) -> IndexGeneration:
    """The generation that documents go into. It keeps the chunk size and the embedder version it was begun with.

    Raises `BadSettings` where the endpoint does not have that embedder.
    """
    state, _ = indexes.state()
    if state.serving is None:
        width = vectors.width() or _width(embedder)
        first = IndexGeneration(1, window, embedder.model, width)
        state = indexes.change(lambda now: now if now.serving else Indexes(serving=first, newest=1))
    generation = state.serving
    assert generation is not None
    endpoint_for(embedder, generation.embedder)
    return generation


@stage("Begins the next index generation, or continues the one that was begun.", phase=AHEAD)
def begin(
    indexes: Annotated[IndexWriter, INDEXES], vectors: Annotated[VectorReader, CHUNKS], window: int, embedder: ModelEndpoint
) -> IndexGeneration:
    """The generation to build. One begun with the same parameters is continued, one with others is given up.

    Raises `NotFound` where nothing is indexed yet.
    """
    width = _width(embedder)
    unnamed = vectors.width()  # an index built before generations were recorded

    def step(now: Indexes) -> Indexes:
        if now.serving is None:
            if unnamed is None:
                raise NotFound("Nothing is indexed yet.", hint="Index some documents first: headrace index PATH.")
            made = PACKAGED if version_of(embedder.model) is not None else embedder.model
            now = replace(now, serving=IndexGeneration(1, window, made, unnamed), newest=1)
        wanted = IndexGeneration(now.newest + 1, window, embedder.model, width)
        if now.building is not None and replace(now.building, number=wanted.number) == wanted:
            return now
        return replace(now, building=wanted, newest=wanted.number, marked_for_deletion=now.with_marked(now.building))

    building = indexes.change(step).building
    assert building is not None
    return building


@stage("Tells processes that build another index that documents have changed.", phase=AHEAD)
def finish_pass(indexes: Annotated[IndexWriter, INDEXES], into: IndexGeneration, changed: bool) -> IndexGeneration | None:
    """End a pass over the documents: `None`, or the generation that is served instead by now and needs a pass too.

    After a pass that changed something, this comes either before a switch, which then fails and reads the documents again, or
    after it.
    """

    def step(now: Indexes) -> Indexes:
        # `back` fills the fallback without announcing it, so every pass counts while there is one.
        return touched(now) if changed and (now.building or now.fallback) else now

    then = indexes.change(step)
    served = then.serving
    return served if served is not None and served.number != into.number else None


@stage("Reads the index generations, before a last look at the documents.", phase=AHEAD)
def index_state(indexes: Annotated[IndexReader, INDEXES]) -> tuple[Indexes, str]:
    """The generations, and their etag for `switch`."""
    return indexes.state()


@stage("Serves another index generation from now on.", phase=AHEAD)
def switch(indexes: Annotated[IndexWriter, INDEXES], to: IndexGeneration, seen: tuple[Indexes, str]) -> bool:
    """Serve `to`, which holds every document as of `seen`; false, and nothing is done, if something has changed since.

    The generation served so far becomes the fallback. The fallback so far is removed, unless it is `to`.
    """
    now, etag = seen
    forgotten = now.fallback if now.fallback is not None and now.fallback.number != to.number else None
    building = now.building if now.building is not None and now.building.number != to.number else None
    then = replace(now, serving=to, fallback=now.serving, building=building, marked_for_deletion=now.with_marked(forgotten))
    try:
        indexes.move(then, etag)
    except LostRace:
        return False
    return True


@stage("Removes index generations that are not in use any more.", phase=AHEAD)
def sweep(indexes: Annotated[IndexWriter, INDEXES], vectors: Annotated[VectorWriter, CHUNKS]) -> int:
    """Remove the vector tables of generations marked for deletion whose grace period is over; return how many."""
    now, _ = indexes.state()
    gone = {number for number, since in now.marked_for_deletion if time.time() - since > _GRACE_S}
    for number in sorted(gone):
        vectors.for_generation(number).drop()
    if gone:
        # Recorded last, so that a sweep that died is repeated.
        indexes.change(
            lambda now: replace(now, marked_for_deletion=tuple(c for c in now.marked_for_deletion if c[0] not in gone))
        )
    return len(gone)


def of_generation(rows: Rows, generation: int) -> Rows:
    """Those rows of the chunks table that belong to one generation of the index."""
    return rows.filter(pc.equal(pc.fill_null(rows["generation"], 1), generation))


def active_reader(indexes: Indexes, vectors: VectorReader) -> VectorReader:
    """A handle for the generation that answers."""
    return vectors.for_generation(indexes.serving.number) if indexes.serving else vectors


def _width(embedder: ModelEndpoint) -> int:
    with Embedder(embedder) as client:
        return int(client.embed(["How wide?"], kind="passage").shape[1])
