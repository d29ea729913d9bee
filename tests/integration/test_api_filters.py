"""Filters over the API: attributes are given when a document is put, and every way of asking takes them."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from shell import run

QUESTION = "When is the wheel greased?"


@pytest.fixture(scope="module")
def tenant(api: Any) -> httpx.Client:
    """A tenant with a document of each of two sites, and one of the north for `hr` alone."""
    api.tenant("filters")
    client: httpx.Client = api.client(api.mint("filters", "read", "write")[0])
    for name, site, readers in (("north.md", "north", []), ("south.md", "south", []), ("closed.md", "north", ["hr"])):
        text = f"# Wheel\n\nThe wheel of {name} is greased at dawn in the {site}."
        query: dict[str, Any] = {"attribute": [f"site={site}", "crew=7"], "reader": readers}
        client.put(f"/v1/documents/sites/{name}", params=query, content=text.encode()).raise_for_status()
    for name in ("north.md", "south.md", "closed.md"):
        assert api.indexed(client, f"sites/{name}")["status"] == "indexed"
    return client


def found(client: httpx.Client, *filters: str, **more: Any) -> set[str]:
    """The documents that a search finds with these filters; an answer must be made from them alone, in both shapes."""
    body = {"question": QUESTION, "filters": filters, **more}
    response = client.post("/v1/search", json=body).raise_for_status().json()
    documents = {passage["document"].removeprefix("sites/") for passage in response["passages"]}
    assert response.get("filters", []) == list(filters)
    assert ("matches the filter" in response.get("note", "")) == (not documents)
    answer = client.post("/v1/ask", json=body).raise_for_status().json()
    assert {passage["document"].removeprefix("sites/") for passage in answer["passages"]} <= documents
    assert answer.get("filters", []) == list(filters)
    chat = {"model": "headrace", "messages": [{"role": "user", "content": QUESTION}], "headrace": {"filters": filters, **more}}
    said = client.post("/v1/chat/completions", json=chat).raise_for_status().json()
    assert {citation["document"].removeprefix("sites/") for citation in said["headrace"]["citations"]} <= documents
    return documents


def test_every_way_of_asking_is_held_to_the_filters(api: Any, tenant: httpx.Client) -> None:
    assert found(tenant) == {"north.md", "south.md"}
    assert found(tenant, "site=north") == {"north.md"}
    assert found(tenant, "site=north", "site=south", "crew=7", "kind=markdown") == {"north.md", "south.md"}
    assert found(tenant, "document=sites/", "site=south") == found(tenant, "document=sites/south.md") == {"south.md"}
    assert found(tenant, "site=west") == found(tenant, "crew=8") == found(tenant, "changed<=2020-01-01") == set()


def test_filters_open_nothing(api: Any, tenant: httpx.Client) -> None:
    assert found(tenant, "document=sites/closed.md") == set(), "and the note is that of a document that does not exist"
    assert found(tenant, "site=north", readers=["hr"]) == {"north.md", "closed.md"}
    stranger = api.client(api.keys["globex"])
    assert found(stranger, "site=north") == found(stranger, "document=sites/north.md") == set()
    assert found(stranger, "crew=7", readers=["hr"]) == set()


def test_attributes_are_shown_kept_replaced_and_taken_away(api: Any, tenant: httpx.Client) -> None:
    path, text = "/v1/documents/sites/south.md", b"# Wheel\n\nThe wheel of south.md is greased at dawn in the south."

    def put(status: int, **query: Any) -> list[str]:
        assert tenant.put(path, params=query, content=text).status_code == status
        attributes: list[str] = api.indexed(tenant, "sites/south.md")["attributes"]
        return attributes

    assert put(200) == ["crew=7", "site=south"]
    assert put(200, attribute=["site=south", "crew=7"]) == ["crew=7", "site=south"], "they are the same"
    assert put(202, attribute="site=west") == ["site=west"]
    assert (found(tenant, "site=west"), found(tenant, "site=south")) == ({"south.md"}, set())
    assert put(202, no_attributes=True) == []
    assert found(tenant, "site=west") == set()
    assert put(202, attribute=["site=south", "crew=7"]) == ["crew=7", "site=south"]


@pytest.mark.soak(minutes=0.4)
def test_the_command_line_gives_attributes_and_filters_by_them(api: Any) -> None:
    folder = api.home.path.parent / "sites"
    folder.mkdir()
    (folder / "north.md").write_text("# Wheel\n\nThe wheel in the north is greased at dawn.")
    run(api.home, "index", folder, "--attribute", "site=north", "--attribute", "crew=7")

    def searched(*filters: str) -> tuple[list[str], str]:
        found = api.home.json("search", QUESTION, *(word for one in filters for word in ("--filter", one)))
        return [passage["document"] for passage in found["passages"]], found.get("note", "")

    assert searched("site=north", "document=sites/") == (["sites/north.md"], "")
    assert searched("site=south") == ([], "nothing that may be read matches the filter site=south")
    assert "key=value" in run(api.home, "search", QUESTION, "--filter", "north", code=2).stderr
    assert "not an attribute" in run(api.home, "index", folder, "--attribute", "north", code=2).stderr
    run(api.home, "index", folder, "--no-attributes")
    assert searched("site=north")[0] == []


@pytest.mark.parametrize("wrong", ["", "north", "kind=pdf", "Site=north", "site=a\nb", "x" * 41 + "=1"])
def test_what_is_no_attribute_is_refused(tenant: httpx.Client, wrong: str) -> None:
    assert tenant.put("/v1/documents/sites/a.md", params={"attribute": wrong}, content=b"a").status_code == 400
    both = {"attribute": "site=north", "no_attributes": True}
    assert tenant.put("/v1/documents/sites/a.md", params=both, content=b"a").status_code == 400
    assert tenant.get("/v1/documents/sites/a.md").status_code == 404


@pytest.mark.parametrize("wrong", ["", "north", "site>north", "changed>=soon", "' OR 1=1"])
def test_what_is_no_filter_is_refused_by_its_place(tenant: httpx.Client, wrong: str) -> None:
    for path, body in (
        ("/v1/search", {"question": QUESTION, "filters": ["site=north", wrong]}),
        ("/v1/ask", {"question": QUESTION, "filters": ["site=north", wrong]}),
    ):
        refused = tenant.post(path, json=body)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "filters.1", json.dumps(refused.json())
    assert tenant.post("/v1/search", json={"question": QUESTION, "filters": ["a=b"] * 51}).status_code == 400
