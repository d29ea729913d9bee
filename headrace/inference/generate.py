"""generate: the answer, streamed, from the question and the best passages; KV of a shared prefix comes from files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from headrace.catalog import KV_CACHE
from headrace.inference.rerank import Passage
from headrace.inference.retrieve import ASKED
from headrace.models.client import Completion, Generator
from headrace.pipeline.stage import stage
from headrace.storage.reported import ReportedWriter

_SYSTEM = "You answer questions from the given passages, briefly and in full sentences."


@stage("Writes the answer from the best passages; the KV of a shared prefix is kept on files.", phase=ASKED)
def generate(
    kv_cache: Annotated[ReportedWriter, KV_CACHE],
    tenant: str,
    question: str,
    passages: Sequence[Passage],
    generator: Generator,
    most_tokens: int,
) -> Iterator[str | Completion]:
    """Stream the answer's text, then the `Completion`."""
    for piece in generator.stream(prompt(question, passages), max_tokens=most_tokens, tenant=tenant):
        if isinstance(piece, Completion):
            kv_cache.take(piece.storage)
        yield piece


def prompt(question: str, passages: Sequence[Passage]) -> list[dict[str, str]]:
    """The chat messages. Passages come first: questions about the same passages share that prefix and its KV."""
    context = "\n\n".join(passage.hit.text for passage in passages)
    asked = f"Passages:\n\n{context}\n\nUsing only the passages above, answer in one or two sentences: {question}"
    return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": asked}]
