"""The parsers of a pass: one is started before it is needed, and none outlives the pass; the events that a pass reads whole."""

from __future__ import annotations

import itertools
from contextlib import closing
from typing import Any

import numpy as np
import psutil
from hypothesis import given
from hypothesis import strategies as some

from headrace.documents import parsing as module
from headrace.documents.formats.contract import ParseLimits
from headrace.documents.parsing import Parsing, _ranges
from headrace.settings import Inference

LIMITS = ParseLimits.from_settings(Inference())


def event(offset: int) -> dict[str, Any]:
    return {"tenant": "default", "uri": "weir.md", "topic": "document-events@1", "partition": 0, "offset": offset}


def parsers() -> list[int]:
    return [child.pid for child in psutil.Process().children() if "headrace.documents.formats.worker" in child.cmdline()]


def test_a_parser_that_was_started_ahead_is_the_one_that_parses() -> None:
    before = set(parsers())
    with closing(Parsing()) as parsing:
        parsing.prepare(LIMITS)
        parsing.prepare(LIMITS)
        ahead = set(parsers()) - before
        assert len(ahead) == 1
        with parsing.during_pass([event(1), event(2)]):
            for offset in (1, 2):
                parsed = parsing.go_on(event(offset), LIMITS, lambda: b"# Weir\n\nOf oak.", 60)
                assert parsed is not None
                assert parsed.title == "Weir"
                assert set(parsers()) - before == ahead
        assert set(parsers()) == before
        parsing.prepare(LIMITS)
    assert set(parsers()) == before, "a pass that never came needs none"


@given(some.sets(some.integers(0, 300_000), min_size=1, max_size=200))
def test_ranges_hold_the_offsets_and_leave_out_the_widest_gaps(offsets: set[int]) -> None:
    ranges = list(_ranges(np.array(sorted(offsets))))
    assert len(ranges) <= module._RANGES
    assert all(any(low <= offset <= high for low, high in ranges) for offset in offsets)
    assert {end for both in ranges for end in both} <= offsets
    left_out = [following[0] - this[1] for this, following in itertools.pairwise(ranges)]
    assert all(gap > module._GAP for gap in left_out)
