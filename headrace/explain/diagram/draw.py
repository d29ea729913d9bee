"""Draws a diagram into a file, in the format of its suffix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import resvg_py

from headrace.atomic import write_atomically
from headrace.errors import WrongUsage
from headrace.explain.diagram import theme
from headrace.explain.diagram.diagram import Diagram, Flow
from headrace.explain.diagram.format import human_bytes, human_count, human_ms
from headrace.explain.diagram.layout import scene_for
from headrace.explain.diagram.scene import Scene
from headrace.explain.diagram.svg import svg


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


_SPECIAL = "\\`*_{}[]<>()#+-!|~&"


def markdown(diagram: Diagram, *, triggers: bool = True) -> str:
    """The diagram as text and a table: stage, direction, store, tier, bytes, operations, 95th percentile."""
    measured = f"{plain(diagram.command)}, run {plain(diagram.run_id)}, {diagram.when:%Y-%m-%d %H:%M} UTC"
    lines = [
        f"# {plain(diagram.headline.text)}",
        "",
        f"{plain(diagram.sentence)} Measured: {measured}.",
        "",
        *_table(
            [flow for stage in diagram.stages for flow in diagram.flows if flow.stage == stage.name],
            {stage.name: f"{stage.label} ({stage.phase})" if stage.phase else stage.label for stage in diagram.stages},
        ),
    ]
    if triggers and diagram.marks:
        lines += ["", "Triggers of stages:", ""]
        lines += [f"- {plain(mark.stage)}, on {plain(mark.store)} ({mark.tier}): {plain(mark.text)}" for mark in diagram.marks]
    if diagram.beside:
        lines += ["", "Also in this run, not in this picture:", "", *_table(diagram.beside, {})]
    return "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """Text escaped for Markdown, on one line."""
    return "".join(f"\\{sign}" if sign in _SPECIAL else sign for sign in " ".join(text.split()))


def _table(flows: list[Flow] | tuple[Flow, ...], labels: dict[str, str]) -> list[str]:
    lines = [
        "| stage | direction | store | tier | bytes | operations | p95 |",
        "|---|---|---|---|---:|---:|---:|",
    ]
    for flow in flows:
        stage = plain(labels.get(flow.stage, flow.stage))
        moved = f"{'≈' if flow.estimated else ''}{human_bytes(flow.bytes)}"
        slow = human_ms(flow.p95_ms) if flow.ops else "idle"
        cells = (stage, flow.direction, plain(flow.store), flow.tier, moved, human_count(flow.ops), slow)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


# To add a backend: a function of the scene (or of the diagram), and a line here.
BACKENDS: dict[str, Callable[[Diagram, bool], bytes]] = {
    ".svg": lambda diagram, triggers: svg(scene_for(diagram, triggers=triggers)).encode(),
    ".png": lambda diagram, triggers: png(scene_for(diagram, triggers=triggers)),
    ".md": lambda diagram, triggers: markdown(diagram, triggers=triggers).encode(),
}


def draw(diagram: Diagram, path: Path, *, triggers: bool = True) -> None:
    """Draw a diagram into a file, atomically, with the backend for its suffix.

    Creates missing folders. Raises `WrongUsage` for an unknown suffix, `StorageFull` if the disk is full.
    """
    path = Path(path)
    backend = BACKENDS.get(path.suffix.lower())
    if backend is None:
        raise WrongUsage(
            f"A diagram cannot be drawn as {path.suffix or path.name!r}.",
            hint=f"Name a file that ends in {', '.join(list(BACKENDS)[:-1])} or {list(BACKENDS)[-1]}.",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, backend(diagram, triggers), mode=0o644)
