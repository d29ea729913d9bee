"""The three models of the embedded server, each behind its queue and loaded on first use, and where their storage is."""

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
from headrace.models.kv.blocks import BACKENDS, BlockBackend, BlockStore
from headrace.models.server.queue import ModelQueue
from headrace.models.server.release import EmbedderCard, GeneratorCard, LoadedReleases, RerankerCard
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter

if TYPE_CHECKING:  # these import torch, which takes seconds: the queues do it while the server already answers
    from headrace.models.server.encoders import MiniLM, PairScorer
    from headrace.models.server.generator import SmolLM

log = logging.getLogger("headrace.models")
_REST_S = 15.0


@dataclass
class EndpointsFile:
    """The endpoints the platform wrote; read when first needed, and again when the file changed."""

    path: Path | None
    _stamp: tuple[int, int] | None = None
    _read: Endpoints | None = None

    def __call__(self) -> Endpoints:
        """The endpoints. Raises `Unavailable` where there are none yet."""
        hint = "Start the platform with `headrace up` and try again."
        if self.path is None:
            raise Unavailable("The model server was not told where storage is.", hint=hint)
        try:
            status = self.path.stat()
            if self._read is None or self._stamp != (status.st_mtime_ns, status.st_size):
                self._read = Endpoints.model_validate_json(self.path.read_bytes())
                self._stamp = (status.st_mtime_ns, status.st_size)
        except (OSError, ValidationError):
            raise Unavailable("The model server cannot read where storage is.", hint=hint) from None
        return self._read


@dataclass
class Call:
    """One request under way; `cancelled` turns true when nobody waits for its answer any more."""

    queue: ModelQueue
    gone: bool = False

    def cancelled(self) -> bool:
        """Whether to stop working on it."""
        return self.gone or self.queue.stopping


@dataclass
class HostedModels:
    """The three models, each behind its queue and loaded on first use."""

    endpoints: EndpointsFile
    cache: Path
    threads: int
    exact: bool = False
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    """What marks the KV blocks of this home as its own."""
    ready: bool = False
    embedding: ModelQueue = field(default_factory=lambda: ModelQueue("embedder", places=32))
    ranking: ModelQueue = field(default_factory=lambda: ModelQueue("re-ranker"))
    generating: ModelQueue = field(default_factory=lambda: ModelQueue("generator"))
    _loading: threading.Lock = field(default_factory=threading.Lock)
    _warmed: threading.Event = field(default_factory=threading.Event)
    _embedder: MiniLM | None = None
    _generator: SmolLM | None = None
    _reported: set[str] = field(default_factory=set)
    _kv: BlockBackend = field(default_factory=BACKENDS["files"])

    def __post_init__(self) -> None:
        releases = partial(LoadedReleases, endpoints=self.endpoints, cache=self.cache)
        self.embedders: LoadedReleases[EmbedderCard, MiniLM] = releases("embedder", "embedder", EmbedderCard, self._open_embedder)
        self.rerankers: LoadedReleases[RerankerCard, PairScorer] = releases(
            "reranker", "re-ranker", RerankerCard, self._open_reranker
        )
        # The packaged generator answers where there is no storage, too.
        self.generators: LoadedReleases[GeneratorCard, SmolLM] = releases(
            "generator", "generator", GeneratorCard, self._open_generator, must_look=False
        )

    def warm(self) -> None:
        """Begin loading torch, then the embedder, then the generator, which may wait until the embedder rests."""
        self.embedding.submit(self._import_torch)
        warm = self.embedding.submit(partial(self._warm, self.embedder))
        warm.add_done_callback(lambda _: self._warmed.set())
        warm.add_done_callback(lambda _: threading.Thread(target=self._warm_generator, name="warm", daemon=True).start())

    def stop(self) -> None:
        """End every queue's work soon. Safe to call in a signal handler."""
        for part in (self.embedding, self.ranking, self.generating, self.embedders, self.rerankers, self.generators):
            part.stop()

    def embedder(self) -> MiniLM:
        """The packaged embedder, loaded if need be."""
        if self._embedder is None:
            with self._loading:
                started = time.perf_counter()
                from headrace.models.server.encoders import MiniLM

                self._embedder = self._embedder or MiniLM(exact=self.exact)
            log.info("loaded the embedder in %.1f s", time.perf_counter() - started)
        return self._embedder

    def generator(self) -> SmolLM:
        """The packaged generator, loaded if need be."""
        if self._generator is None:
            with self._loading:
                started = time.perf_counter()
                from headrace.models.server import generator

                self._generator = self._generator or generator.load(self.cache)
            log.info("loaded the generator in %.1f s", time.perf_counter() - started)
        return self._generator

    def _open_embedder(self, card: EmbedderCard, folder: Path) -> MiniLM:
        self._warmed.wait()
        from headrace.models.server.encoders import MiniLM

        with self._loading:
            return MiniLM(folder, window=card.max_tokens, exact=self.exact)

    def _open_reranker(self, card: RerankerCard, folder: Path) -> PairScorer:
        # Not under the lock: the generator may hold it for long, and most of this was imported with the embedder.
        self._warmed.wait()
        from headrace.models.server.encoders import PairScorer

        with self._loading:
            return PairScorer(card, folder, exact=self.exact)

    def _open_generator(self, card: GeneratorCard, folder: Path) -> SmolLM:
        return self.generator().adapted(folder, version=card.version, digest=card.digest)

    def kv_blocks(self, ledger: Ledger, tenant: str) -> tuple[BlockStore, int] | None:
        """The KV cache's block store and how many bytes they may take, or `None` where there is no storage."""
        try:
            endpoints = self.endpoints()
        except Unavailable as error:
            if "kv" not in self._reported:
                self._reported.add("kv")
                log.warning("prompts are not cached: %s", error)
            return None
        return self._kv.open(endpoints, Meter(ledger, "models", tenant)), endpoints.kv_cache_bytes

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
        log.info("imported torch in %.1f s", time.perf_counter() - started)

    def _warm_generator(self) -> None:
        def rested() -> bool:
            return self.embedding.rested_s >= _REST_S or self._generator is not None

        # Unpacked once in a home's life, and seldom wanted while documents are embedded, which it would slow down by a third.
        with contextlib.suppress(HeadraceError):
            from headrace.models.server.generator import is_unpacked

            there = is_unpacked(self.cache)  # asked once: it reads the whole file
            while not there and not rested():
                time.sleep(1.0)
        self.generating.submit(partial(self._warm, self.generator))

    def _warm(self, load: Callable[[], object]) -> None:
        try:
            load()
        except HeadraceError as error:
            log.error("%s", error)
