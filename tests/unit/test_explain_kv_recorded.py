"""Recorded answers as a trace of requests."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from headrace.errors import NotFound
from headrace.explain.kv.recorded import recorded_prompts, trace_of
from headrace.explain.kv.replay import KvStorage, replay
from headrace.models.kv.format import BLOCK

AT = datetime(2026, 11, 29, 12, tzinfo=UTC)
TOKEN_BYTES = 10.0


class Rows:
    """A table of interactions in memory, with the part of `TableReader` that is read."""

    def __init__(self, *rows: dict[str, Any]) -> None:
        self._rows = rows
        self.given = 0

    def scan(self, columns: tuple[str, ...], where: str = "") -> Iterator[pa.RecordBatch]:
        since = datetime.fromisoformat(where.removeprefix("at >= ").strip("'")) if where else AT.min.replace(tzinfo=UTC)
        rows = [{name: row[name] for name in columns} for row in self._rows if row["at"] >= since]
        self.given += len(rows)
        if rows:
            yield pa.RecordBatch.from_pylist(rows)


def answer(after_s: float, tokens: list[int], *, tenant: str = "acme") -> dict[str, Any]:
    """An answer whose prompt are these tokens."""
    return {
        "tenant": tenant,
        "generator_version": "none",
        "prompt_tokens": tokens,
        "completion_tokens": [1, 2],
        "at": AT + timedelta(seconds=after_s),
    }


SAME = list(range(2 * BLOCK))


def test_recorded_prompts_are_a_trace_in_order_of_time_that_tenants_do_not_share() -> None:
    rows = Rows(
        answer(9, [*SAME, 1]),
        answer(0, [*SAME, 2, 3]),
        answer(5, SAME, tenant="globex"),
        {**answer(6, []), "completion_tokens": None},  # quoted: no prompt
    )
    trace = trace_of(recorded_prompts(rows))
    assert [request.at_s for request in trace.requests] == [0, 5, 9]
    assert [request.input_tokens for request in trace.requests] == [2 * BLOCK + 2, 2 * BLOCK, 2 * BLOCK + 1]
    found = replay(trace, KvStorage(TOKEN_BYTES, 1e9, 0.0, 1_000.0))
    assert found.block_hit_rate == 2 / 8, "the two full blocks of the same tenant's first prompt, and nothing of another's"
    with pytest.raises(NotFound, match="No generated answer"):
        trace_of([])


@pytest.mark.parametrize("older", [10, 2_000])
def test_older_answers_are_not_read_where_there_are_enough_newer_ones(older: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All answers ever given were, with their prompts."""
    monkeypatch.setattr("headrace.explain.kv.recorded._MOST", 8)
    now = datetime.now(UTC)
    rows = Rows(
        *({**answer(0, SAME), "at": now - timedelta(days=400, seconds=number)} for number in range(older)),
        *({**answer(0, SAME), "at": now - timedelta(minutes=20, seconds=number)} for number in range(8)),
    )
    assert [one.at_s > (now - timedelta(hours=1)).timestamp() for one in recorded_prompts(rows)] == [True] * 8
    assert rows.given == 8
