"""Revocation: the blocks whose prompt held a passage of a document go once it is deleted, changed or closed to a reader.

A revocation is noted in the metadata store first, so a process that dies afterwards leaves it to be ended by whichever looks
next: the next indexing pass, or a model server, which looks every `LOOK_S` seconds. Its blocks are noted before the first is
removed, which is the proof. In between, the cache stores nothing of that document (`index.py`).

Where Headrace has no metadata store, blocks cannot be told apart by document; then a tenant's blocks go together (`forget`), or
when they have not been used for long.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from headrace.errors import HeadraceError, LostRace
from headrace.models.kv.blocks import BlockStore
from headrace.models.kv.index import EVERY, UNKNOWN, names, now_text, slices
from headrace.storage.database import Statements
from headrace.storage.metadata import Metadata

Reason = Literal["deleted", "changed", "forgotten"]
"""Why blocks go: their document was deleted; has another version, other readers or attributes; or their tenant's all went."""

LOOK_S = 1.0
"""Seconds between looks of a model server for revocations, of what it has in memory, too."""
ABANDONED_S = 600.0
"""Seconds after which a block that was about to be stored counts as one whose writer died."""
_KEPT = timedelta(days=90)
_OPEN = 200  # revocations that one look goes on with
_TRIES = 20


@dataclass(frozen=True)
class RevokedDocument:
    """A document whose blocks have to go: its tenant, its id or `EVERY`, its name, and why."""

    tenant: str
    document_id: str
    uri: str
    reason: Reason


@dataclass(frozen=True)
class Revocation:
    """One revocation, for the report: times are ISO 8601 in UTC, `None` while it lasts."""

    revocation: str
    tenant: str
    document: str
    document_id: str
    reason: str
    noted_at: str
    ended_at: str | None
    blocks: list[dict[str, Any]]
    """Each with its name, `removed_at`, and whether it is `gone` from the store."""

    @property
    def proven(self) -> bool:
        """Whether all its blocks are known to be gone."""
        return self.ended_at is not None and all(block["gone"] for block in self.blocks)

    @property
    def seconds(self) -> float | None:
        """Seconds from its note to its end; `None` while it lasts."""
        if self.ended_at is None:
            return None
        return (datetime.fromisoformat(self.ended_at) - datetime.fromisoformat(self.noted_at)).total_seconds()

    def as_dict(self) -> dict[str, Any]:
        """The report under the CLI's JSON keys."""
        return {**asdict(self), "seconds": self.seconds, "proven": self.proven}


class Revocations:
    """Notes and ends revocations; safe in several processes at once. Methods raise what `Metadata` and the store raise."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    def note(self, revoked: Iterable[RevokedDocument]) -> None:
        """Note that these have to go; on disk when this returns."""
        waiting = list(revoked)
        for start in range(0, len(waiting), _OPEN):
            with self._metadata.transaction(writing=True) as run:
                for one in waiting[start : start + _OPEN]:
                    _insert(run, one)

    def forget_name(self, document_id: str) -> None:
        """Forget what a document was called."""
        with self._metadata.transaction(writing=True) as run:
            run("UPDATE kv_revocations SET uri = '' WHERE document_id = :document", {"document": document_id})

    def reached(self, name: str) -> str | None:
        """The revision of a table up to which changes are noted; `None` if none ever was."""
        with self._metadata.transaction() as run:
            rows = run("SELECT revision FROM kv_progress WHERE name = :name", {"name": name})
        return rows[0][0] if rows else None

    def reach(self, name: str, revision: str) -> None:
        """Note that all changes up to this revision are noted."""
        with self._metadata.transaction(writing=True) as run:
            run(
                "INSERT INTO kv_progress (name, revision) VALUES (:name, :revision) ON CONFLICT (name)"
                " DO UPDATE SET revision = excluded.revision",
                {"name": name, "revision": revision},
            )

    def end(self, store: BlockStore) -> int:
        """Remove the blocks of revocations that have not ended; returns how many revocations are left, at most some hundred."""
        with self._metadata.transaction() as run:
            waiting = run(
                "SELECT revocation, tenant, document_id FROM kv_revocations WHERE ended_at IS NULL ORDER BY position"
                f" LIMIT {_OPEN}",
                {},
            )
        return sum(not self._end(store, *one) for one in waiting)

    def _end(self, store: BlockStore, revocation: str, tenant: str, document: str) -> bool:
        if document == EVERY:
            self._drop(store, revocation, tenant)
        else:
            for of in (document, UNKNOWN):
                self._remove(store, revocation, tenant, of)
        of = "" if document == EVERY else " AND document_id IN (:document, :unknown)"
        values = {"tenant": tenant} | ({} if document == EVERY else {"document": document, "unknown": UNKNOWN})
        with self._metadata.transaction(writing=True) as run:
            if run(f"SELECT 1 FROM kv_blocks WHERE tenant = :tenant{of} LIMIT 1", values):
                return False
            run(
                "UPDATE kv_revocations SET ended_at = :now WHERE revocation = :revocation AND ended_at IS NULL",
                {"now": now_text(), "revocation": revocation},
            )
        return True

    def _remove(self, store: BlockStore, revocation: str, tenant: str, document: str) -> None:
        """Remove a document's blocks. Notes of those whose writer may still store them stay, for `BlockIndex.stored` to see."""
        after = ""
        while True:
            with self._metadata.transaction(writing=True) as run:
                blocks = [
                    block
                    for (block,) in run(
                        "SELECT block FROM kv_blocks WHERE tenant = :tenant AND document_id = :document AND block > :after"
                        " ORDER BY block LIMIT 200",
                        {"tenant": tenant, "document": document, "after": after},
                    )
                ]
                if not blocks:
                    return
                _journal(run, revocation, blocks)
            self._delete(store, revocation, blocks)
            after = blocks[-1]

    def _drop(self, store: BlockStore, revocation: str, tenant: str) -> None:
        """Remove all blocks of a tenant, those that nobody noted and what its servers have in memory, too."""

        def note(blocks: Sequence[Any]) -> None:
            for some in slices([block.name for block in blocks]):
                with self._metadata.transaction(writing=True) as run:
                    _journal(run, revocation, some)

        store.drop(tenant, note)
        done = "UPDATE kv_revoked_blocks SET removed_at = :now WHERE revocation = :revocation AND removed_at IS NULL"
        with self._metadata.transaction(writing=True) as run:
            run(done, {"now": now_text(), "revocation": revocation})
            run("UPDATE kv_blocks SET revoked = 1 WHERE tenant = :tenant", {"tenant": tenant})
            run(
                "DELETE FROM kv_blocks WHERE tenant = :tenant AND (written = 1 OR at < :abandoned)",
                {"tenant": tenant, "abandoned": _abandoned()},
            )

    def _delete(self, store: BlockStore, revocation: str, blocks: Sequence[str]) -> None:
        delete_all(store, blocks)
        among, named = names(blocks)
        with self._metadata.transaction(writing=True) as run:
            run(
                f"UPDATE kv_revoked_blocks SET removed_at = :now WHERE revocation = :revocation AND block IN ({among})"
                " AND removed_at IS NULL",
                {"now": now_text(), "revocation": revocation, **named},
            )
            run(
                f"DELETE FROM kv_blocks WHERE block IN ({among}) AND (written = 1 OR at < :abandoned)",
                {"abandoned": _abandoned(), **named},
            )

    def settle(self, position: int, *, of: str | None = None) -> None:
        """Note that questions find nothing any more of revocations (`of` a document) up to this position.

        Forgets some of those of long ago.
        """
        oldest = (datetime.now(UTC) - _KEPT).isoformat(timespec="microseconds")
        first = "SELECT revocation, settled_at, ended_at FROM kv_revocations ORDER BY position LIMIT 200"
        old = f"SELECT revocation FROM ({first}) AS first WHERE settled_at < :oldest AND ended_at < :oldest"
        with self._metadata.transaction(writing=True) as run:
            run(
                "UPDATE kv_revocations SET settled_at = :now WHERE settled_at IS NULL AND position <= :position"
                + ("" if of is None else " AND document_id = :of"),
                {"now": now_text(), "position": position} | ({} if of is None else {"of": of}),
            )
            gone = [revocation for (revocation,) in run(old, {"oldest": oldest})]
            if gone:
                among, named = names(gone)
                run(f"DELETE FROM kv_revoked_blocks WHERE revocation IN ({among})", named)
                run(f"DELETE FROM kv_revocations WHERE revocation IN ({among})", named)

    def position(self) -> int:
        """The position of the newest revocation; 0 if there is none."""
        with self._metadata.transaction() as run:
            return int(run("SELECT coalesce(max(position), 0) FROM kv_revocations", {})[0][0])

    def since(self, position: int) -> list[tuple[int, str, str, str]]:
        """Position, id, tenant and document id of revocations after this position, oldest first, at most some hundred."""
        with self._metadata.transaction() as run:
            return [
                (number, revocation, tenant, document)
                for number, revocation, tenant, document in run(
                    "SELECT position, revocation, tenant, document_id FROM kv_revocations WHERE position > :position"
                    f" ORDER BY position LIMIT {_OPEN}",
                    {"position": position},
                )
            ]

    def blocks_of(self, revocation: str) -> tuple[list[str], bool]:
        """The blocks that a revocation has removed so far, and whether it has ended."""
        with self._metadata.transaction() as run:
            ended = run("SELECT ended_at FROM kv_revocations WHERE revocation = :revocation", {"revocation": revocation})
            rows = run("SELECT block FROM kv_revoked_blocks WHERE revocation = :revocation", {"revocation": revocation})
        return [block for (block,) in rows], not ended or ended[0][0] is not None

    def unwritten(self, most: int = 100) -> list[str]:
        """Some blocks that were about to be stored so long ago that their writer has died."""
        with self._metadata.transaction() as run:
            rows = run(
                f"SELECT DISTINCT block FROM kv_blocks WHERE written = 0 AND at < :abandoned LIMIT {most}",
                {"abandoned": _abandoned()},
            )
        return [block for (block,) in rows]

    def report(
        self, store: BlockStore, *, tenant: str | None = None, document_id: str | None = None, most: int = 100
    ) -> list[Revocation]:
        """The newest revocations (of a tenant, of a document), each block looked for in the store."""
        where = [f"{name} = :{name}" for name, value in (("tenant", tenant), ("document_id", document_id)) if value is not None]
        chosen = f" WHERE {' AND '.join(where)}" if where else ""
        values = {"tenant": tenant, "document_id": document_id}
        columns = "revocation, tenant, uri, document_id, reason, noted_at, ended_at"
        with self._metadata.transaction() as run:
            rows = run(
                f"SELECT {columns} FROM kv_revocations{chosen} ORDER BY position DESC LIMIT :most",
                {name: value for name, value in values.items() if value is not None} | {"most": most},
            )
        found = []
        for row in rows:
            with self._metadata.transaction() as run:
                blocks = run(
                    "SELECT block, removed_at FROM kv_revoked_blocks WHERE revocation = :revocation ORDER BY block",
                    {"revocation": row[0]},
                )
                # A block may be there again, from a prompt of a later state of its document.
                again = {name for some in slices([block for block, _ in blocks]) for name in _known(run, some)}
            listed = [
                {"block": block, "removed_at": at, "gone": at is not None and (block in again or not store.has(block))}
                for block, at in blocks
            ]
            found.append(Revocation(*(*row[:7], listed)))
        return found


def delete_all(store: BlockStore, blocks: Iterable[str]) -> None:
    """Delete each of these blocks; raises the first error after all were tried: a store may have some of them in memory."""
    failed: HeadraceError | None = None
    for block in blocks:
        try:
            store.delete(block)
        except HeadraceError as error:
            failed = failed or error
    if failed is not None:
        raise failed


def _known(run: Statements, blocks: Sequence[str]) -> list[str]:
    among, named = names(blocks)
    return [block for (block,) in run(f"SELECT DISTINCT block FROM kv_blocks WHERE block IN ({among}) AND revoked = 0", named)]


def _journal(run: Statements, revocation: str, blocks: Collection[str]) -> None:
    """Note the blocks of a revocation, and that nobody may store them now."""
    run.many(
        "INSERT INTO kv_revoked_blocks (revocation, block, removed_at) VALUES (:revocation, :block, NULL)"
        " ON CONFLICT (revocation, block) DO NOTHING",
        [{"revocation": revocation, "block": block} for block in blocks],
    )
    if blocks:
        among, named = names(list(blocks))
        run(f"UPDATE kv_blocks SET revoked = 1 WHERE block IN ({among})", named)


def _insert(run: Statements, one: RevokedDocument) -> None:
    # Of two processes at once, the second's position is taken: it takes the next.
    for _ in range(_TRIES):
        if run(
            "INSERT INTO kv_revocations (revocation, position, tenant, document_id, uri, reason, noted_at)"
            " SELECT :revocation, coalesce(max(position), 0) + 1, :tenant, :document_id, :uri, :reason, :now FROM kv_revocations"
            " WHERE true ON CONFLICT (position) DO NOTHING RETURNING position",
            {**asdict(one), "uri": one.uri.replace("\0", "\ufffd"), "revocation": secrets.token_hex(8), "now": now_text()},
        ):
            return
    raise LostRace("Many processes note changes of documents at once.", hint="The next pass notes them.")


def _abandoned() -> str:
    return (datetime.now(UTC) - timedelta(seconds=ABANDONED_S)).isoformat(timespec="microseconds")
