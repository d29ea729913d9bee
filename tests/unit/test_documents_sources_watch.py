"""What the kernel says of changes in a folder. It says so before the call that makes one returns, so no test waits for it."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.documents.sources.follow import Follower
from headrace.documents.sources.watch import FolderWatch, devices
from headrace.storage.endpoints import S3Location
from headrace.storage.objects import BucketReader

_LONG_S = 600.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "docs" / "below").mkdir(parents=True)
    (tmp_path / "docs" / "weir.md").write_text("# Weir")
    return tmp_path / "docs"


@pytest.fixture
def watch(folder: Path) -> Iterator[FolderWatch]:
    watch = FolderWatch([folder])
    watch.renew()
    yield watch
    watch.close()


def test_whatever_changes_a_document_is_noticed(watch: FolderWatch, folder: Path) -> None:
    assert not watch.take(), "nothing has changed"
    (folder / "weir.md").write_text("# Weir of oak")
    assert watch.take()
    (folder / "below" / "gate.md").write_text("# Gate")
    assert watch.take()
    (folder / "below" / "gate.md").rename(folder / "gate.md")
    assert watch.take()
    (folder / "gate.md").chmod(0o600)
    assert watch.take(), "who may read it"
    (folder / "gate.md").unlink()
    assert watch.take()
    assert not watch.take(), "each once"


def test_a_file_that_is_being_written_is_looked_at_once_it_is_closed(watch: FolderWatch, folder: Path) -> None:
    with (folder / "log.md").open("w") as file:
        assert not watch.take(), "it would be found empty"
        assert watch.writing
        file.write("# Log")
        file.flush()
        assert not watch.take()
    assert watch.take()
    watch.renew()
    assert not watch.writing


def test_folders_that_come_later_are_watched_with_all_below_them(watch: FolderWatch, folder: Path, tmp_path: Path) -> None:
    (folder / "new" / "deep").mkdir(parents=True)
    assert watch.take()
    (folder / "new" / "deep" / "a.md").write_text("a")
    assert watch.take()
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere").rename(folder / "moved")
    assert watch.take()
    (folder / "moved" / "deep" / "a.md").write_text("a")
    assert watch.take()


def test_a_folder_that_was_moved_away_is_not_watched(watch: FolderWatch, folder: Path, tmp_path: Path) -> None:
    (folder / "below").rename(tmp_path / "elsewhere")
    assert watch.take()
    assert not watch.complete, "until the next look"
    watch.renew()
    (tmp_path / "elsewhere" / "a.md").write_text("a")
    assert not watch.take()
    (folder / "a.md").write_text("a")
    assert watch.take()


def test_what_is_not_followed_is_no_reason_to_look(watch: FolderWatch, folder: Path) -> None:
    (folder / ".weir.md.swp").write_text("of an editor")
    (folder / ".git" / "objects").mkdir(parents=True)
    (folder / ".git" / "objects" / "pack").write_text("a")
    (folder / "weir.md").read_text()
    assert list(folder.iterdir())
    assert not watch.take()


def test_a_folder_that_is_there_again_is_watched_again(watch: FolderWatch, folder: Path) -> None:
    was = watch.complete
    shutil.rmtree(folder)
    assert watch.take()
    assert not watch.complete
    watch.renew()
    assert not watch.complete
    assert not watch.take()
    folder.mkdir()
    watch.renew()
    assert watch.complete == was
    (folder / "weir.md").write_text("# Weir")
    assert watch.take()


def test_a_link_that_leads_elsewhere_by_now_is_followed_there(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (link := tmp_path / "link").symlink_to(folder)
    watch = FolderWatch([link])
    watch.renew()
    link.unlink()
    link.symlink_to(tmp_path / "other")
    watch.renew()
    (folder / "a.md").write_text("a")
    assert not watch.take()
    (tmp_path / "other" / "a.md").write_text("a")
    assert watch.take()
    watch.close()


def test_more_folders_than_may_be_watched_are_said_to_be_watched_in_part(folder: Path) -> None:
    watch = FolderWatch([folder], most=1)
    watch.renew()
    assert not watch.complete
    (folder / "a.md").write_text("a")
    assert watch.take(), "what is watched is worth waiting for"
    watch.close()


def test_so_many_events_that_the_kernel_drops_some_are_a_reason_to_look(watch: FolderWatch, folder: Path) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if most > 100_000:
        pytest.skip("the kernel keeps more events than can be made in a moment")
    for _ in range(most // 2 + 10):  # events that follow each other and are the same count once
        os.chmod(folder / "weir.md", 0o600)
        os.chmod(folder / "below", 0o700)
    assert watch.take()
    assert not watch.complete, "a folder may be new, and not watched"
    watch.renew()
    (folder / "weir.md").write_text("a")
    assert watch.take()


def test_waiting_ends_with_a_change_or_an_interruption(watch: FolderWatch, folder: Path) -> None:
    changed: list[bool] = []
    waiting = threading.Thread(target=lambda: changed.append(watch.wait(_LONG_S, _LONG_S)), daemon=True)
    waiting.start()
    (folder / "weir.md").write_text("# Weir of oak")
    waiting.join(60)
    assert changed == [True]
    assert watch.wait(0.0, 0.0) is False
    (folder / ".hidden").write_text("nothing")
    assert watch.wait(0.0, 0.0) is False

    interrupted = threading.Thread(target=lambda: changed.append(watch.wait(_LONG_S, _LONG_S)), daemon=True)
    interrupted.start()
    watch.interrupt()
    interrupted.join(60)
    assert changed == [True, False]
    watch.pause(_LONG_S)  # it stays interrupted
    watch.close()
    watch.interrupt()  # which may come late


def test_a_file_that_is_kept_open_is_waited_for_no_longer_than_said(watch: FolderWatch, folder: Path) -> None:
    with (folder / "log.md").open("w") as file:
        file.write("# Log")
        file.flush()
        assert watch.wait(_LONG_S, 0.0) is False


def test_file_systems_are_told_by_their_devices() -> None:
    lines = (
        "22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw",
        "90 22 0:51 / /mnt/nfs\\040books rw,relatime shared:33 master:2 - nfs4 server:/books rw,vers=4.2",
        "91 22 0:52 / /tmp rw - tmpfs tmpfs rw",
        "92 22 0:53 / /home/mallory/a\u2028b\x85c\x0cd rw - fuse.sshfs host: rw",
    )
    assert devices("\n".join((*lines, ""))) == {
        os.makedev(259, 2): "ext4",
        os.makedev(0, 51): "nfs4",
        os.makedev(0, 52): "tmpfs",
        os.makedev(0, 53): "fuse.sshfs",
    }


def test_a_follower_looks_when_something_changes_and_not_before(folder: Path) -> None:
    def no_bucket(bucket: str, at: S3Location | None = None) -> BucketReader:
        raise AssertionError("a folder needs no bucket")

    follower = Follower([folder], no_bucket, _LONG_S)
    first = follower.changed()
    assert first is not None
    follower.followed(first)
    began = time.monotonic()
    told: list[float | None] = []
    waiting = threading.Thread(target=lambda: told.append(follower.wait()), daemon=True)
    waiting.start()
    (folder / "below" / "gate.md").write_text("# Gate")
    waiting.join(60)
    [quiet_until] = told
    assert quiet_until is None or began <= quiet_until <= time.monotonic(), "nothing had changed before it"
    second = follower.changed()
    assert second is not None
    assert second.changed == {"docs/below/gate.md"}

    follower.failed()
    (folder / "weir.md").write_text("# Weir of oak")
    follower.interrupt()
    assert follower.wait() is None
    follower.close()
