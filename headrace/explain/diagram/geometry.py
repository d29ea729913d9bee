"""Sizes and positions of everything in a picture of storage, from its structure: numbers never move anything."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from headrace.catalog import Tier
from headrace.explain.diagram import theme
from headrace.explain.diagram.arrange import LANES, Arrangement, Bar, Name, Sizes, Slot, arranged
from headrace.explain.diagram.diagram import Diagram
from headrace.explain.diagram.flow import Flow, Key, StageBox
from headrace.explain.diagram.format import WIDEST_BYTES, WIDEST_GROWN, WIDEST_MS
from headrace.explain.diagram.scene import Box
from headrace.explain.diagram.theme import SEMIBOLD

LINE = 1.32
"""The height of a line of text, in font sizes."""


@dataclass(frozen=True)
class Scale:
    """A type scale and the sizes derived from it."""

    headline: float
    subtitle: float
    stage: float
    bar: float
    chip: float
    chip_small: float
    lane: float
    caption: float
    margin: float
    aside: float
    gap: float
    between: float
    phase_gap: float
    shaft: float
    stage_height: float
    bar_height: float
    topic_height: float
    lane_least: float
    head_room: float
    least_width: float
    least_height: float = 0.0
    slide: bool = False  # fewer words: chips have bytes only, lanes two lines, and the rest is in the notes
    indent: float = 16.0  # from a lane's left edge to its text
    clear: float = 4.0  # between an arrow and the chips beside it, if chips alternate between two heights
    pad: float = 7.0


PAGE = Scale(
    headline=26, subtitle=13.5, stage=15, bar=13, chip=12.5, chip_small=11.5, lane=15, caption=12,
    margin=30, aside=160, gap=6, between=14, phase_gap=44, shaft=13,
    stage_height=42, bar_height=34, topic_height=34, lane_least=92, head_room=17, least_width=1040,
)  # fmt: skip
# In points, for a slide of 13.33 × 7.5 inches.
SLIDE = Scale(
    headline=25, subtitle=13, stage=14, bar=12.5, chip=12, chip_small=12, lane=14, caption=12,
    margin=16, aside=118, gap=5, between=5, phase_gap=20, shaft=9, pad=2.5, indent=10,
    stage_height=36, bar_height=24, topic_height=26, lane_least=38, head_room=9, least_width=960, least_height=540,
    slide=True, clear=1.5,
)  # fmt: skip


class Geometry:
    """Where everything in a picture of `diagram` is, at a scale.

    `foot` gives the height that what is written below the lanes needs, by the right edge of the picture. The picture is at least
    as large as the scale says, and larger if the pipeline needs it.
    """

    def __init__(self, diagram: Diagram, scale: Scale, foot: Callable[[float], float]) -> None:
        self.diagram, self.scale = diagram, scale
        s = scale
        self.compared = bool(diagram.against)
        self.chip_lines = 2 if self.compared or not s.slide else 1
        self.chip_width = self._chip_width()
        self.chip_height = (s.chip + s.chip_small * (self.chip_lines - 1)) * 1.12 + (5 if s.slide else 7)
        self.names = {key: self._name(key) for key in dict.fromkeys(flow.key for flow in diagram.flows)}
        left = s.margin + s.aside + s.between
        sizes = Sizes(
            chip=self.chip_width,
            pitch=(self.chip_width + s.shaft) / 2 + s.clear,
            gap=s.gap,
            column=s.stage * (4.2 if s.slide else 4.8),
            between=s.between,
            phase_gap=s.phase_gap,
            aside=s.shaft / 2 + 6,
            shaft=s.shaft,
            left=left,
            least=s.least_width - left - s.margin - self.after,
            alternate=2 if s.slide else 3,
        )
        labels = [self._label_width(stage) for stage in diagram.stages]
        self.plan: Arrangement = arranged(diagram.stages, diagram.flows, labels, self.names, sizes)
        self.right = max(self.plan.right + self.after, s.least_width - s.margin)
        self.width = self.right + s.margin
        self._rows_down(foot(self.right))

    @property
    def after(self) -> float:
        """How far lanes reach beyond the last stage."""
        return self.scale.margin * 0.4

    def _chip_width(self) -> float:
        s = self.scale
        forms: tuple[str, ...] = WIDEST_BYTES
        if s.slide and not any(flow.estimated for flow in self.diagram.flows):
            forms = tuple(form.removeprefix("≈") for form in forms)
        wide = max(theme.width(text, s.chip, SEMIBOLD) for text in forms)
        if self.chip_lines > 1:
            second = WIDEST_GROWN if self.compared else WIDEST_MS
            wide = max(wide, *(theme.width(text, s.chip_small) for text in second))
        return math.ceil(wide + 2 * s.pad)

    def label_lines(self, stage: StageBox, limit: float) -> list[str]:
        """A stage's name on one line if that is no wider than `limit`, else in two parts."""
        s = self.scale
        label = theme.fitted(stage.label, s.stage, SEMIBOLD, s.stage * 12)
        breaks = [at for at, sign in enumerate(label) if sign == " "]
        if stage.caption or not breaks or theme.width(label, s.stage, SEMIBOLD) <= limit:
            return [label]
        at = min(breaks, key=lambda at: abs(at - len(label) / 2))
        return [label[:at], label[at + 1 :]]

    def _label_width(self, stage: StageBox) -> float:
        s = self.scale
        lines = self.label_lines(stage, 0.0 if s.slide else math.inf)
        wide = max(theme.width(line, s.stage, SEMIBOLD) for line in lines)
        return max(wide, theme.width(stage.caption, s.caption)) + 2 * s.pad + 10

    def _name(self, key: Key) -> Name:
        s = self.scale
        one, two = (max(theme.width(line, s.bar, SEMIBOLD) for line in self.name_lines(key, count)) for count in (1, 2))
        return Name(one + 2 * s.pad + 4, two + 2 * s.pad + 4)

    def name_lines(self, key: Key, count: int) -> list[str]:
        """A store's name on one line, or in two parts if the bar is high enough for two."""
        s, (tier, store) = self.scale, key
        cut = s.bar * 14
        breaks = [at + 1 for at, sign in enumerate(store[:-1]) if sign in "- " and at]
        if count == 1 or not breaks or self.bar_height(tier) < 2.4 * s.bar:
            return [theme.fitted(store, s.bar, SEMIBOLD, cut)]
        at = min(breaks, key=lambda at: abs(at - len(store) / 2))
        return [theme.fitted(part.strip(), s.bar, SEMIBOLD, cut) for part in (store[:at], store[at:])]

    @cached_property
    def _captioned(self) -> bool:
        """Whether a stage has a second line."""
        return any(stage.caption for stage in self.diagram.stages)

    def _rows_down(self, foot: float) -> None:
        """Compute all y positions, top to bottom."""
        s, plan = self.scale, self.plan
        y = s.margin + s.headline
        self.headline_y = y - s.headline * 0.1
        y += s.subtitle * 1.6
        self.subtitle_y = y - s.subtitle * 0.25
        y += s.subtitle * 0.8
        self.phases_y = y
        if len({stage.phase for stage in self.diagram.stages}) > 1:
            y += s.caption * (1.6 if s.slide else 2.2)
        self.feedback = next((bar for bar in plan.bars if bar.key == self.diagram.feedback), None)
        self.strip: Box | None = None
        if Tier.STREAM in plan.rows:
            rows = plan.rows[Tier.STREAM]
            self.channel = y + s.caption * 1.25
            inner = (s.caption * 2.3 if self.feedback else 10) + rows * s.topic_height + (rows - 1) * 8 + (6 if s.slide else 12)
            words = s.lane * LINE + s.caption * LINE * (2 if s.slide else 4) + s.caption * 0.8
            self.strip = Box(s.margin, y, self.right - s.margin, max(inner, words))
            y += self.strip.height + 2 * s.head_room + self.chip_height
        else:
            y += s.head_room
        self.stage_y = y
        self.stage_height = s.stage_height + (s.caption * 1.2 if self._captioned and not s.slide else 0)
        y += self.stage_height
        levels = 1 + max([slot.level for slot in plan.slots if slot.flow.tier is not Tier.STREAM], default=0)
        self.chips_y = y + s.head_room
        y = self.chips_y + levels * self.chip_height + (levels - 1) * 4 + s.head_room * 0.8
        heights = {tier: self._lane_height(tier) for tier in LANES if tier in plan.rows}
        spare = s.least_height - (y + sum(heights.values()) + len(heights) * (s.gap + 1) + foot + s.margin * 0.7)
        self.lanes: dict[Tier, Box] = {}
        for tier, height in heights.items():
            taller = height + max(0.0, spare) / len(heights)
            self.lanes[tier] = Box(s.margin, y, self.right - s.margin, taller)
            y += taller + (s.gap + 1 if s.slide else s.gap + 4)
        self.foot_y = y + s.caption * 1.1
        self.height = max(s.least_height, y + foot + s.margin * 0.7)

    def _lane_height(self, tier: Tier) -> float:
        s, rows = self.scale, self.plan.rows[tier]
        inner = rows * s.bar_height + (rows - 1) * s.bar_height * 0.32
        return max(s.lane_least, inner + (14 if s.slide else s.bar_height * 0.9 + s.head_room))

    def bar_height(self, tier: Tier) -> float:
        """The height of a store's bar."""
        return self.scale.topic_height if tier is Tier.STREAM else self.scale.bar_height

    def bar_y(self, bar: Bar) -> float:
        """The top of a store's bar."""
        s = self.scale
        if bar.key[0] is Tier.STREAM:
            assert self.strip
            return self.strip.bottom - (6 if s.slide else 12) - s.topic_height - bar.row * (s.topic_height + 8)
        lane = self.lanes[bar.key[0]]
        rows = self.plan.rows[bar.key[0]]
        inner = rows * s.bar_height + (rows - 1) * s.bar_height * 0.32
        return lane.y + (lane.height - inner + s.head_room * 0.5) / 2 + bar.row * s.bar_height * 1.32

    def shaft_width(self, flow: Flow) -> float:
        """The width of a flow's arrow: grows with √bytes."""
        most = max([other.bytes for other in self.diagram.flows], default=0)
        if not flow.bytes or not most:
            return 1.25
        return max(1.5, round(self.scale.shaft * math.sqrt(flow.bytes / most), 2))

    def ends(self, slot: Slot) -> tuple[float, float]:
        """The y at which a flow's arrow begins and ends."""
        flow = slot.flow
        bar = next(bar for bar in self.plan.bars if bar.key == flow.key)
        top = self.bar_y(bar)
        if flow.tier is Tier.STREAM:
            at_stage, at_bar = self.stage_y, top + self.scale.topic_height
        else:
            at_stage, at_bar = self.stage_y + self.stage_height, top
        return (at_bar, at_stage) if flow.direction == "read" else (at_stage, at_bar)

    def chip(self, slot: Slot) -> Box:
        """The box of a flow's chip."""
        if slot.flow.tier is Tier.STREAM:
            y = self.stage_y - self.scale.head_room - self.chip_height
        else:
            y = self.chips_y + slot.level * (self.chip_height + 4)
        return Box(slot.x - self.chip_width / 2, y, self.chip_width, self.chip_height)


def middle(box: Box, size: float) -> float:
    """The baseline that centres a line of text in a box."""
    return box.y + box.height / 2 + size * theme.CAP_HEIGHT / 2
