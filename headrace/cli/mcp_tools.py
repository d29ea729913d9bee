"""The tools of the MCP server, by which an assistant uses a running service (https://modelcontextprotocol.io)."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote, urlencode

from pydantic import Field

from headrace.cli.running import RunningApi
from headrace.errors import HeadraceError, MissingPart, WrongUsage

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

_INSTRUCTIONS = (
    "Headrace answers questions over a tenant's documents and cites each statement, and it meters what every stage of its two "
    "pipelines (training and inference) moves through each storage tier. Use `search` for passages to read yourself and `ask` "
    "for an answer with citations. Figures of `ledger`, `runs` and `sizing` are measured or computed; quote them with their unit."
)

Name = Annotated[str, Field(description="The document's name, as `list_documents` shows it.")]
Filtered = Annotated[
    list[str] | None,
    Field(description="Only documents with `key=value` (an attribute), `document=FOLDER/`, `kind=pdf` or `changed>=2026-01-31`."),
]
Run = Annotated[str | None, Field(description="A run's id, as `runs` shows it; without it the run under way.")]


class Tools:
    """What the service's API offers, as functions; each returns the JSON of its route, shortened to what an assistant needs.

    Raises the service's errors. `tenant` is named in each request unless it is None: then the key's own is meant.
    """

    def __init__(self, api: RunningApi, tenant: str | None) -> None:
        self._api, self._tenant = api, tenant

    def search(self, question: str, filters: Filtered = None, limit: Annotated[int, Field(ge=1, le=50)] = 10) -> dict[str, Any]:
        """Find the passages of the documents that fit a question best, best first. Nothing is written or recorded."""
        found = self._api.post("/v1/search", self._asked(question, filters))
        kept = ("document", "place", "heading", "chunk_id", "text", "retrieval_rank", "rerank_score")
        passages = [{name: one[name] for name in kept if one.get(name) is not None} for one in found["passages"][:limit]]
        return {"passages": passages, **_some(found, "note", "index_version")}

    def ask(
        self,
        question: str,
        filters: Filtered = None,
        after: Annotated[str | None, Field(description="The answer_id that this question follows up on.")] = None,
    ) -> dict[str, Any]:
        """Answer a question from the documents; each statement cites its passage. Says so if the documents hold no answer.

        The question and its answer are recorded, and `judge` gives a verdict on the answer.
        """
        found = self._api.post("/v1/ask", self._asked(question, filters) | ({} if after is None else {"after": after}))
        cited = [_some(one, "number", "document", "place", "heading", "text") for one in found["citations"]]
        return {
            **_some(found, "answer_id", "answer", "refused", "mode", "asked_as", "note", "timings_ms", "bytes"),
            "citations": cited,
        }

    def list_documents(
        self,
        after: Annotated[str | None, Field(description="The last name of the page before.")] = None,
        limit: Annotated[int, Field(ge=1, le=1000)] = 100,
    ) -> dict[str, Any]:
        """The tenant's documents by name, with their status and why one failed; `has_more` says that another page follows."""
        parameters = {"after": after, "limit": limit, "tenant": self._tenant}
        found = self._api.fetch("/v1/documents", parameters)
        kept = ("uri", "status", "reason", "bytes", "kind", "attributes")
        return {"documents": [_some(one, *kept) for one in found["data"]], **_some(found, "has_more", "stored")}

    def read_document(
        self,
        name: Name,
        chunk_id: Annotated[str | None, Field(description="A passage of it, around which the text is returned.")] = None,
    ) -> dict[str, Any]:
        """The text of a document: its beginning, or the part around a passage; at most 60,000 characters."""
        return self._api.fetch("/v1/text", {"uri": name, "chunk_id": chunk_id, "tenant": self._tenant})

    def ledger(self, run: Run = None) -> dict[str, Any]:
        """What a run moved through storage: operations and bytes by stage, store, tier and direction, and by tier."""
        found = self._api.fetch("/v1/ledger", {"run": run})
        return {
            **_some(found, "run", "command", "state", "started", "ended"),
            "rows": _summed(found["rows"], "stage", "store", "tier", "direction"),
            "by_tier": _summed(found["rows"], "tier", "direction"),
        }

    def runs(self, limit: Annotated[int, Field(ge=1, le=200)] = 20) -> dict[str, Any]:
        """The newest recorded runs: command, state, duration, bytes and rates, questions, and on which storage."""
        found = self._api.fetch("/v1/runs", {"limit": limit})
        return {"runs": [{name: value for name, value in one.items() if name != "provenance"} for one in found["runs"]]}

    def sizing(
        self,
        model: Annotated[str | None, Field(description="A model preset, such as llama-3.1-70b.")] = None,
        gpus: Annotated[int | None, Field(description="GPUs that train.", ge=1)] = None,
        users: Annotated[int | None, Field(description="Users who ask questions.", ge=0)] = None,
        context_tokens: Annotated[int | None, Field(description="Tokens of a question's context.", ge=1)] = None,
        documents: Annotated[int | None, Field(description="Documents in the vector index.", ge=0)] = None,
        events_per_s: Annotated[float | None, Field(description="Events a second on the head.", ge=0)] = None,
    ) -> dict[str, Any]:
        """Capacity and bandwidth that a platform needs in each storage tier, each figure with its formula and source."""
        given = {
            "model": model, "gpus": gpus, "users": users, "context_tokens": context_tokens,
            "documents": documents, "events_per_s": events_per_s,
        }  # fmt: skip
        found = self._api.fetch("/v1/sizing", given)
        return {"sizing": found["sizing"], "models": found["models"]}

    def lineage(
        self, of: Annotated[str, Field(description="An answer_id, or TOPIC/PARTITION/OFFSET of an event on the head.")]
    ) -> dict[str, Any]:
        """From an answer to the model, its training data and the verdicts behind it, or from an event to what learned from it."""
        found: dict[str, Any] = self._api.fetch("/v1/lineage", {"of": of})["lineage"]
        return found

    def status(self) -> dict[str, Any]:
        """Whether every part of the service is ready, and what to do about one that is not."""
        return self._api.get("/health/ready", seconds=30.0)

    def judge(
        self,
        answer_id: str,
        up: Annotated[bool, Field(description="Whether the answer was helpful.")],
        reason: Annotated[str, Field(max_length=1000)] = "",
        correction: Annotated[str, Field(description="What the answer should have been.", max_length=4000)] = "",
    ) -> dict[str, Any]:
        """Record the user's verdict on an answer, from which training learns. Only when the user said so."""
        body = {"answer_id": answer_id, "up": up, "reason": reason, "correction": correction}
        return self._api.post("/v1/feedback", body | self._whose())

    def put_document(self, name: Name, text: Annotated[str, Field(description="Its text, as Markdown.")]) -> dict[str, Any]:
        """Put a document, replacing one of that name; questions find it some seconds later."""
        query = urlencode({"uri": name, **self._whose()})  # not in the path: a document may tell an assistant to write to ../keys
        return self._api.put(f"/v1/documents?{query}", text.encode())

    def delete_document(self, name: Name) -> dict[str, Any]:
        """Delete a document and all its versions. This cannot be undone."""
        # A proxy on the way may resolve such parts of a path, and what a document told an assistant would then delete a key.
        if {"", ".", ".."}.intersection(name.split("/")) or "\\" in name:
            raise WrongUsage(f"{name!r} has an empty part, . or .. in it.", hint="Delete it with `headrace documents delete`.")
        return self._api.delete(f"/v1/documents/{quote(name)}{self._query()}")

    def unexpected(self) -> HeadraceError:
        """The error for an answer that is not what its route gives."""
        return self._api.unexpected()

    def _asked(self, question: str, filters: list[str] | None) -> dict[str, Any]:
        return {"question": question, "filters": filters or [], **self._whose()}

    def _whose(self) -> dict[str, str]:
        return {} if self._tenant is None else {"tenant": self._tenant}

    def _query(self) -> str:
        return "" if self._tenant is None else f"?tenant={quote(self._tenant)}"


_READING = ("search", "list_documents", "read_document", "ledger", "runs", "sizing", "lineage", "status")
_WRITING = ("judge", "put_document", "delete_document")


def server_of(tools: Tools, *, write: bool) -> MCPServer[Any]:
    """The server. Tools that change something are offered with `write` only. Raises `MissingPart`."""
    try:
        from mcp.server.mcpserver import MCPServer
        from mcp.server.mcpserver.exceptions import ToolError
        from mcp_types import ToolAnnotations
    except ImportError as error:
        hint = "Run make install-mcp, or pip install 'headrace[mcp]'."
        raise MissingPart("The MCP server needs the package mcp, which is not installed.", hint=hint) from error
    from functools import wraps
    from importlib.metadata import version

    server: MCPServer[Any] = MCPServer("headrace", instructions=_INSTRUCTIONS, version=version("headrace"), log_level="WARNING")

    def offered(name: str, annotations: ToolAnnotations) -> None:
        work = getattr(tools, name)

        @wraps(work)
        async def call(**named: Any) -> Any:
            try:
                return await _on_its_own(lambda: work(**named))
            except HeadraceError as error:
                raise ToolError(" ".join(filter(None, (error.message, error.hint)))) from None
            except UnicodeEncodeError:
                raise ToolError("A name or a text holds half a character (a lone surrogate); send whole characters.") from None
            except (LookupError, TypeError, AttributeError):  # of an answer that is not what its route gives
                raise ToolError(str(tools.unexpected())) from None

        server.tool(annotations=annotations)(call)

    for name in _READING:
        offered(name, ToolAnnotations(read_only_hint=True, open_world_hint=False))
    offered("ask", ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False))
    for name in _WRITING if write else ():
        destructive = name == "delete_document"
        offered(name, ToolAnnotations(read_only_hint=False, destructive_hint=destructive, idempotent_hint=name != "judge"))
    return server


async def _on_its_own(work: Callable[[], Any]) -> Any:
    """What `work` returns, from a daemon thread: a service that hangs neither keeps other calls waiting nor the process alive."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def tell(result: Any, error: BaseException | None) -> None:
        if done.done():  # the call was cancelled
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except Exception as error:
            failure = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, result, failure)

    threading.Thread(target=run, name="tool", daemon=True).start()
    return await done


def _summed(rows: list[dict[str, Any]], *by: str) -> list[dict[str, Any]]:
    sums: dict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0])
    for row in rows:
        one = sums[tuple(row[name] for name in by)]
        one[0] += row["ops"]
        one[1] += row["bytes"]
    return [{**dict(zip(by, key, strict=True)), "ops": ops, "bytes": moved} for key, (ops, moved) in sums.items()]


def _some(found: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: found[name] for name in names if found.get(name) not in (None, "", [], {})}
