"""Signatures of events: a Kafka header by which a lander knows that whoever wrote an event has the home's key.

The embedded broker lets every program of this machine write to every topic: without one anybody could open documents, delete
them, and judge in anybody's name. A signature is keyed BLAKE2b (RFC 7693) over topic, key and value, topic and key each with its
length in front. It says who wrote an event, not when: one that is read from the topic and written again is accepted again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import methodcaller
from struct import Struct

from confluent_kafka import Message

HEADER = "headrace-signature"
UNSIGNED = "not signed with this home's key"
"""Begins the reason of a dead letter whose signature is missing or wrong."""
_BYTES = 16
SIGNATURE_BYTES = len(HEADER) + _BYTES
"""What a signature adds to a record."""
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
        """The headers to write an event with."""
        return self._signatures([key], [value])

    def forged(
        self, messages: Sequence[Message], values: Sequence[bytes | None], signed_from: Mapping[int, int]
    ) -> dict[int, str]:
        """Index → what is wrong, of the messages that are not signed though `signed_from`, an offset per partition, wants it."""
        headers = _headers(messages)
        shown = [own[0] if own and len(own) == 1 else None for own in headers]
        right = self._signatures(map(_KEY, messages), values)
        # Compared as a whole first, since this passes every record of a drain. How long it takes tells nobody anything: records
        # are judged when they are landed, many at a time.
        if shown == right:
            return {}
        reasons = {}
        for index, message in enumerate(messages):
            if shown[index] != right[index] and message.offset() >= signed_from.get(message.partition(), 0):
                named = any(name == HEADER for name, _ in headers[index] or ())
                reasons[index] = f"{UNSIGNED}: " + ("its signature is another's" if named else "it has no signature")
        return reasons

    def _signatures(self, keys: Iterable[bytes | None], values: Iterable[bytes | None]) -> list[tuple[str, bytes]]:
        signatures = []
        for key, value in zip(keys, values, strict=True):
            digest = self._begun.copy()
            digest.update(b"".join((_LENGTH(len(key)), key, value or b"") if key else (_NO_KEY, value or b"")))
            signatures.append((HEADER, digest.digest()))
        return signatures


def _headers(messages: Sequence[Message]) -> list[Headers | None]:
    """The headers of each; `None` where the name of one is not UTF-8, at which the client fails and which anybody may write.

    Each message is asked once: asked again after it failed, the client hands out a null pointer.
    """
    headers: list[Headers | None] = []
    left = iter(messages)
    while True:
        try:
            headers.extend(map(_HEADERS, left))
            return headers
        except (SystemError, UnicodeError):
            headers.append(None)
