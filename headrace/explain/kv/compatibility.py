"""What is known to be broken where an engine and a KV cache library meet a model: issues of the projects, read in November 2026.

None of it was tried here: there is no GPU. To add one: a line in `KNOWN_FAULTS`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

READ = "2026-11"
"""When the issues were read."""
_VLLM, _LMCACHE, _DYNAMO = "vllm-project/vllm", "LMCache/LMCache", "ai-dynamo/dynamo"


@dataclass(frozen=True)
class KnownFault:
    """One issue: the engines of `kv config` that it concerns, versions, models, what happens, what to do, and its state."""

    project: str
    issue: int
    engines: tuple[str, ...]
    versions: str
    models: str
    happens: str
    remedy: str
    state: str

    @property
    def name(self) -> str:
        """Project and number, as GitHub links them."""
        return f"{self.project}#{self.issue}"

    def as_dict(self) -> dict[str, Any]:
        """The issue under the CLI's JSON keys."""
        return {"name": self.name, **asdict(self)}


KNOWN_FAULTS: tuple[KnownFault, ...] = (
    KnownFault(
        _VLLM,
        49261,
        ("vllm-tiering", "llm-d"),
        "all",
        "every model",
        "blocks are named without the revision of the weights: new weights under an old name read old blocks",
        "a directory for each revision",
        "open",
    ),
    KnownFault(
        _VLLM,
        56311,
        ("vllm-tiering", "llm-d"),
        "all",
        "models whose RoPE scaling is changed",
        "blocks of another scaling are read: wrong answers",
        "a directory for each scaling",
        "open",
    ),
    KnownFault(
        _VLLM,
        55904,
        ("vllm-tiering", "llm-d"),
        "all",
        "every model",
        "blocks of another KV layout are read, for example after the attention backend was changed",
        "a directory for each attention backend and version",
        "open",
    ),
    KnownFault(
        _VLLM,
        54779,
        ("vllm-tiering",),
        "all",
        "every model",
        "the `fs` tier has no bound and deletes nothing",
        "a quota, and a job that deletes what was not used for long",
        "open",
    ),
    KnownFault(
        _LMCACHE,
        4247,
        ("vllm-lmcache",),
        "vLLM 0.26 and later with LMCache up to 0.5.3",
        "hybrid models (Mamba, gated delta networks)",
        "prompts that share a prefix get wrong answers in multiprocess mode, without an error",
        "no KV cache for these models, or vLLM 0.25",
        "open",
    ),
    KnownFault(
        _LMCACHE,
        4463,
        ("vllm-lmcache",),
        "vLLM 0.26 and later, LMCache inside the engine",
        "models with the packed KV layout",
        "restored blocks are wrong, without an error; multiprocess mode is not affected",
        "multiprocess mode, which `kv config` writes",
        "open",
    ),
    KnownFault(
        _DYNAMO,
        14416,
        ("dynamo", "vllm-lmcache"),
        "vLLM 0.26.0 with LMCache 0.5.2",
        "every model",
        "the two faults above, also under Dynamo",
        "another pair of versions, tested with the same prompt twice",
        "open",
    ),
    KnownFault(
        _DYNAMO,
        6032,
        ("dynamo",),
        "all",
        "every model",
        "restores from disk need GPUDirect Storage: without it they hang, and nothing says so at the start",
        "nvidia-fs for the file system, and /run/udev in a container; or no disk tier",
        "open",
    ),
    KnownFault(
        _DYNAMO,
        15079,
        ("dynamo",),
        "kvbm 1.4.2 with vLLM 0.27.1, without nvidia-fs",
        "every model",
        "a restore from disk that failed is served as a hit: the answer is about another request",
        "nvidia-fs for the file system; test the same prompt twice with others between",
        "closed",
    ),
    KnownFault(
        _LMCACHE,
        4385,
        ("vllm-lmcache",),
        "vLLM 0.26.0 with LMCache 0.5.2, LocalDisk inside the engine",
        "every model",
        "another request's blocks are read from local disk",
        "multiprocess mode, which `kv config` writes",
        "open",
    ),
    KnownFault(
        _LMCACHE,
        4564,
        ("vllm-lmcache",),
        "all",
        "every model",
        "`fs_native` counts from zero after a restart: its bound does not hold",
        "a quota on the directory, too",
        "open",
    ),
    KnownFault(
        _LMCACHE,
        4725,
        ("vllm-lmcache",),
        "all",
        "every model",
        "`max_capacity_gb` without an `eviction` block bounds nothing: 4 TB became 14 TB in two days",
        "both together, which `kv config` writes",
        "closed: a warning was added",
    ),
    KnownFault(
        _LMCACHE,
        1399,
        ("vllm-lmcache",),
        "inside the engine",
        "every model",
        "the limit of the local disk is for each worker of tensor parallelism: eight GPUs take eight times as much",
        "multiprocess mode, whose limit is for each server",
        "closed",
    ),
    KnownFault(
        "llm-d/llm-d-kv-cache",
        632,
        ("llm-d",),
        "llmd-fs-connector 0.22",
        "every model",
        "this is the connector's last release: it went into vLLM's tiered offloading",
        "--engine vllm-tiering for new installations",
        "merged",
    ),
    KnownFault(
        "sgl-project/sglang",
        26792,
        (),
        "SGLang",
        "models whose weights are updated in place",
        "old blocks are read after the update",
        "clear the storage backend with each update",
        "open",
    ),
)


def faults_of(engine: str) -> tuple[KnownFault, ...]:
    """The faults that concern an engine of `kv config`."""
    return tuple(one for one in KNOWN_FAULTS if engine in one.engines)
