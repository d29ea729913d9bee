"""Run every benchmark, or those named, and print one JSON document.

python -m bench [demo] [platform] [index] [ask] [ledger] [landing] [maintenance] [search] [ranking] [tenants] [training]
    [new] [scale] [stores] [sources] [blocks] [kv] [workers] [peers] [mutants]

Nine run only where they are named: `new`, `scale`, `stores`, `sources` and `blocks`, which first make up to ten million rows or
a million files, `kv`, which computes long prompts again and again, `workers`, which needs all cores for minutes, `peers`, which
installs packages beside the project, and `mutants`, which measures the tests.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time

from bench import (
    ask,
    blocks,
    demo,
    index,
    kv,
    landing,
    ledger,
    maintenance,
    mutants,
    new,
    peers,
    ranking,
    scale,
    search,
    sources,
    start,
    stores,
    tenants,
    training,
    workers,
)
from bench.command import end_by_sigterm

BENCHMARKS = {
    "platform": start.measure,
    "ledger": ledger.measure,
    "landing": landing.measure,
    "maintenance": maintenance.measure,
    "search": search.measure,
    "ranking": ranking.measure,
    "tenants": tenants.measure,
    "index": index.measure,
    "ask": ask.measure,
    "training": training.measure,
    "demo": demo.measure,
    "new": new.measure,
    "scale": scale.measure,
    "stores": stores.measure,
    "sources": sources.measure,
    "blocks": blocks.measure,
    "kv": kv.measure,
    "workers": workers.measure,
    "peers": peers.measure,
    "mutants": mutants.measure,
}
_NAMED_ONLY = {"new", "scale", "stores", "sources", "blocks", "kv", "workers", "peers", "mutants"}


def main() -> None:
    """Measure what the command line names, all of it by default."""
    end_by_sigterm()
    names = sys.argv[1:] or [name for name in BENCHMARKS if name not in _NAMED_ONLY]
    if unknown := set(names) - set(BENCHMARKS):
        sys.exit(f"No benchmark {', '.join(sorted(unknown))}; there are: {', '.join(BENCHMARKS)}.")
    results, load = {}, os.getloadavg()[0]
    for name in names:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        results[name] = BENCHMARKS[name]()
    machine = {
        "cores": os.cpu_count(),
        "load_before": round(load, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    print(json.dumps({"date": time.strftime("%Y-%m-%d"), "machine": machine, "results": results}, indent=2))
    if not results.get("mutants", {"passed": True})["passed"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
