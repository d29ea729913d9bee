"""Forgetting: removes a user or a document from every store and from later datasets, with a proof."""

from headrace.lineage.forget.forget import forget
from headrace.lineage.forget.subject import Subject

__all__ = ["Subject", "forget"]
