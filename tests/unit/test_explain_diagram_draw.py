"""The backends: SVG, PNG and Markdown files, escaping, numbers as people read them, colours."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest
from fontTools.ttLib import TTFont

from headrace.catalog import Tier
from headrace.errors import WrongUsage
from headrace.explain.diagram import theme
from headrace.explain.diagram.diagram import Diagram
from headrace.explain.diagram.draw import draw, png
from headrace.explain.diagram.flow import Flow, Mark, StageBox
from headrace.explain.diagram.format import WIDEST_BYTES, WIDEST_MS, human_bytes, human_count, human_ms, percent
from headrace.explain.diagram.headline import Headline
from headrace.explain.diagram.layout import storage_scene
from headrace.explain.diagram.markdown import markdown
from headrace.explain.diagram.scene import Label
from headrace.explain.diagram.slide import slide
from headrace.explain.diagram.svg import svg
from headrace.storage.ledger import Direction

HOSTILE = "<script>alert('x')</script> & \"]]>\x00|`*"
SVG = "{http://www.w3.org/2000/svg}"


def diagram(name: str = "documents", label: str = "Parse") -> Diagram:
    return Diagram(
        "inference",
        f"Sentence of {name}.",
        (StageBox("parse", label, f"About {label}."),),
        (
            Flow("parse", name, Tier.OBJECT, Direction.READ, 48_200_000, 12, 850.0),
            Flow("parse", name, Tier.TABLE, Direction.WRITE, 3, 1, 0.1, True),
            Flow("parse", "events", Tier.STREAM, Direction.READ),
        ),
        Headline(f"48 MB of {name}", lambda moved: True),
        "run-1",
        datetime(2026, 8, 1, tzinfo=UTC),
        "headrace index",
        marks=(Mark(name, Tier.OBJECT, "parse", name),),
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (3, "3 B"), (999, "999 B"), (1000, "1 KB"), (1234, "1.2 KB"), (99_949, "99.9 KB"), (99_950, "100 KB"),
     (999_499, "999 KB"), (999_500, "1 MB"), (48_200_000, "48.2 MB"),
     (1_300_000_000_000, "1.3 TB"), (5 * 10**21, "5000 EB")],
)  # fmt: skip
def test_bytes_read_in_decimal_units(count: int, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "0 ms"), (0.02, "<0.1 ms"), (0.1, "0.1 ms"), (3.44, "3.4 ms"), (9.96, "10 ms"), (850, "850 ms"), (999.6, "1 s"),
     (1234, "1.2 s"), (12_000, "12 s"), (99_960, "2 min"), (7_200_000, "2 h")],
)  # fmt: skip
def test_milliseconds_read_in_the_unit_that_fits(ms: float, text: str) -> None:
    assert human_ms(ms) == text


def test_reserved_forms_are_the_widest_there_are() -> None:
    room = max(theme.width(text, 12, theme.SEMIBOLD) for text in WIDEST_BYTES)
    counts = [int(m * 10**e) for e in range(16) for m in (1, 1.11, 4.44, 8.88, 88.8, 888.8, 999.4)]
    assert max(theme.width(f"≈{human_bytes(count)}", 12, theme.SEMIBOLD) for count in counts) <= room
    slow = max(theme.width(text, 12) for text in WIDEST_MS)
    times = [m * 10**e for e in range(-3, 8) for m in (1, 4.44, 8.88)]
    assert max(theme.width(human_ms(ms), 12) for ms in times) <= slow


def test_counts_and_shares() -> None:
    assert human_count(950) == "950"
    assert human_count(12_400) == "12,400"
    assert [percent(share) for share in (0, 0.001, 0.714, 0.999, 1)] == ["0 %", "1 %", "71 %", "99 %", "100 %"]


def test_svg_is_well_formed_titled_and_says_every_flow() -> None:
    root = ElementTree.fromstring(svg(storage_scene(diagram())))
    assert root.get("role") == "img"
    assert root.findtext(f"{SVG}title") == "48 MB of documents"
    assert "parse reads 48.2 MB from documents (object): 12 operations, 95 % within 850 ms" in (root.findtext(f"{SVG}desc") or "")
    tooltips = [group.findtext(f"{SVG}title") or "" for group in root.iter(f"{SVG}g") if group.get("class") == "flow"]
    assert len(tooltips) == 3
    assert any(tip.startswith("parse writes about 3 B") for tip in tooltips)
    assert any("reads nothing from events" in tip for tip in tooltips)


def test_hostile_names_stay_text() -> None:
    drawn = svg(storage_scene(diagram(HOSTILE, HOSTILE)))
    root = ElementTree.fromstring(drawn)
    assert {element.tag for element in root.iter()} <= {
        SVG + tag for tag in ["svg", "title", "desc", "style", "rect", "line", "polygon", "text", "g"]
    }
    assert "<script" not in drawn
    assert "\x00" not in drawn
    assert "<script>alert('x')</script>" in (root.findtext(f"{SVG}title") or "")
    assert png(storage_scene(diagram(HOSTILE, HOSTILE))).startswith(b"\x89PNG")


def test_markdown_escapes_and_keeps_its_table() -> None:
    hostile = diagram(HOSTILE, "Pa|rse\n# no")
    text = markdown(hostile, slide(hostile))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 3
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 8 for line in rows)
    assert "<script" not in text.replace("\\<", "")
    assert not any(line.startswith("# no") for line in text.splitlines())


def test_markdown_tells_every_flow_and_what_is_beside() -> None:
    drawn = replace(diagram(), beside=(Flow("record", "runs", Tier.TABLE, Direction.WRITE, 12_000, 1, 3.0),))
    text = markdown(drawn, slide(drawn))
    assert "| Parse | read | documents | object | 48.2 MB | 12 | 850 ms |" in text
    assert "| Parse | write | documents | table | ≈3 B | 1 | 0.1 ms |" in text
    assert "| Parse | read | events | stream | 0 B | 0 | idle |" in text
    assert "| record | write | runs | table | 12 KB | 1 | 3 ms |" in text


def test_the_embedded_font_has_every_letter_at_the_measured_width() -> None:
    scene = storage_scene(diagram())
    faces = re.findall(r"font-weight:(\d+);src:url\(data:font/woff;base64,([^)]+)\)", svg(scene))
    used = {(item.weight, letter) for g in scene.groups for item in g.items if isinstance(item, Label) for letter in item.text}
    embedded = {}
    for weight, data in faces:
        font = TTFont(io.BytesIO(base64.b64decode(data)))
        metrics = font["hmtx"].metrics
        embedded |= {
            (int(weight), chr(code)): metrics[glyph][0] / font["head"].unitsPerEm for code, glyph in font.getBestCmap().items()
        }
    assert used <= set(embedded)
    assert all(embedded[weight, letter] == pytest.approx(theme.width(letter, 1, weight)) for weight, letter in used)


def test_the_same_score_gives_the_same_bytes() -> None:
    assert svg(storage_scene(diagram())) == svg(storage_scene(diagram()))
    assert png(storage_scene(diagram())) == png(storage_scene(diagram()))


def test_png_is_twice_as_large_as_the_scene() -> None:
    scene = storage_scene(diagram())
    data = png(scene)
    size = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    assert size == pytest.approx((scene.width * 2, scene.height * 2), abs=2)


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf", ".pptx", ".md", ".mmd", ".SVG"])
def test_draw_chooses_by_suffix_and_leaves_one_readable_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "out" / f"diagram{suffix}"
    draw(diagram(), path)
    draw(diagram(), path, triggers=False)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o444 == 0o444
    heads = {".svg": b"<svg", ".png": b"\x89PNG", ".pdf": b"%PDF", ".pptx": b"PK", ".md": b"# 48 MB", ".mmd": b"flowchart"}
    head = heads[suffix.lower()]
    assert path.read_bytes().startswith(head)


@pytest.mark.parametrize("name", ["diagram.jpeg", "diagram"])
def test_draw_names_the_suffixes_there_are(tmp_path: Path, name: str) -> None:
    with pytest.raises(WrongUsage, match=r"\.svg, \.png, .*\.md or \.mmd"):
        draw(diagram(), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("palette", [theme.LIGHT, theme.DARK], ids=["light", "dark"])
def test_text_is_readable_in_its_colours(palette: theme.Palette) -> None:
    assert theme.contrast("#FFFFFF", "#000000") == pytest.approx(21)
    for tier in Tier:
        assert theme.contrast(palette.on_tier, palette.tiers[tier]) >= 4.5, tier
        # totals are written in the tier's colour on its tint
        assert theme.contrast(palette.tier_inks[tier], palette.tint(palette.tiers[tier])) >= 4.5, tier
        assert theme.contrast(palette.muted, palette.tint(palette.tiers[tier])) >= 4.5, tier
    for ink in (palette.read, palette.write, palette.feedback, palette.muted, palette.ink, palette.idle):
        assert theme.contrast(ink, palette.card) >= 4.5, ink


# Linear-light simulations of full dichromacy: Machado, Oliveira and Fernandes 2009, severity 1.0.
SIGHTS = {
    "usual": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


def lab(colour: str, sight: str) -> tuple[float, float, float]:
    seen = [sum(a * b for a, b in zip(row, theme.linear(colour), strict=True)) for row in SIGHTS[sight]]
    red, green, blue = (min(1.0, max(0.0, part)) for part in seen)
    xyz = (
        (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.9505,
        0.2126 * red + 0.7152 * green + 0.0722 * blue,
        (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.089,
    )
    x, y, z = (part ** (1 / 3) if part > 0.008856 else 7.787 * part + 16 / 116 for part in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("sight", SIGHTS)
def test_lanes_and_feedback_stay_apart_for_every_sight(sight: str) -> None:
    colours = [theme.LIGHT.tiers[tier] for tier in (Tier.FILE, Tier.VECTOR, Tier.TABLE, Tier.OBJECT)]
    for one, other in combinations([*colours, theme.LIGHT.feedback], 2):
        distance = sum((a - b) ** 2 for a, b in zip(lab(one, sight), lab(other, sight), strict=True)) ** 0.5
        assert distance >= 10, (one, other, distance)
