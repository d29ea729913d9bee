"""Headlines: sentences about a run, each with the predicate on the run's numbers that makes it true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from headrace.catalog import Tier
from headrace.explain.diagram.flow import Flow, StageBox
from headrace.explain.diagram.format import grown, human_bytes, percent
from headrace.storage.ledger import Direction
from headrace.storage.timeline import AHEAD, ASKED


@dataclass(frozen=True)
class Moved:
    """The numbers for headlines."""

    stages: tuple[StageBox, ...]
    flows: tuple[Flow, ...]

    def bytes(
        self,
        *,
        tier: Tier | None = None,
        store: str | None = None,
        phase: str | None = None,
        direction: Direction | None = None,
    ) -> int:
        """Bytes of the flows that match every given argument."""
        phases = {stage.name: stage.phase for stage in self.stages}
        return sum(
            flow.bytes
            for flow in self.flows
            if (tier is None or flow.tier is tier)
            and (store is None or flow.store == store)
            and (phase is None or phases[flow.stage] == phase)
            and (direction is None or flow.direction is direction)
        )

    def share(self, part: int) -> float:
        """`part` as a share of all bytes, 0 to 1; 0 if nothing moved."""
        whole = self.bytes()
        return part / whole if whole else 0.0


@dataclass(frozen=True)
class Headline:
    """A sentence about a run, and the predicate on its numbers that makes it true."""

    text: str
    holds: Callable[[Moved], bool]


@dataclass(frozen=True)
class Claim:
    """A candidate headline: when it is true, and its wording."""

    when: Callable[[Moved], bool]
    words: Callable[[Moved], str]

    def headline(self, moved: Moved) -> Headline | None:
        """The headline if these numbers support it; its predicate holds for numbers that give the same sentence."""
        if not self.when(moved):
            return None
        text = self.words(moved)
        return Headline(text, lambda other: self.when(other) and self.words(other) == text)


_TIER_WORDS = {
    Tier.FILE: "files",
    Tier.VECTOR: "the vector index",
    Tier.TABLE: "tables",
    Tier.OBJECT: "object storage",
}


def _store_claim(name: str, store: str, called: str, least: float) -> Claim:
    return Claim(
        lambda moved: moved.share(moved.bytes(store=store)) >= least,
        lambda moved: (
            f"{name} moved {human_bytes(moved.bytes())}; {percent(moved.share(moved.bytes(store=store)))} of it is {called}"
        ),
    )


def _read_again(store: str, called: str) -> Claim:
    def times(moved: Moved) -> float:
        written = moved.bytes(store=store, direction=Direction.WRITE)
        return moved.bytes(store=store, direction=Direction.READ) / written if written else 0.0

    return Claim(
        lambda moved: 2 <= times(moved) < 1000,
        lambda moved: (
            f"{human_bytes(moved.bytes(store=store, direction=Direction.READ))} were read from {called}, "
            f"{times(moved):.{1 if times(moved) < 10 else 0}f} times what was written"
        ),
    )


def _tier_claim(name: str) -> Claim:
    def busiest(moved: Moved) -> tuple[int, Tier]:
        return max(((moved.bytes(tier=tier), tier) for tier in _TIER_WORDS), key=lambda pair: pair[0])

    return Claim(
        lambda moved: moved.share(busiest(moved)[0]) >= 0.5,
        lambda moved: (
            f"{name} moved {human_bytes(moved.bytes())}; {percent(moved.share(busiest(moved)[0]))} of it went through "
            f"{_TIER_WORDS[busiest(moved)[1]]}"
        ),
    )


def _ahead_claim() -> Claim:
    return Claim(
        lambda moved: moved.bytes(phase=AHEAD) >= 3 * moved.bytes(phase=ASKED) > 0,
        lambda moved: (
            f"{human_bytes(moved.bytes(phase=AHEAD))} moved ahead of time, so that questions moved only "
            f"{human_bytes(moved.bytes(phase=ASKED))}"
        ),
    )


def _plain_claim(name: str) -> Claim:
    def words(moved: Moved) -> str:
        if not moved.bytes():
            return f"{name} moved nothing in this run"
        stores = len({flow.key for flow in moved.flows if flow.ops})
        return f"{name} moved {human_bytes(moved.bytes())} through {stores} store{'' if stores == 1 else 's'}"

    return Claim(lambda moved: True, words)


CLAIMS: dict[str, tuple[Claim, ...]] = {
    "training": (
        _store_claim("Training", "checkpoints", "checkpoints", 0.4),
        _store_claim("Training", "models", "model weights", 0.4),
        _read_again("datasets", "datasets"),
    ),
    "inference": (
        _store_claim("Inference", "kv-cache", "the KV cache", 0.4),
        _ahead_claim(),
        _store_claim("Inference", "models", "the re-ranker's weights", 0.4),
    ),
}


def declared_headline(name: str) -> Headline:
    """The headline of a pipeline that has not run."""
    return Headline(f"{name[:1].upper()}{name[1:]} as declared; nothing is measured yet", lambda moved: not moved.bytes())


def compared_headline(name: str, moved: Moved, before: int, other: str) -> Headline:
    """The headline of a run compared with run `other`, in which the pipeline moved `before` bytes."""
    subject = name[:1].upper() + name[1:]

    def words(now: int) -> str:
        moved = f"{subject} moved {human_bytes(now)}"
        change = grown(now, before)
        if now == before:
            return f"{moved}, exactly as much as in {other}"
        if not before or not now:
            return f"{moved}, and {human_bytes(before)} in {other}"
        if change.startswith("±"):
            return f"{moved}, about as much as in {other}"
        if change.startswith("×"):
            return f"{moved}, {change[1:]} times as much as in {other}"
        return f"{moved}, {change[1:]} {'more' if now > before else 'less'} than in {other}"

    text = words(moved.bytes())
    return Headline(text, lambda now: words(now.bytes()) == text)


def headline_of(name: str, moved: Moved) -> Headline:
    """The headline of a pipeline: its first claim that the numbers support; the last one always holds."""
    subject = name[:1].upper() + name[1:]
    for claim in (*CLAIMS.get(name, ()), _tier_claim(subject), _plain_claim(subject)):
        headline = claim.headline(moved)
        if headline:
            return headline
    raise AssertionError("the plain claim always holds")
