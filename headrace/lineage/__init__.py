"""Lineage: from an answer back to what taught it, from an event onward, and what is forgotten."""
