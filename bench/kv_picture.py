"""The picture of `bench.kv`: how long restoring a prefix takes from each kind of storage, beside computing it.

`python -m bench.kv_picture MEASURED.json FILE.svg` draws what `python -m bench.kv` printed.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.explain.diagram import theme
from headrace.explain.diagram.scene import Anchor, Box, Group, Item, Label, Line, Rect, Scene
from headrace.explain.diagram.svg import svg
from headrace.explain.diagram.theme import BOLD, LIGHT, REGULAR, SEMIBOLD

_KINDS = {
    "recompute": "computed",
    "memory": "memory in front",
    "page cache": "files, page cache",
    "file": "files, pages dropped",
    "network mount": "mounted by FUSE",
    "objects": "S3",
}
_WIDTH, _HEIGHT, _MARGIN = 1280.0, 720.0, 60.0
_PLOT = Box(_MARGIN + 180, 120, _WIDTH - 2 * _MARGIN - 300, 520)
_SIZE = 16.0


def picture(rows: Sequence[Mapping[str, Any]]) -> str:
    """Bars of `measure`'s `first_token` rows, a group for each length, milliseconds by their logarithm; as SVG."""
    p = LIGHT
    times = [{"recompute": row["p50_ms"]["recompute"] - row["rest_p50_ms"], **row["restore_p50_ms"]} for row in rows]
    low = math.floor(math.log10(min(min(found.values()) for found in times)))
    high = math.ceil(math.log10(max(max(found.values()) for found in times)))

    def x(ms: float) -> float:
        return _PLOT.x + _PLOT.width * (math.log10(ms) - low) / (high - low)

    best = max(found["recompute"] / found[kind] for found in times for kind in ("page cache", "file"))
    title = f"A prefix is restored from files up to {float(f'{best:.2g}'):.0f} times as fast as it is computed"
    groups = [Group("headline", title, (_text(_MARGIN, 66, title, 34, BOLD, p.ink, _WIDTH - 2 * _MARGIN),))]
    axis: list[Item] = []
    for tenth in range(low, high + 1):
        axis.append(Line(x(10**tenth), _PLOT.y, x(10**tenth), _PLOT.bottom, p.rule, 1.0))
        label = f"{10**tenth:,} ms" if tenth < 3 else f"{10 ** (tenth - 3):,} s"
        axis.append(_text(x(10**tenth), _PLOT.bottom + 26, label, _SIZE, REGULAR, p.muted, 120, "middle"))
    groups.append(Group("axis", "Milliseconds, by their logarithm", tuple(axis)))
    height = _PLOT.height / sum(len(found) + 1.5 for found in times)
    top = _PLOT.y
    for row, found in zip(rows, times, strict=True):
        items: list[Item] = [
            _text(_MARGIN, top + height, f"{row['restored_tokens']:,} tokens", _SIZE, SEMIBOLD, p.ink, 170),
        ]
        top += 1.3 * height
        for kind in (kind for kind in _KINDS if kind in found):
            colour = p.muted if kind == "recompute" else p.read
            items.append(Rect(Box(_PLOT.x, top + 0.1 * height, x(found[kind]) - _PLOT.x, 0.8 * height), colour))
            items.append(_text(_PLOT.x - 10, top + 0.75 * height, _KINDS[kind], _SIZE, REGULAR, p.ink, 170, "end"))
            times_as_fast = "" if kind == "recompute" else f", {found['recompute'] / found[kind]:.0f} times as fast"
            words = f"{_said(found[kind])}{times_as_fast}"
            items.append(_text(x(found[kind]) + 8, top + 0.75 * height, words, _SIZE, SEMIBOLD, p.ink, 240))
            top += height
        top += 0.2 * height
        told = ", ".join(f"{_KINDS[kind]} {_said(found[kind])}" for kind in _KINDS if kind in found)
        groups.append(Group("length", f"{row['restored_tokens']:,} tokens: {told}", tuple(items)))
    return svg(Scene(_WIDTH, _HEIGHT, title, f"{title}. {'; '.join(group.alt for group in groups[2:])}.", tuple(groups), p))


def _said(ms: float) -> str:
    return f"{ms:.0f} ms" if ms < 1e3 else f"{ms / 1e3:.1f} s"


def _text(x: float, y: float, text: str, size: float, weight: int, colour: str, limit: float, anchor: Anchor = "start") -> Label:
    left = x - {"start": 0.0, "middle": limit / 2, "end": limit}[anchor]
    words = theme.fitted(text, size, weight, limit)
    return Label(x, y, words, size, Box(left, y - size, limit, size * 1.35), weight, colour, anchor)


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(picture(json.loads(Path(sys.argv[1]).read_text())["first_token"]))
