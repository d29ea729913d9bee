"""Headrace runs the AI training loop and enterprise RAG on any storage, meters every byte, and draws what it measured."""

import os

# Arrow's allocator gives memory back at once and not a while later: a lander peaks a tenth lower, at the same rate
# (docs/reference/benchmarks.md). It looks when Arrow is loaded, so this stands before every other import.
os.environ.setdefault("MIMALLOC_PURGE_DELAY", "0")

__version__ = "0.1.0"
