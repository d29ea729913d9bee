"""The tags of objects in S3, which obstore does not read: GetObjectTagging, signed with AWS Signature Version 4.

The signature: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

import httpx

from headrace.errors import AccessDenied, NotFound, Unavailable, WrongUsage
from headrace.retry import backoff
from headrace.storage.endpoints import S3Location

_EMPTY = hashlib.sha256(b"").hexdigest()
_TRIES, _TIMEOUT_S = 3, 20.0
_MOST_BYTES = 64_000  # ten tags of 128 and 256 characters each, and their XML
_CODE = re.compile(r"<Code>([A-Za-z0-9]+)</Code>")
_NO_TAGS = {"NotImplemented", "MethodNotAllowed", "XNotImplemented"}
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Tagging:
    """Reads the tags of a bucket's objects; safe to share between threads."""

    def __init__(self, at: S3Location, bucket: str) -> None:
        self._at, self._bucket = at, bucket
        limits = httpx.Limits(max_connections=32, max_keepalive_connections=32)
        own = urlsplit(at.endpoint).hostname in _LOOPBACK
        self._http = httpx.Client(timeout=_TIMEOUT_S, limits=limits, trust_env=not own)

    def of(self, key: str) -> tuple[dict[str, str], int]:
        """The tags of an object, and the bytes that were received for them.

        Raises `NotFound`, `AccessDenied`, `WrongUsage` where the store has no tags, and `Unavailable`.
        """
        what = f"s3://{self._bucket}/{key}"
        for failures in range(1, _TRIES + 1):
            try:
                url, headers = self._request(key)
                answer = self._http.get(url, headers=headers)
            except httpx.HTTPError as error:
                said = str(error) or type(error).__name__
            else:
                if answer.status_code == httpx.codes.OK:
                    return _tags(answer.content, what), len(answer.content)
                code = _CODE.search(answer.text[:_MOST_BYTES])
                said = code[1] if code else str(answer.status_code)
                if answer.status_code == httpx.codes.NOT_FOUND:
                    raise NotFound(f"The tags of {what} are gone.", hint="Was it deleted?")
                if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                    raise AccessDenied(f"The tags of {what} may not be read: {said}.", hint="Allow the key s3:GetObjectTagging.")
                if said in _NO_TAGS or answer.status_code in (httpx.codes.METHOD_NOT_ALLOWED, httpx.codes.NOT_IMPLEMENTED):
                    raise WrongUsage(f"{self._at.endpoint} has no tags of objects.", hint="Remove permissions from the source.")
                if answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
                    break
            if failures < _TRIES:
                time.sleep(backoff(failures, first_s=0.2, longest_s=2.0))
        raise Unavailable(f"The tags of {what} cannot be read: {said}.", hint="Check that the object store runs.")

    def _request(self, key: str) -> tuple[str, dict[str, str]]:
        """The URL and the signed headers of a request."""
        endpoint = urlsplit(self._at.endpoint)
        path = f"{endpoint.path.rstrip('/')}/{self._bucket}/{quote(key, safe='/-_.~')}"
        now = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        headers = {"host": endpoint.netloc, "x-amz-content-sha256": _EMPTY, "x-amz-date": now}
        names = ";".join(sorted(headers))
        listed = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
        canonical = f"GET\n{path}\ntagging=\n{listed}\n{names}\n{_EMPTY}"
        scope = f"{now[:8]}/{self._at.region}/s3/aws4_request"
        to_sign = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signing = f"AWS4{self._at.secret_key}".encode()
        for part in scope.split("/"):
            signing = hmac.digest(signing, part.encode(), "sha256")
        signature = hmac.digest(signing, to_sign.encode(), "sha256").hex()
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self._at.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
        )
        return f"{endpoint.scheme}://{endpoint.netloc}{path}?tagging=", headers


@lru_cache(maxsize=16)
def tagging_at(_process: int, at: S3Location, bucket: str) -> Tagging:
    """This process's own reader of a bucket's tags, which keeps its connections; a process that was forked gets another."""
    return Tagging(at, bucket)


def _tags(body: bytes, what: str) -> dict[str, str]:
    """The tags in a response. Raises `Unavailable` where it is none."""
    try:
        if len(body) > _MOST_BYTES or b"<!DOCTYPE" in body:
            raise ValueError
        found: dict[str, str] = {}
        for tag in ElementTree.fromstring(body).iter():
            if tag.tag.rpartition("}")[2] == "Tag":
                named = {child.tag.rpartition("}")[2]: child.text or "" for child in tag}
                found[named["Key"]] = named["Value"]
    except (ElementTree.ParseError, ValueError, KeyError):
        raise Unavailable(f"The tags of {what} cannot be read: the answer is none of S3's.", hint="Check the endpoint.") from None
    return found
