"""The training loop's status as sentences for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from headrace.cli.render.results import weights_line
from headrace.scheduler import status

_NOTHING = {
    "ranking": "none",
    "reranker": "none",
    "embedder": "the packaged embedder",
    "generator": "the packaged generator",
}


def doing(state: Mapping[str, Any]) -> str:
    """What the loop does now."""
    current = state["round"]
    match state["state"]:
        case status.TRAINING if current:
            number = f"Round {current['number']}" if current["number"] else "A round"
            step = f", step {current['step']:,} of {current['steps']:,}" if current["steps"] else ""
            loss = f", loss {current['loss']:.3f}" if current.get("loss") is not None else ""
            left = f", about {human_s(current['eta_s'])} left in this stage" if current["eta_s"] is not None else ""
            shows = f" {current['power']}." if current.get("power") else ""
            again = ", resumed" if current["resumed"] else ""
            return f"{number} ({current['recipe']}{again}): {current['stage']}{step}{loss}{left}.{shows}"
        case status.WAITING:
            return "The training loop is waiting for verdicts."
        case status.PAUSED:
            return "The training loop is paused after a failed round."
        case status.ELSEWHERE:
            return str(state["note"])
        case status.STARTING:
            return "The training loop is starting."
        case status.RESTARTING:
            return "The training loop's process ended and is being restarted."
        case _:
            return "No training loop is running here. `headrace up` runs one, unless `[automatic]` has `rounds = false`."


def troubled(state: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong, and when it will be retried."""
    trouble = state["trouble"]
    if trouble:
        again = f" Next attempt {_when(trouble['next'])}." if trouble["next"] and state["running"] else ""
        times = f" ({trouble['times']} times in a row)" if trouble["times"] > 1 else ""
        with_recipe = f"The last round with {trouble['recipe']} failed{times}: " if trouble["recipe"] else ""
        yield f"{with_recipe}{trouble['why']} {trouble['hint']}".strip() + again
    if state["note"] and state["state"] != status.ELSEWHERE:
        yield str(state["note"])


def waiting(one: Mapping[str, Any]) -> dict[str, str]:
    """One recipe's table row: verdicts so far, of those that start a round."""
    starts = ""
    if one["new"] and not one["note"]:
        starts = "now" if one["due"] else f"at {one['of']:,} verdicts or {_when(one['due_at'])}"
    return {
        "recipe": one["recipe"],
        "new verdicts": f"{one['new']:,} of {one['of']:,}",
        "next round": one["note"] or starts or f"at {one['of']:,} verdicts",
    }


def deciding(state: Mapping[str, Any]) -> Iterator[str]:
    """The last promotion decision and its alarms."""
    last = state["last"]
    if not last:
        return
    yield f"Round {last['round']} ({last['recipe']}) {'promoted' if last['promoted'] else 'rejected'}: {last['why']}"
    if last.get("weights"):
        yield f"  weights: {weights_line(last['weights'])}"
    for alarm in last["alarms"]:
        yield f"  alarm: {alarm}"
    if last["promoted"] and last["feedback_to_served"] is not None:
        parts = ", ".join(f"{name} {human_s(seconds)}" for name, seconds in last["timings"].items())
        yield f"  newest verdict to served model: {human_s(last['feedback_to_served'])} ({parts})"


def serving(state: Mapping[str, Any]) -> Iterator[str]:
    """The served version of each model, and its canary."""
    for model, one in state["models"].items():
        version = _NOTHING.get(model, "none") if one["version"] == "none" else one["version"]
        yield f"{model}: {version}" + (f" ({one['kind']} by {one['who']}: {one['why']})" if one["moves"] else "")
        canary = one["canary_status"]
        if canary and one["canary"]:
            ours, theirs = canary["challenger"], canary["champion_side"]
            yield (
                f"  canary: {canary['version']} with {canary['share']:.0%} of the answers;"
                f" {ours['judged']:,} of {canary['wanted']:,} judged{_mean(ours)},"
                f" the champion's {theirs['judged']:,}{_mean(theirs)} ({canary['measure']})"
            )


def human_s(seconds: float) -> str:
    """Seconds for people: 0.4 s, 12 s, 3 min, 2.5 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _mean(side: Mapping[str, Any]) -> str:
    return "" if side["outcome"] is None else f", mean {side['outcome']:.3f}"


def _when(time: str) -> str:
    seconds = (datetime.fromisoformat(time) - datetime.now(UTC)).total_seconds()
    return f"in {human_s(seconds)}" if seconds > 1 else "now"
