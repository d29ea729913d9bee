"""A directory of KV blocks with an index in a metadata store, and documents that the documents table says something of."""

from __future__ import annotations

import itertools
import json
import signal
from collections.abc import Collection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

import numpy as np

from headrace.catalog import KV_CACHE
from headrace.models.kv.backends import BACKENDS
from headrace.models.kv.blocks import BlockStore
from headrace.models.kv.cache import KvCache
from headrace.models.kv.format import BLOCK, Shape
from headrace.models.kv.index import BlockIndex
from headrace.models.kv.revocation import Revocations, RevokedDocument
from headrace.storage.endpoints import Endpoints, MetadataEndpoint
from headrace.storage.ledger import Ledger
from headrace.storage.metadata import Metadata
from headrace.storage.meter import Meter

SHAPE = Shape(1, 1, 2)


class KvHome:
    """Files and metadata below one folder, as one home has them."""

    def __init__(self, folder: Path) -> None:
        self.endpoints = Endpoints.model_construct(
            files_dir=folder / "files",
            kv_backend="files",
            kv_memory_bytes=0,
            kv_cache_bytes=1 << 30,
            kv_cache_policy="always",
            kv_cache_ttl_s=None,
            kv_cache_canary=0.0,
            metadata=MetadataEndpoint(file=folder / "metadata.db"),
        )
        self.metadata = Metadata(self.endpoints)
        self.index = BlockIndex(self.metadata)
        self.store = self.open()

    def open(self) -> BlockStore:
        """The store, as another process would open it."""
        return BACKENDS["files"]().open(KV_CACHE, self.endpoints, Meter(Ledger(), "test"), wait=False)

    def cache(self, documents: Collection[str] | None, *, tenant: str = "acme", store: BlockStore | None = None) -> KvCache:
        """The cache of a prompt that has passages of these documents."""
        return KvCache(
            store or self.store,
            identity="m",
            tenant=tenant,
            shape=SHAPE,
            secret=b"s",
            limit_bytes=1 << 30,
            documents=documents,
            index=self.index,
        )

    def document(self, name: str, *, live: bool = True, readers: Collection[str] = (), tenant: str = "acme") -> None:
        """What the documents table says of a document from now on."""
        described = json.dumps([sorted(readers), [], 0])
        row = {"id": name, "tenant": tenant, "live": "v1" if live else None, "described": described}
        with self.metadata.transaction(writing=True) as run:
            run(
                "INSERT INTO document_states (scope, document_id, tenant, uri, source, fields, live, description)"
                " VALUES (1, :id, :tenant, :id, NULL, '{}', :live, :described) ON CONFLICT (scope, document_id)"
                " DO UPDATE SET live = excluded.live, description = excluded.description",
                row,
            )

    def blocks(self) -> set[str]:
        """The names of all blocks in the directory."""
        root = self.endpoints.files_dir / KV_CACHE.name
        return {path.relative_to(root).as_posix() for path in root.rglob("*.safetensors") if ".part-" not in path.name}

    def noted(self) -> set[tuple[str, str]]:
        """(document, block) of the index."""
        with self.metadata.transaction() as run:
            return set(run("SELECT document_id, block FROM kv_blocks", {}))


def prefix(first: int, count: int = 1) -> list[int]:
    """`count` blocks of tokens that no other prefix begins with."""
    return [first, *range(1, count * BLOCK)]


def values(count: int = 1) -> np.ndarray:
    """Keys and values of so many blocks."""
    found: np.ndarray = np.random.default_rng(1).standard_normal(SHAPE.array(count * BLOCK), dtype=np.float32)
    return SHAPE.rounded(found).astype(np.float32)


def restored(cache: KvCache, tokens: list[int]) -> int:
    """How many blocks of a prefix are found."""
    return cache.restore(tokens, np.zeros(SHAPE.array(len(tokens)), np.float32)) // BLOCK


def store_for_ever(link: Connection, folder: Path) -> None:
    """Store one prefix after another until killed; says how many."""
    home = KvHome(folder)
    for number in itertools.count():
        home.cache({"a" * 16}).save(prefix(number, 3), values(3), restored=0)
        link.send(number)


def store_and_confirm_never(link: Connection, folder: Path) -> None:
    """Store a prefix, and be stopped before it is confirmed to the index."""
    home = KvHome(folder)

    def confirm(*_: object) -> NoReturn:
        link.send("stored")
        while True:
            signal.pause()

    home.index.stored = confirm  # type: ignore[method-assign]
    home.cache({"a" * 16}).save(prefix(1, 3), values(3), restored=0)


def revoke_and_stop(link: Connection, folder: Path) -> None:
    """Begin to remove a document's blocks, and be stopped after the first."""
    home = KvHome(folder)

    class Stopping:
        def delete(self, name: str) -> None:
            home.store.delete(name)
            link.send(name)
            while True:
                signal.pause()

    revocations = Revocations(home.metadata)
    revocations.note([RevokedDocument("acme", "a" * 16, "manual.md", "deleted")])
    revocations.end(Stopping())  # type: ignore[arg-type]
