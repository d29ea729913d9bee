"""What must not get out: a home's keys, strangers' escapes onto a terminal, files beyond the folder that was named."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import httpx
import needs
import pytest
from child import NOBODY
from conftest import Home
from shell import on_terminal
from traffic import until

from headrace.core.ray_cluster import _folder
from headrace.documents.sources import beneath
from headrace.documents.sources.beneath import open_beneath
from headrace.documents.sources.folder import read_file, walk
from headrace.errors import BadDocument, BadSettings, WrongUsage
from headrace.platform.home import Home as PlatformHome
from headrace.platform.keys import keys_of
from headrace.settings import Settings
from headrace.settings_file import settings_notice

# homes


def uris(*paths: Path) -> set[str]:
    return {uri for _, uri in walk(paths)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two documents with a home between them."""
    docs = tmp_path / "docs"
    (docs / "b").mkdir(parents=True)
    (docs / "a.md").write_text("a")
    (docs / "b" / "b.md").write_text("b")
    PlatformHome(docs / "home").prepare()
    keys_of(PlatformHome(docs / "home"))
    (docs / "home" / "logs" / "note.txt").write_text("a log")
    return docs


def test_a_home_in_an_indexed_folder_is_not_indexed_whosever_it_is(folder: Path) -> None:
    shutil.copytree(folder / "home", folder / "b" / "backup")
    assert uris(folder) == {"docs/a.md", "docs/b/b.md"}


def test_a_home_and_what_is_in_it_cannot_be_named(folder: Path) -> None:
    for path in (folder / "home", folder / "home" / "platform", folder / "home" / "platform" / "keys.json"):
        with pytest.raises(WrongUsage, match="are not indexed"):
            uris(path)
    demo = folder / "home" / "demo" / "reference"
    demo.mkdir(parents=True)
    (demo / "assert.rst").write_text("x")
    assert uris(demo) == {"reference/assert.rst"}


def test_a_link_into_a_home_is_refused(folder: Path) -> None:
    (folder / "a-link.json").symlink_to("home/platform/keys.json")
    with pytest.raises(BadDocument) as caught:
        read_file(folder / "a-link.json", "docs/a-link.json", 1000)
    assert caught.value.reason == "a link into a home of Headrace (home)"


# links that are swapped


@pytest.fixture(params=["openat2", "step by step"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "step by step":
        monkeypatch.setattr(beneath, "_has_openat2", lambda: False)
    elif not beneath._has_openat2():
        pytest.skip("this kernel, or its sandbox, has no openat2")
    return str(request.param)


@contextmanager
def swapped(place: Path, first: Path, second: Path) -> Iterator[None]:
    """Have `place` be now a copy of one and now of the other, as fast as can be, while the block runs."""
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            for number, source in enumerate((first, second)):
                beside = place.with_name(f"{place.name}-{number}")
                if source.is_dir():  # a folder, or a link to one: renamed away and back
                    os.rename(source, place)
                    os.rename(place, source)
                elif source.is_symlink():
                    beside.symlink_to(os.readlink(source))
                    os.replace(beside, place)
                else:
                    beside.write_bytes(source.read_bytes())
                    os.replace(beside, place)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def outcomes(path: Path, uri: str, tries: int) -> set[bytes]:
    """What is read of a path, tried so often; refusals are left out."""
    found = set()
    for _ in range(tries):
        try:
            found.add(read_file(path, uri, 1000))
        except BadDocument:
            continue
    return found


@pytest.mark.usefixtures("way")
def test_a_file_that_is_swapped_for_a_link_while_it_is_read_leads_nowhere(tmp_path: Path) -> None:
    outside, docs, beside = tmp_path / "outside.md", tmp_path / "docs", tmp_path / "beside"
    docs.mkdir()
    beside.mkdir()
    outside.write_text("not yours")
    (beside / "plain").write_text("yours")
    (beside / "link").symlink_to(outside)
    with swapped(docs / "a.md", beside / "plain", beside / "link"):
        assert outcomes(docs / "a.md", "docs/a.md", 2_000) == {b"yours"}


@pytest.mark.usefixtures("way")
def test_a_folder_that_is_swapped_for_a_link_while_it_is_read_leads_nowhere(tmp_path: Path) -> None:
    outside, docs, beside = tmp_path / "outside", tmp_path / "docs", tmp_path / "beside"
    for made in (outside, docs, beside, beside / "plain"):
        made.mkdir()
    (outside / "a.md").write_text("not yours")
    (beside / "plain" / "a.md").write_text("yours")
    (beside / "link").symlink_to(outside)
    with swapped(docs / "b", beside / "plain", beside / "link"):
        assert outcomes(docs / "b" / "a.md", "docs/b/a.md", 2_000) <= {b"yours"}


@pytest.mark.usefixtures("way")
def test_no_part_of_a_name_may_lead_out(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    (docs / "b").mkdir(parents=True)
    (docs / "b" / "a.md").write_text("a")
    (docs / "up").symlink_to("..")
    (docs / "in").symlink_to("b")
    (tmp_path / "out.md").write_text("out")
    with open(open_beneath(docs, PurePosixPath("b/a.md")), "rb") as file:
        assert file.read() == b"a"
    for name in ("up/out.md", "in/a.md", "../out.md", "/etc/passwd", ".", "b/../../out.md"):
        with pytest.raises(OSError, match=r"link|symbolic|directory"):
            os.close(open_beneath(docs, PurePosixPath(name)))


# terminals

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b2Jend"


def test_escapes_of_users_do_not_reach_the_operators_terminal(api: Any) -> None:
    """In a question, a reason, a correction, a document, the label of a key, and in what is named by hand."""
    api.tenant("crew")
    key, _ = api.mint("crew", "read", "write")
    client: httpx.Client = api.client(key)
    coloured = "\x1b[31mERROR\x1b[0m\x1b[2J"  # as a log has it; with more of it a file counts as binary
    text = f"# The sluice\n\nThe sluice is greased {coloured} on day 7.\n"
    client.put("/v1/documents/sluice.md", content=text.encode()).raise_for_status()
    assert api.indexed(client, "sluice.md")["status"] == "indexed"
    found = client.post("/v1/search", json={"question": f"When is the sluice greased? {EVIL}"}).raise_for_status().json()
    given = {"answer_id": found["answer_id"], "up": False, "reason": EVIL, "correction": EVIL}
    client.post("/v1/feedback", json=given).raise_for_status()
    api.client().post("/v1/keys", json={"tenant": "crew", "scopes": ["read"], "label": EVIL}).raise_for_status()
    named = f'SELECT question, reason, correction, 1 AS "{EVIL}"'
    query = f"{named} FROM feedback JOIN interactions USING (answer_id) WHERE feedback.tenant = 'crew'"
    until(60, lambda: api.sql(query), lambda: "the verdict does not land")
    for words, seen in (
        (("sql", query), "]0;owned"),
        (("trace", found["answer_id"]), "]0;owned"),
        (("search", "sluice", "--tenant", "crew"), "ERROR"),
        (("key", "list", "--tenant", "crew"), "]0;owned"),
        (("index", EVIL), "]0;owned"),
    ):
        shown = on_terminal(api.home, *words)
        assert seen.encode() in shown, (words, shown)
        assert not any(bad in shown for bad in (b"\x1b]0;", b"\x07", b"\x1b[2J", b"\x1b[31mERROR", b"\xc2\x9b")), (words, shown)


# a settings file that lies about


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.upper().startswith("HEADRACE_")]:
        monkeypatch.delenv(name)
    return tmp_path / "headrace.toml"


LEADS = "[models.generator]\ntype = 'endpoint'\nurl = 'http://127.0.0.1:1/v1'\nmodel = 'm'\n"


def test_a_settings_file_of_another_user_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs.require(os.geteuid() == 0, "Giving a file to another user takes root.", unless="HEADRACE_TESTS_WITHOUT_ROOT")
    here.write_text(LEADS)
    os.chown(here, NOBODY, -1)
    with pytest.raises(BadSettings, match="belongs to another user"):
        Settings.load()
    monkeypatch.setenv("HEADRACE_SETTINGS", here.name)
    assert Settings.load().models.generator.type == "endpoint", "it was named"


def test_a_settings_file_that_everybody_may_write_is_refused(here: Path) -> None:
    here.write_text(LEADS)
    here.chmod(0o666)
    with pytest.raises(BadSettings, match="Everybody may write"):
        Settings.load()
    here.chmod(0o644)
    assert Settings.load().models.generator.type == "endpoint"


@pytest.mark.parametrize(
    "runs",
    [
        "[platform]\nweed = './weed'",
        "platform = {tansu = './tansu'}",
        "[head]\ntype = 'kafka'\nbootstrap = 'k:9092'\n[head.properties]\n'plugin.library.paths' = './evil.so'",
        "[head]\ntype = 'kafka'\nbootstrap = 'k:9092'\n[head.properties.ssl.engine]\nlocation = './evil.so'",
        "[tables]\ntype = 'rest'\nuri = 'http://c'\nwarehouse = 'w'\nproperties = {'py-io-impl' = 'antigravity.X'}",
        "[[triggers]]\nname = 'a'\non = ['document.created']\naction = {type = 'command', command = ['./evil']}",
        "[[triggers]]\nname = 'a'\nevery_s = 1\n"
        "action = {type = 'topic', topic = 't', properties = {'plugin.library.paths' = './evil.so'}}",
        "[[sources]]\nplace = 's3://a'\n[sources.notifications]\nbootstrap = 'k:9092'\ntopic = 't'\n"
        "[sources.notifications.properties]\n'plugin.library.paths' = './evil.so'",
    ],
)
def test_a_settings_file_that_has_something_run_is_obeyed_only_if_it_is_named(
    here: Path, monkeypatch: pytest.MonkeyPatch, runs: str
) -> None:
    """It may have come with a folder that was cloned: whoever stands in it and asks a question has not chosen its programs."""
    here.write_text(runs)
    with pytest.raises(BadSettings, match="makes code run"):
        Settings.load()
    here.write_text("[platform]\nidle_s = 7")
    assert Settings.load().platform.idle_s == 7
    here.write_text("[platform]\nweed = './weed'")
    monkeypatch.setenv("HEADRACE_SETTINGS", here.name)
    assert Settings.load().platform.weed == Path("weed"), "it was named"


def test_what_lies_in_the_current_directory_is_not_run_in_a_modules_place(here: Path) -> None:
    ran = here.with_name("ran")
    here.with_name("psutil.py").write_text(f"open({str(ran)!r}, 'w')")
    with _folder() as folder:
        assert Path(folder).is_dir()
    assert not ran.exists()
    assert not Path(folder).exists(), "its watchdog removed it"


def test_a_settings_file_that_leads_elsewhere_is_said_on_a_terminal(tmp_path: Path, here: Path) -> None:
    here.write_text(LEADS)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    home = Home(tmp_path / "home", tmp_path, kept)
    home.path.mkdir(mode=0o700)
    shown = on_terminal(home, "runs").decode()
    assert f"{here} configures models and is used." in shown.replace("\r\n", "\n")
    assert "is used" not in home.run("runs").stderr, "nobody looks on"
    here.write_text("[training]\nverdicts = 5\n")
    assert settings_notice() == ""
