"""Generated answers as they were recorded: their prompts as a trace."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from headrace.catalog import INTERACTION_ROWS
from headrace.core.stage import stage
from headrace.errors import NotFound
from headrace.explain.kv.trace import Trace, TracedRequest
from headrace.models.kv.format import BLOCK
from headrace.storage.tables.handles import TableReader, quoted

_COLUMNS = ("tenant", "generator_version", "prompt_tokens", "completion_tokens", "at")
_MOST = 100_000
"""Answers that are looked at, the newest."""
_LOOK_BACK = (*(timedelta(hours=hours) for hours in (0.1, 1, 6, 24, 7 * 24, 30 * 24, 365 * 24)), None)


@dataclass(frozen=True)
class RecordedPrompt:
    """A generated answer: its time, tenant and model version, its tokens, and the ids of its prompt's blocks."""

    at_s: float
    tenant: str
    version: str
    tokens: int
    output_tokens: int
    blocks: tuple[int, ...]


@stage("Reads the prompts of generated answers.")
def recorded_prompts(interactions: Annotated[TableReader, INTERACTION_ROWS]) -> list[RecordedPrompt]:
    """The newest generated answers in order of time. Equal ids of blocks are equal prefixes of one tenant and model version."""
    now = datetime.now(UTC)
    # A few minutes of answers first, and further back where these were too few: prompts are long, and there may be millions.
    for look_back in _LOOK_BACK:
        found: deque[RecordedPrompt] = deque(maxlen=_MOST)
        ids: dict[tuple[int, str, str, tuple[int, ...]], int] = {}
        where = "" if look_back is None else f"at >= {quoted((now - look_back).isoformat())}"
        for batch in interactions.scan(_COLUMNS, where) if where else interactions.scan(_COLUMNS):
            for row in batch.to_pylist():
                if row["prompt_tokens"]:
                    found.append(_prompt(row, ids))
        if len(found) == _MOST:
            break
    return sorted(found, key=lambda one: one.at_s)


def _prompt(row: Mapping[str, Any], ids: dict[tuple[int, str, str, tuple[int, ...]], int]) -> RecordedPrompt:
    tokens = row["prompt_tokens"]
    before, blocks = -1, []
    for start in range(0, len(tokens), BLOCK):
        key = (before, row["tenant"], row["generator_version"], tuple(tokens[start : start + BLOCK]))
        before = ids.setdefault(key, len(ids))
        blocks.append(before)
    return RecordedPrompt(
        at_s=row["at"].timestamp(),
        tenant=row["tenant"],
        version=row["generator_version"],
        tokens=len(tokens),
        output_tokens=len(row["completion_tokens"] or ()),
        blocks=tuple(blocks),
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
