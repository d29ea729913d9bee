"""Horizontal positions and rows of everything in a diagram, computed from its structure, never from its numbers.

Every stage is a column with one slot per flow on its two sides: topics above, lanes below. A store's bar reaches from its first
slot to its last. An arrow to a deep lane crosses a bar of a shallower lane if the bar covers its slot. So the choices here are
the order of flows within a stage, the row of each bar within its lane, and the side to which a bar too short for its name grows.

The initial order is the one in which nested lifetimes do not cross: reads shallow to deep, then writes deep to shallow, and
within a tier the longer-lived store further outside. Single exchanges improve it until none helps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import combinations, islice, permutations, product
from math import factorial

from headrace.catalog import Tier
from headrace.explain.diagram.flow import Flow, Key, StageBox
from headrace.storage.ledger import Direction

LANES = (Tier.FILE, Tier.VECTOR, Tier.TABLE, Tier.OBJECT)  # shallow to deep


@dataclass(frozen=True)
class Sizes:
    """Sizes reserved by an arrangement, in the scene's unit.

    chip: the widest chip. pitch: between slots whose chips alternate between two heights, as those of `alternate` flows and
    more do. gap: the least between two chips or bars. column: the least width of a stage. between, phase_gap: from stage to
    stage. aside: from a bar's outermost arrow to its end. shaft: the widest arrow. left: where the first stage begins. least:
    what the stages are stretched to fill.
    """

    chip: float
    pitch: float
    gap: float
    column: float
    between: float
    phase_gap: float
    aside: float
    shaft: float
    left: float
    least: float
    alternate: int = 3


@dataclass(frozen=True)
class Name:
    """Minimum widths of a bar for its name on one line, and on two."""

    one: float
    two: float


@dataclass(frozen=True)
class Column:
    """A stage's position."""

    stage: StageBox
    x: float
    width: float

    @property
    def centre(self) -> float:
        return self.x + self.width / 2


@dataclass(frozen=True)
class Slot:
    """A flow's position: the x of its arrow and the level of its chip, 0 next to the stage."""

    flow: Flow
    column: int
    x: float
    level: int


@dataclass(frozen=True)
class Bar:
    """A store's position. `row` 0 is next to the stages; `blocked` has the x of the arrows that cross it."""

    key: Key
    slots: tuple[Slot, ...]
    left: float
    right: float
    row: int = 0
    blocked: tuple[float, ...] = ()


@dataclass(frozen=True)
class Arrangement:
    """All positions; `rows` is the number of rows in each lane (and in the stream strip)."""

    columns: tuple[Column, ...]
    slots: tuple[Slot, ...]
    bars: tuple[Bar, ...]
    rows: dict[Tier, int]
    right: float
    crossings: int = field(default=0)


Order = dict[tuple[int, bool], tuple[Flow, ...]]  # (column, above) → flows left to right


def arranged(
    stages: Sequence[StageBox], flows: Sequence[Flow], labels: Sequence[float], names: Mapping[Key, Name], sizes: Sizes
) -> Arrangement:
    """Position stages and flows. `labels` are the widths of the stages' names, `names` those of the stores'."""
    bare = tuple(Flow(flow.stage, flow.store, flow.tier, flow.direction) for flow in flows)
    placed = _arranged(tuple(stages), bare, tuple(labels), tuple(names.items()), sizes)
    counted = dict(zip(bare, flows, strict=True))
    real = {slot: replace(slot, flow=counted[slot.flow]) for slot in placed.slots}
    return replace(
        placed,
        slots=tuple(real[slot] for slot in placed.slots),
        bars=tuple(replace(bar, slots=tuple(real[slot] for slot in bar.slots)) for bar in placed.bars),
    )


@lru_cache(maxsize=32)
def _arranged(
    stages: tuple[StageBox, ...],
    flows: tuple[Flow, ...],
    labels: tuple[float, ...],
    names: tuple[tuple[Key, Name], ...],
    sizes: Sizes,
) -> Arrangement:
    """The arrangement of flows without their numbers, cached: the same structure always gives the same positions."""
    index = {stage.name: at for at, stage in enumerate(stages)}
    spans: dict[Key, list[int]] = {}
    for flow in flows:
        spans.setdefault(flow.key, []).append(index[flow.stage])
    plan = _Plan(stages, labels, dict(names), sizes, spans)
    candidates = []
    for brief_first in (True, False):
        order: Order = {}
        for at, stage in enumerate(stages):
            mine = sorted(
                (flow for flow in flows if flow.stage == stage.name),
                key=lambda flow, at=at, first=brief_first: _rank(flow, at, spans[flow.key], first),  # type: ignore[misc]
            )
            for above in (True, False):
                order[at, above] = tuple(flow for flow in mine if (flow.tier is Tier.STREAM) == above)
        candidates.append(_improved(plan, order))
    best = min(candidates, key=plan.cost)
    placed = plan.arrangement(best, thorough=True)
    least = sizes.least
    for _ in range(8):
        beyond = placed.right - (sizes.left + sizes.least)
        if beyond < 0.05:
            break
        # A bar reaches past the last stage, or there is no spare space: stretch the stages over that much less.
        least -= beyond
        placed = replace(plan, sizes=replace(sizes, least=least)).arrangement(best, thorough=True)
    return placed


def _improved(plan: _Plan, order: Order) -> Order:
    """The order after exchanges that reduce its cost, in at most three passes."""
    best, cost = order, plan.cost(order)
    for _ in range(3):
        before = cost
        for side in order:
            for other in _exchanges(best[side]):
                trial = {**best, side: other}
                now = plan.cost(trial)
                if now < cost:
                    best, cost = trial, now
        if cost == before:
            break
    return best


def _rank(flow: Flow, at: int, span: list[int], brief_first: bool) -> tuple[int, int, int, str]:
    """A flow's rank within its stage in the initial order. `brief_first`: stores not used later are written first."""
    depth = len(LANES) if flow.tier is Tier.STREAM else LANES.index(flow.tier)
    if flow.direction is Direction.READ:
        if min(span) < at:  # its bar comes from the left: shallow and short-lived ones end first
            return 0, depth, -min(span), flow.store
        return 1, -depth, -max(span), flow.store
    if brief_first and max(span) == at:
        return 2, depth, -min(span), flow.store
    return 3, -depth, -max(span), flow.store


def _exchanges(flows: tuple[Flow, ...]) -> Iterator[tuple[Flow, ...]]:
    """A bounded number of other orders of a stage's flows, with reads left of writes."""
    reads = [flow for flow in flows if flow.direction is Direction.READ]
    writes = [flow for flow in flows if flow.direction is not Direction.READ]
    if factorial(len(reads)) * factorial(len(writes)) <= 48:
        pairs = product(permutations(reads), permutations(writes))
        yield from ((*one, *two) for one, two in islice(pairs, 1, None))
        return
    for group, before, after in ((reads, [], writes), (writes, reads, [])):
        for one in range(len(group)):
            for two in range(one + 1, min(len(group), one + 8)):
                swapped = list(group)
                swapped[one], swapped[two] = swapped[two], swapped[one]
                yield (*before, *swapped, *after)


@dataclass(frozen=True)
class _Plan:
    stages: tuple[StageBox, ...]
    labels: tuple[float, ...]
    names: dict[Key, Name]
    sizes: Sizes
    spans: dict[Key, list[int]]

    def cost(self, order: Order) -> tuple[int, float]:
        arrangement = self.arrangement(order)
        return 3 * arrangement.crossings + 2 * sum(arrangement.rows.values()), round(
            sum(bar.right - bar.left for bar in arrangement.bars), 3
        )

    def arrangement(self, order: Order, *, thorough: bool = False) -> Arrangement:
        columns, slots, right = self._slots(order)
        bars: list[Bar] = []
        for above in (True, False):
            side = [slot for slot in slots if (slot.flow.tier is Tier.STREAM) == above]
            bars += self._bars(side, thorough)
        rows = {tier: 1 + max(bar.row for bar in bars if bar.key[0] is tier) for tier in {bar.key[0] for bar in bars}}
        bars = [replace(bar, blocked=self._blocked(bar, bars)) for bar in bars]
        right = max([right, *(bar.right for bar in bars)])
        return Arrangement(columns, slots, tuple(bars), rows, right, sum(len(bar.blocked) for bar in bars))

    def _slots(self, order: Order) -> tuple[tuple[Column, ...], tuple[Slot, ...], float]:
        sizes = self.sizes
        widths = [
            max(sizes.column, label, self._wide(order[at, True]), self._wide(order[at, False]))
            for at, label in enumerate(self.labels)
        ]
        gaps = [
            sizes.phase_gap if after.phase != before.phase else sizes.between
            for before, after in zip(self.stages, self.stages[1:], strict=False)
        ]
        spare = min(sizes.column, max(0.0, sizes.least - sum(widths) - sum(gaps)) / max(1, len(widths)))
        x, columns, slots = sizes.left, [], []
        for at, stage in enumerate(self.stages):
            column = Column(stage, x, widths[at] + spare)
            columns.append(column)
            for above in (True, False):
                slots += self._side(order[at, above], at, column.centre)
            x += column.width + (gaps[at] if at < len(gaps) else 0.0)
        return tuple(columns), tuple(slots), x

    def _steps(self, flows: tuple[Flow, ...]) -> list[float]:
        """The width of each slot on one side of a stage."""
        sizes = self.sizes
        if flows and flows[0].tier is Tier.STREAM:
            alone = [len(self.spans[flow.key]) == 1 for flow in flows]
            return [
                max(sizes.chip, self.names[flow.key].two if single else 0.0) + sizes.gap
                for flow, single in zip(flows, alone, strict=True)
            ]
        return [sizes.chip + sizes.gap] * len(flows) if len(flows) < sizes.alternate else [sizes.pitch] * len(flows)

    def _wide(self, flows: tuple[Flow, ...]) -> float:
        if not flows:
            return 0.0
        steps = self._steps(flows)
        if steps[0] == self.sizes.pitch:
            return sum(steps) - self.sizes.pitch + self.sizes.chip
        return sum(steps) - self.sizes.gap

    def _side(self, flows: tuple[Flow, ...], at: int, centre: float) -> list[Slot]:
        steps = self._steps(flows)
        x, slots = centre - sum(steps) / 2, []
        for number, (flow, step) in enumerate(zip(flows, steps, strict=True)):
            level = number % 2 if step == self.sizes.pitch else 0
            slots.append(Slot(flow, at, round(x + step / 2, 2), level))
            x += step
        return slots

    def _bars(self, slots: list[Slot], thorough: bool) -> list[Bar]:
        """The bars of one side: long enough for their names, on the fewest rows, with the fewest crossings."""
        touching: dict[Key, list[Slot]] = {}
        for slot in slots:
            touching.setdefault(slot.flow.key, []).append(slot)
        natural = [
            Bar(key, tuple(mine), min(s.x for s in mine) - self.sizes.aside, max(s.x for s in mine) + self.sizes.aside)
            for key, mine in touching.items()
        ]
        placed: list[Bar] = []
        for tier in dict.fromkeys(bar.key[0] for bar in natural):
            deeper = [slot.x for slot in slots if _deeper(slot.flow.tier, tier)]
            lane = [bar for bar in natural if bar.key[0] is tier]
            choices = [self._choices(bar, deeper) for bar in lane]
            chosen = [options[0] for options in choices]
            cost, best = self._rows(chosen, deeper)
            for at, options in enumerate(choices):
                for option in options[1:]:
                    trial = [*chosen[:at], option, *chosen[at + 1 :]]
                    now, rows = self._rows(trial, deeper)
                    if now < cost:
                        cost, best, chosen = now, rows, trial
            if thorough and len(chosen) <= 6:
                cost, best = self._rows(chosen, deeper, thorough=True)
            placed += best
        return placed

    def _choices(self, bar: Bar, deeper: list[float]) -> list[Bar]:
        """The bar extended to fit its name, to both sides or one; the choice least crossed from deeper lanes first."""
        name = self.names[bar.key]
        need = name.two if bar.right - bar.left < name.one else name.one
        lack = need - (bar.right - bar.left)
        if lack <= 0:
            return [bar]
        edge = self.sizes.left
        lefts = (max(edge, bar.left - lack * share) for share in (0.5, 0.0, 1.0))
        grown = [replace(bar, left=left, right=left + need) for left in lefts]
        return sorted(grown, key=lambda choice: sum(self._over(choice, x) for x in deeper))

    def _over(self, bar: Bar, x: float) -> bool:
        clear = self.sizes.shaft / 2 + 2
        return bar.left - clear < x < bar.right + clear

    def _meet(self, one: Bar, other: Bar) -> bool:
        gap = self.sizes.gap - 0.5
        return one.left < other.right + gap and other.left < one.right + gap

    def _rows(self, bars: list[Bar], deeper: list[float], *, thorough: bool = False) -> tuple[tuple[int, int, int], list[Bar]]:
        """Assign one lane's bars to the fewest rows, then with the fewest crossings; returns the cost and the bars.

        The last part of the cost, the number of pairs that cannot share a row, guides the search towards fewer rows.
        """
        sequences = [
            sorted(bars, key=lambda bar: (bar.right - bar.left, bar.left)),
            sorted(bars, key=lambda bar: (bar.left, bar.right)),
            sorted(bars, key=lambda bar: (-bar.right, bar.left)),
        ]
        if thorough:
            sequences += [list(sequence) for sequence in permutations(bars)]
        pairs = sum(self._meet(one, other) for one, other in combinations(bars, 2))
        outside = sum(self._over(bar, x) for bar in bars for x in deeper)
        best: tuple[tuple[int, int, int], list[Bar]] | None = None
        for sequence in sequences:
            rows: list[list[Bar]] = []
            for bar in sequence:
                at = next((n for n, row in enumerate(rows) if not any(self._meet(bar, other) for other in row)), len(rows))
                if at == len(rows):
                    rows.append([])
                rows[at].append(bar)
            inside = sum(
                self._over(bar, slot.x)
                for at, row in enumerate(rows)
                for bar in row
                for lower in rows[at + 1 :]
                for other in lower
                for slot in other.slots
            )
            cost = len(rows), outside + inside, pairs
            if best is None or cost < best[0]:
                best = cost, [replace(bar, row=at) for at, row in enumerate(rows) for bar in row]
        return best or ((0, 0, 0), [])

    def _blocked(self, bar: Bar, bars: Sequence[Bar]) -> tuple[float, ...]:
        tier = bar.key[0]
        return tuple(
            sorted(
                slot.x
                for other in bars
                if (other.key[0] is tier and other.row > bar.row) or _deeper(other.key[0], tier)
                for slot in other.slots
                if self._over(bar, slot.x)
            )
        )


def _deeper(one: Tier, other: Tier) -> bool:
    return Tier.STREAM not in (one, other) and LANES.index(one) > LANES.index(other)
