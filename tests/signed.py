"""Headers for a record that a test puts on the head itself: where events have to be signed, an unsigned one never lands."""

from __future__ import annotations

from headrace.storage.endpoints import Endpoints
from headrace.storage.signature import Signer


def signed(endpoints: Endpoints, topic: str, value: bytes | None, key: bytes | None = None) -> list[tuple[str, bytes]]:
    return Signer(endpoints.signing_key, topic).headers(key, value) if endpoints.signing_key else []
