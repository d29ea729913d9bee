"""The colours of the pictures.

Nothing is said by colour alone: lanes are titled, arrows have heads, feedback is dashed and named.

White text on a tier's colour has a contrast of at least 4.5:1 (WCAG 2.2, 1.4.3), and the four stay apart for readers with
deuteranopia, protanopia and tritanopia; a test computes both.
"""

from __future__ import annotations

from headrace.catalog import Tier

INK = "#0F172A"
MUTED = "#475569"
FAINT = "#94A3B8"
RULE = "#CBD5E1"
CARD = "#FFFFFF"
EDGE = "#E2E8F0"
STRIP = "#F8FAFC"
READ = "#1D4ED8"
WRITE = "#B34A00"
IDLE = "#64748B"
FEEDBACK = "#731DC9"
TRIGGER = "#0F172A"

TIERS: dict[Tier, str] = {
    Tier.STREAM: "#475569",
    Tier.FILE: "#B34A00",
    Tier.VECTOR: "#0072B2",
    Tier.TABLE: "#00795A",
    Tier.OBJECT: "#3B4256",
}


def tint(colour: str, share: float = 0.07) -> str:
    """The colour thinned with white: `share` of it remains."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 - (255 - part) * share):02X}" for part in parts)


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, 1 to 21 (WCAG 2.2, "contrast ratio")."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def linear(colour: str) -> tuple[float, float, float]:
    """A colour's red, green and blue in linear light, 0 to 1 (IEC 61966-2-1)."""
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return red, green, blue


def _luminance(colour: str) -> float:
    red, green, blue = linear(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
