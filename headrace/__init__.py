"""Headrace runs the AI training loop and enterprise RAG on any storage, meters every byte, and draws what it measured."""

import os

# Makes Arrow's allocator return memory at once: a lander's peak is a tenth lower, at the same rate
# (docs/reference/benchmarks.md). It is read when Arrow is loaded, so this comes before every other import.
os.environ.setdefault("MIMALLOC_PURGE_DELAY", "0")

__version__ = "0.1.0"
