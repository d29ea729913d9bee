"""Replays of request traces: hits as by hand, an independent cache, bounds, break-even, and the curve."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from headrace.cli import main
from headrace.errors import WrongUsage
from headrace.explain.diagram.draw import draw_scene
from headrace.explain.diagram.scene import Box, Label, Line, Rect, Scene
from headrace.explain.diagram.theme import DARK
from headrace.explain.kv.curve import curve_scene, enough
from headrace.explain.kv.replay import KvStorage, capacities, prefixes, replay
from headrace.explain.kv.trace import Trace, TracedRequest, read_trace

if TYPE_CHECKING:
    from conftest import Imported

FAST = KvStorage(bytes_per_token=100, bandwidth=1e9, latency_s=0.0, prefill_rate=1_000)
BLOCK = 4 * 100
"""Bytes of a block of four tokens."""


def trace(*prompts: str, seconds: float = 1.0) -> Trace:
    """Requests a second apart, whose blocks of four tokens are letters."""
    requests = [
        TracedRequest(number * seconds, 4 * len(prompt), 1, tuple(map(ord, prompt))) for number, prompt in enumerate(prompts)
    ]
    return Trace("letters", tuple(requests), 4, "")


def written(path: Path, *lines: Any) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def line(**changes: Any) -> dict[str, Any]:
    return {"timestamp": 0, "input_length": 1_000, "output_length": 5, "hash_ids": [1, 2], **changes}


def test_a_prompt_finds_its_longest_stored_prefix_and_nothing_behind_a_gap() -> None:
    found = replay(trace("abcd", "abxd", "abcd"), FAST)
    assert found.block_hit_rate == (0 + 2 + 4) / 12, "the d behind x is of another prefix, and is not looked for"
    assert found.read_bytes == 6 * BLOCK
    assert found.written_bytes == 6 * BLOCK
    assert found.stored_bytes == 5 * BLOCK


def by_hand(requests: Trace, room: int) -> int:
    """Hits of an LRU cache written without the code under test: a list, the least recently used block first."""
    cache: list[int] = []
    hits = 0
    for request in requests.requests:
        for block in request.blocks:
            if block not in cache:
                break
            hits += 1
        for block in request.blocks[::-1]:
            if block in cache:
                cache.remove(block)
            cache.append(block)
            del cache[: max(0, len(cache) - room)]
    return hits


@pytest.mark.parametrize("seed", range(20))
def test_hits_are_those_of_a_plain_cache_and_grow_with_its_capacity(seed: int) -> None:
    drawn = random.Random(seed)
    # A block's id stands for its whole prefix, as in a real trace.
    ids: dict[str, int] = {}
    prompts = ["".join(drawn.choice("ab") for _ in range(drawn.randint(1, 6))) for _ in range(40)]
    requests = [
        TracedRequest(n, 4 * len(p), 1, tuple(ids.setdefault(p[: k + 1], len(ids)) for k in range(len(p))))
        for n, p in enumerate(prompts)
    ]
    drawn_trace = Trace("drawn", tuple(requests), 4, "")
    rates = []
    for room in (1, 3, 8, 20, 1_000):
        found = replay(drawn_trace, FAST, capacity_bytes=room * BLOCK)
        assert found.block_hit_rate == pytest.approx(by_hand(drawn_trace, room) / drawn_trace.blocks)
        assert found.stored_bytes <= room * BLOCK
        rates.append(found.block_hit_rate)
    assert rates == sorted(rates)
    assert rates[-1] == replay(drawn_trace, FAST).block_hit_rate


def test_the_beginning_of_a_prefix_is_evicted_last() -> None:
    found = replay(trace("abcd", "abcd"), FAST, capacity_bytes=2 * BLOCK)
    assert found.block_hit_rate == 2 / 8, "a and b are kept, of no use are c and d without them"


def test_first_in_first_out_does_not_renew_what_is_used() -> None:
    requests = trace("a", "b", "a", "c", "a")
    assert replay(requests, FAST, capacity_bytes=2 * BLOCK).block_hit_rate == 2 / 5
    assert replay(requests, FAST, capacity_bytes=2 * BLOCK, policy="fifo").block_hit_rate == 1 / 5


def test_what_was_not_used_for_long_is_dropped() -> None:
    requests = trace("a", "a", "a", seconds=60)
    assert replay(requests, FAST, ttl_s=61).block_hit_rate == 2 / 3
    dropped = replay(requests, FAST, ttl_s=59)
    assert (dropped.block_hit_rate, dropped.evicted_blocks) == (0, 2)


def test_a_hit_is_loaded_only_where_that_is_faster() -> None:
    slow = KvStorage(bytes_per_token=100, bandwidth=100_000, latency_s=0.01, prefill_rate=500)
    assert slow.break_even_tokens == pytest.approx(10)
    found = replay(trace("ab", "ab", "abc", "abc"), slow)  # hits of 8, 8 and 12 tokens
    assert (found.recomputed, found.loaded) == (2, 1)
    assert found.read_bytes == 12 * 100
    assert found.saved_s == pytest.approx(12 / 500 - 0.01 - 1_200 / 100_000)
    never = KvStorage(bytes_per_token=100, bandwidth=1_000, latency_s=0.0, prefill_rate=500)
    assert never.break_even_tokens is None
    assert replay(trace("ab", "ab"), never).read_bytes == 0


def test_what_memory_holds_is_not_read_from_storage() -> None:
    requests = trace("abcd", "abcd", "wxyz", "abcd")
    kept = prefixes(requests, FAST, 4 * BLOCK)
    assert kept == [0, 16, 0, 0]
    behind = replay(requests, FAST, in_memory=kept)
    assert behind.read_bytes == 4 * BLOCK
    assert behind.block_hit_rate == replay(requests, FAST).block_hit_rate


def test_a_trace_is_read_in_order_of_time(tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", line(timestamp=5_000), "", line(hash_ids=[1, 3], input_length=513))
    read = read_trace(path)
    assert [request.at_s for request in read.requests] == [0, 5]
    assert (read.seconds, read.blocks, read.distinct_blocks, read.input_tokens) == (5, 4, 3, 1_513)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["{"], "line 1 is not JSON"),
        (["[" * 100_000], "line 1 is not JSON"),
        ([line(), "3"], "line 2 is not a JSON object"),
        ([line(timestamp=-1)], "no usable 'timestamp'"),
        ([line(input_length=True)], "no usable 'input_length'"),
        ([line(output_length="9")], "no usable 'output_length'"),
        ([line(hash_ids=[1, "2"])], "no usable 'hash_ids'"),
        ([line(hash_ids=[1])], "has 1 blocks, but 1,000 tokens are 2 blocks of 512"),
        ([], "has no request"),
    ],
)
def test_what_is_no_trace_is_refused_by_line(tmp_path: Path, lines: list[Any], said: str) -> None:
    with pytest.raises(WrongUsage, match=said):
        read_trace(written(tmp_path / "t.jsonl", *lines))
    with pytest.raises(WrongUsage, match="cannot be read"):
        read_trace(tmp_path / "missing.jsonl")


@pytest.mark.parametrize(
    ("prompts", "blocks"), [(("abcd", "abcd", "abxx"), [1.25, 2.5, 5]), (("ab", "cd"), [1, 2, 4]), (("a",), [1])]
)
def test_the_curve_begins_where_a_block_fits(prompts: tuple[str, ...], blocks: list[float]) -> None:
    assert capacities(trace(*prompts), FAST) == [count * BLOCK for count in blocks]


@pytest.mark.parametrize("prompts", [("abcd", "abcd", "abxx"), ("ab", "cd"), ("a",)])
def test_the_curve_says_what_is_enough_and_its_words_stay_in_place(prompts: tuple[str, ...], tmp_path: Path) -> None:
    requests = trace(*prompts)
    curve = [replay(requests, FAST, capacity_bytes=size) for size in capacities(requests, FAST)]
    unbounded = replay(requests, FAST)
    scene = curve_scene(requests, "a model", curve, unbounded, palette=DARK)
    labels = [item for group in scene.groups for item in group.items if isinstance(item, Label)]
    assert all(label.size >= 16 for label in labels), "12 pt on a slide"
    picture = Box(0, 0, scene.width, scene.height)
    for label in labels:
        assert label.box.x >= picture.x
        assert label.box.right <= min(picture.right, label.bounds.right + 0.1)
    assert_readable(scene)
    found = enough(curve, unbounded)
    if found is None:
        assert unbounded.token_hit_rate == 0
        assert "saves nothing" in scene.title
    else:
        assert found.token_hit_rate >= 0.9 * unbounded.token_hit_rate
        assert scene.title.startswith("2 KB of KV cache")
    for suffix in (".svg", ".png", ".pdf", ".pptx"):
        draw_scene(scene, tmp_path / f"curve{suffix}")
        assert (tmp_path / f"curve{suffix}").stat().st_size > 1_000


def assert_readable(scene: Scene) -> None:
    """No words lie on others, and no line painted after what is behind them goes through them."""
    painted = [item for group in scene.groups for item in group.items]
    labels = [item for item in painted if isinstance(item, Label)]
    for one, other in combinations(labels, 2):
        assert not overlap(one.box, other.box), (one.text, other.text)
    for number, line in enumerate(painted):
        if isinstance(line, Line) and line.y1 == line.y2:
            for label in labels:
                hidden = any(isinstance(item, Rect) and covers(item.box, label.box) for item in painted[number:])
                across = label.box.y < line.y1 < label.box.bottom and label.box.x < line.x2 and label.box.right > line.x1
                assert hidden or not across, (label.text, line.y1)


def overlap(one: Box, other: Box) -> bool:
    return one.x < other.right and other.x < one.right and one.y < other.bottom and other.y < one.bottom


def covers(one: Box, other: Box) -> bool:
    return one.x <= other.x and one.right >= other.right and one.y <= other.y and one.bottom >= other.bottom


def test_words_of_a_point_just_below_the_bound_stay_clear_of_its_line() -> None:
    many = trace(*(["abcdefgh", "abcdefgx"] * 8), *("ijklmnop", "qrstuvwx", "ABCDEFGH"), *(["abcdefgh"] * 9))
    curve = [replay(many, FAST, capacity_bytes=size) for size in capacities(many, FAST)]
    assert_readable(curve_scene(many, "a model", curve, replay(many, FAST)))
    near = replay(many, FAST)
    for share in (0.9, 0.92, 0.94, 0.96, 0.98):
        points = [replace(near, capacity_bytes=10**9, token_hit_rate=0.1), replace(near, capacity_bytes=2 * 10**9)]
        points[1] = replace(points[1], token_hit_rate=near.token_hit_rate * share)
        assert_readable(curve_scene(many, "a model", points, near))


def test_a_replay_without_storage_imports_no_storage(imported: Imported, tmp_path: Path) -> None:
    found = imported("kv", "replay", str(written(tmp_path / "trace.jsonl", line(), line())))
    assert "headrace.explain.kv.replay" in found
    heavy = {"sqlalchemy", "pyiceberg", "lancedb", "obstore", "httpx", "duckdb", "safetensors", "torch", "headrace.core.stage"}
    assert sorted(heavy & found) == []


def test_the_command_prints_the_curve_and_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "t.jsonl", *(line(timestamp=1_000 * number) for number in range(4)))

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["headrace", "kv", "replay", str(path), *words])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    code, text, _ = run("--json", "--capacity", "1GB", "--capacity", "10MB", "--bandwidth", "5GB", "--prefill", "1000")
    known = json.loads(text)
    assert code == 0
    assert known["bytes_per_token"] == 131_072
    assert [one["capacity_bytes"] for one in known["capacities"]] == [10_000_000, 1_000_000_000, None]
    assert [one["block_hit_rate"] for one in known["capacities"]] == [0, 0.75, 0.75]
    code, text, _ = run("--prefill", "1000")
    assert code == 0
    assert "no bound" in text
    assert "nine tenths of the hits" in " ".join(text.split())
    code, text, _ = run("--bandwidth", "1MB")
    assert "Not worth it" in text
    for words, said in (
        (("--capacity", "much"), "--capacity takes a size"),
        (("--capacity", "0"), "--capacity must be greater than 0"),
        (("--policy", "mru"), "There is no policy"),
        (("--kv-type", "fp3"), "There is no type"),
        (("--bandwidth", "0"), "bandwidth must be more than 0"),
        (("--ttl", "0"), "--ttl must be greater than 0"),
        (("--output", str(tmp_path / "x.gif")), "cannot be drawn as"),
    ):
        code, _, error = run(*words)
        assert code != 0
        assert said in error
