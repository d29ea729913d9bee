"""Manifests are read once per process: they are immutable, and bounded in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.catalog import DOCUMENT_ROWS
from headrace.storage.ledger import Direction, Ledger
from headrace.storage.meter import Meter
from headrace.storage.tables.iceberg import metered_io
from headrace.storage.tables.iceberg.manifest_cache import ManifestCache
from headrace.storage.tables.iceberg.metered_io import _MeteredFileIO


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def files(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> _MeteredFileIO:
    monkeypatch.setattr(metered_io, "_manifests", ManifestCache())
    return _MeteredFileIO({}, DOCUMENT_ROWS, Meter(ledger, "test"))


def read(ledger: Ledger) -> int:
    return sum(row.bytes for row in ledger.rows() if row.direction == Direction.READ)


def test_a_manifest_that_was_written_or_read_is_not_read_again(files: _MeteredFileIO, ledger: Ledger, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.avro", tmp_path / "theirs.avro"
    with files.new_output(str(ours)).create() as stream:
        stream.write(b"some ")
        stream.write(b"entries")
    theirs.write_bytes(b"of another process")
    for _ in range(2):
        with files.new_input(str(ours)).open() as stream:
            assert stream.read() == b"some entries"
        with files.new_input(str(theirs)).open() as stream:
            assert (stream.read(2), stream.read()) == (b"of", b" another process")
    assert read(ledger) == len(b"of another process")


def test_a_data_file_is_read_each_time(files: _MeteredFileIO, ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"rows")
    for _ in range(2):
        with files.new_input(str(tmp_path / "rows.parquet")).open() as stream:
            assert stream.read() == b"rows"
    assert read(ledger) == 2 * len(b"rows")


def test_a_manifest_that_was_deleted_is_not_there(files: _MeteredFileIO, tmp_path: Path) -> None:
    name = str(tmp_path / "gone.avro")
    with files.new_output(name).create() as stream:
        stream.write(b"entries")
    files.delete(name)
    with pytest.raises(FileNotFoundError):
        files.new_input(name).open()


def test_the_size_of_what_was_written_is_known(files: _MeteredFileIO, tmp_path: Path) -> None:
    output = files.new_output(str(tmp_path / "rows.parquet"))
    with output.create() as stream:
        stream.write(b"rows")
    (tmp_path / "rows.parquet").unlink()
    assert len(output) == 4


def test_what_is_cached_is_bounded_and_the_least_recently_used_goes() -> None:
    cache, size = ManifestCache(), 1 << 20
    for number in range(16):
        cache.keep(f"{number}.avro", bytes(size))
    assert cache.get("0.avro") is not None
    cache.keep("16.avro", bytes(size))
    assert cache.get("1.avro") is None
    assert cache.get("0.avro") is not None
    cache.keep("large.avro", bytes(size + 1))
    assert cache.get("large.avro") is None
    cache.keep("16.avro", b"a")
    cache.keep("17.avro", bytes(size - 1))
    assert cache.get("2.avro") is not None, "a file that is kept again counts once"
