"""Blocking work of requests: how much of it a tenant may have at once, and how it ends when the service does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Message
from unstarted import unstarted

from headrace.answering.engine import GivenUp
from headrace.api.admission import AdmissionQueue
from headrace.api.auth import READ, Caller
from headrace.api.questions import QuestionService
from headrace.api.service import PLACES, Service
from headrace.api.telemetry import Traces
from headrace.api.threads import RequestThread, first_of, stream_from_thread
from headrace.errors import Unavailable
from headrace.settings import TenantLimits


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with unstarted(tmp_path) as service:
        yield service


def request(tenant: str, *, left: Callable[[], bool] = lambda: False) -> Request:
    """A request of a tenant's key; its client has left once `left` says so."""

    async def receive() -> Message:
        if left():
            return {"type": "http.disconnect"}
        return await asyncio.Future()

    caller = Caller(tenant, "0123456789abcdef", frozenset({READ}), TenantLimits())
    return Request({"type": "http", "method": "GET", "path": "/", "headers": [], "caller": caller}, receive)


def test_a_tenant_has_few_requests_worked_on_at_once(service: Service) -> None:
    """400 looks into the audit, which one key may send in a minute, kept other tenants waiting for 24 s, and long after."""
    begun = threading.Semaphore(0)
    running, most = 0, 0
    go_on, lock, left = threading.Event(), threading.Lock(), False

    def work() -> str:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        begun.release()
        go_on.wait(60)
        with lock:
            running -= 1
        return "done"

    async def crowd() -> None:
        nonlocal left
        busy = [asyncio.create_task(RequestThread(request("acme"), service)(work)) for _ in range(PLACES)]
        waiting = [asyncio.create_task(RequestThread(request("acme"), service)(work)) for _ in range(50)]
        leaving = [asyncio.create_task(RequestThread(request("acme", left=lambda: left), service)(work)) for _ in range(50)]
        for _ in range(PLACES):
            assert await asyncio.to_thread(begun.acquire, timeout=30)
        assert await RequestThread(request("other"), service)(lambda: "at once") == "at once"
        assert not begun.acquire(blocking=False), "no more of them began"
        for task in busy:  # a client that leaves does not free the place of work that goes on
            task.cancel()
        await asyncio.wait(busy)
        assert await RequestThread(request("other"), service)(lambda: "at once") == "at once"
        assert not begun.acquire(blocking=False)
        left = True
        go_on.set()
        assert await asyncio.gather(*waiting) == ["done"] * 50
        ended = await asyncio.gather(*leaving, return_exceptions=True)
        assert {type(error) for error in ended} == {ClientDisconnect}, "nobody waits for these, so they are not begun"

    asyncio.run(crowd())
    assert most == PLACES


def test_work_that_is_given_up_while_somebody_listens_is_an_error(service: Service) -> None:
    """Streams that were cut by a stop of the service ended as if the answer were complete, in `data: [DONE]`."""

    def work(put: Callable[[str], None], _: Callable[[], bool]) -> None:
        put("The pump")
        service.stop()
        raise GivenUp

    async def read() -> list[str]:
        stream = stream_from_thread(request("acme"), service, work)
        pieces = [await first_of(stream)]
        with pytest.raises(Unavailable, match="Headrace is stopping"):
            await anext(stream)
        with pytest.raises(Unavailable, match="Headrace is stopping"):
            await first_of(stream_from_thread(request("acme"), service, lambda *_: work(lambda _: None, lambda: False)))
        return pieces

    assert asyncio.run(read()) == ["The pump"]


def test_a_question_that_waits_when_the_service_stops_is_given_up() -> None:
    nothing = cast(Any, None)
    queue = AdmissionQueue(4, 28)
    questions = QuestionService(nothing, queue, nothing, Traces(), nothing, nothing, lambda: True)
    caller = Caller("acme", "0123456789abcdef", frozenset({READ}), TenantLimits())
    for work in (questions.ask, questions.search):
        asked = questions.admit(caller, "Why?", {}, tenant=None, readers=(), user=None)
        with pytest.raises(GivenUp):
            work(asked, lambda _: None, lambda: False)
    with pytest.raises(GivenUp):
        questions.embed(caller, ["Why?"], lambda _: None, lambda: False, kind="query")
    assert queue.counts == (0, 0), "their slots are free"
