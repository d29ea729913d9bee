"""The embedded head's records where Tansu keeps them, an object a batch: what need not be kept is deleted there.

Tansu 0.6.0 has no DeleteRecords, and each fetch lists every batch of the partition: with 3,000 batches it hands out 170 records
a second where it did 1,600 with 1,000. How it keeps a partition is an outcome of looking, not of its documentation:
`clusters/CLUSTER/topics/TOPIC/partitions/NUMBER/` has `watermark.json`, in which `low` is the offset at which the partition
begins (null: 0), replaced only where its etag still stands, by Tansu too; and `records/OFFSET.batch`, named by its first offset.
"""

from __future__ import annotations

import json
import random
import time

import obstore
from obstore import exceptions as faults

from headrace.errors import LostRace, Unavailable
from headrace.storage.endpoints import RecordStore
from headrace.storage.objects import bucket_at
from headrace.storage.reason import reason

_TRIES = 50
_AGAIN_S = 0.02  # Tansu replaces the watermark at each batch it takes


class TansuRecords:
    """The records of one topic of the embedded head. Its methods raise `Unavailable` where the object store does not answer."""

    def __init__(self, store: RecordStore, cluster: str, topic: str) -> None:
        self._where = f"{store.endpoint}/{store.bucket}"
        self._topic = f"clusters/{cluster}/topics/{topic}/partitions"
        self._client = bucket_at(store.endpoint, store.access_key, store.secret_key, store.region, store.bucket)

    def forget(self, partition: int, before: int) -> int:
        """Delete the batches that end at or below offset `before`; returns the offset at which the partition now begins.

        That is raised first: killed in between, batches are left below it, and the next call deletes them.
        """
        try:
            records = f"{self._topic}/{partition:010d}/records"
            paths = {
                int(meta["path"].rpartition("/")[2][:20]): meta["path"]
                for page in obstore.list(self._client, prefix=records)
                for meta in page
            }
            wanted = max((offset for offset in paths if offset <= before), default=0)
            low = self._raise(f"{self._topic}/{partition:010d}/watermark.json", wanted)
            if gone := [path for offset, path in paths.items() if offset < low]:
                obstore.delete(self._client, gone)
        except faults.BaseError as error:
            raise Unavailable(
                f"The object store of the head at {self._where} does not answer: {reason(error)}.",
                hint="Check that it runs (`headrace endpoints`) and run the command again.",
            ) from error
        return low

    def _raise(self, path: str, low: int) -> int:
        """Have the partition begin at `low`, or later where it does; returns where it begins. Raises `LostRace`."""
        for _ in range(_TRIES):
            answer = obstore.get(self._client, path)
            watermark, etag = json.loads(bytes(answer.bytes())), answer.meta["e_tag"]
            standing = int(watermark["low"] or 0)
            if standing >= low:
                return standing
            data = json.dumps(watermark | {"low": low}, separators=(",", ":")).encode()
            try:
                obstore.put(self._client, path, data, mode={"e_tag": etag})
                return low
            except faults.PreconditionError:
                time.sleep(_AGAIN_S * random.random())
        raise LostRace(f"The head writes {path} all the time.", hint="Run the command again.")
