"""Blocking work on a thread of its own, whose results come to the event loop one by one."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import TypeVar

from fastapi import Request

from headrace.api.service import Service
from headrace.errors import Unavailable

T = TypeVar("T")

_LOOK_S = 0.2


async def stream_from_thread(
    request: Request, service: Service, work: Callable[[Callable[[], bool]], Iterable[T]]
) -> AsyncGenerator[T, None]:
    """What `work` yields, as it yields it; ends early if the client leaves, which `work` learns from the callable it gets.

    Raises what `work` raises, and `Unavailable` once the service is stopping. The threads are daemons: work that hangs on
    an endpoint does not keep the process from ending.
    """
    gone = threading.Event()
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[T] | BaseException | None] = asyncio.Queue()

    def put(item: tuple[T] | BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            loop.call_soon_threadsafe(queue.put_nowait, item)

    def run() -> None:
        try:
            for item in work(gone.is_set):
                put((item,))
            put(None)
        except BaseException as error:
            put(error)

    threading.Thread(target=run, name="question", daemon=True).start()
    try:
        while True:
            try:
                item = await asyncio.wait_for(queue.get(), _LOOK_S)
            except TimeoutError:
                if service.stopping:
                    raise Unavailable("Headrace is stopping.", hint="Start it again: headrace up") from None
                if await request.is_disconnected():
                    return
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise service.cause_of(item)
            yield item[0]
    finally:
        gone.set()


async def run_in_thread(request: Request, service: Service, work: Callable[[], T]) -> T | None:
    """What `work` returns, or `None` if the client left before that."""
    async for result in stream_from_thread(request, service, lambda _: (work() for _ in (None,))):
        return result
    return None
