"""`FolderListing`: each look agrees with a walk of the directory, and reads only the directories that changed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.storage.listing import FolderListing


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def walked(root: Path) -> dict[str, int]:
    return {path.relative_to(root).as_posix(): path.stat().st_size for path in root.rglob("*") if path.is_file()}


def held(listing: FolderListing) -> dict[str, int]:
    return {file.key: file.bytes for file in listing.files()}


def settled(listing: FolderListing, clock: Clock) -> int:
    """Look until nothing is read again; how many directories were read by then."""
    listing.look()
    clock.now += 10
    listing.look()
    return listing.read


def test_only_directories_that_changed_are_read_again(tmp_path: Path, clock: Clock) -> None:
    for tenant in ("acme", "globex"):
        for folder in range(20):
            (tmp_path / tenant / str(folder)).mkdir(parents=True)
            (tmp_path / tenant / str(folder) / "a").write_bytes(b"12345")
    listing = FolderListing(tmp_path, clock=clock)
    before = settled(listing, clock)
    assert (listing.bytes(), listing.bytes("acme"), listing.bytes("acm")) == (200, 100, 0)
    listing.look()
    assert listing.read == before
    (tmp_path / "acme" / "3" / "b").write_bytes(b"1")
    (tmp_path / "globex" / "7" / "a").unlink()
    listing.look()
    assert listing.read == before + 2
    assert held(listing) == walked(tmp_path)
    assert (listing.bytes("acme"), listing.bytes("globex")) == (101, 95)


def test_what_comes_within_a_tick_of_the_file_systems_clock_is_found(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "a").write_bytes(b"1")
    listing = FolderListing(tmp_path, clock=clock)
    listing.look()
    at = tmp_path.stat().st_mtime_ns
    (tmp_path / "b").write_bytes(b"1")
    os.utime(tmp_path, ns=(at, at))
    clock.now += 1
    listing.look()
    assert held(listing) == {"a": 1, "b": 1}


def test_what_is_not_there_is_empty_and_what_goes_is_gone(tmp_path: Path, clock: Clock) -> None:
    listing = FolderListing(tmp_path / "none", clock=clock, passed_over=lambda name: name.startswith(".part"))
    listing.look()
    assert held(listing) == {}
    (tmp_path / "none" / "acme").mkdir(parents=True)
    (tmp_path / "none" / "acme" / "a").write_bytes(b"1")
    (tmp_path / "none" / "acme" / ".part-a").write_bytes(b"12")
    listing.look()
    assert held(listing) == {"acme/a": 1}
    (tmp_path / "none" / "acme" / "a").unlink()
    (tmp_path / "none" / "acme" / ".part-a").unlink()
    (tmp_path / "none" / "acme").rmdir()
    listing.look()
    assert (held(listing), listing.bytes()) == ({}, 0)


def test_a_use_is_noted_of_what_is_there(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "a").write_bytes(b"1")
    listing = FolderListing(tmp_path, clock=clock)
    listing.look()
    listing.note("a", 17.0)
    listing.note("b", 17.0)
    listing.note("c/d", 17.0)
    assert [(file.key, file.used) for file in listing.files()] == [("a", 17.0)]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.integers(0, 3), st.booleans()), max_size=25))
def test_it_is_what_a_walk_finds_whatever_is_done(steps: list[tuple[str, str, int, bool]]) -> None:
    clock = Clock()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        listing = FolderListing(root, clock=clock)
        for folder, file, size, later in steps:
            path = root / folder / file
            if size:
                path.parent.mkdir(exist_ok=True)
                path.with_name("new").write_bytes(b"1" * size)
                path.with_name("new").replace(path)
            else:
                path.unlink(missing_ok=True)
            clock.now += 3.0 if later else 0.1
            listing.look()
            assert held(listing) == walked(root)
            assert listing.bytes() == sum(walked(root).values())
