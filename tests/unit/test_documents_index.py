"""One pass from documents to index, beside another process that is at the same documents."""

from __future__ import annotations

from unittest import mock

import pytest

from headrace.documents import index
from headrace.errors import LostRace


def test_a_pass_that_another_process_overtook_is_made_again_and_not_for_ever() -> None:
    step = mock.Mock(side_effect=[LostRace("moved"), LostRace("moved"), "done"])
    with mock.patch.object(index.time, "sleep") as waited:
        assert index._beside_others(step) == "done"
        assert len(waited.mock_calls) == 2
        with pytest.raises(LostRace):
            index._beside_others(mock.Mock(side_effect=LostRace("moved")))
        assert len(waited.mock_calls) == 2 + index._TRIES - 1
