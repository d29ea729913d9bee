"""Limits how many documents are uploaded, and so held in memory, at the same time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.types import Message, Receive

from headrace.errors import Overloaded

_UPLOADS_AT_ONCE = 4
_UPLOADS_OF_ONE = 2
_GRACE_S = 2.0
"""Seconds before an upload may count as slow."""


@dataclass(eq=False)
class Upload:
    """A document coming in: how many bytes have come, and, while more are to come, the time limit for them."""

    tenant: str
    began: float = field(default_factory=time.monotonic)
    bytes: int = 0
    limit: asyncio.Timeout | None = None
    evicted: bool = False

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began

    def counted(self, receive: Receive, limit: asyncio.Timeout) -> Receive:
        """Count the bytes that come by `receive`, within `limit`."""
        self.limit = limit

        async def counted() -> Message:
            message = await receive()
            self.bytes += len(message.get("body", b""))
            return message

        return counted

    def evict(self) -> None:
        """End it now, to make room."""
        assert self.limit is not None
        self.evicted = True
        with contextlib.suppress(RuntimeError):  # its time was over at this very moment
            self.limit.reschedule(asyncio.get_running_loop().time())
        self.limit = None


class UploadSlots:
    """Four uploads at a time, two of a tenant; for use on one event loop.

    A tenant without an upload gets in even if there is no room, and evicts the slowest: otherwise two tenants that send nothing
    could keep all others out.
    """

    def __init__(self) -> None:
        self._uploads: list[Upload] = []

    @contextmanager
    def take(self, tenant: str) -> Iterator[Upload]:
        """Hold a slot during the block. Raises `Overloaded` where none is free."""
        own = sum(upload.tenant == tenant for upload in self._uploads)
        if own >= _UPLOADS_OF_ONE:
            raise too_many_uploads()
        if len(self._uploads) >= _UPLOADS_AT_ONCE:
            coming = [upload for upload in self._uploads if upload.limit is not None and upload.seconds >= _GRACE_S]
            if own or not coming:
                raise too_many_uploads()
            min(coming, key=lambda upload: upload.bytes / upload.seconds).evict()
        upload = Upload(tenant)
        self._uploads.append(upload)
        try:
            yield upload
        finally:
            if upload in self._uploads:
                self._uploads.remove(upload)


def too_many_uploads() -> Overloaded:
    """The error for an upload that got no slot."""
    return Overloaded("This machine is receiving as many documents as it can.", hint="Send them one after another.")
