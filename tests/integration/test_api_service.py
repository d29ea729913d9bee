"""The API as its users meet it: OpenAI's client, documents, quotas, rates, revoked keys, the audit, and whatever else is sent."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

import httpx
import pytest
from shell import as_json, run
from traffic import until

from headrace.api import auth as caller

PUMP = b"# The pump\n\nThe pump of the northern station was greased on day 12 by crew 7.\n"


@pytest.fixture(scope="module")
def acme(api: Any) -> httpx.Client:
    client: httpx.Client = api.client(api.keys["acme"])
    client.put("/v1/documents/pump.md", content=PUMP).raise_for_status()
    assert api.indexed(client, "pump.md")["status"] == "indexed"
    return client


def test_openais_client_asks_and_streams(api: Any, acme: httpx.Client) -> None:
    import openai

    with openai.OpenAI(base_url=f"{api.url}/v1", api_key=api.keys["acme"], max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["headrace", "headrace-search", "headrace-embedder"]
        assert client.models.retrieve("headrace-search").owned_by == "headrace"
        messages: list[Any] = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "On which day was the pump of the northern station greased?"}]},
        ]
        whole = client.chat.completions.create(model="headrace", messages=messages, temperature=0.7)
        assert whole.choices[0].message.content
        assert whole.usage is not None
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
        ours: dict[str, Any] = (whole.model_extra or {})["headrace"]
        assert {"answer_id", "citations", "model_version", "index_version"} <= set(ours)
        stream = client.chat.completions.create(
            model="headrace", messages=messages, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text.strip() == (whole.choices[0].message.content or "").strip()
        assert chunks[-1].usage is not None
        told: dict[str, Any] = (chunks[-2].model_extra or {})["headrace"]
        assert {chunk.id for chunk in chunks} == {f"chatcmpl-{told['answer_id']}"}, "known from the first chunk on"
        assert (chunks[-2].model_extra or {})["headrace"]["citations"] == ours["citations"]
        assert acme.post("/v1/feedback", json={"answer_id": ours["answer_id"], "up": True}).status_code == 200
        with pytest.raises(openai.NotFoundError) as unknown:
            client.chat.completions.create(model="gpt-4o", messages=messages)
        assert unknown.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError, match="empty"):
            client.chat.completions.create(model="headrace", messages=[{"role": "assistant", "content": "Hello"}])
    with (
        openai.OpenAI(base_url=f"{api.url}/v1", api_key="hr_wrong", max_retries=0) as client,
        pytest.raises((openai.AuthenticationError, openai.RateLimitError)),  # the latter after many wrong keys
    ):
        client.models.list()


def test_openais_client_is_obeyed_or_refused(api: Any, acme: httpx.Client) -> None:
    import openai

    question: list[Any] = [{"role": "user", "content": "On which day was the pump of the northern station greased?"}]
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key=api.keys["acme"], max_retries=0) as client:

        def ask(**more: Any) -> Any:
            return client.chat.completions.create(**{"model": "headrace", "messages": question, **more})

        whole = ask().choices[0].message
        noted = whole.annotations[0].url_citation
        assert noted.title == "pump.md"
        assert noted.url.startswith(f"{api.url}/#/documents?uri=pump.md&chunk=")
        assert "pump of the northern station" in whole.content[noted.start_index : noted.end_index]
        streamed = [chunk.choices[0].delta for chunk in ask(stream=True) if chunk.choices]
        assert (streamed[-1].model_extra or {})["annotations"] == [one.model_dump() for one in whole.annotations]
        assert ask(stop="greased").choices[0].message.content == whole.content.partition("greased")[0].strip()
        quotes = {"extra_body": {"headrace": {"answers": "extractive"}}}
        whether = [{"role": "user", "content": "Was the pump of the northern station greased?"}]  # a whole sentence answers
        for most, more in ((2, {}), (4, {"messages": whether, **quotes})):
            short = ask(max_tokens=most, **more).choices[0]
            assert (short.message.content.removesuffix(" [1]"), short.finish_reason) == ("The pump of the", "length")
        system = [{"role": "system", "content": "Be brief."}, *question]
        quoted = ask(messages=system, temperature=0.5, **quotes)
        assert "system message and temperature had no effect" in quoted.model_extra["headrace"]["note"]
        ask(messages=system, temperature=0.9, top_p=0.5, seed=7, presence_penalty=1, stop=["END"])
        sent = api.models.chats[-1]
        assert sent["messages"][0] == system[0]
        assert {name: sent[name] for name in ("temperature", "top_p", "seed", "presence_penalty")} == {
            "temperature": 0.9,
            "top_p": 0.5,
            "seed": 7,
            "presence_penalty": 1.0,
        }
        assert "END" in sent["stop"]
        for wrong in ({"temperature": 9}, {"n": 2}, {"tools": [{"type": "function", "function": {"name": "f"}}]}):
            with pytest.raises(openai.BadRequestError) as refused:
                ask(**wrong)
            assert refused.value.param in wrong
        found = ask(model="headrace-search").choices[0].message
        assert found.content.startswith("[1] pump.md\n")
        assert found.annotations[0].url_citation.title == "pump.md"
        thanks = ask(model="headrace-search", messages=[{"role": "user", "content": "Thanks a lot!"}])
        assert thanks.choices[0].message.content == "You are welcome. Ask again at any time."


def test_openais_client_asks_for_responses(api: Any, acme: httpx.Client) -> None:
    import openai

    question = "On which day was the pump of the northern station greased?"
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key=api.keys["acme"], max_retries=0) as client:
        whole = client.responses.create(model="headrace", input=question)
        assert (whole.status, whole.id[:5]) == ("completed", "resp_")
        text = whole.output[0].content[0]  # type: ignore[union-attr]
        [noted] = text.annotations  # type: ignore[union-attr]
        assert noted.title == "pump.md"  # type: ignore[union-attr]
        assert "pump of the northern station" in whole.output_text[noted.start_index : noted.end_index]  # type: ignore[union-attr]
        assert whole.usage is not None
        assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens
        assert (whole.model_extra or {})["headrace"]["answer_id"] == whole.id.removeprefix("resp_")

        with client.responses.stream(model="headrace", input=question) as stream:
            seen = list(stream)
            final = stream.get_final_response()
        assert [event.sequence_number for event in seen] == list(range(len(seen)))
        kinds = [event.type for event in seen]
        assert kinds[:4] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
        ]
        assert kinds[-1] == "response.completed"
        assert "response.output_text.annotation.added" in kinds
        pieces = "".join(event.delta for event in seen if event.type == "response.output_text.delta")
        assert pieces.strip() == final.output_text.strip() == whole.output_text.strip()

        follow = client.responses.create(model="headrace", input="And why?", previous_response_id=whole.id)
        assert "pump" in (follow.model_extra or {})["headrace"]["asked_as"]
        with pytest.raises(openai.NotFoundError):
            client.responses.create(model="headrace", input="And why?", previous_response_id="resp_" + "0" * 16)
        quotes = {"headrace": {"answers": "extractive"}}
        short = client.responses.create(
            model="headrace", input="Was the pump of the northern station greased?", max_output_tokens=4, extra_body=quotes
        )
        assert short.status == "incomplete"
        assert short.incomplete_details is not None
        assert short.incomplete_details.reason == "max_output_tokens"
        found = client.responses.create(model="headrace-search", input=question)
        assert found.output_text.startswith("[1] pump.md\n")
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.create(model="headrace", input=question, store=False)
        assert refused.value.param == "store"


def test_openais_client_embeds(api: Any, acme: httpx.Client) -> None:
    import openai

    texts = ["The pump was greased.", "Pumps are greased by the crew.", "The canteen has soup."]
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key=api.keys["acme"], max_retries=0) as client:
        made = client.embeddings.create(model="headrace-embedder", input=texts)  # as base64, which the client unpacks
        assert made.usage.prompt_tokens == made.usage.total_tokens > 0
        plain = client.embeddings.create(model="headrace-embedder", input=texts[0], encoding_format="float").data[0].embedding
        assert plain == pytest.approx(made.data[0].embedding, abs=1e-6)
        assert [one.index for one in made.data] == [0, 1, 2]
        for wrong, says in (({"dimensions": 7}, "dimensions"), ({"input": "word " * 20_000}, "refused a text")):
            with pytest.raises(openai.BadRequestError, match=says):
                client.embeddings.create(**{"model": "headrace-embedder", "input": texts, **wrong})
        with pytest.raises(openai.NotFoundError):
            client.embeddings.create(model="text-embedding-3-small", input=texts)
    writer = api.client(api.mint("acme", "write")[0])
    body = {"model": "headrace-embedder", "input": "x"}
    assert writer.post("/v1/embeddings", json=body).status_code == 403


def test_a_document_is_put_changed_failed_and_deleted(api: Any, acme: httpx.Client) -> None:
    first = acme.put("/v1/documents/notes/valve.md", content=b"# Valve\n\nThe valve is made of zirconium.\n")
    assert (first.status_code, first.json()["status"]) == (202, "put")
    assert api.indexed(acme, "notes/valve.md")["title"] == "Valve"
    same = acme.put("/v1/documents/notes/valve.md", content=b"# Valve\n\nThe valve is made of zirconium.\n")
    assert (same.status_code, same.json()["status"]) == (200, "indexed")

    def best() -> str:
        return str(acme.post("/v1/search", json={"question": "What is the valve made of?"}).json()["passages"][0]["text"])

    assert "zirconium" in best()
    form = {"file": ("notes/valve.md", b"# Valve\n\nThe valve is made of beryllium.\n", "text/markdown")}
    assert acme.put("/v1/documents", files=form).status_code == 202
    api.indexed(acme, "notes/valve.md")
    assert "beryllium" in best()
    assert acme.put("/v1/documents", params={"uri": "broken.pdf"}, content=b"%PDF-1.4 no more").status_code == 202
    failed = api.indexed(acme, "broken.pdf")
    assert failed["status"] == "failed"
    assert failed["reason"]
    assert [d["uri"] for d in acme.get("/v1/documents", params={"status": "failed"}).json()["data"]] == ["broken.pdf"]
    page = acme.get("/v1/documents", params={"limit": 1}).json()
    assert page["has_more"]
    following = acme.get("/v1/documents", params={"limit": 1, "after": page["data"][0]["uri"]}).json()
    assert following["data"][0]["uri"] > page["data"][0]["uri"]
    assert acme.delete("/v1/documents/notes/valve.md").status_code == 202
    until(60, lambda: acme.get("/v1/documents/notes/valve.md").status_code == 404, api.log.read_text)
    assert "beryllium" not in best()
    assert acme.delete("/v1/documents/notes/valve.md").status_code == 404
    assert acme.put("/v1/documents/large.txt", content=b"x" * 300_000).status_code == 413
    assert acme.put("/v1/documents/empty.txt", content=b"").status_code == 400


def test_what_a_tenant_stores_is_bounded(api: Any) -> None:
    api.tenant("small", documents=2, stored_bytes=100)
    client = api.client(api.mint("small", "read", "write")[0])
    assert client.put("/v1/documents/a.txt", content=b"a" * 60).status_code == 202
    over = client.put("/v1/documents/b.txt", content=b"b" * 60)
    assert (over.status_code, over.json()["error"]["code"]) == (403, "quota_reached")
    assert client.put("/v1/documents/a.txt", content=b"c" * 90).status_code == 403, "the version before is stored, too"
    assert client.put("/v1/documents/a.txt", content=b"c" * 30).status_code == 202
    assert client.get("/v1/documents").json()["stored"] == {"documents": 1, "bytes": 90}
    assert client.put("/v1/documents/b.txt", content=b"b" * 10).status_code == 202
    assert client.put("/v1/documents/c.txt", content=b"").status_code == 400
    assert client.delete("/v1/documents/a.txt").status_code == 202
    with ThreadPoolExecutor(4) as pool:
        many = list(pool.map(lambda n: client.put(f"/v1/documents/many-{n}.txt", content=b"d" * 10).status_code, range(4)))
    assert many.count(202) <= 1
    assert set(many) <= {202, 403, 429}
    assert client.get("/v1/documents").json()["stored"]["bytes"] <= 100


def test_a_rate_is_kept_and_says_when_to_come_back(api: Any) -> None:
    api.tenant("slow", requests_per_minute=5)
    client = api.client(api.mint("slow", "read")[0])
    answers = [client.get("/v1/models") for _ in range(8)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 3
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 13
    assert answers[-1].json()["error"]["type"] == "rate_limit_error"
    assert api.client(api.keys["globex"]).get("/v1/models").status_code == 200, "it is the other tenant's alone"
    admin = api.client(api.keys["admin"])
    assert admin.put("/v1/tenants/slow/quotas", json={"quotas": {"requests_per_minute": 600}}).status_code == 200
    until(60, lambda: client.get("/v1/models").status_code == 200, lambda: "the higher rate does not count")


def test_a_tenants_questions_at_once_are_bounded(api: Any, acme: httpx.Client) -> None:
    api.tenant("narrow", questions=1)
    client = api.client(api.mint("narrow", "read")[0])

    def search(_: int) -> httpx.Response:
        return client.post("/v1/search", json={"question": "pump"})  # type: ignore[no-any-return]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(search, range(16)))
        assert acme.post("/v1/search", json={"question": "pump"}).status_code == 200
    assert {answer.status_code for answer in answers} == {200, 429}
    assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 429)


def test_a_revoked_key_stops_within_a_second(api: Any) -> None:
    key, key_id = api.mint("globex", "read")
    client = api.client(key)
    assert client.get("/v1/models").status_code == 200
    run(api.home, "key", "revoke", key_id)
    until(60, lambda: client.get("/v1/models").status_code in (401, 429), lambda: "a revoked key goes on")
    assert caller._FRESH_S < 1, "for so long a key is taken for what it was"


def test_the_command_line_and_the_api_see_the_same_keys(api: Any) -> None:
    said = run(api.home, "tenant", "add", "shell", "--quota", "documents=3").stderr
    assert "how common a word is in all tenants' documents (SECURITY.md)" in said, "there are others"
    made = as_json(api.home, "key", "create", "shell", "--scope", "read", "--label", "of a test")
    assert api.client(made["key"]).get("/v1/models").status_code == 200
    listed = api.client(api.keys["admin"]).get("/v1/keys").json()["data"]
    (row,) = [key for key in listed if key["id"] == made["id"]]
    assert (row["tenant"], row["label"]) == ("shell", "of a test")
    assert made["key"] not in json.dumps(listed)
    limits = {tenant["tenant"]: tenant["limits"] for tenant in as_json(api.home, "tenant", "list")["tenants"]}
    assert limits["shell"]["documents"] == 3


def test_who_leaves_a_stream_stops_it(api: Any, acme: httpx.Client) -> None:
    body = {"model": "headrace", "stream": True, "messages": [{"role": "user", "content": "Which crew greased the pump?"}]}
    headers = {"Authorization": acme.headers["authorization"], "Content-Type": "application/json"}
    asked, left = len(api.models.chats), api.models.left
    api.models.pause = 0.5
    connection = HTTPConnection(api.url.removeprefix("http://"))
    try:
        # In the middle of a sentence: the first event comes with its end.
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        until(60, lambda: len(api.models.chats) > asked, lambda: "the generator was not asked")
        connection.close()
        until(60, lambda: api.models.left == left + 1, lambda: "the generator goes on")
    finally:
        api.models.pause = 0.0

    def idle() -> bool:
        text = api.client(api.keys["admin"]).get("/metrics").text
        return 'headrace_queue{state="answering"} 0.0' in text and 'headrace_queue{state="waiting"} 0.0' in text

    until(60, idle, api.log.read_text)


def test_metrics_count_by_tenant(api: Any, acme: httpx.Client) -> None:
    acme.post("/v1/search", json={"question": "pump"}).raise_for_status()
    text = api.client(api.keys["admin"]).get("/metrics").text
    assert 'headrace_questions_total{kind="search",tenant="acme"}' in text
    assert 'route="/v1/search"' in text
    assert 'headrace_bytes_total{direction="read",tenant="acme",tier="vector"}' in text
    assert "headrace_rejected_total" in text
    assert "pump.md" not in text


def test_everything_done_is_in_the_audit(api: Any, acme: httpx.Client) -> None:
    acme.put("/v1/documents/audited.md", content=b"# Audited\n\nText.\n").raise_for_status()
    answer = acme.post("/v1/search", json={"question": "what is audited"}).json()
    refused = acme.post("/v1/tenants", json={"name": "nope"})
    assert refused.status_code == 403
    rows: list[dict[str, Any]] = []

    def there() -> bool:
        rows[:] = api.sql("SELECT * FROM audit")
        return any(row["resource"] == answer["answer_id"] for row in rows)

    until(60, there, lambda: rows[-3:])
    found = {(row["action"], row["resource"], row["outcome"]) for row in rows if row["tenant"] == "acme"}
    assert ("document.put", "audited.md", "done") in found
    assert ("POST /v1/search", answer["answer_id"], "done") in found
    assert ("POST /v1/tenants", "", "forbidden") in found
    key_id = api.keys["acme"].split("_")[1]
    assert {row["key_id"] for row in rows if row["resource"] == "audited.md"} == {key_id}
    assert ("key.create", f"acme/{key_id}") in {(row["action"], row["resource"]) for row in rows}
    assert {row["address"] for row in rows} <= {"127.0.0.1", "local"}
    assert "what is audited" not in json.dumps(rows, default=str)
    assert len({json.dumps(row, default=str, sort_keys=True) for row in rows}) == len(rows), "each line is there once"


@pytest.mark.parametrize("most", [2, pytest.param(100, marks=[pytest.mark.soak(minutes=8), pytest.mark.timeout(3600)])])
def test_whatever_is_sent_is_answered_without_a_server_error(api: Any, acme: httpx.Client, most: int) -> None:
    import schemathesis
    from schemathesis.checks import not_a_server_error

    headers = {"Authorization": f"Bearer {api.token}"}
    schema = schemathesis.openapi.from_url(f"{api.url}/openapi.json", headers=headers)
    sent: dict[str, int] = {}
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path == "/v1/events":
            continue  # it never ends
        for case in _cases(operation, most):
            response = case.call(headers=headers, timeout=60)
            sent[operation.label] = sent.get(operation.label, 0) + 1
            case.validate_response(response, checks=[not_a_server_error])
            assert response.status_code == 499 or response.status_code < 500
    described = {f"{m.upper()} {path}" for path, methods in schema.raw_schema["paths"].items() for m in methods}
    assert set(sent) == described - {"GET /v1/events"}
    assert len(sent) > 20
    assert sum(sent.values()) > most * len(sent) / 2, "operations without parameters have one request"


def _cases(operation: Any, most: int) -> list[Any]:
    """Some requests of an operation, the same every time."""
    from hypothesis import HealthCheck, Phase, given, seed, settings

    found: list[Any] = []

    @seed(4)
    @settings(max_examples=most, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def collect(case: Any) -> None:
        found.append(case)

    collect()
    return found
