"""Of a document's rows few are needed, and by these everything is as by all of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.documents import versions
from headrace.documents.names import document_id
from headrace.documents.versions import answering, describe, in_order, needed
from headrace.documents.view import _shown

NAME = document_id("acme", "a.md")
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def row(offset: int, status: str, version: str = "", readers: str = "") -> dict[str, Any]:
    return {
        **{"document_id": NAME, "tenant": "acme", "uri": "a.md", "topic": "document-events", "partition": 0, "offset": offset},
        **{"status": status, "version": version, "bytes": 1 + len(version), "reason": "", "title": "a", "media": "text/markdown"},
        **{"readers": list(readers), "attributes": [], "at": BEGAN, "put_at": BEGAN + timedelta(seconds=offset)},
    }


STEPS = st.one_of(
    st.tuples(st.just("parsed"), st.sampled_from("vwx"), st.sampled_from(("", "r"))),
    st.tuples(st.sampled_from(("deleted", "failed")), st.just(""), st.just("")),
    st.tuples(st.just("given up"), st.integers(0, 2), st.just("")),
)


_FAILED = ("failed", "", "")


@given(st.lists(STEPS, max_size=60))
@example([("parsed", "w", ""), ("deleted", "", ""), _FAILED, ("parsed", "v", ""), *[_FAILED] * 5, ("parsed", "v", "")])
def test_the_rows_needed_say_what_all_say(steps: list[tuple[str, Any, str]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(versions, "_RECENT", 6)
        every: list[dict[str, Any]] = []
        few: list[dict[str, Any]] = []
        events = 0
        for status, which, readers in steps:
            if status == "given up":  # a stage behind `parse` fails an event of the newest
                parsed = [one for one in every if one["status"] == "parsed" and one["offset"] == events - 1 - which]
                added = [{**one, "status": "failed"} for one in parsed if {**one, "status": "failed"} not in every]
            else:
                added = [row(events, status, which, readers)]
                events += 1
            every, few = in_order([*every, *added]), needed(in_order([*few, *added]))
            if not every:
                continue
            assert answering(few) == answering(every)
            assert describe(few) == describe(every)
            assert _shown(few) == _shown(every)
            assert len(few) <= 2 * (6 + 4 + 2)


def test_a_document_that_is_put_for_ever_needs_few_rows() -> None:
    few: list[dict[str, Any]] = []
    for offset in range(3_000):
        few = needed([*few, row(offset, "parsed", "vw"[offset % 2], "ab"[offset // 2 % 2])])
    assert len(few) <= 110
