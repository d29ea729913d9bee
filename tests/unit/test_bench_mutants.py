"""The list of mutants is kept in step with the code: each can still be made, and the tests that must notice it are there.

Whether they do notice it is what `python -m bench.mutants` tries.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def mutants() -> tuple[Any, ...]:
    # Not by way of the package, which says for its whole process that a platform ends with its command.
    spec = importlib.util.spec_from_file_location("mutants", ROOT / "bench" / "mutants.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules["mutants"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: tuple[Any, ...] = module.MUTANTS
    return found


def test_each_has_a_name_of_its_own_and_they_are_in_order(mutants: tuple[Any, ...]) -> None:
    ids = [re.fullmatch(r"([A-Z]+)(\d+)", mutant.id) for mutant in mutants]
    order = [(found[1], int(found[2])) for found in ids if found is not None]
    assert order == sorted(set(order))
    assert len(order) == len(mutants) > 50


def test_what_each_replaces_is_there_once(mutants: tuple[Any, ...]) -> None:
    times = {mutant.id: (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.text) for mutant in mutants}
    assert {name: count for name, count in times.items() if count != 1} == {}
    assert [mutant.id for mutant in mutants if mutant.text == mutant.instead] == []


def test_the_tests_that_must_notice_it_are_there(mutants: tuple[Any, ...]) -> None:
    lost = []
    for mutant in mutants:
        for test in mutant.tests:
            file, _, name = test.partition("::")
            source = (ROOT / file).read_text(encoding="utf-8") if (ROOT / file).is_file() else ""
            if not re.search(rf"^(async )?def {re.escape(name.partition('[')[0])}\(", source, re.MULTILINE):
                lost.append((mutant.id, test))
    assert lost == []
    assert [mutant.id for mutant in mutants if not mutant.tests] == []
