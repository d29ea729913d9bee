"""Files of a Git repository's newest commit: which there are, the name of each as a document, and its bytes.

A copy of that commit, without its history, is kept beside the file tier's stores; it is a bare repository, from which files are
read by their hash. What is committed, and who owns the repository, therefore decides what is read, and never what is run.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote

from headrace.documents.names import SAME_NAME, composed, is_readable, printable
from headrace.documents.sources.folder import refuse_homes
from headrace.documents.sources.git_program import Git, Remote
from headrace.errors import BadDocument, NotFound, Unavailable, WrongUsage
from headrace.platform.home import Lock, write_error
from headrace.settings import SourceGit, SourceSettings, repository_url
from headrace.storage.ledger import Direction
from headrace.storage.objects import BucketReader
from headrace.storage.records import NAME_BYTES

_TIP = "refs/headrace/tip"
_REGULAR = ("100644", "100755", "100664")
_LISTED_BYTES = 512  # of names, for each file that a commit may have
_LOCK_S = 60.0
_LEFT_S = 30 * 86_400.0  # a copy that nobody has asked for is removed
_UNREADABLE = "its path has an empty part, . or .., or a control character: rename it"
_LFS = b"version https://git-lfs.github.com/spec/v1\n"


@dataclass(frozen=True)
class FoundBlob:
    """A file of a commit. Its uri is the repository's name and its path, whatever folder was listed; `blob` is git's hash of it.

    What is `refused` is not read, for that reason.
    """

    copy: RepositoryCopy
    commit: str
    blob: str
    uri: str
    source: str
    refused: str = ""
    readers: tuple[str, ...] | None = None

    def stamp(self) -> str:
        """The hash of its bytes."""
        return self.blob

    def settled(self, stamp: str) -> bool:
        """A hash is of the content, not of the time."""
        return bool(stamp)

    def readers_now(self) -> tuple[str, ...] | None:
        """Files of a repository have no readers of their own."""
        return None

    def read(self, most_bytes: int) -> bytes:
        """Its bytes. Raises `BadDocument` with the reason in one clause, and `Unavailable` where the copy has another commit."""
        if self.refused:
            raise BadDocument(self.uri, self.refused)
        data = self.copy.read(self.commit, self.blob, most_bytes)
        if len(data) > most_bytes:
            raise BadDocument(self.uri, f"larger than the limit of {most_bytes / 1e6:,.0f} MB")
        if not data:
            raise BadDocument(self.uri, "the file is empty")
        if data.startswith(_LFS):
            raise BadDocument(self.uri, "its content is in Git LFS, which is not read")
        return data


@dataclass(frozen=True)
class _Entry:
    """A file of a commit: its path below the folder that is listed, as git has it."""

    path: str
    blob: str


class RepositoryCopy:
    """The newest commit of one branch, in a bare repository below `folder`. `buckets` counts what is fetched."""

    def __init__(
        self, remote: Remote, branch: str, folder: Path, most_bytes: int, most_files: int, buckets: BucketReader
    ) -> None:
        name = hashlib.sha256(f"{remote.url}\0{branch}".encode()).hexdigest()[:16]
        self._remote, self._buckets = remote, buckets
        self._most_bytes, self._most_files = most_bytes, most_files
        self._reference = f"refs/heads/{branch}" if branch else "HEAD"
        self.path = folder / f"{name}.git"
        self._lock_path = folder / f"{name}.lock"
        self._git = Git(remote, self.path)

    def follow(self) -> str:
        """Bring it to the newest commit; returns that commit. Nothing is fetched where the copy has it.

        Raises `NotFound` where there is no repository or branch, `AccessDenied`, `StorageFull`, `Unavailable`, `MissingPart`.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(error, self.path.parent) from None
        with self._buckets.meter.operation(self._buckets.store, Direction.READ, estimated=True) as operation:
            listed = self._git.ask("ls-remote", "--quiet", "--", self._remote.url, self._reference)
            operation.bytes = len(listed)
        lines = [line.partition("\t") for line in listed.decode("utf-8", "replace").splitlines()]
        newest = next((commit for commit, _, name in lines if name == self._reference), None)
        if newest is None:
            branch = "of its own" if self._reference == "HEAD" else self._reference.removeprefix("refs/heads/")
            raise NotFound(
                f"{self._remote.url} has no branch {branch}.", hint="Name one under [sources.git], or commit something to it."
            )
        if self._commit() != newest:
            self._fetch(newest)
        return self._commit() or newest

    def entries(self, commit: str, folder: str) -> list[_Entry]:
        """The files below a folder of the commit that is followed, in git's order; no links and no submodules.

        Raises `NotFound` where there is no such folder, and `WrongUsage` for more files and folders than it may have: a few
        bytes of a repository can name any number.
        """
        tree = f"{commit}:{folder}"
        try:
            is_folder = not folder or self._git.local("cat-file", "-t", tree).strip() == b"tree"
        except Unavailable:
            self._check(commit)
            is_folder = False
        if not is_folder:
            raise NotFound(
                f"{self._remote.url} has no folder {folder} in its newest commit.", hint="Check `folder` under [sources.git]."
            )
        found: list[_Entry] = []
        most, most_listed = self._most_files, max(1 << 20, self._most_files * _LISTED_BYTES)
        size, listed, rest = 0, 0, b""
        try:
            for piece in self._git.pieces("ls-tree", "-r", "-t", "-z", "--full-tree", tree):
                size += len(piece)
                *lines, rest = (rest + piece).split(b"\0")
                listed += len(lines)  # of folders, too: without a file in any, git would walk through all of them unseen
                for line in lines:
                    about, _, path = line.partition(b"\t")
                    mode, _, blob = about.decode("ascii").split(" ")
                    if mode in _REGULAR:
                        found.append(_Entry(path.decode("utf-8", "surrogateescape"), blob))
                if listed - len(found) > most or len(found) > most or size > most_listed:
                    raise WrongUsage(
                        f"{self._remote.url} has more than {most:,} files, as many folders, or {most_listed >> 20} MiB of names.",
                        hint="Name a `folder` of it under [sources.git], or raise `most_files` there.",
                    )
        except Unavailable:
            self._check(commit)
            raise
        return found

    def read(self, commit: str, blob: str, most_bytes: int) -> bytes:
        """The bytes of a file, or the first of them if they are more than `most_bytes`."""
        data = bytearray()
        try:
            for piece in self._git.pieces("cat-file", "blob", blob):
                data += piece
                if len(data) > most_bytes:
                    break
        except Unavailable:
            self._check(commit)
            raise
        return bytes(data)

    def _check(self, commit: str) -> None:
        """Raise `Unavailable` where the copy is of another commit by now; remove it where it is damaged, to be fetched anew."""
        now = self._commit()
        if now is not None and now != commit:
            raise Unavailable(f"{self._remote.url} has another commit by now.", hint="It is read at the next look.")
        try:
            self._git.local("rev-list", "--objects", "--quiet", commit)
        except Unavailable:
            with self._locked():
                shutil.rmtree(self.path, ignore_errors=True)
            raise Unavailable(
                f"The copy of {self._remote.url} was damaged.", hint="It is fetched anew at the next look."
            ) from None

    def _commit(self) -> str | None:
        """The commit that it has."""
        if not self.path.is_dir():
            return None
        try:
            return self._git.local("rev-parse", "--verify", "--quiet", f"{_TIP}^{{commit}}").decode("ascii").strip()
        except Unavailable:
            return None

    def _fetch(self, newest: str) -> None:
        with self._locked() as lock:
            if self._commit() == newest:
                return  # another process has fetched it
            # Git keeps the packs of twenty fetches before it packs them anew: begun again, the copy has two at most.
            if self._bytes() > self._most_bytes or not (self.path / "HEAD").exists():
                shutil.rmtree(self.path, ignore_errors=True)  # of one that was killed
                kind = "sha1" if len(newest) == len(hashlib.sha1(usedforsecurity=False).hexdigest()) else "sha256"
                self._git.local("init", "--quiet", "--bare", "--template=", f"--object-format={kind}", lock=lock.descriptor)
            # Whoever left these was killed: the lock is ours.
            for left in (*self.path.glob("*.lock"), *self.path.glob("refs/headrace/*.lock"), self.path / "gc.pid"):
                left.unlink(missing_ok=True)
            self._drop_partial()
            before = self._bytes()
            with self._buckets.meter.operation(self._buckets.store, Direction.READ, estimated=True) as operation:
                try:
                    self._git.fetch(
                        *("fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head"),
                        *("--", self._remote.url, f"+{self._reference}:{_TIP}"),
                        most_bytes=self._most_bytes,
                        lock=lock.descriptor,
                    )
                except Unavailable:
                    if any(size >= self._most_bytes for size in self._partial().values()):
                        raise Unavailable(
                            f"{self._remote.url} is packed into more than {self._most_bytes / 1e6:,.0f} MB, and is not fetched.",
                            hint="Raise `most_bytes` under [sources.git] in headrace.toml.",
                        ) from None
                    raise
                finally:
                    operation.bytes = max(0, self._bytes() + sum(self._partial().values()) - before)
                    self._drop_partial()
            self._git.local("gc", "--auto", "--quiet", lock=lock.descriptor)
            self._sweep()

    def _bytes(self) -> int:
        """What its packs take."""
        return sum(pack.stat().st_size for pack in self.path.glob("objects/pack/*.pack"))

    def _partial(self) -> dict[Path, int]:
        """Packs that were not fetched to their end, and their sizes."""
        return {path: path.stat().st_size for path in self.path.glob("objects/pack/tmp_*")}

    def _drop_partial(self) -> None:
        for path in self._partial():
            path.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove copies that nobody has fetched to for long; this one counts as used."""
        self._lock_path.touch()
        for other in self.path.parent.glob("*.lock"):
            with suppress(OSError):
                if other == self._lock_path or time.time() - other.stat().st_mtime < _LEFT_S:
                    continue
                lock = Lock(other)
                if lock.acquire():
                    shutil.rmtree(other.with_suffix(".git"), ignore_errors=True)
                    other.unlink()
                    lock.release()

    @contextmanager
    def _locked(self) -> Iterator[Lock]:
        lock = Lock(self._lock_path)
        if not lock.acquire(seconds=_LOCK_S):
            raise Unavailable(f"Another process has been fetching {self._remote.url} for a while.", hint="Wait for it.")
        try:
            yield lock
        finally:
            lock.release()


def url_of(place: str) -> str:
    """The URL of the repository that a place names. Raises `WrongUsage` where it names none that is read."""
    try:
        return repository_url(place)
    except ValueError as error:
        raise WrongUsage(f"{place} cannot be read: {error}.", hint="Its branch, folder and token: [sources.git].") from None


@dataclass
class Repositories:
    """Opens repositories, with copies beside the stores of the file tier; remembers what it listed last of each."""

    buckets: BucketReader
    listed: dict[tuple[Path, str], tuple[str, list[FoundBlob]]] = field(default_factory=dict)

    def copy(self, url: str, settings: SourceGit) -> RepositoryCopy:
        """The copy of the branch that the settings name. Raises `BadSettings` where the token is not where it should be."""
        remote = Remote(url, settings.user, settings.secret())
        return RepositoryCopy(
            remote, settings.branch, self.buckets.copies_dir, settings.most_bytes, settings.most_files, self.buckets
        )


@dataclass(frozen=True)
class SourceRepository:
    """A folder of a repository's branch that is a source; `id` is the source's, and the same for every branch."""

    repositories: Repositories
    copy: RepositoryCopy
    name: str
    folder: str
    id: str

    @classmethod
    def at(cls, place: str, repositories: Repositories, rule: SourceSettings | None = None) -> SourceRepository:
        """`git+URL`, with what the source's `rule` says of it.

        Raises `WrongUsage` where the place names no repository that is read, or one in a home.
        """
        url = url_of(place)
        if url.startswith("file://"):
            refuse_homes(Path(unquote(url.removeprefix("file://"))).resolve())
        settings = (rule.git if rule is not None else None) or SourceGit()
        name = unquote(url.rstrip("/").rpartition("/")[2]).removesuffix(".git") or "repository"
        source = hashlib.sha256(f"{url}\0{settings.folder}".encode()).hexdigest()[:16]
        return cls(repositories, repositories.copy(url, settings), name, settings.folder, source)

    def files(self) -> list[FoundBlob]:
        """Its files, without hidden ones, links and submodules.

        A file whose path cannot be a name, or whose name another one has, too, is refused, and holds up no others. Raises as
        `RepositoryCopy.follow` and `entries`.
        """
        commit = self.copy.follow()
        known = self.repositories.listed.get((self.copy.path, self.folder))
        if known is None or known[0] != commit:
            entries = self.copy.entries(commit, self.folder)
            known = commit, _each_once([self._found(commit, entry) for entry in entries if not _is_hidden(entry.path)])
            self.repositories.listed[self.copy.path, self.folder] = known
        return list(known[1])

    def _found(self, commit: str, entry: _Entry) -> FoundBlob:
        refused = "" if is_readable(entry.path) else _UNREADABLE
        return FoundBlob(self.copy, commit, entry.blob, self._uri(entry.path), self.id, refused)

    def _uri(self, path: str) -> str:
        whole = "/".join(filter(None, (self.name, self.folder, path)))
        uri = composed(printable(whole.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")))
        return uri if len(uri.encode()) <= NAME_BYTES else f"{uri[:200]}…{hashlib.sha256(uri.encode()).hexdigest()[:16]}"


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") and part not in (".", "..") for part in path.split("/"))


def _each_once(found: list[FoundBlob]) -> list[FoundBlob]:
    """One file of each name: of several with the same one, none could be told from the others, and they are refused."""
    named: dict[str, list[FoundBlob]] = {}
    for one in found:
        named.setdefault(one.uri, []).append(one)
    return [
        ones[0] if len(ones) == 1 else replace(ones[0], blob="+".join(one.blob for one in ones), refused=SAME_NAME)
        for ones in named.values()
    ]
