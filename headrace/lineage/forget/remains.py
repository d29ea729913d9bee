"""What forgetting cannot remove, each with why and until when; and the models that had learned, for weights unlearn nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from headrace.catalog import (
    AUDIT,
    CHECKPOINTS,
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
from headrace.ingest.event import Event
from headrace.lineage.forget.index import shared
from headrace.lineage.forget.journal import Journal
from headrace.lineage.forget.subject import DOCUMENT, Subject
from headrace.lineage.graph import LearnedVersion, ReleaseHistory
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.storage.stream import TopicReader
from headrace.storage.tables.handles import TableReader
from headrace.training import manifest

_LEARNED = ("train", "tune")


@stage("Finds the models that had learned from what is forgotten.")
def find_learned(
    rounds: Annotated[ObjectReader, ROUNDS], models: Annotated[ObjectReader, MODELS], journal: Journal
) -> list[LearnedVersion]:
    """Each released version with its round and the share of answers it gives now; those that began from such weights, too."""
    versions = {version for version, splits in journal.datasets.items() if any(splits.get(split) for split in _LEARNED)}
    return ReleaseHistory.load(rounds, models).learned(versions)


@stage("Finds the rounds that name a user.")
def find_named(rounds: Annotated[ObjectReader, ROUNDS], subject: Subject) -> list[str]:
    """Keys of manifests and plans in which the id stands: what was measured of each user, and alarms that name one."""
    if subject.kind == DOCUMENT:
        return []
    word = json.dumps(subject.name, ensure_ascii=True)[1:-1].encode()
    return sorted(info.key for info in rounds.list() if word in rounds.get(info.key))


@stage("Takes back the plan of a round that was to learn from what is forgotten.")
def withdraw(rounds: Annotated[ObjectWriter, ROUNDS], journal: Journal) -> None:
    """A plan names snapshots, which are about to go; the next round is planned anew. A process that makes that round fails."""
    number = max(manifest.numbers(rounds), default=0) + 1
    if manifest.plan(rounds, number) is not None:
        manifest.withdraw(rounds, number)
        journal.withdrawn.add(number)


@stage("Says what of it the head still holds.")
def in_head(
    topics: Annotated[Mapping[Store, TopicReader], each(LANDINGS)],
    origins: set[str],
) -> dict[str, list[str]]:
    """Topic → those of these events that its head has not forgotten yet."""
    places: dict[str, list[str]] = {}
    for event in sorted(map(Event.parse, origins)):
        places.setdefault(event.store.name, []).append(str(event))
    low_offsets = {}
    for store, topic in topics.items():
        if store.name in places:
            spans = topic.spans()
            events = map(Event.parse, places[store.name])
            low_offsets[store.name] = [str(e) for e in events if e.partition in spans and e.offset >= spans[e.partition].low]
    return {name: events for name, events in low_offsets.items() if events}


@stage("Says which sources of a document another document has too.")
def kept_sources(known: Annotated[TableReader, DOCUMENT_ROWS], subject: Subject, journal: Journal) -> list[str]:
    """Keys of the source objects that stay."""
    return sorted(shared(known, subject, journal))


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
    """What is still there, as the proof says it: where, what, why and until when."""
    entries: list[dict[str, Any]] = []

    def say(where: str, what: str, why: str, until: str, **more: Any) -> None:
        entries.append({"where": where, "what": what, "why": why, "until": until, **more})

    for topic, events in head.items():
        why = "a partition's last batch stays" if embedded else "Kafka deletes by its own retention, or when it is trimmed"
        until = (
            "another event has landed behind it and the head is trimmed (`headrace up`, `headrace land`)"
            if embedded
            else "the broker's retention; landing.trim has Headrace ask for it sooner"
        )
        say(f"head: topic {topic}", f"{len(events)} events as they were sent", why, until, events=events)
    if models:
        names = [f"{one['model']} {one['version']}" for one in models]
        say(
            str(MODELS),
            "weights that learned from it",
            "weights cannot be unlearned",
            "they are not served any more",
            models=names,
        )
        say(
            str(CHECKPOINTS),
            "those weights on their way",
            "weights cannot be unlearned",
            "they are tidied up",
            rounds=sorted(one["round"] for one in models),
        )
    if unread:
        why = "they cannot be read, so that nobody can tell whose they are"
        say(str(DEAD_LETTERS), f"{len(unread)} letters in which the name occurs", why, "somebody looks at them", events=unread)
    if rounds:
        why = "a manifest is what a round was; it names users and holds no word of theirs"
        say(str(ROUNDS), f"the id in {len(rounds)} manifests", why, "the store is removed", keys=rounds)
    if subject.kind == DOCUMENT:
        say(
            str(DOCUMENT_EVENT_ROWS),
            "name, size, hash and times of the document",
            "landing and lineage count on every event; none holds a word of it",
            "the table is removed",
        )
        say(
            str(AUDIT),
            "name of the document, and who put or deleted it when",
            "an audit that can be emptied is none; it holds no word of it",
            "the table is removed",
        )
        say(
            str(INTERACTION_ROWS),
            f"questions, times and scores of {len(journal.answers)} answers that were given a passage of it",
            "they are of those who asked; text and tokens of the answers are gone",
            "those users are forgotten",
        )
    if sources:
        why = "another document has the same bytes"
        say(str(DOCUMENTS), f"{len(sources)} source objects", why, "that document is forgotten", keys=sources)
    if subject.kind == DOCUMENT:
        why = "LanceDB keeps for a week what was written and not committed, since its writer may be slow"
        say("chunks (vector)", "files of a writer that died, if one did", why, "a week after")
    say(
        str(SUPPRESSIONS),
        "the name",
        "without it nothing could be kept from being learned again",
        "never",
        suppression=subject.id,
    )
    say(
        "copies",
        "backups, replicas, versions in a versioned bucket, blocks of a disk that were freed and not overwritten yet",
        "they are not Headrace's to reach",
        "their own retention",
    )
    return entries
