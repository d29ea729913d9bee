"""Walking what the user names: every file once, none that hangs, each under a name that is text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from child import as_another_user

from headrace.documents.names import object_key
from headrace.documents.sources.folder import find_files, read_file, walk
from headrace.errors import BadDocument, NotFound


def names(*paths: Path) -> list[str]:
    return [uri for _, uri in walk(paths)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return filled(tmp_path)


def filled(empty: Path) -> Path:
    """A folder of three documents in an empty one."""
    root = empty / "docs"
    (root / "b" / "c").mkdir(parents=True)
    (root / "a.md").write_text("a")
    (root / "b" / "z.md").write_text("z")
    (root / "b" / "c" / "y.md").write_text("y")
    return root


def test_files_come_in_a_stable_order_under_their_folders_name(folder: Path) -> None:
    assert names(folder) == ["docs/a.md", "docs/b/z.md", "docs/b/c/y.md"]
    assert next(iter(walk([folder])))[0] == folder / "a.md"


def test_a_file_is_called_by_its_name(folder: Path) -> None:
    assert names(folder / "b" / "z.md") == ["z.md"]
    assert names(folder / "b" / "c", folder / "a.md") == ["c/y.md", "a.md"]


def test_dots_in_a_path_do_not_get_into_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / "b")
    assert names(Path("../b/c")) == ["c/y.md"]
    assert names(Path(".")) == ["b/z.md", "b/c/y.md"]
    assert names(Path("..")) == ["docs/a.md", "docs/b/z.md", "docs/b/c/y.md"]


def test_hidden_files_and_folders_are_left_out(folder: Path) -> None:
    (folder / ".git").mkdir()
    (folder / ".git" / "config.md").write_text("x")
    (folder / ".hidden.md").write_text("x")
    assert names(folder) == ["docs/a.md", "docs/b/z.md", "docs/b/c/y.md"]


def test_links_in_a_circle_end(folder: Path) -> None:
    (folder / "b" / "up").symlink_to(folder)
    (folder / "self").symlink_to(folder / "self")
    assert names(folder) == ["docs/a.md", "docs/self", "docs/b/z.md", "docs/b/c/y.md"]
    with pytest.raises(BadDocument, match="cannot be opened"):
        read_file(folder / "self", "docs/self", 100)


def test_a_link_to_nothing_is_said_to_be_one(folder: Path) -> None:
    """ "No such file" was said of a file that everybody sees in the folder."""
    (folder / "link.md").symlink_to("b/gone.md")
    assert "docs/link.md" in names(folder)
    with pytest.raises(BadDocument, match=r"a link to b/gone\.md, which does not exist"):
        read_file(folder / "link.md", "docs/link.md", 100)
    (folder / "away.md").symlink_to("/nowhere/gone.md")
    with pytest.raises(BadDocument, match="a link to a file outside the folder"):
        read_file(folder / "away.md", "docs/away.md", 100)


def test_a_link_to_a_file_is_read(folder: Path) -> None:
    (folder / "link.md").symlink_to(folder / "a.md")
    assert "docs/link.md" in names(folder)
    assert read_file(folder / "link.md", "docs/link.md", 100) == b"a"


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        names(tmp_path / "none")


def test_a_name_that_is_not_utf8_becomes_text(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.md")).write_text("x")
    assert "docs/caf\\xe9.md" in names(folder)
    for path, uri in walk([folder]):
        uri.encode()
        assert read_file(path, uri, 100)


def test_odd_names_are_kept(folder: Path) -> None:
    for name in ("a\nb.md", "ä ü.md", "'; --.md", "日本.md"):
        (folder / name).write_text("x")
    assert {"docs/a\nb.md", "docs/ä ü.md", "docs/'; --.md", "docs/日本.md"} <= set(names(folder))


@pytest.mark.timeout(10)
def test_a_pipe_a_socket_or_a_device_is_refused_without_waiting(folder: Path) -> None:
    os.mkfifo(folder / "pipe.txt")
    assert "docs/pipe.txt" in names(folder)
    for path in (folder / "pipe.txt", Path("/dev/zero")):
        with pytest.raises(BadDocument) as caught:
            read_file(path, "x", 100)
        assert caught.value.reason == "not a regular file"


def test_an_empty_and_an_oversize_file_are_refused(folder: Path) -> None:
    (folder / "empty.md").touch()
    with (folder / "large.md").open("wb") as file:
        file.truncate(200_000_000)
    for name, reason in (("empty.md", "the file is empty"), ("large.md", "larger than the limit of 50 MB")):
        with pytest.raises(BadDocument) as caught:
            read_file(folder / name, name, 50_000_000)
        assert caught.value.reason == reason
    (folder / "just.md").write_bytes(b"x" * 100)
    assert len(read_file(folder / "just.md", "just.md", 100)) == 100


def test_a_file_gone_meanwhile_is_refused(folder: Path) -> None:
    with pytest.raises(BadDocument) as caught:
        read_file(folder / "gone.md", "gone.md", 100)
    assert caught.value.reason == "cannot be opened (no such file or directory)"


def test_what_may_not_be_read_has_a_name_and_a_reason() -> None:
    def read(empty: Path) -> None:
        docs = filled(empty)
        (docs / "a.md").chmod(0)
        (docs / "b" / "c").chmod(0)
        found = {uri: path for path, uri in walk([docs])}
        assert sorted(found) == ["docs/a.md", "docs/b/c", "docs/b/z.md"]
        for uri in ("docs/a.md", "docs/b/c"):
            with pytest.raises(BadDocument) as caught:
                read_file(found[uri], uri, 100)
            assert caught.value.reason == "cannot be opened (permission denied)"

    as_another_user(read)


def test_sources_of_tenants_are_kept_apart() -> None:
    assert object_key("acme", "0" * 64) != object_key("apex", "0" * 64)


def test_a_folder_deeper_than_a_path_may_be_long_is_named_and_the_rest_is_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may write below a shared folder can make one; nothing is deleted from the index for what could not be looked at."""
    monkeypatch.chdir(folder)
    for _ in range(30):
        os.mkdir("p" * 200)
        os.chdir("p" * 200)
    monkeypatch.chdir(folder.parent)
    found = find_files([folder])
    files, whole = found.files, found.whole
    assert not whole
    read, refused = [], []
    for file in files:
        try:
            read.append(read_file(file.path, file.uri, 1000))
        except BadDocument as error:
            refused.append(error.reason)
    assert read
    assert refused == ["cannot be opened (file name too long)"]
