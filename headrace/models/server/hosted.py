"""The three models of the embedded server, each with its queue and loaded on first use, and the endpoints of their storage."""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from headrace.errors import HeadraceError, Unavailable
from headrace.models.cards import EmbedderCard, GeneratorCard, RerankerCard
from headrace.models.server.queue import ModelQueue
from headrace.models.server.release import LoadedReleases
from headrace.storage.endpoints import Endpoints

if TYPE_CHECKING:  # these import torch, which takes seconds: the queues import them while the server already answers
    from headrace.models.kv.service import KvService
    from headrace.models.server.encoders import MiniLM, PairScorer
    from headrace.models.server.generator import SmolLM

log = logging.getLogger("headrace.models")
_IDLE_S = 15.0


@dataclass
class EndpointsFile:
    """The endpoints file of the platform; read on first use, and again when it changes."""

    path: Path | None
    _stamp: tuple[int, int] | None = None
    _read: Endpoints | None = None

    def __call__(self) -> Endpoints:
        """The endpoints. Raises `Unavailable` while there are none."""
        hint = "Start the platform with `headrace up` and try again."
        if self.path is None:
            raise Unavailable("The model server has no endpoints file.", hint=hint)
        try:
            status = self.path.stat()
            if self._read is None or self._stamp != (status.st_mtime_ns, status.st_size):
                self._read = Endpoints.model_validate_json(self.path.read_bytes())
                self._stamp = (status.st_mtime_ns, status.st_size)
        except (OSError, ValidationError):
            raise Unavailable("The model server cannot read its endpoints file.", hint=hint) from None
        return self._read


@dataclass
class Call:
    """One request under way; `cancelled` becomes true when its client disconnects or the server stops."""

    queue: ModelQueue
    gone: bool = False

    def cancelled(self) -> bool:
        """Whether to stop work on it."""
        return self.gone or self.queue.stopping


@dataclass
class HostedModels:
    """The three models, each with its queue and loaded on first use."""

    endpoints: EndpointsFile
    cache: Path
    threads: int
    exact: bool = False
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    """What names and authentication codes of this home's KV blocks are made with."""
    ready: bool = False
    embedding: ModelQueue = field(default_factory=lambda: ModelQueue("embedder", slots=32))
    ranking: ModelQueue = field(default_factory=lambda: ModelQueue("re-ranker"))
    generating: ModelQueue = field(default_factory=lambda: ModelQueue("generator"))
    _loading: threading.Lock = field(default_factory=threading.Lock)
    _loading_kv: threading.Lock = field(default_factory=threading.Lock)
    _warmed: threading.Event = field(default_factory=threading.Event)
    _embedder: MiniLM | None = None
    _generator: SmolLM | None = None
    _kv: KvService | None = None

    def __post_init__(self) -> None:
        releases = partial(LoadedReleases, endpoints=self.endpoints, cache=self.cache)
        self.embedders: LoadedReleases[EmbedderCard, MiniLM] = releases("embedder", "embedder", EmbedderCard, self._open_embedder)
        self.rerankers: LoadedReleases[RerankerCard, PairScorer] = releases(
            "reranker", "re-ranker", RerankerCard, self._open_reranker
        )
        # Without storage the packaged generator still answers.
        self.generators: LoadedReleases[GeneratorCard, SmolLM] = releases(
            "generator", "generator", GeneratorCard, self._open_generator, must_look=False
        )

    def warm(self) -> None:
        """Start loading torch, then the embedder, then the generator, which may wait until the embedder is idle."""
        self.embedding.submit(self._import_torch)
        warm = self.embedding.submit(partial(self._warm, self.embedder))
        warm.add_done_callback(lambda _: self._warmed.set())
        warm.add_done_callback(lambda _: threading.Thread(target=self._warm_generator, name="warm", daemon=True).start())

    def stop(self) -> None:
        """Stop all queues after their current work. Safe to call in a signal handler."""
        for part in (self.embedding, self.ranking, self.generating, self.embedders, self.rerankers, self.generators):
            part.stop()
        if self._kv is not None:
            self._kv.stop()

    def close(self, seconds: float) -> None:
        """After `stop`: store the KV blocks that wait, for at most so many seconds."""
        if self._kv is not None:
            self._kv.close(seconds)

    def embedder(self) -> MiniLM:
        """The packaged embedder, loaded if necessary."""
        if self._embedder is None:
            with self._loading:
                started = time.perf_counter()
                from headrace.models.server.encoders import MiniLM

                self._embedder = self._embedder or MiniLM(exact=self.exact)
            log.info("loaded the embedder in %.1f s", time.perf_counter() - started)
        return self._embedder

    def generator(self) -> SmolLM:
        """The packaged generator, loaded if necessary."""
        if self._generator is None:
            with self._loading:
                started = time.perf_counter()
                from headrace.models.server import generator

                self._generator = self._generator or generator.load(self.cache, exact=self.exact, memory=self.kv.memory)
            log.info("loaded the generator in %.1f s", time.perf_counter() - started)
        return self._generator

    def _open_embedder(self, card: EmbedderCard, folder: Path) -> MiniLM:
        self._warmed.wait()
        from headrace.models.server.encoders import MiniLM

        with self._loading:
            return MiniLM(folder, window=card.max_tokens, exact=self.exact)

    def _open_reranker(self, card: RerankerCard, folder: Path) -> PairScorer:
        # Imported without the lock, which the generator may hold for long; the embedder has imported most of it already.
        self._warmed.wait()
        from headrace.models.server.encoders import PairScorer

        with self._loading:
            return PairScorer(card, folder, exact=self.exact)

    def _open_generator(self, card: GeneratorCard, folder: Path) -> SmolLM:
        return self.generator().adapted(folder, version=card.version, digest=card.digest)

    @property
    def kv(self) -> KvService:
        """The KV cache of this server."""
        if self._kv is None:
            from headrace.models.kv.service import KvService

            with self._loading_kv:
                if self._kv is None:
                    self._kv = KvService(self.endpoints, self.secret, partial(self.generating.submit, background=True))
        return self._kv

    def _import_torch(self) -> None:
        started = time.perf_counter()
        try:
            with self._loading:
                import torch

                torch.set_num_threads(self.threads)
        except ImportError as error:
            log.error("torch cannot be imported: %s; run `make install`", error)
            return
        self.ready = True
        self.kv.start()
        log.info("imported torch in %.1f s", time.perf_counter() - started)

    def _warm_generator(self) -> None:
        def idle() -> bool:
            return self.embedding.idle_s >= _IDLE_S or self._generator is not None

        # Unpacking happens once per home and would slow down embedding by a third; the generator is rarely needed meanwhile.
        with contextlib.suppress(HeadraceError):
            from headrace.models.server.generator import is_unpacked

            there = is_unpacked(self.cache)  # called once: it reads the whole file
            while not there and not idle():
                time.sleep(1.0)
        self.generating.submit(partial(self._warm, self.generator))

    def _warm(self, load: Callable[[], object]) -> None:
        try:
            load()
        except HeadraceError as error:
            log.error("%s", error)
