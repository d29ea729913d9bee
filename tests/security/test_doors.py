"""Doors without a key: what anybody on this machine can do to the API, and what of it comes to nothing."""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
import socket
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from httpx_sse import connect_sse
from traffic import until

from headrace.api import auth as caller
from headrace.api.admission import PER_MINUTE, Strangers
from headrace.api.audit import Audit
from headrace.api.page import FILES
from headrace.api.routes import runs
from headrace.models.http import HEAD_S
from headrace.storage.metadata import Metadata


def connected(api: Any) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(api.url.rpartition(":")[2])), timeout=30)


def answered(api: Any, *lines: str, body: bytes = b"") -> bytes:
    """What is answered to a request sent as it is written here, until the connection is closed."""
    with connected(api) as connection:
        connection.sendall("\r\n".join((*lines, "Host: 127.0.0.1", "Connection: close", "", "")).encode() + body)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def test_half_open_connections_keep_nobody_out(api: Any) -> None:
    """More of them than there are descriptors, as on a system that gives few."""
    said = api.log.stat().st_size
    process = psutil.Process(api.process.pid)
    limits = process.rlimit(psutil.RLIMIT_NOFILE)
    process.rlimit(psutil.RLIMIT_NOFILE, (process.num_fds() + 1000, limits[1]))
    halves = []
    try:
        for _ in range(1_200):
            halves.append(connected(api))
            halves[-1].sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        client = api.client(api.keys["acme"])
        for _ in range(5):
            assert httpx.get(f"{api.url}/health", trust_env=False, timeout=10).status_code == 200
            assert client.get("/v1/models").status_code == 200
    finally:
        for half in halves:
            half.close()
        process.rlimit(psutil.RLIMIT_NOFILE, limits)
    assert api.log.stat().st_size - said < 1_000, "and nobody's disk is filled with what is said of it"


def crumbs(api: Any, *lines: str, size: int) -> bytes:
    """What is answered to a body in 5,000 chunks of `size` bytes that does not end; the door has to be shut before it is late."""
    with connected(api) as connection:
        connection.settimeout(HEAD_S / 2)
        connection.sendall("\r\n".join((*lines, "Host: 127.0.0.1", "Transfer-Encoding: chunked", "", "")).encode())
        said = connection.recv(1 << 16) if lines[0].startswith("GET") else b""
        with contextlib.suppress(ConnectionError):
            connection.sendall((b"%x\r\n" % size + b"A" * size + b"\r\n") * 5_000)
            said += b"".join(iter(lambda: connection.recv(1 << 16), b""))
        return said


def test_a_body_in_crumbs_keeps_nobody_waiting(api: Any) -> None:
    """A chunk costs as much whatever is in it: a few connections that sent single bytes, without a key, stopped all answers."""
    bearer = f"Authorization: Bearer {api.keys['acme']}"
    for size in (1, 33, 500):
        assert crumbs(api, "GET /health HTTP/1.1", size=size).startswith(b"HTTP/1.1 200")
    crumbs(api, "PUT /v1/documents/crumbs.txt HTTP/1.1", bearer, size=20)
    body = b"".join(b"1\r\nA\r\n" for _ in range(1_100)) + b"0\r\n\r\n"
    told = answered(api, "POST /v1/search HTTP/1.1", bearer, "Transfer-Encoding: chunked", body=body)
    assert told.startswith(b"HTTP/1.1 400"), told
    assert json.loads(told.partition(b"\r\n\r\n")[2])["error"]["code"] == "tiny_chunks"
    # A document that a client sends line by line comes in.
    lines = (f"The gate number {number:06} is closed.\n".encode() for number in range(3_000))
    assert api.client(api.keys["acme"]).put("/v1/documents/line-by-line.txt", content=lines).status_code == 202


def test_methods_that_nobody_knows_are_one_label(api: Any) -> None:
    def series() -> set[str]:
        text = api.client().get("/metrics").text
        return {line.rpartition(" ")[0] for line in text.splitlines() if line.startswith("headrace_requests_total")}

    with httpx.Client(base_url=api.url, trust_env=False) as stranger:
        stranger.request("BREW", "/v1/runs")
        before = series()
        for _ in range(50):
            stranger.request(secrets.token_hex(8).upper(), "/v1/runs")
            stranger.request(secrets.token_hex(8).upper(), "/health", headers={"Host": "evil.example"})
            api.client().request(secrets.token_hex(8).upper(), "/v1/runs")
    with connected(api) as connection:
        connection.sendall(b"Z" * 20_000 + b" /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        connection.recv(1 << 16)
    assert len(api.client().get("/metrics").content) < 1 << 20
    grown = series() - before
    assert len(grown) <= 4, grown
    assert all('method="other"' in name or 'method="GET"' in name for name in grown)


def test_many_wrong_keys_are_told_to_stop_and_a_right_one_is_let_in(api: Any) -> None:
    own = api.client(api.keys["acme"])
    with httpx.Client(base_url=api.url, trust_env=False) as stranger:
        wrong = [
            stranger.get("/v1/models", headers={"Authorization": f"Bearer hr_{secrets.token_hex(8)}_{secrets.token_urlsafe(32)}"})
            for _ in range(PER_MINUTE + 5)
        ]
    assert [response.status_code for response in wrong[-5:]] == [429] * 5
    assert all(1 <= int(response.headers["retry-after"]) <= 61 for response in wrong[-5:])
    assert {response.status_code for response in wrong} <= {401, 429}
    assert own.get("/v1/models").status_code == 200, "who shares the address is not kept out"


def test_wrong_keys_are_one_row_of_the_audit_for_a_minute_and_address(api: Any, tmp_path: Path) -> None:
    now = 0.0
    strangers = Strangers(lambda: now)
    for address, tries in (("127.0.0.1", 500), ("10.0.0.7", 1)):
        for _ in range(tries):
            strangers.wrong(address)
    kept = api.endpoints.metadata.model_copy(update={"file": tmp_path / "metadata.db"})
    metadata = Metadata(api.endpoints.model_copy(update={"metadata": kept}))
    audit = Audit(metadata, None, strangers)  # type: ignore[arg-type]  # nothing is moved into the table here
    audit._keep_waiting()
    assert metadata.claim() is None, "the minute is not over"
    now = 61.0
    strangers.wrong("127.0.0.1")
    audit._keep_waiting()
    _, rows = metadata.claim() or ("", [])
    metadata.close()
    told = {(row["action"], row["address"], row["resource"], row["outcome"]) for row in rows}
    assert told == {
        ("key.refused", "127.0.0.1", "500 tries in a minute", "invalid_api_key"),
        ("key.refused", "10.0.0.7", "1 try in a minute", "invalid_api_key"),
    }
    for number in range(20_000):
        strangers.wrong(f"10.1.{number >> 8}.{number & 255}")
    assert len(strangers._minutes) <= 1_001, "however many addresses there are"
    assert [strangers.wrong("10.9.9.9") for _ in range(2)][-1], "which then share what is allowed"


def test_a_request_that_was_refused_for_its_number_is_in_the_audit_with_its_route(api: Any) -> None:
    api.tenant("hasty", requests_per_minute=1)
    client = api.client(api.mint("hasty", "read", "write")[0])
    client.get("/v1/models")
    assert client.put("/v1/documents/a.md", content=b"a").status_code == 429
    rows: list[dict[str, Any]] = []

    def there() -> bool:
        rows[:] = api.sql("SELECT action, outcome FROM audit WHERE tenant = 'hasty'")
        return {"action": "PUT /v1/documents/{uri:uri}", "outcome": "overloaded"} in rows

    until(60, there, lambda: rows)


def test_whatever_is_refused_is_in_the_audit(api: Any) -> None:
    """A key of one tenant that tries what is an admin's, or paths that may exist, left no line on routes the page asks for."""
    api.tenant("curious")
    client = api.client(api.mint("curious", "read")[0])
    tried = {"/v1/registry": 403, "/v1/ledger": 403, "/v1/runs": 403, "/metrics": 403, "/v1/backup": 404, "/v1/models/gpt": 404}
    assert {path: client.get(path).status_code for path in tried} == tried
    assert client.get("/v1/models").status_code == 200
    said = {("GET /v1/models/{name}", "model_not_found"), ("GET other", "404")}
    said |= {(f"GET {path}", "forbidden") for path, status in tried.items() if status == 403}
    rows: set[tuple[str, str]] = set()

    def there() -> bool:
        found = api.sql("SELECT action, outcome FROM audit WHERE tenant = 'curious'")
        rows.update((row["action"], row["outcome"]) for row in found)
        return rows >= said

    until(60, there, lambda: rows)
    assert rows == said


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
def test_health_answers_head_without_a_body(api: Any, path: str) -> None:
    told = answered(api, f"HEAD {path} HTTP/1.1")
    head, _, body = told.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert body == b""


def test_a_request_that_can_be_read_in_two_ways_is_refused(api: Any) -> None:
    mine, read = f"Authorization: Bearer {api.token}", f"Authorization: Bearer {api.keys['acme']}"
    for lines in ((mine, read), (read, mine), (mine, mine)):
        told = answered(api, "GET /v1/models HTTP/1.1", *lines)
        assert told.startswith(b"HTTP/1.1 400"), told
        assert b"ambiguous_request" in told
    smuggled = b"0\r\n\r\nGET /v1/runs HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    head = ("POST /v1/search HTTP/1.1", mine, f"Content-Length: {len(smuggled)}", "Transfer-Encoding: chunked")
    told = answered(api, *head, body=smuggled)
    assert told.startswith(b"HTTP/1.1 400")
    assert told.count(b"HTTP/1.1 ") == 1, "what follows is no request"


def test_a_body_that_is_no_object_is_at_no_field_of_it(api: Any) -> None:
    for body in (b"question", b"[]", b'"a"'):
        told = api.client().post("/v1/search", content=body, headers={"Content-Type": "application/json"})
        assert (told.status_code, told.json()["error"]["param"]) == (400, None), told.text
    assert api.client().post("/v1/search", json={"question": ""}).json()["error"]["param"] == "question"


def test_the_page_gives_a_browser_nothing_that_it_would_take_elsewhere(api: Any) -> None:
    """A cookie goes to every server on 127.0.0.1, whatever its port: so there is none, and none opens anything."""
    with httpx.Client(base_url=api.url, trust_env=False) as browser:
        for path in (f"/?token={api.token}", "/", "/page/main.js", "/page/lib/api.js"):
            assert "set-cookie" not in browser.get(path).headers
        assert not browser.cookies
        for name in ("token", "headrace", "headrace-token"):
            for value in (api.token, api.keys["acme"], api.keys["admin"]):
                assert browser.get("/v1/models", headers={"Cookie": f"{name}={value}"}).status_code == 401
    assert f"/#token={api.token}" in api.log.read_text(), "what stands behind # is sent to no server"
    for path, (content, _) in FILES.items():
        assert b"document.cookie" not in content, path
        assert b"localStorage" not in content, path


def test_the_stream_of_a_revoked_key_ends(api: Any) -> None:
    key, key_id = api.mint("acme", "admin")
    with connect_sse(api.client(key), "GET", "/v1/events") as source:
        events = source.iter_sse()
        next(events)
        assert api.client().delete(f"/v1/keys/{key_id}").status_code == 200
        left = len(list(itertools.islice(events, 10)))
    assert left < 10, "it ends"
    assert caller._STREAM_S + runs._LOOK_S <= 0.5


def test_errors_that_nobody_asked_for_hold_no_address_of_ours(api: Any) -> None:
    """What a model's endpoint said is for whoever runs the service; a tenant is told that something does not answer."""
    api.tenant("outside")
    client = api.client(api.mint("outside", "read", "write")[0])
    client.put("/v1/documents/a.md", content=b"# Sluice\n\nThe sluice was opened on Tuesday.\n").raise_for_status()
    assert api.indexed(client, "a.md")["status"] == "indexed"
    question = {"question": "When was the sluice opened?"}
    api.models.fails = True
    try:
        told = client.post("/v1/ask", json=question)
        admin = api.client().post("/v1/ask", json={**question, "tenant": "outside"})
    finally:
        api.models.fails = False
    assert told.status_code == admin.status_code == 503, told.text
    assert str(api.models.server_port) not in told.text
    assert "127.0.0.1" not in told.text
    assert str(api.models.server_port) in json.loads(admin.text)["error"]["message"]
