"""What the service says of itself where nothing answers, and of a disk that is full; no server runs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient
from unstarted import unstarted

from headrace import readiness
from headrace.api.app import create_app
from headrace.api.service import Service
from headrace.documents.view import PUT, Document
from headrace.errors import NotFound, StorageFull, Unavailable
from headrace.platform import home as homes
from headrace.settings import ApiSettings


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(readiness, "_CLIENT_S", 0.3)
    with unstarted(tmp_path) as service:
        yield service


def test_each_part_that_does_not_answer_is_named_without_its_address(service: Service) -> None:
    # Not as a context manager: nothing is to be indexed.
    client = TestClient(create_app(service, "token"), base_url="http://127.0.0.1")
    answer: httpx.Response = client.get("/health/ready")
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    told = answer.json()
    assert told["error"]["code"] == "not_ready"
    wanting = {part["part"]: part["state"] for part in told["parts"] if not part["ready"]}
    assert set(wanting) == {"platform", "objects", "head", "embedder", "reranker", "generator"}
    assert wanting["objects"] == "does not accept objects"
    assert all(name in told["error"]["message"] for name in wanting)
    assert "127.0.0.1" not in answer.text
    assert {part["part"] for part in told["parts"] if part["ready"]} == {"disk", "metadata", "indexing"}
    text = client.get("/metrics", headers={"Authorization": "Bearer token"}).text
    assert 'headrace_up{part="objects"} 0.0' in text
    assert 'headrace_up{part="disk"} 1.0' in text
    assert "headrace_unrecorded_answers 0.0" in text
    service.stop()
    assert client.get("/health/ready").json()["status"] == "stopping"


def test_what_waits_to_be_indexed_is_counted_over_all_tenants(service: Service) -> None:
    client = TestClient(create_app(service, "token"), base_url="http://127.0.0.1", headers={"Authorization": "Bearer token"})
    assert client.get("/v1/index/lag").json() == {"waiting": 0, "lag_s": 0.0}
    put_at = datetime.now(UTC) - timedelta(hours=1)
    for tenant in ("acme", "globex"):
        service.documents._view.add(Document(tenant, "a.md", "1", PUT, 5, put_at))
    lag = client.get("/v1/index/lag").json()
    assert lag["waiting"] == 2
    assert lag["lag_s"] >= 3600


def test_a_full_disk_is_told_as_full_and_its_path_to_nobody(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    away = Unavailable("The object store at http://127.0.0.1:9/b does not answer.")
    assert service.cause_of(away) is away
    monkeypatch.setattr(homes, "FREE_BYTES", 1 << 60)
    full = homes.Home(service.settings.home).fullness()
    assert full is not None
    for error in (away, full):
        told = service.cause_of(error)
        assert isinstance(told, StorageFull)
        assert str(service.settings.home) not in str(told)
    missing = NotFound("There is no such document.")
    assert service.cause_of(missing) is missing
    parts = {part.name: part for part in service.readiness.check()}
    assert parts["disk"].state == "is full"


@pytest.mark.parametrize("origins", [(), ("https://chat.example.net",)])
def test_web_pages_of_other_servers_may_call_where_the_settings_say_so(service: Service, origins: tuple[str, ...]) -> None:
    service.settings = service.settings.model_copy(update={"api": ApiSettings(origins=origins)})
    client = TestClient(create_app(service, "token"), base_url="http://127.0.0.1")
    answer: httpx.Response = client.get("/health/live", headers={"Origin": "https://chat.example.net"})
    assert answer.status_code == 200
    assert answer.headers.get_list("access-control-allow-origin") == [*origins]
