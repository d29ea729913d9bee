"""`headrace mcp`: what it needs, and what it says where that is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from headrace.cli.common import common
from headrace.cli.mcp import mcp
from headrace.cli.mcp_tools import Tools, server_of
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
