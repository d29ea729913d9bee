"""The objects under an Iceberg table's location: listed, removed, and judged by the object store's own clock."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSelector, FileType
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.table import Table

from headrace.catalog import Store
from headrace.storage.ledger import Direction
from headrace.storage.meter import Meter

_PAGE = 1000
# Catalogs that guard a table's folder take only what looks like a table's files: hence Parquet, hence under data/.
_OURS = "upkeep-"
_CLOCK = f"{_OURS}clock.parquet"


@dataclass(frozen=True)
class StoredObject:
    """One object: its size, and when it was written in seconds since 1970 by the store's clock."""

    bytes: int
    modified: int


@dataclass(frozen=True)
class Listing:
    """Every object of a table by its key, and the store's time when they were listed."""

    now: int
    objects: dict[str, StoredObject]


class TableFolder:
    """A table's location. A *key* is a file's path as the file system has it, however its URI was spelt."""

    def __init__(self, table: Table, store: Store, meter: Meter) -> None:
        assert isinstance(table.io, PyArrowFileIO)
        self._io, self._store, self._meter = table.io, store, meter
        self._location = table.location().rstrip("/")
        scheme, host, self._root = self._io.parse_location(self._location)
        self._files = self._io.fs_by_scheme(scheme, host)

    def key(self, uri: str) -> str:
        """The key of a file that the table names."""
        return self._io.parse_location(uri)[2]

    def holds(self, key: str) -> bool:
        """Whether a key is one of a table's own files here; of anything else upkeep keeps its hands."""
        folder, _, name = key.removeprefix(f"{self._root}/").rpartition("/")
        if not key.startswith(f"{self._root}/") or name.startswith(_OURS):
            return False
        if folder.split("/")[0] == "data":
            return name.endswith(".parquet")
        return folder == "metadata" and name.endswith((".avro", ".metadata.json"))

    def list(self) -> Listing:
        """Everything that is there, after an object was put to see what time the store has."""
        with self._io.new_output(f"{self._location}/data/{_CLOCK}").create() as stream:
            stream.write(b"upkeep")
        with self._meter.operation(self._store, Direction.READ) as operation:
            infos = self._files.get_file_info(FileSelector(self._root, recursive=True))
            operation.ops = 1 + len(infos) // _PAGE
        objects = {
            info.path: StoredObject(info.size, int(info.mtime_ns // 10**9)) for info in infos if info.type == FileType.File
        }
        return Listing(objects[f"{self._root}/data/{_CLOCK}"].modified, objects)

    def remove(self, key: str) -> None:
        """Delete one object; one that is gone already is none."""
        with self._meter.operation(self._store, Direction.WRITE):
            try:
                self._files.delete_file(key)
            except FileNotFoundError:
                return
            except OSError as error:
                if "Path does not exist" not in str(error):
                    raise

    def lists(self, listing: Listing) -> dict[str, StoredObject]:
        """The lists of condemned keys that are there."""
        start = f"{self._root}/data/{_OURS}"
        return {key: found for key, found in listing.objects.items() if key.startswith(start) and not key.endswith(_CLOCK)}

    def condemn(self, keys: Iterable[str]) -> None:
        """Put a list of keys; the store's time of that list is when they were condemned."""
        with self._io.new_output(f"{self._location}/data/{_OURS}{uuid.uuid4()}.parquet").create() as stream:
            pq.write_table(pa.table({"key": pa.array(sorted(keys), pa.string())}), stream, compression="zstd")

    def condemned(self, key: str) -> frozenset[str]:
        """The keys of one such list; none if another upkeep has just carried it out."""
        uri = f"{self._location}/{key.removeprefix(f'{self._root}/')}"
        try:
            with self._io.new_input(uri).open() as stream:
                return frozenset(pq.read_table(stream)["key"].to_pylist())
        except FileNotFoundError:
            return frozenset()
