"""search: our own part of a question's time (fusion of both searches, no model) at 100,000 chunks in a local directory.

The chunks are synthetic: embeddings in 300 clusters of their own directions, words by Zipf's law, a fifth of the chunks open to
one of twenty groups only. Three tenants own 94.9 %, 5 % and 0.1 % of one table, a fourth all of another. Recall is that of the
dense search's first ten against comparing with every chunk that answers. `cpu_ms` is the processor time of one fusion, all
threads together, which other work on the machine changes little. 16 threads then search for `HEADRACE_BENCH_SECONDS`.
"""

from __future__ import annotations

import os
import random
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from headrace.catalog import CHUNKS, DIMENSIONS
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.vectors.handles import VectorReader, VectorWriter

_ROWS = 100_000
_CLUSTERS = 300
_WORDS = 20_000
_TENANTS = {"large": 0.949, "medium": 0.05, "small": 0.001}
_GROUPS = 20
_QUESTIONS = 200
_THREADS = 16
_USER = ("group-3", "group-7")

Floats = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Corpus:
    """Synthetic chunks: their rows, and what is needed to ask about them."""

    rows: pa.Table
    embeddings: Floats
    tenants: np.ndarray[Any, Any]
    groups: np.ndarray[Any, Any]
    texts: list[str]


def corpus(rows: int, tenants: dict[str, float], seed: int) -> Corpus:
    """Chunks of some tenants, each with its share of them; -1 in `groups` is everybody."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(_CLUSTERS, DIMENSIONS)).astype(np.float32)
    embeddings = centres[rng.integers(0, _CLUSTERS, rows)] + 0.9 * rng.normal(size=(rows, DIMENSIONS)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    owners = rng.choice(list(tenants), rows, p=list(tenants.values()))
    groups = np.where(rng.random(rows) < 0.2, rng.integers(0, _GROUPS, rows), -1)
    words = np.array([f"word{number}" for number in range(_WORDS)])
    texts = [" ".join(row) for row in words[np.minimum(rng.zipf(1.3, size=(rows, 60)), _WORDS) - 1]]
    names = [str(number) for number in range(rows)]
    columns: dict[str, Any] = {
        "chunk_id": names,
        "document_id": [f"d{number // 20}" for number in range(rows)],
        "version": ["1"] * rows,
        "tenant": owners.tolist(),
        "uri": [f"docs/{number // 20}.md" for number in range(rows)],
        "heading": [""] * rows,
        "position": [number % 20 for number in range(rows)],
        "text": texts,
        "readers": [[] if group < 0 else [f"group-{group}"] for group in groups.tolist()],
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), DIMENSIONS),
        "place": [None] * rows,
    }
    given = pa.schema([field for field in CHUNKS.columns if field.name in columns])
    table = pa.table([pa.array(columns[field.name], field.type) for field in given], schema=given)
    return Corpus(table, embeddings, owners, groups, texts)


def measure() -> dict[str, Any]:
    """Bound: p50 within 10 ms and p95 within 25 ms of our own time, for each tenant; memory flat under 16 threads."""
    with tempfile.TemporaryDirectory() as folder:
        mixed, alone = corpus(_ROWS, _TENANTS, 1), corpus(_ROWS, {"all": 1.0}, 2)
        endpoints = Endpoints.model_construct(vectors_uri=str(Path(folder) / "index"))
        writer = VectorWriter(CHUNKS, endpoints, Meter(Ledger(), "bench"))
        built = []
        for vectors, made in ((writer, mixed), (writer.for_generation(2), alone)):
            vectors.upsert(made.rows)
            started = time.perf_counter()
            vectors.build()
            built.append(round(time.perf_counter() - started, 1))
        reader = VectorReader(CHUNKS, endpoints, Meter(Ledger(), "bench"))
        results: dict[str, Any] = {"all": asked(reader.for_generation(2), alone, "all")}
        results |= {tenant: asked(reader, mixed, tenant) for tenant in _TENANTS}
        return {
            "rows": _ROWS,
            "build_s": built,
            "tenants": results,
            "threads": _together(reader, mixed),
            "bound_ms": {"p50": 10, "p95": 25},
        }


def asked(reader: VectorReader, made: Corpus, tenant: str) -> dict[str, Any]:
    """Recall and times of questions of one tenant."""
    answering = np.flatnonzero((made.tenants == tenant) & np.isin(made.groups, (-1, 3, 7)))
    questions = _questions(made, answering, _QUESTIONS)
    found = [_hits(reader, question, tenant) for question in questions]
    recalls = []
    for (embedding, _), ids in zip(questions, found, strict=True):
        best = answering[np.argsort(-(made.embeddings[answering] @ embedding))[:10]]
        recalls.append(len(set(best.tolist()) & set(ids)) / len(best))

    def fusion(question: tuple[Floats, str]) -> None:
        reader.fusion(question[1], question[0], tenant=tenant, most=20, readers=_USER)

    return {
        "chunks_that_answer": len(answering),
        "recall_at_10": round(float(np.mean(recalls)), 4),
        "recall_at_10_least": round(min(recalls), 2),
        "fusion_ms": _times(fusion, questions),
    }


def _hits(reader: VectorReader, question: tuple[Floats, str], tenant: str) -> list[int]:
    return [int(hit.chunk_id) for hit in reader.dense(question[0], tenant=tenant, most=50, readers=_USER)[:10]]


def _questions(made: Corpus, among: np.ndarray[Any, Any], count: int) -> list[tuple[Floats, str]]:
    """Questions near chunks, not equal to any, with four words of the chunk."""
    rng = np.random.default_rng(3)
    questions = []
    for number in rng.choice(among, count):
        embedding = made.embeddings[number] + rng.normal(size=DIMENSIONS).astype(np.float32) * 0.5 / DIMENSIONS**0.5
        words = random.Random(int(number)).sample(made.texts[number].split(), 4)
        questions.append(((embedding / np.linalg.norm(embedding)).astype(np.float32), " ".join(words)))
    return questions


def _times(act: Callable[[tuple[Floats, str]], None], questions: list[tuple[Floats, str]]) -> dict[str, float]:
    act(questions[0])  # opens what the first one opens
    taken = []
    busy = time.process_time()
    for question in questions:
        started = time.perf_counter()
        act(question)
        taken.append((time.perf_counter() - started) * 1e3)
    busy = (time.process_time() - busy) * 1e3 / len(questions)
    return {f"p{q}": round(float(np.percentile(taken, q)), 1) for q in (50, 95)} | {"cpu_ms": round(busy, 1)}


def _together(reader: VectorReader, made: Corpus) -> dict[str, Any]:
    """16 threads at once; memory is this process's resident set, first after a fifth of the time, then at its end."""
    seconds = float(os.environ.get("HEADRACE_BENCH_SECONDS", "20"))
    questions = _questions(made, np.flatnonzero(made.tenants == "large"), _QUESTIONS)
    taken: list[float] = []
    errors: list[str] = []
    started = time.perf_counter()

    def ask(number: int) -> None:
        chosen = random.Random(number)
        while time.perf_counter() - started < seconds:
            embedding, words = chosen.choice(questions)
            began = time.perf_counter()
            try:
                reader.fusion(words, embedding, tenant=chosen.choice(list(_TENANTS)), most=20, readers=_USER)
            except Exception as error:  # what is counted here
                errors.append(repr(error))
            taken.append((time.perf_counter() - began) * 1e3)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(_THREADS)]
    for thread in threads:
        thread.start()
    time.sleep(seconds / 5)
    warm = resident()
    for thread in threads:
        thread.join()
    return {
        "threads": _THREADS,
        "seconds": seconds,
        "searches_a_s": round(len(taken) / seconds, 1),
        "ms": {f"p{q}": round(float(np.percentile(taken, q)), 1) for q in (50, 95)},
        "errors": len(errors),
        "resident_mb": [round(warm / 1e6), round(resident() / 1e6)],
    }


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
