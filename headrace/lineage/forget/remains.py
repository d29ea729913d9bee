"""What forgetting cannot remove, with reason and end; including models that had learned from it, since weights cannot unlearn."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import pyarrow.compute as pc

from headrace.catalog import (
    AUDIT,
    CHECKPOINTS,
    CHUNK_ROWS,
    DEAD_LETTERS,
    DOCUMENT_EVENT_ROWS,
    DOCUMENT_ROWS,
    DOCUMENTS,
    INTERACTION_ROWS,
    LANDINGS,
    MODELS,
    ROUNDS,
    SUPPRESSIONS,
    Store,
)
from headrace.core.stage import each, stage
from headrace.documents.lookup import DocumentLookup
from headrace.landing.event import Event
from headrace.lineage.forget.index import shared
from headrace.lineage.forget.journal import Journal
from headrace.lineage.forget.subject import DOCUMENT, Subject
from headrace.lineage.graph import LearnedVersion, ReleaseHistory
from headrace.storage.metadata import Metadata
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.storage.stream.reader import TopicReader
from headrace.storage.tables.handles import TableReader, quoted
from headrace.training import manifest

_SHOWN = 5  # names of other documents in a line; all are listed beside it


@stage("Finds the models that had learned from the forgotten data.")
def find_learned(
    rounds: Annotated[ObjectReader, ROUNDS], models: Annotated[ObjectReader, MODELS], journal: Journal
) -> list[LearnedVersion]:
    """Released versions with round and current share of answers; including those that began from such weights."""
    return ReleaseHistory.load(rounds, models).learned(journal.datasets)


@stage("Finds the rounds that name a user.")
def find_named(rounds: Annotated[ObjectReader, ROUNDS], subject: Subject) -> list[str]:
    """Keys of manifests and plans that contain the user's id, in per-user measurements and alarms."""
    if subject.kind == DOCUMENT:
        return []
    word = json.dumps(subject.name, ensure_ascii=True)[1:-1].encode()
    return sorted(info.key for info in rounds.list() if word in rounds.get(info.key))


@stage("Withdraws the plan of an uncommitted round.")
def withdraw_unfinished(rounds: Annotated[ObjectWriter, ROUNDS], journal: Journal) -> None:
    """Withdraw the plan, whose snapshots are about to be removed. A process that runs that round fails; it is planned again."""
    number = max(manifest.numbers(rounds), default=0) + 1
    if manifest.plan(rounds, number) is not None:
        manifest.withdraw(rounds, number)
        journal.withdrawn.add(number)


@stage("Finds the forgotten events that are still in the head.")
def in_head(
    topics: Annotated[Mapping[Store, TopicReader], each(LANDINGS)],
    origins: set[str],
) -> dict[str, list[str]]:
    """The given events that their topics still hold, by topic."""
    addresses: dict[str, list[str]] = {}
    for event in sorted(map(Event.parse, origins)):
        addresses.setdefault(event.store.name, []).append(str(event))
    low_offsets = {}
    for store, topic in topics.items():
        if store.name in addresses:
            spans = topic.spans()
            events = map(Event.parse, addresses[store.name])
            low_offsets[store.name] = [str(e) for e in events if e.partition in spans and e.offset >= spans[e.partition].low]
    return {name: events for name, events in low_offsets.items() if events}


@stage("Finds a document's sources that another document also has.")
def kept_sources(
    known: Annotated[TableReader, DOCUMENT_ROWS], metadata: Metadata, subject: Subject, journal: Journal
) -> list[str]:
    """Keys of the source objects that are kept."""
    return sorted(shared(known, metadata, subject, journal))


@stage("Finds the other documents that have passages of a document word for word.")
def find_copies(
    known: Annotated[TableReader, DOCUMENT_ROWS],
    chunks: Annotated[TableReader, CHUNK_ROWS],
    metadata: Metadata,
    subject: Subject,
    journal: Journal,
) -> None:
    """Note them in the journal: they are documents of their own, in which questions go on finding the text."""
    mine = chunks.read(("text",), f"document_id = {quoted(subject.document_id)}")["text"].combine_chunks().unique()
    if not len(mine):
        return
    found: dict[str, dict[str, set[str]]] = {}  # document id → version → the texts it shares
    for rows in chunks.scan(("document_id", "version", "text"), f"tenant = {quoted(subject.tenant)}"):
        for row in rows.filter(pc.is_in(rows["text"], value_set=mine)).to_pylist():
            found.setdefault(row["document_id"], {}).setdefault(row["version"], set()).add(row["text"])
    found.pop(subject.document_id, None)
    lookup = DocumentLookup(metadata, known)
    lookup.follow()
    for name, newest in lookup.newest(found).items():
        # Where the newest version failed, an older one answers.
        answers = found[name] if newest["status"] == "failed" else {newest["version"]} & found[name].keys()
        if newest["status"] != "deleted" and answers:
            journal.copies[newest["uri"]] = len(set().union(*(found[name][version] for version in answers)))


def remains(
    subject: Subject,
    journal: Journal,
    *,
    models: list[LearnedVersion],
    head: dict[str, list[str]],
    unread: list[str],
    sources: list[str],
    rounds: list[str],
    embedded: bool,
) -> list[dict[str, Any]]:
    """What remains, for the proof: where, what, why and until when."""
    entries: list[dict[str, Any]] = []

    def say(where: str, what: str, why: str, until: str, **more: Any) -> None:
        entries.append({"where": where, "what": what, "why": why, "until": until, **more})

    for topic, events in head.items():
        why = "a partition's last batch is kept" if embedded else "Kafka deletes by its retention, or when it is trimmed"
        until = (
            "a later event has landed and the head is trimmed (`headrace up`, `headrace land`)"
            if embedded
            else "the broker's retention; sooner with landing.trim"
        )
        say(f"head: topic {topic}", f"{len(events)} events as sent", why, until, events=events)
    if models:
        names = [f"{one['model']} {one['version']}" for one in models]
        say(
            str(MODELS),
            "weights that learned from it",
            "weights cannot be unlearned",
            "they are no longer served",
            models=names,
        )
        say(
            str(CHECKPOINTS),
            "checkpoints of those weights",
            "weights cannot be unlearned",
            "they are cleaned up",
            rounds=sorted(one["round"] for one in models),
        )
    if unread:
        why = "they cannot be parsed, so it is unknown whose they are"
        say(str(DEAD_LETTERS), f"{len(unread)} letters that contain the name", why, "they are reviewed by hand", events=unread)
    if rounds:
        why = "manifests are immutable; they name users but contain none of their text"
        say(str(ROUNDS), f"the id in {len(rounds)} manifests", why, "the store is removed", keys=rounds)
    if subject.kind == DOCUMENT:
        say(
            str(DOCUMENT_EVENT_ROWS),
            "name, size, hash and times of the document",
            "landing and lineage need every event; none contains its text",
            "the table is removed",
        )
        say(
            str(AUDIT),
            "name of the document, and who put or deleted it and when",
            "an audit log must not be erasable; it contains none of the text",
            "the table is removed",
        )
        say(
            str(INTERACTION_ROWS),
            f"questions, times and scores of {len(journal.answers)} answers made with a passage of it",
            "they belong to the users who asked; text and tokens of the answers are removed",
            "those users are forgotten",
        )
    if sources:
        why = "another document has the same bytes"
        say(str(DOCUMENTS), f"{len(sources)} source objects", why, "that document is forgotten", keys=sources)
    if journal.copies:
        names = sorted(journal.copies, key=lambda uri: (-journal.copies[uri], uri))
        shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")
        why = "they are documents of their own, in which questions go on finding the text until they are forgotten, too"
        until = "each is forgotten, too: headrace forget --document NAME"
        say("other documents", f"passages word for word in {shown}", why, until, documents=dict(sorted(journal.copies.items())))
    if subject.kind == DOCUMENT:
        why = "LanceDB keeps uncommitted files for a week, since their writer may be slow"
        say("chunks (vector)", "files of a writer that died, if any", why, "a week later")
        say(
            "the folder or bucket it was in",
            "the file itself, unless it is deleted there too",
            "Headrace reads sources and changes none; the next indexing or following puts the file again",
            "it is deleted there",
        )
    say(
        str(SUPPRESSIONS),
        "the name",
        "needed to keep it out of later datasets",
        "never",
        suppression=subject.id,
    )
    say(
        "copies",
        "backups, replicas, versions in a versioned bucket, freed disk blocks not overwritten yet",
        "Headrace cannot reach them",
        "their own retention",
    )
    return entries
