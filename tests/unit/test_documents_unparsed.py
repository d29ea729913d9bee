"""In which ranges of offsets the events that a pass takes are read."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as some

from headrace.documents import unparsed
from headrace.documents.unparsed import _ranges


@given(some.sets(some.integers(0, 300_000), min_size=1, max_size=200))
def test_ranges_hold_the_offsets_and_leave_out_the_widest_gaps(offsets: set[int]) -> None:
    ranges = list(_ranges(np.array(sorted(offsets))))
    assert len(ranges) <= unparsed._RANGES
    assert all(any(low <= offset <= high for low, high in ranges) for offset in offsets)
    assert {end for both in ranges for end in both} <= offsets
    left_out = [following[0] - this[1] for this, following in itertools.pairwise(ranges)]
    assert all(gap > unparsed._GAP for gap in left_out)
