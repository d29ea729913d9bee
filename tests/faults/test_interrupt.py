"""Ctrl-C, and a disk that is full: a sentence, exit code 1, and a home from which the next command goes on."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from conftest import Home, clear, new_home
from disk import Disk, mounted
from judged import judge
from shell import as_json
from traffic import until
from words import Words, words

from headrace.core.run import runs
from headrace.platform import open_platform
from headrace.platform.home import Home as PlatformHome
from headrace.platform.state import Process, read_state
from headrace.settings import Settings


def interrupt(home: Home, *command: str | Path, when: Callable[[], bool], then: Callable[[], object] = lambda: None) -> str:
    """Ctrl-C at a moment, given to the whole process group as a terminal does."""
    process = home.start(*command)
    try:
        until(120, lambda: when() or process.poll() is not None, lambda: "that moment never came", every_s=0.02)
        assert process.poll() is None, process.communicate()
        os.killpg(process.pid, signal.SIGINT)
        then()
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1, out + err
    assert "Traceback" not in out + err, err
    assert err.strip() == "Interrupted. All finished steps are kept; run the same command again to continue."
    return out


def moved(home: Home, stage: str) -> bool:
    """Whether a command that runs has moved something in a stage: its journal says so."""
    running = [journal for journal in runs(home.path) if journal["state"] == "running"]
    return any(row["stage"] == stage for journal in running for row in journal["rows"])


def no_process_is_left(home: Home) -> None:
    until(60, lambda: not home.processes(), lambda: [process.cmdline() for process in home.processes()], every_s=0.3)


@pytest.fixture
def models() -> Iterator[Words]:
    with words() as models:
        yield models


def test_ctrl_c_says_so_leaves_no_process_and_the_next_command_goes_on(home: Home, models: Words) -> None:
    home.env["HEADRACE_PLATFORM__IDLE_S"] = "0"
    home.env.update(models.env)
    models.gate.shut()
    interrupt(home, "index", home.docs, when=lambda: models.batches > 0, then=models.gate.open)
    no_process_is_left(home)
    assert as_json(home, "index", home.docs)["put"]["unchanged"] == 12
    assert [(run["command"], run["state"]) for run in runs(home.path)] == [("index", "failed"), ("index", "done")]


@pytest.mark.soak(minutes=0.6)
def test_a_round_that_was_interrupted_is_taken_up_as_it_was_planned(
    home: Home, models: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_SETTINGS", home.env["HEADRACE_SETTINGS"])
    recipe = {"EPOCHS": "100", "MOST_STEPS": "60", "CHECKPOINT_STEPS": "1000"}
    home.env.update({"HEADRACE_TRAINING__GATE__LEAST_USERS": "1", "HEADRACE_TRAINING__GATE__HEADROOM": "1e6"})
    home.env.update(models.env | {f"HEADRACE_TRAINING__RECIPE__RERANKER__{name}": value for name, value in recipe.items()})
    as_json(home, "index", home.docs)
    with open_platform(Settings.load(home=home.path), parts=frozenset({"objects", "head"})) as endpoints:
        judge(endpoints, 12, liked="yes", seed=1)
        interrupt(home, "train", "--recipe", "reranker", when=lambda: moved(home, "finetune"))
        home.env["HEADRACE_TRAINING__RECIPE__RERANKER__MOST_STEPS"] = "3"
        trip = as_json(home, "train", "--recipe", "reranker")
        assert (trip["round"], trip["dead_letters"]) == (1, 0)
        assert trip["training"]["steps"] == 60, "taken up as it was planned"
    states = [(run["command"], run["state"]) for run in runs(home.path)]
    assert states == [("index", "done"), ("train", "failed"), ("train", "done")]


@pytest.mark.soak(minutes=4)
@pytest.mark.timeout(1200)
def test_ctrl_c_ends_a_demo_with_the_real_models_and_the_next_command_goes_on(real_home: Home) -> None:
    home = real_home
    home.env["HEADRACE_PLATFORM__IDLE_S"] = "0"
    for stage in ("parse", "prepare"):
        interrupt(home, *home.demo(), when=partial(moved, home, stage))
        no_process_is_left(home)
    trip = home.json("train")
    assert trip["round"] == 1
    assert trip["dead_letters"] == 0
    states = [(run["command"], run["state"]) for run in home.json("runs")["runs"]]
    assert states == [("train", "done"), *[("demo", "failed")] * 2], "newest first"
    documents = home.sql("select count(*) as rows, count(distinct uri) as uris from documents where status = 'parsed'")
    assert documents == [{"rows": 12, "uris": 12}]


def store(home: Home) -> Process | None:
    """The process of the object store, if it runs."""
    state = read_state(PlatformHome(home.path))
    return state.children.get("objects") if state else None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Disk]:
    with mounted(tmp_path / "disk", megabytes=100) as disk:
        yield disk
        clear(Home(disk.path / "home", disk.path))


@pytest.mark.soak(minutes=0.6)
def test_a_disk_that_fills_up_is_named_in_a_sentence(small_disk: Disk, models: Words, tmp_path: Path, handbook: Path) -> None:
    docs = tmp_path / "docs"
    shutil.copytree(handbook, docs)
    for number in range(3):
        (docs / f"large-{number}.txt").write_bytes(os.urandom(20_000_000).hex().encode())
    home = new_home(small_disk.path, None, docs)
    home.env.update(models.env)
    failed = home.run("index", docs, code=1)
    assert str(home.path) in failed.stderr, failed.stderr
    assert "Free some space" in failed.stderr, failed.stderr
    assert failed.stderr.strip().endswith("or name a home on another disk with --home DIR."), failed.stderr
    # Smaller files, some space freed, and the same home goes on.
    for file in docs.glob("large-*"):
        file.unlink()
    full = store(home)
    small_disk.resize(megabytes=300)
    until(60, lambda: store(home) not in (None, full), lambda: "the store was not started again")
    done = home.json("index", docs)
    assert done["index"]["chunks"] == 72
    home.run("down")


def test_a_disk_that_is_full_from_the_start_is_named_too(small_disk: Disk, models: Words, handbook: Path) -> None:
    home = new_home(small_disk.path, None, handbook)
    home.env.update(models.env)
    small_disk.fill()
    failed = home.run("index", handbook, code=1)
    assert "Free some space" in failed.stderr
    assert failed.stdout == ""
