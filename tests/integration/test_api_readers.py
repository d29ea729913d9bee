"""Readers over the API: who a document is for is said when it is put, on whose behalf is asked when it is asked."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from shell import run

QUESTION = "What does the bonus of the keeper depend on?"


@pytest.fixture(scope="module")
def tenant(api: Any) -> httpx.Client:
    """A tenant with one document for everybody and one for `hr` and `o'brien, jr`."""
    api.tenant("readers")
    client: httpx.Client = api.client(api.mint("readers", "read", "write")[0])
    put(client, "open.md", "# Keeper\n\nThe keeper of the lock rounds the wheel at dawn.")
    put(client, "closed.md", "# Bonus\n\nThe bonus of the keeper depends on marmalade.", reader=["hr", "o'brien, jr"])
    assert api.indexed(client, "open.md")["readers"] == []
    assert api.indexed(client, "closed.md")["readers"] == ["hr", "o'brien, jr"]
    return client


def put(client: httpx.Client, uri: str, text: str, **query: Any) -> int:
    return client.put(f"/v1/documents/{uri}", params=query, content=text.encode()).raise_for_status().status_code


def found(client: httpx.Client, *readers: str, **more: Any) -> set[str]:
    """The documents that a search on behalf of some readers finds, and that an answer is made from, which must be among them."""
    body = {"question": QUESTION, **({"readers": readers} if readers else {}), **more}
    documents = {p["document"] for p in client.post("/v1/search", json=body).raise_for_status().json()["passages"]}
    answer = client.post("/v1/ask", json=body).raise_for_status().json()
    assert {passage["document"] for passage in answer["passages"]} <= documents
    assert ("marmalade" in json.dumps(answer)) == ("closed.md" in documents)
    return documents


def test_what_is_closed_answers_to_its_readers_alone(api: Any, tenant: httpx.Client) -> None:
    assert found(tenant) == found(tenant, "it", "HR", "o'brien") == {"open.md"}
    assert found(tenant, "hr") == found(tenant, "it", "o'brien, jr") == {"open.md", "closed.md"}
    # Who may do everything sees no more by that alone; and readers are a tenant's own.
    admin = api.client()
    assert found(admin, tenant="readers") == {"open.md"}
    assert found(admin, "hr", tenant="readers") == {"open.md", "closed.md"}
    assert "closed.md" not in found(api.client(api.keys["globex"]), "hr")


def test_openais_way_of_asking_has_them_too(tenant: httpx.Client) -> None:
    def asked(**ours: Any) -> str:
        body = {"model": "headrace", "messages": [{"role": "user", "content": QUESTION}], "headrace": ours}
        return tenant.post("/v1/chat/completions", json=body).raise_for_status().text

    assert "marmalade" in asked(readers=["hr"])
    assert "marmalade" not in asked()


def test_readers_stay_until_others_are_named(api: Any, tenant: httpx.Client) -> None:
    text = "# Bonus\n\nThe bonus of the keeper depends on marmalade and rain."
    assert put(tenant, "closed.md", text) == 202
    # Put again before the first is in the tables: nobody named is as it was, also then.
    assert put(tenant, "closed.md", text.replace("rain", "snow")) == 202
    assert api.indexed(tenant, "closed.md")["readers"] == ["hr", "o'brien, jr"]
    assert found(tenant) == {"open.md"}
    assert put(tenant, "closed.md", text.replace("rain", "snow"), reader=["o'brien, jr", "hr"]) == 200, "they are the same"
    assert put(tenant, "closed.md", text.replace("rain", "snow"), reader="it") == 202, "the same text, others may read it"
    assert api.indexed(tenant, "closed.md")["readers"] == ["it"]
    assert (found(tenant, "hr"), found(tenant, "it")) == ({"open.md"}, {"open.md", "closed.md"})
    assert put(tenant, "closed.md", text.replace("rain", "snow"), everybody=True) == 202
    assert api.indexed(tenant, "closed.md")["readers"] == []
    assert found(tenant) == {"open.md", "closed.md"}
    put(tenant, "closed.md", text, reader=["hr", "o'brien, jr"])
    api.indexed(tenant, "closed.md")


def test_what_is_no_name_is_refused(tenant: httpx.Client) -> None:
    for wrong in ("", "  ", "a\nb", "x" * 201):
        assert tenant.put("/v1/documents/a.md", params={"reader": wrong}, content=b"a").status_code == 400, wrong
        refused = tenant.post("/v1/search", json={"question": QUESTION, "readers": [wrong]})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "readers.0"
    assert tenant.put("/v1/documents/a.md", params={"reader": "hr", "everybody": True}, content=b"a").status_code == 400
    assert tenant.post("/v1/search", json={"question": QUESTION, "readers": ["r"] * 101}).status_code == 400
    assert tenant.get("/v1/documents/a.md").status_code == 404


def test_what_the_command_line_indexed_is_shown_as_indexed(api: Any) -> None:
    api.tenant("brought")
    client = api.client(api.mint("brought", "read")[0])
    folder = api.home.path.parent / "brought"
    folder.mkdir()
    (folder / "weir.md").write_text("# Weir\n\nThe weir was built of oak.")
    run(api.home, "index", folder, "--tenant", "brought", "--reader", "it")
    shown = api.indexed(client, "brought/weir.md", seconds=10)
    assert (shown["status"], shown["readers"]) == ("indexed", ["it"])

    def asked(*readers: str) -> set[str]:
        body = {"question": "What was the weir built of?", "readers": readers}
        return {p["document"] for p in client.post("/v1/search", json=body).raise_for_status().json()["passages"]}

    assert (asked("it"), asked()) == ({"brought/weir.md"}, set())
