"""Records of the head: what goes in comes out, and what cannot be read says why."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.catalog import DOCUMENT_EVENTS, FEEDBACK, INTERACTIONS, Store, Tier, stores
from headrace.storage.records import batch, decode, decoded_schema, encode

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
ZONES = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-8))])


def values(kind: pa.DataType) -> st.SearchStrategy[Any]:
    if pa.types.is_string(kind):
        return TEXT
    if pa.types.is_boolean(kind):
        return st.booleans()
    if pa.types.is_int64(kind) or pa.types.is_int32(kind):
        most = 2 ** (kind.bit_width - 1)
        return st.integers(-most, most - 1)
    if pa.types.is_float64(kind) or pa.types.is_float32(kind):
        return st.floats(width=kind.bit_width, allow_nan=False, allow_infinity=False)
    if pa.types.is_timestamp(kind):
        return st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=ZONES)
    if pa.types.is_list(kind):
        return st.lists(values(kind.value_type), max_size=3)
    assert pa.types.is_struct(kind), kind
    return st.fixed_dictionaries({field.name: st.none() | values(field.type) for field in kind})


NAMES = TEXT.filter(lambda text: text and "\0" not in text)
ATTRIBUTES = st.builds(
    "x{}={}".format,
    st.from_regex(r"[a-z0-9_-]{0,39}", fullmatch=True),
    st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=200),
)
KINDS = {DOCUMENT_EVENTS: ("put",), INTERACTIONS: ("answer", "search")}


def rows(store: Store) -> st.SearchStrategy[dict[str, Any]]:
    """Rows that keep the constraints of their topic."""
    constrained = {
        "tenant": st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True),
        "sha256": st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
        "bytes": st.integers(0, 2**63 - 1),
        "kind": st.sampled_from(KINDS.get(store, ("",))),
        "readers": st.none() | st.lists(NAMES.filter(str.strip), max_size=3),
        "attributes": st.none() | st.lists(ATTRIBUTES, max_size=3),
        **dict.fromkeys(("event_id", "uri", "answer_id", "verdict_id"), NAMES),
    }
    return st.fixed_dictionaries({field.name: constrained.get(field.name, values(field.type)) for field in store.columns})


@pytest.mark.parametrize("store", stores(Tier.STREAM), ids=str)
@given(data=st.data())
def test_a_row_comes_back_as_it_went(store: Store, data: st.DataObject) -> None:
    row = data.draw(rows(store))
    decoded = decode(store, [encode(store, row)])
    assert (list(decoded.kept), decoded.bad) == ([0], {})
    assert decoded.rows.to_pylist() == batch(decoded_schema(store), [row]).to_pylist()


@given(data=st.data())
def test_records_at_once_are_read_as_one_by_one(data: st.DataObject) -> None:
    """The quick way for records that are all as they should be must never read one otherwise than the careful way."""
    good = data.draw(st.lists(rows(FEEDBACK).map(lambda row: encode(FEEDBACK, row)), min_size=1, max_size=5))
    odd = [b"", b" ", b"{}", b"{}\n", b"[]", b"null", None, good[0] + good[0], good[0] + b"\n" + good[0], b"\n" + good[0]]
    odd += [good[0].replace(b'"up":true', b'"up":1'), good[0][:-1] + b',"more":[1]}', good[0].replace(b"+00:00", b"")]
    odd += [json.dumps(json.loads(good[0]), indent=1).encode(), b'{"at":"\xff' + good[0][1:], good[0][:-1] + b',"up":null}']
    values = data.draw(st.permutations([*good, *data.draw(st.lists(st.sampled_from(odd), max_size=3))]))
    together = decode(FEEDBACK, values)
    apart = [decode(FEEDBACK, [value, None]) for value in values]  # a value that is missing rules out the quick way
    assert list(together.kept) == [index for index, one in enumerate(apart) if one.rows.num_rows]
    assert together.rows.to_pylist() == [row for one in apart for row in one.rows.to_pylist()]
    assert dict(together.bad) == {index: one.bad[0] for index, one in enumerate(apart) if 0 in one.bad}


def event(**changed: Any) -> dict[str, Any]:
    return {
        "event_id": "1",
        "kind": "put",
        "tenant": "acme",
        "uri": "a.md",
        "sha256": "0" * 64,
        "bytes": 3,
        "reason": "",
        "at": "2026-01-02T03:04:05+00:00",
        **changed,
    }


PASSAGE = {
    "chunk_id": "c",
    "document": "d",
    "retrieval_score": 1.0,
    "retrieval_rank": 1,
    "rerank_score": None,
    "rerank_rank": None,
}
PASSAGE["cited"] = True


def answered() -> dict[str, Any]:
    texts = ("user", "question", "answer", "generator_version", "model_version", "index_version", "run")
    lists: dict[str, Any] = {name: [] for name in ("prompt_tokens", "completion_tokens", "logprobs", "timings", "moved")}
    named = {"answer_id": "1", "kind": "answer", "tenant": "acme", "simulated": False, "at": "2026-01-02T03:04:05+00:00"}
    return {**dict.fromkeys(texts, ""), **lists, **named, "passages": [PASSAGE]}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "no value"),
        (b"", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "expected a JSON object, not list"),
        (b'"text"', "expected a JSON object, not str"),
        (b"null", "expected a JSON object, not NoneType"),
        (json.dumps({**event(), "uri": None}).encode(), "'uri' is missing"),
        (b"{}", "'event_id' is missing"),
        (json.dumps(event(at="yesterday")).encode(), "'at' is not an ISO 8601 time"),
        (json.dumps(event(at="2026-01-02T03:04:05")).encode(), "'at' has no time zone"),
        (json.dumps(event(bytes="many")).encode(), "wrong type"),
        (json.dumps(event(bytes=2**70)).encode(), "wrong type"),
        (json.dumps(event(uri=["a"])).encode(), "wrong type"),
        (json.dumps(event(attributes=["team"])).encode(), "'attributes' has one that is not key=value"),
        (json.dumps(event(attributes=["team=a", "kind=pdf"])).encode(), "'attributes' has one that is not key=value"),
        (json.dumps(event(attributes=["team=a", None])).encode(), "'attributes' has one that is not key=value"),
        (json.dumps(event(uri={"a": 1})).encode(), "wrong type"),
        (json.dumps(event(tenant=7)).encode(), "wrong type"),
        (json.dumps(event(uri="\ud800")).encode(), "wrong type"),
        (json.dumps(event(readers="ann")).encode(), "'readers' is a value of the wrong type: \"ann\""),
        (json.dumps(event(bytes=1.5)).encode(), "'bytes' is a value of the wrong type: 1.5"),
        (json.dumps(event(bytes=True)).encode(), "'bytes' is a value of the wrong type: true"),
        (json.dumps(event(bytes=math.nan)).encode(), "'bytes' is a value of the wrong type"),
        (json.dumps(event(at="0001-01-01T00:00:00+01:00")).encode(), "'at' is outside the years 1 to 9999 in UTC"),
        (json.dumps(event(at="9999-12-31T23:59:59-05:00")).encode(), "'at' is outside the years 1 to 9999 in UTC"),
        (json.dumps(event(at="10000-01-01T00:00:00Z")).encode(), "'at' is not an ISO 8601 time"),
        (json.dumps(event(tenant="")).encode(), "'tenant' is not a tenant's name"),
        (json.dumps(event(tenant="../beta")).encode(), "'tenant' is not a tenant's name"),
        (json.dumps(event(tenant="acme\n")).encode(), "'tenant' is not a tenant's name"),
        (json.dumps(event(sha256="../beta/" + "0" * 56)).encode(), "'sha256' is not 64 hexadecimal digits"),
        (json.dumps(event(sha256="")).encode(), "'sha256' is not 64 hexadecimal digits"),
        (json.dumps(event(sha256="0" * 64 + "\n")).encode(), "'sha256' is not 64 hexadecimal digits"),
        (json.dumps(event(kind="delete", sha256="../beta")).encode(), "'sha256' is not 64 hexadecimal digits"),
        (json.dumps(event(kind="refuse")).encode(), "'sha256' is given but nothing was put"),
        (json.dumps(event(kind="frobnicate")).encode(), "'kind' is not one of put, delete, refuse"),
        (json.dumps(event(uri="")).encode(), "'uri' is empty"),
        (json.dumps(event(uri="a" * 5000)).encode(), "'uri' is empty or longer than 4,096 bytes"),
        (json.dumps(event(uri="a\0b")).encode(), "'uri' holds a NUL character"),
        (json.dumps(event(bytes=-1)).encode(), "'bytes' is negative"),
        (json.dumps(event(readers=["ann", " "])).encode(), "'readers' has an empty name"),
        (json.dumps(event(readers=["ann", None])).encode(), "'readers' has an empty name"),
    ],
)
def test_what_cannot_be_read_says_why(value: bytes | None, said: str) -> None:
    fine = json.dumps(event()).encode()
    for others in ([fine], [fine, b"{"]):  # read all at once, and one by one
        decoded = decode(DOCUMENT_EVENTS, [fine, value, *others])
        assert (list(decoded.kept), decoded.rows.num_rows) == ([0, 2], 2)
        assert said in decoded.bad[1]


@pytest.mark.parametrize(
    "changed", [{"logprobs": [math.nan]}, {"passages": [{**PASSAGE, "rerank_score": math.inf}]}, {"similarity": 1e999}]
)
def test_a_number_that_is_not_finite_is_a_bad_record(changed: dict[str, Any]) -> None:
    fine = answered()
    decoded = decode(INTERACTIONS, [json.dumps({**fine, **changed}).encode(), json.dumps(fine).encode()])
    assert list(decoded.kept) == [1]
    assert "not finite" in decoded.bad[0] or "wrong type" in decoded.bad[0]
    huge = json.dumps({**fine, **changed}).replace("NaN", "1e999").replace("Infinity", "1e999")
    assert list(decode(INTERACTIONS, [huge.encode()]).bad) == [0]


def test_what_is_kept_beyond_the_schema_is_json() -> None:
    decoded = decode(DOCUMENT_EVENTS, [json.dumps(event(score=math.nan)).encode()])
    (extra,) = decoded.rows["extra"].to_pylist()
    assert json.loads(extra, parse_constant=pytest.fail) == {"score": "NaN"}
    assert list(decode(DOCUMENT_EVENTS, [json.dumps(event()).encode()[:-1] + b',"score":1e999}']).bad) == [0]


def test_the_first_and_the_last_moment_can_be_kept() -> None:
    for moment in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"):
        decoded = decode(DOCUMENT_EVENTS, [json.dumps(event(at=moment)).encode()])
        assert decoded.bad == {}
        assert decoded.rows["at"].to_pylist() == [datetime.fromisoformat(moment)]


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_a_row_or_a_bad_record(value: bytes) -> None:
    decoded = decode(FEEDBACK, [value])
    assert list(decoded.bad) == [0]
    assert decoded.rows.num_rows == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(INTERACTIONS.columns.names), JSON)
def test_a_row_that_is_taken_can_be_written_to_its_table(name: str, value: Any) -> None:
    decoded = decode(INTERACTIONS, [json.dumps({**answered(), name: value}).encode()])
    assert decoded.rows.num_rows + len(decoded.bad) == 1
    decoded.rows.validate(full=True)


def test_what_a_newer_producer_says_more_is_kept() -> None:
    decoded = decode(DOCUMENT_EVENTS, [json.dumps(event()).encode(), json.dumps(event(more={"a": [1]})).encode()])
    assert decoded.rows["extra"].to_pylist() == [None, '{"more":{"a":[1]}}']


def test_what_a_nested_object_says_more_is_kept_too() -> None:
    passage = {"chunk_id": "c1", "document": "a.md", "retrieval_score": 0.5, "retrieval_rank": 1, "cited": True}
    rows = [{**answered(), "passages": [passage, {**passage, "page": {"of": 7}}]}, {**answered(), "passages": [passage]}]
    decoded = decode(INTERACTIONS, [json.dumps(row).encode() for row in rows])
    assert decoded.bad == {}
    assert decoded.rows["extra"].to_pylist() == ['{"passages[1].page":{"of":7}}', None]
    whole = {**answered(), "passages": [{**passage, "retrieval_rank": 1.5}]}
    assert list(decode(INTERACTIONS, [json.dumps(whole).encode()]).bad) == [0], "1.5 is no rank"


def test_a_key_that_the_store_lacks_is_a_mistake_of_ours() -> None:
    with pytest.raises(KeyError, match="more"):
        encode(DOCUMENT_EVENTS, event(more=1))
