"""Draws a score into a file; the file's suffix chooses how."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from headrace.core.run import write_atomically
from headrace.errors import WrongUsage
from headrace.explain.diagram.diagram import Score
from headrace.explain.diagram.layout import scene_of
from headrace.explain.diagram.markdown import markdown
from headrace.explain.diagram.png import png
from headrace.explain.diagram.svg import svg

# Adding a backend: a module with one function of a scene (or of the score), and a line here.
BACKENDS: dict[str, Callable[[Score, bool], bytes]] = {
    ".svg": lambda score, triggers: svg(scene_of(score, triggers=triggers)).encode(),
    ".png": lambda score, triggers: png(scene_of(score, triggers=triggers)),
    ".md": lambda score, triggers: markdown(score, triggers=triggers).encode(),
}


def draw(score: Score, path: Path, *, triggers: bool = True) -> None:
    """Draw a score into a file, whole or not at all; its suffix chooses the backend.

    Folders on the way are made. Raises `WrongUsage` for a suffix that no backend has, `StorageFull` where the disk is.
    """
    path = Path(path)
    backend = BACKENDS.get(path.suffix.lower())
    if backend is None:
        raise WrongUsage(
            f"A score cannot be drawn as {path.suffix or path.name!r}.",
            hint=f"Name a file that ends in {', '.join(list(BACKENDS)[:-1])} or {list(BACKENDS)[-1]}.",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, backend(score, triggers), mode=0o644)
