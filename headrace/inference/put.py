"""put: source files into the object tier, each announced on the head."""

from __future__ import annotations

import hashlib
import os
import stat
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import pyarrow.compute as pc

from headrace.catalog import DOCUMENT_EVENTS, DOCUMENT_ROWS, DOCUMENTS
from headrace.errors import BadDocument, NotFound
from headrace.pipeline.progress import Bars
from headrace.pipeline.stage import stage
from headrace.storage.objects import ObjectWriter
from headrace.storage.tables import TableReader
from headrace.storage.topics import TopicWriter

AHEAD = "ahead of time"
_ANNOUNCE = 200  # events per round trip to the head
_FILES_AT_ONCE = 4  # files in memory and on their way to the object store


@dataclass(frozen=True)
class Put:
    """How many files were put, were unchanged, and were refused at the door."""

    put: int
    unchanged: int
    refused: int


@stage("Puts each source file into the object store and announces it on the head.", phase=AHEAD)
def put(
    sources: Annotated[ObjectWriter, DOCUMENTS],
    known: Annotated[TableReader, DOCUMENT_ROWS],
    events: Annotated[TopicWriter, DOCUMENT_EVENTS],
    bars: Bars,
    tenant: str,
    paths: list[Path],
    most_bytes: int,
) -> Put:
    """Put every file below `paths` that is new or changed; unchanged ones are recognised by hash and skipped.

    A file that cannot be read is announced as refused, with its reason, so that its status is recorded like any other's.
    Raises `NotFound` where a path does not exist.
    """
    held = _held(known, tenant)
    files = list(walk(paths))

    def store(file: tuple[Path, str]) -> dict[str, object] | None:
        """The event of one file, its object stored; `None` where nothing changed."""
        path, uri = file
        event = {"event_id": uuid.uuid4().hex, "tenant": tenant, "uri": uri}
        try:
            data = _read(path, uri, most_bytes)
        except BadDocument as error:
            if held.get(uri) == ("failed", "", error.reason):
                return None
            return {**event, "kind": "refuse", "sha256": "", "bytes": 0, "reason": error.reason, "at": datetime.now(UTC)}
        sha256 = hashlib.sha256(data).hexdigest()
        if (was := held.get(uri)) is not None and was[1] == sha256:
            return None
        key = object_key(tenant, sha256)
        if sources.info(key) is None:
            sources.put(key, data)
        return {**event, "kind": "put", "sha256": sha256, "bytes": len(data), "reason": "", "at": datetime.now(UTC)}

    kinds: Counter[object] = Counter()
    waiting: list[dict[str, object]] = []
    with ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="put") as pool:
        for event in bars.track(pool.map(store, files), "put", total=len(files), of="files"):
            kinds[event["kind"] if event else "unchanged"] += 1
            # Announced after its object is there: whoever hears of it on the head finds it.
            waiting += [event] if event else []
            if len(waiting) >= _ANNOUNCE:
                events.append(waiting, key="uri")
                waiting = []
    events.append(waiting, key="uri")
    return Put(kinds["put"], kinds["unchanged"], kinds["refuse"])


def object_key(tenant: str, sha256: str) -> str:
    """Key of a source file within the documents store."""
    return f"{tenant}/{sha256}"


def walk(paths: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Every file below the paths with its uri, in a stable order; hidden files and folders are left out.

    A folder's files are called by their path below it with its name in front; links to folders are not followed. A folder
    that cannot be listed comes out itself, so that what is missing has a name.
    """
    for path in paths:
        if not path.exists():
            raise NotFound(f"{path} does not exist.", hint="Name a file or a folder: headrace index PATH...")
        root = path.resolve()
        if root.is_dir():
            closed: list[OSError] = []
            for folder, folders, names in os.walk(root, onerror=closed.append):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                for name in sorted(names):
                    if not name.startswith("."):
                        file = Path(folder) / name
                        yield file, _uri(root, file)
            for error in closed:
                yield Path(error.filename), _uri(root, Path(error.filename))
        else:
            yield root, _text(root.name)


def _held(known: TableReader, tenant: str) -> dict[str, tuple[str, str, str]]:
    """(status, version, reason) of the newest row of each of the tenant's documents."""
    rows = known.read(("tenant", "uri", "status", "version", "reason", "topic", "partition", "offset"))
    rows = rows.filter(pc.equal(rows["tenant"], tenant))
    rows = rows.sort_by([("topic", "ascending"), ("partition", "ascending"), ("offset", "ascending")])
    return {row["uri"]: (row["status"], row["version"], row["reason"]) for row in rows.to_pylist()}


def _read(path: Path, uri: str, most_bytes: int) -> bytes:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            os.listdir(path)  # says why it could not be walked
        if not stat.S_ISREG(status.st_mode):  # opening a pipe or a device could block for ever
            raise BadDocument(uri, "not a regular file")
        if status.st_size > most_bytes:
            raise BadDocument(uri, f"larger than the limit of {most_bytes / 1e6:,.0f} MB")
        if status.st_size == 0:
            raise BadDocument(uri, "the file is empty")
        return path.read_bytes()
    except OSError as error:
        raise BadDocument(uri, f"cannot be opened ({(error.strerror or 'error').lower()})") from None


def _uri(root: Path, file: Path) -> str:
    return _text(f"{root.name}/{file.relative_to(root).as_posix()}")


def _text(name: str) -> str:
    """A file name that is not UTF-8 as text that is."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
