"""Clients of simulated users: in this process, like `headrace ask`, or over HTTP to a running `headrace up`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from headrace.answering.engine import QueryEngine
from headrace.answering.record import Answer, Verdict
from headrace.errors import Forbidden, HeadraceError, NotFound, Overloaded, RequestRefused, Unavailable, WrongUsage
from headrace.lean_httpx import httpx
from headrace.simulate.beir import DocumentNames
from headrace.simulate.users import GivenAnswer, Judgement, ShownPassage

AT_ONCE = 4
"""Maximum concurrent questions, as in the service; further users wait here and not at the models."""


class InProcessClient:
    """Asks a tenant's index through a query engine; thread-safe."""

    def __init__(self, engine: QueryEngine, tenant: str) -> None:
        self.tenant = tenant
        self._engine = engine
        self._slots = threading.Semaphore(AT_ONCE)

    def ask(self, question: str, user: str, *, generate: bool) -> GivenAnswer:
        """Ask, or only search. Raises the errors of retrieval and generation."""
        with self._slots, self._engine.first(("ask", self.tenant)):
            if generate:
                *_, answer = self._engine.ask(question, tenant=self.tenant, user=user, simulated=True)
                assert isinstance(answer, Answer)
            else:
                answer = self._engine.search(question, tenant=self.tenant, user=user, simulated=True)
        passages = tuple(ShownPassage(p.hit.chunk_id, p.hit.uri, p.hit.text) for p in answer.passages)
        return GivenAnswer(answer.answer_id, passages, answer.text if generate else None, answer.refused)

    def judge(self, answer: GivenAnswer, user: str, verdicts: Sequence[Judgement]) -> Iterator[int]:
        """Write the verdicts to the head; yields the number acknowledged."""
        recorded = [
            Verdict(answer.answer_id, tenant=self.tenant, user=user, simulated=True, **vars(verdict)) for verdict in verdicts
        ]
        yield len(self._engine.verdicts.record(recorded))

    def close(self) -> None:
        """Does nothing: the `App` closes its own connections."""


_PATIENCE_S = 300.0
_LOOK_S = 1.0
_PAGE = 1_000

Patiently = Callable[[Callable[[], dict[str, Any]]], dict[str, Any]]


class ApiClient:
    """Asks a tenant's index through the API; thread-safe."""

    def __init__(self, url: str, token: str, tenant: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise WrongUsage(f"--via takes the address of a running `headrace up`, not {url!r}.", hint="http://127.0.0.1:8484")
        if not token:
            raise WrongUsage("--via needs an API key.", hint="Set HEADRACE_TOKEN, or give --token.")
        self._url = f"{parts.scheme}://{parts.netloc}"
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(_PATIENCE_S, connect=5.0),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            # Do not use the environment's proxy for a server on this machine.
            trust_env=parts.hostname not in ("127.0.0.1", "localhost", "::1"),
        )
        self.tenant = tenant or ""

    def ask(self, question: str, user: str, *, generate: bool) -> GivenAnswer:
        """Ask, or only search. Raises `Overloaded` with the time to retry, and the service's other errors."""
        body = {"question": question, "tenant": self.tenant, "simulated_user": user}
        body_ = self._send("POST", "/v1/ask" if generate else "/v1/search", json=body)
        passages = tuple(ShownPassage(p["chunk_id"], p["document"], p["text"]) for p in body_["passages"])
        return GivenAnswer(body_["answer_id"], passages, body_["answer"] if generate else None, body_["refused"])

    def judge(self, answer: GivenAnswer, user: str, verdicts: Sequence[Judgement]) -> Iterator[int]:
        """Send the verdicts one by one; yields 1 for each one recorded."""
        for verdict in verdicts:
            self._send("POST", "/v1/feedback", json={"answer_id": answer.answer_id, "simulated_user": user, **vars(verdict)})
            yield 1

    def bring(self, names: DocumentNames, patiently: Patiently, *, seconds: float = 3_600.0) -> None:
        """Put the folder's documents for its own tenant, and wait until all are indexed.

        `patiently` retries calls that are throttled. Raises `Forbidden` if the key has no permission, `Unavailable` if the
        documents are not indexed within `seconds`.
        """
        self.tenant = names.tenant
        waiting = set()
        try:
            for name, data in names.files.items():
                uri = f"{names.tenant}/{name}"
                put = patiently(
                    lambda uri=uri, data=data: self._send(  # type: ignore[misc]
                        "PUT", f"/v1/documents/{quote(uri)}", params={"tenant": self.tenant}, content=data
                    )
                )
                # With another status, another process has put it already.
                if put["status"] in ("put", "failed"):
                    waiting.add(uri)
        except Forbidden as error:
            error.hint = "Use a key with the scope admin, or name the key's tenant with --tenant and index the folder for it."
            raise
        until = time.monotonic() + seconds
        while waiting:
            for document in self._documents(patiently):
                if document["status"] == "failed":
                    raise RequestRefused(f"{document['uri']} cannot be indexed: {document['reason']}.")
                if document["status"] == "indexed":
                    waiting.discard(document["uri"])
            if waiting and time.monotonic() > until:
                raise Unavailable(
                    f"{len(waiting)} documents are not indexed after {seconds:.0f} s.", hint="See GET /v1/documents."
                )
            if waiting:
                time.sleep(_LOOK_S)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _documents(self, patiently: Patiently) -> Iterator[dict[str, Any]]:
        after, more = "", True
        while more:
            query = {"tenant": self.tenant, "limit": _PAGE, "after": after}
            page = patiently(lambda query=query: self._send("GET", "/v1/documents", params=query))  # type: ignore[misc]
            yield from page["data"]
            more = page["has_more"]
            after = page["data"][-1]["uri"] if page["data"] else ""

    def _send(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        try:
            response = self._http.request(method, self._url + path, **more)
            answer = response.json()
        except httpx.TimeoutException as error:
            raise Unavailable(f"{self._url} did not answer within {_PATIENCE_S:.0f} s.", hint="It may still be busy.") from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise Unavailable(
                f"{self._url} cannot be reached: {str(error) or type(error).__name__}.",
                hint="Check that `headrace up` runs there.",
            ) from error
        except ValueError:
            answer = None
        if response.is_success and isinstance(answer, dict):
            return answer
        raise _error_from(self._url, response.status_code, answer, response.headers)


def _error_from(url: str, status: int, answer: Any, headers: Mapping[str, str]) -> HeadraceError:
    """Translate the service's error response."""
    details = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(details, dict):
        return RequestRefused(
            f"{url} answered {status}, but not in Headrace's format.", hint="Check the address of `headrace up`."
        )
    message = str(details.get("message"))
    if status == 429:
        error = Overloaded(message)
        wait = headers.get("retry-after", "")
        error.retry_s = float(wait) if wait.isdecimal() else error.retry_s
        return error
    match status:
        case 401 | 403:
            return Forbidden(message)
        case 404:
            return NotFound(message)
        case 503:
            return Unavailable(message)
        case _:
            return RequestRefused(f"{url} answered {status}: {message}")
