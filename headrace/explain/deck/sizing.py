"""The slide that sizes a platform; its numbers are estimates, the run's own beside them."""

from __future__ import annotations

from headrace.explain.deck.canvas import BOTTOM, LEFT, RIGHT, TOP, Area
from headrace.explain.deck.draft import TIERS, Draft
from headrace.explain.deck.numbers import Number, SlideHeadline
from headrace.explain.diagram.format import human_bytes, human_count, percent
from headrace.explain.sizing import formulas
from headrace.explain.sizing.figure import amount, signed
from headrace.explain.sizing.sizing import TierDemand


def sizing(draft: Draft) -> None:
    """A platform sized, beside a reference architecture."""
    sized = draft.sizing
    p = sized.parameters
    checkpoint, write = sized.figure("checkpoint_bytes"), sized.figure("checkpoint_write")
    capacity = _estimate("capacity of all tiers", sum(tier.capacity for tier in sized.tiers), "B")
    peak = _estimate(write.name, write.value, "B/s", write.formula)
    each = _estimate(checkpoint.name, checkpoint.value, "B", checkpoint.formula)
    enough = [level for level in sized.supply if level.read_share <= 1 and level.write_share <= 1]
    level = f"SuperPOD's “{enough[0].level}” level carries it" if enough else "more than SuperPOD's “best” level gives"
    shares = [_estimate(f"share of {one.level}", max(one.read_share, one.write_share), "share") for one in sized.supply]
    draft.headline(
        SlideHeadline(
            f"{human_count(p.gpus)} GPUs training {sized.model.name} need {capacity} and {peak} at a checkpoint: {level}",
            lambda held, rate, *needed: held > 0 and rate > 0 and (min(needed) <= 1) == bool(enough),
            (capacity, peak, *shares),
        )
    )
    rows = [[tier.tier.capitalize(), *_demand(tier)] for tier in sorted(sized.tiers, key=_order)]
    draft.canvas.table(
        Area(LEFT, TOP + 4, 560, 210),
        ("tier", "holds", "reads", "writes", "peak reads", "peak writes"),
        rows,
        (1.8, 1, 1.1, 1.1, 1.2, 1.2),
        alt="Demand by tier: capacity, sustained and peak rates.",
        right=(1, 2, 3, 4, 5),
    )
    supply = [
        [
            level.level,
            f"{human_bytes(round(level.read))}/s",
            percent(level.read_share),
            f"{human_bytes(round(level.write))}/s",
            percent(level.write_share),
        ]
        for level in sized.supply
    ]
    draft.canvas.table(
        Area(620, TOP + 4, RIGHT - 620, 128),
        ("level", "read", "needed", "write", "needed"),
        supply,
        (1, 1.15, 1, 1.05, 1),
        alt="Supply of a reference architecture by level, and the share of it that is needed.",
        right=(1, 2, 3, 4),
    )
    interval, lost = sized.figure("interval"), sized.figure("lost_share")
    draft.points(
        Area(620, 258, RIGHT - 620, 120),
        "Checkpoints",
        [
            f"{draft.say(each)} each: {formulas.RECIPES[p.recipe]:g} B a parameter ({formulas.RECIPE_PARTS[p.recipe]}).",
            f"Best every {interval.value / 60:,.0f} min: {lost.value * 100:.1f} % of the time is lost.",
        ],
        size=13.5,
    )
    measured = [
        [one.label, amount(one.measured, one.unit), amount(one.estimated, one.unit), signed(one.error)]
        for one in sized.measured
        if one.run == draft.numbers.run
    ]
    if measured:
        draft.canvas.table(
            Area(LEFT, 340, 560, BOTTOM - 340),
            ("measured in this run", "measured", "formula says", "off"),
            measured,
            (2.4, 1.1, 1.1, 0.7),
            alt="Quantities that this run measured, beside what the same formulas say for it.",
            size=13.0,
            right=(1, 2, 3),
        )
    draft.points(
        Area(620, 384, RIGHT - 620, BOTTOM - 384),
        "Assumed",
        [
            f"{human_count(p.users)} users ask every {p.question_interval_s:g} s with {human_count(p.context_tokens)} tokens.",
            f"{human_count(p.documents)} documents; {human_count(round(p.events_per_s))} events/s.",
        ],
        size=13.5,
    )
    draft.note(
        "These are estimates, each with formula, inputs and source: "
        f"headrace size --model {sized.model.name} --gpus {p.gpus} --users {p.users} (add --json for all).",
        *[f"{one.label}: {one.how}; formula: {one.formula}. {one.note}".strip() for one in sized.measured],
        f"Supply: {sized.sources[sized.supply_source]}.",
    )


def _order(tier: TierDemand) -> int:
    return [str(one) for one in TIERS].index(tier.tier)


def _demand(tier: TierDemand) -> list[str]:
    rates = (tier.read, tier.write, tier.peak_read, tier.peak_write)
    return [human_bytes(round(tier.capacity)), *(f"{human_bytes(round(rate))}/s" if rate else "-" for rate in rates)]


def _estimate(name: str, value: float, unit: str, formula: str = "") -> Number:
    text = percent(value) if unit == "share" else human_bytes(round(value)) + ("/s" if unit == "B/s" else "")
    return Number(
        name,
        value,
        text,
        f"estimated {name.replace('_', ' ')}: {text}" + (f" = {formula}" if formula else "") + " (`headrace size --json`)",
    )
