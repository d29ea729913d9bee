"""Routes of tenants and keys, with a metadata store and no server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from unstarted import unstarted

from headrace.api.app import create_app
from headrace.api.service import Service


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with unstarted(tmp_path) as service:
        yield service


def test_a_change_is_one_line_of_the_audit(service: Service) -> None:
    # Not as a context manager: nothing is to be moved into the table.
    client = TestClient(create_app(service, "token"), base_url="http://127.0.0.1", headers={"Authorization": "Bearer token"})
    client.post("/v1/tenants", json={"name": "acme"}).raise_for_status()
    key = client.post("/v1/keys", json={"tenant": "acme", "scopes": ["read"]})
    key.raise_for_status()
    client.put("/v1/tenants/acme/training", json={"training": "shared"}).raise_for_status()
    client.delete(f"/v1/keys/{key.json()['id']}").raise_for_status()
    service.audit._keep_waiting()  # lines of requests, into the store where lines of changes are
    lines = []
    while (claimed := service.metadata.claim()) is not None:
        lines += [row["action"] for row in claimed[1]]
        service.metadata.drop_batch(claimed[0])
    assert sorted(lines) == ["key.create", "key.revoke", "tenant.add", "tenant.training.shared"]
