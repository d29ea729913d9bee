"""Health checks of the embedded servers: full checks at start; quick checks by socket, without client libraries, before a command
adopts a running platform, because the command waits for them.
"""

from __future__ import annotations

import json
import logging
import socket
import struct
from collections.abc import Callable
from datetime import timedelta
from http.client import HTTPException
from urllib.parse import urlencode, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from headrace.platform.address import LAKE, LOOPBACK, PROBE
from headrace.platform.state import State
from headrace.storage.endpoints import Endpoints

_SECONDS = 3.0
_SILENT = logging.getLogger("headrace.platform.kafka")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False

Check = Callable[[Endpoints], str | None]
"""Checks one service; returns None if it is healthy, else a clause that says what is wrong."""


def objects_fault(endpoints: Endpoints) -> str | None:
    """None if the object store puts and lists, and the catalog lists, with their keys."""
    address = urlsplit(endpoints.s3_endpoint)
    try:
        socket.create_connection((address.hostname, address.port), _SECONDS).close()
    except OSError as error:  # while it starts: a client costs a hundred times as much per attempt
        return f"a connection to the object store fails: {error}"
    import obstore
    from obstore.exceptions import BaseError
    from obstore.store import S3Store

    store = S3Store(
        PROBE,
        endpoint=endpoints.s3_endpoint,
        access_key_id=endpoints.s3_access_key,
        secret_access_key=endpoints.s3_secret_key,
        region=endpoints.s3_region,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True, "timeout": timedelta(seconds=_SECONDS)},
        retry_config={"max_retries": 0},
    )
    try:
        obstore.put(store, "ready", b"ready")
        if not any(entry["path"] == "ready" for page in obstore.list(store) for entry in page):
            return "the object store does not list what was put"
    except (BaseError, OSError) as error:
        return f"a put to the object store fails: {str(error).splitlines()[0][:300]}"
    client_id, _, client_secret = endpoints.catalog_properties["credential"].partition(":")
    grant = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": client_secret}
    try:
        _asked(endpoints, "/v1/config?" + urlencode({"warehouse": endpoints.warehouse}))
        token = json.loads(_asked(endpoints, "/v1/oauth/tokens", form=grant))["access_token"]
        _asked(endpoints, f"/v1/{LAKE}/namespaces", token=token)
    except (OSError, HTTPException, KeyError, ValueError) as error:
        return f"the Iceberg catalog rejects a request: {error}"
    return None


def _asked(endpoints: Endpoints, path: str, *, form: dict[str, str] | None = None, token: str = "") -> bytes:
    """The catalog's response; with the standard library, which imports ten times faster than httpx."""
    request = Request(endpoints.catalog_uri + path, data=urlencode(form).encode() if form else None)
    if token:
        request.add_header("authorization", f"Bearer {token}")
    with build_opener(ProxyHandler({})).open(request, timeout=_SECONDS) as answer:
        body: bytes = answer.read()
    return body


def head_fault(endpoints: Endpoints) -> str | None:
    """None if the head lists its topics."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    client = AdminClient({"bootstrap.servers": endpoints.kafka_bootstrap, "log_level": 0}, logger=_SILENT)
    try:
        client.list_topics(timeout=_SECONDS)
    except KafkaException as error:
        return f"the head does not list its topics: {error.args[0].str() if error.args else error}"
    return None


CHECKS: dict[str, Check] = {"objects": objects_fault, "head": head_fault}
"""By part. The model server is absent on purpose: its clients wait for it themselves."""


_HTTP = b"GET / HTTP/1.0\r\n\r\n"
# ApiVersions (18), version 0, correlation id 1, no client id: https://kafka.apache.org/protocol#protocol_messages
_KAFKA = struct.pack(">ihhih", 10, 18, 0, 1, -1)


def silent(state: State, parts: frozenset[str]) -> str | None:
    """Describe a server of `parts` that does not respond; None if all do."""
    listeners = {
        "objects": (("object store", state.ports.s3, _HTTP), ("Iceberg catalog", state.ports.catalog, _HTTP)),
        "head": (("head", state.ports.kafka, _KAFKA),),
    }
    for part in parts:
        if part in state.children and not state.children[part].alive:
            return f"the process of its {part} has ended"
        for name, port, question in listeners.get(part, ()):
            if not _answers(port, question):
                return f"the {name} does not respond on port {port}"
    return None


def _answers(port: int, question: bytes) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=_SECONDS) as connection:
            connection.sendall(question)
            return bool(connection.recv(1))
    except OSError:
        return False
