"""What waits to be embedded between two passes: by which pass it was taken in, and how much of a tenant may wait."""

from __future__ import annotations

import pyarrow as pa
import pytest

from headrace.documents import embedding
from headrace.documents.embedding import Embedding, Intake, Waiting


def rows(*names: str, tenant: str = "acme") -> pa.Table:
    """A chunk of each of these documents."""
    schema = pa.schema([(name, pa.string()) for name in ("document_id", "version", "tenant")])
    return pa.Table.from_pylist([{"document_id": name, "version": f"{name}1", "tenant": tenant} for name in names], schema)


def taken_in(*passes: list[str], compared: bool = False) -> Waiting:
    waiting = Waiting()
    for number, names in enumerate(passes, 1):
        intake = Intake(f"t.0/{number}", f"c.0/{number}", compared and number == 1, set(names))
        waiting.take_in(intake, rows(*names), names)
    return waiting


def test_as_far_is_noted_as_nothing_waits_of_it_or_of_what_came_before() -> None:
    waiting = taken_in(["a", "b"], ["c"], ["d"], compared=True)
    assert waiting.leave(rows("b", "d")) is None, "b waits, so c counts for nothing yet"
    settled = waiting.leave(rows("d"))
    assert settled is not None
    assert (settled.documents, settled.chunks, settled.compared) == ("t.0/2", "c.0/2", True)
    settled = waiting.leave(rows())
    assert settled is not None
    assert (settled.documents, settled.compared) == ("t.0/3", False), "it was compared once"
    assert waiting.leave(rows()) is None


def test_a_document_that_changed_is_waited_for_by_the_pass_that_sees_the_change() -> None:
    waiting = taken_in(["a", "b"])
    waiting.forget({"a"})
    assert (waiting.versions(), waiting.replacing) == ({"b": "b1"}, {"b"})
    waiting.take_in(Intake("t.0/2", "c.0/2", False, {"a"}), rows("a"), ())
    settled = waiting.leave(rows("a"))
    assert settled is not None
    assert settled.documents == "t.0/1"
    assert waiting.replacing == set()


def test_it_is_kept_for_the_same_index_that_has_gone_on() -> None:
    state = Embedding()
    state.keep("chunks", 7, taken_in(["a"]))
    assert state.take("chunks", 8).versions() == {"a": "a1"}
    assert state.take("chunks", 8).versions() == {}, "a pass that fails puts nothing back"
    for index, version in (("chunks-g2", 9), ("chunks", 6)):
        state.keep("chunks", 7, taken_in(["a"]))
        assert state.take(index, version).versions() == {}


def test_a_tenant_is_held_while_many_of_its_chunks_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "_TOGETHER", 6)
    monkeypatch.setattr(embedding, "_LEAST", 2)
    state = Embedding()
    assert state.full() == frozenset()

    def full(**counts: int) -> frozenset[str]:
        waiting = Waiting()
        for tenant, count in counts.items():
            waiting.take_in(Intake(None, None, False, set()), rows(*(f"{tenant}{n}" for n in range(count)), tenant=tenant), ())
        state.keep("chunks", 1, waiting)
        return state.full()

    assert full(big=6) == frozenset()
    assert full(big=7) == {"big"}
    assert full(big=4, small=1) == {"big"}, "two tenants share the bound"
    assert full(a=3, b=2, c=2, d=1) == {"a"}, "each may have a few"
