"""Objects of a bucket as other writers may leave them: keys of any kind, and contents that change behind the listing."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote_plus, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest
from http_thread import on_thread

from headrace.catalog import SOURCES
from headrace.documents.sources.bucket import find_objects
from headrace.errors import BadDocument, Unavailable
from headrace.storage.endpoints import Endpoints, ModelEndpoint
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import BucketReader
from headrace.storage.records import NAME_BYTES

STAMP = "2026-01-01T00:00:00.000Z"


class Bucket(ThreadingHTTPServer):
    """An S3 server with one bucket; `sizes` lists some objects with another size than they have, and one may be `denied`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.sizes: dict[str, int] = {}
        self.denied, self.denied_because = "", "AccessDenied"
        self.escapes = True


class _Handler(BaseHTTPRequestHandler):
    server: Bucket

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        query = parse_qs(address.query)
        if "list-type" in query:
            escapes = self.server.escapes and "encoding-type" in query
            listed = "".join(
                f"<Contents><Key>{quote_plus(key) if escapes else escape(key)}</Key>"
                f"<LastModified>{STAMP}</LastModified><ETag>&quot;1&quot;</ETag>"
                f"<Size>{self.server.sizes.get(key, len(data))}</Size></Contents>"
                for key, data in sorted(self.server.objects.items())
                if key.startswith(query.get("prefix", [""])[0]) and key > query.get("start-after", [""])[0]
            )
            kind = "<EncodingType>url</EncodingType>" if escapes else ""
            self._send(f"<ListBucketResult>{kind}<IsTruncated>false</IsTruncated>{listed}</ListBucketResult>".encode())
        elif self.server.denied and self.path.endswith(self.server.denied):
            self._send(f"<Error><Code>{self.server.denied_because}</Code></Error>".encode(), 403)
        elif (data := self.server.objects.get(unquote(address.path).split("/", 2)[2])) is not None:
            self._send(data)
        else:
            self._send(b"<Error><Code>NoSuchKey</Code></Error>", 404)

    def _send(self, data: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", '"2"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        try:
            self.wfile.write(data)
        except OSError:
            self.close_connection = True  # the client read no more of it

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with on_thread(Bucket()) as server:
        yield server


@pytest.fixture
def reader(bucket: Bucket, tmp_path: Path) -> BucketReader:
    nowhere = ModelEndpoint(url="http://127.0.0.1:1/v1", model="none")
    endpoints = Endpoints(
        s3_endpoint=f"http://127.0.0.1:{bucket.server_address[1]}",
        s3_access_key="key",
        s3_secret_key="secret",
        s3_region="us-east-1",
        bucket="headrace",
        catalog_uri="http://127.0.0.1:1",
        warehouse="s3://headrace-tables",
        kafka_bootstrap="127.0.0.1:1",
        files_dir=tmp_path,
        kv_cache_bytes=0,
        vectors_uri="s3://headrace-vectors",
        embedder=nowhere,
        reranker=nowhere,
        generator=nowhere,
    )
    return BucketReader(SOURCES, endpoints, Meter(Ledger(), "test"))


def test_an_object_that_has_grown_since_it_was_listed_is_not_read(bucket: Bucket, reader: BucketReader) -> None:
    """One listed with ten bytes, and replaced by 600 MB before it was read, took 1.2 GB of memory."""
    bucket.objects = {"grown.md": b"x" * (16 << 20), "shrunk.md": b"x"}
    bucket.sizes = {"grown.md": 10, "shrunk.md": 500}
    [grown, shrunk], _ = find_objects("s3://docs", reader.of)
    with pytest.raises(BadDocument, match="larger than the limit of 1 MB"):
        grown.read(1_000_000)
    assert sum(row.bytes for row in reader.meter.ledger.rows()) == 0, "none of it"
    assert (shrunk.read(1_000_000), shrunk.length) == (b"x", 1)


@pytest.mark.parametrize("key", ["a//b.md", "../b.md", "a/./b.md", "two\nlines.md", "\x1b[2J.md", "\x7f.md"])
def test_an_object_whose_key_cannot_be_read_fails_alone(bucket: Bucket, reader: BucketReader, key: str) -> None:
    """Nothing of its bucket was indexed, whoever had put it there."""
    bucket.objects = {"a.md": b"a", "good.md": b"good", key: b"odd", "zoo/z.md": b"z"}
    found, _ = find_objects("s3://docs", reader.of)
    good = {one.uri: one.read(100) for one in found if not one.refused}
    assert good == {"docs/a.md": b"a", "docs/good.md": b"good", "docs/zoo/z.md": b"z"}
    [odd] = [one for one in found if one.refused]
    assert odd.uri.isprintable()
    with pytest.raises(BadDocument, match="cannot be read: rename it"):
        odd.read(100)


def test_a_key_that_a_server_cannot_send_as_xml_is_named(bucket: Bucket, reader: BucketReader) -> None:
    bucket.objects, bucket.escapes = {"good.md": b"good", "\x1b[2J.md": b"odd"}, False
    with pytest.raises(Unavailable, match=r"Bucket docs cannot be listed: it has a key"):
        find_objects("s3://docs", reader.of)


def test_a_key_of_any_length_has_a_name_that_can_be_announced(bucket: Bucket, reader: BucketReader) -> None:
    bucket.objects = {"x" * 1_024: b"long", "\x01" * 1_024: b"odd", "\x01" + "\x02" * 1_023: b"another"}
    found, _ = find_objects("s3://docs", reader.of)
    assert len({one.uri for one in found}) == 3
    assert all(len(one.uri.encode()) <= NAME_BYTES for one in found)


def test_objects_of_the_same_name_fail_alone(bucket: Bucket, reader: BucketReader) -> None:
    """Nothing of their bucket was indexed. One alone would replace what was indexed under that name, whoever put it there."""
    bucket.objects = {"gr\u00f6n.md": b"ours", "gro\u0308n.md": b"theirs", "/a.md": b"root", "a.md": b"a", "b.md": b"b"}
    found, _ = find_objects("s3://docs", reader.of)
    assert {one.uri: bool(one.refused) for one in found} == {"docs/gr\u00f6n.md": True, "docs/a.md": True, "docs/b.md": False}
    with pytest.raises(BadDocument, match="another one has the same name"):
        found[0].read(100)
    both = {one.uri: one.stamp() for one in found}
    bucket.objects.pop("gro\u0308n.md")
    [ours] = [one for one in find_objects("s3://docs", reader.of)[0] if "n.md" in one.uri]
    assert ours.read(100) == b"ours"
    assert ours.stamp() != both[ours.uri]


def test_an_object_that_may_not_be_read_fails_alone(bucket: Bucket, reader: BucketReader) -> None:
    """It held up all of its bucket: each object may have an owner and a key of its own."""
    bucket.objects, bucket.denied = {"good.md": b"good", "theirs.md": b"theirs"}, "theirs.md"
    [good, theirs], _ = find_objects("s3://docs", reader.of)
    assert good.read(100) == b"good"
    with pytest.raises(BadDocument, match="this access key may not read it"):
        theirs.read(100)
    bucket.denied_because = "RequestTimeTooSkewed"
    with pytest.raises(Unavailable, match=r"s3://docs/theirs.md cannot be read: .* disagree about the time"):
        theirs.read(100)


def test_the_mark_of_a_folder_is_no_document(bucket: Bucket, reader: BucketReader) -> None:
    bucket.objects = {"books/": b"", "books/deep/": b"", "books/deep/pump.md": b"pump", "empty.md": b""}
    found, _ = find_objects("s3://docs", reader.of)
    assert [one.uri for one in found] == ["docs/books/deep/pump.md", "docs/empty.md"]
    with pytest.raises(BadDocument, match="the file is empty"):
        found[1].read(100)
