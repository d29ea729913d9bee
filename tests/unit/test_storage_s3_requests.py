"""The tags of objects: the request is signed as AWS says, and each answer is told apart."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest
from http_thread import on_thread

from headrace.errors import AccessDenied, NotFound, Unavailable, WrongUsage
from headrace.storage.endpoints import S3Location
from headrace.storage.s3_requests import Tagging

KEY = "a/köln & (b)+~=c.md"


class Answers(ThreadingHTTPServer):
    """Answers each request with the next of `answers`, the last of them again and again; keeps what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[tuple[int, bytes]] = []
        self.asked: list[tuple[str, dict[str, str]]] = []


class _Handler(BaseHTTPRequestHandler):
    server: Answers

    def do_GET(self) -> None:
        self.server.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        status, body = self.server.answers.pop(0) if len(self.server.answers) > 1 else self.server.answers[0]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Answers]:
    with on_thread(Answers()) as server:
        yield server


@pytest.fixture
def tagging(server: Answers) -> Tagging:
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    return Tagging(S3Location(endpoint=endpoint, access_key="AKID", secret_key="secret", region="eu-west-1"), "docs")


def answer(*tags: tuple[str, str], space: str = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"') -> bytes:
    listed = "".join(f"<Tag><Key>{key}</Key><Value>{value}</Value></Tag>" for key, value in tags)
    return f"<?xml version='1.0'?><Tagging{space}><TagSet>{listed}</TagSet></Tagging>".encode()


def test_the_signature_is_botocores(server: Answers, tagging: Tagging, monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore import auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    server.answers = [(200, answer(("readers", "hr boss"), ("a", "")))]
    tags, size = tagging.of(KEY)
    assert tags == {"readers": "hr boss", "a": ""}
    assert size == len(server.answers[0][1])
    [(path, headers)] = server.asked
    assert urlsplit(path).query == "tagging="
    at = datetime.strptime(headers["x-amz-date"], "%Y%m%dT%H%M%SZ")

    class Then(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return at.replace(tzinfo=tz)

        @classmethod
        def utcnow(cls) -> datetime:
            return at

    monkeypatch.setattr(auth.datetime, "datetime", Then, raising=False)
    monkeypatch.setattr(auth, "get_current_datetime", lambda **_: at.replace(tzinfo=UTC), raising=False)
    request = AWSRequest(
        "GET", f"http://{headers['host']}{path}", headers={"x-amz-content-sha256": headers["x-amz-content-sha256"]}
    )
    auth.S3SigV4Auth(Credentials("AKID", "secret"), "s3", "eu-west-1").add_auth(request)
    assert request.headers["Authorization"] == headers["authorization"]


def test_an_object_without_tags_has_none(server: Answers, tagging: Tagging) -> None:
    server.answers = [(200, answer(space=""))]
    assert tagging.of(KEY)[0] == {}


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (403, "AccessDenied", AccessDenied),
        (404, "NoSuchKey", NotFound),
        (501, "NotImplemented", WrongUsage),
        (405, "MethodNotAllowed", WrongUsage),
        (400, "InvalidRequest", Unavailable),
    ],
)
def test_each_refusal_is_told_apart(server: Answers, tagging: Tagging, status: int, code: str, error: type[Exception]) -> None:
    server.answers = [(status, f"<Error><Code>{code}</Code></Error>".encode())]
    with pytest.raises(error) as raised:
        tagging.of(KEY)
    assert type(raised.value) is error
    assert len(server.asked) == 1, "asking again would not help"


def test_a_fault_is_tried_again(server: Answers, tagging: Tagging) -> None:
    server.answers = [(503, b"<Error><Code>SlowDown</Code></Error>"), (200, answer(("readers", "hr")))]
    assert tagging.of(KEY)[0] == {"readers": "hr"}
    server.answers = [(500, b"<Error><Code>InternalError</Code></Error>")]
    with pytest.raises(Unavailable, match="InternalError"):
        tagging.of(KEY)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"<Tagging><Tag><Key>a</Key></Tag></Tagging>", b"<!DOCTYPE a><Tagging/>", b" " * 70_000]
)
def test_an_answer_that_is_none_of_s3s_is_refused(server: Answers, tagging: Tagging, body: bytes) -> None:
    server.answers = [(200, body)]
    with pytest.raises(Unavailable, match="not S3's"):
        tagging.of(KEY)
