"""A trace on a real directory: several processes share blocks, the figures add up, and nothing is left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from headrace.catalog import Tier
from headrace.cli import main
from headrace.errors import WrongUsage
from headrace.explain.kv.live import LiveOptions, directory_target, drive
from headrace.explain.kv.live_client import ClientTask, ReplayClient, block_name, content, is_intact
from headrace.explain.kv.replay import KvStorage
from headrace.explain.kv.trace import Trace, TracedRequest, sampled
from headrace.process import python

STORAGE = KvStorage(bytes_per_token=1_000, bandwidth=1e9, latency_s=0.0, prefill_rate=1_000)
BLOCK = 4_000


def trace(*prompts: str) -> Trace:
    """Requests whose blocks of four tokens are letters."""
    return Trace("letters", tuple(TracedRequest(at, 4 * len(p), 1, tuple(map(ord, p))) for at, p in enumerate(prompts)), 4, "")


def test_blocks_are_of_their_own_and_damage_is_seen() -> None:
    one, other = (content(block_name(number), BLOCK) for number in (1, 2))
    assert len(one) == len(other) == BLOCK
    assert one != other
    assert is_intact(block_name(1), one, BLOCK, whole=True)
    assert not is_intact(block_name(2), one, BLOCK, whole=False)
    assert not is_intact(block_name(1), one[:-1], BLOCK, whole=False)
    rotten = one[:-1] + bytes([one[-1] ^ 1])
    assert not is_intact(block_name(1), rotten, BLOCK, whole=True)


def test_clients_share_blocks_and_every_byte_is_in_the_ledger(tmp_path: Path) -> None:
    prompts = ["abcdefgh"] * 6 + ["abcdxy", "abcdxz"]
    with directory_target(tmp_path) as target:
        measured = drive(trace(*prompts), "letters", STORAGE, target, LiveOptions(clients=2, seconds=60, capacity_bytes=10**6))
    assert measured.requests == len(prompts)
    assert measured.tokens == 4 * (6 * 8 + 2 * 6)
    assert (measured.damaged, measured.failed, measured.not_stored, measured.evicted) == (0, 0, 0, 0)
    assert measured.predicted_block_hit_rate == (5 * 8 + 4 + 5) / 60
    # Two clients may both write what neither found, so the rest depends on who came first.
    assert measured.blocks_read + measured.blocks_written == 60
    assert 0.5 < measured.block_hit_rate <= measured.predicted_block_hit_rate
    assert measured.bytes_read == measured.blocks_read * BLOCK
    moved = {row["direction"]: row["bytes"] for row in measured.ledger if row["bytes"]}
    assert moved == {"read": measured.bytes_read, "write": measured.bytes_written}
    origin = measured.provenance
    assert origin["block_bytes"] == BLOCK
    assert origin["host"]["cores"] >= 1
    assert origin["storage"]["file_system"]
    assert origin["page_cache"] == measured.page_cache != ""
    assert not list(tmp_path.iterdir()), "nothing is left"


def test_a_client_that_has_nothing_to_do_ends_before_the_others(tmp_path: Path) -> None:
    with directory_target(tmp_path) as target:
        options = LiveOptions(clients=3, seconds=60, capacity_bytes=10**8)
        measured = drive(trace("a" * 200), "letters", KvStorage(25_000, 1e9, 0.0, 1_000), target, options)
    assert (measured.clients, measured.requests, measured.failed) == (3, 1, 0)


def test_a_sample_keeps_prefixes_whole_and_fits_the_capacity(tmp_path: Path) -> None:
    groups = [chr(ord("A") + number) for number in range(26)]
    whole = trace(*(f"{group}{number}" for number in range(4) for group in groups))
    half = sampled(whole, 2)
    kept = {request.blocks[0] for request in half.requests}
    assert 0 < len(kept) < 26
    assert len(half.requests) == 4 * len(kept), "all or none of a prefix"
    assert sampled(whole, 1) is whole
    assert sampled(whole, 1 << 19).requests, "never empty"
    with directory_target(tmp_path) as target:
        measured = drive(whole, "letters", STORAGE, target, LiveOptions(clients=1, seconds=60, capacity_bytes=12 * BLOCK))
    part = measured.provenance["trace"]
    assert part["requests"] == 104
    assert part["sampled_distinct_blocks"] <= 12
    assert (measured.evicted, measured.not_stored, measured.requests) == (0, 0, part["sampled_requests"])
    assert measured.block_hit_rate == measured.predicted_block_hit_rate > 0


def test_the_capacity_holds_and_damage_is_counted(tmp_path: Path) -> None:
    with directory_target(tmp_path) as target:
        task = ClientTask(
            endpoints=target.endpoints,
            store=target.store.name,
            tier=Tier.FILE,
            block_bytes=BLOCK,
            block_tokens=4,
            capacity_bytes=10 * BLOCK,
            seconds=60,
            drop_pages=True,
            requests=(*(((number, number + 1, number + 2), 12) for number in range(0, 90, 3)), ((84, 85), 8)),
        )
        client = ReplayClient(task)
        root = tmp_path / target.store.name
        for number, _ in enumerate(client.run()):
            assert sum(path.stat().st_size for path in root.rglob("*.safetensors")) <= 10 * BLOCK
            if number == 29:
                (root / block_name(84)).write_bytes(content(block_name(84), BLOCK)[:-2])
        figures = client.figures(1.0, 1.0)
    assert figures.evicted >= 80
    assert figures.damaged == 1
    assert figures.blocks_found == 0


def test_what_cannot_be_driven_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongUsage, match="is not a directory"), directory_target(tmp_path / "missing"):
        pass
    with directory_target(tmp_path) as target:
        with pytest.raises(WrongUsage, match="hold fewer than two"):
            drive(trace("ab"), "letters", STORAGE, target, LiveOptions(capacity_bytes=BLOCK))
        with pytest.raises(WrongUsage, match="bytes free"):
            drive(trace("ab"), "letters", STORAGE, target, LiveOptions(capacity_bytes=10**18))
    assert not list(tmp_path.iterdir())
    for wrong in ({"clients": 0}, {"seconds": 0.0}):
        with pytest.raises(WrongUsage):
            LiveOptions(**wrong)  # type: ignore[arg-type]


def requests_of(path: Path, count: int) -> Path:
    usual = {"input_length": 1_024, "output_length": 1}
    lines = [{"timestamp": at, "hash_ids": [at % 50, 1_000 + at % 50], **usual} for at in range(count)]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return path


def test_the_command_prints_figures_with_where_they_are_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    path = requests_of(tmp_path / "t.jsonl", 60)
    config = tmp_path / "config.json"  # a model with few bytes a token
    shape = {"num_hidden_layers": 1, "num_attention_heads": 1, "hidden_size": 8, "vocab_size": 10, "intermediate_size": 8}
    config.write_text(json.dumps(shape))

    def run(*words: str, of: Path = path) -> tuple[int, str, str]:
        command = ["headrace", "kv", "replay", str(of), "--model", str(config), "--prefill", "1000", *words]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    code, text, _ = run("--live", str(place), "--clients", "1", "--json")
    known: dict[str, Any] = json.loads(text)
    assert code == 0
    assert known["requests"] == 60
    assert known["block_hit_rate"] == pytest.approx(10 / 60)
    assert set(known["mlperf"]) == {"read_gb_per_s", "read_p95_ms", "write_p95_ms", "tokens_per_s"}
    assert known["provenance"]["schema"] == "headrace-kv-live/1"
    code, text, _ = run("--live", str(place), "--clients", "1", "--keep-page-cache")
    assert code == 0
    assert "may come from this machine's memory" in " ".join(text.split())
    assert "No block was read" not in text
    once = requests_of(tmp_path / "once.jsonl", 20)
    code, text, _ = run("--live", str(place), "--clients", "1", of=once)
    assert (code, "No block was read" in text) == (0, True), "a measurement of nothing says so"
    code, _, said = run("--live", str(place), "--memory", "1GB")
    assert (code, "--live goes with one --capacity" in said) == (2, True)
    assert not list(place.iterdir())


def test_ctrl_c_ends_the_clients_and_leaves_nothing(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    path = requests_of(tmp_path / "t.jsonl", 20_000)
    command, env = python("headrace.cli")
    words = ["kv", "replay", str(path), "--model", "smollm2-135m", "--capacity", "200MB", "--live", str(place)]
    process = subprocess.Popen([*command, *words, "--seconds", "120"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + 60
        while not list(place.rglob("*.safetensors")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.05)
        children = psutil.Process(process.pid).children()
        assert len(children) == 2
        process.send_signal(signal.SIGINT)
        process.wait(60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode not in (0, None)
    assert not list(place.iterdir())
    assert not psutil.wait_procs(children, timeout=30)[1]
