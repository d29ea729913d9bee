"""Layout of a diagram as a scene.

Stages are in a row, the stream above them as a dashed strip, and one lane per tier below, shallow to deep. Every read and
write is a straight vertical arrow with a chip. The scene's geometry depends only on the pipeline's structure; numbers change the
text and the width of arrows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

from headrace.catalog import STORES, Tier
from headrace.explain.diagram import theme
from headrace.explain.diagram.arrange import LANES, Arrangement, Bar, Column, Key, Name, Sizes, Slot, arranged
from headrace.explain.diagram.diagram import Diagram, Flow, Mark, StageBox
from headrace.explain.diagram.format import WIDEST_BYTES, WIDEST_MS, human_bytes, human_count, human_ms
from headrace.explain.diagram.scene import Box, Group, Item, Label, Line, Rect, Scene
from headrace.explain.diagram.theme import BOLD, REGULAR, SEMIBOLD
from headrace.storage.ledger import Direction


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
    chip_p95: bool = True  # chips have a second line with the 95th percentile
    lane_captions: bool = True
    notes: bool = True  # write triggers and other traffic of the run below the picture
    indent: float = 16.0  # from a lane's left edge to its text
    clear: float = 4.0  # between an arrow and the chips beside it, if chips alternate between two heights
    pad: float = 7.0


PAGE = Scale(
    headline=26, subtitle=13.5, stage=15, bar=13, chip=12.5, chip_small=11.5, lane=15, caption=12,
    margin=30, aside=160, gap=6, between=14, phase_gap=44, shaft=13,
    stage_height=42, bar_height=34, topic_height=34, lane_least=92, head_room=17, least_width=1040,
)  # fmt: skip
# In points, for a slide of 13.33 × 7.5 inches; p95, triggers and other notes go into the speaker's notes.
SLIDE = Scale(
    headline=24, subtitle=12, stage=13, bar=12, chip=12, chip_small=12, lane=13, caption=12,
    margin=14, aside=101, gap=3, between=5, phase_gap=18, shaft=7, pad=2.5, indent=10,
    stage_height=26, bar_height=20, topic_height=30, lane_least=54, head_room=10, least_width=960, least_height=540,
    chip_p95=False, lane_captions=False, clear=1.5, notes=False,
)  # fmt: skip

LANE_TITLES: dict[Tier, tuple[str, str]] = {
    Tier.STREAM: ("Stream", "head & feedback, not a tier"),
    Tier.FILE: ("File", "POSIX directory"),
    Tier.VECTOR: ("Vector", "vector index"),
    Tier.TABLE: ("Table", "Iceberg tables"),
    Tier.OBJECT: ("Object", "S3 objects"),
}


def scene_for(diagram: Diagram, *, scale: Scale = PAGE, triggers: bool = True, phase: str | None = None) -> Scene:
    """The picture of a diagram, or of one phase of it.

    `triggers` marks what starts a stage besides the previous one. At a slide's type size, a long pipeline needs a slide per
    phase; `phase` draws only that phase's stages and flows, under the overall headline. The scene is at least as large as the
    scale says, and larger if the pipeline needs it.
    """
    stages = tuple(stage for stage in diagram.stages if phase is None or stage.phase == phase)
    names = {stage.name for stage in stages}
    flows = tuple(flow for flow in diagram.flows if flow.stage in names)
    return _Layout(diagram, stages, flows, scale, triggers, phase or "").scene()


def in_words(flow: Flow) -> str:
    """A flow as a sentence."""
    verb, towards = ("reads", "from") if flow.direction is Direction.READ else ("writes", "to")
    if not flow.ops:
        return f"{flow.stage} {verb} nothing {towards} {flow.store} ({flow.tier}) in this run"
    about = "about " if flow.estimated else ""
    plural = "" if flow.ops == 1 else "s"
    return (
        f"{flow.stage} {verb} {about}{human_bytes(flow.bytes)} {towards} {flow.store} ({flow.tier}): "
        f"{human_count(flow.ops)} operation{plural}, 95 % within {human_ms(flow.p95_ms)}"
    )


@dataclass
class _Layout:
    diagram: Diagram
    stages: tuple[StageBox, ...]
    flows: tuple[Flow, ...]
    scale: Scale
    triggers: bool
    phase: str
    groups: list[Group] = field(default_factory=list)

    def scene(self) -> Scene:
        s = self.scale
        self.chip_width = self._chip_width()
        self.chip_height = (s.chip + s.chip_small if s.chip_p95 else s.chip) * 1.12 + 7
        self.names = {key: self._name(key) for key in dict.fromkeys(flow.key for flow in self.flows)}
        left = s.margin + s.aside + s.between
        sizes = Sizes(
            chip=self.chip_width,
            pitch=(self.chip_width + s.shaft) / 2 + s.clear,
            gap=s.gap,
            column=s.stage * 4.8,
            between=s.between,
            phase_gap=s.phase_gap,
            aside=s.shaft / 2 + 6,
            shaft=s.shaft,
            left=left,
            least=s.least_width - left - s.margin - self._after(),
        )
        labels = [self._label_width(stage) for stage in self.stages]
        self.plan: Arrangement = arranged(self.stages, self.flows, labels, self.names, sizes)
        self.right = max(self.plan.right + self._after(), s.least_width - s.margin)
        self.width = self.right + s.margin
        self._rows_down()
        self._draw()
        return Scene(
            round(self.width, 1),
            round(self.height, 1),
            self.diagram.headline.text,
            self._description(),
            tuple(self.groups),
            (*(self._starts(mark) for mark in self._marks()), *self._beside()),
        )

    # sizes

    def _after(self) -> float:
        """How far lanes reach beyond the last stage."""
        return self.scale.margin * 0.4

    def _chip_width(self) -> float:
        s = self.scale
        wide = max(theme.width(text, s.chip, SEMIBOLD) for text in WIDEST_BYTES)
        if s.chip_p95:
            wide = max(wide, *(theme.width(text, s.chip_small) for text in WIDEST_MS))
        return math.ceil(wide + 2 * s.pad)

    def _label_width(self, stage: StageBox) -> float:
        s = self.scale
        return min(theme.width(stage.label, s.stage, SEMIBOLD), s.stage * 12) + 2 * s.pad + 10

    def _name(self, key: Key) -> Name:
        s = self.scale
        one, two = (
            max(theme.width(line, s.bar, SEMIBOLD) for line in lines) for lines in (self._lines(key, 1), self._lines(key, 2))
        )
        return Name(one + 2 * s.pad + 2, two + 2 * s.pad + 2)

    def _lines(self, key: Key, count: int) -> list[str]:
        """A store's name on one line, or broken after a hyphen near its middle if the bar is high enough for two."""
        s, (tier, store) = self.scale, key
        cut = s.bar * 14
        breaks = [at + 1 for at, sign in enumerate(store[:-1]) if sign == "-" and at]
        if count == 1 or not breaks or self._bar_height(tier) < 2.4 * s.bar:
            return [theme.fitted(store, s.bar, SEMIBOLD, cut)]
        at = min(breaks, key=lambda at: abs(at - len(store) / 2))
        return [theme.fitted(part, s.bar, SEMIBOLD, cut) for part in (store[:at], store[at:])]

    def _rows_down(self) -> None:
        """Compute all y positions, top to bottom."""
        s, plan = self.scale, self.plan
        y = s.margin + s.headline
        self.headline_y = y - s.headline * 0.1
        y += s.subtitle * 1.75
        self.subtitle_y = y - s.subtitle * 0.3
        y += s.subtitle * 0.9
        self.phases_y = y
        if len({stage.phase for stage in self.stages}) > 1:
            y += s.caption * 2.2
        self.feedback = [bar for bar in plan.bars if bar.key == (Tier.STREAM, "feedback")]
        self.strip: Box | None = None
        if Tier.STREAM in plan.rows:
            rows = plan.rows[Tier.STREAM]
            self.channel = y + s.caption * 1.5 if self.feedback else 0.0
            inner = (s.caption * 2.7 if self.feedback else 12) + rows * s.topic_height + (rows - 1) * 8 + 12
            words = sum(line.bounds.height for line in self._lane_words(Tier.STREAM, Box(0, 0, 0, 0)))
            height = max(inner, words + s.caption * 1.2)
            self.strip = Box(s.margin, y, self.right - s.margin, height)
            y += height + 2 * s.head_room + self.chip_height
        self.stage_y = y
        y += s.stage_height
        levels = 1 + max([slot.level for slot in plan.slots if slot.flow.tier is not Tier.STREAM], default=0)
        self.chips_y = y + s.head_room
        y = self.chips_y + levels * self.chip_height + (levels - 1) * 4 + s.head_room * 0.8
        self.lanes: dict[Tier, Box] = {}
        for tier in LANES:
            if tier in plan.rows:
                rows = plan.rows[tier]
                inner = rows * s.bar_height + (rows - 1) * s.bar_height * 0.32
                height = max(s.lane_least, inner + s.bar_height * 0.9 + s.head_room)
                self.lanes[tier] = Box(s.margin, y, self.right - s.margin, height)
                y += height + s.gap + 4
        self.foot_y = y + s.caption * 1.1

    # drawing, back to front

    def _draw(self) -> None:
        plan = self.plan
        hidden = {x for bar in plan.bars for x in self._behind(bar)}
        self._title()
        self._strip()
        self._lane_backs()
        self._phases()
        self._rail()
        for slot in plan.slots:
            if slot.x in hidden:
                self._flow(slot, chip=False)
        for bar in plan.bars:
            self._bar(bar)
        for slot in plan.slots:
            self._flow(slot, shaft=slot.x not in hidden)
        for column in plan.columns:
            self._stage(column)
        self._foot()

    def _say(self, kind: str, alt: str, *items: Item) -> None:
        self.groups.append(Group(kind, alt, items))

    def _title(self) -> None:
        s, diagram = self.scale, self.diagram
        bounds = Box(s.margin, s.margin - 4, self.right - s.margin, s.headline + 8)
        size = s.headline
        while theme.width(diagram.headline.text, size, BOLD) > bounds.width and size > s.headline * 0.62:
            size -= 0.5
        text = theme.fitted(diagram.headline.text, size, BOLD, bounds.width)
        what = f"{diagram.name[:1].upper()}{diagram.name[1:]} pipeline{f', {self.phase}' if self.phase else ''}"
        subtitle = f"{what}, as measured: {diagram.command} · run {diagram.run_id} · {diagram.when:%Y-%m-%d %H:%M} UTC"
        below = Box(s.margin, self.subtitle_y - s.subtitle, bounds.width, s.subtitle * 1.4)
        self._say(
            "headline",
            diagram.headline.text,
            Label(s.margin, self.headline_y, text, size, bounds, BOLD),
            Label(
                s.margin,
                self.subtitle_y,
                theme.fitted(subtitle, s.subtitle, REGULAR, below.width),
                s.subtitle,
                below,
                REGULAR,
                theme.MUTED,
            ),
        )

    def _strip(self) -> None:
        if not self.strip:
            return
        box = self.strip
        self._say(
            "strip",
            "Stream: head and feedback, not a tier",
            Rect(box, theme.STRIP, theme.FAINT, 1.25, 10, (5, 4)),
            *self._lane_words(Tier.STREAM, box),
        )
        if self.feedback:
            self._feedback(self.feedback[0], box)

    def _feedback(self, bar: Bar, strip: Box) -> None:
        """Draw feedback along the strip: in from the right if it is read, out to the left if it is written."""
        s, y = self.scale, self.channel
        written = any(slot.flow.direction is Direction.WRITE for slot in bar.slots)
        at = (bar.left + bar.right) / 2
        top = self._bar_y(bar)
        head = (s.shaft * 0.42, s.shaft * 0.8)
        dash = (6.0, 4.0)
        if written:
            words = "feedback: verdicts go back to training"
            end = self.plan.columns[0].x
            lines = [
                Line(at, top, at, y, theme.FEEDBACK, 2, None, dash),
                Line(at, y, end, y, theme.FEEDBACK, 2, head, dash),
            ]
            low, high = end + head[1], at
        else:
            words = "feedback: users' verdicts on the promoted model come back"
            end = self.right - s.margin * 0.4
            lines = [
                Line(end, y, at, y, theme.FEEDBACK, 2, None, dash),
                Line(at, y, at, top, theme.FEEDBACK, 2, head, dash),
            ]
            low, high = at, end
        size = s.caption
        available = max(0.0, high - low - 4 * s.pad)
        if theme.width(words, size, SEMIBOLD) + 16 > available:
            words = "feedback"
        wide = theme.width(words, size, SEMIBOLD) + 16
        items: list[Item] = list(lines)
        if wide <= available:
            plate = Box((low + high - wide) / 2, y - size * 0.85, wide, size * 1.7)
            items += [
                Rect(plate, theme.CARD, theme.FEEDBACK, 1, plate.height / 2),
                Label(plate.x + wide / 2, _middle(plate, size), words, size, plate, SEMIBOLD, theme.FEEDBACK, "middle"),
            ]
        self._say("feedback", "Feedback runs back along the stream", *items)

    def _lane_backs(self) -> None:
        for tier, box in self.lanes.items():
            colour = theme.TIERS[tier]
            title, caption = LANE_TITLES[tier]
            self._say(
                "lane",
                f"{title} tier, {caption}",
                Rect(box, theme.tint(colour), radius=8),
                Rect(Box(box.x, box.y, 5, box.height), colour, radius=2.5),
                *self._lane_words(tier, box),
            )

    def _lane_words(self, tier: Tier, box: Box) -> list[Label]:
        s = self.scale
        title, caption = LANE_TITLES[tier]
        colour = theme.TIERS[tier]
        shown = s.lane_captions or tier is Tier.STREAM
        wrapped = theme.wrapped(caption, s.caption, REGULAR, s.aside - s.indent) if shown else []
        sums = {way: sum(f.bytes for f in self.flows if f.tier is tier and f.direction is way) for way in Direction}
        lines = [
            (title, s.lane, SEMIBOLD, theme.INK),
            *((line, s.caption, REGULAR, theme.MUTED) for line in wrapped),
        ]
        if s.lane_captions or tier is not Tier.STREAM:
            lines += [
                (f"{human_bytes(sums[Direction.READ])} read", s.caption, SEMIBOLD, colour),
                (f"{human_bytes(sums[Direction.WRITE])} written", s.caption, SEMIBOLD, colour),
            ]
        tall = sum(size * 1.32 for _, size, *_ in lines)
        y, items = box.y + (box.height - tall) / 2, []
        for text, size, weight, ink in lines:
            y += size * 1.32
            items.append(
                Label(
                    box.x + s.indent,
                    y - size * 0.34,
                    text,
                    size,
                    Box(box.x + s.indent, y - size * 1.32, s.aside - s.indent, size * 1.32),
                    weight,
                    ink,
                )
            )
        return items

    def _phases(self) -> None:
        s, columns = self.scale, self.plan.columns
        if len({column.stage.phase for column in columns}) < 2:
            return
        runs: list[list[Column]] = []
        for column in columns:
            if runs and runs[-1][0].stage.phase == column.stage.phase:
                runs[-1].append(column)
            else:
                runs.append([column])
        bottom = max([box.bottom for box in self.lanes.values()], default=self.stage_y + s.stage_height)
        for number, run in enumerate(runs):
            left, right = run[0].x, run[-1].x + run[-1].width
            items: list[Item] = []
            phase = run[0].stage.phase
            words = theme.fitted(phase[:1].upper() + phase[1:], s.caption, SEMIBOLD, right - left)
            wide = theme.width(words, s.caption, SEMIBOLD)
            y = self.phases_y + s.caption * 0.9
            if words:
                bounds = Box(left, self.phases_y, right - left, s.caption * 1.5)
                items.append(Label(left, y, words, s.caption, bounds, SEMIBOLD, theme.MUTED))
            if right - left - wide > 24:
                items.append(Line(left + wide + 10, y - s.caption * 0.32, right, y - s.caption * 0.32, theme.RULE, 1.25))
            if number:
                x = (runs[number - 1][-1].x + runs[number - 1][-1].width + left) / 2
                items.append(Line(x, self.phases_y, x, bottom, theme.FAINT, 1, None, (2, 4)))
            self._say("phase", phase, *items)

    def _rail(self) -> None:
        s, columns = self.scale, self.plan.columns
        y = self.stage_y + s.stage_height / 2
        lines = [Line(one.x + one.width, y, two.x, y, theme.FAINT, 1.25, None, (2, 3)) for one, two in pairwise(columns)]
        bounds = Box(s.margin + s.indent, y - s.lane, s.aside - s.indent, 2 * s.lane)
        words = Label(bounds.x, _middle(bounds, s.lane), "Stages", s.lane, bounds, SEMIBOLD)
        self._say("rail", "Stages, in order", *lines, words)

    def _bar_height(self, tier: Tier) -> float:
        return self.scale.topic_height if tier is Tier.STREAM else self.scale.bar_height

    def _bar_y(self, bar: Bar) -> float:
        s = self.scale
        if bar.key[0] is Tier.STREAM:
            assert self.strip
            return self.strip.bottom - 12 - s.topic_height - bar.row * (s.topic_height + 8)
        lane = self.lanes[bar.key[0]]
        rows = self.plan.rows[bar.key[0]]
        inner = rows * s.bar_height + (rows - 1) * s.bar_height * 0.32
        return lane.y + (lane.height - inner + s.head_room * 0.5) / 2 + bar.row * s.bar_height * 1.32

    def _name_position(self, bar: Bar) -> tuple[list[str], float] | None:
        """The lines of a bar's name, and the centre of the widest part of the bar without arrows that fits them."""
        s = self.scale
        clear = s.shaft / 2 + 3
        edges = [bar.left - clear, *bar.blocked, bar.right + clear]
        free = sorted(
            ((one + clear, two - clear) for one, two in pairwise(edges)),
            key=lambda part: part[0] - part[1],
        )
        for count in (1, 2):
            lines = self._lines(bar.key, count)
            wide = max(theme.width(line, s.bar, SEMIBOLD) for line in lines) + 2 * s.pad - 2
            low, high = free[0]
            if high - low >= wide:
                middle = (bar.left + bar.right) / 2
                return lines, min(max(middle, low + wide / 2), high - wide / 2)
        return None

    def _behind(self, bar: Bar) -> tuple[float, ...]:
        """The arrows that pass behind a bar, because its name does not fit beside them."""
        return () if self._name_position(bar) else bar.blocked

    def _bar(self, bar: Bar) -> None:
        s = self.scale
        tier, store = bar.key
        box = Box(bar.left, self._bar_y(bar), bar.right - bar.left, self._bar_height(tier))
        placed = self._name_position(bar)
        if placed:
            lines, centre = placed
        else:
            lines, centre = (
                self._lines(bar.key, 1 if box.width >= self.names[bar.key].one else 2),
                (bar.left + bar.right) / 2,
            )
        if tier is Tier.STREAM:
            colour = theme.FEEDBACK if store == "feedback" else theme.MUTED
            shape, ink = Rect(box, theme.CARD, colour, 1.5, 7), theme.FEEDBACK if store == "feedback" else theme.INK
        else:
            shape, ink = Rect(box, theme.TIERS[tier], radius=7), "#FFFFFF"
        step = s.bar * 1.12
        y = box.y + box.height / 2 - step * (len(lines) - 1) / 2 + s.bar * 0.33
        words = [Label(centre, y + number * step, line, s.bar, box, SEMIBOLD, ink, "middle") for number, line in enumerate(lines)]
        known = next((item for item in STORES if item.name == store and item.tier is tier), None)
        self._say("bar", f"{store} ({tier}){': ' + known.holds + ', kept ' + known.retention if known else ''}", shape, *words)

    def _shaft_width(self, flow: Flow) -> float:
        most = max([other.bytes for other in self.flows], default=0)
        if not flow.bytes or not most:
            return 1.25
        return max(1.5, round(self.scale.shaft * math.sqrt(flow.bytes / most), 2))

    def _flow(self, slot: Slot, *, shaft: bool = True, chip: bool = True) -> None:
        s, flow = self.scale, slot.flow
        above = flow.tier is Tier.STREAM
        bar = next(bar for bar in self.plan.bars if bar.key == flow.key)
        top = self._bar_y(bar)
        stage_end = self.stage_y if above else self.stage_y + s.stage_height
        bar_end = top + s.topic_height if above else top
        reads = flow.direction is Direction.READ
        y1, y2 = (bar_end, stage_end) if reads else (stage_end, bar_end)
        colour = theme.READ if reads else theme.WRITE
        if flow.key == (Tier.STREAM, "feedback"):
            colour = theme.FEEDBACK
        if not flow.ops:
            colour = theme.IDLE
        width = self._shaft_width(flow)
        items: list[Item] = []
        if shaft:
            head = (max(4.5, width / 2 + 3.2), max(8.0, min(13.0, width * 0.5 + 6.5)))
            for crossed in self.plan.bars if chip else ():
                if slot.x in crossed.blocked:  # an outline shows that the arrow passes and does not end here
                    at = self._bar_y(crossed)
                    ends = max(at - 1, min(y1, y2)), min(at + self._bar_height(crossed.key[0]) + 1, max(y1, y2))
                    rim = theme.CARD if above else theme.tint(theme.TIERS[crossed.key[0]])
                    items.append(Line(slot.x, ends[0], slot.x, ends[1], rim, width + 5))
            items.append(Line(slot.x, y1, slot.x, y2, colour, width, head, () if flow.ops else (2, 3)))
        if chip:
            y = self.stage_y - s.head_room - self.chip_height if above else self.chips_y + slot.level * (self.chip_height + 4)
            items += self._chip(flow, Box(slot.x - self.chip_width / 2, y, self.chip_width, self.chip_height), colour)
        self._say("flow" if chip else "shaft", in_words(flow), *items)

    def _chip(self, flow: Flow, box: Box, colour: str) -> list[Item]:
        s = self.scale
        moved = f"{'≈' if flow.estimated else ''}{human_bytes(flow.bytes)}"
        centre = box.x + box.width / 2
        items: list[Item] = [Rect(box, theme.CARD, colour, 1.1, 8, () if flow.ops else (2, 2))]
        if not s.chip_p95:
            return [*items, Label(centre, _middle(box, s.chip), moved, s.chip, box, SEMIBOLD, colour, "middle")]
        slow = human_ms(flow.p95_ms) if flow.ops else "idle"
        first = box.y + 3.5 + s.chip * 0.93
        return [
            *items,
            Label(centre, first, moved, s.chip, box, SEMIBOLD, colour, "middle"),
            Label(centre, first + s.chip_small * 1.16, slow, s.chip_small, box, REGULAR, theme.MUTED, "middle"),
        ]

    def _stage(self, column: Column) -> None:
        s, stage = self.scale, column.stage
        box = Box(column.x, self.stage_y, column.width, s.stage_height)
        label = theme.fitted(stage.label, s.stage, SEMIBOLD, s.stage * 12)
        items: list[Item] = [
            Rect(box, theme.CARD, theme.INK, 1.6, 9),
            Label(column.centre, _middle(box, s.stage), label, s.stage, box, SEMIBOLD, theme.INK, "middle"),
        ]
        if s.notes:
            numbers = [str(at) for at, mark in enumerate(self._marks(), 1) if mark.stage == stage.name]
            for index, number in enumerate(numbers):
                items += self._dot(number, box.x + 6 + index * (s.caption * 1.5 + 3), box.y)
        self._say("stage", f"{stage.label}: {stage.sentence}" if stage.sentence else stage.label, *items)

    def _dot(self, number: str, x: float, middle: float) -> list[Item]:
        """A trigger's number on a dark dot."""
        size = self.scale.caption
        dot = Box(x, middle - size * 0.75, size * 1.5, size * 1.5)
        return [
            Rect(dot, theme.TRIGGER, theme.CARD, 1.5, size * 0.75),
            Label(x + size * 0.75, _middle(dot, size), number, size, dot, SEMIBOLD, "#FFFFFF", "middle"),
        ]

    def _foot(self) -> None:
        """The legend, the triggers, and other traffic of the run."""
        s = self.scale
        y, width = self.foot_y, self.right - s.margin
        size = s.caption
        items: list[Item] = []
        x = s.margin
        for text, colour, up in (("read", theme.READ, True), ("write", theme.WRITE, False)):
            low, high = y + 1, y - size * 0.95
            items.append(Line(x + 5, low if up else high, x + 5, high if up else low, colour, 2.5, (4.5, 7)))
            wide = theme.width(text, size)
            items.append(Label(x + 15, y, text, size, Box(x + 15, y - size, wide + 1, size * 1.3), REGULAR, theme.MUTED))
            x += 15 + wide + 16
        chip = "chip: bytes moved, and p95 of one operation" if s.chip_p95 else "chip: bytes moved"
        words = f"arrow width grows with √bytes · {chip} · ≈ estimated · dotted: not used · bar: from first use to last"
        for line in theme.wrapped(words, size, REGULAR, self.right - x) if width else []:
            items.append(Label(x, y, line, size, Box(x, y - size, self.right - x, size * 1.4), REGULAR, theme.MUTED))
            y += size * 1.5
        self._say("key", "Key: " + words, *items)
        for number, mark in enumerate(self._marks() if s.notes else (), 1):
            words = self._starts(mark)
            dot = self._dot(str(number), s.margin, y - size * 0.33)
            x = s.margin + size * 1.5 + 8
            line = theme.fitted(words, size, REGULAR, self.right - x)
            box = Box(x, y - size, self.right - x, size * 1.4)
            self._say("trigger", words, *dot, Label(x, y, line, size, box, REGULAR, theme.MUTED))
            y += size * 1.65
        for note in self._beside() if s.notes else ():
            for line in theme.wrapped(note, size, REGULAR, width):
                box = Box(s.margin, y - size, width, size * 1.4)
                self._say("note", line, Label(s.margin, y, line, size, box, REGULAR, theme.MUTED))
                y += size * 1.5
        self.height = max(s.least_height, y - size * 1.5 + s.margin * 0.9)

    def _marks(self) -> list[Mark]:
        shown = {stage.name for stage in self.stages} if self.triggers else set()
        return [mark for mark in self.diagram.marks if mark.stage in shown]

    def _starts(self, mark: Mark) -> str:
        label = next(stage.label for stage in self.stages if stage.name == mark.stage)
        return f"{label} starts on {mark.store} ({mark.tier}): {mark.text}"

    def _beside(self) -> list[str]:
        drawn = {(flow.stage, flow.key) for flow in self.flows}
        commits: list[Flow] = []
        outside: list[Flow] = []
        for flow in self.diagram.beside:
            (commits if (flow.stage, flow.key) in drawn else outside).append(flow)
        notes = []
        if commits:
            notes.append(f"Not drawn: reads of their own tables by commits: {_sums(commits)}.")
        if outside:
            notes.append(f"Also in this run, not in this picture: {_sums(outside)}.")
        return notes

    def _description(self) -> str:
        steps = ", ".join(column.stage.label for column in self.plan.columns)
        return f"{self.diagram.sentence} Stages in order: {steps}. " + ". ".join(in_words(flow) for flow in self.flows)


def _middle(box: Box, size: float) -> float:
    return box.y + box.height / 2 + size * theme.CAP_HEIGHT / 2


def _sums(flows: list[Flow]) -> str:
    """Bytes by stage, largest first."""
    sums: dict[str, int] = {}
    for flow in flows:
        sums[flow.stage] = sums.get(flow.stage, 0) + flow.bytes
    most = sorted(sums.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{stage} {human_bytes(moved)}" for stage, moved in most[:6]]
    if most[6:]:
        parts.append(f"{len(most) - 6} more {human_bytes(sum(moved for _, moved in most[6:]))}")
    return ", ".join(parts)
