"""Which KV blocks the object store holds, by their last use, and their bytes by tenant: an index in the metadata store.

An object store has no time of use, and a listing costs a request per thousand objects. So what eviction asks before every save
is answered by SQL, at a cost that does not depend on the number of blocks. The index is also what decides that a block is there:
one without a row is not read. It can be made again from a listing (`ObjectBlocks`).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from typing import Any

from headrace.models.kv.blocks import BlockInfo, tenant_prefix
from headrace.storage.database import Statements
from headrace.storage.metadata import Metadata

_ROW = "scope = :scope AND name = :name"
_COLUMNS = "name, bytes, used"


class ObjectIndex:
    """The rows of one bucket and store, which `place` names; thread-safe, and safe with other processes."""

    def __init__(self, metadata: Metadata, place: str) -> None:
        self._metadata = metadata
        self._scope = int.from_bytes(hashlib.sha256(place.encode()).digest()[:8], signed=True)

    def add(self, name: str, size: int) -> None:
        """Note that a block of so many bytes is about to be written, or is written again: this is a use."""
        with self._metadata.transaction(writing=True) as run:
            used = time.time()
            values = {"scope": self._scope, "name": name, "bytes": size, "used": used}
            # The update locks the row: of two who write one block, the second finds the first one's size.
            known = run(f"UPDATE kv_objects SET used = :used WHERE {_ROW} RETURNING bytes", values)
            if known:
                run(f"UPDATE kv_objects SET bytes = :bytes WHERE {_ROW}", values)
                self._count(run, name, size - int(known[0][0]))
            else:
                self._insert(run, name, size, used)

    def adopt(self, blocks: Iterable[BlockInfo]) -> None:
        """Add blocks that a listing has and the index does not."""
        with self._metadata.transaction(writing=True) as run:
            for block in blocks:
                self._insert(run, block.name, block.bytes, block.used)

    def used(self, name: str) -> float | None:
        """When a block was last used, in seconds since the epoch; `None` if there is none."""
        with self._metadata.transaction() as run:
            found = run(f"SELECT used FROM kv_objects WHERE {_ROW}", {"scope": self._scope, "name": name})
        return float(found[0][0]) if found else None

    def touch(self, name: str) -> bool:
        """Record a use; returns whether there is such a block."""
        with self._metadata.transaction(writing=True) as run:
            values = {"scope": self._scope, "name": name, "used": time.time()}
            return bool(run(f"UPDATE kv_objects SET used = :used WHERE {_ROW} RETURNING name", values))

    def remove(self, name: str, used: float) -> bool:
        """Remove a block's row if its last use is still this one; returns whether it was removed."""
        with self._metadata.transaction(writing=True) as run:
            values = {"scope": self._scope, "name": name, "used": used}
            gone = run(f"DELETE FROM kv_objects WHERE {_ROW} AND used = :used RETURNING bytes", values)
            if gone:
                self._count(run, name, -int(gone[0][0]))
        return bool(gone)

    def bytes(self, tenant: str) -> tuple[int, int]:
        """Bytes of all tenants' blocks, and of this one's."""
        with self._metadata.transaction() as run:
            rows = run("SELECT tenant, bytes FROM kv_object_bytes WHERE scope = :scope", {"scope": self._scope})
        by_tenant = {name: int(size) for name, size in rows}
        return sum(by_tenant.values()), by_tenant.get(_tenant_of(tenant_prefix(tenant)), 0)

    def oldest(self, most: int, tenant: str | None = None) -> list[BlockInfo]:
        """The `most` blocks that were used least recently, of all tenants or of one, the oldest first."""
        values: dict[str, Any] = {"scope": self._scope, "most": most}
        where = "scope = :scope"
        if tenant is not None:
            where, values["tenant"] = f"{where} AND tenant = :tenant", _tenant_of(tenant_prefix(tenant))
        with self._metadata.transaction() as run:
            rows = run(f"SELECT {_COLUMNS} FROM kv_objects WHERE {where} ORDER BY used, name LIMIT :most", values)
        return _blocks(rows)

    def of(self, tenant: str) -> list[BlockInfo]:
        """All blocks of a tenant."""
        values = {"scope": self._scope, "tenant": _tenant_of(tenant_prefix(tenant))}
        with self._metadata.transaction() as run:
            return _blocks(run(f"SELECT {_COLUMNS} FROM kv_objects WHERE scope = :scope AND tenant = :tenant", values))

    def tenants(self) -> list[str]:
        """The first segments of the names of blocks that are or were there."""
        with self._metadata.transaction() as run:
            rows = run("SELECT tenant FROM kv_object_bytes WHERE scope = :scope", {"scope": self._scope})
        return [str(name) for (name,) in rows]

    def behind(self, after: str, before: str, most: int) -> list[BlockInfo]:
        """The first `most` blocks whose names are between these two, in the order of their bytes."""
        where = "scope = :scope AND name COLLATE BINARY > :after AND name COLLATE BINARY < :before"
        with self._metadata.transaction() as run:
            rows = run(
                f"SELECT {_COLUMNS} FROM kv_objects WHERE {where} ORDER BY name COLLATE BINARY LIMIT :most",
                {"scope": self._scope, "after": after, "before": before, "most": most},
            )
        return _blocks(rows)

    def _insert(self, run: Statements, name: str, size: int, used: float) -> None:
        values = {"scope": self._scope, "name": name, "tenant": _tenant_of(name), "bytes": size, "used": used}
        added = run(
            "INSERT INTO kv_objects (scope, name, tenant, bytes, used) VALUES (:scope, :name, :tenant, :bytes, :used)"
            " ON CONFLICT (scope, name) DO NOTHING RETURNING name",
            values,
        )
        if added:
            self._count(run, name, size)

    def _count(self, run: Statements, name: str, change: int) -> None:
        if change:
            run(
                "INSERT INTO kv_object_bytes (scope, tenant, bytes) VALUES (:scope, :tenant, :bytes)"
                " ON CONFLICT (scope, tenant) DO UPDATE SET bytes = kv_object_bytes.bytes + excluded.bytes",
                {"scope": self._scope, "tenant": _tenant_of(name), "bytes": change},
            )


def _tenant_of(name: str) -> str:
    return name.partition("/")[0]


def _blocks(rows: Iterable[tuple[Any, ...]]) -> list[BlockInfo]:
    return [BlockInfo(name, int(size), float(used)) for name, size, used in rows]
