"""The index of KV blocks by document, in the metadata store: which documents' passages were in the prompt of each block.

A directory of blocks cannot say whose words a block was computed from. So nothing is stored before this index has it:

1. `admit` notes a block with the documents of its prompt, unless one of them has changed meanwhile;
2. the block is stored;
3. `stored` confirms it, or says that it was revoked meanwhile and has to go.

A process killed in between leaves a note without a block, never a block without a note. What is evicted is `dropped`, by the
`stamps` that its notes had before: a server that stores the block again meanwhile has changed them.

Blocks of a prompt whose documents are not known are of the document `UNKNOWN`: they go with whichever document of their tenant
goes first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from headrace.storage.database import Statements
from headrace.storage.metadata import Metadata

UNKNOWN = ""
"""Stands for the documents of a prompt whose maker did not name them."""
EVERY = "*"
"""Stands for all documents of a tenant, in a revocation."""
SETTLE_S = 900.0
"""Seconds for which nothing is stored of a document after the index of passages follows its change: answers that were begun with
the earlier passages may end so much later."""

Stamps = dict[str, list[tuple[str, str]]]
"""Block → its notes: each a document's id and a stamp."""

_AT_ONCE = 200  # names in one statement


class BlockIndex:
    """Notes blocks of the KV cache and the documents of their prompts; thread-safe. Methods raise what `Metadata` raises."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    def admit(self, tenant: str, blocks: Sequence[str], documents: Collection[str] | None, *, written: bool = False) -> str:
        """Note blocks that are to be stored, or that were `written` by an earlier prompt; returns why they may not be, or "".

        `documents` are the ids of those whose passages the prompt has; `None`: not known.
        """
        wanted = sorted({UNKNOWN} if documents is None else set(documents))
        if not blocks or not wanted:
            return ""
        with self._metadata.transaction(writing=True) as run:
            if _unsettled(run, tenant, wanted):
                return "revoked"
            states = {UNKNOWN: ""} if documents is None else _states(run, wanted)
            if len(states) < len(wanted):
                return "revoked"  # deleted, or not in the documents table any more
            for some in slices(blocks):
                among, named = names(some)
                if run(f"SELECT 1 FROM kv_blocks WHERE block IN ({among}) AND revoked = 1 LIMIT 1", named):
                    return "revoked"
            rows = [
                {"tenant": tenant, "document_id": document, "block": block, "state": states[document]}
                | {"written": int(written), "at": now_text()}
                for block in blocks
                for document in wanted
            ]
            run.many(
                "INSERT INTO kv_blocks (tenant, document_id, block, state, written, revoked, at)"
                " VALUES (:tenant, :document_id, :block, :state, :written, 0, :at)"
                " ON CONFLICT (document_id, tenant, block) DO UPDATE SET state = excluded.state, at = excluded.at,"
                " written = CASE WHEN excluded.written = 1 THEN kv_blocks.written ELSE 0 END",
                rows,
            )
        return ""

    def stored(self, blocks: Sequence[str], documents: Collection[str] | None) -> set[str]:
        """Confirm that blocks are stored; returns them without those that were revoked meanwhile, which have to be deleted."""
        if documents is not None and not documents:
            return set(blocks)
        kept: set[str] = set()
        with self._metadata.transaction(writing=True) as run:
            for some in slices(blocks):
                among, named = names(some)
                kept |= {
                    block
                    for (block,) in run(
                        f"UPDATE kv_blocks SET written = 1, at = :now WHERE block IN ({among}) AND revoked = 0 RETURNING block",
                        {"now": now_text(), **named},
                    )
                }
        return kept

    def stamps(self, blocks: Collection[str]) -> Stamps:
        """The notes of some blocks, for `dropped` once these are gone; to be read before."""
        found: Stamps = {}
        for some in slices(sorted(blocks)):
            among, named = names(some)
            with self._metadata.transaction() as run:
                rows = run(f"SELECT block, document_id, at FROM kv_blocks WHERE block IN ({among})", named)
            for block, document, at in rows:
                found.setdefault(block, []).append((document, at))
        return found

    def dropped(self, stamps: Stamps) -> None:
        """Forget blocks that are gone, unless they were noted again meanwhile."""
        rows = [{"block": block, "document_id": document, "at": at} for block, notes in stamps.items() for document, at in notes]
        if rows:
            with self._metadata.transaction(writing=True) as run:
                run.many("DELETE FROM kv_blocks WHERE document_id = :document_id AND block = :block AND at = :at", rows)

    def dropped_revoked(self, blocks: Collection[str]) -> None:
        """Forget blocks that were revoked and are gone."""
        with self._metadata.transaction(writing=True) as run:
            for some in slices(sorted(blocks)):
                among, named = names(some)
                run(f"DELETE FROM kv_blocks WHERE block IN ({among}) AND revoked = 1", named)

    def documents_with_blocks(self, documents: Collection[str]) -> set[str]:
        """Those of some documents of which a block is known."""
        found: set[str] = set()
        for some in slices(sorted(documents)):
            among, named = names(some)
            with self._metadata.transaction() as run:
                rows = run(f"SELECT DISTINCT document_id FROM kv_blocks WHERE document_id IN ({among})", named)
            found |= {name for (name,) in rows}
        return found

    def outdated(self) -> set[str]:
        """The documents with a block from before their newest change. Reads all of the index."""
        with self._metadata.transaction() as run:
            known = run("SELECT DISTINCT document_id, state FROM kv_blocks WHERE document_id <> :unknown", {"unknown": UNKNOWN})
        found: set[str] = set()
        for some in slices(sorted({name for name, _ in known})):
            with self._metadata.transaction() as run:
                states = _states(run, some)
            wanted = set(some)
            found |= {name for name, state in known if name in wanted and states.get(name) != state}
        return found


def _states(run: Statements, documents: Sequence[str]) -> dict[str, str]:
    """document id → a digest of what the documents table says of it, of those that have a version that answers.

    While the copy of that table is made anew there may be two of it; a document is left out if one has no such version.
    """
    found: dict[str, str] = {}
    gone: set[str] = set()
    for some in slices(documents):
        among, named = names(some)
        rows = run(
            f"SELECT document_id, live, description FROM document_states WHERE document_id IN ({among}) ORDER BY scope", named
        )
        for name, live, description in rows:
            if live is None:
                gone.add(name)
            found[name] = hashlib.sha256(f"{live}\0{description}".encode()).hexdigest()[:16]
    return {name: state for name, state in found.items() if name not in gone}


def _unsettled(run: Statements, tenant: str, documents: Sequence[str]) -> bool:
    """Whether one of these documents, or any of the tenant if they are not known, was revoked lately."""
    recent = (datetime.now(UTC) - timedelta(seconds=SETTLE_S)).isoformat(timespec="microseconds")
    lately = "tenant = :tenant AND (settled_at IS NULL OR settled_at > :recent)"
    if UNKNOWN in documents:
        return bool(run(f"SELECT 1 FROM kv_revocations WHERE {lately} LIMIT 1", {"tenant": tenant, "recent": recent}))
    for some in slices([*documents, EVERY]):
        among, named = names(some)
        values = {"tenant": tenant, "recent": recent, **named}
        if run(f"SELECT 1 FROM kv_revocations WHERE {lately} AND document_id IN ({among}) LIMIT 1", values):
            return True
    return False


def slices(values: Sequence[str]) -> Iterator[Sequence[str]]:
    """Values in parts small enough for one statement."""
    for start in range(0, len(values), _AT_ONCE):
        yield values[start : start + _AT_ONCE]


def names(values: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Parameters for `IN (…)`, and their values."""
    named = {f"v{index}": value for index, value in enumerate(values)}
    return ", ".join(f":{name}" for name in named), named


def now_text() -> str:
    """The time as the metadata store has it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
