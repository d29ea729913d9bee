"""Runs what failed in the last run of pytest once more, by itself: `python tests/again.py [-m soak]`.

What fails twice has failed. What passes now is named as unsteady: a race, of a test or of Headrace, that has to be found all the
same. Many failures are no race and are not run again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CACHE = Path(".pytest_cache/v/cache/lastfailed")
MOST = 5


def targets(failed: list[str]) -> list[str]:
    """What to run: of a `story` the whole file, as each of its tests needs those before it."""
    found = []
    for test in failed:
        path = test.partition("::")[0]
        story = Path(path).is_file() and "pytest.mark.story" in Path(path).read_text(encoding="utf-8")
        found.append(path if story else test)
    return sorted(set(found))


def main(arguments: list[str]) -> int:
    failed = sorted(json.loads(CACHE.read_text(encoding="utf-8"))) if CACHE.is_file() else []
    if not 0 < len(failed) <= MOST:
        print(f"{len(failed)} tests failed: not run again.")
        return 1
    print("Once more, by itself:", *failed, sep="\n  ", flush=True)
    status = subprocess.run([sys.executable, "-m", "pytest", *arguments, *targets(failed)]).returncode
    if status == 0:
        print("UNSTEADY: failed beside the others and passed alone. Find the race:", *failed, sep="\n  ")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
