"""What `headrace up` does without a trigger is listed as the settings have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from headrace.scheduler.triggers.built_in import BuiltInTrigger, built_in_triggers
from headrace.scheduler.triggers.thread import _span
from headrace.settings import Settings


def steps(**settings: Any) -> dict[str, BuiltInTrigger]:
    return {step.name: step for step in built_in_triggers(Settings(**settings))}


@pytest.fixture(autouse=True)
def _no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_SETTINGS", str(tmp_path / "none.toml"))


def test_each_step_is_as_the_settings_say() -> None:
    usual = steps()
    assert [step.name for step in usual.values() if not step.on] == ["follow"], "there is no source"
    assert usual["round"].causes == ("200 new verdicts", "60 min after the oldest of fewer")
    off = steps(
        automatic={"rounds": False, "maintenance": False, "retention": False},
        landing={"trim": False},
        sources=[{"place": "/mnt/books"}],
    )
    assert [step.name for step in off.values() if step.on] == ["land", "follow", "index"]
    assert off["follow"].causes == ("a change in /mnt/books",)
    assert not steps(training={"canary": {"share": 0}})["canary"].on


def test_each_setting_that_is_named_is_one() -> None:
    for step in steps().values():
        where: Any = Settings()
        for name in filter(None, step.setting.split(".")):
            where = getattr(where, name)


@pytest.mark.parametrize(
    ("seconds", "said"), [(86_400, "day"), (172_800, "2 days"), (7_200, "2 h"), (90, "90 s"), (300, "5 min"), (1.5, "1.5 s")]
)
def test_a_schedule_is_said_in_whole_units(seconds: float, said: str) -> None:
    assert _span(seconds) == said
