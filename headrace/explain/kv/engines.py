"""Configuration of production engines for a KV cache on a shared file system, with the traps of each refused or named.

The syntax is that of the projects' own documentation:

- LMCache 0.5, multiprocess mode: docs/source/mp/{quickstart,configuration,l2_storage}.rst; its mode inside the engine, with a
  YAML file, is deprecated
- vLLM 0.33: docs/features/kv_offloading_usage.md; `blocks_per_chunk` came with its pull request 48878, in July 2026
- llm-d: llm-d-kv-cache, kv_connectors/llmd_fs_backend
- Dynamo KVBM 1.6: docs/components/kvbm/kvbm-guide.md

A trap that the configuration can avoid is avoided, and settings that walk into one are refused. What remains is a warning.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from headrace.check.mounts import mount_of
from headrace.errors import WrongUsage
from headrace.explain.diagram.format import human_bytes
from headrace.explain.kv.compatibility import faults_of
from headrace.explain.sizing.formulas import kv_bytes_per_token
from headrace.explain.sizing.models import TYPE_BYTES, model_of

_GB = 10**9
_SEED = {"PYTHONHASHSEED": "0"}
"""vLLM before 0.28 names blocks by a seed of each process unless this is set: no other server would find them."""
_HEADROOM = 1.1
"""Staging memory beyond the longest prompts' keys and values, for blocks that are on their way out."""


@dataclass(frozen=True)
class KvRequest:
    """What is asked for: bytes, tokens, and numbers of prompts, servers, GPUs of a server.

    `memory_bytes` is host memory per server in front of the mount, `gpu_bytes` memory of all GPUs of a server for keys and
    values. `capacity_bytes` bounds the directory over all servers. `None` leaves each to the configuration.
    """

    model: str
    served_model: str
    mount: Path
    kv_type: str = "fp16"
    longest_prompt: int = 32_768
    restores: int = 4
    memory_bytes: int | None = None
    capacity_bytes: int | None = None
    gpu_bytes: int | None = None
    servers: int = 1
    gpus: int = 1
    integrity: bool = True
    allow_local: bool = False

    @property
    def token_bytes(self) -> float:
        """Bytes of keys and values of one token, as they are offloaded."""
        return kv_bytes_per_token(model_of(self.model), TYPE_BYTES[self.kv_type])

    @property
    def staging_bytes(self) -> int:
        """Host memory that the longest prompts need while they are restored: a smaller one makes a restore void."""
        return math.ceil(self.token_bytes * self.longest_prompt * self.restores)


@dataclass(frozen=True)
class KvConfig:
    """A configuration: shell commands and settings by name, what they rest on, and the traps that remain."""

    engine: str
    commands: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    facts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    """Issues that concern this engine, by the names under which `headrace kv known` has them."""

    def as_dict(self) -> dict[str, Any]:
        """The configuration under the CLI's JSON keys."""
        return asdict(self)


def kv_config(engine: str, request: KvRequest) -> KvConfig:
    """The configuration of an engine. Raises `WrongUsage` for settings that would lose data, time or disks."""
    if engine not in ENGINES:
        raise WrongUsage(f"There is no engine {engine!r}.", hint=f"Choose from {', '.join(ENGINES)}.")
    if request.kv_type not in TYPE_BYTES:
        raise WrongUsage(f"There is no type {request.kv_type!r}.", hint=f"Choose from {', '.join(TYPE_BYTES)}.")
    if not request.mount.is_absolute():
        raise WrongUsage(f"{request.mount} is not an absolute path.", hint="Name the mount point, such as /mnt/nfs/kv.")
    memory = request.memory_bytes or math.ceil(request.staging_bytes * _HEADROOM / _GB) * _GB
    where = _shared(request)
    if memory < request.staging_bytes:
        raise WrongUsage(
            f"{human_bytes(memory)} of memory cannot stage {request.restores} prompts of {request.longest_prompt:,} tokens, which"
            f" have {human_bytes(request.staging_bytes)} of keys and values: their restores would find nothing.",
            hint="Give more --memory, or restore fewer or shorter prompts (--restores, --longest-prompt).",
        )
    if request.gpu_bytes is not None and memory < request.gpu_bytes:
        raise WrongUsage(
            f"{human_bytes(memory)} of host memory are less than the {human_bytes(request.gpu_bytes)} of the GPUs in front of it:"
            " blocks would be evicted before they are of use.",
            hint="Each tier must be larger than the one in front of it: give more --memory.",
        )
    if request.capacity_bytes is not None and request.capacity_bytes < memory * request.servers:
        raise WrongUsage(
            f"A capacity of {human_bytes(request.capacity_bytes)} is less than the {human_bytes(memory * request.servers)} of"
            " memory in front of it: blocks would be evicted before they are of use.",
            hint="Each tier must be larger than the one in front of it: give more --capacity, or less --memory.",
        )
    made = ENGINES[engine](request, memory)
    facts = (
        f"{request.model}: {request.token_bytes:,.0f} B of keys and values a token as {request.kv_type}.",
        f"{request.restores} prompts of {request.longest_prompt:,} tokens need {human_bytes(request.staging_bytes)} of memory on"
        " their way.",
        *made.facts,
    )
    known = tuple(one.name for one in faults_of(engine))
    return KvConfig(engine, made.commands, made.environment, facts, (*where, *made.warnings), known)


def _shared(request: KvRequest) -> tuple[str, ...]:
    """Refuse a local disk under a name that promises a shared one. Returns what could not be checked."""
    found = mount_of(request.mount) if request.mount.exists() else None
    if found is None:
        return (f"{request.mount} does not exist on this machine, so it was not checked that it is a shared file system.",)
    if found.local and not request.allow_local:
        raise WrongUsage(
            f"{request.mount} is on {found.file_system} of this machine ({found.source} at {found.path}), which other servers do"
            " not see.",
            hint="Mount the shared file system there first; --allow-local if one server's own disk is meant.",
        )
    return ()


def _lmcache(request: KvRequest, memory: int) -> KvConfig:
    base = {"base_path": str(request.mount), "relative_tmp_dir": ".tmp"}
    if request.integrity:
        if request.capacity_bytes is not None:
            raise WrongUsage(
                "LMCache has either checksums or a bound on plain files: its adapter `fs` checks what it reads and deletes"
                " nothing, `fs_native` deletes and does not check.",
                hint="Leave out --capacity and set a quota on the directory, or accept wrong answers from corrupted files:"
                " --no-integrity.",
            )
        adapter: dict[str, Any] = {"type": "fs", **base, "checksum": "crc32"}
        facts: tuple[str, ...] = ("Every block has a CRC-32: a damaged one is a miss.",)
        warnings: tuple[str, ...] = (
            "Nothing deletes old blocks: set a quota on the directory, and delete what was not used for long.",
        )
    else:
        if request.capacity_bytes is None:
            raise WrongUsage(
                "Without --capacity `fs_native` neither checks nor bounds anything.",
                hint="Give --capacity, or leave out --no-integrity.",
            )
        each = request.capacity_bytes // request.servers
        adapter = {
            "type": "fs_native",
            **base,
            "max_capacity_gb": math.floor(100 * each / 2**30) / 100,  # of 2^30 bytes, as with --l1-size-gb
            "eviction": {"eviction_policy": "LRU", "trigger_watermark": 0.8, "eviction_ratio": 0.2},
        }
        facts = (f"A server counts what it wrote itself: at most {human_bytes(each)}{_of_all(request)}.",)
        warnings = (
            "Nothing checks what is read: a corrupted file of the right size becomes a wrong answer.",
            "A server counts from zero after a restart (LMCache issue 4564): set a quota on the directory too.",
        )
    # With its default of one worker for several GPUs, users found none of their blocks (a comment on LMCache issue 4247).
    server = (
        "lmcache server --host 127.0.0.1 --port 5555 --http-host 127.0.0.1 --http-port 8080 \\\n"
        f"  --max-workers {request.gpus} --chunk-size 256 --hash-algorithm blake3 --l1-size-gb {_gibibytes(memory)} \\\n"
        "  --eviction-policy LRU --eviction-trigger-watermark 0.8 --eviction-ratio 0.2 \\\n"
        f"  --l2-store-policy default --l2-prefetch-policy default --l2-adapter {_quoted(adapter)}"
    )
    connector = {
        "kv_connector": "LMCacheMPConnector",
        "kv_connector_module_path": "lmcache.integration.vllm.lmcache_mp_connector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"lmcache.mp.host": "127.0.0.1", "lmcache.mp.port": 5555},
    }
    return KvConfig(
        "",
        (server, _serve(request, connector)),
        {"LMCACHE_TRACK_USAGE": "false"},
        facts,
        (
            *warnings,
            "Its HTTP port has no authentication: keep it on 127.0.0.1.",
            "Blocks are named by the model's name, not by its weights: use another directory after each change of weights.",
        ),
    )


def _vllm(request: KvRequest, memory: int) -> KvConfig:
    _unbounded(request, "vLLM's `fs` tier")
    _unchecked(request, "vLLM's `fs` tier")
    connector = {
        "kv_connector": "OffloadingConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {
            "spec_name": "TieringOffloadingSpec",
            "cpu_bytes_to_use": memory,
            "blocks_per_chunk": 4,  # `block_size` is refused for models whose layers have blocks of several sizes
            "eviction_policy": "lru",
            "secondary_tiers": [
                {"type": "fs", "root_dir": str(request.mount), "n_read_threads": 32, "n_write_threads": 16, "locality": "REMOTE"}
            ],
        },
    }
    return KvConfig(
        "",
        (_serve(request, connector),),
        {"VLLM_NO_USAGE_STATS": "1", **_SEED},
        ("Bytes and seconds by tier are in its metrics: `headrace kv watch` reads them.",),
        (
            "Nothing deletes old blocks: set a quota on the directory, and delete what was not used for long.",
            "Nothing checks what is read: use a file system with checksums of its own.",
            "Blocks are named by the model's name and layout, not by the revision of its weights (vLLM issue 49261): use another"
            " directory after each change of weights.",
        ),
    )


def _llm_d(request: KvRequest, memory: int) -> KvConfig:
    if request.capacity_bytes is not None:
        raise WrongUsage(
            "llm-d's connector deletes nothing: its PVC evictor does, by the share of the volume that is full.",
            hint="Leave out --capacity, and size the volume.",
        )
    _unchecked(request, "llm-d's connector")
    connector = {
        "kv_connector": "OffloadingConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {
            "spec_name": "SharedStorageOffloadingSpec",
            "spec_module_path": "llmd_fs_backend.spec",
            "shared_storage_path": str(request.mount),
            "block_size": 256,
            "threads_per_gpu": max(1, 64 // request.gpus),
            "max_write_queued_seconds": 10,
            "backend": "POSIX",
        },
    }
    return KvConfig(
        "",
        (_serve(request, connector),),
        {"VLLM_NO_USAGE_STATS": "1", **_SEED},
        ("A write that waits for more than 10 s is dropped, so that slow storage slows no answer.",),
        (
            "Deploy its PVC evictor beside it (deletes from 85 % down to 70 %); it goes by access times, so mount with"
            " strictatime or relatime and keep its hot window above a day.",
            "Nothing checks what is read: use a file system with checksums of its own.",
            "Blocks are named without the revision of the weights: use another directory after each change of weights.",
        ),
    )


def _dynamo(request: KvRequest, memory: int) -> KvConfig:
    if request.capacity_bytes is None:
        raise WrongUsage("Dynamo needs the size of its disk tier.", hint="Give --capacity; it is divided among the servers.")
    _unchecked(request, "Dynamo's disk tier")
    each = request.capacity_bytes // request.servers
    connector = {
        "kv_connector": "DynamoConnector",
        "kv_connector_module_path": "kvbm.vllm_integration.connector",
        "kv_role": "kv_both",
    }
    return KvConfig(
        "",
        (_serve(request, connector),),
        {
            "DYN_KVBM_CPU_CACHE_GB": str(math.ceil(memory / _GB)),
            "DYN_KVBM_DISK_CACHE_GB": str(max(1, each // _GB)),
            "DYN_KVBM_DISK_CACHE_DIR": str(request.mount),
            "DYN_KVBM_DISK_ZEROFILL_FALLBACK": "true",
            "DYN_KVBM_DISK_DISABLE_O_DIRECT": "true",
            "DYN_KVBM_METRICS": "true",
        },
        (
            f"Limits of a server{_of_all(request)}: {human_bytes(each)} of disk, {human_bytes(memory)} of memory.",
            "Only blocks that were used twice reach the disk (DYN_KVBM_DISABLE_DISK_OFFLOAD_FILTER).",
        ),
        (
            "Each server has its own part of the disk tier: servers do not share blocks through it.",
            "It restores from disk by GPUDirect Storage alone: without nvidia-fs for this mount, restores hang or bring other"
            " blocks (Dynamo issues 6032, 15079).",
            "Nothing checks what is read: use a file system with checksums of its own.",
            "Its metrics count blocks, not bytes.",
            *(
                (f"Whether its limits are for each of the {request.gpus} workers is not documented: watch the directory's size.",)
                if request.gpus > 1
                else ()
            ),
        ),
    )


def _unbounded(request: KvRequest, what: str) -> None:
    if request.capacity_bytes is not None:
        raise WrongUsage(
            f"{what} has no bound and deletes nothing.", hint="Leave out --capacity, and set a quota on the directory instead."
        )


def _unchecked(request: KvRequest, what: str) -> None:
    if request.integrity:
        raise WrongUsage(
            f"{what} checks nothing that it reads: a corrupted file of the right size becomes a wrong answer.",
            hint="Give --no-integrity if the file system has checksums of its own; --engine vllm-lmcache has a CRC-32.",
        )


def _of_all(request: KvRequest) -> str:
    return f", each of {request.servers}" if request.servers > 1 else ""


def _gibibytes(size: int) -> str:
    """GiB with two digits, never less than `size`: LMCache's GB are 2^30 bytes, and may have a fraction."""
    return f"{math.ceil(100 * size / 2**30) / 100:g}"


def _serve(request: KvRequest, connector: Mapping[str, Any]) -> str:
    gpus = f" --tensor-parallel-size {request.gpus}" if request.gpus > 1 else ""
    return f"vllm serve {shlex.quote(request.served_model)}{gpus} \\\n  --kv-transfer-config {_quoted(connector)}"


def _quoted(value: Mapping[str, Any]) -> str:
    return shlex.quote(json.dumps(value))


ENGINES: Mapping[str, Callable[[KvRequest, int], KvConfig]] = {
    "vllm-lmcache": _lmcache,
    "vllm-tiering": _vllm,
    "llm-d": _llm_d,
    "dynamo": _dynamo,
}
"""To add an engine: a function of the request and its host memory in bytes, and a line here."""
