"""Forgetting: a user or a document goes from every store, is barred from every later dataset, and a proof says so."""

from headrace.forget.forget import forget
from headrace.forget.subject import Subject

__all__ = ["Subject", "forget"]
