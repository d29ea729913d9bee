"""What PowerPoint shapes need beyond python-pptx: no style of the theme, a name with alternative text, and colours."""

from __future__ import annotations

from typing import Any

from pptx.dml.color import RGBColor
from pptx.oxml.ns import qn

from headrace.explain.diagram.scene import xml_text


def plain(shape: Any) -> None:
    """Remove the theme's style, which brings a shadow and colours of its own."""
    style = shape._element.find(qn("p:style"))
    if style is not None:
        shape._element.remove(style)


def describe(shape: Any, name: str, alt: str) -> None:
    """Name a shape, with its number after the name, and give it alternative text unless that is empty."""
    properties = shape._element.xpath(".//p:cNvPr")[0]
    properties.set("name", f"{name} {properties.get('id')}")
    if alt:
        properties.set("descr", xml_text(alt))


def rgb(colour: str) -> RGBColor:
    """A colour as "#0072B2"."""
    return RGBColor.from_string(colour.removeprefix("#"))
