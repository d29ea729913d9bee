"""The systemd unit: what it hardens, and that systemd has nothing to say against it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).resolve().parents[2] / "deploy" / "systemd" / "headrace.service"
HARDENED = {
    "ProtectSystem": "strict",
    "ReadWritePaths": "/var/lib/headrace",
    "NoNewPrivileges": "yes",
    "PrivateTmp": "yes",
    "ProtectHome": "yes",
    "User": "headrace",
    "CapabilityBoundingSet": "",
    "Restart": "on-failure",
}


def test_it_runs_as_a_user_of_its_own_that_may_write_its_state_alone() -> None:
    lines = [line.partition("=") for line in UNIT.read_text().splitlines() if "=" in line and not line.startswith("#")]
    given = {name: value for name, _, value in lines}
    assert {name: given.get(name) for name in HARDENED} == HARDENED
    assert int(given["LimitNOFILE"]) >= 65536
    assert given["ExecStart"].endswith("/headrace --home /var/lib/headrace/home up")


def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    if (analyze := shutil.which("systemd-analyze")) is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / UNIT.name
    # What it would run is not installed here.
    unit.write_text(UNIT.read_text().replace("/opt/headrace/.venv/bin/headrace", "/bin/true"))
    done = subprocess.run([analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
    about_it = [line for line in done.stderr.splitlines() if unit.name in line]
    assert (done.returncode, about_it) == (0, []), done.stderr
