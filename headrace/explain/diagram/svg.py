"""A scene as self-contained SVG, with embedded glyphs, a title, a description and a tooltip for every group."""

from __future__ import annotations

import base64

from headrace.explain.diagram import theme
from headrace.explain.diagram.scene import Item, Label, Line, Rect, Scene, xml_text


def svg(scene: Scene, *, embed: bool = True) -> str:
    """The scene as an SVG document, one user unit per unit of the scene.

    `embed` includes the used glyphs as a font, so that it looks the same everywhere.
    """
    width, height = _n(scene.width), _n(scene.height)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'role="img" aria-labelledby="title description" font-kerning="none" '
        f"font-family=\"'{theme.FAMILY}','Source Sans 3',Calibri,Carlito,sans-serif\">",
        f'<title id="title">{escaped(scene.title)}</title>',
        f'<desc id="description">{escaped(scene.description)}</desc>',
        f"<style>{_faces(scene) if embed else ''}text{{font-kerning:none;white-space:pre}}</style>",
        f'<rect x="0.5" y="0.5" width="{_n(scene.width - 1)}" height="{_n(scene.height - 1)}" rx="14" '
        f'fill="{scene.palette.card}" stroke="{scene.palette.edge}"/>',
    ]
    for group in scene.groups:
        parts.append(f'<g class="{escaped(group.kind)}"><title>{escaped(group.alt)}</title>')
        parts += [_drawn(item) for item in group.items]
        parts.append("</g>")
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Text escaped for XML content and attributes; characters not allowed in XML become `\ufffd`."""
    text = xml_text(text)
    for sign, name in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&#39;")):
        text = text.replace(sign, name)
    return text


def _faces(scene: Scene) -> str:
    used: dict[int, set[str]] = {}
    for group in scene.groups:
        for item in group.items:
            if isinstance(item, Label):
                used.setdefault(item.weight, set()).update(item.text)
    return "".join(
        f"@font-face{{font-family:'{theme.FAMILY}';font-weight:{weight};src:url(data:font/woff;base64,"
        f"{base64.b64encode(theme.subset(weight, letters)).decode()}) format('woff')}}"
        for weight, letters in sorted(used.items())
    )


def _drawn(item: Item) -> str:
    if isinstance(item, Rect):
        return _rect(item)
    if isinstance(item, Line):
        return _line(item)
    # Programs that ignore embedded fonts fit the letters of their own font to the length.
    return (
        f'<text x="{_n(item.x)}" y="{_n(item.y)}" font-size="{_n(item.size)}" font-weight="{item.weight}" '
        f'fill="{item.colour}" text-anchor="{item.anchor}" textLength="{_n(item.box.width)}" '
        f'lengthAdjust="spacingAndGlyphs">{escaped(item.text)}</text>'
    )


def _rect(item: Rect) -> str:
    box = item.box
    stroke = f' stroke="{item.stroke}" stroke-width="{_n(item.stroke_width)}"' if item.stroke else ""
    return (
        f'<rect x="{_n(box.x)}" y="{_n(box.y)}" width="{_n(box.width)}" height="{_n(box.height)}" '
        f'rx="{_n(item.radius)}" fill="{item.fill or "none"}"{stroke}{_dash(item.dash)}/>'
    )


def _line(item: Line) -> str:
    points = " ".join(f"{_n(x)},{_n(y)}" for x, y in item.arrowhead)
    head = f'<polygon points="{points}" fill="{item.colour}"/>' if points else ""
    x2, y2 = item.shaft
    ends = f'x1="{_n(item.x1)}" y1="{_n(item.y1)}" x2="{_n(x2)}" y2="{_n(y2)}"'
    return f'<line {ends} stroke="{item.colour}" stroke-width="{_n(item.width)}"{_dash(item.dash)}/>{head}'


def _dash(dash: tuple[float, ...]) -> str:
    return f' stroke-dasharray="{" ".join(_n(part) for part in dash)}"' if dash else ""


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
