"""What is said of the KV cache from the figures that servers recorded: hit rate, seconds saved and lost, worth it or not."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from headrace.cli.render.kv import say_revocations, say_use
from headrace.explain.kv.trace import Trace, TracedRequest
from headrace.explain.kv.use import KvUse, kv_use, memory_alone, worth
from headrace.models.kv.closing import ClosedCache
from headrace.models.kv.revocation import Revocation

FIGURES = {
    "answers": 4.0,
    "prompt_tokens": 4_000.0,
    "restored_tokens": 2_000.0,
    "prefill_tokens": 2_000.0,
    "prefill_s": 20.0,  # 100 tokens a second
    "read_bytes": 20_000.0,
    "read_s": 2.0,
    "misses": 2.0,
    "miss_s": 0.018,
    "vain_s": 0.5,
    "write_s": 3.0,
    "canary_s": 1.0,
    "canary_same": 1.0,
    "bytes:file:read": 20_000.0,
    "bytes:file:write": 10_000.0,
    "decision:load:yes:faster": 2.0,
    "decision:store:no:queue full": 3.0,
    "damaged:rotten": 1.0,
}


def use(**changed: float) -> KvUse:
    (found,) = kv_use({("acme", "v1@x"): {**FIGURES, **changed}})
    return found


def trace(*prompts: tuple[int, ...]) -> Trace:
    return Trace("t", tuple(TracedRequest(at, 128 * len(blocks), 1, blocks) for at, blocks in enumerate(prompts)), 128, "")


def test_seconds_are_reckoned_at_the_measured_speed() -> None:
    found = use()
    assert (found.hit_rate, found.prefill_rate, found.bandwidth) == (0.5, 100.0, 10_000.0)
    assert found.saved_s == pytest.approx(2_000 / 100 - 2.0)
    assert (found.lost_s, found.background_s) == (0.5, 4.0)
    # A token takes 10 ms to compute and 1 ms to load; a lookup that finds nothing takes 9 ms.
    assert found.break_even_tokens == pytest.approx(1.0)
    assert found.bytes_by_tier == {"file": {"read": 20_000, "write": 10_000}}
    assert (found.decisions, found.damaged) == ({"load:yes:faster": 2, "store:no:queue full": 3}, {"rotten": 1})
    assert found.canaries == {"same": 1, "different": 0, "skipped": 0}
    assert found.as_dict()["hit_rate"] == 0.5


def test_where_nothing_was_measured_nothing_is_made_up() -> None:
    found = use(prefill_s=0.0, prefill_tokens=0.0)
    assert (found.prefill_rate, found.saved_s, found.break_even_tokens) == (None, None, None)
    assert use(read_s=30.0).break_even_tokens is None, "loading is slower than computing"
    assert use(prompt_tokens=0.0).hit_rate == 0.0


def test_it_is_worth_it_where_more_is_saved_than_lost_and_than_by_memory_alone() -> None:
    assert worth([use()]).startswith("Worth it: 18.0 s of prefill saved, 0.5 s lost in lookups, 4.0 s spent behind the answers.")
    assert worth([use(vain_s=19.0)]).startswith("Not worth it so far: 18.0 s")
    assert worth([use(restored_tokens=0.0)]).startswith("Not worth it so far: nothing was restored; 0.5 s of answers")
    same = trace((1, 2), (1, 2), (1, 2))
    alone = memory_alone(same, [use()], 10.0, 1 << 30)
    assert alone is not None
    assert alone.hit_rate == pytest.approx(2 / 3)
    assert alone.saved_s == pytest.approx(4_000 / 100 * 2 / 3)
    assert worth([use()], alone).startswith("Worth it against none, but not against memory alone: 18.0 s")
    small = memory_alone(same, [use()], 10.0, 100)
    assert small is not None
    assert (small.hit_rate, worth([use()], small)[:9]) == (0.0, "Worth it:")
    assert "100 B of memory alone would have saved 0.0 s" in worth([use()], small)
    assert memory_alone(same, [use(prefill_s=0.0)], 10.0, 100) is None


@pytest.mark.parametrize("width", [60, 80, 160])
def test_no_figure_is_lost_on_a_narrow_terminal(width: int) -> None:
    console = Console(file=StringIO(), width=width)
    say_use(console, [use(version="SmolLM2-135M-Instruct.Q4_1@x")], "")
    lines = console.file.getvalue().splitlines()
    whole = "".join("".join(lines).split())
    wide = Console(file=StringIO(), width=300)
    say_use(wide, [use(version="SmolLM2-135M-Instruct.Q4_1@x")], "")
    assert sorted(whole) == sorted("".join(wide.file.getvalue().split())), "each character is there, whatever is folded"
    assert all(len(line.rstrip()) <= width for line in lines)


def test_what_is_printed_names_refusals_damage_and_what_is_closed() -> None:
    console = Console(file=StringIO(), width=160)
    closed = ClosedCache("id", "v1@x", 0, "2026-11-30T12:00:00.000000+00:00", "a restored value differs")
    say_use(console, [use()], worth([use()]), [closed])
    text = console.file.getvalue()
    assert "50%" in text
    assert "acme, v1: not stored 3 times: queue full; 1 block rotten." in text
    assert "The KV cache of v1@x is closed since 2026-11-30T12:00:00 UTC: a restored value differs." in text
    assert "headrace kv reopen v1@x" in " ".join(text.split())
    say_use(console, [], "")
    assert "No answer has used the KV cache here." in console.file.getvalue()


def test_what_is_printed_of_revocations_says_what_is_left() -> None:
    console = Console(file=StringIO(), width=160)
    block = {"block": "acme/ab/x.0", "removed_at": "2026-11-30T12:00:01.000000+00:00", "gone": True}
    noted, ended = "2026-11-30T12:00:00.000000+00:00", "2026-11-30T12:00:02.000000+00:00"
    done = Revocation("r", "acme", "manual.md", "a" * 16, "deleted", noted, ended, [block])
    assert (done.seconds, done.proven, done.as_dict()["proven"]) == (2.0, True, True)
    say_revocations(console, [done])
    assert "All of these blocks are gone." in console.file.getvalue()
    left = Revocation("r", "acme", "", "*", "forgotten", noted, None, [{**block, "gone": False}])
    say_revocations(console, [done, left])
    assert "1 revocation not done yet" in console.file.getvalue()
    assert "all of the tenant" in console.file.getvalue()
