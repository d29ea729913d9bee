"""Files below the paths that a user names: which there are, what each is called as a document, and its bytes."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from headrace.documents.names import SAME_NAME, composed
from headrace.documents.sources.beneath import open_beneath
from headrace.documents.sources.permissions import FolderPermissions
from headrace.errors import BadDocument, NotFound, WrongUsage
from headrace.platform.home import DEMO, is_home
from headrace.settings import PosixPermissions

_TICK_NS = 2_000_000_000
"""Longer than a tick of any file system's clock, NFS and FAT included."""


@dataclass(frozen=True)
class FoundFile:
    """A file to put: its uri, and the id of the folder in which it was found (`None`: the user named the file itself).

    `readers` are those that its permissions allow; `None` where these do not count. `root` is the folder, or that of a file.
    `twins` are other files of the same name; a file that has any is refused.
    """

    path: Path
    uri: str
    source: str | None
    readers: tuple[str, ...] | None = None
    root: Path = Path("/")
    permissions: PosixPermissions | None = None
    twins: tuple[Path, ...] = ()

    def stamp(self) -> str:
        """Its times, size and inode; empty where it cannot be looked at."""
        try:
            status = self.path.stat()
        except OSError:
            return ""
        own = f"{status.st_ctime_ns}-{status.st_mtime_ns}-{status.st_size}-{status.st_ino}"
        return f"{own}-{len(self.twins) + 1}" if self.twins else own

    def settled(self, stamp: str) -> bool:
        """Whether it last changed long enough ago: a change within a tick of the file system's clock leaves the same times."""
        return bool(stamp) and 0 <= int(stamp.partition("-")[0]) < time.time_ns() - _TICK_NS

    def readers_now(self) -> tuple[str, ...] | None:
        """`readers`, looked at again."""
        return None if self.permissions is None else FolderPermissions(self.root, self.permissions).readers(self.path)

    def read(self, most_bytes: int) -> bytes:
        """Its bytes. Raises `BadDocument` with the reason in one clause."""
        if self.twins:
            raise BadDocument(self.uri, SAME_NAME)
        return read_file(self.path, self.uri, most_bytes)


@dataclass(frozen=True)
class FoundFiles:
    """Files, each once; `whole` has the ids of those folders that are not empty and were listed in full.

    `closed` has folders that could not be listed though their permissions count, by uri, with the id of the folder walked.
    """

    files: list[FoundFile]
    whole: set[str]
    closed: dict[str, str]


def find_files(paths: Iterable[Path], permissions: Callable[[Path], PosixPermissions | None] = lambda _: None) -> FoundFiles:
    """Every file below the paths; `permissions` says for each path whether permissions count, and how.

    Files of which the names are the same are one that is refused, and hold up no others. Raises `NotFound` where a path does not
    exist, and `WrongUsage` where two paths would have the same name or a file is of a home.
    """
    files: dict[Path, FoundFile] = {}
    owners: dict[str, Path] = {}
    called: dict[str, Path] = {}
    whole, closed = set[str](), dict[str, str]()
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
        unlisted = [uri for file, uri in walked if source is not None and _may_be_folder(file)]
        if source is not None and walked and not unlisted:
            whole.add(source)
        rule, top = permissions(path), root if root.is_dir() else root.parent
        if rule is not None and source is not None:
            closed |= dict.fromkeys(unlisted, source)
        allowed = None if rule is None else FolderPermissions(top, rule)
        for file, uri in walked:
            if (other := called.setdefault(uri, file)) != file:
                if file not in files[other].twins:
                    files[other] = replace(files[other], twins=(*files[other].twins, file))
                continue
            readers = None if allowed is None else allowed.readers(file)
            files.setdefault(file, FoundFile(file, uri, source, readers, top, rule))
    return FoundFiles(list(files.values()), whole, closed)


def walk(paths: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Every file below the paths with its uri, in a stable order; without hidden files and folders, and without homes.

    The uri of a file in a folder is the folder's name and the path below it. Links to folders are not followed; a link to a file
    outside the folder or inside a home is refused when it is read. A folder that cannot be listed is yielded itself, so that
    its failure has a name.
    """
    for path in paths:
        if not path.exists():
            raise NotFound(f"{path} does not exist.", hint="Name a file or a folder: headrace index PATH...")
        root = path.resolve()
        refuse_homes(root)
        if root.is_dir():
            closed: list[OSError] = []
            for folder, folders, names in os.walk(root, onerror=closed.append):
                folders[:] = sorted(name for name in folders if is_followed(Path(folder), name))
                for name in sorted(names):
                    if not name.startswith("."):
                        file = Path(folder) / name
                        yield file, _uri(root, file)
            for error in closed:
                yield Path(error.filename), _uri(root, Path(error.filename))
        else:
            yield root, _text(root.name)


def is_followed(folder: Path, name: str) -> bool:
    """Whether a folder in another one is walked: not if it is hidden or a home."""
    return not (name.startswith(".") or is_home(folder / name))


def read_file(path: Path, uri: str, most_bytes: int) -> bytes:
    """The bytes of a file that `walk` found. Raises `BadDocument` with the reason in one clause."""
    # The folder that was named, or that of a file that was.
    root = path.parents[uri.count("/") - 1] if "/" in uri else path.parent
    try:
        if path.is_symlink():
            path = Path(os.path.realpath(path))
            if not path.is_relative_to(root) or path == root:
                raise BadDocument(uri, "a link to a file outside the folder")
            if home := _home_of(path, root):
                raise BadDocument(uri, f"a link into a home of Headrace ({home.name})")
            if not os.path.lexists(path):
                raise BadDocument(uri, f"a link to {_text(str(path.relative_to(root)))}, which does not exist")
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            os.listdir(path)  # raises why it could not be walked
        if not stat.S_ISREG(status.st_mode):  # opening a pipe or a device could block for ever
            raise BadDocument(uri, "not a regular file")
        # The path may lead elsewhere by now: this opens only a file below the folder, even if links are swapped.
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


def _may_be_folder(path: Path) -> bool:
    """Whether a path is a folder, or may be one: a path whose name is too long cannot be checked."""
    try:
        return path.is_dir()
    except OSError:
        return True


def _home_of(path: Path, root: Path) -> Path | None:
    """The home between a folder and a path below it, if there is one."""
    below = path.relative_to(root).parents
    return next((root / parent for parent in below if is_home(root / parent)), None)


def refuse_homes(root: Path) -> None:
    """Raise `WrongUsage` where a path is a home or lies in one: it holds keys, and documents of all tenants.

    The documents that the demo writes into its home may be indexed.
    """
    for folder in (root, *root.parents):
        if is_home(folder) and not root.is_relative_to(folder / DEMO):
            raise WrongUsage(f"{root} belongs to the home {folder}, whose files are not indexed.", hint="Name other files.")


def _uri(root: Path, file: Path) -> str:
    return _text(f"{root.name}/{file.relative_to(root).as_posix()}")


def _text(name: str) -> str:
    """A file name as text, also where it is not UTF-8."""
    return composed(name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))
