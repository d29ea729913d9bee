"""Draws a diagram into a file, in the format of its suffix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import resvg_py

from headrace.atomic import write_atomically
from headrace.errors import WrongUsage
from headrace.explain.diagram import theme
from headrace.explain.diagram.diagram import Diagram
from headrace.explain.diagram.markdown import markdown, mermaid
from headrace.explain.diagram.scene import Scene
from headrace.explain.diagram.slide import slide
from headrace.explain.diagram.svg import svg
from headrace.explain.diagram.theme import LIGHT, Palette
from headrace.explain.diagram.views import Detail, View, scene_for


def png(scene: Scene, *, zoom: float = 2.0) -> bytes:
    """The scene as PNG bytes, with `zoom` pixels per unit; without system fonts."""
    data: bytes = resvg_py.svg_to_bytes(
        svg_string=svg(scene, embed=False),
        zoom=zoom,
        skip_system_fonts=True,
        font_files=[str(path) for path in theme.files()],
        font_family=theme.FAMILY,
        sans_serif_family=theme.FAMILY,
    )
    return bytes(data)


def _pdf(scene: Scene) -> bytes:
    from headrace.explain.diagram.pdf import pdf  # takes a quarter of a second to import

    return pdf(scene)


def _pptx(scene: Scene) -> bytes:
    from headrace.explain.diagram.pptx import pptx

    return pptx(scene)


# To add a backend: a function of the scene, or of the diagram, and a line here.
SCENES: dict[str, Callable[[Scene], bytes]] = {
    ".svg": lambda scene: svg(scene).encode(),
    ".png": png,
    ".pdf": _pdf,
    ".pptx": _pptx,
}
TEXTS: dict[str, Callable[[Diagram, bool], bytes]] = {
    ".md": lambda diagram, triggers: markdown(diagram, slide(diagram), triggers=triggers).encode(),
    ".mmd": lambda diagram, triggers: mermaid(slide(diagram).diagram).encode(),
}


def draw(
    diagram: Diagram,
    path: Path,
    *,
    view: View = View.STORAGE,
    detail: Detail = Detail.SLIDE,
    palette: Palette = LIGHT,
    triggers: bool = True,
) -> str:
    """Draw a diagram into a file, atomically, with the backend for its suffix; returns the title of what was drawn.

    Text (.md, .mmd) has every view. Creates missing folders. Raises `WrongUsage` for an unknown suffix, `StorageFull` if the disk
    is full, and as `scene_for`.
    """
    path = Path(path)
    if (text := TEXTS.get(path.suffix.lower())) is not None:
        write_atomically(path, text(diagram, triggers), mode=0o644)
        return diagram.title
    backend = _backend(path, (*SCENES, *TEXTS))
    scene = scene_for(diagram, view=view, detail=detail, palette=palette, triggers=triggers)
    write_atomically(path, backend(scene), mode=0o644)
    return scene.title


def draw_scene(scene: Scene, path: Path) -> None:
    """Draw any scene into a file, as `draw` does."""
    write_atomically(path, _backend(path, tuple(SCENES))(scene), mode=0o644)


def _backend(path: Path, suffixes: Sequence[str]) -> Callable[[Scene], bytes]:
    found = SCENES.get(path.suffix.lower())
    if found is None:
        *others, last = suffixes
        raise WrongUsage(
            f"A diagram cannot be drawn as {path.suffix or path.name!r}.",
            hint=f"Name a file that ends in {', '.join(others)} or {last}.",
        )
    return found
