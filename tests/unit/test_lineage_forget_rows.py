"""Forgetting in the tables: of rows that others have a part in, every column that may hold somebody's words is emptied.

The tables are those of VAST DB, whose server is the engine in memory of tests/vast.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
import vast_objects
from vast_engine import Engine

from headrace.catalog import (
    CHUNK_ROWS,
    DEAD_LETTERS,
    DOCUMENT_EVENT_ROWS,
    DOCUMENT_ROWS,
    FEEDBACK_ROWS,
    INTERACTION_ROWS,
    Store,
)
from headrace.lineage.forget.journal import EMPTIED, REMOVED, Journal
from headrace.lineage.forget.remains import find_copies
from headrace.lineage.forget.rows import find_document, find_user, strike_document, strike_user
from headrace.lineage.forget.subject import DOCUMENT, USER, Subject
from headrace.storage.endpoints import Endpoints, VastEndpoint
from headrace.storage.ledger import Ledger
from headrace.storage.metadata import Metadata
from headrace.storage.meter import Meter
from headrace.storage.tables.handles import TableWriter

AT = datetime(2026, 1, 1, tzinfo=UTC)
PUMP = Subject(DOCUMENT, "acme", "pump.md")
ANN = Subject(USER, "acme", "ann")
PARAMETERS = {
    "events": DOCUMENT_EVENT_ROWS,
    "documents": DOCUMENT_ROWS,
    "chunks": CHUNK_ROWS,
    "interactions": INTERACTION_ROWS,
    "feedback": FEEDBACK_ROWS,
    "dead_letters": DEAD_LETTERS,
}


@pytest.fixture
def endpoints(monkeypatch: pytest.MonkeyPatch) -> Endpoints:
    monkeypatch.setattr("vastdb.connect", vast_objects.connect(Engine("lake")))
    vast = VastEndpoint(endpoint="http://127.0.0.1:1", access_key="a", secret_key="s", bucket="lake", db_schema="headrace")
    return Endpoints.model_construct(vast=vast)


def tables(endpoints: Endpoints, *names: str) -> dict[str, TableWriter]:
    return {name: TableWriter(PARAMETERS[name], endpoints, Meter(Ledger(), "test")) for name in names or PARAMETERS}


def fill(endpoints: Endpoints, store: Store, *given: dict[str, Any]) -> None:
    """Rows of a store; what is not given is null, or empty where it must not be."""
    whole = [
        {
            **{field.name: None if field.nullable else _nothing(field.type) for field in store.columns},
            **{"topic": store.name, "offset": number, "tenant": "acme"},
            **one,
        }
        for number, one in enumerate(given)
    ]
    columns = {field.name: pa.array([row[field.name] for row in whole], field.type) for field in store.columns}
    TableWriter(store, endpoints, Meter(Ledger(), "test")).append(pa.table(columns, schema=store.columns))


def _nothing(kind: pa.DataType) -> Any:
    if pa.types.is_timestamp(kind):
        return AT
    empties = ((pa.types.is_list, []), (pa.types.is_string, ""), (pa.types.is_binary, b""), (pa.types.is_boolean, False))
    return next((empty for of, empty in empties if of(kind)), 0)


def held(endpoints: Endpoints, store: Store) -> list[dict[str, Any]]:
    rows = TableWriter(store, endpoints, Meter(Ledger(), "test")).read().to_pylist()
    return sorted(rows, key=lambda row: row["offset"])


def answer(answer_id: str, *documents: str, user: str = "bob", **more: Any) -> dict[str, Any]:
    passages = [{"chunk_id": name, "document": name} for name in documents]
    return {"answer_id": answer_id, "kind": "answer", "user": user, "passages": passages, "question": "why?", **more}


SAID: list[tuple[Store, str, Any]] = [
    (INTERACTION_ROWS, "answer", "It turns."),
    (INTERACTION_ROWS, "prompt_tokens", [1, 2]),
    (INTERACTION_ROWS, "completion_tokens", [3]),
    (INTERACTION_ROWS, "logprobs", [-0.5]),
    (INTERACTION_ROWS, "extra", '{"draft":"It turns."}'),
    (FEEDBACK_ROWS, "reason", "It turns."),
    (FEEDBACK_ROWS, "correction", "It turns."),
    (FEEDBACK_ROWS, "extra", '{"comment":"It turns."}'),
    (DOCUMENT_EVENT_ROWS, "extra", '{"summary":"It turns."}'),
]


@pytest.mark.parametrize(("store", "column", "words"), SAID, ids=[f"{store.name} {column}" for store, column, _ in SAID])
def test_words_of_a_document_are_emptied_wherever_they_are(endpoints: Endpoints, store: Store, column: str, words: Any) -> None:
    """One column of one row holds words of it, and nothing else of the row does: also a field only a newer producer knows."""
    rows = {
        INTERACTION_ROWS: (answer("mine", "pump.md"), answer("other", "weir.md")),
        FEEDBACK_ROWS: ({"answer_id": "mine"}, {"answer_id": "other"}),
        DOCUMENT_EVENT_ROWS: ({"uri": "pump.md"}, {"uri": "weir.md"}),
    }
    for table, (mine, other) in rows.items():
        given = {column: words} if table is store else {}
        fill(endpoints, table, {**mine, **given}, {**other, **given}, {**mine, **given, "tenant": "apex"}, mine)
    before = held(endpoints, store)
    journal = Journal("cli:ann", AT.isoformat())
    assert find_document(**tables(endpoints), subject=PUMP, journal=journal) == 1
    (piece,) = [piece for piece in journal.pieces.values() if piece["keys"]]
    assert (piece["store"], piece["what"], piece["keys"]) == (store.name, EMPTIED, [f"{store.name}/0/0"])

    assert strike_document(**tables(endpoints), subject=PUMP, journal=journal) == 1
    field = store.columns.field(column)
    nothing = None if field.nullable else [] if pa.types.is_list(field.type) else ""
    assert held(endpoints, store) == [{**before[0], column: nothing}, *before[1:]], "that column of that row, and nothing else"
    assert find_document(**tables(endpoints), subject=PUMP, journal=journal) == 0
    assert strike_document(**tables(endpoints), subject=PUMP, journal=journal) == 0


def test_a_document_s_text_goes_and_the_row_that_says_it_is_gone_stays(endpoints: Endpoints) -> None:
    mine = {"document_id": PUMP.document_id, "uri": "pump.md"}
    gone = {**mine, "status": "deleted"}
    fill(endpoints, DOCUMENT_ROWS, {**mine, "status": "parsed", "text": "It turns."}, {**mine, "status": "failed"}, gone)
    fill(endpoints, CHUNK_ROWS, {**mine, "chunk_id": "c", "text": "It turns."}, {"document_id": "other", "chunk_id": "d"})
    journal = Journal("cli:ann", AT.isoformat())
    assert find_document(**tables(endpoints), subject=PUMP, journal=journal) == 3
    assert strike_document(**tables(endpoints), subject=PUMP, journal=journal) == 3
    assert [row["status"] for row in held(endpoints, DOCUMENT_ROWS)] == ["deleted"]
    assert [row["chunk_id"] for row in held(endpoints, CHUNK_ROWS)] == ["d"]


def test_rows_of_a_user_go_and_so_do_verdicts_of_others_on_the_user_s_answers(endpoints: Endpoints) -> None:
    fill(endpoints, INTERACTION_ROWS, answer("a", user="ann"), answer("b"), answer("c", user="ann", tenant="apex"))
    said = [("a", "bob"), ("b", "ann"), ("b", "bob"), ("c", "ann")]
    fill(endpoints, FEEDBACK_ROWS, *({"answer_id": a, "user": u, "tenant": "apex" if a == "c" else "acme"} for a, u in said))
    fill(endpoints, DEAD_LETTERS, {"value": b'{"user":"ann"}'}, {"value": b'{"answer_id":"a"}'}, {"value": b'{"user":"bob"}'})
    journal = Journal("cli:ann", AT.isoformat())
    names = ("interactions", "feedback", "dead_letters")
    assert find_user(**tables(endpoints, *names), subject=ANN, journal=journal) == 5
    assert {(piece["store"], piece["what"]): len(piece["keys"]) for piece in journal.pieces.values()} == {
        ("interactions", REMOVED): 1,
        ("feedback", REMOVED): 2,
        ("dead-letters", REMOVED): 2,
    }
    assert strike_user(**tables(endpoints, *names), subject=ANN, journal=journal) == 5
    assert [row["answer_id"] for row in held(endpoints, INTERACTION_ROWS)] == ["b", "c"]
    assert [(row["answer_id"], row["user"]) for row in held(endpoints, FEEDBACK_ROWS)] == [("b", "bob"), ("c", "ann")]
    assert [row["value"] for row in held(endpoints, DEAD_LETTERS)] == [b'{"user":"bob"}']


def test_other_documents_with_the_same_passages_are_named_if_questions_find_them(endpoints: Endpoints) -> None:
    """A copy under another name was left findable without a word."""
    texts = {
        ("pump.md", "1"): ["It turns.", "It hums.", "It leaks."],
        ("copy.md", "1"): ["It turns.", "It hums."],
        ("quote.md", "2"): ["It turns.", "It turns.", "Another."],
        ("was.md", "1"): ["It turns."],  # its newer version has no such passage
        ("broken.md", "1"): ["It hums."],  # its newer version could not be read
        ("gone.md", "1"): ["It turns."],
        ("weir.md", "1"): ["It falls."],
    }
    newest = {"was.md": ("2", "parsed"), "broken.md": ("2", "failed"), "gone.md": ("", "deleted")}
    for (uri, version), passages in texts.items():
        own = {"document_id": PUMP.document_id if uri == "pump.md" else uri, "uri": uri}
        rows = [{**own, "version": version, "text": text} for text in passages]
        fill(endpoints, CHUNK_ROWS, *rows, *({**row, "uri": f"apex-{uri}", "tenant": "apex"} for row in rows))
        fill(endpoints, DOCUMENT_ROWS, dict(zip(("version", "status"), newest.get(uri, (version, "parsed")), strict=True)) | own)
    journal = Journal("cli:ann", AT.isoformat())
    find_copies(
        known=TableWriter(DOCUMENT_ROWS, endpoints, Meter(Ledger(), "test")),
        chunks=TableWriter(CHUNK_ROWS, endpoints, Meter(Ledger(), "test")),
        metadata=Metadata(endpoints),
        subject=PUMP,
        journal=journal,
    )
    assert journal.copies == {"copy.md": 2, "quote.md": 1, "broken.md": 1}
    assert Journal.load(journal.dump(PUMP), "").copies == journal.copies
