"""What is measured, and against what. `make bench` prints one JSON document; docs/benchmarks.md keeps the figures."""
