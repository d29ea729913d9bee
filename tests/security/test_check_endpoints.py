"""`headrace check` against an S3 endpoint that lies: each lie is a finding, and takes neither all memory nor all time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from headrace.check import acceptance, objects
from headrace.check.promise import Finding, Outcome
from headrace.check.workloads.objects import listing
from headrace.check.workloads.workload import WorkloadResult
from headrace.settings import Settings
from headrace.storage.endpoints import Endpoints, ModelEndpoint

MODEL = ModelEndpoint(url="http://127.0.0.1:1/v1", model="m")
SECRET = "a-secret-that-is-nobodys"
OBJECT = {"etag": '"e"', "last-modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
ENTRY = (
    "<Contents><Key>{}</Key><LastModified>2026-01-01T00:00:00Z</LastModified><ETag>&quot;e&quot;</ETag><Size>1</Size></Contents>"
)


@contextmanager
def lying(how: str, deleted: list[str]) -> Iterator[Endpoints]:
    """An endpoint that takes everything, and lies in what it returns: `endless` objects, or an endless `list` of others' objects.

    `deleted` gets what it is told to delete.
    """
    stored: dict[str, bytes] = {}
    pages: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None: ...

        def give(self, status: int, data: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {"content-length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(data if self.command != "HEAD" else b"")

        def do_PUT(self) -> None:
            stored[self.path] = self.rfile.read(int(self.headers.get("content-length") or 0))
            self.give(200, etag='"e"')

        def do_POST(self) -> None:
            deleted.append(self.rfile.read(int(self.headers.get("content-length") or 0)).decode())
            self.give(200, b"<DeleteResult><Deleted><Key>k</Key></Deleted></DeleteResult>")

        def do_DELETE(self) -> None:
            stored.pop(self.path, None)
            deleted.append(self.path)
            self.give(204)

        def do_GET(self) -> None:
            if "list-type" in self.path:
                pages.append(1)
                found = "".join(ENTRY.format(f"others/{len(pages):08d}-{n:04d}") for n in range(1000))
                more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{len(pages)}</NextContinuationToken>{found}"
                self.give(200, f"<ListBucketResult>{more if how == 'list' else ''}</ListBucketResult>".encode())
            elif how == "endless":
                self.give(200, **{**OBJECT, "content-length": str(1 << 40)})
                with suppress(OSError):
                    for _ in range(512):  # it could go on
                        self.wfile.write(bytes(1 << 20))
                self.close_connection = True
            elif self.path not in stored:
                self.give(404, b"<Error><Code>NoSuchKey</Code></Error>")
            else:
                self.give(200, stored[self.path], **OBJECT)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield Endpoints(
            s3_endpoint=f"http://127.0.0.1:{server.server_port}",
            s3_access_key="key",
            s3_secret_key=SECRET,
            s3_region="us-east-1",
            bucket="b",
            catalog_uri="",
            warehouse="",
            vectors_uri="",
            kafka_bootstrap="",
            files_dir=Path("none"),
            kv_cache_bytes=1,
            embedder=MODEL,
            reranker=MODEL,
            generator=MODEL,
        )
        server.shutdown()


def found(how: str) -> list[Finding]:
    deleted: list[str] = []
    with lying(how, deleted) as endpoints, pytest.MonkeyPatch.context() as patch:
        patch.setattr(acceptance, "WORKLOADS", {objects.SUBJECT.tier: (listing,)})
        settings = Settings()
        began = time.monotonic()
        found = list(acceptance.check_storage(settings, endpoints, (objects.SUBJECT.tier,), seconds=1.0, concurrency=1))
        assert time.monotonic() - began < 120
    assert not [path for path in deleted if "others/" in path], "what it did not put is not its own to delete"
    assert deleted
    findings = [one for one in found if isinstance(one, Finding)]
    assert not any(SECRET in finding.seen for finding in findings)
    assert all("more than 20,000 objects" in one.failed for one in found if isinstance(one, WorkloadResult))
    return findings


def test_an_object_without_an_end_is_not_read_to_its_end() -> None:
    first, *others = found("endless")
    assert (first.outcome, "more than 128 MiB" in first.seen) == (Outcome.BROKEN, True), first.seen
    assert {finding.outcome for finding in others} == {Outcome.NOT_TESTED}


def test_a_listing_without_an_end_is_given_up() -> None:
    findings = found("list")
    assert findings[0].outcome is Outcome.KEPT, findings[0].seen
    assert any("more than 20,000 objects" in finding.seen for finding in findings), [finding.seen for finding in findings]
