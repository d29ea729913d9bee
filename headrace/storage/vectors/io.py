"""What LanceDB moves, by its own count of the requests it makes to the object store or the file system below it.

The count is one for the whole process. Each operation takes what was counted since the last one took, so that every byte is
taken once; of two that overlap, the one that ends first takes what both have moved until then.
"""

from __future__ import annotations

import threading

from lancedb.otel import register_lancedb_metrics_recorder, snapshot_lancedb_metrics

_BYTES = "lance_object_store_request_bytes_total"


class LanceIo:
    """Bytes read and written since they were last asked for.

    `counted` is false where another library of this process has taken the one place that such counts go to.
    """

    def __init__(self) -> None:
        # Before anything is opened: what is opened earlier is never counted.
        self.counted = bool(register_lancedb_metrics_recorder())
        self._taken = (0, 0)
        self._lock = threading.Lock()

    def take(self) -> tuple[int, int]:
        """Bytes (read, written) that nobody has taken yet."""
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
