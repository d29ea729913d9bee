"""Of a document's rows few are needed, and by these everything is as by all of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.documents import versions
from headrace.documents.names import document_id
from headrace.documents.versions import answering, at_address, describe, in_order, needed, text_of_before
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


def test_an_event_with_the_same_bytes_takes_over_what_was_found_in_them() -> None:
    event: dict[str, Any] = {"kind": "put", "sha256": "v1", "uri": "a.pdf"}
    before: dict[str, Any] = {
        "status": "parsed",
        "version": "v1",
        "uri": "a.pdf",
        "reason": "page 1 was read by OCR",
        "media": "application/pdf",
    }
    before |= {"title": "A", "text_at": None, "ocr_confidence": 0.9, "topic": "document-events", "partition": 3, "offset": 17}
    found = {"reason": "page 1 was read by OCR", "media": "application/pdf", "title": "A", "ocr_confidence": 0.9}
    assert text_of_before(event, before) == {**found, "text_at": "document-events/3/17"}
    later = {**before, "text_at": "document-events/3/17", "offset": 20}
    assert text_of_before(event, later) == {**found, "text_at": "document-events/3/17"}, "the row that has it"
    for other in ({"sha256": "v2"}, {"kind": "delete"}, {"kind": "refuse"}, {"uri": "b.pdf"}):
        assert text_of_before({**event, **other}, before) is None
    for status in ("failed", "deleted"):
        assert text_of_before(event, {**before, "status": status}) is None
    assert text_of_before(event, None) is None
    unknown = {name: value for name, value in before.items() if name != "text_at"}
    assert text_of_before(event, unknown) is None, "copied by an older version, which knows nothing of other rows' texts"
    assert at_address("document-events@02/3/17") == "topic = 'document-events@02' AND partition = 3 AND offset = 17"
