"""What is written below the lanes of a picture: the key, what starts stages, and what is not drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from headrace.catalog import Tier
from headrace.explain.diagram import theme
from headrace.explain.diagram.diagram import Diagram
from headrace.explain.diagram.flow import Flow, Mark
from headrace.explain.diagram.format import human_bytes
from headrace.explain.diagram.geometry import Scale
from headrace.explain.diagram.scene import Box, Group, Item, Label, Line, Rect
from headrace.explain.diagram.theme import REGULAR, SEMIBOLD, Palette

_STEP = 1.4  # from one line to the next, in font sizes
_MOST = 6


@dataclass(frozen=True)
class Foot:
    """The foot of a picture. `notes` are further sentences; `dots` are the triggers' numbers, as in the picture."""

    diagram: Diagram
    gathered: tuple[Flow, ...]
    marks: tuple[Mark, ...]
    notes: tuple[str, ...]
    scale: Scale
    palette: Palette

    def height(self, right: float) -> float:
        """The height down to the last line, in a picture whose right edge is `right`."""
        return sum(1 for _ in self._lines(right)) * self.scale.caption * _STEP

    def draw(self, y: float, right: float) -> Iterator[Group]:
        """The groups of shapes; `y` is the first line's baseline."""
        s, palette = self.scale, self.palette
        size = s.caption
        for line in self._lines(right):
            for kind, number, text, x in line:
                items: list[Item] = []
                if kind == "key":
                    items += self._arrows(y)
                if number:
                    items += dot(number, x - size * 1.5 - 8, y - size * 0.33, size, palette)
                bounds = Box(x, y - size, right - x, size * 1.35)
                items.append(Label(x, y, text, size, bounds, REGULAR, palette.muted))
                yield Group(kind, text, tuple(items))
            y += size * _STEP

    def sentences(self) -> tuple[str, ...]:
        """What the foot says, at length: for the speaker's notes, or a page."""
        return (*(starts(self.diagram, mark) for mark in self.marks), *self._details(), *self.notes)

    def _unseen(self) -> list[str]:
        """What the run moved that is not drawn: on a slide in one line."""
        if not self.scale.slide:
            return self._details()
        parts = [self._gathered()] if self.gathered else []
        if streamed := sum(flow.bytes for flow in (*self.diagram.flows, *self.gathered) if flow.tier is Tier.STREAM):
            parts.append(f"through the stream: {human_bytes(streamed)}")
        if moved := sum(flow.bytes for flow in self.diagram.beside):
            parts.append(f"not in this picture: {human_bytes(moved)} that this run moved for other stages")
        return ["  ·  ".join(parts)] if parts else []

    def _gathered(self) -> str:
        count, moved = len(self.gathered), sum(flow.bytes for flow in self.gathered)
        return f"+ {count} small flow{'' if count == 1 else 's'}, {human_bytes(moved)}"

    def _details(self) -> list[str]:
        drawn = {(flow.stage, flow.key) for flow in self.diagram.flows}
        commits = [flow for flow in self.diagram.beside if (flow.stage, flow.key) in drawn]
        outside = [flow for flow in self.diagram.beside if (flow.stage, flow.key) not in drawn]
        lines = [f"{self._gathered()}: {_sums(self.gathered)}."] if self.gathered else []
        if commits:
            lines.append(f"Not drawn: reads of their own tables by commits: {_sums(commits)}.")
        if outside:
            lines.append(f"Also in this run, not in this picture: {_sums(outside)}.")
        return lines

    def _lines(self, right: float) -> Iterator[list[tuple[str, str, str, float]]]:
        """The parts of each line: kind, a trigger's number, the text, and its x. On a slide triggers share a line."""
        s = self.scale
        size, left = s.caption, s.margin
        first = left + self._arrows_width()
        for at, line in enumerate(theme.wrapped(self._key(), size, REGULAR, right - first)):
            yield [("key" if not at else "key-more", "", line, first)]
        parts: list[tuple[str, str, str, float]] = []
        end = left
        for number, mark in enumerate(self.marks, 1):
            text, x = starts(self.diagram, mark), end + size * 1.5 + 8
            if parts and (not s.slide or x + theme.width(text, size) > right):
                yield parts
                parts, x = [], left + size * 1.5 + 8
            parts.append(("trigger", str(number), theme.fitted(text, size, REGULAR, right - x), x))
            end = x + theme.width(text, size) + 18
        if parts:
            yield parts
        for sentence in (*self._unseen(), *self.notes):
            for line in theme.wrapped(sentence, size, REGULAR, right - left):
                yield [("note", "", line, left)]

    def _key(self) -> str:
        parts = []
        if self.diagram.measured:
            second = "change" if self.diagram.against else "" if self.scale.slide else "p95 of one operation"
            counted = "chips and tiers" if self.scale.slide else "chip"
            parts = ["arrow width grows with √bytes", f"{counted}: bytes moved{', and ' + second if second else ''}"]
            if any(flow.estimated for flow in self.diagram.flows):
                parts.append("≈ estimated")
            if any(not flow.ops and not flow.before for flow in self.diagram.flows):
                parts.append("dotted: not used")
        parts.append("bar: from first use to last")
        return " · ".join(parts)

    def _arrows_width(self) -> float:
        size = self.scale.caption
        return sum(15 + theme.width(text, size) + 16 for text in ("read", "write"))

    def _arrows(self, y: float) -> list[Item]:
        size, palette = self.scale.caption, self.palette
        x, items = self.scale.margin, list[Item]()
        for text, colour, up in (("read", palette.read, True), ("write", palette.write, False)):
            low, high = y + 1, y - size * 0.95
            items.append(Line(x + 5, low if up else high, x + 5, high if up else low, colour, 2.5, (4.5, 7)))
            wide = theme.width(text, size)
            items.append(Label(x + 15, y, text, size, Box(x + 15, y - size, wide + 1, size * 1.3), REGULAR, palette.muted))
            x += 15 + wide + 16
        return items


def starts(diagram: Diagram, mark: Mark) -> str:
    """What starts a stage, as a sentence."""
    label = next(stage.label for stage in diagram.stages if stage.name == mark.stage)
    return f"{label} starts on {mark.store} ({mark.tier}): {mark.text}"


def dot(number: str, x: float, centre: float, size: float, palette: Palette) -> list[Item]:
    """A trigger's number on a dot of the ink's colour."""
    box = Box(x, centre - size * 0.75, size * 1.5, size * 1.5)
    baseline = box.y + box.height / 2 + size * theme.CAP_HEIGHT / 2
    return [
        Rect(box, palette.ink, palette.card, 1.5, size * 0.75),
        Label(x + size * 0.75, baseline, number, size, box, SEMIBOLD, palette.card, "middle"),
    ]


def _sums(flows: Sequence[Flow]) -> str:
    """Bytes by stage, largest first."""
    sums: dict[str, int] = {}
    for flow in flows:
        sums[flow.stage] = sums.get(flow.stage, 0) + flow.bytes
    most = sorted(sums.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{stage} {human_bytes(moved)}" for stage, moved in most[:_MOST]]
    if most[_MOST:]:
        parts.append(f"{len(most) - _MOST} more {human_bytes(sum(moved for _, moved in most[_MOST:]))}")
    return ", ".join(parts)
