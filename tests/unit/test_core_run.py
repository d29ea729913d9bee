"""Runs: the journal says how each ended, also that of a process that was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.catalog import DOCUMENTS
from headrace.core import run as run_module
from headrace.core.run import ended_runs, journal_of, recorded, runs, set_aside, to_measure_by
from headrace.errors import NotFound, NothingToLearn
from headrace.storage.ledger import Direction, summed


def test_a_run_that_ends_well_is_done(tmp_path: Path) -> None:
    with recorded("index", tmp_path) as run:
        assert runs(tmp_path)[0]["state"] == "running"
        run.ledger.count("put", DOCUMENTS, Direction.WRITE, bytes=9, seconds=0.01)
        run.detail["found"] = 1
    (journal,) = runs(tmp_path)
    assert (journal["state"], journal["command"], journal["detail"]) == ("done", "index", {"found": 1})
    assert [(row["stage"], row["bytes"]) for row in journal["rows"]] == [("put", 9)]
    assert journal["started"] <= journal["ended"]


def test_a_running_journal_is_live_and_can_be_added_up(
    tmp_path: Path, within: Callable[[float, Callable[[], bool]], bool]
) -> None:
    with recorded("index", tmp_path) as run:
        run.ledger.count("put", DOCUMENTS, Direction.WRITE, bytes=9, seconds=0.01)
        assert within(5, lambda: [row["bytes"] for row in runs(tmp_path)[0]["rows"]] == [9])
        run.ledger.count("put", DOCUMENTS, Direction.WRITE, bytes=1, seconds=0.5)
        assert within(5, lambda: [row["bytes"] for row in runs(tmp_path)[0]["rows"]] == [10])
        (journal,) = runs(tmp_path)
        assert journal["state"] == "running"
        (total,) = summed(journal["ledger"], by=("tier",))
        assert (total["ops"], total["bytes"], total["max_ms"]) == (2, 10, 500.0)


def test_the_journal_of_many_tenants_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    """A service writes its own about once a second."""
    with recorded("up", tmp_path) as run:
        pass
    for number in range(4_000):
        run.ledger.count("put", DOCUMENTS, Direction.WRITE, bytes=number, seconds=0.01, tenant=f"tenant-{number}")
    run.journal()  # what is made once
    tracemalloc.start()
    try:
        run.journal()
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    journal = run.folder / f"{run.id}.json"
    assert most < journal.stat().st_size / 5
    assert json.loads(journal.read_bytes()) == json.loads(json.dumps(run.as_dict()))
    assert [row["bytes"] for row in journal_of(tmp_path, None)["rows"]] == list(range(4_000))


@pytest.mark.parametrize("error", [RuntimeError("the disk is full"), KeyboardInterrupt()])
def test_a_run_that_raises_has_failed_and_says_of_what(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), recorded("train", tmp_path):
        raise error
    (journal,) = runs(tmp_path)
    assert journal["state"] == "failed"
    assert journal["ended"] is not None
    assert journal["detail"]["error"] == (str(error) or "KeyboardInterrupt")


def test_a_run_that_had_nothing_to_learn_has_not_failed(tmp_path: Path) -> None:
    with pytest.raises(NothingToLearn), recorded("train", tmp_path):
        raise NothingToLearn("ranking is not trained", hint="Judge more.")
    (journal,) = runs(tmp_path)
    assert (journal["state"], journal["detail"]) == ("skipped", {"nothing": "ranking is not trained"})


def test_a_run_that_was_killed_has_died_and_keeps_its_last_journal(tmp_path: Path) -> None:
    program = f"""
import time
from pathlib import Path
from headrace.catalog import DOCUMENTS
from headrace.core.run import recorded
from headrace.storage.ledger import Direction
with recorded("index", Path({str(tmp_path)!r})) as run:
    run.ledger.count("put", DOCUMENTS, Direction.WRITE, bytes=9, seconds=0.01)
    run.journal()
    print("under way", flush=True)
    time.sleep(60)
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == b"under way\n"
        # A process that lives is left alone by another one that starts.
        with recorded("search", tmp_path):
            assert journal_of(tmp_path, None, command="index")["state"] == "running"
    finally:
        child.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and a zombie until its parent asks for it
        child.stdout.close()
    assert journal_of(tmp_path, None, command="index")["state"] == "running"
    with recorded("search", tmp_path):
        pass
    child.wait()
    journal = journal_of(tmp_path, None, command="index")
    assert journal["state"] == "died"
    assert [(row["stage"], row["bytes"]) for row in journal["rows"]] == [("put", 9)]


def test_a_pid_that_somebody_else_got_meanwhile_does_not_keep_a_run_alive(tmp_path: Path) -> None:
    with recorded("index", tmp_path):
        pass
    (path,) = (tmp_path / "runs").glob("*.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": "running", "pid": os.getpid(), "process_started": 1.0}))
    (path.parent / "running" / path.stem).touch()
    with recorded("search", tmp_path):
        pass
    assert journal_of(tmp_path, None, command="index")["state"] == "died"


def test_a_journal_that_is_no_json_is_passed_over(tmp_path: Path) -> None:
    with recorded("index", tmp_path):
        pass
    (tmp_path / "runs" / "broken.json").write_text("{")
    with recorded("search", tmp_path):
        pass
    assert {journal["command"] for journal in runs(tmp_path)} == {"index", "search"}


def test_an_error_is_not_hidden_by_a_journal_that_cannot_be_written(tmp_path: Path) -> None:
    def fail() -> None:
        with recorded("index", tmp_path):
            (tmp_path / "runs").rename(tmp_path / "moved")
            raise RuntimeError("the true reason")

    with pytest.raises(RuntimeError, match="the true reason"):
        fail()


def test_a_run_is_found_by_its_beginning(tmp_path: Path) -> None:
    for command in ("index", "search", "index"):
        with recorded(command, tmp_path):
            pass
    names = [journal["run"] for journal in runs(tmp_path)]
    assert journal_of(tmp_path, None)["run"] == names[-1]
    assert journal_of(tmp_path, None, command="search")["run"] == names[1]
    assert journal_of(tmp_path, names[1][:22])["run"] == names[1]
    with pytest.raises(NotFound, match="More than one run"):
        journal_of(tmp_path, names[0][:8])
    with pytest.raises(NotFound, match="There is no run 'x'"):
        journal_of(tmp_path, "x")


def test_by_default_a_run_is_one_that_handled_something(tmp_path: Path) -> None:
    with recorded("index", tmp_path) as run:
        run.count(documents=3)
    for command in ("models", "land"):
        with recorded(command, tmp_path) as listing:
            listing.count(events=0)
    assert journal_of(tmp_path, None)["run"] == run.id
    assert journal_of(tmp_path, None, command="land")["run"] == listing.id


def test_archived_runs_are_set_aside_found_still_and_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        with recorded("ask", tmp_path):
            pass
    with recorded("up", tmp_path):
        ended = ended_runs(tmp_path, 10)
        assert [one["command"] for one in ended] == ["ask"] * 3, "what still runs is not archived"
        before = [one["run"] for one in runs(tmp_path)]
        set_aside(tmp_path, [one["run"] for one in ended])
        set_aside(tmp_path, [one["run"] for one in ended])  # as by another process, meanwhile
        assert ended_runs(tmp_path, 10) == []
        assert [one["run"] for one in runs(tmp_path)] == before
        assert journal_of(tmp_path, None)["command"] == "up"
        assert journal_of(tmp_path, None, command="ask")["run"] == before[2]
        assert journal_of(tmp_path, before[0])["run"] == before[0]
        monkeypatch.setattr(run_module, "_KEPT", 2)
        set_aside(tmp_path, [])
    assert len(runs(tmp_path)) == 3
    with pytest.raises(NotFound) as gone:
        journal_of(tmp_path, "20250101-120000-ask-0000")
    assert "older ones are in the tables" in gone.value.hint


def test_a_home_in_which_nothing_ran(tmp_path: Path) -> None:
    assert runs(tmp_path) == []
    with pytest.raises(NotFound, match="Nothing has run"):
        journal_of(tmp_path, None)


def test_the_run_of_many_things_is_not_hidden_by_those_of_one(tmp_path: Path) -> None:
    for command in ("index", "ask", "demo", *["ask"] * 4, "search-x"):
        with recorded(command, tmp_path):
            pass
    found = [journal["command"] for journal in to_measure_by(tmp_path, 2)]
    assert found == ["search-x", "ask", "demo", "index"]
