"""Runs that an older version recorded, without histograms: their rows are shown, and nothing is made up of what is not there."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace import cli

Command = Callable[..., tuple[int, str, str]]
ROW = {"stage": "put", "store": "documents", "tier": "object", "direction": "write", "p50_ms": 1.0, "p95_ms": 2.0, "max_ms": 3.0}
OLD = {
    "run": "20250101-120000-index-0a0b",
    "command": "index",
    "state": "done",
    "started": "2025-01-01T12:00:00+00:00",
    "ended": "2025-01-01T12:01:00+00:00",
    "detail": {},
    "archived": True,
    "rows": [
        {**ROW, "tenant": "acme", "ops": 2, "bytes": 100, "estimated": False},
        {**ROW, "tenant": "apex", "ops": 1, "bytes": 50, "estimated": False, "p95_ms": 40.0, "max_ms": 40.0},
    ],
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command in a home that has that run: exit code, standard output, standard error."""
    (tmp_path / "home" / "runs").mkdir(parents=True)
    (tmp_path / "home" / "runs" / f"{OLD['run']}.json").write_text(json.dumps(OLD))
    monkeypatch.setenv("HEADRACE_SETTINGS", str(tmp_path / "none.toml"))

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["headrace", "--home", str(tmp_path / "home"), *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def test_its_rows_are_listed_tenants_together(run: Command) -> None:
    code, out, _ = run("ledger", "20250101")
    assert code == 0
    lines = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]
    assert ["put", "documents", "object", "write", "3", "150 B", "1 ms", "40 ms"] in lines
    assert ["object", "0 B", "150 B"] in lines
    code, out, _ = run("ledger", "--json")
    assert json.loads(out)["rows"] == [{**row, "ops_per_s": None, "bytes_per_s": None} for row in OLD["rows"]]


def test_percentiles_by_tier_are_refused_and_not_guessed(run: Command) -> None:
    code, out, err = run("ledger", "--by", "tier")
    assert (code, out) == (1, "")
    assert "recorded by an older Headrace, without the histograms that sums need" in " ".join(err.split())
    assert f"headrace ledger {OLD['run']}" in " ".join(err.split())
