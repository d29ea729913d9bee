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

# A blank line ends an answer: small models go on with something of their own behind it.
_STOP = ("\n\n",)


@stage("Writes the answer from the best passages; the KV of a shared prefix is kept on files.", phase=ASKED)
def generate(
    kv_cache: Annotated[ReportedWriter, KV_CACHE],
    tenant: str,
    question: str,
    passages: Sequence[Passage],
    generator: Generator,
    most_tokens: int,
    kv_cache_bytes: int | None = None,
) -> Iterator[str | Completion]:
    """Stream the answer's text, then the `Completion`."""
    messages = prompt(question, passages)
    stream = generator.stream(messages, max_tokens=most_tokens, tenant=tenant, stop=_STOP, kv_cache_bytes=kv_cache_bytes)
    for piece in stream:
        if isinstance(piece, Completion):
            kv_cache.take(piece.storage)
        yield piece


def prompt(question: str, passages: Sequence[Passage]) -> list[dict[str, str]]:
    """The chat message. Passages come first: questions about the same passages share that prefix and its KV.

    Plain on purpose: of the prompts tried with the embedded 135M generator, those with instructions did worse (docs/design.md).
    """
    context = "\n\n".join(passage.hit.text for passage in passages)
    return [{"role": "user", "content": f"{context}\n\nQuestion: {question}\nAnswer:"}]
