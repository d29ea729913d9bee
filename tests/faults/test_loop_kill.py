"""The training loop under `headrace up`, killed and interrupted in the middle of its work: it goes on, and nothing is left."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from serving import Api, started
from shell import run
from traffic import Traffic, indexed, until
from words import words

from headrace.catalog import CHECKPOINTS
from headrace.core.run import runs
from headrace.platform import open_platform
from headrace.scheduler import status
from headrace.scheduler.process import SchedulerProcess
from headrace.settings import Settings
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectReader

if TYPE_CHECKING:
    from conftest import Home

LOOP = {
    "HEADRACE_TRAINING__NICE": "0",  # whatever else runs on this machine
    "HEADRACE_TRAINING__THREADS": "1",
    "HEADRACE_TRAINING__VERDICTS": "30",
    "HEADRACE_TRAINING__RECIPES": '["reranker"]',
    "HEADRACE_TRAINING__GATE__HEADROOM": "1e6",
    "HEADRACE_TRAINING__RECIPE__RERANKER__EPOCHS": "50",
    "HEADRACE_TRAINING__RECIPE__RERANKER__BATCH": "1",
    "HEADRACE_TRAINING__RECIPE__RERANKER__MOST_STEPS": "60",
    "HEADRACE_TRAINING__RECIPE__RERANKER__CHECKPOINT_STEPS": "5",
}


def test_a_loop_that_is_killed_while_it_waits_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    with words() as models:
        for name, value in {**models.env, "HEADRACE_SETTINGS": str(tmp_path / "none.toml")}.items():
            monkeypatch.setenv(name, value)
        settings = Settings.load(home=home)
        with open_platform(settings), SchedulerProcess(settings, "20261130-000000-up-0000"):
            the_loop_is_killed_while_it_waits_and_is_started_again(home)
            loop = status.read(home)["pid"]
    assert gone(loop)
    assert status.read(home)["state"] == "ended"


@pytest.mark.soak(minutes=2)
@pytest.mark.parametrize("in_a_round", [False, True])
def test_a_loop_and_up_are_killed_and_both_go_on(home: Home, handbook: Path, tmp_path: Path, in_a_round: bool) -> None:
    with words() as models:
        home.env.update(models.env | (LOOP if in_a_round else {}))
        first = started(home, tmp_path / "first.log")
        try:
            indexed(first, handbook)
            if in_a_round:
                the_loop_is_killed_inside_a_round_is_started_again_and_goes_on(first)
            else:
                the_loop_is_killed_while_it_waits_and_is_started_again(first.home.path)
            key, key_id = a_document_is_put_and_up_is_killed(first)
        finally:
            first.kill()
        second = started(home, tmp_path / "second.log")
        try:
            the_next_up_indexes_what_was_taken(second, key, key_id)
            ctrl_c_leaves_no_process(second)
            if in_a_round:
                assert "Round 1 (reranker)" in run(home, "loop").stdout
        finally:
            second.kill()
    ended = [(run["command"], run["state"]) for run in runs(home.path) if run["command"] in ("up", "loop")]
    assert ended == [("up", "died"), ("loop", "died"), ("loop", "died"), ("up", "done"), ("loop", "done")]
    if in_a_round:
        rounds = [run for run in runs(home.path) if run["command"] == "train"]
        assert [run["state"] for run in rounds[:2]] == ["died", "done"]
        trained: dict[str, Any] = rounds[1]["detail"]["round"]["training"]
        assert 0 < trained["taken"] < trained["steps"], "training went on from its checkpoint"


def the_loop_is_killed_while_it_waits_and_is_started_again(home: Path) -> None:
    def told() -> dict[str, Any]:
        return status.read(home)

    until(60, lambda: told()["state"] == "waiting", told)
    killed = told()
    os.kill(killed["pid"], signal.SIGKILL)
    until(60, lambda: told()["state"] == "waiting" and told()["pid"] != killed["pid"], told)
    assert gone(killed["pid"])


def the_loop_is_killed_inside_a_round_is_started_again_and_goes_on(api: Api) -> None:
    with Traffic(api, pause_s=0.5) as traffic:
        until(120, lambda: (status.read(api.home.path)["round"] or {}).get("stage") == "finetune", traffic.loop, every_s=0.02)
        store = ObjectReader(CHECKPOINTS, api.endpoints, Meter(Ledger(), "test"))
        until(120, lambda: any(info.key.endswith("/latest.json") for info in store.list()), traffic.loop, every_s=0.05)
        killed = status.read(api.home.path)
        os.kill(killed["pid"], signal.SIGKILL)
        until(60, lambda: traffic.loop()["state"] == "restarting", lambda: traffic.told[-1])
        assert "SIGKILL" in traffic.told[-1]["trouble"]["why"]
        until(120, lambda: traffic.loop()["last"] is not None, lambda: traffic.told[-1])
    told = traffic.told[-1]
    assert traffic.errors == [], "answers do not depend on training"
    assert traffic.answered > 5
    assert killed["round"]["stage"] == "finetune"
    assert told["pid"] != killed["pid"]
    assert told["last"]["round"] == killed["round"]["number"] == 1
    assert any(one["round"] and one["round"]["resumed"] for one in traffic.told)
    assert {"land", "prepare", "train", "gate"} <= set(told["last"]["timings"])
    assert told["landing"]["landed"]["feedback"] > 0
    assert told["landing"]["troubles"] == []


def ctrl_c_leaves_no_process(api: Api) -> None:
    def told() -> dict[str, Any]:
        return status.read(api.home.path)

    until(60, lambda: told()["running"] and told()["state"] in ("waiting", "training", "paused"), told)
    loop = told()["pid"]
    assert api.stop() == 0, api.log.read_text()
    assert gone(loop)
    assert not any("headrace.scheduler" in process.cmdline() for process in api.home.processes())
    assert status.read(api.home.path)["state"] == "ended"
    shown = run(api.home, "loop").stdout
    assert "No training loop is running here" in shown


@pytest.mark.soak
def test_a_round_that_fails_is_left_alone_for_a_while_and_says_why(home: Home, handbook: Path, tmp_path: Path) -> None:
    with words() as models:
        home.env.update(LOOP | models.env | {"HEADRACE_TRAINING__RECIPE__RERANKER__EPOCHS": "0"})
        api = started(home, tmp_path / "up.log")
        try:
            indexed(api, handbook)
            a_round_fails(api)
            ctrl_c_leaves_no_process(api)
        finally:
            api.kill()


def a_round_fails(api: Api) -> None:
    with Traffic(api, pause_s=0.5) as traffic:
        until(120, lambda: traffic.loop()["state"] == "paused", lambda: traffic.told[-1])
    trouble = traffic.told[-1]["trouble"]
    assert "training.recipe.reranker.epochs" in trouble["why"]
    assert (trouble["recipe"], trouble["times"]) == ("reranker", 1)
    assert traffic.errors == []
    shown = run(api.home, "loop").stdout
    assert "is paused after a failed round" in shown
    assert "training.recipe.reranker.epochs" in shown


def a_document_is_put_and_up_is_killed(api: Api) -> tuple[str, str]:
    """A key that may read, and its id. No process of the loop is left."""
    loop = status.read(api.home.path)["pid"]
    api.tenant("acme")
    key, key_id = api.mint("acme", "read", "write")
    api.client(key).put("/v1/documents/lantern.md", content=b"# Lantern\n\nThe lantern is blue.\n").raise_for_status()
    api.kill()
    until(60, lambda: gone(loop), lambda: psutil.Process(loop).cmdline())
    assert status.read(api.home.path)["state"] == "ended"
    return key, key_id


def the_next_up_indexes_what_was_taken(api: Api, key: str, key_id: str) -> None:
    """What was taken over the API outlives the process that took it, and the audit has its lines once."""
    client = api.client(key)
    until(60, lambda: client.get("/v1/documents/lantern.md").status_code == 200, api.log.read_text)
    assert api.indexed(client, "lantern.md")["status"] == "indexed"
    found = client.post("/v1/search", json={"question": "Which colour is the lantern?"}).json()["passages"]
    assert "blue" in found[0]["text"]
    counted = f"SELECT action, count(*) AS n FROM audit WHERE resource IN ('lantern.md', 'acme/{key_id}') GROUP BY action"
    counts: dict[str, int] = {}

    def there() -> bool:
        counts.update({row["action"]: row["n"] for row in api.sql(counted)})
        return {"key.create", "document.put"} <= counts.keys()

    until(60, there, lambda: counts)
    assert counts["key.create"] == counts["document.put"] == 1


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
