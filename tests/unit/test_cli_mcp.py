"""`headrace mcp`: what it needs, and what it says where that is missing."""

from __future__ import annotations

import asyncio
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs

import pytest

from headrace.cli.common import common
from headrace.cli.mcp import mcp
from headrace.cli.mcp_tools import Tools, _on_its_own, server_of
from headrace.cli.running import RunningApi
from headrace.errors import MissingPart, Unavailable, WrongUsage


def test_without_its_package_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp.server.mcpserver", None)
    with pytest.raises(MissingPart, match="make install-mcp"):
        server_of(Tools(RunningApi("http://127.0.0.1:1", "hr_key"), None), write=False)


def test_where_nothing_runs_or_no_service_is_named_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(common, "home", tmp_path / "home")
    with pytest.raises(Unavailable, match="No `headrace up` of these settings runs in this home"):
        mcp()
    with pytest.raises(WrongUsage, match="not 'ftp://example'"):
        mcp(url="ftp://example", token="hr_key")
    with pytest.raises(WrongUsage, match="--url needs an API key"):
        mcp(url="http://127.0.0.1:1")


class _Paths(BaseHTTPRequestHandler):
    seen: ClassVar[list[str]] = []

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append(f"{self.command} {self.path}")
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_DELETE = do_PUT

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("name", ["../keys/58d1725dd682c2a4", "a/../../tenants/acme/training", "./a.md", "a//b.md", "..\\keys"])
def test_a_name_that_climbs_is_in_no_path(name: str) -> None:
    """A proxy that resolves paths would make another route of it, and a document may tell an assistant such a name."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Paths) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            tools = Tools(RunningApi(f"http://127.0.0.1:{server.server_address[1]}", "hr_key"), "acme")
            with pytest.raises(WrongUsage, match="headrace documents delete"):
                tools.delete_document(name)
            _Paths.seen.clear()
            assert tools.put_document(name, "{}") == {}
        finally:
            server.shutdown()
            thread.join()
    (seen,) = _Paths.seen
    path, _, query = seen.partition("?")
    assert path == "PUT /v1/documents"
    assert parse_qs(query) == {"uri": [name], "tenant": ["acme"]}


def test_a_service_that_hangs_keeps_no_other_call_waiting() -> None:
    """Forty calls that hung kept all others waiting for ten minutes, and the process alive when its assistant had left."""
    hung, go_on = threading.Semaphore(0), threading.Event()

    def hang() -> None:
        hung.release()
        go_on.wait(60)

    async def calls() -> str:
        waiting = [asyncio.create_task(_on_its_own(hang)) for _ in range(60)]
        for _ in waiting:
            assert await asyncio.to_thread(hung.acquire, timeout=30)
        found: str = await _on_its_own(lambda: "answered")
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        return found

    try:
        assert asyncio.run(calls()) == "answered"  # which ends although they still hang
        assert all(thread.daemon for thread in threading.enumerate() if thread.name == "tool")
    finally:
        go_on.set()
