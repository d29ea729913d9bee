"""The MCP server, driven by the client of the official SDK over standard input and output."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
from traffic import until

if TYPE_CHECKING:  # imported late: each process that collects tests would take most of a second for it
    from mcp.client.client import Client
    from mcp_types import CallToolResult

LANTERN = "# Lantern\n\nThe lantern of the eastern lock is green and burns for 40 hours.\n"
BELL = "# Bell\n\nThe bell is silver.\n"
READING = {"search", "ask", "list_documents", "read_document", "ledger", "runs", "sizing", "lineage", "status"}
WRITING = {"judge", "put_document", "delete_document"}

Work = Callable[["Client"], Coroutine[Any, Any, None]]


@pytest.fixture(scope="module")
def acme(api: Any) -> httpx.Client:
    client: httpx.Client = api.client(api.keys["acme"])
    client.put("/v1/documents/lantern.md", content=LANTERN.encode()).raise_for_status()
    assert api.indexed(client, "lantern.md")["status"] == "indexed"
    return client


def drive(work: Work, *options: str, env: dict[str, str]) -> None:
    """Run `headrace mcp` as an assistant does, and work with it."""
    from mcp.client.client import Client
    from mcp.client.stdio import StdioServerParameters

    command = StdioServerParameters(command=sys.executable, args=["-m", "headrace.cli", *options], env=env)

    async def session() -> None:
        async with Client(command, read_timeout_seconds=120) as client:
            await work(client)

    anyio.run(session)


def content(result: CallToolResult) -> dict[str, Any]:
    assert not result.is_error, result.content
    if result.structured_content is not None:
        return result.structured_content
    found: dict[str, Any] = json.loads(result.content[0].text)  # type: ignore[union-attr]
    return found


def words(result: CallToolResult) -> str:
    assert result.is_error
    return str(result.content[0].text)  # type: ignore[union-attr]


def test_a_tenants_assistant_searches_asks_and_reads_and_changes_nothing(api: Any, acme: httpx.Client) -> None:
    async def work(client: Client) -> None:
        tools = (await client.list_tools()).tools
        assert {tool.name for tool in tools} == READING
        assert all(tool.description for tool in tools)
        assert [tool.name for tool in tools if not tool.annotations.read_only_hint] == ["ask"]  # type: ignore[union-attr]
        found = content(await client.call_tool("search", {"question": "How long does the lantern burn?", "limit": 1}))
        [passage] = found["passages"]
        assert (passage["document"], "40 hours" in passage["text"]) == ("lantern.md", True)
        answer = content(await client.call_tool("ask", {"question": "How long does the lantern of the eastern lock burn?"}))
        assert "40 hours" in answer["answer"]
        assert answer["citations"][0]["document"] == "lantern.md"
        follow = content(await client.call_tool("ask", {"question": "Why?", "after": answer["answer_id"]}))
        assert "lantern" in follow["asked_as"]
        listed = content(await client.call_tool("list_documents", {}))["documents"]
        assert ("lantern.md", "indexed") in {(one["uri"], one["status"]) for one in listed}
        assert "green" in content(await client.call_tool("read_document", {"name": "lantern.md"}))["text"]
        for name, arguments in (("sizing", {}), ("runs", {}), ("lineage", {"of": answer["answer_id"]})):
            assert "scope admin" in words(await client.call_tool(name, arguments)), "of the whole service"
        assert "not_found" not in words(await client.call_tool("read_document", {"name": "none.md"}))
        assert (await client.call_tool("search", {"question": "x", "limit": 0})).is_error

    drive(work, "mcp", "--url", api.url, env={"HEADRACE_TOKEN": api.keys["acme"]})


@pytest.mark.soak(minutes=0.4)
def test_an_operators_assistant_sees_what_moved_and_may_change_what_it_is_allowed_to(api: Any, acme: httpx.Client) -> None:
    async def work(client: Client) -> None:
        assert {tool.name for tool in (await client.list_tools()).tools} == READING | WRITING
        assert content(await client.call_tool("status", {}))["status"] == "ok"
        put = content(await client.call_tool("put_document", {"name": "notes/bell.md", "text": BELL}))
        assert put["uri"] == "notes/bell.md"
        assert api.indexed(acme, "notes/bell.md")["status"] == "indexed"
        answer = content(await client.call_tool("ask", {"question": "What is the bell?"}))
        recorded = content(await client.call_tool("judge", {"answer_id": answer["answer_id"], "up": True, "reason": "right"}))
        assert recorded["topic"] == "feedback"
        assert content(await client.call_tool("delete_document", {"name": "notes/bell.md"}))["uri"] == "notes/bell.md"
        moved = content(await client.call_tool("ledger", {}))
        assert {"object", "stream", "table", "vector"} <= {row["tier"] for row in moved["by_tier"]}
        assert sum(row["bytes"] for row in moved["rows"]) == sum(row["bytes"] for row in moved["by_tier"]) > 0
        assert "up" in {run["command"] for run in content(await client.call_tool("runs", {"limit": 200}))["runs"]}
        sized = content(await client.call_tool("sizing", {"model": "llama-3.1-8b", "users": 10}))["sizing"]
        assert sized["parameters"]["users"] == 10
        assert "llama-0" in words(await client.call_tool("sizing", {"model": "llama-0"}))
        event = f"feedback/{recorded['partition']}/{recorded['offset']}"
        until(60, lambda: acme.get(f"/v1/{event}").json()["landed"], lambda: "the verdict has not landed")
        lineage = content(await client.call_tool("lineage", {"of": event}))
        assert answer["answer_id"] in json.dumps(lineage)

    drive(work, "mcp", "--url", api.url, "--tenant", "acme", "--write", env={"HEADRACE_TOKEN": api.token})
