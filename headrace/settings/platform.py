"""The embedded servers."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from headrace.settings.section import Section


class PlatformSettings(Section):
    """The embedded servers."""

    idle_s: float = Field(default=300.0, ge=0)
    """Seconds they keep running after the last command; `headrace down` and the end of `headrace up` stop them at once."""
    weed: Path | None = None
    """Your own SeaweedFS program. Unset: the packaged one, if its SHA-256 is the released one's."""
    tansu: Path | None = None
    """Your own Tansu program. Unset: the packaged one, if its SHA-256 is the released one's."""
    counters: bool = False
    """Whether SeaweedFS shows its counters and its profiler to every program of this machine, for measurements."""
