"""What must not be learned from: events, users and documents that were barred, and a bound on how far to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Exclusions:
    """What a dataset leaves out beyond its settings.

    `origins` are events as "topic/partition/offset", `users` are (tenant, user), `documents` are document ids (all versions).
    `before` is the first offset that is not read any more, by "topic/partition"; a partition without one is read to its end.
    `tenants` are those of whom nothing is learned that others get.
    """

    origins: frozenset[str] = frozenset()
    users: frozenset[tuple[str, str]] = frozenset()
    documents: frozenset[str] = frozenset()
    before: Mapping[str, int] = field(default_factory=dict)
    tenants: frozenset[str] = frozenset()

    def as_dict(self) -> dict[str, Any]:
        """The exclusions as a plan and a manifest name them: sorted, so that equal ones are equal JSON."""
        return {
            "origins": sorted(self.origins),
            "users": [list(pair) for pair in sorted(self.users)],
            "documents": sorted(self.documents),
            "tenants": sorted(self.tenants),
            "before": dict(sorted(self.before.items())),
        }

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Exclusions:
        """What `as_dict` wrote."""
        return cls(
            frozenset(given["origins"]),
            frozenset((tenant, user) for tenant, user in given["users"]),
            frozenset(given["documents"]),
            {place: int(offset) for place, offset in given["before"].items()},
            frozenset(given.get("tenants", ())),  # a plan of before tenants were asked has none
        )


NOTHING = Exclusions()
"""Excludes nothing."""
