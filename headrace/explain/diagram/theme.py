"""Colours and font of the diagrams."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import font_source_sans_pro

from headrace.catalog import Tier


@dataclass(frozen=True)
class Palette:
    """The colours of a picture, as `#RRGGBB`.

    `tiers` fill bars that carry `on_tier` text; `tier_inks` are for text on a lane, whose ground is `tint(tiers[tier])`.
    """

    name: str
    ink: str
    muted: str
    faint: str
    rule: str
    card: str
    edge: str
    strip: str
    read: str
    write: str
    idle: str
    feedback: str
    tiers: Mapping[Tier, str]
    tier_inks: Mapping[Tier, str]
    share: float = 0.07
    on_tier: str = "#FFFFFF"

    def tint(self, colour: str) -> str:
        """The colour mixed with the card's; `share` of it remains."""
        ground = _parts(self.card)
        return "#" + "".join(f"{round(g + (c - g) * self.share):02X}" for g, c in zip(ground, _parts(colour), strict=True))


_TIERS = {
    Tier.STREAM: "#475569",
    Tier.FILE: "#B34A00",
    Tier.VECTOR: "#0072B2",
    Tier.TABLE: "#00795A",
    Tier.OBJECT: "#3B4256",
}
LIGHT = Palette(
    "light", ink="#0F172A", muted="#475569", faint="#94A3B8", rule="#CBD5E1", card="#FFFFFF", edge="#E2E8F0", strip="#F8FAFC",
    read="#1D4ED8", write="#B34A00", idle="#64748B", feedback="#731DC9", tiers=_TIERS, tier_inks=_TIERS,
)  # fmt: skip
DARK = Palette(
    "dark", ink="#E6EBF3", muted="#A3B0C2", faint="#64748B", rule="#3A475C", card="#161E2D", edge="#2D394C", strip="#1B2436",
    read="#8DB4FF", write="#F39B5F", idle="#94A3B8", feedback="#C9A2FF",
    tiers={**_TIERS, Tier.OBJECT: "#566080"},
    tier_inks={
        Tier.STREAM: "#A3B0C2", Tier.FILE: "#F08A4B", Tier.VECTOR: "#5AB0E6", Tier.TABLE: "#43C69C", Tier.OBJECT: "#A9B4D0",
    },
    share=0.14,
)  # fmt: skip
PALETTES = {palette.name: palette for palette in (LIGHT, DARK)}


def _parts(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, 1 to 21 (WCAG 2.2, "contrast ratio")."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def linear(colour: str) -> tuple[float, float, float]:
    """A colour's red, green and blue in linear light, 0 to 1 (IEC 61966-2-1)."""
    parts = (part / 255 for part in _parts(colour))
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return red, green, blue


def _luminance(colour: str) -> float:
    red, green, blue = linear(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


FAMILY = "Source Sans Pro"
REGULAR, SEMIBOLD, BOLD = 400, 600, 700
CAP_HEIGHT = 0.66  # of the font's size; OS/2 sCapHeight of all three weights
_FILES = {REGULAR: "SourceSansPro-Regular.ttf", SEMIBOLD: "SourceSansPro-Semibold.ttf", BOLD: "SourceSansPro-Bold.ttf"}


def file(weight: int) -> Path:
    """Path of the font file for a weight."""
    return Path(font_source_sans_pro.font_directory) / _FILES[weight]


def files() -> list[Path]:
    """The font files of all weights in use."""
    return [file(weight) for weight in _FILES]


@cache
def _advances(weight: int) -> tuple[dict[int, float], float]:
    from fontTools.ttLib import TTFont

    with TTFont(file(weight), lazy=True) as font:
        em = float(font["head"].unitsPerEm)
        widths = font["hmtx"].metrics
        return {code: widths[glyph][0] / em for code, glyph in font.getBestCmap().items()}, 1.0


def width(text: str, size: float, weight: int = REGULAR) -> float:
    """The width of a line of text at a font size, in the same unit."""
    advances, missing = _advances(weight)
    return size * sum(advances.get(ord(character), missing) for character in text)


def fitted(text: str, size: float, weight: int, limit: float) -> str:
    """The text, cut with an ellipsis if it is wider than `limit`."""
    if width(text, size, weight) <= limit:
        return text
    shortened = text
    while shortened and width(shortened.rstrip() + "…", size, weight) > limit:
        shortened = shortened[:-1]
    return shortened.rstrip() + "…"


def wrapped(text: str, size: float, weight: int, limit: float) -> list[str]:
    """The text in lines no wider than `limit`; a wider single word is cut with an ellipsis."""
    lines: list[str] = []
    for word in text.split():
        if lines and width(f"{lines[-1]} {word}", size, weight) <= limit:
            lines[-1] = f"{lines[-1]} {word}"
        else:
            lines.append(fitted(word, size, weight, limit))
    return lines


def subset(weight: int, characters: Iterable[str]) -> bytes:
    """A WOFF file with only the glyphs of these characters; the same characters give the same bytes."""
    from fontTools import subset as subsetting
    from fontTools.ttLib import TTFont

    options = subsetting.Options(flavor="woff", layout_features=[], hinting=False, notdef_outline=True)
    options.recalc_timestamp = False
    with TTFont(file(weight), recalcTimestamp=False) as font:
        for table in ("GDEF", "GPOS", "GSUB"):  # ligatures and kerning, which diagrams do not use: nine tenths of the work
            del font[table]
        cut = subsetting.Subsetter(options)
        cut.populate(text="".join(sorted(set(characters))))
        cut.subset(font)
        font.flavor = "woff"
        out = io.BytesIO()
        font.save(out)
    return out.getvalue()
