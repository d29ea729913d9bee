"""What one tenant's key can do to others, to its own tenant's limits, and to what its tenant keeps from some of its own."""

from __future__ import annotations

import json
import select
import socket
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from documents import row, sheets
from shell import as_json, run
from traffic import until
from words import embedding as vector

from headrace.answering.record import CORRECTION_CHARACTERS, REASON_CHARACTERS, Answer, Verdict
from headrace.answering.rerank import Passage
from headrace.api.answers import search_response
from headrace.api.auth import ADMIN, READ, SCOPES, Caller
from headrace.api.service import Service
from headrace.app import App
from headrace.catalog import CHUNKS, DIMENSIONS, DOCUMENTS
from headrace.core.run import Run
from headrace.core.runner import Runner
from headrace.documents.names import document_id
from headrace.documents.sources.folder import find_files
from headrace.errors import BadDocument, WrongUsage
from headrace.settings import Settings, TenantLimits
from headrace.storage import metadata
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectReader
from headrace.storage.records import batch
from headrace.storage.vectors.handles import VectorWriter
from headrace.storage.vectors.search import Hit

NFC = unicodedata.normalize("NFC", "pré/é.md")
NFD = unicodedata.normalize("NFD", "pré/é.md")


def writer(api: Any, tenant: str, **quotas: int) -> httpx.Client:
    """A new tenant's client, which may read and write."""
    api.tenant(tenant, **quotas)
    client: httpx.Client = api.client(api.mint(tenant, "read", "write")[0])
    return client


def sources(api: Any, tenant: str) -> dict[str, int]:
    """Hash → bytes of the sources in the bucket."""
    stored = ObjectReader(DOCUMENTS, api.endpoints, Meter(Ledger(), "test"))
    return {info.key.rpartition("/")[2]: info.bytes for info in stored.list(f"{tenant}/")}


def test_versions_of_one_name_do_not_pass_the_quota(api: Any) -> None:
    client = writer(api, "versions", stored_bytes=20_000)
    put = [client.put("/v1/documents/a.txt", content=f"{n:03} ".encode() * 2_250) for n in range(8)]
    assert [response.status_code for response in put] == [202, 202] + [403] * 6
    assert put[-1].json()["error"]["code"] == "quota_reached"
    assert sum(sources(api, "versions").values()) == 18_000 <= 20_000
    assert client.get("/v1/documents").json()["stored"] == {"documents": 1, "bytes": 18_000}
    api.indexed(client, "a.txt")
    assert client.put("/v1/documents/a.txt", content=b"x" * 3_000).status_code == 403, "also when the tables know of it"
    assert client.put("/v1/documents/b.txt", content=b"000 " * 2_250).status_code == 202, "the same bytes are stored once"
    assert client.get("/v1/documents").json()["stored"] == {"documents": 2, "bytes": 18_000}


def test_a_document_has_so_many_versions_at_a_time(api: Any) -> None:
    client = writer(api, "rewriting", versions=2)

    def put(text: bytes, **query: str) -> int:
        return client.put("/v1/documents/a.txt", content=text, params=query).status_code

    assert [put(b"One."), put(b"Two."), put(b"Three."), put(b"One."), put(b"Two.", reader="ann")] == [202, 202, 403, 202, 202]
    api.indexed(client, "a.txt")
    assert put(b"Three.") == 403, "also when the tables know of them"
    client.delete("/v1/documents/a.txt").raise_for_status()
    assert put(b"Three.") == 202, "a deletion takes all of them"


def test_a_deletion_takes_every_version(api: Any) -> None:
    client = writer(api, "deleting")
    texts = [f"# Secret {number}\n\nThe word is heliotrope {number}.\n".encode() for number in range(3)]
    for text in texts[:2]:
        client.put("/v1/documents/a.md", content=text).raise_for_status()
    api.indexed(client, "a.md")
    client.put("/v1/documents/a.md", content=texts[2]).raise_for_status()
    client.put("/v1/documents/same.md", content=texts[0]).raise_for_status()
    assert len(sources(api, "deleting")) == 3
    assert client.delete("/v1/documents/a.md").status_code == 202
    assert list(sources(api, "deleting").values()) == [len(texts[0])], "another document has the first"
    assert api.indexed(client, "same.md")["status"] == "indexed"
    assert client.get("/v1/documents").json()["stored"]["bytes"] == len(texts[0])
    until(60, lambda: client.get("/v1/documents/a.md").status_code == 404, api.log.read_text)
    assert client.put("/v1/documents/a.md", content=texts[2]).status_code == 202, "and it may be put again"
    assert len(sources(api, "deleting")) == 2


def test_a_large_document_does_not_keep_another_tenants_small_one_waiting(api: Any) -> None:
    large, small = writer(api, "large"), writer(api, "small-one")
    text = "".join(f"## Part {n}\n\n" + f"The gate number {n} was opened, looked at and closed again. " * 5 for n in range(580))
    assert len(text) < 200_000
    api.models.gate.shut()
    try:
        before = api.models.batches
        large.put("/v1/documents/large.md", content=text.encode()).raise_for_status()
        until(60, lambda: api.models.batches > before, lambda: "its embedding does not begin")
        small.put("/v1/documents/small.md", content=b"# Weir\n\nThe weir is made of oak.\n").raise_for_status()
        begun = api.models.batches
    finally:
        api.models.gate.open()
    api.models.delay = 0.1
    try:
        assert api.indexed(small, "small.md")["status"] == "indexed"
        ahead = api.models.batches - begun
        assert large.get("/v1/documents/large.md").json()["status"] == "parsed", "it goes on afterwards"
    finally:
        api.models.delay = 0.0
    # Four batches are on their way when the small one is met, and each tenant has one in the round that it comes into.
    assert ahead <= 6, ahead
    assert api.indexed(large, "large.md")["status"] == "indexed"
    assert api.models.batches - begun > 2 * ahead
    found = large.post("/v1/search", json={"question": "Which gate number 219 was opened?"}).json()["passages"]
    assert any("219" in passage["text"] for passage in found)


def test_a_slow_document_does_not_keep_another_tenants_small_one_waiting(api: Any) -> None:
    slow, small = writer(api, "slow-sheet"), writer(api, "small-two")
    slow.put("/v1/documents/slow.xlsx", content=sheets({"Q3": row("gate", 1, "open") * 50_000})).raise_for_status()
    small.put("/v1/documents/small.md", content=b"# Weir\n\nThe weir is made of oak.\n").raise_for_status()
    assert api.indexed(small, "small.md")["status"] == "indexed"
    assert slow.get("/v1/documents/slow.xlsx").json()["status"] == "put"
    slow.delete("/v1/documents/slow.xlsx").raise_for_status()


def test_many_embeddings_do_not_keep_another_tenants_question_waiting(api: Any) -> None:
    """Each took all its texts' time in one turn, up to minutes, even if its client had left: four of them kept all others out."""
    many, other = writer(api, "many-texts"), writer(api, "one-question")
    other.put("/v1/documents/weir.md", content=b"# Weir\n\nThe weir is made of oak.\n").raise_for_status()
    assert api.indexed(other, "weir.md")["status"] == "indexed"
    body = {"model": "headrace-embedder", "input": [f"text number {n}" for n in range(96)]}

    def queue() -> str:
        return " ".join(
            line.rpartition(" ")[2] for line in api.client().get("/metrics").text.splitlines() if "headrace_queue{" in line
        )

    api.models.gate.shut()
    try:
        with ThreadPoolExecutor(4) as pool, closing(HTTPConnection(httpx.URL(api.url).netloc.decode())) as leaving:
            before = api.models.batches
            head = {"Authorization": many.headers["authorization"], "Content-Type": "application/json"}
            leaving.request("POST", "/v1/embeddings", json.dumps(body), head)
            embedding = [pool.submit(many.post, "/v1/embeddings", json=body, timeout=120.0) for _ in range(3)]
            until(60, lambda: api.models.batches == before + 4, queue)
            leaving.close()
            time.sleep(2)  # until the service has noticed, which nothing shows
            asking = pool.submit(other.post, "/v1/search", json={"question": "What is the weir made of?"}, timeout=120.0)
            until(60, lambda: queue() == "4.0 1.0", queue)
            api.models.gate.step()
            assert "oak" in asking.result(60).text
            until(60, lambda: queue() == "3.0 0.0", queue)
            assert not any(one.done() for one in embedding)
            until(60, lambda: api.models.batches >= before + 7, queue)
            assert api.models.batches == before + 7, "nothing is embedded for a client that left"
            api.models.gate.open()
            for one in embedding:
                made = one.result(60).json()
                shown = [entry["embedding"] for entry in made["data"]]
                wanted = [vector(text, len(shown[0])) for text in body["input"]]
                assert np.allclose(shown, wanted, atol=1e-6), "in the order of the texts"
                assert made["usage"]["prompt_tokens"] == 3 * len(body["input"])
    finally:
        api.models.gate.open()


def test_a_large_body_counts_as_many_requests(api: Any) -> None:
    """Reading 4 MB of a chat, or an error for each of 300,000 keys in it, kept all waiting for seconds, as often as one liked."""
    client = writer(api, "heavy", requests_per_minute=100)
    heavy = {"model": "headrace", "messages": [{"role": "user", "content": "x" * 3_000_000}]}
    answers = [client.post("/v1/chat/completions", json=heavy) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [400, 400, 429, 429], "46 requests each"
    assert 10 < int(answers[-1].headers["retry-after"]) <= 60
    keys = {"messages": [{"role": "user", "content": "Why?"}], **dict.fromkeys(map(str, range(10_000)))}
    other = writer(api, "many-keys")
    for body in ({**keys, "model": "headrace"}, {"model": "headrace", "messages": keys["messages"], "headrace": keys}):
        refused = other.post("/v1/chat/completions", json=body)
        assert refused.status_code == 400
        assert "it has 10,00" in refused.json()["error"]["message"]


def test_what_is_replaced_or_deleted_again_is_bounded_by_the_day(api: Any) -> None:
    """Tables keep the text of each put, so `stored_bytes` alone bounds no disk: two versions in turn, or one put and deleted."""
    client = writer(api, "churning", stored_bytes=20_000, put_bytes_per_day=50_000)
    texts = [f"{n:03} ".encode() * 2_250 for n in range(2)]
    put = [client.put("/v1/documents/a.txt", content=texts[n % 2]).status_code for n in range(8)]
    assert put == [202] * 5 + [403, 200, 403], "what changes nothing is no put"
    assert client.delete("/v1/documents/a.txt").status_code == 202
    refused = client.put("/v1/documents/a.txt", content=texts[1])
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "quota_reached")
    assert client.put("/v1/documents/b.txt", content=b"x" * 4_000).status_code == 202, "what fits in still comes in"


def test_two_tenants_that_send_slowly_keep_no_third_one_out(api: Any) -> None:
    slow, quick = [writer(api, "slow-one"), writer(api, "slow-two")], writer(api, "quick")
    port, held = int(api.url.rpartition(":")[2]), []
    try:
        for number, client in enumerate(slow * 2):
            held.append(socket.create_connection(("127.0.0.1", port), timeout=30))
            head = f"PUT /v1/documents/{number}.txt HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n"
            held[-1].sendall(f"{head}Authorization: {client.headers['authorization']}\r\n\r\nx".encode())
        until(60, lambda: quick.put("/v1/documents/a.txt", content=b"Let me in.").status_code == 202, lambda: "it is kept out")
        said = [one.recv(100)[:12] for one in held if select.select([one], [], [], 0.5)[0]]
        assert said == [b"HTTP/1.1 429"], "one had to go, and was told"
    finally:
        for one in held:
            one.close()


def test_an_admin_of_a_tenant_fills_no_memory_with_keys(api: Any) -> None:
    api.tenant("minting", keys=3)
    admin = api.client(api.mint("minting", "tenant-admin")[0])

    def mint(**more: Any) -> httpx.Response:
        return admin.post("/v1/keys", json={"tenant": "minting", "scopes": ["read"], **more})

    made = [mint() for _ in range(3)]
    assert [response.status_code for response in made] == [201, 201, 403]
    assert made[-1].json()["error"]["code"] == "quota_reached"
    assert admin.delete(f"/v1/keys/{made[0].json()['id']}").status_code == 200
    long = mint(readers=[f"{n:03}{'x' * 190}" for n in range(100)])
    assert (long.status_code, "4,000 characters" in long.text) == (400, True), long.text
    assert mint().status_code == 201
    assert api.mint("minting", "read"), "the operator's keys are the operator's to count"


def test_only_so_many_revoked_keys_are_kept(api: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "_LONG_REVOKED", metadata._LONG_REVOKED.replace("LIMIT 1000", "LIMIT 2"))
    own = api.endpoints.metadata.model_copy(update={"file": tmp_path / "metadata.db"})
    with closing(metadata.Metadata(api.endpoints.model_copy(update={"metadata": own}))) as store:
        for tenant in ("a", "b"):
            store.add_tenant(tenant)
        theirs = store.create_key("b", ["read"])[1]
        store.revoke_key(theirs.id)
        for _ in range(6):
            store.revoke_key(store.create_key("a", ["read"], most=5)[1].id)
        last = store.create_key("a", ["read"], most=5)[1]
        kept = store.keys()
    assert len([key for key in kept if key.tenant == "a" and key.revoked_at]) == 2
    assert {theirs.id, last.id} <= {key.id for key in kept}


def test_an_admin_of_a_tenant_does_not_lock_the_operator_out(api: Any) -> None:
    api.tenant("lockers")
    admin = api.client(api.mint("lockers", "tenant-admin")[0])
    theirs, their_id = api.mint("lockers", "admin")
    refused = admin.delete(f"/v1/keys/{their_id}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    assert api.client(theirs).get("/v1/tenants").status_code == 200
    own_id = api.mint("lockers", "read", "users")[1]
    assert admin.delete(f"/v1/keys/{own_id}").status_code == 200, "its own it may, whoever made them"


def test_an_admin_of_a_tenant_does_everything_there_and_nothing_elsewhere(api: Any) -> None:
    api.tenant("theirs")
    key, key_id = api.mint("theirs", "tenant-admin")
    admin = api.client(key)
    assert admin.put("/v1/documents/a.md", content=b"# A\n\nText.\n").status_code == 202
    assert admin.get("/v1/documents").status_code == 200
    assert admin.post("/v1/search", json={"question": "text"}).status_code in (200, 404)
    made = admin.post("/v1/keys", json={"tenant": "theirs", "scopes": ["read"], "readers": ["hr"]})
    assert made.status_code == 201, made.text
    assert admin.post("/v1/keys", json={"tenant": "theirs", "scopes": ["tenant-admin"]}).status_code == 201
    assert admin.post("/v1/keys", json={"tenant": "theirs", "scopes": ["admin"]}).status_code == 403
    assert admin.post("/v1/keys", json={"tenant": "acme", "scopes": ["read"]}).status_code == 403
    assert {row["tenant"] for row in admin.get("/v1/keys").json()["data"]} == {"theirs"}
    assert [row["tenant"] for row in admin.get("/v1/tenants").json()["data"]] == ["theirs"]
    foreign = api.keys["acme"].split("_")[1]
    refused, unknown = admin.delete(f"/v1/keys/{foreign}"), admin.delete(f"/v1/keys/{'0' * 16}")
    assert refused.status_code == unknown.status_code == 404
    assert refused.text.replace(foreign, "") == unknown.text.replace("0" * 16, "")
    assert api.client(api.keys["acme"]).get("/v1/models").status_code == 200
    assert admin.delete(f"/v1/keys/{made.json()['id']}").status_code == 200
    for method, path, body in (
        ("GET", "/metrics", None),
        ("GET", "/v1/ledger", None),
        ("GET", "/v1/runs", None),
        ("GET", "/v1/loop", None),
        ("GET", "/v1/events", None),
        ("GET", "/v1/diagrams/inference.svg", None),
        ("POST", "/v1/tenants", {"name": "mine"}),
        ("PUT", "/v1/tenants/theirs/quotas", {"quotas": {"documents": 1_000_000}}),
        ("POST", "/v1/search", {"question": "a", "tenant": "acme"}),
    ):
        assert admin.request(method, path, json=body).status_code == 403, (method, path)
    assert admin.get("/v1/documents", params={"tenant": "acme"}).status_code == 403
    assert any(row["id"] == key_id for row in api.client().get("/v1/keys").json()["data"])


@pytest.fixture(scope="module")
def closed(api: Any) -> httpx.Client:
    """A tenant with a document for `hr`, one for `hr` and `ann`, and one for everybody."""
    client = writer(api, "closing")
    for uri, readers in (("pay.md", ["hr"]), ("both.md", ["hr", "ann"]), ("open.md", [])):
        text = f"# Bonus\n\nThe bonus in {uri} depends on marmalade."
        client.put(f"/v1/documents/{uri}", params={"reader": readers}, content=text.encode()).raise_for_status()
    for uri in ("pay.md", "both.md", "open.md"):
        assert api.indexed(client, uri)["status"] == "indexed"
    return client


def test_a_key_that_is_bound_to_readers_asks_as_these(api: Any, closed: httpx.Client) -> None:
    body = {"tenant": "closing", "scopes": ["read", "write"], "readers": ["ann"]}
    ann = api.client(api.client().post("/v1/keys", json=body).raise_for_status().json()["key"])
    question = {"question": "What does the bonus depend on?"}

    def found(client: httpx.Client, **more: Any) -> set[str]:
        told = client.post("/v1/search", json={**question, **more}).raise_for_status().json()
        return {passage["document"] for passage in told["passages"]}

    assert found(ann) == found(ann, readers=["ann"]) == {"both.md", "open.md"}
    assert found(closed) == {"open.md"}
    chat = {"model": "headrace", "messages": [{"role": "user", "content": question["question"]}]}
    for response in (
        ann.post("/v1/search", json={**question, "readers": ["hr"]}),
        ann.post("/v1/ask", json={**question, "readers": ["ann", "hr"]}),
        ann.post("/v1/chat/completions", json={**chat, "headrace": {"readers": ["hr"]}}),
        ann.put("/v1/documents/new.md", params={"reader": "hr"}, content=b"a"),
        ann.put("/v1/documents/pay.md", params={"everybody": True}, content=b"a"),
        ann.put("/v1/documents/pay.md", content=b"a"),
    ):
        assert response.status_code == 403, response.text
    listed = ann.get("/v1/documents").json()
    assert {document["uri"]: document["readers"] for document in listed["data"]} == {"both.md": ["ann"], "open.md": []}
    assert listed["stored"]["documents"] == 2
    hidden, unknown = ann.get("/v1/documents/pay.md"), ann.get("/v1/documents/nothing.md")
    assert (hidden.status_code, hidden.text) == (404, unknown.text)
    assert ann.delete("/v1/documents/pay.md").status_code == 404
    assert closed.get("/v1/documents/pay.md").json()["status"] == "indexed"
    for wrong in ({"readers": []}, {"readers": ["ann"], "scopes": ["admin"]}, {"readers": ["ann"], "scopes": ["tenant-admin"]}):
        assert api.client().post("/v1/keys", json={**body, **wrong}).status_code == 400, wrong


def test_a_key_that_is_bound_to_readers_judges_no_answer_made_for_others(api: Any, closed: httpx.Client) -> None:
    """Whether a chunk is one of the answer's told it what a closed document says: a chunk's id is a hash of its text."""
    body = {"tenant": "closing", "scopes": ["read"]}
    ann, bob = (
        api.client(api.client().post("/v1/keys", json={**body, "readers": [name]}).raise_for_status().json()["key"])
        for name in ("ann", "bob")
    )
    question = "What does the bonus depend on?"
    secret = closed.post("/v1/ask", json={"question": question, "readers": ["hr"]}).raise_for_status().json()
    chunk = secret["citations"][0]["chunk_id"]
    refused = [
        ann.post("/v1/feedback", json={"answer_id": secret["answer_id"], "up": True, **more})
        for more in ({}, {"chunk_id": chunk}, {"chunk_id": "0" * 24})
    ]
    assert {(one.status_code, one.text) for one in refused} == {(404, refused[0].text)}
    recorded = closed.post("/v1/feedback", json={"answer_id": secret["answer_id"], "up": True, "chunk_id": chunk})
    place = "/v1/feedback/{partition}/{offset}".format(**recorded.raise_for_status().json())
    until(60, lambda: closed.get(place).json()["landed"], lambda: "it does not land")
    assert closed.get(place).json()["answer_id"] == secret["answer_id"]
    assert "answer_id" not in ann.get(place).json()
    own = ann.post("/v1/ask", json={"question": question}).raise_for_status().json()
    opened = closed.post("/v1/ask", json={"question": question}).raise_for_status().json()
    for key, answer, status in ((ann, own, 200), (bob, own, 404), (ann, opened, 200), (closed, own, 200)):
        judged = key.post("/v1/feedback", json={"answer_id": answer["answer_id"], "up": False})
        assert judged.status_code == status, judged.text


def test_the_command_line_makes_the_same_keys(api: Any, closed: httpx.Client) -> None:
    made = as_json(api.home, "key", "create", "closing", "--scope", "read", "--reader", "hr", "--reader", "ann")
    assert made["readers"] == ["ann", "hr"]
    assert {document["uri"] for document in api.client(made["key"]).get("/v1/documents").json()["data"]} == {
        "pay.md",
        "both.md",
        "open.md",
    }
    admin = as_json(api.home, "key", "create", "closing", "--scope", "tenant-admin")
    (row,) = [row for row in api.client(admin["key"]).get("/v1/keys").json()["data"] if row["id"] == made["id"]]
    assert (row["scopes"], row["readers"]) == (["read"], ["ann", "hr"])
    said = run(api.home, "key", "create", "closing", "--scope", "admin", "--reader", "hr", code=2)
    assert "bound to readers" in said.stderr


def test_names_in_either_form_of_unicode_are_one_document(api: Any, tmp_path: Path) -> None:
    client = writer(api, "unicode")
    assert NFC != NFD
    client.put(f"/v1/documents/{NFD}", content=b"# One\n\nThe first text.\n").raise_for_status()
    client.put("/v1/documents", params={"uri": NFC}, content=b"# Two\n\nThe second text.\n").raise_for_status()
    assert api.indexed(client, NFD)["title"] == "Two"
    assert [document["uri"] for document in client.get("/v1/documents").json()["data"]] == [NFC]
    assert client.get(f"/v1/documents/{NFC}").json()["document_id"] == document_id("unicode", NFC)
    folder = tmp_path / "pré"
    folder.mkdir()
    (folder / unicodedata.normalize("NFD", "é.md")).write_text("as macOS writes it")
    assert [found.uri for found in find_files([folder]).files] == [NFC]
    (folder / unicodedata.normalize("NFC", "é.md")).write_text("as Linux does")
    (folder / "good.md").write_text("good")
    twins, good = sorted(find_files([folder]).files, key=lambda found: found.uri, reverse=True)
    assert (twins.uri, good.uri, good.read(100)) == (NFC, "pr\u00e9/good.md", b"good")
    with pytest.raises(BadDocument, match="another one has the same name"):  # and holds up no others
        twins.read(100)


def test_no_score_says_how_rare_a_word_is_in_others_documents(tmp_path: Path) -> None:
    """Also where the embedder cannot be asked, and full-text search answers alone. An admin, who may read all, gets the score."""
    tenant = Caller("acme", "key", frozenset({READ}), TenantLimits())
    admin = Caller("acme", "key", frozenset({ADMIN}), TenantLimits())

    def searches() -> tuple[list[Hit], list[Hit]]:
        return (
            vectors.fulltext("heliotrope stands", tenant="acme", most=5),
            vectors.fusion("heliotrope stands", towards(0), tenant="acme", most=5),
        )

    def told(caller: Caller) -> list[tuple[float | None, ...]]:
        answers = [
            Answer("?", "acme", "ann", tuple(Passage(hit, rank) for rank, hit in enumerate(hits, 1)), "none", "g1.1")
            for hits in searches()
        ]
        return [tuple(passage.retrieval_score for passage in search_response(answer, caller).passages) for answer in answers]

    def towards(side: float) -> np.ndarray[Any, np.dtype[np.float32]]:
        return np.array([1.0, side, *[0.0] * (DIMENSIONS - 2)], np.float32)

    def put(tenant: str, texts: list[str]) -> None:
        blank = {"document_id": "d", "version": "1", "tenant": tenant, "uri": "d.md", "heading": "", "position": 0, "readers": []}
        rows = [
            {**blank, "chunk_id": f"{tenant}{n}", "text": text, "embedding": towards(n).tolist()} for n, text in enumerate(texts)
        ]
        vectors.upsert(batch(CHUNKS.columns, rows))
        vectors.build()
        vectors.maintain()

    vectors = VectorWriter(CHUNKS, Endpoints.model_construct(vectors_uri=str(tmp_path)), Meter(Ledger(), "test"))
    put("acme", ["the heliotrope blooms", "the weir stands", "heliotrope and heliotrope"])
    before, fused = told(tenant), [hit.score for hit in searches()[1]]
    assert all(before)
    assert {score for scores in before for score in scores} == {None}
    assert told(admin) == [tuple(hit.score for hit in hits) for hits in searches()], "as `headrace search` prints it"
    put("globex", ["heliotrope on every page"] * 50)
    assert told(tenant) == before
    assert [hit.score for hit in searches()[1]] != pytest.approx(fused), "so the score itself must not be shown"


@pytest.mark.parametrize("path", ["%FF.md", "%FE.md", "a/%C3%28.md", "%EF%BF%BD.md"])
def test_names_that_are_not_utf_8_are_refused(api: Any, path: str) -> None:
    """U+FFFD itself too where a document is put: a client that sends it has lost a name."""
    client = api.client(api.keys["acme"])
    for method in ("PUT", "GET", "DELETE") if "EF" not in path else ("PUT",):
        response = client.request(method, f"/v1/documents/{path}", content=b"a")
        assert (response.status_code, response.json()["error"]["code"]) == (400, "wrong_usage"), response.text
    assert client.put(f"/v1/documents?uri={path}", content=b"a").status_code == 400


def test_quotas_are_numbers(api: Any) -> None:
    for quota in (True, False, 1.0, "1", None, -1, 1 << 63, 10**400):
        assert api.client().post("/v1/tenants", json={"name": "true", "quotas": {"documents": quota}}).status_code == 400, quota
        told = api.client().put("/v1/tenants/acme/quotas", json={"quotas": {"documents": quota}})
        assert told.status_code == 400, quota
    assert "true" not in {tenant["tenant"] for tenant in api.client().get("/v1/tenants").json()["data"]}


def test_a_verdict_that_is_sent_again_is_recorded_once(api: Any, closed: httpx.Client, tmp_path: Path) -> None:
    answer = closed.post("/v1/search", json={"question": "What does the bonus depend on?"}).json()["answer_id"]
    body = {"answer_id": answer, "up": True, "reason": "right"}
    key = {"Idempotency-Key": "a-try-of-mine"}
    told = [closed.post("/v1/feedback", json=body, headers=key).raise_for_status().json() for _ in range(3)]
    assert told[0] == told[1] == told[2]
    other = closed.post("/v1/feedback", json={**body, "up": False}, headers=key).json()
    again = closed.post("/v1/feedback", json=body, headers={"Idempotency-Key": "another"}).json()
    plain = [closed.post("/v1/feedback", json=body).json()["verdict_id"] for _ in range(2)]
    assert len({told[0]["verdict_id"], other["verdict_id"], again["verdict_id"], *plain}) == 5
    assert closed.post("/v1/feedback", json=body, headers={"Idempotency-Key": "x" * 201}).status_code == 400

    def landed() -> list[str]:
        rows = api.sql(f"SELECT verdict_id FROM feedback WHERE answer_id = '{answer}'")
        return sorted(row["verdict_id"] for row in rows)

    wanted = sorted({told[0]["verdict_id"], other["verdict_id"], again["verdict_id"], *plain})
    until(60, lambda: len(landed()) >= len(wanted), landed)
    assert landed() == wanted, "each once"
    # Another process, as after a restart, knows it from the tables.
    settings = Settings(home=api.home.path)
    app = App(settings, "up")  # not entered: it shares the platform of the one that runs
    app.runner = Runner(Run("test", tmp_path), api.endpoints)
    restarted = Service(app)
    caller = Caller("closing", closed.headers["authorization"].split("_")[1], frozenset({"read"}), settings.limits)
    until(60, lambda: app.answers.verdicts.answer(answer), lambda: "the answer does not land")
    assert asdict(restarted.questions.judge(caller, answer, True, reason="right", key="a-try-of-mine")) == told[0]
    restarted.metadata.close()


def test_a_verdicts_words_are_bounded_alike_everywhere(api: Any, closed: httpx.Client) -> None:
    answer = closed.post("/v1/search", json={"question": "What does the bonus depend on?"}).json()["answer_id"]
    for field, most in (("reason", REASON_CHARACTERS), ("correction", CORRECTION_CHARACTERS)):
        Verdict(answer, True, "closing", "ann", **{field: "é" * most})
        assert closed.post("/v1/feedback", json={"answer_id": answer, "up": True, field: "é" * most}).status_code == 200
        with pytest.raises(WrongUsage, match=f"{field} has"):
            Verdict(answer, True, "closing", "ann", **{field: "é" * (most + 1)})
        assert closed.post("/v1/feedback", json={"answer_id": answer, "up": True, field: "é" * (most + 1)}).status_code == 400
        with pytest.raises(WrongUsage, match="not Unicode"):
            Verdict(answer, True, "closing", "ann", **{field: "\udcff"})
    assert set(SCOPES) == {"read", "write", "users", "simulate", "tenant-admin", "admin"}
