"""Generated answers as they were recorded: their prompts as a trace, and what the KV cache read, wrote, saved and cost."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from headrace.catalog import INTERACTION_ROWS
from headrace.core.stage import stage
from headrace.errors import NotFound
from headrace.explain.kv.trace import Trace, TracedRequest
from headrace.models.kv.cache import BLOCK
from headrace.storage.tables.handles import TableReader

_COLUMNS = ("tenant", "generator_version", "prompt_tokens", "completion_tokens", "timings", "moved", "at")
_MOST = 100_000
"""Answers that are looked at, the newest."""


@dataclass(frozen=True)
class RecordedPrompt:
    """A generated answer: its time, the ids of its prompt's blocks, and bytes and seconds of the KV cache and of the prefill."""

    at_s: float
    tenant: str
    version: str
    tokens: int
    output_tokens: int
    blocks: tuple[int, ...]
    read_bytes: int
    written_bytes: int
    read_s: float
    written_s: float
    prefill_s: float


@stage("Reads the prompts of generated answers, and what the KV cache did for them.")
def recorded_prompts(interactions: Annotated[TableReader, INTERACTION_ROWS]) -> list[RecordedPrompt]:
    """The newest generated answers in order of time. Equal ids of blocks are equal prefixes of one tenant and model version."""
    found: deque[RecordedPrompt] = deque(maxlen=_MOST)
    ids: dict[tuple[int, str, str, tuple[int, ...]], int] = {}
    for batch in interactions.scan(_COLUMNS):
        for row in batch.to_pylist():
            if row["prompt_tokens"]:
                found.append(_prompt(row, ids))
    return sorted(found, key=lambda one: one.at_s)


def _prompt(row: Mapping[str, Any], ids: dict[tuple[int, str, str, tuple[int, ...]], int]) -> RecordedPrompt:
    tokens = row["prompt_tokens"]
    before, blocks = -1, []
    for start in range(0, len(tokens), BLOCK):
        key = (before, row["tenant"], row["generator_version"], tuple(tokens[start : start + BLOCK]))
        before = ids.setdefault(key, len(ids))
        blocks.append(before)
    seconds = {one["name"]: one["ms"] / 1e3 for one in row["timings"] or ()}
    moved = {(one["tier"], one["direction"]): one["bytes"] for one in row["moved"] or ()}
    return RecordedPrompt(
        at_s=row["at"].timestamp(),
        tenant=row["tenant"],
        version=row["generator_version"],
        tokens=len(tokens),
        output_tokens=len(row["completion_tokens"] or ()),
        blocks=tuple(blocks),
        read_bytes=moved.get(("file", "read"), 0),
        written_bytes=moved.get(("file", "write"), 0),
        read_s=seconds.get("generate_kv_read", 0.0),
        written_s=seconds.get("generate_kv_write", 0.0),
        prefill_s=seconds.get("generate_prefill", 0.0),
    )


def trace_of(prompts: Sequence[RecordedPrompt]) -> Trace:
    """The prompts as a trace. Raises `NotFound` if there are none."""
    if not prompts:
        raise NotFound(
            "No generated answer is recorded here.",
            hint='Quoted answers have no prompt. Set answers = "generated" under [inference], or name a trace of another system.',
        )
    first = prompts[0].at_s
    requests = tuple(TracedRequest(one.at_s - first, one.tokens, one.output_tokens, one.blocks) for one in prompts)
    return Trace("recorded answers", requests, BLOCK, "")


@dataclass(frozen=True)
class KvUse:
    """What the KV cache did for the answers of one tenant by one model version.

    `saved_s` is the prefill that restored tokens spared, at the measured rate, minus the time to read them; `lost_s` is what
    writing blocks took, and reads that restored nothing. `None` where no prefill was measured.
    """

    tenant: str
    version: str
    answers: int
    tokens: int
    restored_tokens: int
    read_bytes: int
    written_bytes: int
    prefill_rate: float | None
    saved_s: float | None
    lost_s: float
    break_even_tokens: float | None
    """Tokens from which on a restore is faster than a prefill, by the mean time of a read; `None` if nothing was restored."""

    def as_dict(self) -> dict[str, Any]:
        """The figures under the CLI's JSON keys."""
        return asdict(self)


def kv_use(prompts: Iterable[RecordedPrompt], bytes_per_token: float) -> list[KvUse]:
    """What the KV cache did, by tenant and model version."""
    groups: dict[tuple[str, str], list[RecordedPrompt]] = {}
    for one in prompts:
        groups.setdefault((one.tenant, one.version), []).append(one)
    return [_use(tenant, version, some, bytes_per_token) for (tenant, version), some in sorted(groups.items())]


def _use(tenant: str, version: str, prompts: Sequence[RecordedPrompt], bytes_per_token: float) -> KvUse:
    restored = [min(one.tokens, int(one.read_bytes / bytes_per_token)) for one in prompts]
    hits = [(tokens, one.read_s) for tokens, one in zip(restored, prompts, strict=True) if tokens]
    prefilled = sum(one.tokens - tokens for tokens, one in zip(restored, prompts, strict=True))
    prefill_s = sum(one.prefill_s for one in prompts)
    rate = prefilled / prefill_s if prefill_s > 0 and prefilled else None
    read_s = sum(seconds for _, seconds in hits)
    in_vain = sum(one.read_s for tokens, one in zip(restored, prompts, strict=True) if not tokens)
    return KvUse(
        tenant=tenant,
        version=version,
        answers=len(prompts),
        tokens=sum(one.tokens for one in prompts),
        restored_tokens=sum(restored),
        read_bytes=sum(one.read_bytes for one in prompts),
        written_bytes=sum(one.written_bytes for one in prompts),
        prefill_rate=rate,
        saved_s=sum(restored) / rate - read_s if rate else None,
        lost_s=in_vain + sum(one.written_s for one in prompts),
        break_even_tokens=rate * read_s / len(hits) if rate and hits else None,
    )


def worth(uses: Sequence[KvUse]) -> str:
    """One sentence: whether the cache has paid."""
    saved = sum(use.saved_s or 0.0 for use in uses)
    lost = sum(use.lost_s for use in uses)
    if not any(use.restored_tokens for use in uses):
        return f"Not worth it so far: nothing was restored, and {lost:.1f} s went into blocks."
    balance = saved - lost
    verdict = "Worth it" if balance > 0 else "Not worth it so far"
    return f"{verdict}: {saved:.1f} s of prefill saved, {lost:.1f} s spent on blocks that were written or not found."
