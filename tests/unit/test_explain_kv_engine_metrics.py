"""Engines' metrics, in the formats of vLLM, llm-d and LMCache, served over HTTP and read as rows of the ledger."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from headrace.catalog import Tier
from headrace.cli import main
from headrace.errors import Unavailable, WrongUsage
from headrace.explain.kv.engine_metrics import advice, count_into, engine_tiers, fetch_metrics, metrics_url, since
from headrace.process import python
from headrace.storage.ledger import Ledger

VLLM = """\
# HELP vllm:kv_offload_tiering_read_bytes_total Total bytes read from secondary tiers into the primary tier.
# TYPE vllm:kv_offload_tiering_read_bytes_total counter
vllm:kv_offload_tiering_read_bytes_total{{engine="0",model_name="Qwen/Qwen3-0.6B",tier="1:fs"}} {read}
# HELP vllm:kv_offload_tiering_read_time_total Total time spent reading.
# TYPE vllm:kv_offload_tiering_read_time_total counter
vllm:kv_offload_tiering_read_time_total{{engine="0",model_name="Qwen/Qwen3-0.6B",tier="1:fs"}} 2.5
# TYPE vllm:kv_offload_tiering_write_bytes_total counter
vllm:kv_offload_tiering_write_bytes_total{{engine="0",model_name="Qwen/Qwen3-0.6B",tier="1:fs"}} 6.9733974016e+10
vllm:kv_offload_tiering_write_bytes_total{{engine="0",model_name="Qwen/Qwen3-0.6B",tier="2:obj"}} 1000.0
# TYPE vllm:kv_offload_tiering_write_time_total counter
vllm:kv_offload_tiering_write_time_total{{engine="0",model_name="Qwen/Qwen3-0.6B",tier="1:fs"}} 485.0
# TYPE vllm:kv_offload_tiering_chunk_queries_total counter
vllm:kv_offload_tiering_chunk_queries_total{{engine="0",model_name="Qwen/Qwen3-0.6B",tier="0:primary"}} 287616.0
vllm:kv_offload_tiering_chunk_queries_total{{engine="0",model_name="Qwen/Qwen3-0.6B",tier="1:fs"}} 41936.0
vllm:kv_offload_tiering_chunk_queries_total{{engine="0",model_name="Qwen/Qwen3-0.6B",tier="2:obj"}} 10.0
# TYPE vllm:kv_offload_tiering_chunk_hits_total counter
vllm:kv_offload_tiering_chunk_hits_total{{engine="0",model_name="Qwen/Qwen3-0.6B",tier="1:fs"}} 40942.0
# TYPE vllm:kv_offload_tiering_promotion_allocation_failures_total counter
vllm:kv_offload_tiering_promotion_allocation_failures_total{{engine="0",model_name="Qwen/Qwen3-0.6B"}} {failed}
# TYPE vllm:kv_offload_tiering_active_promotion_jobs gauge
vllm:kv_offload_tiering_active_promotion_jobs{{engine="0",model_name="Qwen/Qwen3-0.6B",tier="1:fs"}} 3.0
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{{engine="0",model_name="Qwen/Qwen3-0.6B"}} 5.0
"""

LLM_D = """\
# TYPE vllm:kv_offload_total_bytes_total counter
vllm:kv_offload_total_bytes_total{engine="0",model_name="m",transfer_type="GPU_to_SHARED_STORAGE"} 2000.0
vllm:kv_offload_total_bytes_total{engine="0",model_name="m",transfer_type="SHARED_STORAGE_to_GPU"} 500.0
vllm:kv_offload_total_bytes_total{engine="0",model_name="other",transfer_type="GPU_to_CPU"} 7.0
# TYPE vllm:kv_offload_total_time_total counter
vllm:kv_offload_total_time_total{engine="0",model_name="m",transfer_type="SHARED_STORAGE_to_GPU"} 0.25
"""

LMCACHE = """\
# HELP target_info Target metadata
# TYPE target_info gauge
target_info{service_instance_id="6f3c"} 1.0
# TYPE lmcache_mp_lookup_requested_tokens_total counter
lmcache_mp_lookup_requested_tokens_total{cache_salt="acme",model_name="llama"} 3000.0
lmcache_mp_lookup_requested_tokens_total{cache_salt="globex",model_name="llama"} 1000.0
# TYPE lmcache_mp_lookup_hit_l1_tokens_total counter
lmcache_mp_lookup_hit_l1_tokens_total{cache_salt="acme",model_name="llama"} 1000.0
# TYPE lmcache_mp_lookup_hit_l2_tokens_total counter
lmcache_mp_lookup_hit_l2_tokens_total{cache_salt="acme",model_name="llama"} 500.0
# TYPE lmcache_mp_l1_read_chunks_total counter
lmcache_mp_l1_read_chunks_total{cache_salt="acme"} 9.0
# TYPE lmcache_mp_l2_store_completed_requests_total counter
lmcache_mp_l2_store_completed_requests_total{l2_name="fs"} 3.0
# TYPE lmcache_mp_l2_store_completed_objects_chunks_total counter
lmcache_mp_l2_store_completed_objects_chunks_total{cache_salt="acme"} 8.0
lmcache_mp_l2_store_completed_objects_chunks_total{cache_salt="globex"} 4.0
# TYPE lmcache_mp_l2_load_completed_requests_total counter
lmcache_mp_l2_load_completed_requests_total{l2_name="fs"} 2.0
# TYPE lmcache_mp_l2_prefetch_load_completed_chunks_total counter
lmcache_mp_l2_prefetch_load_completed_chunks_total{cache_salt="acme"} 6.0
# TYPE lmcache_mp_l2_prefetch_failure_chunks_total counter
lmcache_mp_l2_prefetch_failure_chunks_total{model_name="llama",reason="l1_oom"} 2.0
# TYPE lmcache_mp_l2_usage_bytes gauge
lmcache_mp_l2_usage_bytes{l2_name="fs"} 12345.0
# TYPE lmcache_mp_l2_store_throughput_GB_per_second histogram
lmcache_mp_l2_store_throughput_GB_per_second_bucket{l2_name="fs",le="+Inf"} 3.0
lmcache_mp_l2_store_throughput_GB_per_second_count{l2_name="fs"} 3.0
lmcache_mp_l2_store_throughput_GB_per_second_sum{l2_name="fs"} 1.5
"""


def vllm(read: float = 76_714_344_448.0, failed: int = 0) -> str:
    return VLLM.format(read=read, failed=failed)


@contextmanager
def engine(*answers: str, status: int = 200) -> Iterator[str]:
    """The address of a metrics server that gives these answers in turn, and then the last one again and again."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = (left.pop(0) if len(left) > 1 else left[0]).encode() if self.path == "/metrics" else b"lost"
            self.send_response(status if self.path == "/metrics" else 404)
            self.send_header("content-type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["headrace", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_vllms_tiers_are_rows_of_the_ledger() -> None:
    tiers = {one.name: one for one in engine_tiers(vllm(), "here")}
    assert {name: one.tier for name, one in tiers.items()} == {"0:primary": None, "1:fs": Tier.FILE, "2:obj": Tier.OBJECT}
    files = tiers["1:fs"]
    assert (files.read_bytes, files.read_s, files.write_bytes, files.write_s) == (76_714_344_448, 2.5, 69_733_974_016, 485.0)
    assert files.hit_rate == 40_942 / 41_936
    assert files.model == "Qwen/Qwen3-0.6B"
    read, written = files.rows()
    assert (read["stage"], read["store"], read["tier"], read["direction"]) == ("vllm", "kv-cache", "file", "read")
    assert (read["bytes"], read["seconds"], read["ops"], read["estimated"]) == (76_714_344_448, 2.5, 40_942, False)
    assert read["p95_ms"] is None, "not in the metrics, so not invented"
    assert written["bytes"] == 69_733_974_016
    assert tiers["0:primary"].rows() == [], "memory is no storage"


def test_older_names_of_vllm_are_known() -> None:
    older = vllm().replace("chunk_queries", "block_queries").replace("chunk_hits", "block_hits")
    assert [one.hit_rate for one in engine_tiers(older, "here")] == [one.hit_rate for one in engine_tiers(vllm(), "here")]


def test_llm_ds_bytes_are_those_to_and_from_shared_storage() -> None:
    (one,) = engine_tiers(LLM_D, "here")
    assert (one.engine, one.tier, one.model) == ("llm-d", Tier.FILE, "m")
    assert (one.read_bytes, one.read_s, one.write_bytes, one.write_s) == (500, 0.25, 2_000, None)


def test_llm_ds_names_beside_another_connector_are_known() -> None:
    """vLLM's names are taken then, and its own get an ending."""
    beside = LLM_D.replace("bytes_total", "bytes_sharedstorage_total").replace("time_total", "time_sharedstorage_total")
    theirs = 'vllm:kv_offload_total_bytes_total{engine="0",model_name="m",transfer_type="GPU_to_CPU"} 9.0\n'
    assert engine_tiers(theirs + beside, "here") == engine_tiers(LLM_D, "here")


def test_lmcaches_chunks_become_bytes_only_where_their_size_is_known_and_are_marked() -> None:
    memory, files = engine_tiers(LMCACHE, "here", chunk_bytes=100.0)
    assert (memory.name, memory.tier, memory.hits, memory.lookups) == ("l1", None, 1_000, 4_000)
    assert (files.name, files.tier, files.unit) == ("fs", Tier.FILE, "tokens")
    assert (files.read_bytes, files.write_bytes, files.held_bytes, files.failures) == (600, 1_200, 12_345, 2)
    assert files.hit_rate == 500 / 4_000
    assert all(row["estimated"] for row in files.rows())
    assert [row["bytes"] for row in engine_tiers(LMCACHE, "here")[1].rows()] == [None, None]


def test_chunks_of_several_adapters_are_divided_by_their_requests() -> None:
    several = LMCACHE.replace(
        'completed_requests_total{l2_name="fs"} 3.0',
        'completed_requests_total{l2_name="fs"} 3.0\nlmcache_mp_l2_store_completed_requests_total{l2_name="s3"} 1.0',
    )
    written = {one.name: one.write_ops for one in engine_tiers(several, "here")}
    assert (written["fs"], written["s3"]) == (9, 3)


def test_between_two_looks_only_what_is_new_counts_also_after_a_restart() -> None:
    first, second, restarted = (engine_tiers(vllm(read), "here") for read in (1_000.0, 1_500.0, 30.0))
    assert [one.read_bytes for one in since(first, second) if one.name == "1:fs"] == [500]
    assert [one.read_bytes for one in since(second, restarted) if one.name == "1:fs"] == [30]
    assert [one.read_bytes for one in since([], second) if one.name == "1:fs"] == [1_500]


def test_totals_are_counted_in_a_ledger_as_estimated() -> None:
    ledger = Ledger()
    count_into(ledger, engine_tiers(vllm(), "here"))
    rows = {(row.tier, row.direction): row for row in ledger.rows()}
    assert set(rows) == {("file", "read"), ("file", "write"), ("object", "write")}
    assert rows["file", "read"].bytes == 76_714_344_448
    assert rows["file", "read"].ops == 40_942
    assert rows["file", "read"].max_ms == pytest.approx(2.5 / 40_942 * 1e3, abs=1e-3), "the mean"
    assert all(row.estimated for row in rows.values())


def test_what_is_wrong_is_said() -> None:
    said = " ".join(advice(engine_tiers(vllm(failed=4), "here")))
    assert "4 restores failed" in said
    assert "tier 2:obj: written to and never read" in said
    assert advice(engine_tiers(LLM_D, "here")) == []


@pytest.mark.parametrize("text", ["<html>not metrics</html>", "vllm:kv_offload_tiering_read_bytes_total{tier=", "\x00\x01 x y z"])
def test_what_is_not_in_the_format_is_refused(text: str) -> None:
    with pytest.raises(Unavailable, match="Prometheus text format"):
        engine_tiers(text, "here")


def test_addresses() -> None:
    assert metrics_url("http://h:8000") == metrics_url("h:8000/") == "http://h:8000/metrics"
    assert metrics_url("https://h/own/metrics") == "https://h/own/metrics"
    for wrong in ("ftp://h", "http://", "http://h:port", ""):
        with pytest.raises(WrongUsage):
            metrics_url(wrong)


def test_an_engine_that_does_not_answer_is_named() -> None:
    with engine(vllm(), status=503) as address, pytest.raises(Unavailable, match="status 503"):
        fetch_metrics(f"{address}/metrics")
    with pytest.raises(Unavailable, match="does not answer"):
        fetch_metrics("http://127.0.0.1:1/metrics")


def test_the_command_prints_totals_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with engine(vllm(failed=4)) as one, engine(LMCACHE) as other:
        code, text, _ = run(monkeypatch, capsys, "kv", "watch", one, other, "--json", "--model", "llama-3.1-8b")
        known: dict[str, Any] = json.loads(text)
        assert code == 0
        assert {(row["stage"], row["tier"]) for row in known["rows"]} == {
            ("vllm", "file"),
            ("vllm", "object"),
            ("lmcache", "file"),
        }
        assert [row["bytes"] for row in known["rows"] if row["stage"] == "lmcache"] == [6 * 256 * 131_072, 12 * 256 * 131_072]
        assert any("restores failed" in sentence for sentence in known["advice"])
        code, text, _ = run(monkeypatch, capsys, "kv", "watch", one, "--once")
        assert code == 0
        assert "97.6% of 41,936 chunks" in text
    with engine("# nothing\n") as nothing:
        code, text, _ = run(monkeypatch, capsys, "kv", "watch", nothing, "--once")
        assert "No metrics of a KV cache" in text


def test_a_watch_goes_on_until_ctrl_c_and_records_what_it_saw(tmp_path: Path) -> None:
    with engine(vllm(1_000.0), vllm(1_500.0), vllm(4_100.0)) as address:
        command, env = python("headrace.cli")
        env["HEADRACE_HOME"] = str(tmp_path)
        words = ["kv", "watch", address, "--interval", "0.2", "--record"]
        process = subprocess.Popen([*command, *words], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            seen = ""
            while "4.1 KB" not in seen:
                line = process.stdout.readline()
                assert line, process.stderr.read() if process.stderr else ""
                seen += line
            process.send_signal(2)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0, said
    done = subprocess.run([*command, "ledger", "--json"], env=env, capture_output=True, text=True, check=True)
    rows = [row for row in json.loads(done.stdout)["rows"] if (row["stage"], row["direction"]) == ("vllm", "read")]
    assert [row["bytes"] for row in rows] == [3_100], "what came during the watch"
