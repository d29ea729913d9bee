"""The keys of a bucket whatever they are: ListObjectsV2, for the keys at which obstore gives up a listing.

https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

from headrace.errors import AccessDenied, Unavailable
from headrace.lean_httpx import httpx
from headrace.retry import backoff
from headrace.storage.endpoints import S3Location
from headrace.storage.signed_request import signed_get

_TRIES, _TIMEOUT_S = 3, 30.0
_MOST_BYTES = 16 << 20  # a thousand keys of 1,024 bytes, all of them escaped, and their XML
_PAGE = 1_000
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_CODE = re.compile(r"<Code>([A-Za-z0-9]+)</Code>")


class KeyListing:
    """Lists a bucket; safe to share between threads."""

    def __init__(self, at: S3Location, bucket: str) -> None:
        self._at, self._bucket = at, bucket
        own = urlsplit(at.endpoint).hostname in _LOOPBACK
        self._http = httpx.Client(timeout=_TIMEOUT_S, trust_env=not own)

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
        said = ""
        for failures in range(1, _TRIES + 1):
            try:
                url, headers = signed_get(self._at, self._bucket, "", query)
                answer = self._http.get(url, headers=headers)
            except httpx.HTTPError as error:
                said = str(error) or type(error).__name__
            else:
                if answer.status_code == httpx.codes.OK:
                    return answer.content
                code = _CODE.search(answer.text[:_PAGE])
                said = code[1] if code else str(answer.status_code)
                if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                    raise AccessDenied(f"Bucket {self._bucket} may not be listed: {said}.", hint="Allow the key s3:ListBucket.")
                if answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
                    break
            if failures < _TRIES:
                time.sleep(backoff(failures, first_s=0.2, longest_s=2.0))
        raise Unavailable(f"Bucket {self._bucket} cannot be listed: {said}.", hint="Check that the object store runs.")

    def _read(self, body: bytes) -> tuple[list[tuple[str, int, str, datetime]], str]:
        try:
            if len(body) > _MOST_BYTES or b"<!DOCTYPE" in body:
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
                f"Bucket {self._bucket} cannot be listed: it has a key that its server cannot send as XML, or the answer is none"
                " of S3's.",
                hint="Name a folder without such keys.",
            ) from None
        return found, top.get("NextContinuationToken", "") if top.get("IsTruncated") == "true" else ""


@lru_cache(maxsize=16)
def key_listing_at(_process: int, at: S3Location, bucket: str) -> KeyListing:
    """This process's own listing of a bucket, which keeps its connections; a process that was forked gets another."""
    return KeyListing(at, bucket)
