"""A presenter's brand: name, colours, fonts, logo, and product names per tier, from a TOML file."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from headrace.catalog import Tier
from headrace.errors import BadSettings
from headrace.explain.diagram import theme
from headrace.explain.diagram.theme import LIGHT, Palette
from headrace.regular_file import read_regular

LEAST_CONTRAST = 4.5  # WCAG 2.2, text of normal size
_LOGO_BYTES = 5 << 20
_LOGOS = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG"}

Colour = Annotated[str, StringConstraints(pattern=r"^#[0-9A-Fa-f]{6}$", to_upper=True)]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=40)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Colours(_Part):
    """Colours as `#RRGGBB`. Each needs a contrast of 4.5:1 with white: text is written in it, or in white on it."""

    accent: Colour = "#0F3D5C"
    """The line beside a headline, and marks."""
    ink: Colour = LIGHT.ink
    """Text."""
    muted: Colour = LIGHT.muted
    """Secondary text."""
    read: Colour = LIGHT.read
    """What is read."""
    write: Colour = LIGHT.write
    """What is written."""
    feedback: Colour = LIGHT.feedback
    """The way back of what users said."""
    stream: Colour = LIGHT.tiers[Tier.STREAM]
    file: Colour = LIGHT.tiers[Tier.FILE]
    vector: Colour = LIGHT.tiers[Tier.VECTOR]
    table: Colour = LIGHT.tiers[Tier.TABLE]
    object: Colour = LIGHT.tiers[Tier.OBJECT]

    @model_validator(mode="after")
    def _legible(self) -> Colours:
        for name, colour in self:
            if (ratio := theme.contrast(colour, "#FFFFFF")) < LEAST_CONTRAST:
                raise ValueError(f"{name} {colour} has a contrast of {ratio:.1f}:1 with white; text needs {LEAST_CONTRAST}:1")
        return self

    def of(self, tier: Tier) -> str:
        """A tier's colour."""
        return str(getattr(self, tier.value))


_WIDER = {"calibri": 1.0, "carlito": 1.0, "times new roman": 1.03, "garamond": 1.0, "georgia": 1.16, "verdana": 1.32}
_WIDEST = 1.15  # of other fonts: Arial, Helvetica and Segoe UI are so much wider than Calibri


def widening(font: str) -> float:
    """How much wider than Calibri a font may be."""
    return _WIDER.get(font.lower(), _WIDEST)


class Fonts(_Part):
    """Names of fonts. The default, Calibri, is in office programs or replaced by one of the same widths."""

    heading: Name = "Calibri"
    body: Name = "Calibri"


class Products(_Part):
    """The presenter's product for each tier, as slides name it beside the tier."""

    stream: Name | None = None
    file: Name | None = None
    vector: Name | None = None
    table: Name | None = None
    object: Name | None = None


class Brand(_Part):
    """All of it; every key has a default."""

    name: Name | None = None
    """Whose slides they are: at the foot of each."""
    logo: Path | None = None
    """A PNG or JPEG file, beside the brand file unless the path is absolute."""
    colours: Colours = Field(default_factory=Colours)
    fonts: Fonts = Field(default_factory=Fonts)
    products: Products = Field(default_factory=Products)

    @field_validator("logo")
    @classmethod
    def _picture(cls, path: Path | None) -> Path | None:
        if path is None:
            return None
        try:
            data = read_regular(path, most_bytes=_LOGO_BYTES)
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from None
        if not any(data.startswith(magic) for magic in _LOGOS):
            raise ValueError(f"{path} is neither a PNG nor a JPEG file")
        return path

    @property
    def palette(self) -> Palette:
        """The colours for a diagram."""
        colours = self.colours
        tiers = {tier: colours.of(tier) for tier in Tier}
        return replace(
            LIGHT,
            ink=colours.ink,
            muted=colours.muted,
            read=colours.read,
            write=colours.write,
            feedback=colours.feedback,
            tiers=tiers,
            tier_inks=tiers,
        )

    @property
    def named(self) -> dict[str, str]:
        """The products by tier, of those that are named."""
        return {str(tier): str(product) for tier, product in self.products if product}

    def tier(self, tier: Tier) -> str:
        """How slides name a tier: the tier, or the tier and the product."""
        product = getattr(self.products, tier.value)
        return f"{tier.value.capitalize()}: {product}" if product else tier.value.capitalize()


def load_brand(path: Path | None) -> Brand:
    """The brand of a file, or the default one. Raises `BadSettings` that names what is wrong and where."""
    if path is None:
        return Brand()
    try:
        values: dict[str, Any] = tomllib.loads(read_regular(path).decode())
    except OSError as error:
        raise BadSettings(f"The brand file {path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise BadSettings(f"The brand file {path} is not TOML: {error}.") from None
    if isinstance(logo := values.get("logo"), str):
        values["logo"] = path.parent / logo
    try:
        return Brand(**values)
    except ValidationError as error:
        faults = [
            f"  {'.'.join(map(str, fault['loc'])) or 'brand'}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors()
        ]
        raise BadSettings(
            f"The brand file {path} cannot be used:\n" + "\n".join(faults), hint="See docs/how-to/make-slides.md."
        ) from None
