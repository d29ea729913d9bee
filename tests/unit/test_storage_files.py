"""The file tier: whole files or none, inside the store's directory and nowhere else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from child import as_another_user

from headrace.catalog import KV_CACHE
from headrace.errors import HomeRefused, Unavailable, WrongUsage
from headrace.storage.endpoints import Endpoints
from headrace.storage.files import FileWriter
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def files(tmp_path: Path, ledger: Ledger) -> FileWriter:
    return files_in(tmp_path, ledger)


def files_in(folder: Path, ledger: Ledger | None = None) -> FileWriter:
    return FileWriter(KV_CACHE, Endpoints.model_construct(files_dir=folder), Meter(ledger or Ledger(), "generate", "acme"))


def test_what_was_written_is_read_listed_and_counted(files: FileWriter, ledger: Ledger) -> None:
    assert files.write("acme/ab/block", [b"one", b"two"]) == 6
    assert files.read("acme/ab/block") == b"onetwo"
    assert [(info.key, info.bytes) for info in files.list()] == [("acme/ab/block", 6)]
    assert {(r.direction, r.ops, r.bytes) for r in ledger.rows()} == {("write", 1, 6), ("read", 2, 6)}, (
        "a listing is an operation"
    )


def test_the_ledger_agrees_with_the_kernels_count(files: FileWriter, ledger: Ledger) -> None:
    """No server stands behind a directory; what counts there is the kernel, per process."""

    def moved() -> tuple[int, int]:
        counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(counts["rchar"]), int(counts["wchar"])

    blocks = [os.urandom(1 << 20) for _ in range(24)]
    before = moved()
    for number, block in enumerate(blocks):
        files.write(f"acme/{number}", block)
    assert [files.read(f"acme/{number}") for number in range(len(blocks))] == blocks
    after = moved()
    rows = {row.direction: row.bytes for row in ledger.rows()}
    assert rows["read"] == pytest.approx(after[0] - before[0], rel=0.02)
    assert rows["write"] == pytest.approx(after[1] - before[1], rel=0.02)


def test_a_file_is_replaced_whole(files: FileWriter) -> None:
    files.write("a", b"long first version")
    files.write("a", b"second")
    assert files.read("a") == b"second"


def test_what_is_not_there(files: FileWriter) -> None:
    assert files.read("a") is None
    assert list(files.list()) == []
    files.write("b", b"x")
    files.delete("a")
    files.delete("b")
    assert files.read("b") is None


@pytest.mark.parametrize("key", ["../outside", "a/../../outside", "/etc/hostname", "..", "a/.."])
def test_a_hostile_key_stays_inside(files: FileWriter, tmp_path: Path, key: str) -> None:
    for act in (files.read, files.delete, files.touch, lambda k: files.write(k, b"x")):
        with pytest.raises(WrongUsage, match="is not a key"):
            act(key)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(files: FileWriter) -> None:
    files.write("a", b"old")

    def pieces() -> list[bytes]:
        return [b"new", "not bytes"]  # type: ignore[list-item]

    with pytest.raises(TypeError):
        files.write("a", pieces())
    assert files.read("a") == b"old"
    assert os.listdir(files.root) == ["a"]


def test_a_writer_killed_half_way_leaves_nothing_to_list(files: FileWriter, tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from headrace.catalog import KV_CACHE
from headrace.storage.endpoints import Endpoints
from headrace.storage.files import FileWriter
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
class Pieces(list):
    def __iter__(self):
        yield b"half"
        os.kill(os.getpid(), signal.SIGKILL)
FileWriter(KV_CACHE, Endpoints.model_construct(files_dir=Path({str(tmp_path)!r})), Meter(Ledger(), "x")).write("a", Pieces())
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    assert len(os.listdir(files.root)) == 1
    assert list(files.list()) == []
    assert [info.bytes for info in files.list(partial=True)] == [0], "what is dropped whole is found half-written too"
    assert files.read("a") is None
    files.write("a", b"whole")
    assert [info.key for info in files.list()] == ["a"]


def test_a_folder_of_a_store_is_listed_and_nothing_beside_it(files: FileWriter) -> None:
    files.write("acme/a", b"x")
    files.write("acmes/b", b"x")
    assert [info.key for info in files.list("acme")] == ["acme/a"]
    assert [*files.list("nobody")] == []
    with pytest.raises(WrongUsage, match="is not a key"):
        [*files.list("../outside")]


def test_use_is_noted_for_eviction(files: FileWriter) -> None:
    files.write("a", b"x")
    os.utime(files.root / "a", (1000, 1000))
    assert [info.used for info in files.list()] == [1000]
    files.touch("a")
    assert next(files.list()).used > 1e9


def test_a_directory_in_the_way_is_told(files: FileWriter) -> None:
    files.write("a/b", b"x")
    with pytest.raises(Unavailable, match="Is a directory"):
        files.write("a", b"x")
    assert files.read("a/b") == b"x"


def test_a_file_of_somebody_elses_is_told() -> None:
    def read(folder: Path) -> None:
        files = files_in(folder)
        files.write("a", b"x")
        (files.root / "a").chmod(0)
        with pytest.raises(HomeRefused, match="cannot be opened"):
            files.read("a")

    as_another_user(read)


def test_a_directory_that_may_not_be_written_is_told() -> None:
    def write(folder: Path) -> None:
        files = files_in(folder)
        files.write("a", b"x")
        files.root.chmod(0o500)
        with pytest.raises(HomeRefused, match="cannot be opened"):
            files.write("b", b"x")
        assert files.read("a") == b"x"

    as_another_user(write)
