"""What is measured, and against what. `make bench` prints one JSON document; docs/reference/benchmarks.md keeps the figures."""

import os

import headrace as headrace  # before Arrow, which a bench may import first: see there

# Each benchmark has homes of its own, in folders that go with it.
os.environ.setdefault("HEADRACE_PLATFORM__IDLE_S", "0")
