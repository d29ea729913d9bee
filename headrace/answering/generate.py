"""generate: streams what the generator writes, above all answers from passages; a shared prefix's KV comes from files."""

from __future__ import annotations

from collections import abc
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated

from headrace.answering.rerank import Passage
from headrace.catalog import KV_CACHE, KV_OBJECTS, MODELS
from headrace.core.stage import stage
from headrace.documents.names import document_id
from headrace.models.client import GREEDY, Completion, Generator, SamplingParameters
from headrace.models.prompt import STOP, messages
from headrace.storage.meter import ReportedReader, ReportedWriter
from headrace.storage.timeline import ASKED


@stage("Writes the answer from the best passages; the KV of a shared prefix is kept on files.", phase=ASKED)
def generate(
    models: Annotated[ReportedReader, MODELS],
    kv_cache: Annotated[ReportedWriter, KV_CACHE],
    kv_objects: Annotated[ReportedWriter, KV_OBJECTS],
    tenant: str,
    chat: Sequence[Mapping[str, str]],
    generator: Generator,
    most_tokens: int,
    kv_cache_bytes: int | None = None,
    sampling: SamplingParameters = GREEDY,
    answer_id: str = "",
    readers: Sequence[str] = (),
    documents: Collection[str] | None = None,
    run: str = "",
    stop: Sequence[str] = STOP,
) -> abc.Generator[str | Completion, None, None]:
    """Stream what the generator writes, then the `Completion`. `answer_id` decides between the champion and a canary.

    `readers` are those on whose behalf the passages were found, `documents` the ids of those that they are from.
    """
    stream = generator.stream(
        chat,
        max_tokens=most_tokens,
        tenant=tenant,
        stop=stop,
        sampling=sampling,
        kv_cache_bytes=kv_cache_bytes,
        answer_id=answer_id,
        readers=readers,
        documents=documents,
        run=run,
    )
    for piece in stream:
        if isinstance(piece, Completion):
            models.take(piece.storage)
            kv_cache.take(piece.storage)
            kv_objects.take(piece.storage)
        yield piece


@stage("Counts the KV of prompts that was stored behind their answers.", phase=ASKED, counted_as="generate")
def count_stored(
    kv_cache: Annotated[ReportedWriter, KV_CACHE],
    kv_objects: Annotated[ReportedWriter, KV_OBJECTS],
    generator: Generator,
    run: str,
    seconds: float,
) -> None:
    """Wait until the KV of a run's prompts is stored, for at most so many seconds, and count what that moved."""
    stored = generator.settle(run, seconds=seconds)
    for kv in (kv_cache, kv_objects):
        mine = [one for one in stored if (one["store"], one["tier"]) == (kv.store.name, str(kv.store.tier))]
        kv.meter.ledger.fold(mine, stage=kv.meter.stage)


def documents_of(tenant: str, passages: Sequence[Passage]) -> set[str]:
    """The ids of the documents that these passages are from, those with the same text included."""
    return {document_id(tenant, source.document) for passage in passages for source in passage.hit.sources}


def prompt(question: str, passages: Sequence[Passage], instructions: str = "") -> list[dict[str, str]]:
    """The chat messages, from the texts of the passages, after a client's instructions if it has any."""
    return messages(question, [passage.hit.text for passage in passages], instructions)
