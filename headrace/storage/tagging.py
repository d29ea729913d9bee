"""The tags of objects in S3, which obstore does not read: GetObjectTagging."""

from __future__ import annotations

import re
import time
from functools import lru_cache
from urllib.parse import urlsplit
from xml.etree import ElementTree

from headrace.errors import AccessDenied, NotFound, Unavailable, WrongUsage
from headrace.lean_httpx import httpx
from headrace.retry import backoff
from headrace.storage.endpoints import S3Location
from headrace.storage.signed_request import signed_get

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
                url, headers = signed_get(self._at, self._bucket, key, {"tagging": ""})
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
