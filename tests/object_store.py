"""What the object store counted of its own traffic."""

from __future__ import annotations

import re
import time

import httpx

from headrace.storage.endpoints import Endpoints

COUNTER = re.compile(r'^SeaweedFS_s3_bucket_traffic_(received|sent)_bytes_total\{bucket="([^"]+)"\} (\S+)$', re.M)
DIRECTION = {"received": "write", "sent": "read"}
Traffic = dict[tuple[str, str], float]


def traffic(endpoints: Endpoints) -> Traffic:
    """Bytes that SeaweedFS moved so far, by (bucket, direction)."""
    text = httpx.get(endpoints.s3_metrics_url, trust_env=False).text
    return {(bucket, DIRECTION[way]): float(value) for way, bucket, value in COUNTER.findall(text)}


def settled(endpoints: Endpoints) -> Traffic:
    """The counters once two looks in a row agree: a server counts a request after it answered it."""
    found = traffic(endpoints)
    for _ in range(20):
        time.sleep(0.1)
        before, found = found, traffic(endpoints)
        if before == found:
            break
    return found
