"""A process's cache of Iceberg's manifests and manifest lists."""

from __future__ import annotations

import threading
from collections import OrderedDict

_CACHED_BYTES = 1 << 20
"""Larger files are not cached."""
_CACHE_BYTES = 16 << 20


class ManifestCache:
    """The manifests and manifest lists that this process last wrote or read, as bytes; thread-safe.

    They are immutable and have unique names, each stage asks for them anew, and each read would cost two requests.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    @staticmethod
    def takes(location: str) -> bool:
        """Whether a file is one of these by its name."""
        return location.endswith(".avro")

    def get(self, location: str) -> bytes | None:
        """A file's bytes, if they are cached."""
        with self._lock:
            if location in self._files:
                self._files.move_to_end(location)
            return self._files.get(location)

    def keep(self, location: str, data: bytes) -> None:
        """Cache a file that is stored."""
        if len(data) > _CACHED_BYTES:
            return
        with self._lock:
            self._bytes += len(data) - len(self._files.pop(location, b""))
            self._files[location] = data
            while self._bytes > _CACHE_BYTES:
                self._bytes -= len(self._files.popitem(last=False)[1])

    def drop(self, location: str) -> None:
        """Forget a file that is deleted."""
        with self._lock:
            self._bytes -= len(self._files.pop(location, b""))
