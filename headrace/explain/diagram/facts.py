"""Short facts about a measured run, for the line below a diagram's headline."""

from __future__ import annotations

from headrace.explain.diagram.diagram import Diagram
from headrace.explain.diagram.format import human_bytes, human_count, human_s
from headrace.explain.diagram.headline import ASKED


def facts_of(diagram: Diagram) -> tuple[str, ...]:
    """What was run and when, how much it was about, what one question or round moved, and how long it took.

    A fact that the journal does not have is left out.
    """
    if not diagram.measured:
        return ()
    facts = [f"{diagram.command}, {diagram.when:%Y-%m-%d}"]
    phases = {stage.name: stage.phase for stage in diagram.stages}
    total = sum(flow.bytes for flow in diagram.flows)
    if ASKED in phases.values():
        if documents := diagram.counts.get("documents"):
            facts.append(_counted(documents, "document"))
        asked = sum(flow.bytes for flow in diagram.flows if phases[flow.stage] == ASKED)
        if questions := diagram.counts.get("questions"):
            facts.append(_each(questions, "question", asked))
    elif rounds := next((time.calls for time in diagram.times if time.stage == "promote"), 0):
        facts.append(_each(rounds, "round", total))
    if diagram.seconds:
        facts.append(f"{human_s(diagram.seconds)}, on average {human_bytes(round(total / diagram.seconds))}/s")
    return tuple(facts)


def _each(count: int, noun: str, moved: int) -> str:
    return f"{_counted(count, noun)} of {human_bytes(moved // count)}" + ("" if count == 1 else " each")


def _counted(count: int, noun: str) -> str:
    return f"{human_count(count)} {noun}{'' if count == 1 else 's'}"
