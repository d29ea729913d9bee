"""Answers that wait to be recorded: what is on disk, in which order, how much of it, and what damage does."""

from __future__ import annotations

import resource
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from headrace.answering import unrecorded
from headrace.answering.unrecorded import Unrecorded
from headrace.catalog import INTERACTIONS
from headrace.errors import StorageFull, Unavailable
from headrace.platform import home as homes


def row(answer_id: str, **changed: Any) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for field in INTERACTIONS.columns:
        made[field.name] = [] if str(field.type).startswith("list") else "" if str(field.type) == "string" else None
    return {**made, "answer_id": answer_id, "tenant": "acme", "user": "ann", "at": datetime.now(UTC), **changed}


def test_answers_wait_in_their_order_over_a_restart(tmp_path: Path) -> None:
    kept = Unrecorded(tmp_path)
    assert (len(kept), kept.away, kept.waiting()) == (0, False, [])
    for name in ("b0", "a1", "c2"):
        kept.add(row(name))
    assert kept.away
    again = Unrecorded(tmp_path)
    assert [one.answer_id for one in again.waiting()] == ["b0", "a1", "c2"]
    assert not again.away, "the head is tried first"
    found = again.find("a1")
    assert found is not None
    assert found["tenant"] == "acme"
    assert again.find("d3") is None
    assert oct((tmp_path / "unrecorded").stat().st_mode & 0o777) == "0o700"


def test_a_clock_that_is_set_back_changes_no_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Unrecorded(tmp_path)
    kept.add(row("a0"))
    monkeypatch.setattr(unrecorded.time, "time_ns", lambda: 1)
    kept.add(row("a1"))
    later = Unrecorded(tmp_path)
    later.add(row("a2"))
    assert [one.answer_id for one in later.waiting()] == ["a0", "a1", "a2"]


def test_what_waits_is_bounded_in_number_and_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Unrecorded(tmp_path)
    monkeypatch.setattr(unrecorded, "MOST", 2)
    kept.add(row("a0"))
    kept.add(row("a1"))
    with pytest.raises(Unavailable, match="2 wait for it"):
        kept.add(row("a2"))
    monkeypatch.setattr(unrecorded, "MOST", 10)
    monkeypatch.setattr(unrecorded, "MOST_BYTES", 3_000)
    with pytest.raises(Unavailable):
        kept.add(row("a3", question="x" * 3_000))
    assert len(kept) == 2


def test_a_full_disk_keeps_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Unrecorded(tmp_path)
    monkeypatch.setattr(homes, "FREE_BYTES", 1 << 60)
    with pytest.raises(StorageFull):
        kept.add(row("a0"))
    assert len(kept) == 0


def test_what_is_no_answer_is_put_aside_and_what_is_half_written_is_none(tmp_path: Path) -> None:
    kept = Unrecorded(tmp_path)
    for name in ("a0", "a1"):
        kept.add(row(name))
    first = kept.waiting()[0].path
    first.write_bytes(first.read_bytes()[:-9])
    (tmp_path / "unrecorded" / ".00000000000000000001-aa.json.1234").write_bytes(b"{")
    assert kept._row(kept.waiting()[0]) is None
    assert [one.answer_id for one in kept.waiting()] == ["a1"]
    assert first.with_suffix(".damaged").exists()


def test_what_cannot_be_read_at_the_moment_goes_on_waiting(tmp_path: Path) -> None:
    """It was put aside, and never recorded, if a client had taken all descriptors."""
    kept = Unrecorded(tmp_path)
    kept.add(row("a0"))
    [one] = kept.waiting()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            kept._row(one)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert kept.waiting() == [one]
    assert kept._row(one) is not None
