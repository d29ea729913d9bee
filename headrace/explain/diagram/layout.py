"""The picture of storage, as a scene.

Stages are in a row, the stream above them as a dashed strip, and one lane per tier below, shallow to deep. Every read and
write is a straight vertical arrow with a chip. The scene's geometry depends only on the pipeline's structure; numbers change the
text and the width of arrows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from headrace.catalog import STORES, Tier
from headrace.explain.diagram import theme
from headrace.explain.diagram.arrange import Bar, Column, Slot
from headrace.explain.diagram.diagram import Diagram
from headrace.explain.diagram.flow import Flow, Mark
from headrace.explain.diagram.foot import Foot, dot, starts
from headrace.explain.diagram.format import grown, human_bytes, human_count, human_ms
from headrace.explain.diagram.geometry import LINE, PAGE, Geometry, Scale, middle
from headrace.explain.diagram.scene import Box, Group, Item, Label, Line, Rect, Scene
from headrace.explain.diagram.theme import LIGHT, REGULAR, SEMIBOLD, Palette
from headrace.explain.diagram.title import subtitle, title_group
from headrace.storage.ledger import Direction

LANE_TITLES: dict[Tier, tuple[str, str]] = {
    Tier.STREAM: ("Kafka stream", "ingestion head and feedback path, not a storage tier"),
    Tier.FILE: ("File", "POSIX directory"),
    Tier.VECTOR: ("Vector", "vector index"),
    Tier.TABLE: ("Table", "Iceberg tables"),
    Tier.OBJECT: ("Object", "S3 objects"),
}


def storage_scene(
    diagram: Diagram,
    *,
    scale: Scale = PAGE,
    palette: Palette = LIGHT,
    triggers: bool = True,
    facts: tuple[str, ...] = (),
    gathered: tuple[Flow, ...] = (),
    notes: tuple[str, ...] = (),
) -> Scene:
    """The picture of a diagram's stages, stores and flows.

    `triggers` marks what starts a stage besides the previous one. `facts` are for the line below the headline, `gathered` are
    flows that are summed and not drawn, `notes` are further lines at the foot.
    """
    shown = {stage.name for stage in diagram.stages}
    marks = tuple(mark for mark in diagram.marks if mark.stage in shown) if triggers else ()
    foot = Foot(diagram, gathered, marks, notes, scale, palette)
    return _Layout(diagram, Geometry(diagram, scale, foot.height), foot, scale, palette, marks, facts, gathered).scene()


def in_words(flow: Flow) -> str:
    """A flow as a sentence."""
    verb, towards = ("reads", "from") if flow.direction is Direction.READ else ("writes", "to")
    change = "" if flow.before is None else f" ({grown(flow.bytes, flow.before)}, before {human_bytes(flow.before)})"
    if not flow.ops:
        return f"{flow.stage} {verb} nothing {towards} {flow.store} ({flow.tier}) in this run{change}"
    about = "about " if flow.estimated else ""
    plural = "" if flow.ops == 1 else "s"
    return (
        f"{flow.stage} {verb} {about}{human_bytes(flow.bytes)} {towards} {flow.store} ({flow.tier}): "
        f"{human_count(flow.ops)} operation{plural}, 95 % within {human_ms(flow.p95_ms)}{change}"
    )


@dataclass
class _Layout:
    diagram: Diagram
    at: Geometry
    foot: Foot
    scale: Scale
    palette: Palette
    marks: tuple[Mark, ...]
    facts: tuple[str, ...]
    gathered: tuple[Flow, ...]
    groups: list[Group] = field(default_factory=list)

    def scene(self) -> Scene:
        at = self.at
        self._draw()
        return Scene(
            round(at.width, 1),
            round(at.height, 1),
            self.diagram.headline.text,
            self._description(),
            tuple(self.groups),
            self.palette,
            self.foot.sentences(),
        )

    def _description(self) -> str:
        steps = ", ".join(stage.label for stage in self.diagram.stages)
        run = f" Run {self.diagram.run_id}." if self.diagram.measured else ""
        flows = ". ".join(in_words(flow) for flow in self.diagram.flows) if self.diagram.measured else ""
        return f"{self.diagram.sentence}{run} Stages in order: {steps}. {flows}"

    # back to front

    def _draw(self) -> None:
        plan = self.at.plan
        behind = {x for bar in plan.bars for x in bar.blocked}  # arrows that pass behind a bar
        below = subtitle(self.diagram, self.facts, slide=self.scale.slide)
        ys = self.at.headline_y, self.at.subtitle_y
        self.groups.append(title_group(self.diagram.title, below, self.scale, self.palette, self.at.right, ys))
        for tier, box in self.at.lanes.items():
            self._lane(tier, box)
        self._phases()
        self._strip()
        self._rail()
        for slot in plan.slots:
            if slot.x in behind:
                self._flow(slot, chip=False)
        for bar in plan.bars:
            self._bar(bar)
        for slot in plan.slots:
            self._flow(slot, shaft=slot.x not in behind)
        for column in plan.columns:
            self._stage(column)
        self.groups += self.foot.draw(self.at.foot_y, self.at.right)

    def _say(self, kind: str, alt: str, *items: Item, name: str = "") -> None:
        self.groups.append(Group(kind, alt, items, name))

    def _strip(self) -> None:
        box = self.at.strip
        if not box:
            return
        self._say(
            "strip",
            "Kafka stream: ingestion head and feedback path, not a storage tier",
            Rect(box, self.palette.strip, self.palette.faint, 1.25, 10, (5, 4)),
            *self._lane_words(Tier.STREAM, box),
        )
        if self.at.feedback:
            self._feedback(self.at.feedback)

    def _feedback(self, bar: Bar) -> None:
        """Draw feedback along the strip: in from the right if it is read, out to the left if it is written."""
        s, y, colour = self.scale, self.at.channel, self.palette.feedback
        written = any(slot.flow.direction is Direction.WRITE for slot in bar.slots)
        at = (bar.left + bar.right) / 2
        top = self.at.bar_y(bar)
        head = (max(4.0, s.shaft * 0.42), max(8.0, s.shaft * 0.8))
        dash = (6.0, 4.0)
        if written:
            words = "feedback: verdicts go back to training"
            end = self.at.plan.columns[0].x
            lines = [Line(at, top, at, y, colour, 2, None, dash), Line(at, y, end, y, colour, 2, head, dash)]
            low, high = end + head[1], at
        else:
            words = "feedback: users' verdicts on the served model come back"
            end = self.at.right - s.margin * 0.4
            lines = [Line(end, y, at, y, colour, 2, None, dash), Line(at, y, at, top, colour, 2, head, dash)]
            low, high = at, end
        size = s.caption
        available = max(0.0, high - low - 4 * s.pad)
        if theme.width(words, size, SEMIBOLD) + 16 > available:
            words = "feedback"
        wide = theme.width(words, size, SEMIBOLD) + 16
        items: list[Item] = list(lines)
        if wide <= available:
            plate = Box((low + high - wide) / 2, y - size * 0.8, wide, size * 1.6)
            items += [
                Rect(plate, self.palette.card, colour, 1, plate.height / 2),
                Label(plate.x + wide / 2, middle(plate, size), words, size, plate, SEMIBOLD, colour, "middle"),
            ]
        self._say("feedback", "Feedback runs back along the stream", *items)

    def _lane(self, tier: Tier, box: Box) -> None:
        colour = self.palette.tiers[tier]
        title, caption = LANE_TITLES[tier]
        self._say(
            "lane",
            f"{title} tier: {self.diagram.storage.get(tier, caption)}",
            Rect(box, self.palette.tint(colour), radius=8),
            Rect(Box(box.x, box.y, 5, box.height), self.palette.tier_inks[tier], radius=2.5),
            *self._lane_words(tier, box),
        )

    def _lane_words(self, tier: Tier, box: Box) -> list[Label]:
        s, palette = self.scale, self.palette
        title, caption = LANE_TITLES[tier]
        colour = palette.tier_inks[tier]
        limit = s.aside - s.indent
        sums = {
            way: sum(f.bytes for f in (*self.diagram.flows, *self.gathered) if f.tier is tier and f.direction is way)
            for way in Direction
        }
        lines: list[tuple[str, float, int, str]] = [(title, s.lane, SEMIBOLD, palette.ink)]
        if tier is Tier.STREAM:
            texts = ["head and feedback," if s.slide else "head and feedback path,", "not a storage tier"]
        else:
            named = self.diagram.storage.get(tier, caption)
            texts = [theme.fitted(named, s.caption, REGULAR, limit)]
        lines += [(text, s.caption, REGULAR, palette.muted) for text in texts]
        if self.diagram.measured and not s.slide:
            lines += [
                (f"{human_bytes(sums[Direction.READ])} read", s.caption, SEMIBOLD, colour),
                (f"{human_bytes(sums[Direction.WRITE])} written", s.caption, SEMIBOLD, colour),
            ]
        tall = sum(size * LINE for _, size, *_ in lines)
        y, items = box.y + (box.height - tall) / 2, []
        for text, size, weight, ink in lines:
            y += size * LINE
            x = box.x + s.indent
            bounds = Box(x, y - size * LINE, limit, size * LINE)
            items.append(Label(x, y - size * 0.34, text, size, bounds, weight, ink))
        if self.diagram.measured and s.slide and tier is not Tier.STREAM:
            first = items[0]
            x = first.box.right + 6
            total = human_bytes(sum(sums.values()))
            bounds = Box(x, first.bounds.y, box.x + s.aside + s.between - x, first.bounds.height)
            items.append(Label(x, first.y, total, s.caption, bounds, SEMIBOLD, colour))
        return items

    def _phases(self) -> None:
        s, columns, palette = self.scale, self.at.plan.columns, self.palette
        if len({column.stage.phase for column in columns}) < 2:
            return
        runs: list[list[Column]] = []
        for column in columns:
            if runs and runs[-1][0].stage.phase == column.stage.phase:
                runs[-1].append(column)
            else:
                runs.append([column])
        bottom = max([box.bottom for box in self.at.lanes.values()], default=self.at.stage_y + self.at.stage_height)
        top = self.at.phases_y
        for number, run in enumerate(runs):
            left, right = run[0].x, run[-1].x + run[-1].width
            items: list[Item] = []
            phase = run[0].stage.phase
            words = theme.fitted(phase[:1].upper() + phase[1:], s.caption, SEMIBOLD, right - left)
            wide = theme.width(words, s.caption, SEMIBOLD)
            y = top + s.caption * 0.9
            if words:
                bounds = Box(left, top, right - left, s.caption * 1.5)
                items.append(Label(left, y, words, s.caption, bounds, SEMIBOLD, palette.muted))
            if right - left - wide > 24:
                items.append(Line(left + wide + 10, y - s.caption * 0.32, right, y - s.caption * 0.32, palette.rule, 1.25))
            if number:
                x = (runs[number - 1][-1].x + runs[number - 1][-1].width + left) / 2
                items.append(Line(x, top, x, bottom, palette.faint, 1, None, (2, 4)))
            self._say("phase", phase, *items)

    def _rail(self) -> None:
        s, columns = self.scale, self.at.plan.columns
        y = self.at.stage_y + self.at.stage_height / 2
        lines = [Line(one.x + one.width, y, two.x, y, self.palette.faint, 1.25, None, (2, 3)) for one, two in pairwise(columns)]
        bounds = Box(s.margin + s.indent, y - s.lane, s.aside - s.indent, 2 * s.lane)
        words = Label(bounds.x, middle(bounds, s.lane), "Stages", s.lane, bounds, SEMIBOLD, self.palette.ink)
        self._say("rail", "Stages, in order", *lines, words)

    def _bar(self, bar: Bar) -> None:
        s, palette = self.scale, self.palette
        tier, store = bar.key
        box = Box(bar.left, self.at.bar_y(bar), bar.right - bar.left, self.at.bar_height(tier))
        lines = self.at.name_lines(bar.key, 1 if box.width >= self.at.names[bar.key].one else 2)
        centre = box.x + box.width / 2
        if tier is Tier.STREAM:
            fed = bar.key == self.diagram.feedback
            colour = palette.feedback if fed else palette.muted
            shape, ink = Rect(box, palette.card, colour, 1.5, 7), palette.feedback if fed else palette.ink
        else:
            shape, ink = Rect(box, palette.tiers[tier], radius=7), palette.on_tier
        step = s.bar * 1.12
        y = box.y + box.height / 2 - step * (len(lines) - 1) / 2 + s.bar * 0.33
        words = [Label(centre, y + number * step, line, s.bar, box, SEMIBOLD, ink, "middle") for number, line in enumerate(lines)]
        known = next((item for item in STORES if item.name == store and item.tier is tier), None)
        about = f"{store} ({tier}){': ' + known.holds + ', kept ' + known.retention if known else ''}"
        self._say("bar", about, shape, *words, name=f"{tier}/{store}")

    def _colour(self, flow: Flow) -> str:
        if flow.key == self.diagram.feedback:
            return self.palette.feedback
        if self._idle(flow):
            return self.palette.idle
        return self.palette.read if flow.direction is Direction.READ else self.palette.write

    def _idle(self, flow: Flow) -> bool:
        return self.diagram.measured and not flow.ops

    def _flow(self, slot: Slot, *, shaft: bool = True, chip: bool = True) -> None:
        flow = slot.flow
        y1, y2 = self.at.ends(slot)
        colour = self._colour(flow)
        width = self.at.shaft_width(flow) if self.diagram.measured else 1.75
        items: list[Item] = []
        if shaft:
            head = (max(4.5, width / 2 + 3.2), max(8.0, min(13.0, width * 0.5 + 6.5)))
            items.append(Line(slot.x, y1, slot.x, y2, colour, width, head, (2, 3) if self._idle(flow) else ()))
        if chip and self.diagram.measured:
            items += self._chip(flow, self.at.chip(slot), colour)
        name = f"{flow.stage}|{flow.direction}|{flow.tier}/{flow.store}"
        self._say("flow" if chip else "shaft", in_words(flow), *items, name=name)

    def _chip(self, flow: Flow, box: Box, colour: str) -> list[Item]:
        s = self.scale
        moved = f"{'≈' if flow.estimated else ''}{human_bytes(flow.bytes)}"
        centre = box.x + box.width / 2
        items: list[Item] = [Rect(box, self.palette.card, colour, 1.1, 8, (2, 2) if self._idle(flow) else ())]
        if self.at.chip_lines == 1:
            return [*items, Label(centre, middle(box, s.chip), moved, s.chip, box, SEMIBOLD, colour, "middle")]
        second = human_ms(flow.p95_ms) if flow.ops else "idle"
        if flow.before is not None:
            second = grown(flow.bytes, flow.before)
        first = box.y + 3 + s.chip * 0.93
        return [
            *items,
            Label(centre, first, moved, s.chip, box, SEMIBOLD, colour, "middle"),
            Label(centre, first + s.chip_small * 1.14, second, s.chip_small, box, REGULAR, self.palette.muted, "middle"),
        ]

    def _stage(self, column: Column) -> None:
        s, stage, palette = self.scale, column.stage, self.palette
        box = Box(column.x, self.at.stage_y, column.width, self.at.stage_height)
        lines = [(line, s.stage, SEMIBOLD, palette.ink) for line in self.at.label_lines(stage, column.width - 2 * s.pad)]
        if stage.caption:
            lines.append((stage.caption, s.caption, REGULAR, palette.muted))
        tall = sum(size for _, size, *_ in lines) * 1.14
        y = box.y + (box.height - tall) / 2
        ray = bool(stage.library and stage.caption.startswith(stage.library))
        fill = palette.tint(palette.read) if ray else palette.card
        items: list[Item] = [Rect(box, fill, palette.read if ray else palette.ink, 2.2 if ray else 1.6, 9)]
        for text, size, weight, ink in lines:
            items.append(Label(column.centre, y + size * 0.9, text, size, box, weight, ink, "middle"))
            y += size * 1.14
        about = ", ".join(filter(None, (stage.label, stage.caption))) + (f": {stage.sentence}" if stage.sentence else "")
        self._say("stage", about, *items, name=stage.name)
        marks = [(number, mark) for number, mark in enumerate(self.marks, 1) if mark.stage == stage.name]
        for index, (number, mark) in enumerate(marks):
            at = box.x - 4 + index * (s.caption * 1.5 + 3)
            self._say("trigger", starts(self.diagram, mark), *dot(str(number), at, box.y, s.caption, palette))
