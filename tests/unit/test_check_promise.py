"""What an acceptance test says of storage, without any storage."""

from __future__ import annotations

import io
import os
from contextlib import contextmanager

import pytest
from rich.console import Console

from headrace.catalog import Tier
from headrace.check import acceptance
from headrace.check.files import _number, _numbered
from headrace.check.peer import PeerProcess
from headrace.check.promise import (
    Broken,
    Finding,
    Measured,
    NotNeeded,
    NotTested,
    Outcome,
    Promises,
    TimeBudget,
    latency,
    promise,
)
from headrace.check.provenance import Provenance
from headrace.check.report import CheckReport
from headrace.cli.render.check import say_checked
from headrace.errors import Unavailable
from headrace.platform.address import Ports, embedded_endpoints
from headrace.platform.home import Home
from headrace.platform.keys import Keys
from headrace.settings import Settings


def test_percentiles_are_values_that_were_measured() -> None:
    words, figures = latency("put", [0.001, 0.002, 0.010])
    assert words == "put p50 2.0 ms, p95 10.0 ms"
    assert figures == {"put_p50_ms": 2.0, "put_p95_ms": 10.0}


def test_a_loop_does_its_least_rounds_and_stops_at_its_most() -> None:
    assert list(TimeBudget(0).rounds(3, 10)) == [0, 1, 2]
    assert list(TimeBudget(60).rounds(3, 5)) == [0, 1, 2, 3, 4]


def test_a_torn_file_is_told_from_a_whole_one() -> None:
    old, new = _numbered(6), _numbered(7)
    assert (_number(old), _number(new)) == (6, 7)
    assert len(old) != len(new)
    for torn in (new[: len(old)], old + new[len(old) :], new[:1000] + old[1000:], new[:5], b""):
        assert _number(torn) is None


def test_a_second_process_answers_says_what_failed_and_ends() -> None:
    with PeerProcess() as second:
        assert second.ask("files.disappears", path=os.devnull + "-not", seconds=1).get(30) is not None
        with pytest.raises(OSError, match="FileNotFoundError"):
            second.ask("files.try_lock", path="/nowhere/at/all").get(30)
        with pytest.raises(OSError, match="no module 'os'"):
            second.ask("os.getpid").get(30)
        process = second._process
    assert process.returncode is not None
    with PeerProcess() as second:
        second._process.kill()
        second._process.wait()
        with pytest.raises(Unavailable, match="second process"):
            second.ask("ready", module="files").get(30)


@promise("kept", loses="a")
def kept(room: list[str], effort: TimeBudget) -> Measured:
    return Measured("3 ms", p50_ms=3.14159)


@promise("broken", loses="b")
def broken(room: list[str], effort: TimeBudget) -> Measured:
    raise Broken("it broke")


@promise("unneeded", loses="c")
def unneeded(room: list[str], effort: TimeBudget) -> Measured:
    raise NotNeeded("it is 7 low, which nobody minds", Measured("7 low", low=7))


@promise("untested", loses="c")
def untested(room: list[str], effort: TimeBudget) -> Measured:
    raise NotTested("there is nothing to test")


@promise("refused", loses="d")
def refused(room: list[str], effort: TimeBudget) -> Measured:
    raise ConnectionRefusedError("no answer")


def findings(monkeypatch: pytest.MonkeyPatch, *promises: object, clears: bool = True) -> list[Finding]:
    @contextmanager
    def opened(settings: Settings, endpoints: object):
        try:
            yield []
        finally:
            if not clears:
                raise Unavailable("Things could not be deleted.")

    subject = Promises(Tier.FILE, promises, (OSError, Unavailable), opened)
    monkeypatch.setattr(acceptance, "SUBJECTS", (subject,))
    monkeypatch.setattr(acceptance, "WORKLOADS", {Tier.FILE: ()})
    monkeypatch.setenv("HEADRACE_SETTINGS", "none.toml")
    settings = Settings()
    endpoints = embedded_endpoints(Home(settings.home), Keys(s3_access_key="", s3_secret_key="", models_key=""), Ports())
    found = acceptance.check_storage(settings, endpoints, [Tier.FILE], seconds=1, concurrency=1)
    return [one for one in found if isinstance(one, Finding)]


def report(found: list[Finding]) -> CheckReport:
    header = Provenance("1", "2026-11-29T10:00:00+00:00", 1, 4, {"name": "here", "cores": 2}, {}, [], {}, "0" * 64)
    return CheckReport(header, 1.0, found, [], [])


def test_each_promise_becomes_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings(monkeypatch, kept, broken, unneeded, untested, refused)
    assert [(f.promise, f.outcome, f.figure, f.seen) for f in found] == [
        ("kept", Outcome.KEPT, "3 ms", ""),
        ("broken", Outcome.BROKEN, "", "it broke"),
        ("unneeded", Outcome.NOT_NEEDED, "7 low", "it is 7 low, which nobody minds"),
        ("untested", Outcome.NOT_TESTED, "", "there is nothing to test"),
        ("refused", Outcome.BROKEN, "", "no answer"),
    ]
    assert found[0].as_dict()["figures"] == {"p50_ms": 3.142}
    console = Console(record=True, width=100, file=io.StringIO())
    say_checked(console, report(found))
    shown = console.export_text()
    assert "Headrace would lose b" in shown
    assert "Headrace would lose a" not in shown
    assert "not kept, not needed: it is 7 low, which nobody minds" in shown
    assert "not tested: there is nothing to test" in shown
    assert "1 promise kept, 2 broken, 1 not kept but not needed, 1 not tested." in shown


def test_where_the_first_is_broken_no_other_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings(monkeypatch, refused, kept)
    assert [f.outcome for f in found] == [Outcome.BROKEN, Outcome.NOT_TESTED]


def test_what_cannot_be_cleared_away_is_a_broken_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings(monkeypatch, kept, kept, clears=False)
    assert [f.outcome for f in found] == [Outcome.KEPT, Outcome.KEPT, Outcome.BROKEN]
    assert found[-1].seen == "Things could not be deleted"
    # Storage that gave no answer in the first place is not blamed twice.
    assert [f.outcome for f in findings(monkeypatch, refused, kept, clears=False)] == [Outcome.BROKEN, Outcome.NOT_TESTED]


def test_a_mistake_of_ours_is_not_blamed_on_the_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    @promise("mistaken", loses="e")
    def mistaken(room: list[str], effort: TimeBudget) -> Measured:
        return room.nothing  # type: ignore[attr-defined]

    with pytest.raises(AttributeError):
        findings(monkeypatch, kept, mistaken)
