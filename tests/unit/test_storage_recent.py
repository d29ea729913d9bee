"""A value that is read from storage at most once a second."""

from __future__ import annotations

import pytest

from headrace.errors import Unavailable
from headrace.storage import recent
from headrace.storage.recent import Recent


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(recent, "time", clock)
    return clock


def test_it_is_read_again_after_a_second_and_not_before(clock: Clock) -> None:
    value, asked = Recent[int](), []
    for at, wanted in ((0.0, 1), (0.9, 1), (1.0, 2), (1.5, 2), (2.1, 3)):
        clock.now = at
        assert value.value(lambda former: asked.append(former) or len(asked)) == wanted
    assert asked == [None, 1, 2]


def test_what_cannot_be_read_leaves_the_former_value_for_a_while(clock: Clock) -> None:
    value, tries = Recent[str](again_s=10.0), []

    def away(former: str | None) -> str:
        tries.append(former)
        raise Unavailable("The store is away.")

    with pytest.raises(Unavailable):
        value.value(away)
    assert value.value(lambda _: "first") == "first"
    clock.now = 2.0
    assert value.value(away) == "first"
    clock.now = 12.9
    assert value.value(away) == "first"
    assert tries == [None, "first"], "nobody waits for the store meanwhile"
    clock.now = 13.0
    assert value.value(lambda former: f"{former}, second") == "first, second"
