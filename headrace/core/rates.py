"""Rates of a run, from its journal: bytes and operations a second, and bytes per question.

A stage's rates are over the time in which it was at work, in any thread; those of the whole run are over its duration. What was
asked of storage while nothing waited for it counts, too, so a rate says what the stage needed, not what the storage could give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from headrace.storage.timeline import ASKED


def seconds_of(journal: Mapping[str, Any]) -> float | None:
    """How long a run took, in seconds; `None` while it runs or if it was killed."""
    started, ended = journal["started"], journal["ended"]
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds() if ended else None


def total_rates(journal: Mapping[str, Any]) -> dict[str, Any]:
    """The run as a whole, JSON-ready: `seconds`, `ops`, `bytes`, `ops_per_s`, `bytes_per_s`, `questions`, `bytes_per_question`.

    Questions are charged with what the stages at question time moved. Rates are null where there is nothing to divide by.
    """
    seconds, questions = seconds_of(journal), _questions(journal)
    asked = {one["stage"] for one in _timeline(journal) if one.get("phase") == ASKED}
    ops, moved = (sum(int(row[name]) for row in journal["rows"]) for name in ("ops", "bytes"))
    of_questions = sum(int(row["bytes"]) for row in journal["rows"] if row["stage"] in asked)
    return {
        "seconds": None if seconds is None else round(seconds, 3),
        "ops": ops,
        "bytes": moved,
        **_over(seconds, ops, moved),
        "questions": questions,
        "bytes_per_question": round(of_questions / questions) if questions and asked else None,
    }


def stage_rates(journal: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each stage, in the order of the ledger, JSON-ready.

    `active_s` is the time at work, null for a component that is not a stage; `bytes_per_question` is only for stages at
    question time.
    """
    times, questions = {one["stage"]: one for one in _timeline(journal)}, _questions(journal)
    rows: dict[str, dict[str, Any]] = {}
    for row in journal["rows"]:
        one = rows.setdefault(row["stage"], {"stage": row["stage"], "active_s": None, "ops": 0, "bytes": 0})
        one["ops"] += int(row["ops"])
        one["bytes"] += int(row["bytes"])
    for one in rows.values():
        time = times.get(one["stage"], {})
        one["active_s"] = time.get("active_s")
        one |= _over(one["active_s"], one["ops"], one["bytes"])
        one["bytes_per_question"] = round(one["bytes"] / questions) if questions and time.get("phase") == ASKED else None
    return [*rows.values()]


def with_rates(journal: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the run's ledger with `ops_per_s` and `bytes_per_s`.

    Over the time in which the row's stage was at work; for a row that sums over stages, over the duration of the run.
    """
    active, whole = {one["stage"]: one["active_s"] for one in _timeline(journal)}, seconds_of(journal)
    return [
        {**row, **_over(active.get(row["stage"]) if row["stage"] else whole, int(row["ops"]), int(row["bytes"]))} for row in rows
    ]


def _over(seconds: float | None, ops: int, moved: int) -> dict[str, float | int | None]:
    if not seconds:
        return {"ops_per_s": None, "bytes_per_s": None}
    return {"ops_per_s": round(ops / seconds, 1), "bytes_per_s": round(moved / seconds)}


def _questions(journal: Mapping[str, Any]) -> int:
    return int((journal.get("counts") or {}).get("questions", 0))


def _timeline(journal: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(journal.get("timeline") or ())  # not in journals of an older version
