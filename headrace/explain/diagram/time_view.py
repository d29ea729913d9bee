"""The view of time: the run as a timeline, per stage compute beside storage, and what it moved by tier.

A row per stage: when it was at work, for how much of that a storage operation was under way, the stage that it waited for, and
for each tier the bytes and the storage time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from headrace.catalog import Tier
from headrace.errors import NotFound
from headrace.explain.diagram import theme
from headrace.explain.diagram.arrange import LANES
from headrace.explain.diagram.diagram import Diagram
from headrace.explain.diagram.flow import StageBox, StageTime
from headrace.explain.diagram.format import grown, human_bytes, human_count, human_s, percent
from headrace.explain.diagram.geometry import Scale
from headrace.explain.diagram.scene import Box, Group, Item, Label, Line, Rect, Scene
from headrace.explain.diagram.theme import REGULAR, SEMIBOLD, Palette
from headrace.explain.diagram.time_axis import TimeAxis
from headrace.explain.diagram.title import subtitle, title_group
from headrace.storage.ledger import Direction

_NARROWEST = 1.5
_WIDEST_PAUSE = "88.8 min pause"


def time_scene(diagram: Diagram, *, scale: Scale, palette: Palette, facts: tuple[str, ...]) -> Scene:
    """The timeline of a diagram's stages; of one that has not run, the stages and what each waits for.

    Raises `NotFound` where the run has no times.
    """
    if diagram.measured and not diagram.times:
        raise NotFound(
            f"Run {diagram.run_id} has no times: an older Headrace recorded it.",
            hint="Run the pipeline again, or draw --view storage.",
        )
    return _Timeline(diagram, scale, palette, facts).scene()


def waits(diagram: Diagram) -> dict[str, str]:
    """For each stage the one that it waited for: of those before it that feed it, the last to end before it began.

    A stage feeds another if it writes a store that the other reads, or is the last in order that began before.
    """
    times = {time.stage: time for time in diagram.times}
    order = [stage.name for stage in diagram.stages]
    writers: dict[tuple[Tier, str], set[str]] = {}
    for flow in diagram.flows:
        if flow.direction is Direction.WRITE and (flow.ops or not diagram.measured):
            writers.setdefault(flow.key, set()).add(flow.stage)
    found: dict[str, str] = {}
    for at, stage in enumerate(order):
        feeding = {
            writer
            for flow in diagram.flows
            if flow.stage == stage and flow.direction is Direction.READ and (flow.ops or not diagram.measured)
            for writer in writers.get(flow.key, ())
        } & set(order[:at])
        if diagram.measured:
            mine = times.get(stage)
            if mine is None:
                continue
            begun = [one for one in order[:at] if one in times and times[one].start_s < mine.start_s]
            ended = {one: times[one] for one in {*feeding, *begun[-1:]} if one in begun}
            if ended:
                found[stage] = max(ended, key=lambda one: min(ended[one].end_s, mine.start_s))
        elif at:
            found[stage] = max({*feeding, order[at - 1]}, key=order.index)
    return found


@dataclass
class _Timeline:
    diagram: Diagram
    scale: Scale
    palette: Palette
    facts: tuple[str, ...]
    groups: list[Group] = field(default_factory=list)
    gaps: bool = False
    """Whether a block has gaps between calls."""

    def __post_init__(self) -> None:
        s = self.scale
        self.times = {time.stage: time for time in self.diagram.times}
        used = {flow.tier for flow in self.diagram.flows if flow.bytes}
        self.tiers = [tier for tier in (*LANES, Tier.STREAM) if tier in used]
        self.cell = math.ceil(max(theme.width(text, s.caption, SEMIBOLD) for text in ("≈88.8 MB", "88.8 ms")) + 6)
        spent = max(theme.width(text, s.caption) for text in ("88.8 s, ×8888", "100 % storage", "at work")) + 8
        self.width = s.least_width if s.slide else s.least_width + 260
        self.right = self.width - s.margin
        self.cells = self.right - self.cell * len(self.tiers)
        self.spent = self.cells - spent - 8
        self.left = s.margin + self._names()
        self.chart = Box(self.left, 0, self.spent - 12 - self.left, 0)
        spans = [(start, end) for time in self.diagram.times for start, end, *_ in time.spans]
        self.axis = TimeAxis(spans, self.chart.x, self.chart.right, math.ceil(theme.width(_WIDEST_PAUSE, s.caption)) + 10)
        self.waits = waits(self.diagram)

    def _names(self) -> float:
        s = self.scale
        return (
            max(
                [
                    max(theme.width(stage.label, s.stage, SEMIBOLD), theme.width(self._after(stage.label), s.caption))
                    for stage in self.diagram.stages
                ],
                default=0.0,
            )
            + 16
        )

    def _after(self, label: str) -> str:
        return f"after {label}"

    def scene(self) -> Scene:
        s = self.scale
        y = s.margin + s.headline
        headline_y, subtitle_y = y - s.headline * 0.1, y + s.subtitle * 1.35
        below = subtitle(self.diagram, self.facts, slide=s.slide)
        if self.diagram.against:
            below += f" · change against {self.diagram.against}"
        self.groups.append(title_group(self._claim(), below, s, self.palette, self.right, (headline_y, subtitle_y)))
        top = subtitle_y + s.subtitle * 0.9
        head = s.caption * 2.4
        foot = s.caption * 1.4
        rows = len(self.diagram.stages)
        least = s.caption * 2.9
        room = s.least_height - top - head - foot - s.caption * 2.6 - s.margin * 0.5
        row = max(least, min(least * 2.4, room / max(1, rows))) if s.slide else s.caption * 3.6
        bottom = top + head + rows * row
        self._head(top, head, bottom)
        self._axis(top + head, bottom)
        self._waits(top + head, row)
        for at, stage in enumerate(self.diagram.stages):
            self._row(stage, top + head + at * row, row, at)
        y = self._foot(bottom + s.caption * 2.6)
        return Scene(
            round(self.width, 1),
            round(max(s.least_height, y + s.margin * 0.5), 1),
            self._claim(),
            self._description(),
            tuple(self.groups),
            self.palette,
        )

    def _say(self, kind: str, alt: str, *items: Item) -> None:
        self.groups.append(Group(kind, alt, items))

    def _claim(self) -> str:
        """What the times say: for how much of the work storage was under way, and which stage took longest."""
        active = sum(time.active_s for time in self.times.values())
        if not active:
            return self.diagram.headline.text
        stored = sum(min(time.storage_s, time.active_s) for time in self.times.values())
        longest = max(self.diagram.stages, key=lambda stage: self.times[stage.name].active_s if stage.name in self.times else 0.0)
        most = self.times[longest.name].active_s
        name = f"{self.diagram.name[:1].upper()}{self.diagram.name[1:]}"
        return (
            f"{name}: storage was under way for {percent(stored / active)} of {human_s(active)} of work; "
            f"{longest.label} took {human_s(most)}"
        )

    def _head(self, top: float, height: float, bottom: float) -> None:
        s, palette = self.scale, self.palette
        y = top + height - s.caption * 0.5
        if self.times:
            box = Box(self.spent, y - s.caption, self.cells - self.spent - 8, s.caption * 1.35)
            self._say("column", "Time at work", Label(self.spent, y, "at work", s.caption, box, SEMIBOLD, palette.muted))
        for at, tier in enumerate(self.tiers):
            x = self.cells + at * self.cell
            band = Box(x + 2, top + height * 0.25, self.cell - 4, bottom - top - height * 0.25)
            title = str(tier).capitalize()
            box = Box(x, y - s.caption, self.cell, s.caption * 1.35)
            self._say(
                "column",
                f"{title}: bytes and storage time",
                Rect(band, palette.tint(palette.tiers[tier]), radius=6),
                Label(x + self.cell / 2, y, title, s.caption, box, SEMIBOLD, palette.tier_inks[tier], "middle"),
            )

    def _axis(self, top: float, bottom: float) -> None:
        """The line, round times, and a band for each pause that is cut."""
        s, palette = self.scale, self.palette
        if not self.times:
            return
        y = bottom + s.caption * 1.25
        items: list[Item] = [Line(self.chart.x, bottom, self.chart.right, bottom, palette.faint, 1)]
        labels: list[Label] = []
        for before, after in self.axis.pauses:
            band = Box(before.right + 3, top, after.left - before.right - 6, bottom - top)
            items.append(Rect(band, palette.strip, palette.rule, 0.75, 0, (2, 3)))
            text = f"{human_s(after.start - before.end)} pause"
            labels.append(self._mark((before.right + after.left) / 2, y, text))
        for at in self.axis.ticks():
            x = self.axis.x(at)
            items.append(Line(x, top, x, bottom, palette.rule, 0.75, None, (2, 3)))
            label = self._mark(x, y, human_s(at) if at else "0 s")
            near = Box(label.box.x - 8, label.box.y, label.box.width + 16, label.box.height)
            if not any(near.meets(other.box) for other in labels):
                labels.append(label)
        first, last = self.axis.parts[0].start, self.axis.parts[-1].end
        self._say("axis", f"Time since the run began, {human_s(first)} to {human_s(last)}", *items, *labels)

    def _mark(self, x: float, y: float, text: str) -> Label:
        """A text at the axis, kept within its ends."""
        size = self.scale.caption
        wide = theme.width(text, size)
        left = min(max(x - wide / 2, self.chart.x), self.chart.right - wide)
        return Label(left, y, text, size, Box(left, y - size, wide + 0.5, size * 1.35), REGULAR, self.palette.muted)

    def _waits(self, top: float, row: float) -> None:
        """An arrow from each stage to the one that waited for it, down to where that began."""
        order = [stage.name for stage in self.diagram.stages]
        for stage, other in self.waits.items():
            if stage not in self.times:
                continue
            x = self.axis.x(self.times[stage].start_s)
            one, two = order.index(other), order.index(stage)
            half = min(row * 0.24, self.scale.caption * 1.2)
            y1, y2 = top + (one + 0.5) * row + half, top + (two + 0.5) * row - half
            self._say("wait", f"{stage} waited for {other}", Line(x, y1, x, y2, self.palette.muted, 1.25, (3.5, 6.0), (2, 2)))

    def _row(self, stage: StageBox, y: float, height: float, at: int) -> None:
        s, palette = self.scale, self.palette
        items: list[Item] = []
        if at:
            items.append(Line(s.margin, y, self.right, y, palette.rule, 0.75))
        middle = y + height / 2
        limit = self.left - s.margin - 6
        other = self.waits.get(stage.name)
        name_y = middle - 1 if other else middle + s.stage * 0.33
        items.append(self._line(s.margin, name_y, stage.label, s.stage, SEMIBOLD, palette.ink, limit))
        if other:
            label = next(one.label for one in self.diagram.stages if one.name == other)
            items.append(
                self._line(s.margin, middle + s.caption + 1, self._after(label), s.caption, REGULAR, palette.muted, limit)
            )
        time = self.times.get(stage.name)
        if time:
            high = min(height * 0.48, s.caption * 2.4)
            items += self._blocks(time, middle - high / 2, high)
            items += self._spent(time, middle)
            items += self._cells(stage, time, middle)
        elif not self.diagram.measured:
            end = self.right - self.left
            items.append(
                self._line(self.left, middle + s.caption * 0.35, stage.sentence, s.subtitle, REGULAR, palette.muted, end)
            )
        self._say("row", self._words(stage, time), *items)

    def _line(self, x: float, y: float, text: str, size: float, weight: int, colour: str, limit: float) -> Label:
        return Label(x, y, theme.fitted(text, size, weight, limit), size, Box(x, y - size, limit, size * 1.35), weight, colour)

    def _blocks(self, time: StageTime, y: float, height: float) -> Iterator[Item]:
        """When it was at work. From below: the share of storage, that of computing, and between calls nothing but a frame."""
        palette = self.palette
        for start, end, stored, active in self._joined(time):
            left = self.axis.x(start)
            wide = max(_NARROWEST, self.axis.x(end) - left)
            left = min(left, self.chart.right - wide)
            long = max(1e-9, end - start)
            working, storing = (height * min(1.0, seconds / long) for seconds in (max(active, stored), stored))
            if height - working >= 0.5:
                self.gaps = True
                yield Rect(Box(left, y, wide, height), palette.card, palette.faint, 0.75, 0)
            yield Rect(Box(left, y + height - working, wide, working), palette.faint, radius=0)
            if storing >= 0.5:
                yield Rect(Box(left, y + height - storing, wide, storing), palette.write, radius=0)

    def _joined(self, time: StageTime) -> list[tuple[float, float, float, float]]:
        """Start, end, storage time and time at work of its spans; those closer than a pixel are drawn as one."""
        near = 1 / self.axis.scale
        joined: list[tuple[float, float, float, float]] = []
        for start, end, _, stored, active in sorted(time.spans):
            if joined and start - joined[-1][1] < near:
                one, two, stored_before, active_before = joined[-1]
                joined[-1] = one, max(two, end), stored_before + stored, active_before + active
            else:
                joined.append((start, end, stored, active))
        return joined

    def _spent(self, time: StageTime, middle: float) -> Iterator[Item]:
        s, palette = self.scale, self.palette
        limit = self.cells - self.spent - 8
        share = min(time.storage_s, time.active_s) / time.active_s if time.active_s else 0.0
        text = human_s(time.active_s)
        before = next((one for one in self.diagram.times_before if one.stage == time.stage), None)
        if self.diagram.against:
            text += f", {grown(round(time.active_s * 1e3), round(before.active_s * 1e3) if before else 0)}"
        yield self._line(self.spent, middle - 1, text, s.caption, SEMIBOLD, palette.ink, limit)
        yield self._line(
            self.spent, middle + s.caption + 1, f"{percent(share)} storage", s.caption, REGULAR, palette.write, limit
        )

    def _cells(self, stage: StageBox, time: StageTime, middle: float) -> Iterator[Item]:
        s, palette = self.scale, self.palette
        for at, tier in enumerate(self.tiers):
            flows = [flow for flow in self.diagram.flows if flow.stage == stage.name and flow.tier is tier and flow.bytes]
            if not flows:
                continue
            x = self.cells + (at + 0.5) * self.cell
            box = Box(x - self.cell / 2, middle - s.caption - 2, self.cell, s.caption * 1.3)
            moved = f"{'≈' if any(flow.estimated for flow in flows) else ''}{human_bytes(sum(flow.bytes for flow in flows))}"
            yield Label(x, middle - 1, moved, s.caption, box, SEMIBOLD, palette.tier_inks[tier], "middle")
            below = Box(box.x, middle + 1, self.cell, s.caption * 1.35)
            took = human_s(time.tiers.get(tier, 0.0))
            yield Label(x, middle + s.caption + 1, took, s.caption, below, REGULAR, palette.muted, "middle")

    def _words(self, stage: StageBox, time: StageTime | None) -> str:
        if time is None:
            return f"{stage.label} did not run" if self.diagram.measured else stage.label
        other = self.waits.get(stage.name)
        waited = f", after {other}" if other else ""
        calls = f"{human_count(time.calls)} call{'' if time.calls == 1 else 's'}"
        return (
            f"{stage.label}: {calls}{waited}, {human_s(time.active_s)} at work: "
            f"{human_s(time.compute_s)} compute, {human_s(time.waited_s)} waiting for storage, "
            f"{human_s(time.beside_s)} with storage under way in other threads"
        )

    def _foot(self, y: float) -> float:
        s, palette = self.scale, self.palette
        size, x, items = s.caption, s.margin, list[Item]()
        if not self.times:
            return y
        keys = [("compute", palette.faint, ""), ("share of storage", palette.write, "")]
        for text, colour, frame in [*keys, *([("between calls", palette.card, palette.faint)] if self.gaps else [])]:
            items.append(Rect(Box(x, y - size * 0.72, size, size * 0.72), colour, frame, 0.75 if frame else 0.0))
            wide = theme.width(text, size)
            items.append(
                Label(x + size + 6, y, text, size, Box(x + size + 6, y - size, wide + 1, size * 1.35), REGULAR, palette.muted)
            )
            x += size + 6 + wide + 16
        words = "dashed arrow: waited for · by tier: bytes moved, and the time during which an operation was under way"
        for line in theme.wrapped(words, size, REGULAR, self.right - x):
            items.append(self._line(x, y, line, size, REGULAR, palette.muted, self.right - x))
            y += size * 1.4
        self._say("key", "Key: " + words, *items)
        return y

    def _description(self) -> str:
        run = f" Run {self.diagram.run_id}." if self.diagram.measured else ""
        rows = ". ".join(self._words(stage, self.times.get(stage.name)) for stage in self.diagram.stages)
        return f"{self.diagram.sentence}{run} {rows}"
