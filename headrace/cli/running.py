"""The `headrace up` that runs in this home, for commands that would otherwise load the models and do its work beside it."""

from __future__ import annotations

import hashlib
import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import HTTPRedirectHandler, HTTPSHandler, ProxyHandler, Request, build_opener

from headrace.cli.common import err
from headrace.errors import Forbidden, HeadraceError, NotFound, Overloaded, StorageFull, Unavailable, WrongUsage
from headrace.platform.home import Home
from headrace.platform.state import RunningService, read_service
from headrace.settings import Settings

_ANSWER_S = 600.0
_KINDS: dict[int, type[HeadraceError]] = {
    400: WrongUsage,
    403: Forbidden,
    404: NotFound,
    429: Overloaded,
    507: StorageFull,
}


def digest_of(settings: Settings) -> str:
    """What tells settings apart, except for the tenant, which each request names, and the home, which both share."""
    return hashlib.sha256(settings.model_dump_json(exclude={"tenant", "home", "api"}).encode()).hexdigest()


class RunningApi:
    """The API of a service; by default of the one in this home, by the token in its record."""

    def __init__(self, url: str, token: str, certificate: Path | None = None) -> None:
        self.url, self._token = url, token
        handlers: list[Any] = [ProxyHandler({}), _NoRedirects()]
        if certificate is not None:
            context = ssl.create_default_context(cafile=str(certificate))
            context.check_hostname = False  # it is asked by its address, and no other certificate is trusted
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            handlers.append(HTTPSHandler(context=context))
        self._opener = build_opener(*handlers)

    @classmethod
    def in_home(cls, service: RunningService) -> RunningApi:
        """That of a home's `headrace up`."""
        return cls(service.url, service.token, service.certificate)

    def get(self, path: str, *, seconds: float) -> dict[str, Any]:
        """The JSON of a route, whatever its status. Raises `Unavailable`."""
        with self._faults():
            try:
                with self._opener.open(self._request(path), timeout=seconds) as answer:
                    return self._json(answer)
            except HTTPError as error:
                return self._json(error)

    def fetch(self, path: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """GET JSON; parameters that are None are left out, a list is repeated. Raises as `post`."""
        given = {name: value for name, value in parameters.items() if value is not None}
        query = f"?{urlencode(given, doseq=True)}" if given else ""
        with self._faults(), self._opener.open(self._request(path + query), timeout=_ANSWER_S) as answer:
            return self._json(answer)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST JSON, return JSON. Raises the error that the service answers with, `Unavailable` if it does not answer."""
        with self._faults(), self._opener.open(self._request(path, body), timeout=_ANSWER_S) as answer:
            return self._json(answer)

    def put(self, path: str, content: bytes) -> dict[str, Any]:
        """PUT bytes, return JSON. Raises as `post`."""
        request = Request(self.url + path, content, self._headers("application/octet-stream"), method="PUT")
        with self._faults(), self._opener.open(request, timeout=_ANSWER_S) as answer:
            return self._json(answer)

    def delete(self, path: str) -> dict[str, Any]:
        """DELETE, return JSON. Raises as `post`."""
        request = Request(self.url + path, headers=self._headers("application/json"), method="DELETE")
        with self._faults(), self._opener.open(request, timeout=_ANSWER_S) as answer:
            return self._json(answer)

    def events(self, path: str, body: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """POST JSON; yield the name and JSON of each server-sent event. Raises as `post`."""
        with self._faults(), self._opener.open(self._request(path, body), timeout=_ANSWER_S) as answer:
            name = ""
            for raw in answer:
                field, _, value = raw.decode().rstrip("\n").partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    if name == "error":
                        raise _error(json.loads(value), 503)
                    yield name, json.loads(value)

    def _request(self, path: str, body: Mapping[str, Any] | None = None) -> Request:
        data = None if body is None else json.dumps(body).encode("utf-8", "surrogatepass")
        return Request(self.url + path, data, self._headers("application/json"))

    def _headers(self, kind: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}", "Content-Type": kind}

    def _json(self, answer: HTTPResponse | HTTPError) -> dict[str, Any]:
        try:
            found = json.loads(answer.read())
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise self.unexpected()
        return found

    def unexpected(self) -> Unavailable:
        """The error for an answer that no service of this version gives."""
        return Unavailable(
            f"The server at {self.url} is not a `headrace up` of this version.",
            hint="Check the address, and `headrace --version` there.",
        )

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except HTTPError as error:
            try:
                said = json.loads(error.read())
            except (ValueError, RecursionError, OSError, HTTPException):
                said = {}
            raise _error(said, error.code) from None
        except (URLError, OSError, HTTPException, ValueError) as error:
            raise Unavailable(
                f"`headrace up` at {self.url} does not answer: {error}.",
                hint="Check its terminal output and restart it.",
            ) from None


def running_api(settings: Settings) -> RunningApi | None:
    """The API of this home's `headrace up`; `None` where none runs, or one with other settings, which is then said."""
    service = read_service(Home(settings.home))
    if service is None:
        return None
    if service.settings != digest_of(settings):
        err.print("`headrace up` runs with other settings, so this command works beside it.", style="dim", soft_wrap=True)
        return None
    return RunningApi.in_home(service)


class _NoRedirects(HTTPRedirectHandler):
    """Follows no redirect: it would take the key to another address."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _error(body: Any, status: int) -> HeadraceError:
    said = body.get("error") if isinstance(body, dict) else None
    message = said.get("message") if isinstance(said, dict) else None
    return _KINDS.get(status, Unavailable)(str(message or f"The service answered {status}."))
