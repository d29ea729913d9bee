"""put: source files into the object tier, each announced on the head."""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated

import pyarrow.compute as pc

from headrace.catalog import DOCUMENT_EVENTS, DOCUMENT_ROWS, DOCUMENTS
from headrace.core.progress import ProgressBars
from headrace.core.stage import stage
from headrace.documents.beneath import open_beneath
from headrace.errors import BadDocument, NotFound, WrongUsage
from headrace.platform.home import DEMO, is_home
from headrace.storage.objects import ObjectWriter
from headrace.storage.stream import TopicWriter
from headrace.storage.tables.handles import TableReader

AHEAD = "ahead of time"
_ANNOUNCE = 200  # events per round trip to the head
_NAME_CHARS = 200  # of a reader
_NAMES_CHARS = 4_000  # of all readers of a document or a key: every service holds those of all documents in memory
_FILES_AT_ONCE = 4  # files in memory and on their way to the object store


@dataclass(frozen=True)
class Put:
    """How many files were put, were unchanged, were refused at the door, and are gone from a folder."""

    put: int
    unchanged: int
    refused: int
    deleted: int = 0


@dataclass(frozen=True)
class StoredVersion:
    """What the newest row of a document says."""

    status: str
    version: str
    reason: str
    readers: tuple[str, ...]
    source: str | None


@dataclass(frozen=True)
class FoundFile:
    """A file to put: its name as a document, and the folder it was found in as documents note it (`None`: named itself)."""

    path: Path
    uri: str
    source: str | None


@stage("Puts each source file into the object store and announces it on the head.", phase=AHEAD)
def put(
    sources: Annotated[ObjectWriter, DOCUMENTS],
    known: Annotated[TableReader, DOCUMENT_ROWS],
    events: Annotated[TopicWriter, DOCUMENT_EVENTS],
    bars: ProgressBars,
    tenant: str,
    paths: list[Path],
    most_bytes: int,
    readers: Sequence[str] | None = None,
    settle: Callable[[], object] | None = None,
    retry: bool = False,
) -> Put:
    """Put every file below `paths` that is new or changed; unchanged ones are recognised by hash and skipped.

    With `retry` those that failed are put again, changed or not.

    `readers` may read them from now on: nobody named is everybody of the tenant. `None` leaves to each document those it has,
    to a renamed file those of its old name, and opens new files to everybody of the tenant. Where that has to be known here and
    now, `settle` is called first: it brings the table up to the head.

    A file that cannot be read is announced as refused, with its reason, so that its status is recorded like any other's. A
    document that was found in one of these folders before and is there no more is announced as deleted; but a folder in which
    there is nothing, or of which a part cannot be listed, deletes nothing: more likely it is not mounted. Raises `NotFound`
    where a path does not exist, and `WrongUsage` where two would be called the same, one is of a home, or a reader has no name.
    """
    if readers is not None:
        check_principals(readers)
    current = newest_of(known, tenant)
    files, whole = _find_files(paths)
    seen = {file.uri for file in files}

    def missing() -> dict[str, StoredVersion]:
        return {uri: was for uri, was in current.items() if was.status != "deleted" and uri not in seen and was.source in whole}

    if settle is not None and (readers is not None or missing()):
        settle()
        current = newest_of(known, tenant)
    gone = missing()
    inherited: dict[str, tuple[str, ...]] = {}
    for was in gone.values():
        inherited[was.version] = inherited.get(was.version) or was.readers

    def event(uri: str, kind: str, open_to: Sequence[str] | None, source: str | None, **fields: object) -> dict[str, object]:
        blank = {"sha256": "", "bytes": 0, "reason": ""}
        who: dict[str, object] = {"event_id": uuid.uuid4().hex, "tenant": tenant, "uri": uri, "source": source}
        who |= {"readers": None if open_to is None else list(open_to)}
        return {**who, "kind": kind, **blank, **fields, "at": datetime.now(UTC)}

    def store(file: FoundFile) -> dict[str, object] | None:
        """The event of one file, its object stored; `None` where nothing changed."""
        was = current.get(file.uri)
        same = was is not None and was.source == file.source and (readers is None or sorted(was.readers) == sorted(readers))
        open_to = readers
        try:
            data = _read(file.path, file.uri, most_bytes)
        except BadDocument as error:
            if same and was is not None and (was.status, was.version, was.reason) == ("failed", "", error.reason):
                return None
            return event(file.uri, "refuse", open_to, file.source, reason=error.reason)
        sha256 = hashlib.sha256(data).hexdigest()
        if same and was is not None and was.version == sha256 and not (retry and was.status == "failed"):
            return None
        if readers is None and was is None:
            open_to = inherited.get(sha256)
        key = object_key(tenant, sha256)
        if sources.info(key) is None:
            sources.put(key, data)
        return event(file.uri, "put", open_to, file.source, sha256=sha256, bytes=len(data))

    kinds: Counter[object] = Counter()
    waiting: list[dict[str, object]] = []
    with ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="put") as pool:
        for made in bars.track(pool.map(store, files), "put", total=len(files), of="files"):
            kinds[made["kind"] if made else "unchanged"] += 1
            # Announced after its object is there: whoever hears of it on the head finds it.
            waiting += [made] if made else []
            if len(waiting) >= _ANNOUNCE:
                events.append(waiting, key="uri")
                waiting = []
    # Last, so that a renamed file is there under its new name before it goes under its old one.
    waiting += [event(uri, "delete", None, was.source) for uri, was in gone.items()]
    for start in range(0, len(waiting) or 1, _ANNOUNCE):
        events.append(waiting[start : start + _ANNOUNCE], key="uri")
    return Put(kinds["put"], kinds["unchanged"], kinds["refuse"], len(gone))


def check_principals(readers: Iterable[str]) -> None:
    """Raise `WrongUsage` unless each of these can be the name of a user or a group, and all together are not too long."""
    names = list(readers)
    if sum(map(len, names)) > _NAMES_CHARS:
        raise WrongUsage(
            f"These readers' names are longer than {_NAMES_CHARS:,} characters together.", hint="Name a group that they are in."
        )
    for reader in names:
        if not reader.strip() or len(reader) > _NAME_CHARS or not reader.isprintable():
            raise WrongUsage(
                f"{reader!a} cannot be the name of a reader.", hint=f"Name a user or a group in 1 to {_NAME_CHARS} letters."
            )


def object_key(tenant: str, sha256: str) -> str:
    """Key of a source file within the documents store."""
    return f"{tenant}/{sha256}"


def walk(paths: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Every file below the paths with its uri, in a stable order; hidden files and folders are left out, and so are homes.

    A folder's files are called by their path below it with its name in front; links to folders are not followed, and a link
    to a file outside the folder, or inside a home, is refused when it is read. A folder that cannot be listed comes out
    itself, so that what is missing has a name.
    """
    for path in paths:
        if not path.exists():
            raise NotFound(f"{path} does not exist.", hint="Name a file or a folder: headrace index PATH...")
        root = path.resolve()
        _outside_homes(root)
        if root.is_dir():
            closed: list[OSError] = []
            for folder, folders, names in os.walk(root, onerror=closed.append):
                folders[:] = sorted(name for name in folders if not (name.startswith(".") or is_home(Path(folder) / name)))
                for name in sorted(names):
                    if not name.startswith("."):
                        file = Path(folder) / name
                        yield file, _uri(root, file)
            for error in closed:
                yield Path(error.filename), _uri(root, Path(error.filename))
        else:
            yield root, _text(root.name)


def _find_files(paths: Iterable[Path]) -> tuple[list[FoundFile], set[str]]:
    """Every file below the paths once, and those folders of which nothing is missing and something is there."""
    files: dict[Path, FoundFile] = {}
    owners: dict[str, Path] = {}
    called: dict[str, Path] = {}
    whole = set()
    for path in paths:
        root = path.resolve()
        walked = list(walk([path]))
        name = _text(root.name)
        if owners.setdefault(name, root) != root:
            raise WrongUsage(
                f"{owners[name]} and {root} would both be called {name}, and one would replace the other.",
                hint="Index the folder that holds both, so that their names tell them apart, or rename one.",
            )
        source = hashlib.sha256(os.fsencode(root)).hexdigest()[:16] if root.is_dir() else None
        if source is not None and walked and not any(file.is_dir() for file, _ in walked):
            whole.add(source)
        for file, uri in walked:
            if (other := called.setdefault(uri, file)) != file:
                raise WrongUsage(
                    f"{other} and {file} would both be called {uri}, and one would replace the other.",
                    hint="Their names differ in how letters with accents are written: rename or remove one.",
                )
            files.setdefault(file, FoundFile(file, uri, source))
    return list(files.values()), whole


def newest_of(known: TableReader, tenant: str) -> dict[str, StoredVersion]:
    """The newest row of each of the tenant's documents."""
    fields = ("status", "version", "reason", "readers", "source")
    rows = known.read(("tenant", "uri", *fields, "topic", "partition", "offset"))
    rows = rows.filter(pc.equal(rows["tenant"], tenant))
    # If one event has both a failed and a parsed row, the failed row wins.
    order = [*((name, "ascending") for name in ("topic", "partition", "offset")), ("status", "descending")]
    rows = rows.sort_by(order)
    return {
        row["uri"]: StoredVersion(row["status"], row["version"], row["reason"], tuple(row["readers"] or ()), row["source"])
        for row in rows.to_pylist()
    }


def _read(path: Path, uri: str, most_bytes: int) -> bytes:
    # The folder that was named, or that of a file that was.
    root = path.parents[uri.count("/") - 1] if "/" in uri else path.parent
    try:
        if path.is_symlink():
            path = Path(os.path.realpath(path))
            if not path.is_relative_to(root) or path == root:
                raise BadDocument(uri, "a link to a file outside the folder")
            if home := _home_of(path, root):
                raise BadDocument(uri, f"a link into a home of Headrace ({home.name})")
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            os.listdir(path)  # says why it could not be walked
        if not stat.S_ISREG(status.st_mode):  # opening a pipe or a device could block for ever
            raise BadDocument(uri, "not a regular file")
        # What was looked at may be something else by now: what is opened is below the folder whoever swaps links.
        with open(open_beneath(root, PurePosixPath(path.relative_to(root))), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BadDocument(uri, "not a regular file")
            if status.st_size > most_bytes or len(data := file.read(most_bytes + 1)) > most_bytes:
                raise BadDocument(uri, f"larger than the limit of {most_bytes / 1e6:,.0f} MB")
            if not data:
                raise BadDocument(uri, "the file is empty")
            return data
    except OSError as error:
        raise BadDocument(uri, f"cannot be opened ({(error.strerror or 'error').lower()})") from None


def _home_of(path: Path, root: Path) -> Path | None:
    """The home that a path below a folder lies in, if it lies in one that does."""
    below = path.relative_to(root).parents
    return next((root / parent for parent in below if is_home(root / parent)), None)


def _outside_homes(root: Path) -> None:
    """Raise `WrongUsage` where what is named is a home or a part of one: it holds keys, and documents of all tenants.

    What the demo wrote into its home to be indexed is none of that.
    """
    for folder in (root, *root.parents):
        if is_home(folder) and not root.is_relative_to(folder / DEMO):
            raise WrongUsage(f"{root} belongs to the home {folder}, whose files are not indexed.", hint="Name other files.")


def _uri(root: Path, file: Path) -> str:
    return _text(f"{root.name}/{file.relative_to(root).as_posix()}")


def composed(name: str) -> str:
    """A document's name in Unicode's form NFC: systems write the same letters in two ways, and they are one name."""
    return unicodedata.normalize("NFC", name)


def _text(name: str) -> str:
    """A file name that is not UTF-8 as text that is."""
    return composed(name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))
