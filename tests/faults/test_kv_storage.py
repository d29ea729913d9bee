"""KV blocks and what befalls their storage: kill -9, a full disk, a read-only one, a directory that goes, a clock that jumps."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from disk import mounted
from forks import ForkedProcess
from kv_home import SHAPE, KvHome, prefix, restored, revoke_and_stop, store_and_confirm_never, store_for_ever, values
from traffic import until

from headrace.errors import HeadraceError, StorageFull
from headrace.models.kv import revocation
from headrace.models.kv.format import BLOCK, pack
from headrace.models.kv.revocation import Revocations, RevokedDocument

MANUAL = "a" * 16
SIZE = len(pack("0" * 64, np.zeros(SHAPE.array(BLOCK), np.float32), SHAPE, b"s"))


@pytest.fixture
def home(tmp_path: Path) -> KvHome:
    home = KvHome(tmp_path)
    home.document(MANUAL)
    return home


def deleted(home: KvHome) -> int:
    """Note that the document was deleted, and remove its blocks."""
    revocations = Revocations(home.metadata)
    revocations.note([RevokedDocument("acme", MANUAL, "manual.md", "deleted")])
    return revocations.end(home.store)


def test_a_server_killed_while_it_stores_leaves_whole_blocks_that_another_reads(home: KvHome, tmp_path: Path) -> None:
    for _ in range(3):
        child = ForkedProcess(store_for_ever, tmp_path)
        until(60, lambda child=child: len(child.said) > 3, lambda child=child: child.said)
        child.kill()
        number = child.said[-1]
        another = KvHome(tmp_path)
        found = np.zeros(SHAPE.array(3 * BLOCK), np.float32)
        assert another.cache({MANUAL}).restore(prefix(number, 3), found) == 3 * BLOCK
        assert np.array_equal(found, values(3))
    sizes = {(home.endpoints.files_dir / "kv-cache" / name).stat().st_size for name in home.blocks()}
    assert sizes == {SIZE}, "nothing torn"
    assert {block for _, block in home.noted()} >= home.blocks(), "and nothing that no document is known of"
    deleted(home)
    assert home.blocks() == set()


def test_a_document_whose_blocks_were_stored_by_a_server_that_was_killed_is_revoked(
    home: KvHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = ForkedProcess(store_and_confirm_never, tmp_path)
    until(60, lambda: child.said == ["stored"], lambda: child.said)
    child.kill()
    assert len(home.blocks()) == 3
    deleted(home)
    assert home.blocks() == set()
    monkeypatch.setattr(revocation, "ABANDONED_S", -1.0)
    assert Revocations(home.metadata).end(home.store) == 0
    (report,) = Revocations(home.metadata).report(home.open())
    assert (report.proven, len(report.blocks)) == (True, 3)


def test_a_kill_between_deletion_and_removal_ends_in_removal(home: KvHome, tmp_path: Path) -> None:
    home.cache({MANUAL}).save(prefix(1, 3), values(3), restored=0)
    child = ForkedProcess(revoke_and_stop, tmp_path)
    until(60, lambda: len(child.said) == 1, lambda: child.said)
    child.signal(signal.SIGKILL)
    child.killed()
    assert len(home.blocks()) == 2
    again = KvHome(tmp_path)
    assert Revocations(again.metadata).end(again.store) == 0
    assert home.blocks() == set()
    (report,) = Revocations(again.metadata).report(again.open())
    assert (report.proven, len(report.blocks)) == (True, 3)


def test_a_full_disk_and_a_read_only_one_cost_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mounted(tmp_path / "disk", 1) as disk:
        home = KvHome(tmp_path / "home")
        home.document(MANUAL)
        home.endpoints = home.endpoints.model_copy(update={"files_dir": disk.path})
        home.store = home.open()
        assert home.cache({MANUAL}).save(prefix(1), values(), restored=0) == 1
        disk.fill()
        with pytest.raises(StorageFull):
            home.cache({MANUAL}).save(prefix(2, 3), values(3), restored=0)
        assert restored(home.cache({MANUAL}), prefix(1)) == 1, "what is there is read"
        assert not list(disk.path.rglob(".part-*")), "nothing half-written stays"
        disk.free()
        assert home.cache({MANUAL}).save(prefix(99), values(), restored=0) == 1
        subprocess.run(["mount", "-o", "remount,ro", disk.path], check=True)
        assert restored(home.cache({MANUAL}), prefix(1)) == 1
        with pytest.raises(HeadraceError):
            home.cache({MANUAL}).save(prefix(100), values(), restored=0)
        with pytest.raises(HeadraceError):
            deleted(home)
        subprocess.run(["mount", "-o", "remount,rw", disk.path], check=True)
        assert Revocations(home.metadata).end(home.store) == 1, "a write that failed might still arrive"
        assert not [*disk.path.rglob("*.safetensors")]
        monkeypatch.setattr(revocation, "ABANDONED_S", -1.0)
        assert Revocations(home.metadata).end(home.store) == 0


def test_a_directory_that_goes_under_a_server_is_made_again(home: KvHome) -> None:
    home.cache({MANUAL}).save(prefix(1), values(), restored=0)
    shutil.rmtree(home.endpoints.files_dir)
    assert restored(home.cache({MANUAL}), prefix(1)) == 0
    assert home.cache({MANUAL}).save(prefix(1), values(), restored=0) == 1
    assert restored(home.cache({MANUAL}), prefix(1)) == 1


@pytest.mark.parametrize("years", [-30, 30])
def test_the_bound_holds_with_uses_that_a_jumping_clock_has_dated(home: KvHome, years: int) -> None:
    for number in range(4):
        home.cache({MANUAL}).save(prefix(number), values(), restored=0)
    for name in home.blocks():
        path = home.endpoints.files_dir / "kv-cache" / name
        at = path.stat().st_mtime + years * 365 * 86_400
        os.utime(path, (at, at))
    for number in range(10, 20):
        cache = home.cache({MANUAL}, store=home.open())
        cache._limit = cache._share = 4 * SIZE
        cache.save(prefix(number), values(), restored=0)
        assert len(home.blocks()) <= 4
    assert len(home.blocks()) > 0


def test_a_second_server_on_the_directory_finds_what_the_first_has_stored(home: KvHome, tmp_path: Path) -> None:
    home.cache({MANUAL}).save(prefix(1, 3), values(3), restored=0)
    second = KvHome(tmp_path)
    assert restored(second.cache({MANUAL}), prefix(1, 3)) == 3
