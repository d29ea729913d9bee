"""What is measured, and against what. `make bench` prints one JSON document; docs/benchmarks.md keeps the figures."""

import headrace as headrace  # before Arrow, which a bench may import first: see there
