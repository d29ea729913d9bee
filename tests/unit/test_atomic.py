"""Files written whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from headrace.atomic import replacing, write_atomically
from headrace.errors import Permanent, StorageFull


def test_a_file_takes_the_place_of_the_old_one_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"a longer old text")
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"a longer old text", "until the block has ended"
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt(), TypeError("no bytes")])
def test_what_raises_half_way_leaves_the_old_file_and_no_rest(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")

    def fail() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_to_be_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull, match="No space left to write"):
        write_atomically(tmp_path / "a.json", b"x")
    assert os.listdir(tmp_path) == []


def test_folders_above_a_file_are_made(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a" / "b" / "c.svg", b"x")
    assert (tmp_path / "a" / "b" / "c.svg").read_bytes() == b"x"


def test_a_file_that_cannot_be_written_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(Permanent, match=r"folder cannot be written: Is a directory\. Check the directory and its mode\."):
        write_atomically(tmp_path / "folder", b"x")
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(Permanent, match=r"file/a\.svg cannot be written: "):
        write_atomically(tmp_path / "file" / "a.svg", b"x")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize("name", ["/", ".", "..", "folder", "folder/..", "pipe", "link to pipe"])
def test_what_is_no_file_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """`-o /` was an unexpected error, and `-o /dev/null` made a file of the device, for everybody on the machine."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link to pipe").symlink_to("pipe")
    monkeypatch.chdir(tmp_path / "folder")
    path = Path(name) if name[0] in "/." else tmp_path / name
    with pytest.raises(Permanent, match=r"cannot be written: (Is|it is) a"):
        write_atomically(path, b"new")
    assert sorted(os.listdir(tmp_path)) == ["folder", "link to pipe", "pipe"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert os.listdir() == []
