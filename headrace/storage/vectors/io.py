"""Bytes moved by LanceDB, from its own metrics of requests to object store or file system.

The counters are per process. Each operation takes what was counted since the last take, so every byte is counted once; of two
overlapping operations, the one that ends first takes what both have moved so far.
"""

from __future__ import annotations

import threading

from headrace.storage.vectors.lance import lancedb  # isort: skip  # noqa: F401  # first: see there
from lancedb.otel import register_lancedb_metrics_recorder, snapshot_lancedb_metrics

_BYTES = "lance_object_store_request_bytes_total"


class LanceIo:
    """Bytes read and written since the last `take`.

    `counted` is false if another library has already registered the process's only metrics recorder.
    """

    def __init__(self) -> None:
        # Must precede any opening of a table: tables opened earlier are never counted.
        self.counted = bool(register_lancedb_metrics_recorder())
        self._taken = (0, 0)
        self._lock = threading.Lock()

    def take(self) -> tuple[int, int]:
        """Bytes (read, written) since the last call."""
        with self._lock:
            read = written = 0
            for point in snapshot_lancedb_metrics():
                if point.name != _BYTES:
                    continue
                if point.attributes["operation"].startswith("get"):
                    read += int(point.value)
                else:  # put, put_part
                    written += int(point.value)
            before, self._taken = self._taken, (read, written)
        return read - before[0], written - before[1]


LANCE_IO = LanceIo()
