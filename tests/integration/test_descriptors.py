"""A process that indexes and answers for weeks keeps no descriptors: what a pass opens, it closes, garbage collection or not."""

from __future__ import annotations

import gc
import os
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from servers import serving
from words import words

from headrace.answering.engine import QueryEngine
from headrace.core.run import recorded
from headrace.core.runner import Runner
from headrace.documents.index import index_documents
from headrace.platform.address import brought, overlay
from headrace.settings import Settings

_TIMES = 5


def _descriptors() -> Counter[str]:
    """How many of each kind this process has open."""
    kinds = Counter[str]()
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            kinds[os.readlink(f"/proc/self/fd/{name}").partition(":")[0]] += 1
    return kinds


def test_passes_and_questions_leave_no_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_SETTINGS", str(tmp_path / "none.toml"))
    settings = Settings.model_fields["inference"].default
    (folder := tmp_path / "handbook").mkdir()
    with words() as served, serving(tmp_path / "servers") as servers, recorded("index", tmp_path) as run:
        endpoints = overlay(servers.endpoints, brought(Settings(home=tmp_path, models=served.models)))
        runner = Runner(run, endpoints)
        engine = QueryEngine(runner, settings)

        def once(number: int) -> None:
            (folder / f"{number}.md").write_text(f"# Sluice {number}\n\nThe sluice number{number} is opened on Mondays.\n")
            index_documents(runner, [folder], tenant="acme", settings=settings)
            found = engine.search(f"sluice number{number}", tenant="acme", user="ann", record=False)
            assert any(passage.hit.uri.endswith(f"{number}.md") for passage in found.passages)

        gc.collect()
        gc.disable()
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always", ResourceWarning)
                for number in range(2):  # what is kept open for the next time
                    once(number)
                before = _descriptors()
                for number in range(2, 2 + _TIMES):
                    once(number)
                after = _descriptors()
        finally:
            gc.enable()
    grown = {kind: count - before[kind] for kind, count in after.items() if count - before[kind] >= 2 * _TIMES}
    assert grown == {}
    assert [str(one.message) for one in said if "unclosed" in str(one.message)] == []
