"""The numbers of a deck: everything a slide may say about a run, each with how it was measured.

A number comes from the run's journal: bytes and operations from the rows that `headrace ledger --json` prints, counts of what was
handled, and times of stages. Slides say nothing else about a run, so slides and ledger cannot differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from headrace.catalog import KV_STORES, Store, Tier
from headrace.errors import Permanent
from headrace.explain.diagram.format import human_bytes, human_count, human_ms, percent


@dataclass(frozen=True)
class Number:
    """A measured value, how it is written, and for the speaker's notes how and by which command it was measured."""

    name: str
    value: float
    text: str
    how: str

    def __str__(self) -> str:
        return self.text.replace(" ", "\u00a0")


class Numbers:
    """The numbers of one run. `rows` are the ledger's, as in the journal."""

    def __init__(self, journal: Mapping[str, Any]) -> None:
        self.run = str(journal["run"])
        self.command = str(journal["command"])
        self.started = datetime.fromisoformat(journal["started"])
        self.rows: Sequence[Mapping[str, Any]] = journal["rows"]
        self.storage: Mapping[str, str] = journal.get("storage") or {}
        self.ray: Mapping[str, Any] | None = journal.get("ray")
        self.journal = journal
        self._counts: Mapping[str, int] = journal.get("counts") or {}
        self._round: Mapping[str, Any] = (journal.get("detail") or {}).get("round") or {}
        self._times = {str(time["stage"]): time for time in journal.get("timeline") or ()}

    @property
    def ledger(self) -> str:
        """The command that prints what bytes and operations come from."""
        return f"headrace ledger {self.run} --json"

    def bytes(
        self,
        *,
        tier: Tier | None = None,
        stage: Sequence[str] | str | None = None,
        store: str | None = None,
        direction: str | None = None,
    ) -> Number:
        """Bytes of the ledger rows that match every given argument."""
        return self._sum("bytes", human_bytes, tier, stage, store, direction)

    def ops(
        self,
        *,
        tier: Tier | None = None,
        stage: Sequence[str] | str | None = None,
        store: str | None = None,
        direction: str | None = None,
    ) -> Number:
        """Operations of the ledger rows that match."""
        return self._sum("ops", human_count, tier, stage, store, direction)

    def _sum(
        self,
        what: str,
        shown: Callable[[int], str],
        tier: Tier | None,
        stage: Sequence[str] | str | None,
        store: str | None,
        direction: str | None,
    ) -> Number:
        stages = None if stage is None else {stage} if isinstance(stage, str) else set(stage)
        rows = [
            row
            for row in self.rows
            if (tier is None or row["tier"] == tier)
            and (stages is None or row["stage"] in stages)
            and (store is None or row["store"] == store)
            and (direction is None or row["direction"] == direction)
        ]
        total = sum(int(row[what]) for row in rows)
        chosen = [
            f"{name} {value}"
            for name, value in (
                ("tier", tier),
                ("stage", stages and ", ".join(sorted(stages))),
                ("store", store),
                ("direction", direction),
            )
            if value
        ]
        name = f"{what} of {', '.join(chosen) or 'all rows'}"
        mark = "≈" if any(row["estimated"] for row in rows) and what == "bytes" else ""
        return Number(name, total, mark + shown(total), f"{name}: {total:,}, summed over {len(rows)} rows of `{self.ledger}`")

    @property
    def kv_store(self) -> Store:
        """Where the KV cache was: where most of it was moved, on files if nothing was."""
        return max(KV_STORES, key=lambda store: self.bytes(tier=store.tier, store=store.name).value)

    def p95_ms(self, *, tier: Tier, direction: str) -> Number:
        """The slowest 95th percentile of the matching rows that moved something."""
        found = [
            float(row["p95_ms"]) for row in self.rows if (row["tier"], row["direction"]) == (tier, direction) and row["bytes"]
        ]
        value = max(found, default=0.0)
        name = f"p95 of tier {tier}, direction {direction}"
        how = f"{name}: {value:g} ms, the slowest of {len(found)} rows of `{self.ledger}`"
        return Number(name, value, human_ms(value) if found else "-", how)

    def count(self, name: str) -> Number:
        """How many of something the run handled: documents, chunks, events, questions, verdicts …"""
        value = int(self._counts.get(name, 0))
        how = f"{name.replace('_', ' ')}: {value:,}, `counts` in the journal runs/{self.run}.json"
        return Number(name, value, human_count(value), how)

    def of_round(self, *path: str) -> Number:
        """A figure of the training round that the run made; 0 where it made none."""
        value: Any = self._round
        for key in path:
            value = value.get(key, 0) if isinstance(value, Mapping) else 0
        number = float(value or 0)
        name = ".".join(path)
        is_time = path[0] == "timings" or path[-1].endswith("_s") or path[-1] == "seconds"
        is_bytes = path[-1].endswith("bytes")
        text = human_ms(number * 1e3) if is_time else human_bytes(round(number)) if is_bytes else f"{number:,.3g}"
        return Number(f"round's {name}", number, text, f"{name}: {number:,g}, `detail.round` in the journal runs/{self.run}.json")

    def round(self, key: str) -> Any:
        """A word or switch of the round: recipe, promoted, why."""
        return self._round.get(key)

    @property
    def has_times(self) -> bool:
        """Whether the run recorded when its stages were at work."""
        return bool(self._times)

    def seconds(self, stages: Sequence[str], what: str = "active_s") -> Number:
        """Seconds of stages: `active_s` at work, `storage_s` with a storage operation under way, `waited_s` waiting for one."""
        value = sum(float(self._times[stage][what]) for stage in stages if stage in self._times)
        words = {"active_s": "at work", "storage_s": "with a storage operation under way", "waited_s": "waiting for storage"}
        name = f"seconds of {', '.join(stages)} {words[what]}"
        how = f"{name}: {value:,.2f}, `timeline` in the journal runs/{self.run}.json (`headrace diagram training --view time`)"
        return Number(name, value, human_ms(value * 1e3), how)

    @property
    def took(self) -> Number:
        """Seconds from the run's start to its end."""
        ended = self.journal.get("ended")
        value = (datetime.fromisoformat(ended) - self.started).total_seconds() if ended else 0.0
        return Number("seconds of the run", value, human_ms(value * 1e3), f"the run took {value:,.1f} s (`headrace runs`)")

    def share(self, part: Number, whole: Number) -> Number:
        """`part` as a share of `whole`."""
        value = part.value / whole.value if whole.value else 0.0
        return Number(f"{part.name} ÷ {whole.name}", value, percent(value), f"{part.how}; {whole.how}")

    def each(self, part: Number, count: Number, shown: Callable[[int], str] = human_bytes) -> Number:
        """`part` divided by how many there were."""
        value = part.value / count.value if count.value else 0.0
        return Number(f"{part.name} ÷ {count.name}", value, shown(round(value)), f"{part.how}; {count.how}")


@dataclass(frozen=True)
class SlideHeadline:
    """A sentence about numbers, and the predicate on their values that makes it true."""

    text: str
    holds: Callable[..., bool]
    numbers: tuple[Number, ...]

    @property
    def true(self) -> bool:
        """Whether the predicate holds for these numbers."""
        return self.holds(*(number.value for number in self.numbers))


def headline(run: str, *candidates: SlideHeadline) -> SlideHeadline:
    """The first candidate that is true. Raises `Permanent` where none is, with the numbers that the last one fails by."""
    for one in candidates:
        if one.true:
            return one
    failed = candidates[-1]
    values = "; ".join(f"{number.name} is {number.value:,.6g}" for number in failed.numbers)
    raise Permanent(
        f"The headline {failed.text!r} is false for run {run}: {values}.",
        hint=f"Write one that the run supports: headrace ledger {run}.",
    )
