"""The subject of a forgetting, and masks that select its rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from headrace.documents.names import document_id
from headrace.unicode import normalized

USER, DOCUMENT = "user", "document"


@dataclass(frozen=True)
class Subject:
    """A tenant's user (by id) or document (by uri)."""

    kind: str
    tenant: str
    name: str

    @property
    def id(self) -> str:
        """16 hex digits that identify suppressions and proofs."""
        return hashlib.sha256(f"{self.kind}\0{self.tenant}\0{self.name}".encode()).hexdigest()[:16]

    @property
    def document_id(self) -> str:
        """The document's id, the same for all versions; empty for a user."""
        return document_id(self.tenant, self.name) if self.kind == DOCUMENT else ""

    @property
    def uris(self) -> tuple[str, ...]:
        """The document's name as events may spell it: before parsing, in either of Unicode's two normal forms."""
        return tuple(sorted({self.name, normalized("NFD", self.name)}))

    def as_dict(self) -> dict[str, str]:
        """The subject in journal and proof."""
        return {
            "kind": self.kind,
            "tenant": self.tenant,
            "user" if self.kind == USER else "uri": self.name,
            **({"document_id": self.document_id} if self.kind == DOCUMENT else {}),
        }

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} of tenant {self.tenant!r}"

    # Masks over record batches, for finding and for rewriting.

    def own_interactions(self, rows: pa.RecordBatch) -> pa.BooleanArray:
        """Interactions of the user, or made with a passage of the document."""
        mine = pc.equal(rows["tenant"], self.tenant)
        if self.kind == USER:
            return pc.and_(mine, pc.equal(rows["user"], self.name))
        return pc.and_(mine, _has(rows["passages"], "document", [self.name]))

    def own_feedback(self, rows: pa.RecordBatch, answers: Collection[str]) -> pa.BooleanArray:
        """Feedback on one of these answers, or by the user."""
        mine = pc.equal(rows["tenant"], self.tenant)
        about = pc.is_in(rows["answer_id"], value_set=_texts(answers))
        if self.kind == USER:
            about = pc.or_(about, pc.equal(rows["user"], self.name))
        return pc.and_(mine, about)

    def own_examples(
        self, rows: pa.RecordBatch, answers: Collection[str], origins: Collection[str], chunks: Collection[str]
    ) -> pa.BooleanArray:
        """Examples made from the subject's data, by origins, answers and passages."""
        of_it = pc.or_(pc.is_in(rows["answer_id"], value_set=_texts(answers)), _any_in(rows["origins"], origins))
        if self.kind == USER:
            return pc.or_(
                of_it, pc.and_(pc.equal(rows["tenant"], self.tenant), _has_name(rows["user"], rows["users"], self.name))
            )
        # A verdict on another document's passage teaches nothing about this one, even for the same answer.
        whole = pc.and_(of_it, pc.fill_null(pc.equal(rows["kind"], "answer"), False))
        of_document = pc.fill_null(pc.equal(rows["document_id"], self.document_id), False)
        return pc.or_(pc.or_(whole, of_document), pc.is_in(rows["chunk_id"], value_set=_texts(chunks)))

    def is_meant(self, value: bytes, answers: Collection[str]) -> bool:
        """Whether a dead letter belongs to the subject, according to its JSON."""
        try:
            event = json.loads(value)
        except (ValueError, RecursionError):
            return False
        if not isinstance(event, dict) or event.get("tenant", self.tenant) != self.tenant:
            return False
        if event.get("answer_id") in answers and event.get("answer_id"):
            return True
        if self.kind == USER:
            return bool(event.get("user") == self.name)
        passages = event.get("passages")
        return isinstance(passages, list) and any(isinstance(p, dict) and p.get("document") == self.name for p in passages)


def digest(rows: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 over rows as JSON lines in alphabetical order, so that a holder of a copy can verify it."""
    lines = sorted(json.dumps(row, sort_keys=True, default=_text_of, ensure_ascii=False) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _text_of(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _texts(values: Collection[str]) -> pa.Array:
    return pa.array(sorted(values), pa.string())


def _has(lists: pa.Array, field: str, values: Collection[str]) -> pa.BooleanArray:
    """Rows with a struct in the list that has one of these values in a field."""
    return _rows_where(lists, pc.is_in(lists.flatten().field(field), value_set=_texts(values)))


def _any_in(lists: pa.Array, values: Collection[str]) -> pa.BooleanArray:
    """Rows with one of these texts in the list."""
    return _rows_where(lists, pc.is_in(lists.flatten(), value_set=_texts(values)))


def _has_name(one: pa.Array, many: pa.Array, name: str) -> pa.BooleanArray:
    return pc.or_(pc.fill_null(pc.equal(one, name), False), _any_in(many, [name]))


def _rows_where(lists: pa.Array, mask: pa.BooleanArray) -> pa.BooleanArray:
    parents = pc.list_parent_indices(lists).filter(mask)
    return pc.is_in(pa.array(range(len(lists)), parents.type), value_set=parents)
