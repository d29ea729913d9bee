"""Records of the head: what goes in comes out, and what cannot be read says why."""

from __future__ import annotations

import json
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


def rows(store: Store) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({field.name: values(field.type) for field in store.columns})


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


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "no value"),
        (b"", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "a JSON object is wanted, not list"),
        (b'"text"', "a JSON object is wanted, not str"),
        (b"null", "a JSON object is wanted, not NoneType"),
        (json.dumps({**event(), "uri": None}).encode(), "'uri' is missing"),
        (b"{}", "'event_id' is missing"),
        (json.dumps(event(at="yesterday")).encode(), "'at' is not an ISO 8601 time"),
        (json.dumps(event(at="2026-01-02T03:04:05")).encode(), "'at' has no time zone"),
        (json.dumps(event(bytes="many")).encode(), "wrong type"),
        (json.dumps(event(bytes=2**70)).encode(), "wrong type"),
        (json.dumps(event(uri=["a"])).encode(), "wrong type"),
        (json.dumps(event(uri={"a": 1})).encode(), "wrong type"),
        (json.dumps(event(tenant=7)).encode(), "wrong type"),
        (json.dumps(event(uri="\ud800")).encode(), "wrong type"),
    ],
)
def test_what_cannot_be_read_says_why(value: bytes | None, said: str) -> None:
    fine = json.dumps(event()).encode()
    decoded = decode(DOCUMENT_EVENTS, [fine, value, fine])
    assert (list(decoded.kept), decoded.rows.num_rows) == ([0, 2], 2)
    assert said in decoded.bad[1]


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
    empty = {"string": "", "bool": False, "list": [], "timestamp[us, tz=UTC]": "2026-01-01T00:00:00Z"}
    needed = [f for f in INTERACTIONS.columns if not f.nullable]
    row = {f.name: empty["list" if pa.types.is_list(f.type) else str(f.type)] for f in needed}
    decoded = decode(INTERACTIONS, [json.dumps({**row, name: value}).encode()])
    assert decoded.rows.num_rows + len(decoded.bad) == 1
    decoded.rows.validate(full=True)


def test_what_a_newer_producer_says_more_is_kept() -> None:
    decoded = decode(DOCUMENT_EVENTS, [json.dumps(event()).encode(), json.dumps(event(more={"a": [1]})).encode()])
    assert decoded.rows["extra"].to_pylist() == [None, '{"more":{"a":[1]}}']


def test_a_key_that_the_store_lacks_is_a_mistake_of_ours() -> None:
    with pytest.raises(KeyError, match="more"):
        encode(DOCUMENT_EVENTS, event(more=1))
