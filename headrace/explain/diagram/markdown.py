"""A diagram as Markdown: a flowchart in Mermaid, and a table of all flows."""

from __future__ import annotations

from collections.abc import Iterable

from headrace.catalog import Tier
from headrace.explain.diagram.arrange import LANES
from headrace.explain.diagram.diagram import Diagram
from headrace.explain.diagram.flow import Flow
from headrace.explain.diagram.format import grown, human_bytes, human_count, human_ms, human_s
from headrace.explain.diagram.slide import Slide
from headrace.explain.diagram.theme import LIGHT
from headrace.storage.ledger import Direction

_SPECIAL = "\\`*_{}[]<>()#+-!|~&"


def markdown(diagram: Diagram, short: Slide, *, triggers: bool = True) -> str:
    """The flowchart of the slide, and the table of the whole diagram: stage, direction, store, tier, bytes, operations, p95."""
    measured = f"{plain(diagram.command)}, run {plain(diagram.run_id)}, {diagram.when:%Y-%m-%d %H:%M} UTC"
    lines = [
        f"# {plain(diagram.headline.text)}",
        "",
        f"{plain(diagram.sentence)} {f'Measured: {measured}.' if diagram.measured else 'Not measured yet.'}",
        "",
        "```mermaid",
        *mermaid(short.diagram).splitlines(),
        "```",
        "",
        *_table(
            [flow for stage in diagram.stages for flow in diagram.flows if flow.stage == stage.name],
            {stage.name: f"{stage.label} ({stage.phase})" if stage.phase else stage.label for stage in diagram.stages},
            compared=bool(diagram.against),
        ),
    ]
    if diagram.times:
        lines += ["", *_times(diagram)]
    if triggers and diagram.marks:
        lines += ["", "Triggers of stages:", ""]
        lines += [f"- {plain(mark.stage)}, on {plain(mark.store)} ({mark.tier}): {plain(mark.text)}" for mark in diagram.marks]
    if diagram.beside:
        lines += ["", "Also in this run, not in this picture:", "", *_table(diagram.beside, {}, compared=False)]
    return "\n".join(lines) + "\n"


def mermaid(diagram: Diagram) -> str:
    """The diagram as a flowchart in Mermaid: a subgraph per tier, an edge per flow."""
    stages = {stage.name: f"s{at}" for at, stage in enumerate(diagram.stages)}
    stores = {key: f"d{at}" for at, key in enumerate(dict.fromkeys(flow.key for flow in diagram.flows))}
    lines = ["flowchart TB", "  subgraph stages[Stages]", "    direction LR"]
    lines += [f"    {stages[stage.name]}[{_quoted(stage.label)}]" for stage in diagram.stages]
    chain = " --- ".join(stages.values())
    lines += [f"    {chain}"] if len(stages) > 1 else []
    lines.append("  end")
    for tier in (Tier.STREAM, *LANES):
        inside = [key for key in stores if key[0] is tier]
        if not inside:
            continue
        title = "Stream: head and feedback, not a storage tier" if tier is Tier.STREAM else f"{str(tier).capitalize()} tier"
        lines.append(f"  subgraph {tier}[{_quoted(title)}]")
        lines += [f"    {stores[key]}[({_quoted(key[1])})]" for key in inside]
        lines.append("  end")
    for flow in diagram.flows:
        one, two = stages[flow.stage], stores[flow.key]
        if flow.direction is Direction.READ:
            one, two = two, one
        label = f"|{_quoted(human_bytes(flow.bytes))}|" if diagram.measured else ""
        lines.append(f"  {one} -->{label} {two}")
    lines += [
        f"  style {tier} stroke:{LIGHT.tiers[tier]}" for tier in (Tier.STREAM, *LANES) if any(key[0] is tier for key in stores)
    ]
    return "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """Text escaped for Markdown, on one line."""
    return "".join(f"\\{sign}" if sign in _SPECIAL else sign for sign in " ".join(text.split()))


def _quoted(text: str) -> str:
    """Text as a label of Mermaid: in quotes, with what has a meaning there as entities."""
    clean = " ".join("".join(sign if sign >= " " else " " for sign in text).split())
    return '"' + "".join(f"#{ord(sign)};" if sign in '"#<>&;`|\\' else sign for sign in clean) + '"'


def _table(flows: Iterable[Flow], labels: dict[str, str], *, compared: bool) -> list[str]:
    names = ["stage", "direction", "store", "tier", "bytes", "operations", "p95", *(["before", "change"] if compared else [])]
    lines = [f"| {' | '.join(names)} |", "|---|---|---|---|---:|---:|---:|" + "---:|---:|" * compared]
    for flow in flows:
        stage = plain(labels.get(flow.stage, flow.stage))
        moved = f"{'≈' if flow.estimated else ''}{human_bytes(flow.bytes)}"
        slow = human_ms(flow.p95_ms) if flow.ops else "idle"
        cells = [stage, flow.direction, plain(flow.store), flow.tier, moved, human_count(flow.ops), slow]
        if compared:
            cells += [human_bytes(flow.before or 0), plain(grown(flow.bytes, flow.before or 0))]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _times(diagram: Diagram) -> list[str]:
    lines = [
        "| stage | calls | at work | compute | waited for storage | storage in other threads |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for time in diagram.times:
        seconds = (time.active_s, time.compute_s, time.waited_s, time.beside_s)
        cells = [plain(time.stage), human_count(time.calls), *(human_s(one) for one in seconds)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
