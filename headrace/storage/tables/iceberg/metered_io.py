"""pyiceberg's file I/O, and the catalogs that use it, with every byte of a table's files metered."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
from pyarrow.fs import S3FileSystem
from pyiceberg.catalog import Catalog
from pyiceberg.io import FileIO, InputFile, InputStream, OutputFile, OutputStream
from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO

from headrace.catalog import Store
from headrace.storage.ledger import Direction
from headrace.storage.meter import Meter
from headrace.storage.tables.iceberg.manifest_cache import ManifestCache

_manifests = ManifestCache()
_FILE_SYSTEMS = 8  # kept: a catalog may give each table credentials of its own
_file_systems: OrderedDict[tuple[int, str | None, tuple[tuple[str, str], ...]], S3FileSystem] = OrderedDict()
"""By process, since a forked one must not use its parent's sockets, bucket and properties."""
_making = threading.Lock()


class _MeteredInput(io.RawIOBase):
    """A pyarrow input file that counts each read."""

    def __init__(self, file: Any, store: Store, meter: Meter) -> None:
        self._file, self._store, self._meter = file, store, meter

    def read(self, size: int = -1) -> bytes:
        with self._meter.operation(self._store, Direction.READ) as operation:
            data: bytes = self._file.read(size if size >= 0 else None)
            operation.bytes = len(data)
        return data

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def size(self) -> int:
        return int(self._file.size())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


class _MeteredOutput(io.RawIOBase):
    """A pyarrow output stream, counted as one operation when it closes: only then does the object exist."""

    def __init__(
        self, stream: Any, store: Store, meter: Meter, stored: Callable[[int, bytes | None], None], *, keep: bool
    ) -> None:
        """`stored` is called with the object's size and, with `keep`, its bytes."""
        self._stream, self._store, self._meter, self._stored = stream, store, meter, stored
        self._bytes, self._seconds = 0, 0.0
        self._kept: list[bytes] | None = [] if keep else None

    def write(self, data: Any) -> int:
        started = time.perf_counter()
        if self._kept is not None:
            self._kept.append(bytes(data))
        self._stream.write(data)
        self._seconds += time.perf_counter() - started
        size = memoryview(data).nbytes
        self._bytes += size
        return size

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._bytes

    def close(self) -> None:
        if self.closed:
            return
        started = time.perf_counter()
        try:
            self._stream.close()
        finally:
            super().close()
            seconds = self._seconds + time.perf_counter() - started
            self._meter.count(self._store, Direction.WRITE, bytes=self._bytes, seconds=seconds)
        self._stored(self._bytes, None if self._kept is None else b"".join(self._kept))


class _MeteredFile(PyArrowFile):
    """An Iceberg file whose streams are metered."""

    def __init__(self, inner: PyArrowFile, store: Store, meter: Meter) -> None:
        super().__init__(inner.location, inner._path, inner._filesystem, inner._buffer_size)
        self._store, self._meter = store, meter
        self._written: int | None = None

    def __len__(self) -> int:
        """Size in bytes; what this process wrote is not asked of the store."""
        return super().__len__() if self._written is None else self._written

    def open(self, seekable: bool = True) -> InputStream:
        # Always seekable: serves both Parquet's range reads and Avro's sequential reads.
        if not ManifestCache.takes(self.location):
            return pa.PythonFile(self._input(), mode="r")  # type: ignore[no-any-return]
        data = _manifests.get(self.location)
        if data is None:
            with self._input() as stream:
                data = stream.read()
            _manifests.keep(self.location, data)
        return pa.BufferReader(data)  # type: ignore[no-any-return]

    def _input(self) -> _MeteredInput:
        return _MeteredInput(super().open(seekable=True), self._store, self._meter)

    def create(self, overwrite: bool = False) -> OutputStream:
        # Iceberg's file names are unique, so checking for existence would only cost a request.
        keep = ManifestCache.takes(self.location)
        stream = _MeteredOutput(super().create(overwrite=True), self._store, self._meter, self._stored, keep=keep)
        return pa.PythonFile(stream, mode="w")  # type: ignore[no-any-return]

    def _stored(self, size: int, data: bytes | None) -> None:
        self._written = size
        if data is not None:
            _manifests.keep(self.location, data)

    def to_input_file(self) -> PyArrowFile:
        return self


class _MeteredFileIO(PyArrowFileIO):
    """pyiceberg's own file access, metered."""

    def __init__(self, properties: Mapping[str, Any], store: Store, meter: Meter) -> None:
        super().__init__(dict(properties))
        self._store, self._meter = store, meter

    def _initialize_s3_fs(self, netloc: str | None) -> S3FileSystem:
        # Each stage opens its tables anew, and a file system takes milliseconds to make and has connections of its own.
        key = (os.getpid(), netloc, tuple(sorted((name, str(value)) for name, value in self.properties.items())))
        with _making:
            if (known := _file_systems.get(key)) is not None:
                _file_systems.move_to_end(key)
                return known
        made = super()._initialize_s3_fs(netloc)
        # Writes a small file with one request instead of three.
        made = S3FileSystem(**{**made.__reduce__()[1][0], "allow_delayed_open": True})
        with _making:
            _file_systems[key] = made
            while len(_file_systems) > _FILE_SYSTEMS:
                _file_systems.popitem(last=False)
        return made

    def new_input(self, location: str) -> PyArrowFile:
        return _MeteredFile(super().new_input(location), self._store, self._meter)

    def new_output(self, location: str) -> PyArrowFile:
        return _MeteredFile(super().new_output(location), self._store, self._meter)

    def delete(self, location: str | InputFile | OutputFile) -> None:
        _manifests.drop(location if isinstance(location, str) else location.location)
        # pyiceberg deletes old metadata after a commit; another writer may just have deleted it.
        with self._meter.operation(self._store, Direction.WRITE), contextlib.suppress(FileNotFoundError):
            super().delete(location)


class MeteredCatalog(Catalog):
    """A catalog whose tables read and write through one store's meter."""

    _metered: tuple[Store, Meter]
    _io: _MeteredFileIO | None = None

    def _load_file_io(self, properties: Mapping[str, Any] | None = None, location: str | None = None) -> FileIO:
        # self.properties has the user's endpoint and keys, which take precedence over the server's.
        wanted = {**(properties or {}), **self.properties}
        # A table is reloaded before each commit; reconnecting to its files each time would take longer than that.
        if self._io is None or self._io.properties != wanted:
            self._io = _MeteredFileIO(wanted, *self._metered)
        return self._io
