"""Signatures of events: a Kafka header which proves that the writer of an event has the home's key.

The embedded broker lets every program on this machine write to every topic. Without signatures, any of them could add and delete
documents, and judge in anyone's name. A signature is keyed BLAKE2b (RFC 7693) over topic, key and value, with topic and key each
prefixed by its length. It does not prevent replay: an event read from the topic and written again is accepted again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import methodcaller
from struct import Struct

from confluent_kafka import Message

HEADER = "headrace-signature"
UNSIGNED = "not signed with this home's key"
"""Prefix of a dead letter's reason if its signature is missing or wrong."""
_BYTES = 16
SIGNATURE_BYTES = len(HEADER) + _BYTES
"""Size that a signature adds to a record."""
_LENGTH = Struct(">I").pack
_NO_KEY = _LENGTH(0)
Headers = Sequence[tuple[str, bytes | None]]
_HEADERS: Callable[[Message], Headers | None] = methodcaller("headers")
_KEY = methodcaller("key")


class Signer:
    """Signs and checks the events of one topic."""

    def __init__(self, secret: str, topic: str) -> None:
        name = topic.encode()
        key = hashlib.sha256(secret.encode()).digest()
        self._begun = hashlib.blake2b(_LENGTH(len(name)) + name, key=key, digest_size=_BYTES)

    def headers(self, key: bytes | None, value: bytes | None) -> list[tuple[str, bytes]]:
        """The headers for a new event."""
        return self._signatures([key], [value])

    def forged(
        self, messages: Sequence[Message], values: Sequence[bytes | None], signed_from: Mapping[int, int]
    ) -> dict[int, str]:
        """The unsigned messages at or beyond `signed_from` (offset by partition), by index, with the reason."""
        headers = _headers(messages)
        shown = [own[0] if own and len(own) == 1 else None for own in headers]
        right = self._signatures(map(_KEY, messages), values)
        # Compare all at once first: every record of a drain passes here. Timing reveals nothing, because records are checked
        # when they land, many at a time.
        if shown == right:
            return {}
        reasons = {}
        for index, message in enumerate(messages):
            if shown[index] != right[index] and message.offset() >= signed_from.get(message.partition(), 0):
                named = any(name == HEADER for name, _ in headers[index] or ())
                reasons[index] = f"{UNSIGNED}: " + ("its signature is wrong" if named else "it has no signature")
        return reasons

    def _signatures(self, keys: Iterable[bytes | None], values: Iterable[bytes | None]) -> list[tuple[str, bytes]]:
        signatures = []
        for key, value in zip(keys, values, strict=True):
            digest = self._begun.copy()
            digest.update(b"".join((_LENGTH(len(key)), key, value or b"") if key else (_NO_KEY, value or b"")))
            signatures.append((HEADER, digest.digest()))
        return signatures


def _headers(messages: Sequence[Message]) -> list[Headers | None]:
    """The headers of each message; `None` if a header's name is not UTF-8, at which the client fails.

    Each message's headers are read only once: after a failure, the client would return a null pointer.
    """
    headers: list[Headers | None] = []
    left = iter(messages)
    while True:
        try:
            headers.extend(map(_HEADERS, left))
            return headers
        except (SystemError, UnicodeError):
            headers.append(None)
