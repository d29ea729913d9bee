"""A scene as PNG, drawn from its SVG with the font files that the layout measured."""

from __future__ import annotations

import resvg_py

from headrace.explain.diagram import fonts
from headrace.explain.diagram.scene import Scene
from headrace.explain.diagram.svg import svg


def png(scene: Scene, *, zoom: float = 2.0) -> bytes:
    """The scene as PNG bytes, `zoom` pixels to the scene's unit; fonts of the machine are not looked at."""
    data: bytes = resvg_py.svg_to_bytes(
        svg_string=svg(scene, embed=False),
        zoom=zoom,
        skip_system_fonts=True,
        font_files=[str(path) for path in fonts.files()],
        font_family=fonts.FAMILY,
        sans_serif_family=fonts.FAMILY,
    )
    return bytes(data)
