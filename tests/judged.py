"""Verdicts as if they had been given: answers, passages, and what people thought of them, put on the head without a model."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from headrace.catalog import CHUNK_ROWS, FEEDBACK, INTERACTIONS
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.records import batch
from headrace.storage.stream.writer import TopicWriter
from headrace.storage.tables.handles import TableWriter

METER = Meter(Ledger(), "test")


def judge(endpoints: Endpoints, count: int, *, liked: str, seed: int, nearer: float | None = None, user: str = "") -> None:
    """`count` questions with four passages in random order; whoever holds the word `liked` is liked.

    Each question has a document of its own, so that whole documents can be held out; twelve people judge in turn. With `nearer`
    the answers have signals, by which the liked passage is nearer to the question by that much. With `user` that
    one judges all.
    """
    shuffle, beside = random.Random(seed), random.Random(seed)
    chunks, answers, verdicts = [], [], []
    things = ["wheel", "weir", "mill", "pond", "gate", "bridge", "lock", "race"]
    at = datetime.now(UTC)
    for n in range(count):
        words = ["yes", "no", "maybe", "never"]
        shuffle.shuffle(words)
        passages, signals = [], []
        for rank, word in enumerate(words, 1):
            name = f"{seed}-{n}-{rank}"
            text = f"{word} the {shuffle.choice(things)} by the {shuffle.choice(things)}"
            filled: dict[str, Any] = {"position": rank, "readers": [], "partition": 0, "offset": n}
            for field in CHUNK_ROWS.columns:
                filled.setdefault(field.name, None if field.nullable else "")
            chunks.append({**filled, "chunk_id": name, "document_id": f"d{seed}-{n}", "tenant": "acme", "text": text})
            passages.append(
                {"chunk_id": name, "document": f"{n}.md", "retrieval_score": 1.0 / (60 + rank), "retrieval_rank": rank}
            )
            near = 0.4 + 0.1 * beside.random() + (nearer or 0.0) * (word == liked)
            signals.append({"retrieval_share": 1.0 - 0.1 * rank, "similarity": near, "fulltext": beside.random()})
            verdict = {"verdict_id": f"v{name}", "answer_id": f"a{seed}-{n}", "chunk_id": name, "up": word == liked, "at": at}
            plain = {f.name: "" for f in FEEDBACK.columns if not f.nullable}
            verdicts.append({**plain, "tenant": "acme", "user": user or f"user-{n % 12}", "simulated": False, **verdict})
        needed = [field for field in INTERACTIONS.columns if not field.nullable]
        empty: dict[str, Any] = {f.name: [] if pa.types.is_list(f.type) else "" for f in needed}
        question = f"does {shuffle.choice(things)} {n} of {seed} turn?"
        answer = {"answer_id": f"a{seed}-{n}", "question": question, "passages": passages, "at": at}
        answer |= {} if nearer is None else {"signals": signals}
        answers.append({**empty, "kind": "search", "tenant": "acme", "simulated": False, **answer})
    TableWriter(CHUNK_ROWS, endpoints, METER).append(batch(CHUNK_ROWS.columns, chunks))
    TopicWriter(INTERACTIONS, endpoints, METER).append(answers, key="answer_id")
    TopicWriter(FEEDBACK, endpoints, METER).append(verdicts, key="answer_id")
