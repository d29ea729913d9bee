"""A figure of a sizing: a number that carries its formula, its inputs and its sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

from headrace.explain.diagram.format import human_bytes, percent

Role = Literal["", "capacity", "read", "write", "peak_read", "peak_write"]
_EXACT_BYTES = 1_000_000  # below this, bytes are shown to the byte
Inputs = Mapping[str, float | str]


class Figure(BaseModel):
    """One number: its formula, the inputs that were put in, and what it stands on.

    `unit` is B, B/s, s, share, or empty for a count. `role` says which total of its tier it counts for; none if it only explains.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    tier: str
    label: str
    value: float
    unit: str
    formula: str
    inputs: dict[str, float | str]
    sources: tuple[str, ...]
    role: Role = ""
    note: str = ""


def figure(
    name: str,
    tier: str,
    label: str,
    value: float,
    unit: str,
    formula: str,
    inputs: Inputs,
    *sources: str,
    role: Role = "",
    note: str = "",
) -> Figure:
    """A figure, in the order in which one reads it."""
    return Figure(
        name=name,
        tier=tier,
        label=label,
        value=value,
        unit=unit,
        formula=formula,
        inputs=dict(inputs),
        sources=sources,
        role=role,
        note=note,
    )


def amount(value: float, unit: str) -> str:
    """A figure's value for people: 327,680 B, 988 GB, 1.2 GB/s, 109 min, 2.4 %."""
    if unit == "B":
        return f"{value:,.0f} B" if value < _EXACT_BYTES else human_bytes(round(value))
    if unit == "B/s":
        return f"{human_bytes(round(value))}/s"
    if unit == "s":
        return f"{value:,.0f} s" if value < 120 else f"{value / 60:,.0f} min" if value < 36_000 else f"{value / 3_600:,.0f} h"
    if unit == "share":
        return percent(value) if value >= 0.1 else f"{value * 100:.1f} %"
    return f"{value:,.0f}"


def signed(share: float) -> str:
    """A difference for people: +17 %, −40 %, 0 %."""
    whole = round(share * 100)
    return f"{whole:+,} %".replace("-", "−") if whole else "0 %"
