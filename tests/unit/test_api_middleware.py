"""The web's door and the bounds around questions, without any server."""

from __future__ import annotations

import asyncio
import hashlib
import json
import selectors
import socket
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from headrace import errors
from headrace.answering.engine import NOT_STORED
from headrace.answering.unrecorded import NOTE
from headrace.api.admission import AdmissionQueue, Rate, Strangers, Ticket
from headrace.api.answers import note_for
from headrace.api.app import bound
from headrace.api.audit import Audit
from headrace.api.auth import Caller, Callers
from headrace.api.errors import body_of
from headrace.api.live import by_tier
from headrace.api.middleware import CSP, AuthMiddleware, CrossOriginMiddleware
from headrace.api.routes.questions import AskRequest
from headrace.api.schemas import TENANT
from headrace.api.telemetry import ServiceMetrics
from headrace.errors import HeadraceError, Overloaded, WrongUsage
from headrace.explain.diagram.recorded import drawn_from, measured
from headrace.models.http import malformed, status_of
from headrace.models.server.middleware import ModelAuthMiddleware as ModelsDoor
from headrace.models.server.middleware import ModelServerMetrics as ModelsMetrics
from headrace.models.server.middleware import error_response_for as models_error_response
from headrace.settings import ApiSettings, Settings, TenantLimits
from headrace.storage.ledger import Ledger, Row

TOKEN = "a-token"
KEY = f"hr_{'0' * 16}_{'s' * 43}"
LIMITS = TenantLimits(requests_per_minute=3)
LOCAL = {"host": "127.0.0.1:8484"}


class _Keys:
    """One key of each tenant: acme's may read, the others may write too."""

    def lookup(self, key: str, address: str) -> Caller | None:
        if key == KEY:
            return Caller("acme", "0" * 16, frozenset({"read"}), LIMITS, address)
        tenant = key.removeprefix("hr_of_")
        return Caller(tenant, "1" * 16, frozenset({"read", "write"}), TenantLimits(), address) if tenant != key else None

    def still_valid(self, key: str) -> bool:
        return self.lookup(key, "") is not None


class _Guarded:
    """What the door needs of a service, without its stores."""

    def __init__(self, rate: Rate | None = None) -> None:
        self.callers = cast(Callers, _Keys())
        self.page = Caller("default", "page", frozenset({"read", "write", "admin"}), LIMITS)
        self.audit = Audit(cast(Any, None), cast(Any, None))
        self.metrics = ServiceMetrics(Ledger(), lambda: (0, 0))
        self.rate = rate or Rate(lambda: 0.0)
        self.strangers = Strangers(lambda: 0.0)


async def inside(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"] == "/broken":
        raise RuntimeError("by design")
    body = (await receive())["body"]
    await PlainTextResponse(f"inside with {len(body)} bytes")(scope, receive, send)


async def unheard(_: Message) -> None:
    """Whoever asked does not listen."""


Told = tuple[int, dict[str, str], str]


def door(app: ASGIApp = inside, *, rate: Rate | None = None, **more: Any) -> AuthMiddleware:
    return AuthMiddleware(app, token=TOKEN, service=_Guarded(rate), body_bytes=100, document_bytes=1_000, **more)


async def passed(
    through: ASGIApp, receive: Receive, path: str = "/v1/runs", method: str = "GET", query: str = "", **headers: str
) -> Told:
    """One request through a door; returns status, headers and body."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in {**LOCAL, **headers}.items()],
    }
    await through(scope, receive, send)
    told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], told, b"".join(message.get("body", b"") for message in sent[1:]).decode()


def knock(
    path: str = "/v1/runs",
    method: str = "GET",
    query: str = "",
    pieces: tuple[bytes, ...] = (b"",),
    through: ASGIApp | None = None,
    **headers: str,
) -> Told:
    """One request whose body comes at once, through a door of its own unless one is given."""
    waiting = list(pieces)

    async def receive() -> Message:
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    return asyncio.run(passed(through or door(), receive, path, method, query, **headers))


class _Leaping(selectors.DefaultSelector):
    """Waits for nothing but other threads: where it would wait for a time, that time has passed at once."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(None if timeout is None else 0)
        self.now += timeout if timeout and not found else 0
        return found


def minutes(work: Coroutine[Any, Any, Told]) -> Told:
    """What a coroutine returns, in an event loop whose clock leaps over every wait."""
    selector = _Leaping()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(work)


def test_the_token_opens() -> None:
    status, headers, body = knock(authorization=f"Bearer {TOKEN}")
    assert (status, body) == (200, "inside with 0 bytes")
    assert headers["content-security-policy"] == CSP
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer another"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": "Bearer \xff"},
        {"cookie": f"headrace={TOKEN}"},
        {"cookie": f"headrace-{hashlib.sha256(TOKEN.encode()).hexdigest()[:8]}={TOKEN}"},
    ],
)
def test_without_the_token_nothing_opens(headers: dict[str, str]) -> None:
    status, told, body = knock(**headers)
    assert status == 401
    assert told["www-authenticate"] == "Bearer"
    assert json.loads(body)["error"]["type"] == "authentication_error"


def test_the_page_itself_needs_no_token_and_gives_nothing_for_one() -> None:
    for path in ("/", "/page/main.js", "/page/base.css"):
        status, headers, _ = knock(path, query=f"token={TOKEN}")
        assert status == 200
        assert "set-cookie" not in headers
        assert knock(path, "POST")[0] == 401
    assert knock("/v1/runs", query=f"token={TOKEN}")[0] == 401, "a token in an address opens nothing"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8484", "127.0.0.1.evil.example", "localhost@evil", ""])
def test_only_this_machine_may_be_named(host: str) -> None:
    status, _, body = knock("/health", host=host, authorization=f"Bearer {TOKEN}")
    assert status == 421
    assert "127.0.0.1" in json.loads(body)["error"]["message"]


CHAT = "https://chat.example.net"


def crossed(method: str, origin: str, **headers: str) -> Told:
    """A request that a browser sends for a web page of another server, where the pages of `CHAT` may call."""
    return knock("/v1/ask", method, through=CrossOriginMiddleware(door(), origins=(CHAT,)), origin=origin, **headers)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_a_browser_may_send_what_a_web_page_of_an_allowed_origin_asks(method: str) -> None:
    """OpenAI's client names its platform in headers of its own, which the browser asks for, too."""
    wanted = {"access-control-request-method": method}
    wanted["access-control-request-headers"] = "authorization, content-type, idempotency-key, x-stainless-os"
    status, headers, _ = crossed("OPTIONS", CHAT, **wanted)
    assert (status, headers["access-control-allow-origin"]) == (200, CHAT)
    assert method in headers["access-control-allow-methods"].split(", ")
    assert set(headers["access-control-allow-headers"].split(", ")) >= {"x-stainless-os", "authorization", "idempotency-key"}
    assert "access-control-allow-credentials" not in headers, "a browser's cookies open nothing"
    status, headers, body = crossed(method, CHAT, authorization="Bearer hr_of_acme")
    assert (status, body) == (200, "inside with 0 bytes")
    assert headers["access-control-allow-origin"] == CHAT
    assert headers["access-control-expose-headers"] == "Retry-After"


def test_a_web_page_of_an_allowed_origin_reads_why_it_was_refused() -> None:
    status, headers, body = crossed("POST", CHAT)
    assert (status, headers["access-control-allow-origin"]) == (401, CHAT)
    assert json.loads(body)["error"]["type"] == "authentication_error"


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://chat.example.net", f"{CHAT}:8443", f"{CHAT}.evil.example", "null"]
)
def test_a_browser_shows_nothing_to_a_web_page_of_another_origin(origin: str) -> None:
    status, headers, _ = crossed("OPTIONS", origin, **{"access-control-request-method": "POST"})
    assert status == 400
    assert "access-control-allow-origin" not in headers
    assert "access-control-allow-origin" not in crossed("GET", origin, authorization=f"Bearer {TOKEN}")[1]


@pytest.mark.parametrize("wrong", ["chat.example.net", f"{CHAT}/", f"{CHAT}/page", "ftp://chat.example.net", ""])
def test_what_no_browser_sends_as_an_origin_is_refused_in_the_settings(wrong: str) -> None:
    assert ApiSettings(origins=(CHAT, "http://127.0.0.1:3000", "*")).origins[0] == CHAT
    with pytest.raises(ValidationError, match="is not an origin; write scheme, name and port alone"):
        ApiSettings(origins=(wrong,))


@pytest.mark.parametrize("name", ["query", "body", "path", "colour"])
def test_a_wrong_field_is_named_whatever_it_is_called(name: str) -> None:
    with pytest.raises(ValidationError) as wrong:
        AskRequest.model_validate({"question": "gold?", name: 1})
    faults = [{**fault, "loc": ("body", *fault["loc"])} for fault in wrong.value.errors()]
    answer = asyncio.run(malformed(cast(Any, None), RequestValidationError(faults)))
    error = json.loads(bytes(answer.body))["error"]
    assert (error["param"], error["message"]) == (name, f"{name}: Extra inputs are not permitted.")


def test_names_of_the_settings_may_be_named_too() -> None:
    through = door(hosts=("127.0.0.1", "rag.example.net", "[2001:db8::1]"))
    for host, status in (("rag.example.net", 200), ("RAG.example.net:443", 200), ("[2001:db8::1]:8484", 200), ("localhost", 421)):
        assert knock("/health", host=host, through=through)[0] == status
    assert knock("/health", host="ragXexample.net", through=through)[0] == 421, "a full stop is one"


def test_a_key_opens_until_its_tenant_has_sent_enough() -> None:
    now = [0.0]
    through = door(rate=Rate(lambda: now[0]))

    def status(key: str = KEY) -> int:
        return knock(through=through, authorization=f"Bearer {key}")[0]

    assert [status() for _ in range(4)] == [200, 200, 200, 429]
    now[0] = 4.5  # of the 20 s after which the next may come
    refused, headers, body = knock(through=through, authorization=f"Bearer {KEY}")
    assert (refused, headers["retry-after"]) == (429, "16"), "15.5 s, in whole ones"
    assert json.loads(body)["error"]["type"] == "rate_limit_error"
    assert status(TOKEN) == 200, "the page's owner is not counted"
    now[0] += 16
    assert [status(), status()] == [200, 429]


def test_a_document_is_refused_before_it_is_taken_in() -> None:
    async def never() -> Message:
        raise AssertionError("its body was read")

    for path in ("/v1/documents/a", "/v1/documents"):
        assert asyncio.run(passed(door(), never, path, "PUT", authorization=f"Bearer {KEY}"))[0] == 403


def test_a_rate_refills_steadily() -> None:
    now = [0.0]
    rate = Rate(lambda: now[0])
    for _ in range(60):
        rate.take("a", 60)
    with pytest.raises(Overloaded) as refused:
        rate.take("a", 60)
    assert refused.value.retry_s == pytest.approx(1.0)
    rate.take("b", 60)
    now[0] = 1.0
    rate.take("a", 60)
    with pytest.raises(Overloaded):
        rate.take("a", 60)


@pytest.mark.parametrize(("per_minute", "passed_s", "wait_s"), [(60, 0.25, 0.75), (30, 0.5, 1.5), (1, 0.0, 60.0)])
def test_a_refusal_says_to_the_moment_when_the_next_may_come(per_minute: int, passed_s: float, wait_s: float) -> None:
    now = [0.0]
    rate = Rate(lambda: now[0])
    for _ in range(per_minute):
        rate.take("a", per_minute)
    now[0] = passed_s
    with pytest.raises(Overloaded) as refused:
        rate.take("a", per_minute)
    assert refused.value.retry_s == wait_s
    now[0] += wait_s - 0.125
    with pytest.raises(Overloaded):
        rate.take("a", per_minute)
    now[0] += 0.125
    rate.take("a", per_minute)


def test_a_quiet_tenant_has_a_minutes_requests_and_no_more() -> None:
    now = [0.0]
    rate = Rate(lambda: now[0])
    rate.take("a", 3)
    now[0] = 1_000.0
    for _ in range(3):
        rate.take("a", 3)
    with pytest.raises(Overloaded):
        rate.take("a", 3)


class Uploads:
    """Uploads through one door, whose bodies stay away until the test lets them come."""

    def __init__(self) -> None:
        self.door = door()
        self.rest = asyncio.Event()

    async def begin(self, tenant: str, *, breaks: bool = False) -> asyncio.Task[Told]:
        """An upload that is refused, or being taken in, by the time this returns."""
        reading = asyncio.Event()

        async def receive() -> Message:
            reading.set()
            await self.rest.wait()
            if breaks:
                raise RuntimeError("by design")
            return {"type": "http.request", "body": b"whole", "more_body": False}

        asked = passed(self.door, receive, "/v1/documents/a", "PUT", authorization=f"Bearer hr_of_{tenant}")
        task = asyncio.create_task(asked)
        read = asyncio.create_task(reading.wait())
        await asyncio.wait([task, read], return_when=asyncio.FIRST_COMPLETED)
        read.cancel()
        return task

    async def end(self, *tasks: asyncio.Task[Told]) -> list[int]:
        """Let the bodies come; the statuses of these uploads."""
        self.rest.set()
        statuses = [(await task)[0] for task in tasks]
        self.rest.clear()
        return statuses


def test_a_tenant_sends_two_documents_at_once_and_the_third_is_sent_away() -> None:
    async def told() -> None:
        uploads = Uploads()
        first, second = await uploads.begin("a"), await uploads.begin("a")
        assert not first.done()
        assert not second.done()
        status, headers, body = (await uploads.begin("a")).result()
        assert (status, headers["retry-after"]) == (429, "2")
        assert "Send them one after another." in json.loads(body)["error"]["message"]
        other = await uploads.begin("b")
        assert not other.done(), "another tenant's is taken in"
        assert await uploads.end(first, second, other) == [200, 200, 200]
        again = await uploads.begin("a")
        assert await uploads.end(again) == [200], "what has ended makes room"

    asyncio.run(told())


def test_four_documents_are_taken_in_at_once_whoever_sends_them() -> None:
    async def told() -> None:
        uploads = Uploads()
        taken = [await uploads.begin(tenant) for tenant in ("a", "a", "b", "c")]
        assert not any(task.done() for task in taken)
        assert (await uploads.begin("d")).result()[0] == 429
        asking = passed(uploads.door, nothing, authorization="Bearer hr_of_d")
        assert (await asking)[0] == 200, "what is no document is not counted among them"
        assert await uploads.end(*taken) == [200] * 4
        last = await uploads.begin("d")
        assert await uploads.end(last) == [200]

    asyncio.run(told())


def test_an_upload_that_fails_gives_its_place_back() -> None:
    async def told() -> None:
        uploads = Uploads()
        broken = [await uploads.begin("a", breaks=True) for _ in range(2)]
        assert await uploads.end(*broken) == [500, 500]
        whole = [await uploads.begin("a") for _ in range(2)]
        assert await uploads.end(*whole) == [200, 200]

    asyncio.run(told())


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_half_a_body_is_no_body(method: str) -> None:
    def leaving() -> Receive:
        pieces = iter([{"type": "http.request", "body": b"half", "more_body": True}, {"type": "http.disconnect"}])

        async def receive() -> Message:
            return next(pieces)

        return receive

    async def send(message: Message) -> None:
        raise AssertionError("nobody is there to be answered")

    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("half a body was taken for a whole one")

    headers = [(b"host", b"localhost"), (b"authorization", f"Bearer {TOKEN}".encode())]
    scope = {"type": "http", "method": method, "path": "/v1/documents/a", "query_string": b"", "headers": headers}
    service, counted = _Guarded(), ModelsMetrics()
    asyncio.run(AuthMiddleware(never, token=TOKEN, service=service, body_bytes=100, document_bytes=1_000)(scope, leaving(), send))
    assert b'status="499",tenant="default"} 1.0' in service.metrics.text()
    asyncio.run(ModelsDoor(never, key=TOKEN, metrics=counted)({**scope, "path": "/v1/embeddings"}, leaving(), send))
    assert counted.requests == {("/v1/embeddings", 499): 1}


async def nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


@pytest.mark.parametrize(("path", "method"), [("/v1/runs", "GET"), ("/v1/documents/a", "PUT")])
@pytest.mark.parametrize(("seconds", "status"), [(59.0, 200), (61.0, 408)])
def test_a_body_has_a_minute_to_come(path: str, method: str, seconds: float, status: int) -> None:
    pieces = iter([(0.0, b"the beginning"), (seconds, b" and the rest")])

    async def receive() -> Message:
        wait_s, body = next(pieces)
        await asyncio.sleep(wait_s)
        return {"type": "http.request", "body": body, "more_body": wait_s == 0.0}

    found, headers, body = minutes(passed(door(), receive, path, method, authorization=f"Bearer {TOKEN}"))
    assert found == status
    assert headers["content-security-policy"] == CSP
    if status == 408:
        assert json.loads(body)["error"] == {
            "message": "The body did not come within 60 s. Send it faster.",
            "type": "invalid_request_error",
            "param": None,
            "code": "timeout",
        }
    else:
        assert body == "inside with 26 bytes"


def test_health_needs_no_token() -> None:
    assert knock("/health", host="localhost:1")[0] == 200


LONG = "x" * 60_000


@pytest.mark.parametrize(
    ("told", "kept"),
    [("", "127.0.0.1"), ("10.1.2.3", "10.1.2.3"), ("2001:db8::7", "2001:db8::7"), (LONG, ""), (f"fe80::1%{LONG}", "fe80::1")],
)
def test_an_address_that_is_none_is_not_kept(told: str, kept: str) -> None:
    """Whoever reaches the port says where he comes from (X-Forwarded-For): 64 KiB of it with each request filled the audit."""
    through = door()
    scope = {"type": "http", "method": "GET", "path": "/v1/runs", "query_string": b"", "client": ("127.0.0.1", 1)}
    for key in ("hr_wrong", KEY):
        headers = {**LOCAL, "authorization": f"Bearer {key}", "x-forwarded-for": told}
        scope |= {"headers": [(name.encode(), value.encode()) for name, value in headers.items()]}
        asyncio.run(ProxyHeadersMiddleware(cast(Any, through))(cast(Any, scope), cast(Any, nothing), cast(Any, unheard)))
    (line,) = cast(_Guarded, through._service).strangers.lines(all_of_them=True)
    assert line.by.address == cast(Any, scope)["caller"].address == kept


def test_nobody_waits_for_a_strangers_body() -> None:
    async def never() -> Message:
        raise AssertionError("it was asked for")

    for path in ("/health", "/", "/page/main.js", "/v1/runs"):
        assert asyncio.run(passed(door(), never, path))[0] == (401 if path == "/v1/runs" else 200)


def test_bodies_are_bounded_however_they_come() -> None:
    opened = {"authorization": f"Bearer {TOKEN}"}
    most = 1_000 + (64 << 10)  # of a document, and of the form it may come in
    assert knock("/v1/documents/a", "PUT", pieces=(b"x" * most,), **opened)[2] == f"inside with {most} bytes"
    assert knock("/v1/documents/a", "PUT", pieces=(b"x" * most, b"x"), **opened)[0] == 413
    assert knock(pieces=(b"x" * 60, b"x" * 40), **opened)[2] == "inside with 100 bytes"
    assert knock(pieces=(b"x" * 60, b"x" * 41), **opened)[0] == 413
    assert knock(pieces=(b"x" * 101,) * 50, **opened)[0] == 413


def test_a_large_body_is_counted_before_it_is_held() -> None:
    """512 bodies of 4 MB that came at the same time were 2 GB, and counted as soon as they had come."""
    chat, more = "/v1/chat/completions", b"x" * 100

    async def never() -> Message:
        raise AssertionError("its body was read")

    key = {"authorization": f"Bearer {KEY}"}  # three requests of 100 bytes a minute
    assert asyncio.run(passed(door(), never, chat, "POST", **key, **{"content-length": "301"}))[0] == 429
    assert knock(chat, "POST", pieces=(more, more), **key, **{"content-length": "200"})[2] == "inside with 200 bytes"
    assert knock(chat, "POST", pieces=(more,), **key, **{"content-length": "100"})[2] == "inside with 100 bytes"
    assert knock(chat, "POST", pieces=(more, more, more), **key)[2] == "inside with 300 bytes"
    pieces = [more] * 10

    async def receive() -> Message:
        return {"type": "http.request", "body": pieces.pop(), "more_body": bool(pieces)}

    assert asyncio.run(passed(door(), receive, chat, "POST", **key))[0] == 429
    assert len(pieces) == 6, "the one too many is the last that is read"


def test_what_nobody_foresaw_is_told_without_its_inside() -> None:
    status, headers, body = knock("/broken", authorization=f"Bearer {TOKEN}")
    assert status == 500
    assert "by design" not in body
    assert headers["content-security-policy"] == CSP


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.NothingIndexed("a"), 404, "nothing_indexed"),
        (errors.NotFound("a"), 404, "not_found"),
        (errors.WrongUsage("a"), 400, "wrong_usage"),
        (errors.Overloaded("a"), 429, "overloaded"),
        (errors.Unavailable("a"), 503, "unavailable"),
        (errors.LostRace("a"), 503, "lost_race"),
        (errors.RequestRefused("a"), 502, "request_refused"),
        (errors.StorageFull("a"), 507, "storage_full"),
        (errors.Forbidden("a"), 403, "forbidden"),
        (errors.QuotaReached("a"), 403, "quota_reached"),
        (errors.MissingPart("a"), 500, "missing_part"),
    ],
)
def test_each_error_has_its_status(error: HeadraceError, status: int, code: str) -> None:
    assert status_of(error) == status
    told = body_of(error, None)["error"]
    assert told["code"] == code
    assert (told["message"] == "a") == (status < 500), "what is inside is told to nobody but an admin"
    assert body_of(error, _Guarded().page)["error"]["message"] == "a"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.NotFound("a"), 404, "model_not_found"),
        (errors.RequestRefused("a"), 400, "invalid_value"),
        (errors.WrongUsage("a"), 400, "invalid_value"),
        (errors.MissingPart("a"), 503, "missing_part"),
        (errors.Unavailable("a"), 503, "unavailable"),
        (errors.Overloaded("a"), 429, "overloaded"),
        (errors.InvalidState("a", "b"), 500, "invalid_state"),
    ],
)
def test_the_model_server_says_itself_what_it_refuses(error: HeadraceError, status: int, code: str) -> None:
    answer = models_error_response(error)
    assert (answer.status_code, json.loads(bytes(answer.body))["error"]["code"]) == (status, code)


def test_a_model_that_is_busy_is_not_named_to_a_tenant() -> None:
    busy = Overloaded("http://127.0.0.1:4242/v1/ranking answered 429: no place.", hint="Try again in a moment.")
    told = body_of(busy, None)["error"]
    assert (told["code"], told["message"]) == (
        "overloaded",
        "The models are busy. Try again in a moment.",
    )
    assert "4242" in body_of(busy, _Guarded().page)["error"]["message"]


def test_why_a_reranker_was_left_out_is_an_admins_to_know() -> None:
    why = (
        "the re-ranker did not answer, so retrieval order is kept: http://127.0.0.1:4242/v1/ranking cannot be reached; it is down"
    )
    tenant = Caller("acme", "0" * 16, frozenset({"read"}), LIMITS)
    before = "the index was made with the embedder a, not b: full-text search answered alone"
    for note, told in (
        (why, "the re-ranker did not answer, so retrieval order is kept"),
        (f"{before}; {why}; {NOTE}", f"{before}; the re-ranker did not answer, so retrieval order is kept; {NOTE}"),
        (NOTE, NOTE),
        (
            f"{why}; {NOT_STORED}: No space left under /mnt; {NOTE}",
            f"the re-ranker did not answer, so retrieval order is kept; {NOT_STORED}; {NOTE}",
        ),
    ):
        assert note_for(note, tenant) == told
        assert note_for(note, _Guarded().page) == note
    assert note_for("", tenant) == ""


def test_tenants_are_named_as_in_the_settings() -> None:
    assert Settings.model_json_schema()["properties"]["tenant"]["pattern"] == TENANT


def test_places_are_bounded_and_given_in_order() -> None:
    places = AdmissionQueue(at_once=1, waiting=2)
    first, second, third = (places.enter() for _ in range(3))
    assert places.counts == (1, 2)
    with pytest.raises(Overloaded, match="3 questions"):
        places.enter()
    order: list[str] = []

    def take(place: Ticket, name: str) -> None:
        assert places.wait(place, lambda: False)
        order.append(name)
        places.leave(place)

    threads = [threading.Thread(target=take, args=(place, name)) for place, name in ((third, "third"), (second, "second"))]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    assert order == []
    take(first, "first")
    for thread in threads:
        thread.join(5)
    assert order == ["first", "second", "third"]
    assert places.counts == (0, 0)


def test_a_tenant_cannot_fill_the_queue() -> None:
    places = AdmissionQueue(at_once=2, waiting=2)
    greedy = [places.enter("greedy", 3) for _ in range(3)]
    with pytest.raises(Overloaded, match="3 questions"):
        places.enter("greedy", 3)
    another = places.enter("another", 3)
    late = places.enter("late", 3)  # all four places are taken, but this tenant has none
    with pytest.raises(Overloaded, match="limit of this machine"):
        places.enter("late", 3)
    places.leave(greedy[0])
    assert not greedy[2].begun, "the tenant that has one question worked on waits for those that have none"
    assert another.begun
    places.leave(another)
    assert late.begun
    assert places.counts == (2, 1)


def test_waiting_ends_when_nobody_listens() -> None:
    places = AdmissionQueue(at_once=1, waiting=1)
    places.enter()
    assert not places.wait(places.enter(), lambda: True)


def test_a_taken_port_is_told() -> None:
    with bound(0) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(WrongUsage, match=f"Port {port} is taken"):
            bound(port)
        assert listening.getsockname()[0] == "127.0.0.1"
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


def test_totals_name_every_tier() -> None:
    def row(direction: str, tier: str, size: int, estimated: bool) -> Row:
        return Row("retrieve", "chunks", tier, direction, "t", 2, size, 1.0, 1.0, 1.0, estimated)

    totals = {total["tier"]: total for total in by_tier([row("read", "vector", 5, True), row("write", "vector", 7, False)])}
    assert list(totals) == ["stream", "file", "vector", "table", "object"]
    assert totals["vector"] == {"tier": "vector", "ops": 4, "read_bytes": 5, "written_bytes": 7, "estimated": True}
    assert totals["file"]["ops"] == 0


def test_a_stage_both_pipelines_have_does_not_tell_them_apart(tmp_path: Path) -> None:
    def drawn(*moved: str) -> list[str]:
        return drawn_from([dict(zip(("stage", "direction", "bytes"), (*one.split(), 9), strict=True)) for one in moved])

    assert drawn("land read", "feedback write", "answer write") == []
    assert drawn("land read", "retrieve read") == ["inference"]
    assert drawn("land read", "prepare read", "finetune read") == ["training"]
    assert drawn("embed write", "finetune read") == ["inference", "training"]
    with pytest.raises(WrongUsage, match="inference, training"):
        measured(tmp_path, "nothing")
