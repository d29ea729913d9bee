"""new: what one more document costs in a corpus of a thousand, ten thousand and a hundred thousand chunks, without the embedder.

`headrace index` of one new file of 60 words, on a platform that is up; the embedder is an HTTP endpoint that answers at once. So
what is left is the work around it. Packages that only tests or extras need are out of sight. Other sizes, in any order:
`python -m bench.new 1000 10000`. `loop_s` is what ten million additions in a Python loop take at that time, by which processor
times of a busy machine compare with those of a quiet one.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.command import Cost, as_installed, end_by_sigterm, environment, instant_models, loop_s, run, write_documents
from headrace.platform import down
from headrace.settings import Settings

_SIZES = (1_000, 10_000, 100_000)
_WORDS = 60  # of a document
_CHUNKS = 2  # that so many such words make
_TIMES = 5  # documents added at each size, after one that warms up


def measure(sizes: Sequence[int] = _SIZES) -> dict[str, Any]:
    """Bounds: 1.5 s of processor time, and a ratio of at most 1.2 between the largest and the smallest corpus."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, instant_models() as url:
        for size in sizes:
            rows.append(_at(size, Path(folder) / str(size), url))
            print(_line(rows[-1]), file=sys.stderr, flush=True)
    least, most = (by(rows, key=lambda row: row["chunks"])["processor_s"] for by in (min, max))
    return {"sizes": rows, "ratio": round(most / least, 2), "bound": 1.2, "bound_s": 1.5}


def _at(size: int, root: Path, url: str) -> dict[str, Any]:
    """Medians of some further documents in a corpus of `size` chunks."""
    home, documents = root / "home", root / "documents"
    env = as_installed(environment(home, url), root / "hiding")
    write_documents(documents, range(size // _CHUNKS), _WORDS)
    try:
        started = time.perf_counter()
        _index(env, documents)
        build_s = time.perf_counter() - started
        _index(env, _added(root, size))
        found = [_index(env, _added(root, size + number + 1)) for number in range(_TIMES)]
    finally:
        down(Settings.load(home=home))
    costs = [one.as_dict() for one in found]
    middle = {name: round(statistics.median(cost[name] for cost in costs), 3) for name in costs[0]}
    return {"chunks": size, "build_s": round(build_s, 1), **middle, "loop_s": loop_s(), "by_store": _by_store(found[-1])}


def _index(env: dict[str, str], path: Path) -> Cost:
    return run(env, "index", str(path), "--json")


def _by_store(cost: Cost) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for row in cost.rows:
        own = found.setdefault(f"{row['store']} ({row['tier']}) {row['direction']}", {"ops": 0, "bytes": 0})
        own["ops"] += row["ops"]
        own["bytes"] += row["bytes"]
    return found


def _added(root: Path, number: int) -> Path:
    """A new document, in no folder that is indexed as a whole."""
    write_documents(root / f"added-{number}", [number], _WORDS)
    return root / f"added-{number}" / f"{number:06}.md"


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['chunks']:>9,} chunks: {row['processor_s']:.2f} s of processor time, {row['wall_s']:.2f} s, "
        f"{row['read_mb']:,.2f} MB read, {row['written_mb']:,.2f} MB written, {row['ops']:,.0f} operations"
    )


if __name__ == "__main__":
    end_by_sigterm()
    print(json.dumps(measure([int(size) for size in sys.argv[1:]] or _SIZES), indent=2))
