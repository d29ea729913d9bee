"""Forgetting: a user or a document goes from every store, is kept out of every later dataset, and a proof says so."""

from headrace.lineage.forget.forget import forget
from headrace.lineage.forget.subject import Subject

__all__ = ["Subject", "forget"]
