"""Lineage: trace answers back to verdicts and events forward to models; forget users and documents."""
