"""Git repositories as sources: what of a commit is a document, what follows from the next one, and what nobody can have run."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from git_repository import GitRepository, GitServer, git_server, needs_git

from headrace.catalog import SOURCES
from headrace.documents.sources import git as module
from headrace.documents.sources import git_program
from headrace.documents.sources.follow import Follower
from headrace.documents.sources.git import FoundBlob, Repositories
from headrace.documents.sources.listing import SourceListing, find
from headrace.errors import AccessDenied, BadDocument, HeadraceError, MissingPart, NotFound, Unavailable, WrongUsage
from headrace.platform.home import Lock
from headrace.settings import SourceSettings
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import BucketReader

pytestmark = needs_git
MOST = 1 << 20


@pytest.fixture
def repository(tmp_path: Path) -> GitRepository:
    made = GitRepository(tmp_path / "theirs" / "handbook")
    made.commit(**{"pump.md": "The pump.", "docs/weir.md": "The weir.", "docs/en/gate.md": "The gate."})
    return made


@pytest.fixture
def repositories(tmp_path: Path) -> Repositories:
    return opened(tmp_path / "files")


def opened(files: Path) -> Repositories:
    s3 = {"s3_endpoint": "http://127.0.0.1:1", "s3_access_key": "k", "s3_secret_key": "s", "s3_region": "r", "bucket": "b"}
    endpoints = Endpoints.model_construct(files_dir=files, **s3)
    return Repositories(BucketReader(SOURCES, endpoints, Meter(Ledger(), "test")))


@pytest.fixture
def server(tmp_path: Path, repository: GitRepository) -> Iterator[GitServer]:
    with git_server(tmp_path / "theirs") as started:
        yield started


def look(repositories: Repositories, place: str, **git: object) -> SourceListing:
    rules = [SourceSettings.model_validate({"place": place, "git": git})] if git else []
    return find([place], repositories.buckets.of, rules, repositories)


def texts(listing: SourceListing) -> dict[str, str]:
    """uri → text, or why there is none."""

    def text(document: object) -> str:
        assert isinstance(document, FoundBlob)
        try:
            return document.read(MOST).decode()
        except BadDocument as error:
            return error.reason

    return {document.uri: text(document) for document in listing.documents}


def fetched(repositories: Repositories) -> int:
    return sum(row.bytes for row in repositories.buckets.meter.ledger.rows() if row.store == SOURCES.name)


def copies(repositories: Repositories) -> list[Path]:
    return sorted(repositories.buckets.copies_dir.glob("*.git"))


def test_files_of_the_newest_commit_are_documents(repository: GitRepository, repositories: Repositories) -> None:
    (repository.path / "uncommitted.md").write_text("Not yet.")
    listing = look(repositories, repository.place)
    assert texts(listing) == {
        "handbook/pump.md": "The pump.",
        "handbook/docs/weir.md": "The weir.",
        "handbook/docs/en/gate.md": "The gate.",
    }
    assert listing.whole == listing.sources
    assert len(listing.sources) == 1
    assert fetched(repositories) > 0, "metered"


def test_a_branch_and_a_folder_are_settings(repository: GitRepository, repositories: Repositories) -> None:
    repository.git("branch", "release/1.0")
    repository.commit(**{"docs/weir.md": "The new weir."})
    assert texts(look(repositories, repository.place, folder="docs"))["handbook/docs/weir.md"] == "The new weir."
    assert texts(look(repositories, repository.place, folder="/docs/en/")) == {"handbook/docs/en/gate.md": "The gate."}
    before = look(repositories, repository.place, folder="docs", branch="release/1.0")
    assert texts(before)["handbook/docs/weir.md"] == "The weir."
    assert before.sources == look(repositories, repository.place, folder="docs").sources, "another branch of it replaces this one"
    for wrong, why in (
        ({"branch": "none"}, "no branch none"),
        ({"folder": "doc"}, "no folder doc"),
        ({"folder": "pump.md"}, "no folder pump.md"),
    ):
        with pytest.raises(NotFound, match=why):
            look(repositories, repository.place, **wrong)


def test_what_a_commit_changes_is_what_changes(repository: GitRepository, repositories: Repositories) -> None:
    follower = Follower([repository.place], repositories.buckets.of, 0.0, repositories=repositories)
    first = follower.changed()
    assert first is not None
    assert first.changed is None, "all is compared with the index"
    follower.followed(first)
    assert follower.changed() is None
    before = fetched(repositories)
    assert follower.changed() is None
    assert fetched(repositories) - before < 200, "a commit that is there is not fetched again"
    repository.git("mv", "pump.md", "turbine.md")
    repository.commit(**{"docs/weir.md": "The weir is new.", "docs/en/gate.md": None, "new.md": "New."})
    changes = follower.changed()
    assert changes is not None
    assert changes.changed == {"handbook/turbine.md", "handbook/docs/weir.md", "handbook/new.md"}
    assert changes.gone == {"handbook/pump.md", "handbook/docs/en/gate.md"}
    follower.followed(changes)
    repository.git("commit", "--quiet", "--amend", "--allow-empty", "--message", "the same files in another commit")
    assert follower.changed() is None
    repository.git("reset", "--quiet", "--hard", "HEAD~1")
    changes = follower.changed()
    assert changes is not None, "what was pushed by force counts"
    assert changes.gone == {"handbook/turbine.md", "handbook/new.md"}
    follower.close()


def test_the_copy_has_no_history_and_keeps_nothing_that_no_commit_has(
    repository: GitRepository, repositories: Repositories
) -> None:
    for number in range(30):
        repository.commit(**{"pump.md": f"{number} {os.urandom(5_000).hex()}"})
        look(repositories, repository.place)
    (copy,) = copies(repositories)
    packs = list(copy.glob("objects/pack/*.pack"))
    assert len(packs) < 25
    assert sum(pack.stat().st_size for pack in packs) < 25 * 6_000


def test_what_is_no_document_is_left_out_or_says_why(repository: GitRepository, repositories: Repositories) -> None:
    repository.commit(
        **{".github/secret.md": "Hidden.", "docs/.hidden.md": "Hidden.", "empty.md": "", "large.md": "x" * (MOST + 1)}
    )
    (repository.path / "link.md").symlink_to("/etc/passwd")
    repository.commit(**{"big.bin": "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"})
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},module")
    repository.git("commit", "--quiet", "--message", "a submodule")
    found = texts(look(repositories, repository.place))
    assert {uri: why for uri, why in found.items() if uri.count("/") == 1} == {
        "handbook/pump.md": "The pump.",
        "handbook/empty.md": "the file is empty",
        "handbook/large.md": "larger than the limit of 1 MB",
        "handbook/big.bin": "its content is in Git LFS, which is not read",
    }
    assert not any("hidden" in uri or "link" in uri or "module" in uri for uri in found)


def test_paths_of_any_kind_hold_up_no_others(repository: GitRepository, repositories: Repositories) -> None:
    blob = repository.blob(b"Something.")
    inner = repository.git(
        "hash-object", "-t", "tree", "--literally", "-w", "--stdin", given=b"100644 x.md\0" + bytes.fromhex(blob)
    )
    file, folder = ("100644", "blob", blob), ("040000", "tree", inner)
    names = ("two\nlines.md", "\x1b[2J.md", "gr\u00f6n.md", "gro\u0308n.md", "--output=x.md", ":(glob)*.md", "-", "fine.md")
    repository.commit_tree(*[(*file, name) for name in names], (*folder, ".."), (*folder, "a/../.."))
    found = texts(look(repositories, repository.place))
    fine = {uri.removeprefix("handbook/") for uri, text in found.items() if text == "Something."}
    assert fine == {"--output=x.md", ":(glob)*.md", "-", "fine.md"}
    refused = {uri: text for uri, text in found.items() if text != "Something."}
    assert len(refused) == 5
    assert sorted(refused.values())[0].startswith("another one has the same name")
    assert all(uri.isprintable() for uri in found)


def test_what_is_no_repository_is_no_place(repositories: Repositories, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    for place in (
        f"git+ext::sh -c touch% {ran}",
        f"git+--upload-pack=touch {ran}",
        f"git+-oProxyCommand=touch {ran}",
        "git+ssh://-oProxyCommand=touch/x",
        "git+ssh://git@example.net/x",
        "git+git://example.net/x",
        "git+file://server/share",
        "git+file://relative",
        "git+/srv/handbook",
        "git+https://user:secret@example.net/x",
        "git+https://example.net/x?y",
        "git+https://example.net/x#subdirectory=y",
        "git+https://example.net/x y",
        "git+https://example.net/x\n",
        "git+https://",
        "git+",
    ):
        with pytest.raises(WrongUsage, match="cannot be read"):
            look(repositories, place)
        with pytest.raises(ValueError, match="a Git repository is"):
            SourceSettings(place=place)
    assert not ran.exists()
    for git in (
        *(
            {"branch": name}
            for name in ("--upload-pack=x", "a..b", "a b", "a:b", "/a", "a.lock", "a@{1}", "a\nb", "a~1", "a^", "*")
        ),
        *({"folder": name} for name in ("..", "docs/../..", "docs//en", "a\nb")),
        {"token": "secret"},
    ):
        with pytest.raises(ValueError, match="1 validation error"):
            SourceSettings.model_validate({"place": "git+https://example.net/x", "git": git})
    with pytest.raises(ValueError, match="over https alone"):
        SourceSettings.model_validate({"place": "git+http://example.net/x", "git": {"token": "env:TOKEN"}})
    with pytest.raises(ValueError, match="no permissions"):
        SourceSettings.model_validate({"place": "git+https://example.net/x", "permissions": {"type": "tags"}})
    with pytest.raises(ValueError, match="is for a place like"):
        SourceSettings.model_validate({"place": "/srv/docs", "git": {}})


def test_a_home_is_no_repository(repositories: Repositories, tmp_path: Path) -> None:
    """It has copies of the repositories of all tenants."""
    (tmp_path / "home" / "platform").mkdir(parents=True)
    (tmp_path / "home" / "platform" / "keys.json").write_text("{}")
    GitRepository(tmp_path / "home" / "files" / "git-copies" / "theirs").commit(**{"a.md": "Theirs."})
    for spelt in ("home/files", "h%6fme/files", "theirs/../home/files"):
        with pytest.raises(WrongUsage, match="belongs to the home"):
            look(repositories, f"git+file://{tmp_path}/{spelt}/git-copies/theirs")


def test_how_often_a_place_is_asked_unless_settings_say_so() -> None:
    every = {
        place: SourceSettings(place=place).every_s
        for place in ("/docs", "s3://docs", "git+file:///docs", "git+https://host/docs")
    }
    assert list(every.values()) == [1.0, 1.0, 1.0, 30.0]
    assert SourceSettings(place="git+https://host/docs", every_s=2.0).every_s == 2.0


def test_a_repository_can_have_nothing_run(
    repository: GitRepository, repositories: Repositories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its hooks, its configuration, what is committed to it, or the configuration of the user who reads it."""
    ran, own = tmp_path / "ran", repository.path / ".git"
    touch = f"touch {ran}; false"
    for hook in ("post-checkout", "post-upload-pack", "pre-auto-gc", "reference-transaction", "fsmonitor-watchman"):
        (own / "hooks").mkdir(exist_ok=True)
        (own / "hooks" / hook).write_text(f"#!/bin/sh\n{touch}\n")
        (own / "hooks" / hook).chmod(0o755)
    for key in ("core.fsmonitor", "core.sshCommand", "uploadpack.packObjectsHook", "core.alternateRefsCommand", "core.pager"):
        repository.git("config", key, touch)
    repository.git("config", "filter.run.smudge", touch)
    repository.git("config", "diff.run.textconv", touch)
    module_file = f'[submodule "m"]\n\tpath = m\n\turl = ext::sh -c touch% {ran}\n\tupdate = !{touch}\n'
    repository.commit(**{".gitattributes": "* filter=run diff=run\n", ".gitmodules": module_file, "pump.md": "The new pump."})
    user = tmp_path / "user"
    user.mkdir()
    (user / ".gitconfig").write_text(
        f"[core]\n\thooksPath = {own}/hooks\n\tfsmonitor = {touch}\n[uploadpack]\n\tpackObjectsHook = {touch}\n"
        f'[url "ext::sh -c touch% {ran}"]\n\tinsteadOf = file://\n[protocol]\n\tallow = always\n'
        f"[credential]\n\thelper = !{touch}\n"
    )
    for name, value in (
        ("HOME", str(user)),
        ("GIT_CONFIG_GLOBAL", str(user / ".gitconfig")),
        ("GIT_CONFIG_PARAMETERS", f"'core.fsmonitor'='{touch}'"),
        ("GIT_SSH_COMMAND", touch),
        ("GIT_DIR", str(own)),
        ("GIT_EXEC_PATH", str(user)),
        ("GIT_ALLOW_PROTOCOL", "ext:file"),
        ("GIT_TRACE", str(ran)),
    ):
        monkeypatch.setenv(name, value)
    for number in range(3):
        assert texts(look(repositories, repository.place))["handbook/pump.md"] == "The new pump."
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a", "commit", "-q", "--allow-empty", "-m", f"{number}"],
            cwd=repository.path,
            env={"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"},
            capture_output=True,
            check=False,
        )
        ran.unlink(missing_ok=True)  # the commit itself ran them
    texts(look(repositories, repository.place))
    assert not ran.exists()
    assert not list(user.glob("[!.]*"))


def test_a_few_bytes_that_name_any_number_of_files_are_refused(repository: GitRepository, repositories: Repositories) -> None:
    inner, mode = repository.blob(b"Something."), "100644"
    for _ in range(10):  # ten folders, each with ten folders
        raw = b"".join(f"{mode} {name}\0".encode() + bytes.fromhex(inner) for name in "abcdefghij")
        inner, mode = repository.git("hash-object", "-t", "tree", "-w", "--stdin", given=raw), "40000"
    repository.commit_of(inner)
    with pytest.raises(WrongUsage, match=r"more than 10,000 files"):
        look(repositories, repository.place, most_files=10_000)


def test_folders_without_a_file_are_not_walked_through_for_ever(repository: GitRepository, repositories: Repositories) -> None:
    inner = repository.git("hash-object", "-t", "tree", "-w", "--stdin", given=b"")
    for _ in range(10):
        raw = b"".join(f"40000 {name}\0".encode() + bytes.fromhex(inner) for name in "abcdefghij")
        inner = repository.git("hash-object", "-t", "tree", "-w", "--stdin", given=raw)
    repository.commit_of(inner)
    with pytest.raises(WrongUsage, match=r"more than 10,000 files, as many folders"):
        look(repositories, repository.place, most_files=10_000)


def repeated(times: int) -> tuple[bytes, str]:
    """A pack with a file of 16 MB, and one that is so many copies of it: 16 KB however many; and its commit's hash."""

    def head(kind: int, size: int) -> bytes:
        out, left = bytearray([kind << 4 | size & 15]), size >> 4
        while left:
            out[-1] |= 0x80
            out.append(left & 0x7F)
            left >>= 7
        return bytes(out)

    def number(size: int) -> bytes:
        out = bytearray()
        while size > 0x7F:
            out.append(size & 0x7F | 0x80)
            size >>= 7
        return bytes([*out, size])

    def name(kind: str, *pieces: bytes) -> bytes:
        made = hashlib.sha1(f"{kind} {sum(map(len, pieces))}\0".encode(), usedforsecurity=False)
        for piece in pieces:
            made.update(piece)
        return made.digest()

    once = bytes(0xFFFFFF)
    delta = number(len(once)) + number(times * len(once)) + b"\xf0\xff\xff\xff" * times
    # With the one that is repeated, or a server would send the other one as it is.
    tree = b"100644 large.txt\0" + name("blob", *[once] * times) + b"100644 once.txt\0" + name("blob", once)
    who = b"A. Writer <writer@example.net> 1700000000 +0000"
    commit = b"tree %s\nauthor %s\ncommitter %s\n\na change\n" % (name("tree", tree).hex().encode(), who, who)
    objects = [head(kind, len(data)) + zlib.compress(data) for kind, data in ((1, commit), (2, tree), (3, once))]
    objects.append(head(7, len(delta)) + name("blob", once) + zlib.compress(delta))
    pack = b"PACK" + struct.pack(">II", 2, len(objects)) + b"".join(objects)
    return pack + hashlib.sha1(pack, usedforsecurity=False).digest(), name("commit", commit).hex()


@pytest.mark.parametrize("over", ["file", "http"])
def test_a_few_bytes_that_stand_for_gigabytes_take_no_memory(
    repository: GitRepository, repositories: Repositories, server: GitServer, monkeypatch: pytest.MonkeyPatch, over: str
) -> None:
    """16 KB in a pack of which git makes any number of gigabytes, to fetch it and to read it."""
    pack, made = repeated(16)
    subprocess.run(["git", "index-pack", "--stdin"], cwd=repository.path, input=pack, capture_output=True, check=True)
    repository.git("update-ref", "refs/heads/main", made)
    place = repository.place if over == "file" else server.place("handbook")
    monkeypatch.setattr(git_program, "_MEMORY_BYTES", 128 << 20)
    with pytest.raises(Unavailable, match="more than 128 MiB of memory"):
        look(repositories, place)
    monkeypatch.setattr(git_program, "_MEMORY_BYTES", 1 << 30)
    found = next(one for one in look(repositories, place).documents if one.uri == "handbook/large.txt")
    monkeypatch.setattr(git_program, "_MEMORY_BYTES", 128 << 20)
    with pytest.raises(Unavailable, match="more than 128 MiB of memory"):
        found.read(MOST)


def test_a_commit_that_is_too_large_is_not_kept(repository: GitRepository, repositories: Repositories) -> None:
    repository.commit(**{"large.bin": os.urandom(2_000_000).hex()})
    with pytest.raises(Unavailable, match="more than 1 MB"):
        look(repositories, repository.place, most_bytes=1_000_000)
    (copy,) = copies(repositories)
    assert sum(path.stat().st_size for path in copy.rglob("*") if path.is_file()) < 100_000, "what was fetched of it is gone"
    assert "handbook/large.bin" in texts(look(repositories, repository.place, most_bytes=10_000_000))


def test_without_a_new_commit_no_name_is_looked_at_again(
    repository: GitRepository, repositories: Repositories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million names took 16 s at each look."""
    seen: list[str] = []
    monkeypatch.setattr(module, "is_readable", lambda path: seen.append(path) or True)
    first = texts(look(repositories, repository.place))
    assert len(seen) == len(first) == 3
    assert texts(look(repositories, repository.place)) == first
    assert len(seen) == 3


def test_the_copy_is_bounded_as_a_fetch_is(repository: GitRepository, repositories: Repositories) -> None:
    """Git keeps twenty packs before it makes one of them: the copy had twenty times what one commit may have."""
    most = 1_000_000
    for number in range(5):
        repository.commit(**{"large.bin": os.urandom(800_000).hex()[:1_200_000], "pump.md": f"The pump {number}."})
        found = texts(look(repositories, repository.place, most_bytes=most))
        assert found["handbook/pump.md"] == f"The pump {number}."
        [copy] = copies(repositories)
        assert sum(pack.stat().st_size for pack in copy.glob("objects/pack/*.pack")) <= 2 * most


def test_what_cannot_be_read_is_named(repository: GitRepository, repositories: Repositories, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no repository that can be read"):
        look(repositories, f"git+file://{tmp_path}/nowhere")
    empty = GitRepository(tmp_path / "empty")
    with pytest.raises(NotFound, match="no branch of its own"):
        look(repositories, empty.place)
    with pytest.raises(Unavailable, match=r"Failed to connect|Connection refused"):
        look(repositories, "git+http://127.0.0.1:9/x")
    repository.git("rm", "-rq", ".")
    repository.git("commit", "-qm", "nothing is left")
    assert look(repositories, repository.place).whole == frozenset(), "an empty repository deletes nothing"


def test_without_git_that_is_said(repository: GitRepository, repositories: Repositories, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingPart, match="git is not installed"):
        look(repositories, repository.place)


def test_a_server_is_asked_as_the_settings_say(
    server: GitServer, repositories: Repositories, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = server.place("handbook/.git")
    assert len(texts(look(repositories, place))) == 3
    server.authorization = f"Basic {base64.b64encode(b'git:hush-4711').decode()}"
    with pytest.raises(AccessDenied, match="may not be read"):
        look(repositories, place)
    monkeypatch.setenv("GIT_TOKEN", "wrong")
    with pytest.raises(AccessDenied) as denied:
        look(repositories, place, token="env:GIT_TOKEN")
    assert "wrong" not in str(denied.value)
    monkeypatch.setenv("GIT_TOKEN", "hush-4711")
    assert len(texts(look(repositories, place, token="env:GIT_TOKEN"))) == 3
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and b"hush-4711" in path.read_bytes()]
    assert kept == [], "the token is written nowhere"
    with pytest.raises(NotFound, match="no repository"):
        look(repositories, server.place("nothing"), token="env:GIT_TOKEN")


def test_another_address_is_not_followed(server: GitServer, repositories: Repositories, tmp_path: Path) -> None:
    """It might be one inside the network, and would be sent the token."""
    with git_server(tmp_path / "theirs") as other:
        server.moved = f"http://127.0.0.1:{other.server_port}"
        with pytest.raises(Unavailable, match="has moved"):
            look(repositories, server.place("handbook/.git"))
        assert other.asked == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a repository to another user")
def test_what_belongs_to_another_user_is_not_read(repository: GitRepository, repositories: Repositories) -> None:
    for path in (repository.path, *repository.path.rglob("*")):
        os.chown(path, 65_534, 65_534, follow_symlinks=False)
    with pytest.raises(AccessDenied, match="belongs to another user"):
        look(repositories, repository.place)


def test_what_a_killed_process_left_is_in_nobodys_way(repository: GitRepository, repositories: Repositories) -> None:
    look(repositories, repository.place)
    (copy,) = copies(repositories)
    repository.commit(**{"pump.md": "The new pump."})
    for left in ("shallow.lock", "HEAD.lock", "packed-refs.lock", "gc.pid", "refs/headrace/tip.lock"):
        (copy / left).write_text("")
    assert texts(look(repositories, repository.place))["handbook/pump.md"] == "The new pump."
    shutil.rmtree(copy)
    copy.mkdir()
    (copy / "objects").mkdir()  # killed while it was made
    assert texts(look(repositories, repository.place))["handbook/pump.md"] == "The new pump."


def test_a_damaged_copy_is_fetched_anew(repository: GitRepository, repositories: Repositories) -> None:
    listing = look(repositories, repository.place)
    (copy,) = copies(repositories)
    for pack in copy.glob("objects/pack/*.pack"):
        pack.chmod(0o600)
        pack.write_bytes(pack.read_bytes()[:20])
    with pytest.raises(Unavailable, match="damaged"):
        texts(listing)
    assert texts(look(repositories, repository.place))["handbook/pump.md"] == "The pump."


def test_a_file_of_a_commit_that_is_gone_is_read_at_the_next_look(repository: GitRepository, repositories: Repositories) -> None:
    listing = look(repositories, repository.place)
    (copy,) = copies(repositories)
    repository.commit(**{"pump.md": "The new pump."})
    look(repositories, repository.place)
    subprocess.run(["git", "-C", str(copy), "gc", "--quiet", "--prune=now"], check=True)
    with pytest.raises(Unavailable, match="another commit"):
        texts(listing)
    assert texts(look(repositories, repository.place))["handbook/pump.md"] == "The new pump."


def test_two_processes_do_not_fetch_at_once(
    repository: GitRepository, repositories: Repositories, monkeypatch: pytest.MonkeyPatch
) -> None:
    look(repositories, repository.place)
    (copy,) = copies(repositories)
    repository.commit(**{"pump.md": "The new pump."})
    monkeypatch.setattr(module, "_LOCK_S", 0.1)
    lock = Lock(copy.with_suffix(".lock"))
    assert lock.acquire()
    try:
        with pytest.raises(Unavailable, match="Another process"):
            look(repositories, repository.place)
    finally:
        lock.release()
    assert texts(look(repositories, repository.place))["handbook/pump.md"] == "The new pump."


def test_a_copy_that_nobody_uses_is_removed(repository: GitRepository, repositories: Repositories, tmp_path: Path) -> None:
    look(repositories, repository.place)
    (copy,) = copies(repositories)
    os.utime(copy.with_suffix(".lock"), (0, 0))
    other = GitRepository(tmp_path / "theirs" / "other")
    other.commit(**{"a.md": "A."})
    look(repositories, other.place)
    assert not copy.exists()
    assert len(copies(repositories)) == 1


def test_git_ends_with_the_process_that_runs_it(tmp_path: Path) -> None:
    """It waits for a server that never answers; the process ends, without waiting for its thread."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"git+http://127.0.0.1:{silent.getsockname()[1]}/x"
        code = (
            "import sys, threading; sys.path[:0] = sys.argv[3:]\n"
            "from pathlib import Path\n"
            "from test_documents_sources_git import look, opened\n"
            "repositories = opened(Path(sys.argv[1]))\n"
            "threading.Thread(target=look, args=(repositories, sys.argv[2]), daemon=True).start()\n"
            "sys.stdin.readline()\n"
        )
        here = Path(__file__).parent
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "files"), place, str(here), str(here.parent)], stdin=subprocess.PIPE
        )
        silent.settimeout(60)
        connection, _ = silent.accept()
        with connection:
            process.communicate(b"\n", timeout=60)
            connection.settimeout(30)  # by itself, git gives up after a minute
            while connection.recv(1 << 16):  # its end: whoever had it open has ended
                pass


def test_errors_have_hints(repositories: Repositories, repository: GitRepository) -> None:
    with pytest.raises(HeadraceError) as error:
        look(repositories, repository.place, branch="none")
    assert error.value.hint
