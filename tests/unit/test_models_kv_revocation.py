"""Blocks go with the documents whose passages were in their prompts, whatever is killed in between, and the report proves it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from kv_home import KvHome, prefix, restored, values

from headrace.errors import HeadraceError, Unavailable
from headrace.models.kv import index as kv_index
from headrace.models.kv import revocation
from headrace.models.kv.blocks import BlockStore
from headrace.models.kv.index import EVERY
from headrace.models.kv.revocation import Revocations, RevokedDocument

MANUAL, MENU = "a" * 16, "b" * 16


@pytest.fixture
def home(tmp_path: Path) -> KvHome:
    home = KvHome(tmp_path)
    for name in (MANUAL, MENU):
        home.document(name)
    return home


def gone(document: str, reason: revocation.Reason = "deleted", tenant: str = "acme") -> RevokedDocument:
    return RevokedDocument(tenant, document, f"{document}.md", reason)


def revoke(home: KvHome, *documents: RevokedDocument, store: BlockStore | None = None) -> int:
    revocations = Revocations(home.metadata)
    revocations.note(documents)
    return revocations.end(store or home.store)


def test_the_blocks_of_a_document_go_and_the_report_names_each(home: KvHome) -> None:
    home.cache({MANUAL}).save(prefix(1, 2), values(2), restored=0)
    first = home.blocks()
    home.cache({MANUAL, MENU}).save(prefix(2), values(), restored=0)
    both = home.blocks() - first
    home.cache({MENU}).save(prefix(3), values(), restored=0)
    assert revoke(home, gone(MANUAL)) == 0
    assert len(home.blocks()) == 1
    assert restored(home.cache({MENU}), prefix(3)) == 1
    assert {document for document, _ in home.noted()} == {MENU}
    (report,) = Revocations(home.metadata).report(home.open())
    assert (report.document, report.reason, report.proven) == (f"{MANUAL}.md", "deleted", True)
    assert {block["block"] for block in report.blocks} == first | both
    assert report.noted_at <= min(block["removed_at"] for block in report.blocks)
    assert max(block["removed_at"] for block in report.blocks) <= str(report.ended_at)


def test_a_block_that_came_back_from_elsewhere_is_no_proof(home: KvHome) -> None:
    home.cache({MANUAL}).save(prefix(1), values(), restored=0)
    (name,) = home.blocks()
    data = home.store.get(name)
    revoke(home, gone(MANUAL))
    assert data is not None
    home.store.put(name, data)  # a backup of the directory was put back
    (report,) = Revocations(home.metadata).report(home.open())
    assert not report.proven


def test_a_tenants_blocks_do_not_go_with_another_tenants_document(home: KvHome) -> None:
    home.cache({MANUAL}).save(prefix(1), values(), restored=0)
    assert revoke(home, gone(MANUAL, tenant="globex")) == 0
    assert len(home.blocks()) == 1


def test_a_prompt_with_the_same_words_of_another_document_is_noted_with_the_block_it_restored(home: KvHome) -> None:
    home.cache({MANUAL}).save(prefix(1), values(), restored=0)
    home.cache({MENU}).save(prefix(1), values(), restored=128)
    revoke(home, gone(MENU))
    assert home.blocks() == set()


def test_blocks_of_unknown_documents_go_with_any_of_their_tenant(home: KvHome) -> None:
    home.cache(None).save(prefix(1), values(), restored=0)
    home.cache(None, tenant="globex").save(prefix(1), values(), restored=0)
    home.cache(set()).save(prefix(2), values(), restored=0)  # a prompt without passages
    revoke(home, gone(MANUAL))
    assert sorted(name.partition("/")[0] for name in home.blocks()) == ["acme", "globex"]
    assert restored(home.cache(set()), prefix(2)) == 1


@pytest.mark.parametrize("documents", [{MANUAL}, {MANUAL, MENU}, None])
def test_an_answer_that_was_begun_before_stores_nothing_after(home: KvHome, documents: set[str] | None) -> None:
    revoke(home, gone(MANUAL, "changed"))
    assert home.cache(documents).save(prefix(1), values(), restored=0) == 0
    assert home.blocks() == set()
    assert home.noted() == set()
    assert home.cache({MENU}).save(prefix(1), values(), restored=0) == 1, "of others it does"


def test_what_changed_is_stored_again_once_answers_from_before_have_ended(home: KvHome, monkeypatch: pytest.MonkeyPatch) -> None:
    revoke(home, gone(MANUAL, "changed"))
    revocations = Revocations(home.metadata)
    monkeypatch.setattr(kv_index, "SETTLE_S", -1.0)  # so long after
    assert home.cache({MANUAL}).save(prefix(1), values(), restored=0) == 0, "questions may still find it as it was"
    revocations.settle(revocations.position())
    assert home.cache({MANUAL}).save(prefix(1), values(), restored=0) == 1


@pytest.mark.parametrize("change", ["deleted", "unknown"])
def test_of_a_document_that_is_not_there_nothing_is_stored(home: KvHome, change: str) -> None:
    if change == "deleted":
        home.document(MANUAL, live=False)
    assert home.cache({MANUAL if change == "deleted" else "c" * 16}).save(prefix(1), values(), restored=0) == 0
    assert home.blocks() == set()


class Between:
    """A store that does something as soon as it has stored a block."""

    def __init__(self, store: BlockStore, then: Callable[[], object]) -> None:
        self._store, self._then = store, then

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def put(self, name: str, data: bytes) -> None:
        self._store.put(name, data)
        self._then()


def test_a_block_that_is_revoked_while_it_is_stored_does_not_stay(home: KvHome) -> None:
    left: list[int] = []
    store = Between(home.store, lambda: left.append(revoke(home, gone(MANUAL), store=home.open())))
    assert home.cache({MANUAL}, store=store).save(prefix(1), values(), restored=0) == 0
    assert left == [1], "it has not ended while somebody may still store a block"
    assert home.blocks() == set()
    assert Revocations(home.metadata).end(home.store) == 0


class Dies(BaseException):
    """kill -9, as far as the files and the index can tell."""


def dies() -> None:
    raise Dies


def test_a_writer_that_dies_between_storing_and_confirming_leaves_nothing_of_a_revoked_document(
    home: KvHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home.index, "stored", lambda *_: dies())
    with pytest.raises(Dies):
        home.cache({MANUAL}).save(prefix(1), values(), restored=0)
    assert len(home.blocks()) == 1
    again = KvHome(home.endpoints.files_dir.parent)  # the next process
    assert revoke(again, gone(MANUAL)) == 1
    assert home.blocks() == set(), "removed at once; only its note waits for a writer that may be alive"
    monkeypatch.setattr(revocation, "ABANDONED_S", -1.0)
    assert Revocations(again.metadata).end(again.store) == 0
    assert home.noted() == set()


def test_what_a_writer_left_unconfirmed_is_known_and_can_be_removed(home: KvHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home.index, "stored", lambda *_: dies())
    with pytest.raises(Dies):
        home.cache({MANUAL}).save(prefix(1), values(), restored=0)
    revocations = Revocations(home.metadata)
    assert revocations.unwritten() == []
    monkeypatch.setattr(revocation, "ABANDONED_S", -1.0)
    assert revocations.unwritten() == sorted(home.blocks())


def test_a_revocation_that_dies_anywhere_is_ended_by_the_next_look(home: KvHome) -> None:
    home.cache({MANUAL}).save(prefix(1, 3), values(3), restored=0)
    for dead_after in (0, 1, 2):
        left = dead_after

        class Dying:
            def delete(self, name: str) -> None:
                nonlocal left
                if not left:
                    raise Dies
                left -= 1
                home.store.delete(name)

        if not dead_after:
            Revocations(home.metadata).note([gone(MANUAL)])
        with pytest.raises(Dies):
            Revocations(home.metadata).end(Dying())
    (report,) = Revocations(home.metadata).report(home.open())
    assert (report.ended_at, report.proven, len(report.blocks)) == (None, False, 3)
    again = KvHome(home.endpoints.files_dir.parent)
    assert Revocations(again.metadata).end(again.store) == 0
    assert home.blocks() == set()
    (report,) = Revocations(home.metadata).report(home.open())
    assert (report.proven, len(report.blocks)) == (True, 3)


def test_a_file_system_that_does_not_answer_is_tried_again(home: KvHome) -> None:
    home.cache({MANUAL}).save(prefix(1), values(), restored=0)
    root = home.endpoints.files_dir
    root.rename(root.with_name("away"))
    root.write_bytes(b"a file where the directory should be")
    with pytest.raises(HeadraceError) as raised:
        revoke(home, gone(MANUAL))
    assert isinstance(raised.value, Unavailable)
    root.unlink()
    root.with_name("away").rename(root)
    assert Revocations(home.metadata).end(home.open()) == 0
    assert home.blocks() == set()


def test_a_whole_tenant_goes_with_what_nobody_noted(home: KvHome) -> None:
    home.cache({MANUAL}).save(prefix(1), values(), restored=0)
    home.store.put("acme/ab/unknown.0.safetensors", b"of an older version")
    home.cache({MENU}, tenant="globex").save(prefix(1), values(), restored=0)
    assert revoke(home, gone(EVERY, "forgotten")) == 0
    assert [name.partition("/")[0] for name in home.blocks()] == ["globex"]
    assert home.cache({MENU}).save(prefix(1), values(), restored=0) == 0, "nor is anything of it stored"
    (report,) = Revocations(home.metadata).report(home.store)
    assert (report.proven, len(report.blocks)) == (True, 2)


def test_what_is_evicted_is_forgotten_by_the_index(home: KvHome) -> None:
    home.cache({MANUAL}).save(prefix(1), values(), restored=0)
    size = sum((home.endpoints.files_dir / "kv-cache" / name).stat().st_size for name in home.blocks())
    cache = home.cache({MENU})
    cache._limit = cache._share = size
    os.utime(home.endpoints.files_dir / "kv-cache" / next(iter(home.blocks())), (1, 1))
    assert cache.save(prefix(2), values(), restored=0) == 1
    assert {document for document, _ in home.noted()} == {MENU}


def test_positions_of_revocations_are_in_their_order_and_looked_at_once(home: KvHome) -> None:
    revocations = Revocations(home.metadata)
    assert (revocations.position(), revocations.since(0)) == (0, [])
    revocations.note([gone(MANUAL), gone(MENU)])
    Revocations(KvHome(home.endpoints.files_dir.parent).metadata).note([gone(MANUAL, "changed")])
    found = revocations.since(0)
    assert [(position, document) for position, _, _, document in found] == [(1, MANUAL), (2, MENU), (3, MANUAL)]
    assert revocations.since(2) == found[2:]
    assert revocations.position() == 3


def test_what_the_documents_table_says_otherwise_by_now_is_outdated(home: KvHome) -> None:
    home.cache({MANUAL}).save(prefix(1), values(), restored=0)
    home.cache({MENU}).save(prefix(2), values(), restored=0)
    assert home.index.outdated() == set()
    home.document(MANUAL, readers=["hr"])
    assert home.index.outdated() == {MANUAL}
    home.document(MENU, live=False)
    assert home.index.outdated() == {MANUAL, MENU}
