"""The parsers of a pass: one is started before it is needed, and none outlives the pass."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import psutil

from headrace.documents.formats.contract import ParseLimits
from headrace.documents.parsing import Parsing
from headrace.settings import Inference

LIMITS = ParseLimits.from_settings(Inference())


def event(offset: int) -> dict[str, Any]:
    return {"tenant": "default", "uri": "weir.md", "topic": "document-events@1", "partition": 0, "offset": offset}


def parsers() -> list[int]:
    return [child.pid for child in psutil.Process().children() if "headrace.documents.formats.worker" in child.cmdline()]


def test_a_parser_that_was_started_ahead_is_the_one_that_parses() -> None:
    before = set(parsers())
    with closing(Parsing()) as parsing:
        parsing.prepare(LIMITS)
        parsing.prepare(LIMITS)
        ahead = set(parsers()) - before
        assert len(ahead) == 1
        with parsing.during_pass([event(1), event(2)]):
            for offset in (1, 2):
                parsed = parsing.go_on(event(offset), LIMITS, lambda: b"# Weir\n\nOf oak.", 60)
                assert parsed is not None
                assert parsed.title == "Weir"
                assert set(parsers()) - before == ahead
        assert set(parsers()) == before
        parsing.prepare(LIMITS)
    assert set(parsers()) == before, "a pass that never came needs none"
