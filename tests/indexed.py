"""What must be in the tables and the index once the handbook is indexed, whatever was killed meanwhile."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headrace.catalog import CHUNKS, DOCUMENTS
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectReader
from headrace.storage.vectors.handles import VectorReader


def assert_indexed(sql: Callable[[str], list[dict[str, Any]]], endpoints: Endpoints, docs: Path) -> None:
    """Every file of the handbook once, in its one version, each chunk once, and just these in the vector store."""
    meter = Meter(Ledger(), "test")
    files = {f"{docs.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in docs.iterdir()}
    documents = sql("select document_id, uri, version, status from documents")
    assert sorted((row["uri"], row["version"], row["status"]) for row in documents) == sorted(
        (uri, version, "parsed") for uri, version in files.items()
    )
    sources = {info.key for info in ObjectReader(DOCUMENTS, endpoints, meter).list()}
    assert {f"default/{version}" for version in files.values()} <= sources
    chunks = sql("select chunk_id, document_id, version from chunks")
    assert {(row["document_id"], row["version"]) for row in chunks} == {(d["document_id"], d["version"]) for d in documents}
    ids = [row["chunk_id"] for row in chunks]
    assert len(set(ids)) == len(ids) == 72
    assert sorted(VectorReader(CHUNKS, endpoints, meter).indexed()["chunk_id"].to_pylist()) == sorted(ids)
