"""What recorded answers say of the KV cache: their prompts as a trace, seconds saved and lost, and whether it was worth it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from headrace.errors import NotFound
from headrace.explain.kv.recorded import kv_use, recorded_prompts, trace_of, worth
from headrace.explain.kv.replay import KvStorage, replay
from headrace.models.kv.cache import BLOCK

AT = datetime(2026, 11, 29, 12, tzinfo=UTC)
TOKEN_BYTES = 10.0
BLOCK_BYTES = int(BLOCK * TOKEN_BYTES)


class Rows:
    """A table of interactions in memory, with the part of `TableReader` that is read."""

    def __init__(self, *rows: dict[str, Any]) -> None:
        self._rows = rows

    def scan(self, columns: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
        yield pa.RecordBatch.from_pylist([{name: row[name] for name in columns} for row in self._rows])


def answer(after_s: float, tokens: list[int], *, read: int = 0, tenant: str = "acme", **ms: float) -> dict[str, Any]:
    """An answer whose prompt are these tokens, of which `read` blocks were restored."""
    written = len(tokens) // BLOCK - read
    return {
        "tenant": tenant,
        "generator_version": "none",
        "prompt_tokens": tokens,
        "completion_tokens": [1, 2],
        "timings": [{"name": f"generate_{name}", "ms": value} for name, value in ms.items()],
        "moved": [
            {"tier": "file", "direction": "read", "bytes": read * (BLOCK_BYTES + 7)},  # blocks have a header
            {"tier": "file", "direction": "write", "bytes": written * (BLOCK_BYTES + 7)},
            {"tier": "vector", "direction": "read", "bytes": 999},
        ],
        "at": AT + timedelta(seconds=after_s),
    }


SAME = list(range(2 * BLOCK))


def test_recorded_prompts_are_a_trace_in_order_of_time_that_tenants_do_not_share() -> None:
    rows = Rows(
        answer(9, [*SAME, 1]),
        answer(0, [*SAME, 2, 3]),
        answer(5, SAME, tenant="globex"),
        {**answer(6, []), "completion_tokens": None, "moved": None, "timings": None},  # quoted: no prompt
    )
    trace = trace_of(recorded_prompts(rows))
    assert [request.at_s for request in trace.requests] == [0, 5, 9]
    assert [request.input_tokens for request in trace.requests] == [2 * BLOCK + 2, 2 * BLOCK, 2 * BLOCK + 1]
    found = replay(trace, KvStorage(TOKEN_BYTES, 1e9, 0.0, 1_000.0))
    assert found.block_hit_rate == 2 / 8, "the two full blocks of the same tenant's first prompt, and nothing of another's"
    with pytest.raises(NotFound, match="No generated answer"):
        trace_of([])


def test_what_was_saved_and_lost_is_reckoned_at_the_measured_rate() -> None:
    first = answer(0, SAME, prefill=256, kv_read=10, kv_write=50)  # 1,000 tokens a second
    again = answer(1, SAME, read=2, prefill=0, kv_read=16)
    (use,) = kv_use(recorded_prompts(Rows(first, again)), TOKEN_BYTES)
    assert (use.answers, use.tokens, use.restored_tokens) == (2, 4 * BLOCK, 2 * BLOCK)
    assert use.prefill_rate == pytest.approx(1_000)
    assert use.saved_s == pytest.approx(0.256 - 0.016)
    assert use.lost_s == pytest.approx(0.060), "a read in vain and the writing"
    assert use.break_even_tokens == pytest.approx(16)
    assert worth([use]).startswith("Worth it: 0.2 s of prefill saved, 0.1 s spent")
    alone = kv_use(recorded_prompts(Rows(first)), TOKEN_BYTES)
    assert worth(alone).startswith("Not worth it so far: nothing was restored")
    slow = kv_use(recorded_prompts(Rows(first, answer(1, SAME, read=2, kv_read=300))), TOKEN_BYTES)
    assert worth(slow).startswith("Not worth it so far: -0.0 s")


def test_each_tenant_and_version_has_its_own_figures() -> None:
    newer = {**answer(2, SAME, prefill=256), "generator_version": "v000001"}
    uses = kv_use(recorded_prompts(Rows(answer(0, SAME, prefill=256), answer(1, SAME, tenant="globex"), newer)), TOKEN_BYTES)
    assert [(use.tenant, use.version) for use in uses] == [("acme", "none"), ("acme", "v000001"), ("globex", "none")]
    assert uses[2].prefill_rate is None
    assert uses[2].saved_s is None
