"""Representations whose blocks are not used any more, because a restored prefix differed from its recomputation.

A representation is opened again by hand, under the next epoch, which is part of the names of its blocks: none of those that were
stored before is found again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from headrace.errors import NotFound
from headrace.models.kv.index import now_text
from headrace.storage.metadata import Metadata


@dataclass(frozen=True)
class ClosedCache:
    """A model version whose cache is closed: since when (ISO 8601, UTC; `None` if it was opened again) and why."""

    identity: str
    model: str
    epoch: int
    closed_at: str | None
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


class ClosedRepresentations:
    """What is closed, as of the last `follow` and of what was closed here."""

    def __init__(self) -> None:
        self._known: dict[str, ClosedCache] = {}

    def follow(self, metadata: Metadata) -> None:
        """Read what is closed."""
        self._known = {one.identity: one for one in closed_caches(metadata)}

    def identity_of(self, identity: str) -> str | None:
        """The identity to name blocks by; `None` if the representation is closed."""
        known = self._known.get(identity)
        if known is None:
            return identity
        return None if known.closed_at is not None else f"{identity}#{known.epoch}"

    def close(self, identity: str, model: str, reason: str, metadata: Metadata | None) -> None:
        """Close a representation, here at once, and on all servers that share the metadata store."""
        before = self._known.get(identity)
        self._known[identity] = ClosedCache(identity, model, before.epoch if before else 0, now_text(), reason)
        if metadata is not None:
            with metadata.transaction(writing=True) as run:
                run(
                    "INSERT INTO kv_closed (identity, model, epoch, closed_at, reason)"
                    " VALUES (:identity, :model, 0, :now, :reason) ON CONFLICT (identity)"
                    " DO UPDATE SET model = excluded.model, closed_at = excluded.closed_at, reason = excluded.reason",
                    {"identity": identity, "model": model, "now": now_text(), "reason": reason},
                )

    def now(self) -> list[ClosedCache]:
        """What is closed."""
        return [one for one in self._known.values() if one.closed_at is not None]


def closed_caches(metadata: Metadata) -> list[ClosedCache]:
    """All representations that were ever closed."""
    with metadata.transaction() as run:
        rows = run("SELECT identity, model, epoch, closed_at, reason FROM kv_closed ORDER BY identity", {})
    return [ClosedCache(*row) for row in rows]


def reopen(metadata: Metadata, model: str) -> list[str]:
    """Open what is closed of a model version again, under new names of blocks; returns the identities.

    Raises `NotFound` where nothing of it is closed.
    """
    with metadata.transaction(writing=True) as run:
        rows = run(
            "UPDATE kv_closed SET closed_at = NULL, epoch = epoch + 1 WHERE model = :model AND closed_at IS NOT NULL"
            " RETURNING identity",
            {"model": model},
        )
    if not rows:
        raise NotFound(f"The KV cache of {model} is not closed.", hint="`headrace kv report` names those that are.")
    return [identity for (identity,) in rows]
