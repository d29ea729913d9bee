"""Whether a prefix is worth loading: by what was measured, forced, or tried."""

from __future__ import annotations

import pytest

from headrace.models.kv.economy import PROBE_EVERY, BreakEven, KvPolicy, break_even_tokens

SIZE, TOKENS = 1_000, 128


def measured(prefill_s: float, load_s: float, latency_s: float = 0.0) -> BreakEven:
    """Told three times how long a prefill of `TOKENS` and a load of `SIZE` take."""
    economy = BreakEven()
    for _ in range(3):
        economy.missed(latency_s)
        economy.prefilled(TOKENS, prefill_s)
        economy.loaded(SIZE, latency_s + load_s)
    return economy


def test_it_is_tried_until_both_were_measured() -> None:
    economy = BreakEven()
    for _ in range(3):
        decision = economy.decide(TOKENS, SIZE)
        assert (decision.yes, decision.reason) == (True, "unmeasured")
        economy.prefilled(TOKENS, 0.001)
    economy.loaded(SIZE, 9.0)
    assert economy.decide(TOKENS, SIZE).reason == "unmeasured"
    economy.loaded(SIZE, 9.0)
    economy.loaded(SIZE, 9.0)
    assert economy.decide(TOKENS, SIZE).reason == "slower"


@pytest.mark.parametrize(
    ("prefill_s", "load_s", "latency_s", "blocks", "yes"),
    [
        (1.0, 0.1, 0.0, 1, True),
        (0.1, 1.0, 0.0, 1, False),
        (1.0, 0.5, 0.6, 1, False),  # latency alone tips it
        (1.0, 0.5, 0.6, 2, True),  # which a longer prefix makes up for
    ],
)
def test_it_pays_where_bytes_over_bandwidth_and_latency_take_less_than_the_prefill(
    prefill_s: float, load_s: float, latency_s: float, blocks: int, yes: bool
) -> None:
    decision = measured(prefill_s, load_s, latency_s).decide(blocks * TOKENS, blocks * SIZE)
    assert (decision.yes, decision.reason) == (yes, "faster" if yes else "slower")


@pytest.mark.parametrize(("policy", "yes"), [("always", True), ("never", False)])
def test_it_can_be_forced(policy: KvPolicy, yes: bool) -> None:
    economy = BreakEven(policy)
    for _ in range(3):
        economy.prefilled(TOKENS, 9.0 if policy == "never" else 0.0)
        economy.loaded(SIZE, 0.0 if policy == "never" else 9.0)
    assert (economy.decide(TOKENS, SIZE).yes, economy.decide(TOKENS, SIZE).reason) == (yes, "policy")


def test_a_store_that_became_faster_is_noticed() -> None:
    economy = measured(0.1, 1.0)
    reasons = [economy.decide(TOKENS, SIZE).reason for _ in range(2 * PROBE_EVERY)]
    assert [place for place, reason in enumerate(reasons, 1) if reason == "probe"] == [PROBE_EVERY, 2 * PROBE_EVERY]
    assert all(economy.decide(TOKENS, SIZE, probes=False).reason == "slower" for _ in range(2 * PROBE_EVERY))
    for _ in range(40):
        economy.loaded(SIZE, 0.001)
    assert economy.decide(TOKENS, SIZE).reason == "faster"


def test_one_slow_read_does_not_turn_it_off() -> None:
    economy = measured(1.0, 0.1)
    economy.loaded(SIZE, 3.0)
    assert economy.decide(TOKENS, SIZE).yes


def test_the_break_even_length() -> None:
    assert break_even_tokens(10.0, prefill_s=0.01, load_s=0.0005, latency_s=0.1) == pytest.approx(20.0)
    assert break_even_tokens(10.0, prefill_s=0.01, load_s=0.001, latency_s=0.1) is None
