"""Requests to S3 that obstore does not make, signed with AWS Signature Version 4.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

from headrace.storage.endpoints import S3Location

_EMPTY = hashlib.sha256(b"").hexdigest()
_PLAIN = "-_.~"


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
