"""The actions of triggers: an event to an HTTP address, to a program's standard input, or to a Kafka topic."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from headrace.core.runner import Runner
from headrace.errors import HeadraceError
from headrace.lean_httpx import httpx
from headrace.scheduler.triggers.post import PostEnded, post
from headrace.settings import CommandAction, HttpAction, TopicAction
from headrace.storage.meter import Meter
from headrace.storage.reason import reason
from headrace.storage.stream.cloud_events import MEDIA, CloudEventWriter

_LATER = {408, 425, 429}
_SAID = 300  # characters of what a program or a server says of a failure
_LAST_BYTES = 1 << 16  # of what a program says, of which the last line counts
_STOP_S = 2.0
_LOOK_S = 0.2


class DeliveryFailed(Exception):
    """An event was not delivered; `final` if it is no use to try again."""

    def __init__(self, why: str, *, final: bool = False) -> None:
        super().__init__(why)
        self.final = final


Action = Callable[[Mapping[str, Any]], None]
"""Delivers one event, a CloudEvent as JSON-ready keys; raises `DeliveryFailed`."""


def action_of(settings: HttpAction | CommandAction | TopicAction, runner: Runner, stopping: Callable[[], bool]) -> Action:
    """The action that the settings describe; safe to call from several threads."""
    match settings:
        case HttpAction():
            return _HttpRequest(settings, stopping)
        case CommandAction():
            return lambda event: _run(settings, event, stopping)
        case TopicAction():
            return _TopicRecord(settings, runner)


class _HttpRequest:
    def __init__(self, settings: HttpAction, stopping: Callable[[], bool]) -> None:
        self._settings, self._stopping = settings, stopping
        self._http: httpx.Client | None = None
        self._opening = threading.Lock()

    def __call__(self, event: Mapping[str, Any]) -> None:
        headers = {"content-type": f"{MEDIA}; charset=utf-8"}
        try:
            if token := self._settings.token():
                headers["authorization"] = f"Bearer {token}"
            body, seconds = json.dumps(event).encode(), self._settings.timeout_s
            status = post(self._client(), self._settings.url, body, headers, seconds=seconds, stopping=self._stopping)
        except PostEnded as error:
            raise DeliveryFailed(_why_ended(seconds, self._stopping)) from error
        except HeadraceError as error:
            raise DeliveryFailed(error.message) from error
        except httpx.HTTPError as error:
            raise DeliveryFailed(reason(error) or type(error).__name__) from error
        if not httpx.codes.is_success(status):
            later = status in _LATER or status >= httpx.codes.INTERNAL_SERVER_ERROR
            raise DeliveryFailed(f"the address answered {status}", final=not later)

    def _client(self) -> httpx.Client:
        """Opened with the first event: a proxy in the environment that httpx cannot use is this delivery's failure."""
        with self._opening:
            if self._http is None:
                try:
                    own = httpx.Limits(max_keepalive_connections=0)  # each request's: it is shut down at its deadline
                    self._http = httpx.Client(timeout=self._settings.timeout_s, follow_redirects=False, limits=own)
                    weakref.finalize(self, self._http.close)  # httpx leaves its sockets to the garbage collection
                except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
                    raise DeliveryFailed(f"no connection can be opened: {reason(error) or error}") from error
            return self._http


class _TopicRecord:
    def __init__(self, settings: TopicAction, runner: Runner) -> None:
        self._settings, self._runner = settings, runner
        self._writer: CloudEventWriter | None = None

    def __call__(self, event: Mapping[str, Any]) -> None:
        try:
            if self._writer is None:
                head = self._runner.endpoints
                own = {"bootstrap.servers": head.kafka_bootstrap, **head.kafka_properties}
                client = self._settings.client() if self._settings.bootstrap else own
                self._writer = CloudEventWriter(self._settings.topic, client, Meter(self._runner.record.ledger, "triggers"))
            self._writer.write(event, self._settings.timeout_s)
        except HeadraceError as error:
            raise DeliveryFailed(error.message) from error


def _run(settings: CommandAction, event: Mapping[str, Any], stopping: Callable[[], bool]) -> None:
    """Run a program in a session of its own, so that its children end with it."""
    try:
        process = subprocess.Popen(
            settings.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "CE_ID": str(event["id"]), "CE_TYPE": str(event["type"])},
        )
    except OSError as error:
        raise DeliveryFailed(f"{settings.command[0]} cannot be started: {(error.strerror or 'error').lower()}") from error
    except ValueError as error:  # a NUL or half a character, which no environment can hold
        raise DeliveryFailed("its id or type cannot be put into CE_ID or CE_TYPE", final=True) from error
    given: bytes | None = json.dumps(event).encode()
    left_s = settings.timeout_s
    said = _LastSaid(process)
    while True:
        try:
            process.communicate(given, timeout=min(_LOOK_S, left_s))
            break
        except subprocess.TimeoutExpired:
            given, left_s = None, left_s - _LOOK_S
            if stopping() or left_s <= 0:
                _kill(process)
                said.close()
                raise DeliveryFailed(_why_ended(settings.timeout_s, stopping)) from None
    if not process.returncode:
        said.close()
    else:
        lines = said.text().replace("\0", " ").strip().splitlines()  # PostgreSQL takes no NUL
        raise DeliveryFailed(f"exit code {process.returncode}{f': {lines[-1][-_SAID:]}' if lines else ''}")


def _why_ended(seconds: float, stopping: Callable[[], bool]) -> str:
    return "the service stopped meanwhile" if stopping() else f"it took longer than {seconds:g} s"


class _LastSaid:
    """The end of what a program writes to its standard error, which may be any length; read in a thread that ends with it.

    What the program started may have it open for ever: what that writes once the program has ended is not read.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        self._pipe, process.stderr = process.stderr, None  # `communicate` would keep all of it in memory
        self._end = b""
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, name="trigger says", daemon=True)
        self._thread.start()

    def text(self) -> str:
        """The end of it, once the program has ended."""
        self._thread.join(_STOP_S)
        self.close()
        return self._end.decode("utf-8", "replace")

    def close(self) -> None:
        """Read no more of it."""
        self._closed.set()

    def _read(self) -> None:
        with self._pipe as pipe:
            ready = select.poll()
            ready.register(pipe, select.POLLIN)
            while not self._closed.is_set():
                if ready.poll(_LOOK_S * 1_000):
                    if not (some := os.read(pipe.fileno(), _LAST_BYTES)):
                        return
                    self._end = (self._end + some)[-_LAST_BYTES:]


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a program and what it started: first as Ctrl-C does, so that it can tidy up."""
    for how in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
            process.communicate(timeout=_STOP_S)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
