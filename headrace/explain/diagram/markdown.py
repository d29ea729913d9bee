"""A score as Markdown: the headline, and a table of every flow in the order of the stages."""

from __future__ import annotations

from headrace.explain.diagram.diagram import Flow, Score
from headrace.explain.diagram.format import human_bytes, human_count, human_ms

_SPECIAL = "\\`*_{}[]<>()#+-!|~&"


def markdown(score: Score, *, triggers: bool = True) -> str:
    """The score in words and one table: stage, direction, store, tier, bytes, operations, 95th percentile."""
    measured = f"{plain(score.command)}, run {plain(score.run_id)}, {score.when:%Y-%m-%d %H:%M} UTC"
    lines = [
        f"# {plain(score.headline.text)}",
        "",
        f"{plain(score.sentence)} Measured: {measured}.",
        "",
        *_table(
            [flow for stage in score.stages for flow in score.flows if flow.stage == stage.name],
            {stage.name: f"{stage.label} ({stage.phase})" if stage.phase else stage.label for stage in score.stages},
        ),
    ]
    if triggers and score.marks:
        lines += ["", "What starts a stage besides the stage before it:", ""]
        lines += [f"- {plain(mark.stage)}, on {plain(mark.store)} ({mark.tier}): {plain(mark.text)}" for mark in score.marks]
    if score.beside:
        lines += ["", "Also in this run, outside this picture:", "", *_table(score.beside, {})]
    return "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
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
