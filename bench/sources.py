"""sources: how long a listing without change takes, and how soon a change in a followed folder or bucket is searchable.

The bucket is on the embedded object store. The objects are listed and compared, as `headrace up` does at each look; none of them
is read or parsed. For the second, a service with a model endpoint that answers at once follows a folder and a prefix.

`python -m bench.sources [--objects N] [--changes N]`
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import obstore

from bench.command import end_by_sigterm, environment, instant_models
from headrace.catalog import SOURCES
from headrace.core.run import recorded
from headrace.core.runner import Runner
from headrace.documents.sources.follow import Follower
from headrace.platform import EVERY_PART, down, open_platform
from headrace.platform.home import Home
from headrace.platform.state import read_service
from headrace.settings import Settings, SourceSettings
from headrace.storage.endpoints import S3Location
from headrace.storage.objects import BucketReader, bucket_at

_OBJECTS, _CHANGES = 100_000, 10
_WRITERS = 16


def measure(objects: int = _OBJECTS, changes: int = _CHANGES) -> dict[str, Any]:
    """Bounds: a listing of 100,000 objects without change within 20 s, a change searchable within 5 s."""
    searchable = _searchable(changes)
    print(json.dumps(searchable), file=sys.stderr, flush=True)
    return {"searchable": searchable, "listing": _listing(objects)}


def _listing(objects: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.load(home=Path(folder), platform={"idle_s": 7200})
        try:
            with open_platform(settings, parts=EVERY_PART - {"models"}) as endpoints, recorded("bench", settings.home) as run:
                name = _bucket(endpoints.s3)
                client = bucket_at(*_where(endpoints.s3), name)
                with ThreadPoolExecutor(_WRITERS) as pool:
                    keys = (f"{number % 100:02}/{number}.md" for number in range(objects))
                    made = sum(1 for _ in pool.map(lambda key: obstore.put(client, key, f"# {key}".encode()), keys))
                buckets = Runner(run, endpoints).open(BucketReader, SOURCES, stage="follow")
                looking = Follower([f"s3://{name}"], buckets.of, 2.0)
                first_s, changes = _timed(looking.changed)
                looking.followed(changes)
                began = time.process_time()
                seconds = [_timed(looking.changed) for _ in range(3)]
                processor_s = (time.process_time() - began) / len(seconds)
                rows = [row for row in run.ledger.rows() if row.store == SOURCES.name]
        finally:
            down(settings, force=True)
    assert all(found is None for _, found in seconds), "nothing changed"
    return {
        "objects": made,
        "first_s": round(first_s, 2),
        "without_change_s": round(statistics.median(taken for taken, _ in seconds), 2),
        "processor_s": round(processor_s, 2),
        "load": round(os.getloadavg()[0], 1),
        "requests": sum(row.ops for row in rows) // 4,
        "object_bytes_read": sum(row.bytes for row in rows),
        "bound_s": 20,
    }


def _searchable(changes: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name, instant_models() as url:
        folder, home = Path(name) / "followed", Path(name) / "home"
        folder.mkdir()
        env = environment(home, url)
        settings = Settings.load(home=home, platform={"idle_s": 7200})
        with open_platform(settings, parts=EVERY_PART - {"models"}) as endpoints:
            bucket = _bucket(endpoints.s3)
            client = bucket_at(*_where(endpoints.s3), bucket)
        env["HEADRACE_SOURCES"] = json.dumps([{"place": str(folder)}, {"place": f"s3://{bucket}"}])
        with subprocess.Popen(
            [sys.executable, "-m", "headrace.cli", "--home", str(home), "up", "--port", str(_free_port()), "--no-train"],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                api = _service(home)
                places = {
                    "folder": lambda number, text: (folder / f"{number}.md").write_text(text),
                    "bucket": lambda number, text: obstore.put(client, f"{number}.md", text.encode()),
                }
                for write in places.values():  # the first of a home makes the tables and the index
                    write(0, "The word is zeroth.")
                _until_found(api, "zeroth", 120)
                found = {}
                for place, write in places.items():
                    taken = []
                    for number in range(1, changes + 1):
                        word = f"{place}{number}x{int(time.time() * 1000):x}"
                        begun = time.perf_counter()
                        write(number, f"The word is {word}.")
                        _until_found(api, word, 120)
                        taken.append(time.perf_counter() - begun)
                        time.sleep(0.37)  # so that changes fall anywhere between two looks
                    found[place] = {"median_s": round(statistics.median(taken), 2), "worst_s": round(max(taken), 2)}
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(60)
    down(settings, force=True)
    return {**found, "changes": changes, "every_s": SourceSettings(place="/").every_s, "bound_s": 5}


def _service(home: Path) -> httpx.Client:
    end = time.monotonic() + 120
    while (service := read_service(Home(home))) is None:
        if time.monotonic() > end:
            raise TimeoutError("the service did not start")
        time.sleep(0.1)
    return httpx.Client(base_url=service.url, headers={"Authorization": f"Bearer {service.token}"}, timeout=60)


def _until_found(api: httpx.Client, word: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = api.post("/v1/search", json={"question": word})
        if answer.status_code == httpx.codes.OK and any(word in one["text"] for one in answer.json()["passages"]):
            return
        time.sleep(0.05)
    raise TimeoutError(f"{word} was not found within {seconds:.0f} s")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def _bucket(at: S3Location) -> str:
    import boto3

    keys = {"aws_access_key_id": at.access_key, "aws_secret_access_key": at.secret_key, "region_name": at.region}
    boto3.client("s3", endpoint_url=at.endpoint, **keys).create_bucket(Bucket="handbooks")
    return "handbooks"


def _where(at: S3Location) -> tuple[str, str, str, str]:
    return at.endpoint, at.access_key, at.secret_key, at.region


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


if __name__ == "__main__":
    end_by_sigterm()
    parser = argparse.ArgumentParser()
    parser.add_argument("--objects", type=int, default=_OBJECTS)
    parser.add_argument("--changes", type=int, default=_CHANGES)
    chosen = parser.parse_args()
    print(json.dumps(measure(chosen.objects, chosen.changes), indent=2))
