"""Human-readable numbers: bytes in decimal units, durations, counts."""

from __future__ import annotations

_BYTES = ("B", "KB", "MB", "GB", "TB", "PB", "EB")

# The widest results of the functions below in common sans serif fonts; a layout reserves space for these, so that it does not
# move when only numbers change.
WIDEST_BYTES = ("≈88.8 MB", "≈888 MB", "≈888 GB")
WIDEST_GROWN = ("gone", "+188 %", "×8888")
WIDEST_MS = ("<0.1 ms", "888 ms", "88.8 s", "88 min", "888 h")


def human_bytes(count: int) -> str:
    """Bytes in decimal units with about three digits: `0 B`, `850 B`, `1.2 MB`, `48.2 MB`, `1.3 TB`."""
    if count < 1000:
        return f"{count} B"
    value, unit = float(count), 0
    while unit < len(_BYTES) - 1 and value >= 999.5:
        value, unit = value / 1000, unit + 1
    return f"{_plain(round(value, 1)) if value < 99.95 else f'{value:.0f}'} {_BYTES[unit]}"


def human_ms(ms: float) -> str:
    """A duration given in milliseconds: `0 ms`, `<0.1 ms`, `0.4 ms`, `850 ms`, `1.2 s`, `2 min`, `3 h`."""
    if ms <= 0:
        return "0 ms"
    if ms < 0.05:
        return "<0.1 ms"
    if ms < 9.95:
        return f"{_plain(round(ms, 1))} ms"
    if ms < 999.5:
        return f"{ms:.0f} ms"
    seconds = ms / 1000
    if seconds < 99.95:
        return f"{_plain(round(seconds, 1))} s"
    minutes = seconds / 60
    if minutes < 99.5:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.0f} h"


def human_count(count: int) -> str:
    """A count with commas between thousands, as on the page and the command line: `950`, `12,400`."""
    return f"{count:,}"


def percent(share: float) -> str:
    """A share between 0 and 1 in whole per cent: `71 %`; `100 %` and `0 %` only for exactly all or nothing."""
    whole = round(share * 100)
    if whole == 100 and share < 1:
        whole = 99
    if whole == 0 and share > 0:
        whole = 1
    return f"{whole} %"


def grown(now: int, before: int) -> str:
    """How an amount changed: `+12 %`, `−3 %`, `±0 %`, `×4.2` from three times on, `=`; `new` and `gone` from and to nothing."""
    if now == before:
        return "="
    if not before:
        return "new"
    if not now:
        return "gone"
    ratio = now / before
    if ratio >= 3:
        return f"×{_plain(round(ratio, 1)) if ratio < 99.95 else f'{min(ratio, 9999):,.0f}'}"
    if round(abs(ratio - 1) * 100) == 0:
        return "±0 %"
    return f"{'+' if ratio > 1 else '−'}{percent(abs(ratio - 1))}"


def human_s(seconds: float) -> str:
    """A duration given in seconds: as in `human_ms`, but seconds up to ten minutes and then `12.5 min`, `3.2 h`."""
    if seconds < 99.95:
        return human_ms(seconds * 1e3)
    if seconds < 599.5:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{_plain(round(minutes, 1))} min" if minutes < 99.95 else f"{_plain(round(minutes / 60, 1))} h"


def _plain(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
