"""Why an address cannot be used: each mistake in the settings has a sentence of its own."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from headrace.platform.certificates import certificate_of
from headrace.platform.home import Home
from headrace.storage.connection import Fault, no_answer, reach, s3_fault


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server


def port_of(server: socket.socket) -> int:
    return int(server.getsockname()[1])


def test_a_port_that_listens_is_reached_and_one_that_does_not_is_named(listening: socket.socket) -> None:
    reach(f"http://127.0.0.1:{port_of(listening)}/v1", part="objects")
    reach(f"127.0.0.1:{port_of(listening)}", part="head")
    with closing(socket.create_server(("127.0.0.1", 0))) as gone:
        port = port_of(gone)
    with pytest.raises(Fault, match=f"^Nothing listens at 127.0.0.1:{port}.$") as found:
        reach(f"http://127.0.0.1:{port}", part="objects")
    assert "[objects]" in found.value.hint


def test_a_name_that_nobody_knows_is_named() -> None:
    with pytest.raises(Fault, match=r"The name nosuch\.invalid is not known"):
        reach("https://nosuch.invalid", part="tables")


@pytest.mark.parametrize("url", ["", "http://", "s3.example.net", "http://host:port", "http://[::1"])
def test_what_is_no_address_is_quoted(url: str) -> None:
    with pytest.raises(Fault, match="is not an address with a host and a port"):
        reach(url, part="objects")


def test_https_to_a_port_that_does_not_speak_tls_says_so(listening: socket.socket) -> None:
    def answer() -> None:
        client, _ = listening.accept()
        with client:
            client.recv(1024)
            client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    with pytest.raises(Fault, match="does not speak TLS") as found:
        reach(f"https://127.0.0.1:{port_of(listening)}", part="objects")
    assert "http://" in found.value.hint
    thread.join(5)


def test_a_certificate_of_an_unknown_authority_is_said_to_be_that(listening: socket.socket, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.prepare()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_of(home))

    def answer() -> None:
        client, _ = listening.accept()
        with pytest.raises(OSError, match=r"TLSV1|alert|closed|EOF"), client:
            context.wrap_socket(client, server_side=True)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    with pytest.raises(Fault, match="certificate is not trusted") as found:
        reach(f"https://127.0.0.1:{port_of(listening)}", part="objects")
    assert "SSL_CERT_FILE" in found.value.hint
    thread.join(5)


@pytest.mark.parametrize(
    ("code", "more", "said", "hint"),
    [
        ("NoSuchBucket", "", "There is no bucket b at http://s", "bucket under"),
        ("InvalidAccessKeyId", "", "does not know this access key", "access_key"),
        ("SignatureDoesNotMatch", "", "the secret key does not belong", "secret_key"),
        ("RequestTimeTooSkewed", "", "disagree about the time", "clock"),
        ("AuthorizationHeaderMalformed", "<Message>expecting 'eu-west-1'</Message>", "it expects eu-west-1", "region"),
        ("PermanentRedirect", "", "in another region", "region"),
        ("AccessDenied", "", "does not let this access key", "s3:PutObject"),
    ],
)
def test_each_code_of_s3_has_its_sentence(code: str, more: str, said: str, hint: str) -> None:
    text = f"Error performing PUT http://s/b/k in 3ms - Server returned: 403: <Error><Code>{code}</Code>{more}</Error>"
    fault = s3_fault(OSError(text), endpoint="http://s", bucket="b")
    assert fault is not None
    assert said in fault.message
    assert hint in fault.hint


def test_what_is_about_an_object_alone_is_left_to_its_caller() -> None:
    text = "404 Not Found: <Error><Code>NoSuchKey</Code></Error>"
    assert s3_fault(OSError(text), endpoint="http://s:1", bucket="b") is None
    assert s3_fault(OSError("No space left on device"), endpoint="http://s:1", bucket="b") is None
    # The words of a document's name say nothing about the connection.
    assert s3_fault(OSError("no such key: connection refused.md"), endpoint="http://s:1", bucket="b") is None
    assert no_answer("something else", "h", 1) is None
