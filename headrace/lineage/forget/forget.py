"""forget: removes a user or a document from every store for good, with a proof.

The steps, each safe to interrupt, since the journal has everything needed before anything is removed:

1. Land the head, announce a document as deleted, and record all matching data in the journal.
2. Suppress it: no later dataset contains it. Withdraw a round that is planned and not committed.
3. Remove or empty rows, rewrite shards, remove sources, vectors and KV blocks; then remove older snapshots of the tables and
   older versions of the index, which still contain it.
4. Repeat until nothing is found, since others write meanwhile.
5. Trim landed events from the embedded head; list what remains and why; store the proof.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from headrace.catalog import DOCUMENT_EVENTS, FEEDBACK, INTERACTIONS, SUPPRESSIONS
from headrace.core.runner import Runner
from headrace.documents.put import delete
from headrace.errors import LostRace, NotFound
from headrace.landing.land import land
from headrace.landing.trim import trim
from headrace.lineage.forget.datasets import find_examples, strike_examples
from headrace.lineage.forget.index import drop_copies, drop_kv, find_stored, kv_settled, still_indexed, strike_stored
from headrace.lineage.forget.journal import Journal, close, newest_proof, note, open_journal
from headrace.lineage.forget.remains import (
    find_copies,
    find_learned,
    find_named,
    in_head,
    kept_sources,
    remains,
    withdraw_unfinished,
)
from headrace.lineage.forget.rows import (
    end_passes,
    find_document,
    find_user,
    purge,
    strike_document,
    strike_user,
    suppress,
    unread,
)
from headrace.lineage.forget.subject import USER, Subject

_PASSES = 5


def forget(runner: Runner, subject: Subject, *, who: str, embedded: bool = False) -> dict[str, Any]:
    """Forget a user or a document and return the proof; completes a forgetting that a killed process began.

    Repeated, it searches again and returns the last proof if nothing is found. `embedded`: the head is the embedded one. Raises
    `NotFound` if nothing is known about the subject, `LostRace` if new data keeps arriving.
    """
    journal = runner.run(open_journal, subject=subject, who=who)
    before = runner.run(newest_proof, subject=subject)
    _land(runner)
    if subject.kind != USER and runner.run(still_indexed, subject=subject):
        runner.run(delete, tenant=subject.tenant, uri=subject.name, versions=())
        _land(runner)
    changed = _find(runner, subject, journal)
    if not changed and not journal.attempts:
        if before is not None:
            return before
        hint = "Check --tenant, and upper and lower case."
        if subject.kind == USER:
            hint += " Commands record the login name of who runs them, not who was named by --as."
        raise NotFound(f"Nothing is known about {subject}.", hint=hint)
    if subject.kind != USER:
        runner.run(find_copies, subject=subject, journal=journal)
    journal.attempts += 1
    looked = datetime.now(UTC)
    purged: dict[str, Any] = {}
    for _ in range(_PASSES):
        # Store the journal first: afterwards it may be the only record of what is removed.
        runner.run(note, subject=subject, journal=journal)
        runner.run(suppress, subject=subject, journal=journal, who=who, at=looked)
        runner.run(withdraw_unfinished, journal=journal)
        _strike(runner, subject, journal)
        gone: dict[str, Any] = runner.run(purge, subject=subject)
        purged = _added(purged, gone)
        # Again, for answers that were in progress.
        runner.run(drop_kv, subject=subject, journal=journal)
        runner.run(withdraw_unfinished, journal=journal)
        _land(runner)
        if not _find(runner, subject, journal):
            break
    else:
        raise LostRace(f"New data about {subject} keeps arriving.", hint="Stop its source and run the command again.")
    if subject.kind != USER:
        runner.run(drop_copies, subject=subject)
    runner.run(kv_settled)
    if embedded:
        runner.run(trim, keep_s=0.0)
    proof = _proof(runner, subject, journal, who=who, purged=purged, embedded=embedded)
    key = runner.run(close, subject=subject, number=journal.number, proof=proof)
    return {**proof, "kept": f"proofs/{key}"}


def is_unmodified(proof: Mapping[str, Any]) -> bool:
    """Whether a proof is unmodified: its `sha256` must match the rest as JSON with sorted keys and no spaces."""
    return bool(proof["sha256"] == _digest(proof))


def _find(runner: Runner, subject: Subject, journal: Journal) -> int:
    rows = find_user if subject.kind == USER else find_document
    count = runner.run(rows, subject=subject, journal=journal)
    if subject.kind != USER:
        count += runner.run(find_stored, subject=subject, journal=journal)
    return count + runner.run(find_examples, subject=subject, journal=journal)


def _strike(runner: Runner, subject: Subject, journal: Journal) -> None:
    runner.run(strike_examples, subject=subject, journal=journal, at=journal.begun)
    if subject.kind == USER:
        runner.run(strike_user, subject=subject, journal=journal)
    else:
        runner.run(strike_document, subject=subject, journal=journal)
        runner.run(strike_stored, subject=subject, journal=journal)
        # Those that have read it by now, perhaps minutes ago, would bring it back.
        runner.run(end_passes)
    # Last, so that no new answer puts the removed data into a block.
    runner.run(drop_kv, subject=subject, journal=journal)


def _land(runner: Runner) -> None:
    runner.run(land).require(INTERACTIONS, FEEDBACK, DOCUMENT_EVENTS)


def _proof(
    runner: Runner, subject: Subject, journal: Journal, *, who: str, purged: Mapping[str, Any], embedded: bool
) -> dict[str, Any]:
    models = runner.run(find_learned, journal=journal)
    left = remains(
        subject,
        journal,
        models=models,
        head=runner.run(in_head, origins=journal.origins),
        unread=runner.run(unread, subject=subject),
        rounds=runner.run(find_named, subject=subject),
        sources=runner.run(kept_sources, subject=subject, journal=journal) if subject.kind != USER else [],
        embedded=embedded,
    )
    recipes = dict.fromkeys(one["recipe"] for one in models)
    proof: dict[str, Any] = {
        "proof": 1,
        "id": f"{subject.id}/{journal.number:05d}",
        "subject": subject.as_dict(),
        "who": who,
        "begun": journal.begun,
        "begun_by": journal.who,
        "finished": datetime.now(UTC).isoformat(),
        "attempts": journal.attempts,
        "searched": _SEARCHED[subject.kind],
        "removed": [{**piece, "count": len(piece["keys"])} for _, piece in sorted(journal.pieces.items()) if piece["keys"]],
        "purged": dict(sorted(purged.items())),
        "found_afterwards": 0,
        "suppressed": {"store": str(SUPPRESSIONS), "suppression": subject.id, "events": sorted(journal.suppressed)},
        "withdrawn_rounds": sorted(journal.withdrawn),
        "learned": models,
        "retrain": [f"headrace train --recipe {recipe} --before {journal.first[1]}" for recipe in recipes if journal.first],
        "remains": left,
    }
    return {**proof, "sha256": _digest(proof)}


_SEARCHED = {
    USER: {
        "interactions (table)": "rows of the tenant with this user",
        "feedback (table)": "rows of the tenant by this user or on such an answer",
        "dead-letters (table)": "letters that are readable as JSON and name the user or such an answer",
        "examples (table), datasets (object)": "rows of such an answer, event or user",
        "kv-cache (file), kv-cache (object)": "every block of the tenant",
        "older snapshots of these tables": "every one",
    },
    "document": {
        "documents (object)": "the sources of every version",
        "document-events (table)": "its events' fields other than name, size, hash and times",
        "documents (table)": "rows of every version",
        "chunks (table), chunks (vector)": "chunks of every version in every generation of the index, its indices and versions",
        "interactions (table)": "answers made with a passage of it",
        "feedback (table)": "the text of verdicts on those answers",
        "dead-letters (table)": "letters that are readable as JSON and name the document or such an answer",
        "examples (table), datasets (object)": "rows from a passage of it, or from an answer made with one",
        "kv-cache (file), kv-cache (object)": "every block of the tenant",
        "older snapshots of these tables": "every one",
    },
}


def _added(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    names = sorted({*one, *other})
    nothing = {"objects": 0, "bytes": 0}
    return {n: {k: one.get(n, nothing)[k] + other.get(n, nothing)[k] for k in nothing} for n in names}


def _digest(proof: Mapping[str, Any]) -> str:
    content = {name: value for name, value in proof.items() if name not in ("sha256", "kept")}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()
