"""Ctrl-C, and a disk that is full: a sentence, exit code 1, and a home from which the next command goes on."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import needs
import pytest
from conftest import Home, clear, new_home

from headrace.pipeline.run import runs


def interrupt(home: Home, *words: str | Path, stage: str) -> str:
    """Ctrl-C once a stage has moved something, given to the whole process group as a terminal does."""
    process = home.start(*words)
    try:
        end = time.monotonic() + 100
        while not any(j["state"] == "running" and any(row["stage"] == stage for row in j["rows"]) for j in runs(home.path)):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end, f"{stage} never moved anything"
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1, out + err
    assert "Traceback" not in out + err, err
    assert err.strip() == "Interrupted. The home is as the last finished step left it; run the same command again to go on."
    return out


def no_process_is_left(home: Home) -> bool:
    end = time.monotonic() + 8
    while home.processes() and time.monotonic() < end:
        time.sleep(0.1)
    return not home.processes()


def test_ctrl_c_says_so_leaves_no_process_and_the_next_command_goes_on(home: Home) -> None:
    home.env["HEADRACE_PLATFORM__IDLE_S"] = "0"
    interrupt(home, *home.demo(), stage="parse")
    assert no_process_is_left(home)
    interrupt(home, *home.demo(), stage="finetune")
    assert no_process_is_left(home)
    trip = home.json("turn")
    assert trip["turn"] == 1
    assert trip["dead_letters"] == 0
    runs_ = [(run["command"], run["state"]) for run in home.json("runs")["runs"]]
    assert runs_ == [("demo", "failed")] * 2 + [("turn", "done")]
    documents = home.sql("select count(*) as rows, count(distinct uri) as uris from documents where status = 'parsed'")
    assert documents == [{"rows": 12, "uris": 12}]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, 100 MB large."""
    needs.require(os.geteuid() == 0, "Mounting a small disk takes root.", unless="HEADRACE_TESTS_WITHOUT_ROOT")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(disk)], check=True)
    yield disk
    clear(Home(disk / "home", disk))
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_disk_that_fills_up_is_named_in_a_sentence(small_disk: Path, tmp_path: Path, handbook: Path) -> None:
    docs = tmp_path / "docs"
    shutil.copytree(handbook, docs)
    for number in range(3):
        (docs / f"large-{number}.txt").write_bytes(os.urandom(20_000_000).hex().encode())
    home = new_home(small_disk, None, docs)
    failed = home.run("index", docs, code=1)
    assert str(home.path) in failed.stderr, failed.stderr
    assert "Free some space" in failed.stderr, failed.stderr
    assert failed.stderr.strip().endswith("or name a home on another disk with --home DIR."), failed.stderr
    # Smaller files, some space freed, and the same home goes on.
    for file in docs.glob("large-*"):
        file.unlink()
    subprocess.run(["mount", "-o", "remount,size=300m", str(small_disk)], check=True)
    done = home.json("index", docs)
    assert done["index"]["chunks"] == 72
    home.run("down")


def test_a_disk_that_is_full_from_the_start_is_named_too(small_disk: Path, handbook: Path) -> None:
    home = new_home(small_disk, None, handbook)
    with (small_disk / "ballast").open("wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
            file.flush()
    failed = home.run("index", handbook, code=1)
    assert "Free some space" in failed.stderr
    assert failed.stdout == ""
