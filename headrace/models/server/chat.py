"""A chat completion: events from the generator's queue, sent as server-sent events or as one body."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from headrace.errors import HeadraceError, Unavailable
from headrace.models import wire
from headrace.models.cards import GeneratorCard
from headrace.models.server.hosted import Call, HostedModels
from headrace.models.server.middleware import error_response_for
from headrace.models.server.release import Release
from headrace.storage.ledger import Ledger

if TYPE_CHECKING:
    from headrace.models.server.generator import SmolLM

log = logging.getLogger("headrace.models")

Event = tuple[str, Any]  # ("text", a piece) or ("end", the report)


async def answer(models: HostedModels, body: wire.ChatRequest, version: str, call: Call) -> AsyncGenerator[Event, None]:
    """The events of one answer: its pieces of text, then its report. Raises what the generator raises.

    One version writes the whole answer: `version`, or the one served when the request arrives.
    """
    loop = asyncio.get_running_loop()
    ledger = Ledger()
    release: Release[GeneratorCard, SmolLM] | None = None
    queue: asyncio.Queue[Event | None] = asyncio.Queue()

    def put(event: Event | None) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, event)

    def generate() -> None:
        if call.cancelled():
            return
        model = release.model if release else models.generator()
        from headrace.models.server.generator import Cancelled, Generated, Sampling

        extras = body.headrace
        generation = Generated(model.prompt([(message.role, message.text) for message in body.messages]))
        cache = None
        if extras.cache:
            cache = models.kv.prompt(
                model,
                ledger,
                tenant=extras.tenant,
                readers_id=extras.readers_id,
                share_bytes=extras.kv_cache_bytes,
                documents=extras.documents,
                run=extras.run,
            )
        pieces = model.generate(
            generation.prompt_tokens,
            Sampling(
                body.limit,
                body.temperature,
                body.top_p,
                body.frequency_penalty,
                body.seed,
                tuple(body.stops),
                body.presence_penalty,
            ),
            cache=cache,
            cancelled=call.cancelled,
            into=generation,
        )
        try:
            for piece in pieces:
                put(("text", piece))
        except Cancelled:
            log.info("an answer was cancelled after %d tokens: the client disconnected", len(generation.completion_tokens))
            return
        moved = ledger.export()
        models.kv.account(extras.tenant, model.version, moved)
        report = {
            "finish_reason": generation.finish_reason,
            "usage": {
                "prompt_tokens": len(generation.prompt_tokens),
                "completion_tokens": len(generation.completion_tokens),
                "total_tokens": len(generation.prompt_tokens) + len(generation.completion_tokens),
                "prompt_tokens_details": {"cached_tokens": generation.reused_tokens},
            },
            "headrace": {
                "version": model.version,
                "prompt_tokens": generation.prompt_tokens,
                "completion_tokens": generation.completion_tokens,
                "logprobs": generation.logprobs,
                "storage": moved,
                "reused_tokens": generation.reused_tokens,
                "stored_tokens": generation.stored_tokens,
                "not_stored": generation.not_stored or (models.kv.writes.trouble if extras.cache else ""),
                "timings_ms": generation.timings_ms,
            },
        }
        put(("end", report))

    with models.generating.slot():
        release = await models.generators.requested(version, body.headrace.answer_id, ledger)
        job = asyncio.ensure_future(models.generating.run(generate))
        job.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (event := await queue.get()) is not None:
                yield event
            await job  # raises its error
            if models.generating.stopping:
                raise Unavailable("The model server is stopping.", hint="Start it and ask again.")
        finally:
            call.gone = True
            job.cancel()


def _now() -> tuple[str, int]:
    return f"chatcmpl-{secrets.token_hex(12)}", int(time.time())


async def as_stream(first: Event, events: AsyncGenerator[Event, None]) -> AsyncIterator[bytes]:
    """Server-sent events of one answer."""
    name, created = _now()
    base = {"id": name, "object": "chat.completion.chunk", "created": created, "model": wire.GENERATOR}

    def chunk(delta: dict[str, str], finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return _data(base | {"choices": [choice]} | more)

    def encoded(event: Event) -> bytes:
        kind, content = event
        if kind == "text":
            return chunk({"content": content})
        return chunk({}, content["finish_reason"], usage=content["usage"], headrace=content["headrace"])

    async with aclosing(events):
        yield chunk({"role": "assistant", "content": ""}) + encoded(first)
        try:
            async for event in events:
                yield encoded(event)
        except HeadraceError as error:
            response = error_response_for(error)
            yield _data(json.loads(bytes(response.body)) | {"status": response.status_code})
        yield b"data: [DONE]\n\n"


def _data(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def as_whole(first: Event, events: AsyncIterator[Event]) -> dict[str, Any]:
    """One answer as one body."""
    name, created = _now()
    received = [first, *[event async for event in events]]
    report = received.pop()[1]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "".join(piece for _, piece in received)},
        "finish_reason": report["finish_reason"],
    }
    return {
        "id": name,
        "object": "chat.completion",
        "created": created,
        "model": wire.GENERATOR,
        "choices": [choice],
        "usage": report["usage"],
        "headrace": report["headrace"],
    }
