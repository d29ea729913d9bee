"""The web's door and the bounds around questions, without any server."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from typing import Any, cast

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from headrace import errors
from headrace.errors import HeadraceError, Overloaded, WrongUsage
from headrace.settings import Limits, Settings
from headrace.storage.ledger import Ledger, Row
from headrace.web.audit import Audit
from headrace.web.body import TENANT
from headrace.web.caller import Caller, Callers
from headrace.web.door import CSP, Door, body_of, status_of
from headrace.web.metrics import Metrics
from headrace.web.places import Place, Places
from headrace.web.rate import Rate
from headrace.web.serve import bound
from headrace.web.service import _pipeline, by_tier

TOKEN = "a-token"
KEY = f"hr_{'0' * 16}_{'s' * 43}"
LIMITS = Limits(requests_per_minute=3)
RATE = Rate()
LOCAL = {"host": "127.0.0.1:8484"}


class _Keys:
    """One key, of tenant acme, that may read."""

    def of(self, key: str, address: str) -> Caller | None:
        return Caller("acme", "0" * 16, frozenset({"read"}), LIMITS, address) if key == KEY else None


class _Desk:
    """What the door needs of a service, without its stores."""

    def __init__(self) -> None:
        self.callers = cast(Callers, _Keys())
        self.page = Caller("default", "page", frozenset({"read", "write", "admin"}), LIMITS)
        self.audit = Audit(cast(Any, None), cast(Any, None))
        self.metrics = Metrics(Ledger(), lambda: (0, 0))
        self.rate = RATE


async def inside(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"] == "/broken":
        raise RuntimeError("by design")
    body = (await receive())["body"]
    await PlainTextResponse(f"inside with {len(body)} bytes")(scope, receive, send)


def knock(
    path: str = "/v1/runs", method: str = "GET", query: str = "", pieces: tuple[bytes, ...] = (b"",), **headers: str
) -> tuple[int, dict[str, str], str]:
    """One request through the door; returns status, headers and body."""
    sent: list[Message] = []
    waiting = list(pieces)

    async def receive() -> Message:
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    async def send(message: Message) -> None:
        sent.append(message)

    given = {**LOCAL, **headers}
    scope: dict[str, Any] = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items()],
    }
    asyncio.run(Door(inside, token=TOKEN, desk=_Desk(), body_bytes=100, document_bytes=1_000)(scope, receive, send))
    told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], told, b"".join(message.get("body", b"") for message in sent[1:]).decode()


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
        {"cookie": "headrace-00000000=x"},
    ],
)
def test_without_the_token_nothing_opens(headers: dict[str, str]) -> None:
    status, told, body = knock(**headers)
    assert status == 401
    assert told["www-authenticate"] == "Bearer"
    assert json.loads(body)["error"]["type"] == "authentication_error"


def test_a_browser_swaps_the_token_for_a_cookie() -> None:
    status, headers, _ = knock("/", query=f"token={TOKEN}")
    assert (status, headers["location"]) == (303, "/")
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert knock("/", cookie=cookie.split(";")[0])[0] == 200
    assert knock("/", query="token=wrong")[0] == 401
    assert knock("/v1/runs", query=f"token={TOKEN}")[0] == 401, "the token in an address opens the page only"


def test_another_page_cannot_use_the_cookie() -> None:
    cookie = knock("/", query=f"token={TOKEN}")[1]["set-cookie"].split(";")[0]
    assert knock(method="POST", cookie=cookie, origin="http://127.0.0.1:8484")[0] == 200
    assert knock(method="POST", cookie=cookie, origin="http://127.0.0.1:9999")[0] == 403
    assert knock(method="POST", cookie=cookie, origin="null")[0] == 403


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8484", "127.0.0.1.evil.example", "localhost@evil", ""])
def test_only_this_machine_may_be_named(host: str) -> None:
    status, _, body = knock("/health", host=host, authorization=f"Bearer {TOKEN}")
    assert status == 421
    assert "127.0.0.1" in json.loads(body)["error"]["message"]


def test_a_key_opens_until_its_tenant_has_sent_enough() -> None:
    assert [knock(authorization=f"Bearer {KEY}")[0] for _ in range(4)] == [200, 200, 200, 429]
    status, headers, body = knock(authorization=f"Bearer {KEY}")
    assert status == 429
    assert 0 < int(headers["retry-after"]) <= 21
    assert json.loads(body)["error"]["type"] == "rate_limit_error"
    assert knock(authorization=f"Bearer {TOKEN}")[0] == 200, "the page's owner is not counted"


def test_a_document_is_refused_before_it_is_taken_in() -> None:
    async def never() -> Message:
        raise AssertionError("its body was read")

    RATE._buckets.clear()
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"authorization", f"Bearer {KEY}".encode())]
    scope = {"type": "http", "method": "PUT", "path": "/v1/documents/a", "query_string": b"", "headers": headers}
    asyncio.run(Door(inside, token=TOKEN, desk=_Desk(), body_bytes=100, document_bytes=1_000)(scope, never, send))
    assert sent[0]["status"] == 403


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


def test_health_needs_no_token() -> None:
    assert knock("/health", host="localhost:1")[0] == 200


def test_bodies_are_bounded_however_they_come() -> None:
    opened = {"authorization": f"Bearer {TOKEN}"}
    assert knock(pieces=(b"x" * 60, b"x" * 40), **opened)[2] == "inside with 100 bytes"
    assert knock(pieces=(b"x" * 60, b"x" * 41), **opened)[0] == 413
    assert knock(pieces=(b"x" * 101,) * 50, **opened)[0] == 413


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
    assert body_of(error)["error"]["code"] == code


def test_tenants_are_named_as_in_the_settings() -> None:
    assert Settings.model_json_schema()["properties"]["tenant"]["pattern"] == TENANT


def test_places_are_bounded_and_given_in_order() -> None:
    places = Places(at_once=1, waiting=2)
    first, second, third = (places.enter() for _ in range(3))
    assert places.counts == (1, 2)
    with pytest.raises(Overloaded, match="3 questions"):
        places.enter()
    turns: list[str] = []

    def take(place: Place, name: str) -> None:
        assert places.wait(place, lambda: False)
        turns.append(name)
        places.leave(place)

    threads = [threading.Thread(target=take, args=(place, name)) for place, name in ((third, "third"), (second, "second"))]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    assert turns == []
    take(first, "first")
    for thread in threads:
        thread.join(5)
    assert turns == ["first", "second", "third"]
    assert places.counts == (0, 0)


def test_a_tenant_cannot_fill_the_queue() -> None:
    places = Places(at_once=2, waiting=2)
    greedy = [places.enter("greedy", 3) for _ in range(3)]
    with pytest.raises(Overloaded, match="3 questions"):
        places.enter("greedy", 3)
    another = places.enter("another", 3)
    late = places.enter("late", 3)  # all four places are taken, but this tenant has none
    with pytest.raises(Overloaded, match="as this machine takes"):
        places.enter("late", 3)
    places.leave(greedy[0])
    assert not greedy[2].begun, "the tenant that has one question worked on waits for those that have none"
    assert another.begun
    places.leave(another)
    assert late.begun
    assert places.counts == (2, 1)


def test_waiting_ends_when_nobody_listens() -> None:
    places = Places(at_once=1, waiting=1)
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


def test_a_stage_both_pipelines_have_does_not_tell_them_apart() -> None:
    _, inference = _pipeline("inference")
    _, training = _pipeline("training")
    assert not inference & training
    assert {"retrieve", "generate"} <= inference
    assert {"finetune", "promote"} <= training
    with pytest.raises(WrongUsage, match="inference, training"):
        _pipeline("nothing")
