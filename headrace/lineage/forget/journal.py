"""Journal of a forgetting: what it has found, stored before anything is removed, so that a killed one can be completed.

proofs/<id>/open.json     the journal while it runs; changed by compare-and-swap
proofs/<id>/00001.json    the proof of each completed one
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

from headrace.catalog import PROOFS, Store
from headrace.core.stage import stage
from headrace.errors import NotFound
from headrace.lineage.forget.subject import Subject
from headrace.storage.objects import ObjectReader, ObjectWriter

REMOVED, EMPTIED, REWRITTEN = "removed", "emptied", "rewritten"


@dataclass
class Journal:
    """The findings of one forgetting. They only grow, so it can be resumed at any point.

    `answers`, `origins`, `chunks` and `sources` identify further data, after the rows they came from are gone. `pieces` is what
    is removed, emptied or rewritten, by store: keys and digests. `datasets` are the datasets that had examples of it, with their
    number by split. `first` is the earliest event and its time. `copies` is how many passages of the document other
    documents have, by uri.
    """

    who: str
    begun: str
    attempts: int = 0
    number: int = 1
    answers: set[str] = field(default_factory=set)
    origins: set[str] = field(default_factory=set)
    suppressed: set[str] = field(default_factory=set)
    chunks: set[str] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)
    pieces: dict[str, dict[str, Any]] = field(default_factory=dict)
    datasets: dict[str, dict[str, int]] = field(default_factory=dict)
    first: list[str] = field(default_factory=list)
    withdrawn: set[int] = field(default_factory=set)
    copies: dict[str, int] = field(default_factory=dict)
    etag: str = ""

    def take(self, store: Store, what: str, keys: Iterable[str], sha256: Iterable[str] = (), *, size: int = 0) -> bool:
        """Add pieces of a store; returns whether any is new."""
        piece = self.pieces.setdefault(
            f"{store.tier}/{store.name}/{what}",
            {"store": store.name, "tier": str(store.tier), "what": what, "keys": [], "sha256": [], "bytes": 0},
        )
        new = set(keys) - set(piece["keys"])
        if new:
            piece["keys"] = sorted({*piece["keys"], *new})
            piece["sha256"] = sorted({*piece["sha256"], *sha256})
            piece["bytes"] += size
        return bool(new)

    def see(self, at: datetime, origin: str) -> None:
        """Update the earliest event."""
        self.first = min(filter(None, (self.first, [at.isoformat(), origin])))

    def dump(self, subject: Subject) -> bytes:
        """The journal as a stored object."""
        fields = {name: sorted(value) if isinstance(value, set) else value for name, value in asdict(self).items()}
        fields.pop("etag")
        return json.dumps({"subject": subject.as_dict(), **fields}, indent=1, sort_keys=True).encode()

    @classmethod
    def load(cls, data: bytes, etag: str) -> Journal:
        """Parse the output of `dump`."""
        stored: dict[str, Any] = json.loads(data)
        stored.pop("subject")
        sets = ("answers", "origins", "suppressed", "chunks", "sources", "withdrawn")
        values: dict[str, Any] = {name: set(value) if name in sets else value for name, value in stored.items()}
        return cls(**values, etag=etag)


@stage("Resumes the journal of an unfinished forgetting, or begins one.")
def open_journal(proofs: Annotated[ObjectReader, PROOFS], subject: Subject, who: str) -> Journal:
    """The journal; a new one is not stored yet."""
    last = last_proof(proofs, subject)
    number = last[0] + 1 if last else 1
    try:
        journal = Journal.load(*proofs.get_with_etag(_open(subject)))
    except NotFound:
        journal = Journal(who, datetime.now(UTC).isoformat(), number=number)
    if journal.number < number:  # its proof exists; only the journal was not removed
        return Journal(who, datetime.now(UTC).isoformat(), number=number, etag=journal.etag)
    return journal


@stage("Stores the journal of a forgetting, before anything is removed.")
def note(proofs: Annotated[ObjectWriter, PROOFS], subject: Subject, journal: Journal) -> None:
    """Store the journal. Raises `LostRace` if another process is forgetting the same subject."""
    data = journal.dump(subject)
    key = _open(subject)
    journal.etag = proofs.put_if_match(key, data, journal.etag) if journal.etag else proofs.put_if_absent(key, data)


@stage("Stores the proof of a forgetting and removes the journal.")
def close(proofs: Annotated[ObjectWriter, PROOFS], subject: Subject, number: int, proof: Mapping[str, Any]) -> str:
    """Put the proof, then remove the journal; return the proof's key."""
    key = f"{subject.id}/{number:05d}.json"
    proofs.put_if_absent(key, json.dumps(proof, indent=1, sort_keys=True, ensure_ascii=False).encode())
    proofs.delete(_open(subject))
    return key


@stage("Reads the last proof about a user or a document.")
def newest_proof(proofs: Annotated[ObjectReader, PROOFS], subject: Subject) -> dict[str, Any] | None:
    """The last proof, or `None` if there is none."""
    last = last_proof(proofs, subject)
    return json.loads(proofs.get(last[1])) if last else None


def last_proof(proofs: ObjectReader, subject: Subject) -> tuple[int, str] | None:
    """Number and key of the last proof about a subject."""
    keys = [info.key for info in proofs.list(f"{subject.id}/")]
    numbers = [(int(name), key) for key in keys if (name := key.rpartition("/")[2].removesuffix(".json")).isdigit()]
    return max(numbers, default=None)


def _open(subject: Subject) -> str:
    return f"{subject.id}/open.json"
