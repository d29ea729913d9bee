"""Conversations over the API: follow-ups are put in full and shown, small talk and clients' tasks are no interactions."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from shell import run

SILVER, GOLD = "How long are backups kept for silver customers?", "And for gold customers?"
IN_FULL = "How long are backups kept for gold customers?"
TASK = """### Task:
Generate a concise, 3-5 word title with an emoji summarizing the chat history.
### Output:
JSON format: { "title": "your concise title here" }
### Chat History:
<chat_history>
USER: How long are backups kept?
</chat_history>"""


@pytest.fixture(scope="module")
def tenant(api: Any) -> httpx.Client:
    """A tenant with what is kept for whom, and one document for `hr` alone."""
    api.tenant("talks")
    client: httpx.Client = api.client(api.mint("talks", "read", "write", "users")[0])
    texts = {
        "silver.md": ("# Backups\n\nBackups of silver customers are kept for 35 days.", []),
        "gold.md": ("# Backups\n\nBackups of gold customers are kept for 90 days.", []),
        "team.md": ("# Team\n\nThe keeper of the marmalade vault is Mara Voss.", ["hr"]),
    }
    for name, (text, readers) in texts.items():
        client.put(f"/v1/documents/{name}", params={"reader": readers}, content=text.encode()).raise_for_status()
    for name in texts:
        assert api.indexed(client, name)["status"] == "indexed"
    return client


def ask(client: httpx.Client, question: str, status: int = 200, **more: Any) -> dict[str, Any]:
    response = client.post("/v1/ask", json={"question": question, **more})
    assert response.status_code == status, response.text
    answer: dict[str, Any] = response.json()
    return answer


def chat(client: httpx.Client, *messages: tuple[str, Any], **more: Any) -> dict[str, Any]:
    body = {"model": "headrace", "messages": [{"role": role, "content": content} for role, content in messages], **more}
    answer: dict[str, Any] = client.post("/v1/chat/completions", json=body).raise_for_status().json()
    return answer


def recorded(api: Any) -> list[dict[str, Any]]:
    run(api.home, "land", "--once")
    rows: list[dict[str, Any]] = api.home.sql("SELECT question, asked_as, kind FROM interactions WHERE tenant = 'talks'")
    return rows


def test_a_follow_up_is_answered_in_full_and_says_how_it_was_asked(tenant: httpx.Client) -> None:
    first = ask(tenant, SILVER, user="ann")
    assert "35 days" in first["answer"]
    assert "asked_as" not in first
    for more in ({"after": first["answer_id"]}, {"history": [{"question": SILVER, "answer": first["answer"]}]}):
        answer = ask(tenant, GOLD, user="ann", **more)
        assert answer["asked_as"] == IN_FULL
        assert "90 days" in answer["answer"]
        found = tenant.post("/v1/search", json={"question": GOLD, "user": "ann", **more}).raise_for_status().json()
        assert (found["asked_as"], found["passages"][0]["document"]) == (IN_FULL, "gold.md")
    third = ask(tenant, "Why?", user="ann", after=answer["answer_id"])
    assert third["asked_as"] == "Why are backups kept for gold customers?", "that of the second in full"


def test_openais_messages_are_the_conversation(tenant: httpx.Client) -> None:
    image = [{"type": "image_url", "image_url": {"url": "data:"}}, {"type": "text", "text": SILVER}]
    answer = chat(
        tenant, ("system", "Be brief."), ("user", image), ("assistant", "35 days. [1]"), ("user", "thanks"), ("user", GOLD)
    )
    assert answer["headrace"]["asked_as"] == IN_FULL
    assert "90 days" in answer["choices"][0]["message"]["content"]
    assert "asked_as" not in chat(tenant, ("user", GOLD))["headrace"], "there is nothing that it follows up on"
    long = [("user", SILVER), ("assistant", "word " * 2_000)] * 50  # some 500 kB
    assert chat(tenant, *long, ("user", GOLD))["headrace"]["asked_as"] == IN_FULL
    body = {"model": "headrace", "messages": [{"role": "user", "content": image}]}
    refused = tenant.post("/v1/chat/completions", json=body)
    assert refused.status_code == 400
    assert "only text is read" in refused.json()["error"]["message"]


@pytest.mark.parametrize("key", ["title", "tags", "follow_ups"])
def test_open_webuis_own_requests_are_replied_to_and_are_no_questions(tenant: httpx.Client, key: str) -> None:
    """As it sends them behind a chat: not streamed, with a limit, the chat inside."""
    task = (
        f'### Task:\nSuggest for the chat below.\n### Output:\nJSON format: {{ "{key}": "…" }}\n{TASK[TASK.index("### Chat") :]}'
    )
    done = chat(tenant, ("user", task), stream=False, max_completion_tokens=1_000, temperature=0.1)
    assert done["headrace"]["kind"] == "task"
    assert done["choices"][0]["finish_reason"] in ("stop", "length")
    assert done["headrace"]["citations"] == []
    assert "annotations" not in done["choices"][0]["message"] or not done["choices"][0]["message"]["annotations"]


def test_a_conversation_is_of_one_tenant_and_user(api: Any, tenant: httpx.Client) -> None:
    first = ask(tenant, SILVER, user="ann")["answer_id"]
    unknown = ask(tenant, GOLD, 404, user="ann", after="0" * 16)["error"]["message"]
    assert ask(tenant, GOLD, 404, user="bob", after=first)["error"]["message"] == unknown.replace("0" * 16, first)
    assert ask(tenant, GOLD, 404, after=first)["error"]["code"] == "not_found", "the key is another user"
    stranger = api.client(api.keys["globex"])
    assert ask(stranger, GOLD, 404, after=first)["error"]["message"] == unknown.replace("0" * 16, first)
    assert ask(tenant, GOLD, 400, user="ann", after=first, history=[{"question": SILVER}])["error"]["code"] == "wrong_usage"
    for wrong in ({"after": "x"}, {"history": [{"question": "x" * 4_001}]}, {"history": [{"question": "a"}] * 51}):
        ask(tenant, GOLD, 400, user="ann", **wrong)


def test_a_follow_up_opens_nothing(tenant: httpx.Client) -> None:
    """Not even the name in an answer that was made for other readers."""
    closed = ask(tenant, "Who is the keeper of the marmalade vault?", user="ann", readers=["hr"])
    assert "Mara Voss" in closed["answer"]
    asked = "What is her phone number?"
    assert "Mara Voss" in ask(tenant, asked, user="ann", readers=["hr", "it"], after=closed["answer_id"])["asked_as"]
    assert "Mara" not in json.dumps(ask(tenant, asked, user="ann", after=closed["answer_id"]))
    assert "Mara" not in json.dumps(ask(tenant, asked, user="ann", readers=["it"], after=closed["answer_id"]))


def test_small_talk_and_tasks_are_replied_to_and_are_no_interactions(api: Any, tenant: httpx.Client) -> None:
    ask(tenant, GOLD, user="ann", after=ask(tenant, SILVER, user="ann")["answer_id"])
    before = len(recorded(api))
    hello = ask(tenant, "Hello, who are you?")
    assert (hello["kind"], hello["refused"], hello["passages"]) == ("small_talk", False, [])
    assert hello["answer"].startswith("I answer questions from your documents")
    thanks = chat(tenant, ("user", SILVER), ("assistant", "35 days."), ("user", "Thanks a lot!"))
    assert thanks["choices"][0]["message"]["content"] == "You are welcome. Ask again at any time."
    title = chat(tenant, ("user", TASK + " " * 10_000))
    assert (title["headrace"]["kind"], title["headrace"]["mode"]) == ("task", "generated"), "by the endpoint's generator"
    assert title["headrace"]["citations"] == []
    assert "kind" not in ask(tenant, "Hi, how long are backups kept for gold customers?")
    rows = recorded(api)
    assert len(rows) == before + 1
    assert {row["kind"] for row in rows} <= {"answer", "search"}
    assert {"question": GOLD, "asked_as": IN_FULL, "kind": "answer"} in rows
    verdict = {"answer_id": hello["answer_id"], "up": True}
    assert tenant.post("/v1/feedback", json=verdict).status_code == 404, "there is nothing to learn from"
    metrics = api.client().get("/metrics").text
    assert 'headrace_questions_total{kind="small_talk",tenant="talks"} 2.0' in metrics
    assert 'headrace_questions_total{kind="task",tenant="talks"}' in metrics


def test_the_command_line_follows_up_on_an_answer_by_its_id(api: Any) -> None:
    folder = api.home.path.parent / "kept"
    folder.mkdir()
    for kind, days in (("silver", 35), ("gold", 90)):
        (folder / f"{kind}.md").write_text(f"# Backups\n\nBackups of {kind} customers are kept for {days} days.")
    run(api.home, "index", folder)
    first = api.home.json("ask", SILVER)
    said = run(api.home, "ask", GOLD, "--after", first["answer_id"]).stdout
    assert "90 days" in said
    assert f"asked as: {IN_FULL}" in said
    assert "no answer" in run(api.home, "ask", GOLD, "--after", "0" * 16, code=1).stderr.lower()
    hello = run(api.home, "ask", "hi").stdout
    assert "I answer questions" in hello
    assert "judge it" not in hello
