"""The API and the page over the real platform and the real model server, as `headrace up` serves them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import ServerSentEvent, connect_sse

from headrace.catalog import FEEDBACK_ROWS
from headrace.head.land import land
from headrace.session import opened
from headrace.settings import Settings
from headrace.storage.meter import Meter
from headrace.storage.tables import TableReader

TOKEN = "token-of-a-test"
COMMAND = """
import signal, sys
from pathlib import Path
from headrace.inference.pipeline import index_documents
from headrace.session import opened
from headrace.settings import Settings
from headrace.web import Service, create_app, serve
home, documents, port, token = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
settings = Settings(home=home)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as the command line has it
with opened("up", settings, quiet=True) as session:
    index_documents(session.runner, [documents], tenant="default", settings=settings.inference)
    serve(create_app(Service(session.runner, session.desk(), settings), token), port)
print("ended cleanly")
"""
DOCUMENTS = {
    "backup.md": "# Backups\n\nNightly backups start at 02:00 UTC and are kept for 35 days.\n",
    "hostile.md": "# <script>alert(1)</script>\n\nPasswords change every 90 days <img src=x onerror=alert(2)>.\n",
}


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("web") / "home"


@pytest.fixture(scope="module")
def url(home: Path) -> Iterator[str]:
    folder = home.parent
    documents = folder / "documents"
    documents.mkdir()
    for name, text in DOCUMENTS.items():
        (documents / name).write_text(text)
    url = f"http://127.0.0.1:{(port := free_port())}"
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, str(home), str(documents), str(port), TOKEN],
            stdout=out,
            stderr=out,
            env={**os.environ, "HEADRACE_SETTINGS": str(folder / "none.toml")},
        )
    try:
        until = time.monotonic() + 120
        while not answers(url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        yield url
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0, log.read_text()
        assert log.read_text() == "ended cleanly\n"
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).is_success
    except httpx.HTTPError:
        return False


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60, trust_env=False) as client:
        yield client


def asked(client: httpx.Client, question: str) -> list[ServerSentEvent]:
    with connect_sse(client, "POST", "/v1/ask", json={"question": question, "stream": True}) as source:
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
    assert [citation["document"] for citation in answer["citations"]][:1] == ["documents/backup.md"]
    assert f"[{answer['citations'][0]['number']}]" in answer["answer"]
    passage = answer["passages"][0]
    assert passage["retrieval_rank"] == 1
    assert passage["rerank_score"] is None, "no re-ranker was promoted in this home"
    assert answer["timings_ms"]["total"] > 0
    assert answer["bytes"]["stream_write"] > 0

    first = client.post("/v1/feedback", json={"answer_id": answer["answer_id"], "up": True}).json()
    given = {"answer_id": answer["answer_id"], "up": False, "reason": "old", "chunk_id": passage["chunk_id"]}
    second = client.post("/v1/feedback", json=given).json()
    assert (first["topic"], first["partition"]) == ("feedback", second["partition"]), "an answer's verdicts stay in order"
    assert second["offset"] == first["offset"] + 1
    rows = client.get("/v1/ledger").json()["rows"]
    written = [row for row in rows if (row["stage"], row["store"], row["direction"]) == ("feedback", "feedback", "write")]
    assert sum(row["ops"] for row in written) == 2

    unknown = client.post("/v1/feedback", json={"answer_id": "0" * 16, "up": True})
    assert unknown.status_code == 404
    assert "headrace land" in unknown.json()["error"]["message"]
    elsewhere = client.post("/v1/feedback", json={**given, "chunk_id": "another"})
    assert elsewhere.status_code == 404


def test_a_whole_answer_and_a_search_agree(client: httpx.Client) -> None:
    question = {"question": "When do passwords change?"}
    answer = client.post("/v1/ask", json=question).json()
    found = client.post("/v1/search", json=question).json()
    assert [p["chunk_id"] for p in answer["passages"]] == [p["chunk_id"] for p in found["passages"]][: len(answer["passages"])]
    assert found["passages"][0]["document"] == "documents/hostile.md"
    assert "<img src=x onerror=alert(2)>" in found["passages"][0]["text"], "documents come as they are; the page inserts text"
    other = client.post("/v1/search", json={**question, "tenant": "another"}).json()
    assert other["passages"] == []


def test_who_leaves_stops_the_generator(client: httpx.Client) -> None:
    with pytest.raises(httpx.ReadTimeout):
        client.post("/v1/ask", json={"question": "How are backups made?"}, timeout=httpx.Timeout(60, read=0.1))
    until = time.monotonic() + 15
    while under_way(client):
        assert time.monotonic() < until
        time.sleep(0.1)


def test_many_at_once_are_answered_or_told_to_come_back(client: httpx.Client) -> None:
    def search(number: int) -> httpx.Response:
        return client.post("/v1/search", json={"question": f"backups {number}"})

    with ThreadPoolExecutor(40) as pool:
        responses = list(pool.map(search, range(60)))
    refused = [response for response in responses if response.status_code == 429]
    assert {response.status_code for response in responses} <= {200, 429}
    assert len(responses) - len(refused) >= 12
    assert all(int(response.headers["retry-after"]) > 0 for response in refused)
    assert client.post("/v1/search", json={"question": "backups"}).status_code == 200


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


def test_strangers_stay_outside(url: str, client: httpx.Client) -> None:
    for path in (
        "/",
        "/page.js",
        "/openapi.json",
        "/v1/ledger",
        "/v1/runs",
        "/v1/events",
        "/v1/scores/inference.svg",
        "/docs",
    ):
        assert httpx.get(url + path, trust_env=False).status_code == 401, path
    assert client.get("/health", headers={"Host": "evil.example"}).status_code == 421
    assert client.get("/docs").status_code == 404, "the documentation page loads scripts from elsewhere"
    assert client.post("/v1/ask", content=b"x" * 70_000).status_code == 413


def test_the_page_asks_nobody_else(url: str) -> None:
    with httpx.Client(base_url=url, follow_redirects=True, trust_env=False) as browser:
        page = browser.get("/", params={"token": TOKEN})
        assert str(page.url) == f"{url}/", "the token leaves the address bar"
        assert "script-src 'self'" in page.headers["content-security-policy"]
        for part in (page, browser.get("/page.css"), browser.get("/page.js")):
            assert part.status_code == 200
            text = part.text.replace("http://www.w3.org/2000/svg", "")
            assert "http://" not in text
            assert "https://" not in text
        assert "innerHTML" not in browser.get("/page.js").text


def test_scores_are_drawn_from_the_live_run(client: httpx.Client) -> None:
    client.post("/v1/search", json={"question": "backups"})
    run = client.get("/v1/ledger").json()["run"]
    score = client.get("/v1/scores/inference.svg")
    assert score.headers["content-type"] == "image/svg+xml"
    assert run in score.text
    assert client.get("/v1/scores/inference.svg", params={"run": run}).status_code == 200
    for name, status in (("training.svg", 404), ("another.svg", 400), ("inference.svg?run=none", 404)):
        assert client.get(f"/v1/scores/{name}").status_code == status
    assert "headrace turn" in client.get("/v1/scores/training.svg").json()["error"]["message"]
    assert [r["run"] for r in client.get("/v1/runs").json()["runs"]] == [run]


def test_totals_are_pushed(client: httpx.Client) -> None:
    before = client.get("/v1/ledger").json()
    with connect_sse(client, "GET", "/v1/events") as source:
        stream = source.iter_sse()
        pushed = [next(stream) for _ in range(3)]
    assert [event.event for event in pushed] == ["totals", "loop", "totals"], "the loop is told once, for it does not change"
    assert json.loads(pushed[1].data)["state"] == "off"
    totals = [json.loads(event.data) for event in pushed if event.event == "totals"]
    assert {total["run"] for total in totals} == {before["run"]}
    assert totals[0]["state"] == "running"
    moved = sum(row["bytes"] for row in before["rows"])
    assert sum(tier["read_bytes"] + tier["written_bytes"] for tier in totals[0]["tiers"]) >= moved > 0
    standing = client.get("/v1/standing").json()
    assert (standing["tenant"], standing["passages"]) == ("default", len(DOCUMENTS))
    assert client.get("/v1/standing", params={"tenant": "another"}).json()["passages"] == 0


def test_a_verdict_says_whether_it_may_be_learned_from(client: httpx.Client, home: Path) -> None:
    answer = client.post("/v1/ask", json={"question": "For how long are backups kept?"}).json()
    wanted = {}
    for consent in (None, False, True):
        given = {"answer_id": answer["answer_id"], "up": True, "consent": consent}
        wanted[client.post("/v1/feedback", json=given).json()["verdict_id"]] = consent
    assert client.post("/v1/feedback", json={**given, "consent": "yes"}).status_code == 400
    with opened("land", Settings(home=home), models=False, quiet=True) as session:
        session.runner.run(land)
        rows = TableReader(FEEDBACK_ROWS, session.runner.endpoints, Meter(session.run.ledger, "test")).read()
    found = dict(zip(rows["verdict_id"].to_pylist(), rows["consent"].to_pylist(), strict=True))
    assert {name: found[name] for name in wanted} == wanted
