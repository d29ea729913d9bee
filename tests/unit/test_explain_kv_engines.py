"""Engines' configuration for a KV cache on a shared file system: current syntax, and every known trap refused or named."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.check.mounts import mount_of
from headrace.cli import main
from headrace.errors import WrongUsage
from headrace.explain.kv.compatibility import KNOWN_FAULTS
from headrace.explain.kv.engines import ENGINES, KvConfig, KvRequest, kv_config

ASKED = KvRequest("llama-3.1-8b", "meta-llama/Llama-3.1-8B", Path("/mnt/nfs/kv"))
UNCHECKED = replace(ASKED, integrity=False)
TB = 10**12


def words(made: KvConfig, command: int = -1) -> list[str]:
    return shlex.split(made.commands[command].replace("\\\n", " "))


def connector(made: KvConfig) -> dict[str, Any]:
    said = words(made)
    found: dict[str, Any] = json.loads(said[said.index("--kv-transfer-config") + 1])
    return found


def adapter(made: KvConfig) -> dict[str, Any]:
    said = words(made, 0)
    found: dict[str, Any] = json.loads(said[said.index("--l2-adapter") + 1])
    return found


def usual(engine: str) -> KvConfig:
    if engine == "vllm-lmcache":
        return kv_config(engine, ASKED)
    return kv_config(engine, replace(UNCHECKED, capacity_bytes=10 * TB) if engine == "dynamo" else UNCHECKED)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_serves_the_model_with_a_connector_and_reports_to_nobody(engine: str) -> None:
    made = usual(engine)
    assert words(made)[:3] == ["vllm", "serve", "meta-llama/Llama-3.1-8B"]
    assert connector(made)["kv_role"] == "kv_both"
    assert "/mnt/nfs/kv" in " ".join((*made.commands, *made.environment.values()))
    assert any("does not exist on this machine" in warning for warning in made.warnings)
    assert "131,072 B" in made.facts[0]
    if engine == "vllm-lmcache":
        assert made.environment["LMCACHE_TRACK_USAGE"] == "false"


def test_staging_memory_holds_the_longest_prompts_or_is_refused() -> None:
    """Memory smaller than a prompt's chain of blocks restores nothing: a user measured 132 s instead of 5 s."""
    needed = 131_072 * 32_768 * 4
    memory = connector(kv_config("vllm-tiering", UNCHECKED))["kv_connector_extra_config"]["cpu_bytes_to_use"]
    assert needed <= memory <= 1.2 * needed
    server = words(kv_config("vllm-lmcache", replace(ASKED, memory_bytes=needed)), 0)
    gibibytes = float(server[server.index("--l1-size-gb") + 1])
    assert needed <= gibibytes * 2**30 <= needed + 2**30 / 50, "not rounded down below what the prompts need"
    made = kv_config("dynamo", replace(UNCHECKED, memory_bytes=needed, capacity_bytes=10 * TB))
    assert needed <= int(made.environment["DYN_KVBM_CPU_CACHE_GB"]) * 10**9 < needed + 10**9
    for engine in ENGINES:
        with pytest.raises(WrongUsage, match="cannot stage 4 prompts"):
            kv_config(engine, replace(ASKED, memory_bytes=needed - 1, capacity_bytes=10 * TB))


def test_lmcache_has_a_worker_for_each_gpu() -> None:
    """Its default is one: a user of two GPUs had no hits (a comment on LMCache issue 4247)."""
    for gpus in (1, 8):
        said = words(kv_config("vllm-lmcache", replace(ASKED, gpus=gpus)), 0)
        assert said[said.index("--max-workers") + 1] == str(gpus)


def test_vllms_chunks_are_counted_in_blocks_of_whatever_size_a_layer_has() -> None:
    """`block_size`, in tokens, is refused where layers differ in it (vLLM pull request 48878); the two exclude each other."""
    settings = connector(kv_config("vllm-tiering", UNCHECKED))["kv_connector_extra_config"]
    assert (settings["blocks_per_chunk"], "block_size" in settings) == (4, False)


def test_lmcache_is_its_own_server_with_checksums_and_without_yaml() -> None:
    made = kv_config("vllm-lmcache", ASKED)
    said = words(made, 0)
    assert said[:2] == ["lmcache", "server"]
    assert "--eviction-policy" in said
    assert adapter(made)["checksum"] == "crc32"
    assert connector(made)["kv_connector"] == "LMCacheMPConnector"
    assert any("quota" in warning for warning in made.warnings), "nothing deletes"


def test_a_capacity_never_comes_without_eviction() -> None:
    """`max_capacity_gb` alone bounds nothing: a user set 4000 and found 14 TB after two days (LMCache issue 4725)."""
    with pytest.raises(WrongUsage, match="either checksums or a bound"):
        kv_config("vllm-lmcache", replace(ASKED, capacity_bytes=10 * TB))
    bounded = kv_config("vllm-lmcache", replace(ASKED, capacity_bytes=10 * TB, integrity=False, servers=4))
    each = adapter(bounded)["max_capacity_gb"] * 2**30  # LMCache's GB
    assert 2.49 * TB < each <= 2.5 * TB, "each server counts for itself, and together they keep to what was asked for"
    assert adapter(bounded)["eviction"]["eviction_policy"] == "LRU"
    assert any("from zero after a restart" in warning for warning in bounded.warnings)
    with pytest.raises(WrongUsage, match="neither checks nor bounds"):
        kv_config("vllm-lmcache", replace(ASKED, integrity=False))
    for engine in ("vllm-tiering", "llm-d"):
        with pytest.raises(WrongUsage, match="deletes nothing"):
            kv_config(engine, replace(ASKED, capacity_bytes=10 * TB))
    with pytest.raises(WrongUsage, match="needs the size"):
        kv_config("dynamo", ASKED)


def test_an_engine_that_checks_nothing_is_refused_unless_that_is_accepted() -> None:
    for engine in ("vllm-tiering", "llm-d", "dynamo"):
        with pytest.raises(WrongUsage, match="checks nothing that it reads"):
            kv_config(engine, replace(ASKED, capacity_bytes=10 * TB if engine == "dynamo" else None))
        assert any("checksums of its own" in warning for warning in usual(engine).warnings)


def test_what_is_known_to_be_broken_is_named_for_each_engine() -> None:
    assert {engine for one in KNOWN_FAULTS for engine in one.engines} <= set(ENGINES)
    for engine in ENGINES:
        assert usual(engine).known == tuple(one.name for one in KNOWN_FAULTS if engine in one.engines) != ()
    assert len({one.name for one in KNOWN_FAULTS}) == len(KNOWN_FAULTS)


def test_each_tier_is_larger_than_the_one_in_front_of_it() -> None:
    with pytest.raises(WrongUsage, match="less than the 60 GB of the GPUs"):
        kv_config("vllm-tiering", replace(UNCHECKED, memory_bytes=50 * 10**9, gpu_bytes=60 * 10**9))
    with pytest.raises(WrongUsage, match="less than the 400 GB of memory"):
        kv_config("dynamo", replace(ASKED, memory_bytes=100 * 10**9, capacity_bytes=300 * 10**9, servers=4))
    made = kv_config("dynamo", replace(UNCHECKED, memory_bytes=100 * 10**9, capacity_bytes=4 * TB, servers=4))
    assert made.environment["DYN_KVBM_CPU_CACHE_GB"] == "100"
    assert made.environment["DYN_KVBM_DISK_CACHE_GB"] == "1000"


def test_new_weights_under_an_old_name_are_warned_of() -> None:
    for engine in ("vllm-lmcache", "vllm-tiering", "llm-d"):
        assert any("another directory" in " ".join(warning.split()) for warning in usual(engine).warnings)


def test_a_local_disk_is_no_shared_file_system(tmp_path: Path) -> None:
    found = mount_of(tmp_path)
    if found is None or not found.local:
        pytest.skip(f"the folder of this test is on {found}")
    with pytest.raises(WrongUsage, match="which other servers do not see"):
        kv_config("vllm-tiering", replace(UNCHECKED, mount=tmp_path))
    assert kv_config("vllm-tiering", replace(UNCHECKED, mount=tmp_path, allow_local=True)).commands
    with pytest.raises(WrongUsage, match="not an absolute path"):
        kv_config("vllm-tiering", replace(ASKED, mount=Path("kv")))


def test_the_mount_of_a_path_is_the_longest_and_the_last_over_it(tmp_path: Path) -> None:
    table = tmp_path / "mounts"
    folder = tmp_path / "with space"
    folder.mkdir()
    escaped = str(folder).replace(" ", "\\040")
    mounts = (
        "/ rw - ext4 /dev/sda rw",
        f"{escaped} rw - xfs /dev/sdb rw",
        f"{escaped} rw,noatime shared:1 - nfs4 filer:/kv rw,vers=4.2",
    )
    lines = [f"36 35 98:0 / {mount}" for mount in mounts]
    table.write_text("\n".join(lines) + "\n")
    inside = folder / "blocks"
    inside.mkdir()
    found = mount_of(inside, table)
    assert found is not None
    assert (found.source, found.file_system, found.options, found.local) == ("filer:/kv", "nfs4", "rw,noatime,rw,vers=4.2", False)
    over = mount_of(tmp_path, table)
    assert over is not None
    assert over.local
    assert mount_of(tmp_path, tmp_path / "no table") is None


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["my models/it's one", "x; touch y #", "$(id)"])
def test_a_name_is_one_word_of_the_script(engine: str, name: str) -> None:
    asked = replace(ASKED, served_model=name, mount=Path("/mnt") / name.replace("/", " "), capacity_bytes=10 * TB)
    asked = replace(asked, integrity=engine == "vllm-lmcache")
    made = kv_config(engine, asked if engine == "dynamo" else replace(asked, capacity_bytes=None))
    assert words(made)[:4] == ["vllm", "serve", name, "--kv-transfer-config"]
    assert len(words(made)) == 5


def test_the_command_prints_a_script_and_its_warnings_beside_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*more: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["headrace", "kv", "config", "--mount", "/mnt/nfs/kv", "--model", "qwen3-8b", *more])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    code, script, notes = run("--engine", "vllm-tiering", "--no-integrity", "--served", "Qwen/Qwen3-8B", "--gpus", "2")
    assert code == 0
    assert "--tensor-parallel-size 2" in script
    assert all(line.startswith(("export ", "vllm ", "  --")) for line in script.splitlines() if line), "a script and nothing else"
    assert "147,456 B" in notes
    assert "vllm-project/vllm#49261" in notes
    code, text, _ = run("--json")
    assert json.loads(text)["engine"] == "vllm-lmcache"
    assert run("--engine", "sglang")[0] != 0
    assert "There is no model" in run("--model", "nosuch")[2]
    assert "There is no type" in run("--kv-type", "fp3")[2]


def test_known_faults_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for words_, found in ((["--json"], '"name": "LMCache/LMCache#4725"'), ([], "LMCache/LMCache#4725")):
        monkeypatch.setattr(sys, "argv", ["headrace", "kv", "known", *words_])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code in (0, None)
        assert found in capsys.readouterr().out
