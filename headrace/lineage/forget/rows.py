"""Forgetting in tables: finds and removes rows of a user or a document, or empties rows that also belong to others."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc

from headrace.catalog import (
    CHUNK_ROWS,
    DEAD_LETTERS,
    DOCUMENT_EVENT_ROWS,
    DOCUMENT_ROWS,
    EXAMPLES,
    FEEDBACK_ROWS,
    INTERACTION_ROWS,
    SUPPRESSIONS,
)
from headrace.core.stage import stage
from headrace.documents.names import object_key
from headrace.documents.queue import FORGETTINGS
from headrace.documents.versions import event_address
from headrace.errors import LostRace
from headrace.lineage.forget.journal import EMPTIED, REMOVED, Journal
from headrace.lineage.forget.subject import Subject, digest
from headrace.storage.records import batch
from headrace.storage.tables.handles import TableReader, TableWriter, quoted

# Columns that contain someone's words or text derived from them.
_ANSWER_WORDS = ("answer", "asked_as", "prompt_tokens", "completion_tokens", "logprobs", "extra")
_VERDICT_WORDS = ("reason", "correction", "extra")
_EVENT_WORDS = ("attributes", "extra")


@stage("Finds the answers, verdicts and dead letters of a user.")
def find_user(
    interactions: Annotated[TableReader, INTERACTION_ROWS],
    feedback: Annotated[TableReader, FEEDBACK_ROWS],
    dead_letters: Annotated[TableReader, DEAD_LETTERS],
    subject: Subject,
    journal: Journal,
) -> int:
    """Record the user's rows, and others' verdicts on the user's answers, in the journal; returns their number."""
    of_tenant = f"tenant = {quoted(subject.tenant)}"
    own = _rows(interactions, subject.own_interactions, f"{of_tenant} AND user = {quoted(subject.name)}")
    journal.answers.update(row["answer_id"] for row in own)
    judged = _rows(feedback, functools.partial(subject.own_feedback, answers=journal.answers), of_tenant)
    for row in (*own, *judged):
        journal.see(row["at"], event_address(row))
    _take(journal, interactions, REMOVED, own)
    _take(journal, feedback, REMOVED, judged)
    letters = _letters(dead_letters, subject, journal)
    journal.origins.update(event_address(row) for row in (*own, *judged, *letters))
    return len(own) + len(judged) + len(letters)


@stage("Finds the versions, the chunks and the answers of a document.")
def find_document(
    events: Annotated[TableReader, DOCUMENT_EVENT_ROWS],
    documents: Annotated[TableReader, DOCUMENT_ROWS],
    chunks: Annotated[TableReader, CHUNK_ROWS],
    interactions: Annotated[TableReader, INTERACTION_ROWS],
    feedback: Annotated[TableReader, FEEDBACK_ROWS],
    dead_letters: Annotated[TableReader, DEAD_LETTERS],
    subject: Subject,
    journal: Journal,
) -> int:
    """Record rows with text of the document in the journal; returns their number.

    An answer made with a passage of it keeps its question, which is the user's, and loses its text and tokens; verdicts on it
    keep their thumb.
    """
    of_tenant = f"tenant = {quoted(subject.tenant)}"
    mine = f"document_id = {quoted(subject.document_id)}"
    versions = _rows(documents, _with_words, mine)
    split = _rows(chunks, _every, mine)
    put = _rows(events, _every, f"{of_tenant} AND uri IN ({', '.join(map(quoted, subject.uris))})")
    described = [row for row in put if _has_words(row, _EVENT_WORDS)]
    for row in put:
        journal.see(row["at"], event_address(row))
    journal.chunks.update(row["chunk_id"] for row in split)
    journal.sources.update(object_key(subject.tenant, row["sha256"]) for row in put if row["sha256"])
    journal.sources.update(object_key(subject.tenant, row["version"]) for row in versions if row["version"])
    answers = _rows(interactions, subject.own_interactions, of_tenant)
    journal.answers.update(row["answer_id"] for row in answers)
    spoken = [row for row in answers if _has_words(row, _ANSWER_WORDS)]
    judged = _rows(feedback, functools.partial(subject.own_feedback, answers=journal.answers), of_tenant)
    judged = [row for row in judged if _has_words(row, _VERDICT_WORDS)]
    # Verdicts on searches are per passage, so those on other documents stay usable; an answer was made from all its passages.
    journal.origins.update(event_address(row) for row in answers if row["kind"] == "answer")
    for table, what, rows in (
        (documents, REMOVED, versions),
        (chunks, REMOVED, split),
        (events, EMPTIED, described),
        (interactions, EMPTIED, spoken),
        (feedback, EMPTIED, judged),
    ):
        _take(journal, table, what, rows)
    letters = _letters(dead_letters, subject, journal)
    return len(versions) + len(split) + len(described) + len(spoken) + len(judged) + len(letters)


@stage("Keeps a user or a document, and every event of it, out of every later dataset.")
def suppress(suppressions: Annotated[TableWriter, SUPPRESSIONS], subject: Subject, journal: Journal, who: str, at: Any) -> bool:
    """Add a row with events not suppressed yet; returns whether one was needed."""
    recorded = suppressions.read(("suppression_id", "origins"), f"suppression_id = {quoted(subject.id)}").to_pylist()
    named = {origin for row in recorded for origin in row["origins"]}
    new = journal.origins - named
    journal.suppressed = named | new
    if recorded and not new:
        return False
    row = {"suppression_id": subject.id, "kind": subject.kind, "tenant": subject.tenant, "name": subject.name}
    row |= {"document_id": subject.document_id, "who": who, "at": at}
    suppressions.append(batch(SUPPRESSIONS.columns, [{**row, "origins": sorted(new)}]))
    return True


@stage("Removes a user's answers, verdicts and dead letters from the tables.")
def strike_user(
    interactions: Annotated[TableWriter, INTERACTION_ROWS],
    feedback: Annotated[TableWriter, FEEDBACK_ROWS],
    dead_letters: Annotated[TableWriter, DEAD_LETTERS],
    subject: Subject,
    journal: Journal,
) -> int:
    """Remove the rows; returns their number. Landing positions stay, so that none lands again."""
    judged = functools.partial(subject.own_feedback, answers=journal.answers)
    return (
        interactions.rewrite(("tenant", "user"), subject.own_interactions)
        + feedback.rewrite(("tenant", "user", "answer_id"), judged)
        + _strike_letters(dead_letters, subject, journal)
    )


@stage("Removes a document's text and chunks from the tables, and its words from its events and from answers made from it.")
def strike_document(
    events: Annotated[TableWriter, DOCUMENT_EVENT_ROWS],
    documents: Annotated[TableWriter, DOCUMENT_ROWS],
    chunks: Annotated[TableWriter, CHUNK_ROWS],
    interactions: Annotated[TableWriter, INTERACTION_ROWS],
    feedback: Annotated[TableWriter, FEEDBACK_ROWS],
    dead_letters: Annotated[TableWriter, DEAD_LETTERS],
    subject: Subject,
    journal: Journal,
) -> int:
    """Remove or empty the rows; returns their number."""

    def mine(rows: pa.RecordBatch) -> pa.BooleanArray:
        return pc.equal(rows["document_id"], subject.document_id)

    def described(rows: pa.RecordBatch) -> pa.BooleanArray:
        named = pc.and_(pc.equal(rows["tenant"], subject.tenant), pc.is_in(rows["uri"], pa.array(subject.uris)))
        return pc.and_(named, _words(rows, _EVENT_WORDS))

    def spoken(rows: pa.RecordBatch) -> pa.BooleanArray:
        return pc.and_(subject.own_interactions(rows), _words(rows, _ANSWER_WORDS))

    def judged(rows: pa.RecordBatch) -> pa.BooleanArray:
        return pc.and_(subject.own_feedback(rows, journal.answers), _words(rows, _VERDICT_WORDS))

    return (
        documents.rewrite(("document_id", "status"), lambda rows: pc.and_(mine(rows), _with_words(rows)))
        + chunks.rewrite(("document_id",), mine)
        + events.rewrite(("tenant", "uri", *_EVENT_WORDS), described, functools.partial(_emptied, names=_EVENT_WORDS))
        + interactions.rewrite(
            ("tenant", "user", "passages", *_ANSWER_WORDS), spoken, functools.partial(_emptied, names=_ANSWER_WORDS)
        )
        + feedback.rewrite(
            ("tenant", "user", "answer_id", *_VERDICT_WORDS), judged, functools.partial(_emptied, names=_VERDICT_WORDS)
        )
        + _strike_letters(dead_letters, subject, journal)
    )


@stage("Keeps passes over documents that have begun from committing what they read by then.")
def end_passes(documents: Annotated[TableWriter, DOCUMENT_ROWS], chunks: Annotated[TableWriter, CHUNK_ROWS]) -> None:
    """Call it once the document's rows and sources are removed; such a pass is begun anew, and does not find them."""
    for table in (documents, chunks):
        count = table.snapshot_property(FORGETTINGS)
        with contextlib.suppress(LostRace):  # another process did it since
            properties, expected = {FORGETTINGS: (count or 0) + 1}, {FORGETTINGS: count}
            table.append(batch(table.store.columns, []), properties=properties, expected=expected)


@stage("Removes older snapshots of the tables, which still contain removed rows.")
def purge(
    interactions: Annotated[TableWriter, INTERACTION_ROWS],
    feedback: Annotated[TableWriter, FEEDBACK_ROWS],
    dead_letters: Annotated[TableWriter, DEAD_LETTERS],
    examples: Annotated[TableWriter, EXAMPLES],
    events: Annotated[TableWriter, DOCUMENT_EVENT_ROWS],
    documents: Annotated[TableWriter, DOCUMENT_ROWS],
    chunks: Annotated[TableWriter, CHUNK_ROWS],
    subject: Subject,
) -> dict[str, dict[str, int]]:
    """Purge every table that may have contained the subject; returns objects and bytes removed, by table."""
    tables = [interactions, feedback, dead_letters, examples, *([events, documents, chunks] if subject.document_id else [])]
    # In parallel: each waits for seconds of the store's clock.
    with ThreadPoolExecutor(len(tables), "purge") as pool:
        done = list(pool.map(lambda table: table.purge(), tables))
    return {
        table.store.name: {"objects": one.objects, "bytes": one.bytes}
        for table, one in zip(tables, done, strict=True)
        if one.objects
    }


def _every(rows: pa.RecordBatch) -> pa.BooleanArray:
    return pa.array([True] * rows.num_rows, pa.bool_())


def _with_words(rows: pa.RecordBatch) -> pa.BooleanArray:
    """Rows of documents with text: all except deletions."""
    return pc.not_equal(rows["status"], "deleted")


def _words(rows: pa.RecordBatch, names: Iterable[str]) -> pa.BooleanArray:
    """Rows that are not empty in one of these text or list columns."""

    def some(column: pa.Array) -> pa.BooleanArray:
        lists = pa.types.is_list(column.type)
        length = pc.list_value_length(column) if lists else pc.binary_length(column)
        return pc.fill_null(pc.greater(length, 0), False)

    return functools.reduce(pc.or_, (some(rows[name]) for name in names))


def _has_words(row: dict[str, Any], names: Iterable[str]) -> bool:
    return any(row[name] for name in names)


def _emptied(rows: pa.RecordBatch, *, names: Iterable[str]) -> pa.RecordBatch:
    """The rows with these columns emptied, or null if nullable."""
    columns = dict(zip(rows.schema.names, rows.columns, strict=True))
    for name in names:
        field = rows.schema.field(name)
        nothing: Any = None if field.nullable else [] if pa.types.is_list(field.type) else ""
        columns[name] = pa.array([nothing] * rows.num_rows, field.type)
    return pa.RecordBatch.from_arrays([columns[name] for name in rows.schema.names], schema=rows.schema)


def _rows(table: TableReader, meant: Callable[[pa.RecordBatch], pa.BooleanArray], where: str) -> list[dict[str, Any]]:
    matching: list[dict[str, Any]] = []
    for rows in table.scan(where=where):
        matching += rows.filter(meant(rows)).to_pylist()
    return matching


def _take(journal: Journal, table: TableReader, what: str, rows: list[dict[str, Any]]) -> None:
    key = (lambda row: row["chunk_id"]) if table.store == CHUNK_ROWS else event_address
    journal.take(table.store, what, map(key, rows), [digest(rows)] if rows else [])


def _letters(dead_letters: TableReader, subject: Subject, journal: Journal) -> list[dict[str, Any]]:
    meant = functools.partial(_buried, subject=subject, answers=frozenset(journal.answers))
    rows = _rows(dead_letters, meant, "offset >= 0")
    _take(journal, dead_letters, REMOVED, rows)
    return rows


def _strike_letters(dead_letters: TableWriter, subject: Subject, journal: Journal) -> int:
    return dead_letters.rewrite(("value",), functools.partial(_buried, subject=subject, answers=frozenset(journal.answers)))


def _buried(rows: pa.RecordBatch, *, subject: Subject, answers: frozenset[str]) -> pa.BooleanArray:
    return pa.array([subject.is_meant(value, answers) for value in rows["value"].to_pylist()], pa.bool_())


@stage("Finds dead letters that cannot be parsed but contain the name of the user or document.")
def unread(dead_letters: Annotated[TableReader, DEAD_LETTERS], subject: Subject) -> list[str]:
    """Their addresses; it is unknown whose they are."""
    name = subject.name.encode()
    rows = dead_letters.read(("value", "topic", "partition", "offset")).to_pylist()
    return sorted(event_address(row) for row in rows if name in row["value"])
