"""The home on disk: private, refused when it is not ours, and locks that end with their holder."""

import os
import stat
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headrace.errors import HomeRefused, StorageFull
from headrace.platform.child import LOG_BYTES, Child, PortTaken, rotate
from headrace.platform.home import Home, Lock, write_private
from headrace.platform.keys import keys_of
from headrace.platform.state import Process, read_state


def test_a_home_is_private_and_its_keys_stay(tmp_path: Path) -> None:
    home = Home(tmp_path / "new" / "home")
    home.prepare()
    assert {stat.S_IMODE(p.stat().st_mode) for p in (home.root, home.platform, home.logs, home.objects)} == {0o700}
    first = keys_of(home)
    home.prepare()
    assert keys_of(home) == first
    assert stat.S_IMODE(home.keys.stat().st_mode) == 0o600
    assert keys_of(home).s3_secret_key != keys_of(_other(tmp_path)).s3_secret_key


def _other(tmp_path: Path) -> Home:
    other = Home(tmp_path / "other")
    other.prepare()
    return other


def test_commands_that_make_one_home_at_once_all_get_it(tmp_path: Path) -> None:
    """Two first commands at once: to whichever is late, the home is no file that is in its way."""
    homes = [Home(tmp_path / str(number) / "home") for number in range(100)]
    together = threading.Barrier(4)

    def prepare(_: int) -> None:
        for home in homes:
            together.wait(30)
            home.prepare()

    with ThreadPoolExecutor(4) as threads:
        assert [*threads.map(prepare, range(4))] == [None] * 4
    assert all(home.format.read_text() for home in homes)


def test_damaged_keys_are_refused_rather_than_replaced(tmp_path: Path) -> None:
    home = _other(tmp_path)
    home.keys.write_text("{")
    with pytest.raises(HomeRefused, match=r"keys\.json"):
        keys_of(home)
    assert home.keys.read_text() == "{"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_keys_that_others_may_read_are_refused(tmp_path: Path, mode: int) -> None:
    """As in a home that was cloned or unpacked, of which somebody else knows every key."""
    home = _other(tmp_path)
    keys = keys_of(home)
    home.keys.chmod(mode)
    with pytest.raises(HomeRefused, match=f"its mode is 0{mode:o}") as refused:
        keys_of(home)
    assert f"chmod 600 {home.keys}" in refused.value.hint
    home.keys.chmod(0o600)
    assert keys_of(home) == keys


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_home_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    home = _other(tmp_path)
    home.root.chmod(mode)
    with pytest.raises(HomeRefused, match=f"its mode is 0{mode:o}") as refused:
        home.prepare()
    assert f"chmod 700 {home.root}" in refused.value.hint
    home.root.chmod(0o755)  # to be looked at is another matter: what is in it is private itself
    home.prepare()


def test_an_empty_folder_becomes_a_private_home(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o777)
    (tmp_path / "home").chmod(0o777)
    Home(tmp_path / "home").prepare()
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700


def test_an_older_homes_keys_are_completed_and_kept(tmp_path: Path) -> None:
    home = _other(tmp_path)
    before = keys_of(home)
    home.keys.write_text(before.model_dump_json(exclude={"signing_key"}))
    completed = keys_of(home)
    assert completed.signing_key not in ("", before.signing_key)
    assert completed.model_copy(update={"signing_key": before.signing_key}) == before
    assert keys_of(home) == completed


def test_a_file_in_the_homes_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeRefused, match="not a directory"):
        Home(tmp_path / "file").prepare()
    with pytest.raises(HomeRefused):
        Home(tmp_path / "file" / "below").prepare()


def test_a_private_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_locks_are_shared_or_alone(tmp_path: Path) -> None:
    first, second, alone = (Lock(tmp_path / "lock") for _ in range(3))
    assert first.acquire(shared=True)
    assert second.acquire(shared=True)
    assert not alone.acquire()
    first.release()
    assert not alone.acquire(seconds=0.1)
    second.release()
    assert alone.acquire()
    assert not first.acquire(shared=True)


def test_a_child_that_inherits_a_lock_keeps_it(tmp_path: Path) -> None:
    ours, theirs = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    assert ours.acquire()
    child = Child("cat", ["sleep", "60"], env=os.environ, cwd=tmp_path, log=tmp_path / "log", keep=(ours.descriptor,))
    ours.release()
    assert not theirs.acquire()
    child.process.kill()
    child.process.wait()
    assert theirs.acquire(seconds=5)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("listen tcp 127.0.0.1:1: bind: address already in use", PortTaken),
        ("Port allocation failed: port 1 for S3 is not available", PortTaken),
        ('Os { code: 98, kind: AddrInUse, message: "Address in use" }', PortTaken),
        ("write /x: no space left on device", StorageFull),
    ],
)
def test_the_log_says_what_went_wrong_and_only_the_last_start_counts(tmp_path: Path, words: str, kind: type[Exception]) -> None:
    log = tmp_path / "server.log"

    def said(line: str) -> Child:
        child = Child("Server", ["echo", line], env=os.environ, cwd=tmp_path, log=log)
        child.process.wait()
        return child

    assert type(said(words).fault("ended")) is kind
    later = said("all is well").fault("ended")
    assert not isinstance(later, kind)
    assert "all is well" in later.message
    assert str(log) in later.hint


def test_a_long_log_is_set_aside(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"x" * (LOG_BYTES + 1))
    rotate(log)
    assert not log.exists()
    assert (tmp_path / "a.log.1").stat().st_size == LOG_BYTES + 1


def test_a_number_that_now_names_another_process_is_not_alive() -> None:
    me = Process.from_pid(os.getpid())
    assert me.alive
    assert not me.model_copy(update={"started": me.started - 60}).alive


def test_a_state_that_makes_no_sense_counts_as_none(tmp_path: Path) -> None:
    home = _other(tmp_path)
    assert read_state(home) is None
    home.state.write_text('{"supervisor": 1')
    assert read_state(home) is None


def test_a_log_is_kept_short_while_its_server_writes_it(tmp_path: Path) -> None:
    """A frame that is none is a line in Tansu's log, and needs no key: it used to be set aside at the next start only."""
    log = tmp_path / "a.log"
    child = Child("a", [sys.executable, "-c", _TALKS, str(LOG_BYTES)], env={}, cwd=tmp_path, log=log)
    try:
        end = time.monotonic() + 20
        while log.stat().st_size <= LOG_BYTES:
            assert time.monotonic() < end
            time.sleep(0.01)
        child.trim_log()
        aside = (tmp_path / "a.log.1").read_bytes()
        assert len(aside) > LOG_BYTES
        while "later" not in child.last_words():
            assert time.monotonic() < end
            time.sleep(0.01)
        assert log.stat().st_size < 10_000, "it goes on at the beginning, without a hole"
        assert log.read_bytes().startswith(b"later")
    finally:
        child.stop(1)


_TALKS = """
import sys, time
print("x" * int(sys.argv[1]), flush=True)
while True:
    time.sleep(0.05)
    print("later", flush=True)
"""
