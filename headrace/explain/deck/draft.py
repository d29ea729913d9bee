"""A slide in the making: it says only numbers of the run, and writes how each was measured into the speaker's notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from headrace.catalog import Tier
from headrace.explain.deck.brand import Brand
from headrace.explain.deck.canvas import Area, Canvas, Style
from headrace.explain.deck.numbers import Number, Numbers, SlideHeadline, headline
from headrace.explain.sizing.sizing import Sizing

TIERS = (Tier.OBJECT, Tier.TABLE, Tier.VECTOR, Tier.FILE, Tier.STREAM)


@dataclass
class Draft:
    """What a slide is made from, and its canvas. `pipelines` has the stages of each step of a slide, by pipeline and title."""

    canvas: Canvas
    numbers: Numbers
    brand: Brand
    sizing: Sizing
    audience: str
    title: str = ""
    _said: dict[str, str] = field(default_factory=dict)
    _notes: list[str] = field(default_factory=list)

    def headline(self, *candidates: SlideHeadline) -> None:
        """Put the first headline that is true on the slide. Raises `Permanent` where none is."""
        chosen = headline(self.numbers.run, *candidates)
        for number in chosen.numbers:
            self.say(number)
        self.title = chosen.text
        self.canvas.headline(chosen.text)

    def say(self, number: Number) -> str:
        """A number's text, for a slide; the notes say how it was measured."""
        self._said[number.name] = number.how
        return number.text.replace(" ", "\u00a0")  # a number and its unit stay on one line

    def note(self, *sentences: str) -> None:
        """Sentences for the speaker."""
        self._notes += sentences

    def notes(self) -> str:
        """The speaker's notes: the headline, what to say, and how each number was measured."""
        parts = [self.title, *self._notes]
        if self._said:
            parts += ["How it was measured:", *(f"- {how}" for how in self._said.values())]
        parts.append(f"The run: {self.numbers.run}, headrace {self.numbers.command}, {self.numbers.started:%Y-%m-%d %H:%M} UTC.")
        return "\n".join(parts)

    def colour(self, tier: Tier) -> str:
        """A tier's colour."""
        return self.brand.colours.of(tier)

    def card(self, area: Area, number: Number, words: str, *, colour: str = "") -> None:
        """A number, large, and words below it."""
        colours = self.brand.colours
        said = self.say(number)
        self.canvas.box(
            area,
            (said, Style(30.0, bold=True, colour=colour or colours.accent, align="left", anchor="middle")),
            (words, Style(14.0, colour=colours.ink, align="left")),
            fill="#F1F5F9",
            alt=f"{said} {words}",
            name="Card",
        )

    def points(self, area: Area, title: str, sentences: Sequence[str], *, size: float = 17.0) -> None:
        """A title and sentences below it, as large as they fit, at most `size`."""
        self.canvas.text(
            area,
            (title, Style(size + 1, bold=True, colour=self.brand.colours.accent)),
            *[(sentence, Style(size, bullet=True)) for sentence in sentences],
        )
