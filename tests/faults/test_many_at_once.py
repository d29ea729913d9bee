"""Twenty tenants put documents without a pause while sixteen users ask: no error, no lost document, and the index keeps up."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving import Api, served
from traffic import until

if TYPE_CHECKING:
    from conftest import Home

TENANTS, FEW = 20, 6
USERS = 16
PUTS_PER_S = 10.0  # of all tenants together
VERSIONS = 4  # puts of a tenant after which it puts its next document: the puts between change it
MOST_LAG_S = 60.0
SETTLED_S = 180.0


class Crowd:
    """Threads that repeat a request until they are stopped, and what went wrong in them."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.done = 0
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def add(self, step: Callable[[], Any], every_s: float) -> None:
        """Repeat `step`, which is begun every so many seconds, or as fast as it can."""

        def go_on() -> None:
            due = time.monotonic()
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                due = max(due + every_s, time.monotonic() - every_s)
                try:
                    step()
                    self.done += 1
                except httpx.HTTPStatusError as error:
                    self.errors.append(f"{error.response.status_code} {error.response.text}")
                except httpx.HTTPError as error:
                    self.errors.append(repr(error))

        self._threads.append(threading.Thread(target=go_on, daemon=True))

    def run(self, seconds: float, meanwhile: Callable[[], None]) -> None:
        """Let all of them go on for so long; `meanwhile` is called about once a second."""
        for thread in self._threads:
            thread.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            meanwhile()
            time.sleep(1.0)
        self._stop.set()
        for thread in self._threads:
            thread.join(180)
            assert not thread.is_alive(), "a request has no answer"


class Tenant:
    """A tenant that puts one document after another, each in some versions; `newest` has the last text of each."""

    def __init__(self, api: Api, name: str) -> None:
        api.tenant(name, requests_per_minute=100_000)
        self.name = name
        self.client = api.client(api.mint(name, "read", "write")[0])
        self.newest: dict[str, str] = {}
        self.waits = 0
        self._numbers = itertools.count()

    def put(self) -> None:
        number = next(self._numbers)
        uri = f"log-{number // VERSIONS:05}.md"
        text = f"# Log {number // VERSIONS}\n\nAt {self.name} the reading of meter{number // VERSIONS} was value{number}.\n"
        self._send("PUT", f"/v1/documents/{uri}", content=text.encode())
        self.newest[uri] = text

    def ask(self) -> None:
        found = self._send("POST", "/v1/search", json={"question": "Which reading had the meter?"})
        assert all(self.name in passage["text"] for passage in found["passages"]), "another tenant's passage"

    def _send(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        """A request's answer; one that is to come later, because the machine is busy, comes again."""
        while (answer := self.client.request(method, path, **body)).status_code == 429:
            self.waits += 1
            time.sleep(float(answer.headers["retry-after"]))
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    def stored(self) -> dict[str, dict[str, Any]]:
        """Its documents, by name."""
        documents: dict[str, dict[str, Any]] = {}
        after, more = "", True
        while more:
            page = self.client.get("/v1/documents", params={"after": after, "limit": 1000}).raise_for_status().json()
            documents |= {one["uri"]: one for one in page["data"]}
            after, more = page["data"][-1]["uri"] if page["data"] else "", page["has_more"]
        return documents


def gauge(api: Api, name: str) -> float:
    families = text_string_to_metric_families(api.client().get("/metrics").raise_for_status().text)
    return next(sample.value for family in families for sample in family.samples if sample.name == name)


def together(api: Api, seconds: float, count: int) -> dict[str, Any]:
    """So many tenants at once for so long, then what was seen."""
    tenants = [Tenant(api, f"one-of-many-{number:02}") for number in range(count)]
    tenants[0].put()
    api.indexed(tenants[0].client, next(iter(tenants[0].newest)))  # where nothing was ever indexed, a question is refused
    service = psutil.Process(api.process.pid)
    crowd = Crowd()
    for tenant in tenants:
        crowd.add(tenant.put, len(tenants) / PUTS_PER_S)
    for tenant in tenants[:USERS]:
        crowd.add(tenant.ask, 1.0)
    lags, memory = [0.0], [service.memory_info().rss >> 20]

    def look() -> None:
        lags.append(gauge(api, "headrace_index_lag_seconds"))
        memory.append(service.memory_info().rss >> 20)

    crowd.run(seconds, look)
    assert not crowd.errors, crowd.errors[:5]
    until(SETTLED_S, lambda: gauge(api, "headrace_unindexed_documents") == 0, lambda: f"lag {lags[-1]:.0f} s", every_s=0.5)
    for tenant in tenants:
        status = tenant.client.get("/v1/index").raise_for_status().json()
        assert (status["waiting"], status["lag_s"]) == (0, 0.0)
        documents = tenant.stored()
        assert documents.keys() == tenant.newest.keys(), "a document was lost, or came from elsewhere"
        assert {document["status"] for document in documents.values()} == {"indexed"}
        assert status["passages"] == len(documents), "each is one passage, in its newest version alone"
    for tenant in tenants[::7]:
        for uri, text in tenant.newest.items():
            value = text.rpartition("value")[2].partition(".")[0]
            body = {"question": f"value{value}", "filters": [f"document={uri}"]}
            found = tenant.client.post("/v1/search", json=body).raise_for_status().json()
            assert [f"value{value}." in passage["text"] for passage in found["passages"]] == [True], (uri, found)
    waits = sum(tenant.waits for tenant in tenants)
    return {
        "requests": crowd.done,
        "waits": waits,
        "lag_s": max(lags),
        "memory_mib": (memory[len(memory) // 5], memory[len(memory) // 2], max(memory[-5:])),
    }


def test_the_index_says_how_far_behind_it_is_and_catches_up(api: Api) -> None:
    seen = together(api, 2.0, FEW)
    assert seen["requests"] > FEW
    assert seen["lag_s"] < MOST_LAG_S


@pytest.mark.soak(minutes=7)
@pytest.mark.timeout(3600)
def test_twenty_tenants_put_for_five_minutes_while_sixteen_users_ask(home: Home, tmp_path: Path) -> None:
    with served(home, tmp_path / "log") as api:
        seen = together(api, float(os.environ.get("HEADRACE_SOAK_SECONDS", "300")), TENANTS)
    print(seen)
    assert seen["lag_s"] < MOST_LAG_S
    _, was, now = seen["memory_mib"]  # caches fill first: of known answers, of manifests, of the index
    assert now <= 1.15 * was, f"{was} MiB after half of the time, {now} MiB at the end"
