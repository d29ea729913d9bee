"""Tenants of the API: what one has put, asked or been answered is nobody else's, by whatever way it is asked for."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx
import pytest

PHRASE = "The vault code of acme is heliotrope seventeen."
QUESTION = "What is the vault code?"
LONG = " ".join(
    f"The vault of acme has {n} locks made of brass and iron, and each lock is greased on day {n}." for n in range(40)
)


@pytest.fixture(scope="module")
def acme(api: Any) -> httpx.Client:
    client: httpx.Client = api.client(api.keys["acme"])
    assert client.put("/v1/documents/secrets/vault.md", content=f"# Vault\n\n{PHRASE}\n\n{LONG}\n".encode()).status_code == 202
    return client


@pytest.fixture(scope="module")
def globex(api: Any, acme: httpx.Client) -> httpx.Client:
    client: httpx.Client = api.client(api.keys["globex"])
    assert client.put("/v1/documents/menu.md", content=b"# Menu\n\nLunch is soup on Mondays.\n").status_code == 202
    assert api.indexed(client, "menu.md")["status"] == "indexed"
    assert api.indexed(acme, "secrets/vault.md")["status"] == "indexed"
    return client


@pytest.fixture(scope="module")
def answer(acme: httpx.Client, globex: httpx.Client) -> dict[str, Any]:
    given: dict[str, Any] = acme.post("/v1/ask", json={"question": QUESTION}).raise_for_status().json()
    assert any(PHRASE in passage["text"] for passage in given["passages"])
    return given


def leaks(response: httpx.Response) -> bool:
    return "heliotrope" in response.text or "vault.md" in response.text or "brass" in response.text


def test_nothing_answers_without_a_key_but_health(api: Any) -> None:
    described = api.client().get("/openapi.json").json()
    stranger = httpx.Client(base_url=api.url, trust_env=False)
    for path, operations in described["paths"].items():
        for method in operations:
            address = path.replace("{uri}", "a").replace("{name}", "a").replace("{key_id}", "0" * 16).replace("{pipeline}", "a")
            for headers in ({}, {"Authorization": "Bearer hr_0123456789abcdef_" + "A" * 43}, {"Authorization": "Bearer"}):
                response = stranger.request(method, address, headers=headers)
                outside = {401, 429} if "hr_" in headers.get("Authorization", "") else {401}  # after many wrong keys
                assert response.status_code in ({200} if path.startswith("/health") else outside), (method, path)
                if response.status_code == 401:
                    assert response.json()["error"]["type"] == "authentication_error"
    stranger.close()


def test_another_tenants_passages_are_not_found(globex: httpx.Client, answer: dict[str, Any]) -> None:
    for question in (QUESTION, PHRASE, "heliotrope", "' OR tenant = 'acme", 'vault") OR 1=1 --'):
        for path in ("/v1/search", "/v1/ask"):
            response = globex.post(path, json={"question": question})
            assert response.status_code == 200
            assert not leaks(response) or question in (PHRASE, "heliotrope"), response.text
            assert all(passage["document"] == "menu.md" for passage in response.json()["passages"])


def test_the_tenant_is_the_keys_and_not_the_requests(globex: httpx.Client, answer: dict[str, Any]) -> None:
    chat = {"model": "headrace", "messages": [{"role": "user", "content": QUESTION}]}
    for response in (
        globex.post("/v1/search", json={"question": QUESTION, "tenant": "acme"}),
        globex.post("/v1/ask", json={"question": QUESTION, "tenant": "acme"}),
        globex.post("/v1/chat/completions", json={**chat, "headrace": {"tenant": "acme"}}),
        globex.get("/v1/index", params={"tenant": "acme"}),
        globex.get("/v1/documents", params={"tenant": "acme"}),
        globex.get("/v1/documents/secrets/vault.md", params={"tenant": "acme"}),
        globex.put("/v1/documents/a.md", params={"tenant": "acme"}, content=b"a"),
        globex.delete("/v1/documents/secrets/vault.md", params={"tenant": "acme"}),
    ):
        assert response.status_code == 403, response.text
        assert response.json()["error"]["code"] == "forbidden"
        assert not leaks(response)
    for name in ("acme' OR '1'='1", "ACME", "acme\n", "*", ""):
        response = globex.post("/v1/search", json={"question": QUESTION, "tenant": name})
        assert response.status_code in (400, 403)
    for headers in ({"X-Tenant": "acme"}, {"OpenAI-Organization": "acme"}, {"X-Forwarded-User": "acme"}):
        assert not leaks(globex.post("/v1/search", json={"question": "soup"}, headers=headers))


def test_documents_of_another_tenant_are_not_there(globex: httpx.Client, acme: httpx.Client, answer: dict[str, Any]) -> None:
    listed = globex.get("/v1/documents").json()
    assert [document["uri"] for document in listed["data"]] == ["menu.md"]
    assert listed["stored"]["documents"] == 1
    for method in ("GET", "DELETE"):
        for uri in ("secrets/vault.md", "nothing.md"):
            response = globex.request(method, f"/v1/documents/{uri}")
            assert response.status_code == 404
            assert response.json()["error"]["message"].startswith("There is no such document"), "the same words for both"
    # The same name in another tenant is another document.
    assert globex.put("/v1/documents/secrets/vault.md", content=b"# Ours\n\nNothing here.\n").status_code == 202
    assert globex.delete("/v1/documents/secrets/vault.md").status_code == 202
    assert acme.get("/v1/documents/secrets/vault.md").json()["status"] == "indexed"


@pytest.mark.parametrize(
    "path", ["../acme/secrets/vault.md", "%2e%2e/acme/secrets/vault.md", "..%2fkeys", "a//b", "./a", "a\\..\\b"]
)
def test_names_that_climb_lead_nowhere(api: Any, path: str) -> None:
    """Sent as they are: clients would tidy them. Names that look like this there may be, for files and producers give any."""
    port = int(api.url.rpartition(":")[2])
    for method in ("GET", "PUT", "DELETE"):
        head = f"{method} /v1/documents/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {api.keys['globex']}\r\n"
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(f"{head}Content-Length: 1\r\nConnection: close\r\n\r\na".encode())
            answered = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        assert answered.split()[1] == ("400" if method == "PUT" else "404"), answered
        assert "heliotrope" not in answered


def test_verdicts_on_another_tenants_answer_are_refused(
    globex: httpx.Client, acme: httpx.Client, answer: dict[str, Any], api: Any
) -> None:
    own = globex.post("/v1/search", json={"question": "soup"}).json()
    theirs = {"answer_id": answer["answer_id"], "up": True}
    known = globex.post("/v1/feedback", json=theirs)
    unknown = globex.post("/v1/feedback", json={"answer_id": "0" * 16, "up": True})
    assert known.status_code == unknown.status_code == 404
    assert known.text.replace(answer["answer_id"], "") == unknown.text.replace("0" * 16, "")
    chunk = answer["passages"][0]["chunk_id"]
    assert globex.post("/v1/feedback", json={"answer_id": own["answer_id"], "up": True, "chunk_id": chunk}).status_code == 404
    assert acme.post("/v1/feedback", json={**theirs, "chunk_id": chunk}).status_code == 200


def test_only_an_admin_sees_what_is_of_all(globex: httpx.Client, api: Any) -> None:
    admin = api.client(api.keys["admin"])
    for path in (
        "/metrics",
        "/v1/ledger",
        "/v1/index/lag",
        "/v1/runs",
        "/v1/events",
        "/v1/diagrams/inference.svg",
        "/v1/tenants",
        "/v1/keys",
    ):
        response = globex.get(path)
        assert response.status_code == 403, path
        assert "acme" not in response.text
        if path != "/v1/events":
            assert admin.get(path).status_code == 200, path
    assert globex.post("/v1/tenants", json={"name": "mine"}).status_code == 403
    assert globex.post("/v1/keys", json={"tenant": "acme", "scopes": ["read"]}).status_code == 403
    assert globex.delete(f"/v1/keys/{api.keys['acme'].split('_')[1]}").status_code == 403
    found = admin.post("/v1/search", json={"question": QUESTION, "tenant": "globex"}).json()
    assert all(passage["document"] == "menu.md" for passage in found["passages"]), "an admin's key may name a tenant"


def test_a_key_does_only_what_its_scopes_say(api: Any, globex: httpx.Client) -> None:
    reader, writer = (api.client(api.mint("globex", scope)[0]) for scope in ("read", "write"))
    assert reader.get("/v1/documents").status_code == 200
    assert reader.put("/v1/documents/a.md", content=b"a").status_code == 403
    assert reader.delete("/v1/documents/menu.md").status_code == 403
    assert writer.post("/v1/search", json={"question": "soup"}).status_code == 403
    assert writer.get("/v1/models").status_code == 403


def _chat(question: str) -> dict[str, Any]:
    return {"model": "headrace", "messages": [{"role": "user", "content": question}]}


def test_the_generator_is_told_whose_prompt_it_reads(api: Any, acme: httpx.Client, globex: httpx.Client) -> None:
    """By that it keeps the keys and values of one tenant from the others, and of some readers from the others of a tenant
    (test_models_server.py)."""
    for tenant, client, question in (("acme", acme, QUESTION), ("globex", globex, "Is lunch soup on Mondays?")):
        before = len(api.models.chats)
        client.post("/v1/ask", json={"question": question}).raise_for_status()
        client.post("/v1/chat/completions", json=_chat(question)).raise_for_status()
        assert [body["headrace"]["tenant"] for body in api.models.chats[before:]] == [tenant] * 2
    for client, question, named in ((acme, QUESTION, ["hr", "eng"]), (acme, QUESTION, ["eng", "hr"]), (acme, QUESTION, ["ann"])):
        client.post("/v1/ask", json={"question": question, "readers": named}).raise_for_status()
        client.post("/v1/chat/completions", json={**_chat(question), "headrace": {"readers": named}}).raise_for_status()
    told = [body["headrace"].get("readers_id", "") for body in api.models.chats[-8:]]
    assert [told.index(one) for one in told] == [0, 0, 2, 2, 2, 2, 6, 6]
    assert not told[0], "without readers"


def test_what_was_asked_and_keys_are_in_no_log(api: Any, acme: httpx.Client, answer: dict[str, Any]) -> None:
    said = api.log.read_text() + "".join(path.read_text(errors="replace") for path in (api.home.path / "logs").glob("*.log"))
    for secret in ("heliotrope", "vault code", api.keys["acme"], api.keys["acme"].split("_", 2)[2], api.keys["admin"]):
        assert secret not in said
    assert "heliotrope" not in json.dumps(api.client().get("/v1/ledger").json())
    assert "heliotrope" not in api.client().get("/metrics").text
    kept = b"".join(path.read_bytes() for path in api.home.path.glob("metadata.db*"))
    assert api.keys["acme"].split("_", 2)[2].encode() not in kept, "kept is a hash"
