"""The API and the page as whoever has the token meets them: answers that cite, verdicts, diagrams, what is pushed."""

from __future__ import annotations

import json
import posixpath
import re
import shutil
import subprocess
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import ServerSentEvent, connect_sse
from traffic import until

from headrace.api.page import FILES
from headrace.models import MODEL_NAMES

TENANT = "page-test"
DOCUMENTS = {
    "backup.md": "# Backups\n\nNightly backups start at 02:00 UTC and are kept for 35 days.\n",
    "hostile.md": "# <script>alert(1)</script>\n\nPasswords change every 90 days <img src=x onerror=alert(2)>.\n",
}


@pytest.fixture(scope="module")
def client(api: Any) -> httpx.Client:
    """One with the token, in whose tenant the documents are."""
    api.tenant(TENANT)
    writer = api.client(api.mint(TENANT, "read", "write")[0])
    for name, text in DOCUMENTS.items():
        writer.put(f"/v1/documents/{name}", content=text.encode()).raise_for_status()
    for name in DOCUMENTS:
        assert api.indexed(writer, name)["status"] == "indexed"
    client: httpx.Client = api.client()
    return client


def asked(client: httpx.Client, question: str) -> list[ServerSentEvent]:
    with connect_sse(client, "POST", "/v1/ask", json={"question": question, "stream": True, "tenant": TENANT}) as source:
        assert source.response.status_code == 200
        return list(source.iter_sse())


def under_way(client: httpx.Client) -> int:
    with connect_sse(client, "GET", "/v1/events") as source:
        totals = json.loads(next(source.iter_sse()).data)
    return int(totals["answering"] + totals["waiting"])


def test_an_answer_streams_cites_and_takes_verdicts(client: httpx.Client) -> None:
    events = asked(client, "How long are nightly backups kept?")
    assert {event.event for event in events[:-1]} == {"piece"}
    assert events[-1].event == "answer"
    answer: dict[str, Any] = json.loads(events[-1].data)
    assert "".join(json.loads(event.data)["text"] for event in events[:-1]).strip() == answer["answer"]
    assert "35 days" in answer["answer"]
    assert [citation["document"] for citation in answer["citations"]] == ["backup.md"]
    assert f"[{answer['citations'][0]['number']}]" in answer["answer"]
    passage = answer["passages"][0]
    assert passage["retrieval_rank"] == 1
    assert passage["rerank_score"] is None, "no re-ranker was promoted in this home"
    assert answer["timings_ms"]["total"] > 0
    assert answer["bytes"]["stream_write"] > 0

    def written() -> int:
        rows = client.get("/v1/ledger").json()["rows"]
        feedback = ("feedback", "feedback", "write")
        return sum(row["ops"] for row in rows if (row["stage"], row["store"], row["direction"]) == feedback)

    before = written()
    first = client.post("/v1/feedback", json={"answer_id": answer["answer_id"], "up": True}).json()
    given = {"answer_id": answer["answer_id"], "up": False, "reason": "old", "chunk_id": passage["chunk_id"]}
    second = client.post("/v1/feedback", json=given).json()
    assert (first["topic"], first["partition"]) == ("feedback", second["partition"]), "an answer's verdicts stay in order"
    assert second["offset"] == first["offset"] + 1
    assert written() == before + 2

    unknown = client.post("/v1/feedback", json={"answer_id": "0" * 16, "up": True})
    assert unknown.status_code == 404
    assert "headrace land" in unknown.json()["error"]["message"]
    elsewhere = client.post("/v1/feedback", json={**given, "chunk_id": "another"})
    assert elsewhere.status_code == 404


def test_a_whole_answer_and_a_search_agree(client: httpx.Client) -> None:
    question = {"question": "When do passwords change?", "tenant": TENANT}
    answer = client.post("/v1/ask", json=question).json()
    found = client.post("/v1/search", json=question).json()
    assert [p["chunk_id"] for p in answer["passages"]] == [p["chunk_id"] for p in found["passages"]][: len(answer["passages"])]
    assert found["passages"][0]["document"] == "hostile.md"
    assert "<img src=x onerror=alert(2)>" in found["passages"][0]["text"], "documents come as they are; the page inserts text"
    other = client.post("/v1/search", json={**question, "tenant": "another"})
    assert (other.status_code, other.json()["error"]["code"]) == (404, "not_found"), (
        "a tenant that is not there is said to be that"
    )


def test_who_leaves_stops_the_generator(api: Any, client: httpx.Client) -> None:
    body = json.dumps({"question": "When do nightly backups start?", "tenant": TENANT})
    before, left = len(api.models.chats), api.models.left
    api.models.pause = 0.5
    connection = HTTPConnection(api.url.removeprefix("http://"))
    try:
        headers = {"Authorization": f"Bearer {api.token}", "Content-Type": "application/json"}
        connection.request("POST", "/v1/ask", body, headers)
        until(60, lambda: len(api.models.chats) > before, lambda: "the generator was not asked")
        connection.close()
        until(60, lambda: api.models.left == left + 1, lambda: "the generator goes on")
    finally:
        connection.close()
        api.models.pause = 0.0
    until(60, lambda: under_way(client) == 0, lambda: under_way(client))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (json.dumps({"question": "a" * 4001}), "4,001 characters"),
        (json.dumps({"question": "  "}), "empty"),
        (json.dumps({"question": "a", "tenat": "b"}), "tenat"),
        (json.dumps({"question": "a", "tenant": "../b"}), "lower-case"),
        ('{"question": "\\ud800"}', "surrogate"),
        ("question", "JSON"),
    ],
)
def test_what_is_off_is_told(client: httpx.Client, body: str, says: str) -> None:
    response = client.post("/v1/ask", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert says in response.json()["error"]["message"]


def test_strangers_stay_outside(api: Any, client: httpx.Client) -> None:
    with httpx.Client(base_url=api.url, trust_env=False) as stranger:
        for path in ("/openapi.json", "/v1/events", "/docs"):
            assert stranger.get(path).status_code == 401, path
    assert client.get("/health", headers={"Host": "evil.example"}).status_code == 421
    assert client.get("/docs").status_code == 404, "the documentation page loads scripts from elsewhere"
    assert client.post("/v1/ask", content=b"x" * 70_000).status_code == 413


def test_the_page_asks_nobody_else(api: Any) -> None:
    with httpx.Client(base_url=api.url, trust_env=False) as browser:
        page = browser.get("/")
        assert "script-src 'self'" in page.headers["content-security-policy"]
        first_paint = 0
        for path in FILES:
            part = browser.get(path)
            assert part.status_code == 200
            first_paint += len(part.content)
            text = part.text.replace("http://www.w3.org/2000/svg", "")
            assert "http://" not in text, path
            assert "https://" not in text, path
            assert "innerHTML" not in text, path
        assert first_paint <= 200_000, "all of the page"


def test_all_that_the_page_asks_for_is_given_to_its_token_and_to_nobody_without(api: Any, client: httpx.Client) -> None:
    """There is no cookie, so what a browser asks for by itself (a picture, a link, an EventSource) would come without a key."""
    with httpx.Client(base_url=api.url, trust_env=False) as browser:
        scripts = {path: content.decode() for path, (content, _) in FILES.items() if path.endswith(".js")}
        script = "\n".join(scripts.values())
        assert not re.findall(r"EventSource|XMLHttpRequest|WebSocket|sendBeacon|import\(|document\.cookie|localStorage", script)
        assert [path for path, text in scripts.items() if "fetch(" in text] == ["/page/lib/api.js"]
        assert re.findall(r"\bfetch\(", script) == ["fetch("], "one place, which sends the token"
        linked = set(re.findall(r"(?:src|href)=\"(?!#|data:)([^\"]*)", browser.get("/").text))
        assert linked == {"/page/favicon.svg", "/page/base.css", "/page/views.css", "/page/main.js"}
        for path, text in scripts.items():
            for name in re.findall(r"^import .*? from \"([^\"]*)", text, re.M):
                assert posixpath.normpath(posixpath.join(posixpath.dirname(path), name)) in FILES, (path, name)
        asked = set(re.findall(r"/v1/[a-z]+", script))
        reads = {"/v1/index", "/v1/events", "/v1/documents", "/v1/registry", "/v1/rounds", "/v1/head", "/v1/ledger", "/v1/runs"}
        reads |= {"/v1/tenants", "/v1/keys", "/v1/audit", "/v1/check", "/v1/sizing", "/v1/sources", "/v1/triggers"}
        assert asked == {*reads, "/v1/ask", "/v1/feedback", "/v1/text", "/v1/diagrams"}
        reads |= {f"/v1/text?uri=backup.md&tenant={TENANT}", "/v1/diagrams/inference.svg", "/v1/diagrams/inference.json"}
        for path in sorted({*reads, "/v1/ask", "/v1/feedback"}):
            method = "POST" if path in ("/v1/ask", "/v1/feedback") else "GET"
            assert browser.request(method, path, json={}).status_code == 401, path
            if method == "GET":
                with client.stream(method, path) as given:
                    assert given.status_code == 200, path


def test_the_page_takes_its_token_from_the_address_keeps_it_for_its_tab_and_sends_it(api: Any, tmp_path: Path) -> None:
    """The scripts themselves, in an engine without a browser: loaded, loaded again, and opened with another token."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js, which runs the page's scripts here, is not installed.")
    for path, (content, _) in FILES.items():
        if path.endswith(".js"):
            file = tmp_path / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    done = subprocess.run(
        [node, "--experimental-vm-modules", Path(__file__).parent / "page.mjs", tmp_path / "page" / "main.js", api.token],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    bearer = {"Authorization": f"Bearer {api.token}"}
    first, again, another, nobody = told["opened"], told["reloaded"], told["changed"], told["elsewhere"]
    assert (first["address"], first["kept"]["headrace-token"]) == ("/", api.token), "it is out of the address at once"
    assert first["asked"] == again["asked"]
    asked = {"/v1/index", "/v1/events", "/v1/diagrams/inference.json", "/v1/runs"}
    assert {path.partition("?")[0] for path, _ in first["asked"]} == asked
    assert all(headers == bearer for _, headers in first["asked"])
    for path, headers in first["asked"]:
        with httpx.stream("GET", f"{api.url}{path}", headers=headers, trust_env=False) as given:
            assert given.status_code in (200, 404), "404: nothing was drawn yet"
    assert another["kept"]["headrace-token"] == "another"
    assert another["asked"]
    assert all(headers == {"Authorization": "Bearer another"} for _, headers in another["asked"])
    assert all(headers == {"Authorization": "Bearer "} for _, headers in nobody["asked"]), "another tab has none"
    assert told["blocked"]["asked"] == first["asked"], "also where the browser keeps nothing"


def test_scores_are_drawn_from_the_live_run(client: httpx.Client) -> None:
    client.post("/v1/search", json={"question": "backups", "tenant": TENANT})
    run = client.get("/v1/ledger").json()["run"]
    diagram = client.get("/v1/diagrams/inference.svg")
    assert diagram.headers["content-type"] == "image/svg+xml"
    assert run in diagram.text
    assert client.get("/v1/diagrams/inference.svg", params={"run": run}).status_code == 200
    scene = client.get("/v1/diagrams/inference.json").json()
    assert (scene["run"], scene["live"], scene["measured"]) == (run, True, True)
    names = {(group["kind"], group["name"]) for group in scene["groups"]}
    assert {("stage", "Retrieve"), ("bar", "vector/Vector index"), ("flow", "Retrieve|read|vector/Vector index")} <= names
    assert scene["stages"]["Embed & index"] == ["embed", "index"]
    assert scene["stores"]["vector/Vector index"] == "chunks"
    full = client.get("/v1/diagrams/inference.json?detail=full").json()
    assert ("flow", "retrieve|read|vector/chunks") in {(group["kind"], group["name"]) for group in full["groups"]}
    assert all(item["is"] in ("rect", "line", "text") for group in full["groups"] for item in group["items"])
    for name, status in (("another.svg", 400), ("inference.svg?run=none", 404), ("inference.svg?view=none", 400)):
        assert client.get(f"/v1/diagrams/{name}").status_code == status
    drawn = {
        shape: client.get(f"/v1/diagrams/inference.svg?{shape}").text
        for shape in ("theme=light", "theme=dark", "detail=full", "view=time", "view=ray")
    }
    assert len(set(drawn.values())) == len(drawn)
    assert all(run in text for text in drawn.values())
    before_any_round = client.get("/v1/diagrams/training.svg")
    assert before_any_round.status_code == 200
    assert "nothing is measured yet" in before_any_round.text
    assert ("up", run) in {(r["command"], r["run"]) for r in client.get("/v1/runs").json()["runs"]}


def test_totals_are_pushed(client: httpx.Client) -> None:
    before = client.get("/v1/ledger").json()
    with connect_sse(client, "GET", "/v1/events") as source:
        stream = source.iter_sse()
        pushed = [next(stream) for _ in range(5)]
    told = [event.event for event in pushed]
    assert told == ["totals", "loop", "health", "moved", "totals"], (
        "the loop and what is ready are told once, for they do not change"
    )
    (moving,) = json.loads(pushed[3].data)["runs"]
    assert moving["run"] == before["run"]
    assert ["put", "documents", "object", "write"] in [flow[:4] for flow in moving["flows"]], "the documents of `client`"
    assert json.loads(pushed[1].data)["state"] == "off"
    totals = [json.loads(event.data) for event in pushed if event.event == "totals"]
    assert {total["run"] for total in totals} == {before["run"]}
    assert totals[0]["state"] == "running"
    moved = sum(row["bytes"] for row in before["rows"])
    assert sum(tier["read_bytes"] + tier["written_bytes"] for tier in totals[0]["tiers"]) >= moved > 0
    standing = client.get("/v1/index", params={"tenant": TENANT}).json()
    assert (standing["tenant"], standing["passages"]) == (TENANT, len(DOCUMENTS))
    assert client.get("/v1/index", params={"tenant": "another"}).json()["passages"] == 0


def test_a_verdict_says_whether_it_may_be_learned_from(api: Any, client: httpx.Client) -> None:
    answer = client.post("/v1/ask", json={"question": "For how long are backups kept?", "tenant": TENANT}).json()
    wanted = {}
    for consent in (None, False, True):
        given = {"answer_id": answer["answer_id"], "up": True, "consent": consent}
        wanted[client.post("/v1/feedback", json=given).json()["verdict_id"]] = consent
    assert client.post("/v1/feedback", json={**given, "consent": "yes"}).status_code == 400
    landed: dict[str, bool | None] = {}

    def there() -> bool:
        landed.update((row["verdict_id"], row["consent"]) for row in api.sql("SELECT verdict_id, consent FROM feedback"))
        return wanted.keys() <= landed.keys()

    until(60, there, lambda: landed)
    assert {name: landed[name] for name in wanted} == wanted


def test_candidates_are_all_that_was_retrieved_and_why_it_was_dropped(client: httpx.Client) -> None:
    question = {"question": "How long are nightly backups kept?", "tenant": TENANT}
    assert "candidates" not in client.post("/v1/ask", json=question).json()
    answer = client.post("/v1/ask", json={**question, "candidates": True}).json()
    found = client.post("/v1/search", json=question).json()["passages"]
    assert [one["chunk_id"] for one in answer["candidates"]] == [one["chunk_id"] for one in found]
    used = {one["used"]: one["chunk_id"] for one in answer["candidates"] if one["used"] is not None}
    assert used == {passage["number"]: passage["chunk_id"] for passage in answer["passages"]}
    assert all((one["used"] is None) == bool(one["dropped"]) for one in answer["candidates"])


def test_a_citation_leads_to_its_characters_in_the_document(api: Any, client: httpx.Client) -> None:
    answer = client.post("/v1/ask", json={"question": "How long are nightly backups kept?", "tenant": TENANT}).json()
    (citation,) = answer["citations"]
    named = {"uri": citation["document"], "chunk_id": citation["chunk_id"]}
    text = client.get("/v1/text", params={**named, "tenant": TENANT}).json()
    assert text["found"]
    assert text["newest"]
    assert "kept for 35 days" in "".join(text["text"][start:end] for start, end in text["spans"])
    acme = api.client(api.keys["acme"])
    assert acme.get("/v1/text", params=named).status_code == 404, "another tenant's document is not there"
    assert acme.get("/v1/text", params={**named, "tenant": TENANT}).status_code == 403


def test_a_closed_document_is_shown_on_behalf_of_its_readers_alone(api: Any, client: httpx.Client) -> None:
    api.tenant("closed")
    writer = api.client(api.mint("closed", "read", "write")[0])
    writer.put("/v1/documents/pay.md", params={"reader": "hr"}, content=b"# Pay\n\nPay rises in May.\n").raise_for_status()
    assert api.indexed(writer, "pay.md")["status"] == "indexed"
    assert writer.get("/v1/text", params={"uri": "pay.md"}).status_code == 403
    assert "Pay rises in May." in writer.get("/v1/text", params={"uri": "pay.md", "reader": "hr"}).json()["text"]
    body = {"tenant": "closed", "scopes": ["read"], "readers": ["sales"]}
    bound = api.client(client.post("/v1/keys", json=body).raise_for_status().json()["key"])
    assert bound.get("/v1/text", params={"uri": "pay.md"}).status_code == 404
    assert bound.get("/v1/text", params={"uri": "pay.md", "reader": "hr"}).status_code == 403


def test_a_verdict_is_seen_to_land_by_its_tenant_and_by_nobody_else(api: Any, client: httpx.Client) -> None:
    answer = client.post("/v1/ask", json={"question": "When do nightly backups start?", "tenant": TENANT}).json()
    place = client.post("/v1/feedback", json={"answer_id": answer["answer_id"], "up": True}).json()
    path = f"/v1/feedback/{place['partition']}/{place['offset']}"
    until(60, lambda: client.get(path).json()["landed"], lambda: client.get(path).text)
    assert client.get(path).json()["verdict_id"] == place["verdict_id"]
    assert "round" not in client.get(path).json(), "no round was made in this home"
    assert api.client(api.keys["acme"]).get(path).status_code == 404
    assert not client.get(f"/v1/feedback/{place['partition']}/{place['offset'] + 1000}").json()["landed"]


def test_the_head_the_rounds_and_the_models_are_shown_to_admins_alone(api: Any, client: httpx.Client) -> None:
    acme = api.client(api.keys["acme"])
    for path in (
        "/v1/head",
        "/v1/rounds",
        "/v1/registry",
        "/v1/ledger",
        "/v1/runs",
        "/v1/audit",
        "/v1/check",
        "/v1/sizing",
        "/v1/triggers",
    ):
        assert acme.get(path).status_code == 403, path
    head = client.get("/v1/head").json()
    assert {one["topic"] for one in head["partitions"]} == {"document-events", "interactions", "feedback"}
    assert head["divergences"] == []
    assert client.get("/v1/rounds").json() == {"object": "list", "data": [], "has_more": False}
    assert {one["pointer"]["model"] for one in client.get("/v1/registry").json()["models"]} == set(MODEL_NAMES)
    for key in (acme, client):
        code = 403 if key is acme else 404
        assert key.post("/v1/registry/reranker/promote", json={"version": "v000001", "why": "a test"}).status_code == code
        assert key.post("/v1/registry/reranker/rollback", json={}).status_code == code
    assert client.post("/v1/registry/another/rollback", json={}).status_code == 404
    assert client.get("/v1/ledger", params={"run": "none"}).status_code == 404


def test_a_platform_is_sized_from_presets_alone(client: httpx.Client, tmp_path: Path) -> None:
    found = client.get("/v1/sizing", params={"model": "llama-3.1-8b", "gpus": 64, "users": 10}).json()
    assert found["sizing"]["parameters"]["gpus"] == 64
    figures = {one["name"]: one["value"] for one in found["sizing"]["figures"]}
    assert figures["kv_bytes_per_token"] == 131_072
    assert {one["tier"] for one in found["sizing"]["tiers"]} == {"stream", "object", "table", "vector", "file"}
    # On the command line a model may be a config.json: a request may not have the server read a file.
    config = tmp_path / "config.json"
    config.write_text("{}")
    for wrong in ({"model": str(config)}, {"gpus": 0}, {"kv_read_share": 1, "kv_write_share": 1}, {"nonsense": 1}):
        refused = client.get("/v1/sizing", params=wrong)
        assert refused.status_code == 400, wrong
        assert "config.json cannot" not in refused.text
    assert client.get("/v1/check").json() == {"report": None}


def test_a_tenants_admin_sees_its_own_lines_of_the_audit(api: Any, client: httpx.Client) -> None:
    api.tenant("audited")
    admin = api.client(api.mint("audited", "tenant-admin")[0])
    admin.get("/v1/documents").raise_for_status()

    def lines() -> list[dict[str, Any]]:
        data: list[dict[str, Any]] = admin.get("/v1/audit").json()["data"]
        return data

    until(60, lambda: any(line["action"] == "GET /v1/documents" for line in lines()), lines)
    assert {line["tenant"] for line in lines()} == {"audited"}
    assert admin.get("/v1/audit", params={"tenant": "acme"}).status_code == 403


def test_reads_that_were_answered_are_left_out_of_the_audit_where_nobody_asks_for_them(api: Any) -> None:
    api.tenant("unread")
    admin = api.client(api.mint("unread", "tenant-admin")[0])
    admin.get("/v1/documents").raise_for_status()
    assert admin.get("/v1/audit", params={"tenant": "acme"}).status_code == 403

    def actions(reads: bool) -> set[tuple[str, str]]:
        data = admin.get("/v1/audit", params={"reads": reads}).json()["data"]
        return {(line["action"], line["outcome"]) for line in data}

    refused = ("GET /v1/audit", "forbidden")
    until(60, lambda: {refused, ("GET /v1/documents", "done")} <= actions(True), lambda: actions(True))
    shown = actions(False)
    assert refused in shown
    assert not any(action.startswith("GET ") and outcome == "done" for action, outcome in shown)


def test_the_audit_is_paged_by_time(api: Any, client: httpx.Client) -> None:
    api.tenant("paged")
    admin = api.client(api.mint("paged", "tenant-admin")[0])
    for _ in range(6):
        admin.get("/v1/documents").raise_for_status()

    def audited() -> int:
        return len(admin.get("/v1/audit").json()["data"])

    until(60, lambda: audited() >= 6, audited)
    times = [line["at"] for line in client.get("/v1/audit", params={"limit": 5}).json()["data"]]
    assert len(times) == 5
    assert times == sorted(times, reverse=True)
    earlier = client.get("/v1/audit", params={"limit": 5, "before": times[-1]}).json()["data"]
    assert all(line["at"] < times[-1] for line in earlier)
