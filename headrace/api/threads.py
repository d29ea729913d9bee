"""Blocking work on its own thread, whose results come to the event loop one by one."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from headrace.answering.engine import GivenUp
from headrace.api.auth import caller_of
from headrace.api.service import Service
from headrace.errors import Unavailable

T = TypeVar("T")

_LOOK_S = 0.2


async def stream_from_thread(
    request: Request, service: Service, work: Callable[[Callable[[Any], None], Callable[[], bool]], object]
) -> AsyncGenerator[Any, None]:
    """Yield what `work(put, gone)` puts, as it comes.

    Raises what `work` raises, `Unavailable` once the service is stopping, and `ClientDisconnect` if the client leaves, which
    `gone()` tells `work`. Work that raises `GivenUp` while somebody listens did so since the service is stopping.
    The threads are daemons: work that waits for an endpoint does not keep the process from ending.
    """
    gone = threading.Event()
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[Any] | BaseException | None] = asyncio.Queue()

    def send(item: tuple[Any] | BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            loop.call_soon_threadsafe(queue.put_nowait, item)

    def run() -> None:
        try:
            work(lambda piece: send((piece,)), gone.is_set)
            send(None)
        except BaseException as error:
            send(error)

    threading.Thread(target=run, name="question", daemon=True).start()
    try:
        while True:
            try:
                item = await asyncio.wait_for(queue.get(), _LOOK_S)
            except TimeoutError:
                if service.stopping:
                    raise _stopping() from None
                if await request.is_disconnected():
                    raise ClientDisconnect from None
                continue
            if item is None:
                return
            if isinstance(item, GivenUp):
                raise _stopping()
            if isinstance(item, BaseException):
                raise service.cause_of(item)
            yield item[0]
    finally:
        gone.set()


def _stopping() -> Unavailable:
    return Unavailable("Headrace is stopping.", hint="Start it again: headrace up")


async def first_of(pieces: AsyncGenerator[T, None]) -> T:
    """The first piece. Raises what `stream_from_thread` raises: until it has come, an error can still be an HTTP status."""
    return await anext(pieces)


class RequestThread:
    """Runs a request's blocking work on a thread, once its tenant has a place for it."""

    def __init__(self, request: Request, service: Service) -> None:
        self._request = request
        self._service = service

    async def __call__(self, work: Callable[[], T]) -> T:
        """Return what `work` returns. Raises as `stream_from_thread`.

        The place is kept until the work ends, also when the client has left: it costs as much then.
        """
        place = self._service.places[caller_of(self._request).tenant]
        loop = asyncio.get_running_loop()

        def run(put: Callable[[T], None], _: Callable[[], bool]) -> None:
            try:
                put(work())
            finally:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(place.release)

        await place.acquire()
        if await self._request.is_disconnected():
            place.release()
            raise ClientDisconnect
        async with contextlib.aclosing(stream_from_thread(self._request, self._service, run)) as results:
            return await first_of(results)
