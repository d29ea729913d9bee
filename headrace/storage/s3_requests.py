"""Requests to S3 that obstore does not make: listings of any keys, and the tags of objects. Signed with AWS Signature Version 4.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
import weakref
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree

from headrace.errors import AccessDenied, NotFound, Unavailable, WrongUsage
from headrace.lean_httpx import httpx
from headrace.retry import backoff
from headrace.storage.endpoints import S3Location

_EMPTY = hashlib.sha256(b"").hexdigest()
_PLAIN = "-_.~"
_TRIES, _LISTING_S, _TAGS_S = 3, 30.0, 20.0
_PAGE_BYTES = 16 << 20  # a thousand keys of 1,024 bytes, all of them escaped, and their XML
_PAGE = 1_000
_CONNECTIONS = 32
_ERROR_CHARS = 64_000
_TAGS_BYTES = 64_000  # ten tags of 128 and 256 characters each, and their XML
_NO_TAGS = {"NotImplemented", "MethodNotAllowed", "XNotImplemented"}
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_CODE = re.compile(r"<Code>([A-Za-z0-9]+)</Code>")


def signed_get(at: S3Location, bucket: str, key: str, query: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The URL and the signed headers of a GET of a bucket, or with a `key` of its object."""
    endpoint = urlsplit(at.endpoint)
    path = f"{endpoint.path.rstrip('/')}/{bucket}" + (f"/{quote(key, safe='/' + _PLAIN)}" if key else "")
    asked = "&".join(f"{quote(name, safe=_PLAIN)}={quote(query[name], safe=_PLAIN)}" for name in sorted(query))
    now = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    headers = {"host": endpoint.netloc, "x-amz-content-sha256": _EMPTY, "x-amz-date": now}
    names = ";".join(sorted(headers))
    listed = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    canonical = f"GET\n{path}\n{asked}\n{listed}\n{names}\n{_EMPTY}"
    scope = f"{now[:8]}/{at.region}/s3/aws4_request"
    to_sign = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signing = f"AWS4{at.secret_key}".encode()
    for part in scope.split("/"):
        signing = hmac.digest(signing, part.encode(), "sha256")
    signature = hmac.digest(signing, to_sign.encode(), "sha256").hex()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={at.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return f"{endpoint.scheme}://{endpoint.netloc}{path}?{asked}", headers


class _SignedGets:
    """Signed GETs of one bucket, made again after a fault of the network or of the server."""

    def __init__(self, at: S3Location, bucket: str, timeout_s: float) -> None:
        self._at, self._bucket = at, bucket
        own = urlsplit(at.endpoint).hostname in _LOOPBACK
        limits = httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS)
        self._http = httpx.Client(timeout=timeout_s, limits=limits, trust_env=not own)
        weakref.finalize(self, self._http.close)  # httpx leaves its sockets to the garbage collection

    def get(self, key: str, query: Mapping[str, str]) -> tuple[httpx.Response | None, str]:
        """The response, and S3's code or the status if it is an error; `None` with the reason if the faults go on."""
        said = ""
        for failures in range(1, _TRIES + 1):
            try:
                url, headers = signed_get(self._at, self._bucket, key, query)
                answer = self._http.get(url, headers=headers)
            except httpx.HTTPError as error:
                said = str(error) or type(error).__name__
            else:
                if answer.status_code == httpx.codes.OK:
                    return answer, ""
                code = _CODE.search(answer.text[:_ERROR_CHARS])
                said = code[1] if code else str(answer.status_code)
                status = answer.status_code
                if status < httpx.codes.INTERNAL_SERVER_ERROR or status == httpx.codes.NOT_IMPLEMENTED or said in _NO_TAGS:
                    return answer, said
            if failures < _TRIES:
                time.sleep(backoff(failures, first_s=0.2, longest_s=2.0))
        return None, said


class KeyListing:
    """Lists the keys of a bucket whatever they are; obstore gives up a listing at some. Safe to share between threads."""

    def __init__(self, at: S3Location, bucket: str) -> None:
        self._bucket = bucket
        self._requests = _SignedGets(at, bucket, _LISTING_S)

    def pages(self, prefix: str, after: str) -> Iterator[tuple[list[tuple[str, int, str, datetime]], int]]:
        """The key, size, etag and time of each object below a prefix and behind a key, by pages, and the bytes of each page.

        Raises `AccessDenied` and `Unavailable`.
        """
        query = {"list-type": "2", "encoding-type": "url", "max-keys": str(_PAGE), "prefix": prefix, "start-after": after}
        while True:
            body = self._get(query)
            found, token = self._read(body)
            yield found, len(body)
            if not token:
                return
            query["continuation-token"] = token

    def _get(self, query: dict[str, str]) -> bytes:
        answer, said = self._requests.get("", query)
        if answer is not None and not said:
            return answer.content
        if answer is not None and answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise AccessDenied(f"Bucket {self._bucket} may not be listed: {said}.", hint="Allow the key s3:ListBucket.")
        raise Unavailable(f"Bucket {self._bucket} cannot be listed: {said}.", hint="Check that the object store runs.")

    def _read(self, body: bytes) -> tuple[list[tuple[str, int, str, datetime]], str]:
        try:
            if len(body) > _PAGE_BYTES or b"<!DOCTYPE" in body:
                raise ValueError
            root = ElementTree.fromstring(body)
            top = {child.tag.rpartition("}")[2]: child.text or "" for child in root}
            escaped = top.get("EncodingType") == "url"
            found = []
            for one in root:
                if one.tag.rpartition("}")[2] == "Contents":
                    named = {child.tag.rpartition("}")[2]: child.text or "" for child in one}
                    key = unquote(named["Key"].replace("+", " ")) if escaped else named["Key"]
                    found.append((key, int(named["Size"]), named.get("ETag", ""), datetime.fromisoformat(named["LastModified"])))
        except (ElementTree.ParseError, ValueError, KeyError):
            raise Unavailable(
                f"Bucket {self._bucket} cannot be listed: it has a key that its server cannot send as XML, or the response is"
                " not S3's.",
                hint="Name a folder without such keys.",
            ) from None
        return found, top.get("NextContinuationToken", "") if top.get("IsTruncated") == "true" else ""


@lru_cache(maxsize=16)
def key_listing_at(_process: int, at: S3Location, bucket: str) -> KeyListing:
    """This process's own listing of a bucket, which keeps its connections; a process that was forked gets another."""
    return KeyListing(at, bucket)


class Tagging:
    """Reads the tags of a bucket's objects; safe to share between threads."""

    def __init__(self, at: S3Location, bucket: str) -> None:
        self._at, self._bucket = at, bucket
        self._requests = _SignedGets(at, bucket, _TAGS_S)

    def of(self, key: str) -> tuple[dict[str, str], int]:
        """The tags of an object, and the bytes that were received for them.

        Raises `NotFound`, `AccessDenied`, `WrongUsage` where the store has no tags, and `Unavailable`.
        """
        what = f"s3://{self._bucket}/{key}"
        answer, said = self._requests.get(key, {"tagging": ""})
        if answer is None:
            raise Unavailable(f"The tags of {what} cannot be read: {said}.", hint="Check that the object store runs.")
        if not said:
            return _tags(answer.content, what), len(answer.content)
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise NotFound(f"The tags of {what} are gone.", hint="Was it deleted?")
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise AccessDenied(f"The tags of {what} may not be read: {said}.", hint="Allow the key s3:GetObjectTagging.")
        if said in _NO_TAGS or answer.status_code in (httpx.codes.METHOD_NOT_ALLOWED, httpx.codes.NOT_IMPLEMENTED):
            raise WrongUsage(f"{self._at.endpoint} has no tags of objects.", hint="Remove permissions from the source.")
        raise Unavailable(f"The tags of {what} cannot be read: {said}.", hint="Check that the object store runs.")


@lru_cache(maxsize=16)
def tagging_at(_process: int, at: S3Location, bucket: str) -> Tagging:
    """This process's own reader of a bucket's tags, which keeps its connections; a process that was forked gets another."""
    return Tagging(at, bucket)


def _tags(body: bytes, what: str) -> dict[str, str]:
    """The tags in a response. Raises `Unavailable` if it is not S3's."""
    try:
        if len(body) > _TAGS_BYTES or b"<!DOCTYPE" in body:
            raise ValueError
        found: dict[str, str] = {}
        for tag in ElementTree.fromstring(body).iter():
            if tag.tag.rpartition("}")[2] == "Tag":
                named = {child.tag.rpartition("}")[2]: child.text or "" for child in tag}
                found[named["Key"]] = named["Value"]
    except (ElementTree.ParseError, ValueError, KeyError):
        raise Unavailable(f"The tags of {what} cannot be read: the response is not S3's.", hint="Check the endpoint.") from None
    return found
