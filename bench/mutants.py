"""mutants: bugs put into a copy of the code on purpose, each of which the tests named beside it must notice.

python -m bench.mutants [ID ...]

A mutant is one piece of source text and what stands there instead. The repository is copied to a temporary folder, the named
tests are run there once as they are, then for each mutant with the copy changed: a mutant is killed if each of its tests fails.
Prints a table to standard error and JSON to standard output; exit 1 if a test fails without a mutant, a mutant survives or its
source text is not there once.

To add one: an entry in `MUTANTS`, which is sorted by `id`. `text` must be in the file exactly once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copy2
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_LONGEST_S = 300.0


@dataclass(frozen=True)
class Mutant:
    """A bug: in `file`, `text` replaced by `instead`. `tests` are the pytest node ids that must fail with it."""

    id: str
    file: str
    text: str
    instead: str
    bug: str
    tests: tuple[str, ...]


MUTANTS = (
    Mutant(
        "G3",
        "headrace/training/evaluate.py",
        "np.quantile(means, [0.025, 0.975])",
        "np.quantile(means, [0.05, 0.95])",
        "The gate's interval is one of 90 %.",
        ("tests/unit/test_training_evaluate.py::test_the_bootstrap_is_near_the_normal_interval_of_many",),
    ),
)


def measure(ids: Sequence[str] = ()) -> dict[str, Any]:
    """Try these mutants, or all. Bound: none survives."""
    if unknown := set(ids) - {mutant.id for mutant in MUTANTS}:
        sys.exit(f"No mutant {', '.join(sorted(unknown))}; there are: {', '.join(mutant.id for mutant in MUTANTS)}.")
    chosen = [mutant for mutant in MUTANTS if not ids or mutant.id in ids]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder)
        _copy(copy)
        failed, ended = _failures(copy, sorted({test for mutant in chosen for test in mutant.tests}))
        if ended != 0:
            return {"passed": False, "without_a_mutant": {"ended": ended, "failed": failed}, "mutants": []}
        results = []
        for mutant in chosen:
            results.append(_tried(mutant, copy))
            print(_line(results[-1]), file=sys.stderr, flush=True)
    return {"passed": all(result["result"] == "killed" for result in results), "mutants": results}


def _copy(folder: Path) -> None:
    """The repository as it is in the checkout, what is not committed yet included."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            copy2(ROOT / name, folder / name)


def _tried(mutant: Mutant, copy: Path) -> dict[str, Any]:
    file, started = copy / mutant.file, time.monotonic()
    source = file.read_text(encoding="utf-8") if file.exists() else ""
    failed: list[str] = []
    missed = list(mutant.tests)
    if source.count(mutant.text) != 1:
        result = f"its text is there {source.count(mutant.text)} times"
    else:
        file.write_text(source.replace(mutant.text, mutant.instead), encoding="utf-8")
        try:
            failed, ended = _failures(copy, mutant.tests)
        finally:
            file.write_text(source, encoding="utf-8")
        missed = [test for test in mutant.tests if not any(_part_of(one, test) for one in failed)]
        result = f"pytest ended with {ended}" if ended not in (0, 1) else "survives" if missed else "killed"
    return {
        "id": mutant.id,
        "file": mutant.file,
        "bug": mutant.bug,
        "result": result,
        "not_failed": missed,
        "seconds": round(time.monotonic() - started, 1),
    }


def _failures(copy: Path, tests: Sequence[str]) -> tuple[list[str], int | str]:
    """The node ids of those tests that fail, and how pytest ended."""
    # No bytecode: a mutant of the same length, written within the same second, would not be seen.
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "500"}
    words = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-rfE", "-p", "no:cacheprovider", "-m", "", *tests]
    try:
        done = subprocess.run(words, cwd=copy, env=environment, capture_output=True, text=True, timeout=_LONGEST_S)
    except subprocess.TimeoutExpired:
        return [], f"no result after {_LONGEST_S:.0f} s"
    told = [line.partition(" ")[2] for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return told, done.returncode


def _part_of(failed: str, test: str) -> bool:
    """Whether a line of pytest's summary is of this test, or of one of its parameters."""
    return failed == test or failed.startswith((f"{test} ", f"{test}[", f"{test}::"))


def _line(result: dict[str, Any]) -> str:
    return f"{result['id']:5} {result['result']:10} {result['seconds']:5.1f} s  {result['file']}: {result['bug']}"


def main() -> None:
    """Try the mutants that the command line names, all of them by default."""
    found = measure(sys.argv[1:])
    print(json.dumps(found, indent=2))
    sys.exit(0 if found["passed"] else 1)


if __name__ == "__main__":
    main()
