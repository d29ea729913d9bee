"""The actions of triggers, against a real server and real programs."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest
from http_thread import on_thread
from traffic import until

from headrace.core.runner import Runner
from headrace.process import lives
from headrace.scheduler.triggers.actions import DeliveryFailed, action_of
from headrace.settings import CommandAction, HttpAction

EVENT = {"specversion": "1.0", "id": "a/0/1/parsed", "type": "io.headrace.document.created", "subject": "ä.md", "data": {}}
NO_RUNNER = cast("Runner", None)


class Hooks(ThreadingHTTPServer):
    """Answers each request with `status`, and keeps what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 204
        self.got: list[tuple[dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook"


class _Handler(BaseHTTPRequestHandler):
    server: Hooks

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(self.server.status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hooks() -> Iterator[Hooks]:
    with on_thread(Hooks()) as server:
        yield server


def test_an_event_is_posted_as_a_cloud_event(hooks: Hooks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_TOKEN", "s3cret\n")
    action_of(HttpAction(type="http", url=hooks.url, bearer="env:HOOK_TOKEN"), NO_RUNNER, lambda: False)(EVENT)
    [(headers, body)] = hooks.got
    assert json.loads(body) == EVENT
    assert headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert headers["authorization"] == "Bearer s3cret"


@pytest.mark.parametrize(
    ("status", "final"), [(400, True), (404, True), (302, True), (408, False), (429, False), (500, False), (503, False)]
)
def test_a_refusal_is_final_where_it_is_the_events_fault(hooks: Hooks, status: int, final: bool) -> None:
    hooks.status = status
    with pytest.raises(DeliveryFailed, match=str(status)) as failed:
        action_of(HttpAction(type="http", url=hooks.url), NO_RUNNER, lambda: False)(EVENT)
    assert failed.value.final is final
    assert len(hooks.got) == 1, "no redirect is followed"


def test_an_address_that_does_not_answer_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for action in (
        HttpAction(type="http", url="http://127.0.0.1:1/hook"),
        HttpAction(type="http", url="http://127.0.0.1:1/hook", bearer="env:NOT_THERE"),
    ):
        with pytest.raises(DeliveryFailed) as failed:
            action_of(action, NO_RUNNER, lambda: False)(EVENT)
        assert not failed.value.final


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "http://127.0.0.1:port"])
def test_a_proxy_that_cannot_be_used_is_said_with_each_event(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    """It ended the thread that delivers to all triggers, and nobody was told."""
    monkeypatch.setenv("ALL_PROXY", proxy)
    action = action_of(HttpAction(type="http", url="http://example.invalid/hook"), NO_RUNNER, lambda: False)
    with pytest.raises(DeliveryFailed) as failed:
        action(EVENT)
    assert not failed.value.final


@pytest.mark.parametrize("stops", [False, True], ids=["its time is over", "the service ends"])
def test_a_receiver_that_sends_a_byte_now_and_then_is_not_waited_for(stops: bool) -> None:
    """Each byte of its headers counted as an answer: it held its place for good, and `up` did not end."""
    asked, over = threading.Event(), threading.Event()

    def trickle() -> None:
        connection, _ = server.accept()
        with connection, suppress(OSError):
            connection.recv(1)
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            asked.set()
            while True:
                connection.sendall(b"x")
                time.sleep(0.05)
        over.set()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=trickle, daemon=True)
        thread.start()
        settings = HttpAction(type="http", url=f"http://127.0.0.1:{server.getsockname()[1]}/hook", timeout_s=600 if stops else 1)
        action = action_of(settings, NO_RUNNER, lambda: stops and asked.is_set())
        with pytest.raises(DeliveryFailed, match="the service stopped" if stops else "longer than 1 s") as failed:
            action(EVENT)
        assert not failed.value.final
        assert over.wait(30), "its connection is shut down"
        thread.join(30)
    no_thread("trigger post")


@pytest.mark.parametrize("code", [0, 3])
def test_a_program_that_leaves_a_child_behind_leaves_no_thread(tmp_path: Path, code: int) -> None:
    """The child has the program's standard error open: a thread went on reading that for as long as the child lives."""
    written = tmp_path / "child"
    child = "import time; time.sleep(600)"
    program = (
        f"import os, subprocess, sys; child = subprocess.Popen([sys.executable, '-c', {child!r}], stdin=subprocess.DEVNULL)\n"
        f"open({str(written)!r}, 'w').write(str(child.pid)); print('why', file=sys.stderr, flush=True); os._exit({code})"
    )
    action = action_of(command(program), NO_RUNNER, lambda: False)
    try:
        with pytest.raises(DeliveryFailed, match="exit code 3: why") if code else nullcontext():
            action(EVENT)
        no_thread("trigger says")
    finally:
        os.kill(int(written.read_text()), signal.SIGKILL)


def no_thread(name: str) -> None:
    """Wait until no thread of this name is left."""
    until(30, lambda: all(one.name != name for one in threading.enumerate()), lambda: f"a thread {name} is left")


def command(program: str, **more: Any) -> CommandAction:
    return CommandAction(type="command", command=(sys.executable, "-c", program), **more)


def test_a_program_gets_the_event(tmp_path: Path) -> None:
    written = tmp_path / "got"
    program = f"import os, sys; open({str(written)!r}, 'w').write(os.environ['CE_ID'] + ' ' + sys.stdin.read())"
    action_of(command(program), NO_RUNNER, lambda: False)(EVENT)
    identity, _, body = written.read_text().partition(" ")
    assert (identity, json.loads(body)) == (EVENT["id"], EVENT)


def test_a_program_that_fails_says_why() -> None:
    with pytest.raises(DeliveryFailed, match="exit code 3: the disk is full"):
        action_of(command("import sys; print('\\nthe disk is full', file=sys.stderr); sys.exit(3)"), NO_RUNNER, lambda: False)(
            EVENT
        )
    with pytest.raises(DeliveryFailed, match="cannot be started: no such file"):
        action_of(CommandAction(type="command", command=("/no/such/program",)), NO_RUNNER, lambda: False)(EVENT)
    # One that reads nothing of a large event.
    action_of(command(""), NO_RUNNER, lambda: False)({**EVENT, "data": "x" * 1_000_000})


def test_a_program_that_says_much_fills_no_memory() -> None:
    """A tool may write a line for each of millions of rows, and all of it was kept until it ended."""
    says = "import sys; [sys.stderr.write('x' * 999_999 + '\\n') for _ in range(50)]; sys.exit('the last')"
    tracemalloc.start()
    try:
        with pytest.raises(DeliveryFailed, match=r"exit code 1: the last$"):
            action_of(command(says), NO_RUNNER, lambda: False)(EVENT)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


CHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, '-c', 'import signal, time; signal.signal(2, signal.SIG_IGN); time.sleep(600)'])
from headrace.process import began
open(sys.argv[1], 'w').write(f'{child.pid} {began(child.pid)}')
time.sleep(600)
"""


@pytest.mark.parametrize("stops", [False, True])
def test_a_program_that_takes_too_long_ends_with_all_it_started(tmp_path: Path, stops: bool) -> None:
    written = tmp_path / "child"

    def stopping() -> bool:
        return stops and written.exists() and bool(written.read_text())

    action = CommandAction(type="command", command=(sys.executable, "-c", CHILD, str(written)), timeout_s=600.0 if stops else 3.0)
    with pytest.raises(DeliveryFailed, match="stopped meanwhile" if stops else "took longer than 3 s") as failed:
        action_of(action, NO_RUNNER, stopping)(EVENT)
    assert not failed.value.final
    if written.exists():  # on a slow machine it may not have got that far
        pid, began = written.read_text().split()
        until(10, lambda: not lives(int(pid), float(began)), lambda: pid)


@pytest.mark.parametrize("identity", ["a\0b", "\ud800"])
def test_an_id_that_no_environment_can_hold_is_given_up_at_once(identity: str) -> None:
    """It was tried again every half minute, and its reason said nowhere. Whoever writes to a trigger's topic chooses it."""
    action = action_of(CommandAction(type="command", command=(sys.executable, "-c", "pass")), NO_RUNNER, lambda: False)
    with pytest.raises(DeliveryFailed, match="CE_ID") as failed:
        action({**EVENT, "id": identity})
    assert failed.value.final
