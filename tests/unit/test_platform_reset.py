"""`headrace reset`: what of a home goes, what stays, and whom it waits for; no server runs."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from disk import mounted

from headrace.core.run import recorded, under_way
from headrace.errors import HeadraceError, HomeRefused, NotFound, Unavailable
from headrace.platform import open_platform
from headrace.platform.home import FORMAT, Home, Lock
from headrace.platform.keys import keys_of
from headrace.platform.reset import Reset, planned, reset
from headrace.platform.state import RunningService, recorded_service, this_process
from headrace.settings import Settings
from headrace.storage.endpoints import Endpoints
from headrace.storage.metadata import By, Metadata

BY = By("", "cli:ann", "local")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Of a home in which everything embedded has left something."""
    monkeypatch.setenv("HEADRACE_SETTINGS", str(tmp_path / "none.toml"))
    settings = Settings(home=tmp_path / "home")
    home = Home(settings.home)
    home.prepare()
    keys_of(home)
    with recorded("index", home.root):
        pass
    for name in ("objects/1.dat", "files/block", "logs/weed.log", "demo/a.md", "unrecorded/answer", "platform/ports.json"):
        (home.root / name).parent.mkdir(exist_ok=True)
        (home.root / name).write_text("x" * 100)
    with closing(Metadata(endpoints(settings))) as metadata:
        metadata.add_tenant("acme", by=BY)
        metadata.create_key("acme", ["read"], by=BY)
    with closing(sqlite3.connect(home.metadata)) as connection, connection:
        connection.execute("INSERT INTO index_progress VALUES ('chunks', 'secret-of-a-document', 'c', 1, 'now')")
    return settings


def endpoints(settings: Settings) -> Endpoints:
    with open_platform(settings, parts=frozenset()) as found:
        return found


def emptied(settings: Settings, *, keys: bool = False, at_work: Callable[[], list[str]] = list) -> Reset:
    plan = planned(settings, endpoints(settings), keys=keys)
    reset(settings, plan, at_work=at_work)
    return plan


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def keys_in(settings: Settings) -> int:
    with closing(Metadata(endpoints(settings))) as metadata:
        return len(metadata.keys("acme"))


def test_everything_goes_but_keys_and_what_headrace_did_not_write(settings: Settings) -> None:
    (settings.home / "mine.txt").write_text("mine")
    keys = Home(settings.home).keys.read_bytes()
    plan = emptied(settings)
    gone = {"objects", "files", "logs", "demo", "unrecorded", "runs", "models-cache", "platform"}
    assert {entry.name for entry in plan.removes} == gone
    assert next(entry.bytes for entry in plan.removes if entry.name == "objects") == 100
    assert {entry.name for entry in plan.keeps} == {"metadata.db", "mine.txt", "platform/keys.json"}
    left = files(settings.home)
    database = left.pop("metadata.db")
    assert b"secret-of-a-document" not in database
    locks = {f"platform/{name}": b"" for name in ("lease", "running.lock", "start.lock")} | {"up.lock": b""}
    assert left == locks | {"mine.txt": b"mine", "platform/keys.json": keys, "platform/format": f"{FORMAT}\n".encode()}
    assert keys_in(settings) == 1
    Home(settings.home).prepare()


def test_keys_go_where_that_is_asked(settings: Settings) -> None:
    emptied(settings, keys=True)
    assert not Home(settings.home).keys.exists()
    assert keys_in(settings) == 0


def test_no_link_is_followed_out_of_the_home(settings: Settings, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("precious")
    (settings.home / "objects" / "inner").symlink_to(outside)
    (settings.home / "files" / "block").unlink()
    (settings.home / "files").rmdir()
    (settings.home / "files").symlink_to(outside)
    plan = emptied(settings)
    assert {entry.name: entry.link for entry in plan.removes if entry.link} == {"files": str(outside)}
    assert files(outside) == {"precious": b"precious"}
    assert not os.path.lexists(settings.home / "files")


def test_metadata_behind_a_link_is_not_touched(settings: Settings, tmp_path: Path) -> None:
    database = Home(settings.home).metadata
    elsewhere = database.rename(tmp_path / "elsewhere.db")
    database.symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    emptied(settings)
    assert elsewhere.read_bytes() == before


def test_what_an_interrupted_reset_left_goes_too(settings: Settings) -> None:
    left = settings.home / "removed-0badcafe" / "objects"
    left.mkdir(parents=True)
    (left / "1.dat").write_text("x")
    emptied(settings)
    assert not list(settings.home.glob("removed-*"))


def test_a_home_of_another_format_is_a_new_one_afterwards(settings: Settings) -> None:
    home = Home(settings.home)
    home.format.unlink()
    with pytest.raises(HomeRefused, match="format 1"):
        home.prepare()
    emptied(settings)
    home.prepare()


@pytest.mark.parametrize("lock", ["lease", "service_lock", "start_lock"])
def test_nothing_goes_while_another_command_uses_the_home(settings: Settings, lock: str) -> None:
    taken = Lock(getattr(Home(settings.home), lock))
    assert taken.acquire(shared=True)
    before = files(settings.home)
    try:
        with pytest.raises(Unavailable, match="Another command uses the home"):
            emptied(settings)
    finally:
        taken.release()
    assert {name: text for name, text in files(settings.home).items() if name in before} == before


def test_beside_a_running_service_nothing_is_even_planned(settings: Settings) -> None:
    service = RunningService(process=this_process(), url="http://127.0.0.1:8484", token="a-token", settings="", certificate=None)
    with recorded_service(Home(settings.home), service), pytest.raises(Unavailable, match=r"runs in the home .* http://127"):
        planned(settings, endpoints(settings), keys=False)


def test_nothing_goes_while_a_run_is_under_way(settings: Settings) -> None:
    """A command with storage of its own takes no lock of the home."""
    with recorded("ask", settings.home) as run:
        assert under_way(settings.home) == [run.id]
        with pytest.raises(Unavailable, match=run.id):
            emptied(settings, at_work=lambda: under_way(settings.home))
    assert under_way(settings.home) == []
    assert (settings.home / "objects" / "1.dat").exists()


def test_a_folder_that_is_no_home_is_left_alone(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "plain" / "objects").mkdir(parents=True)
    wrong: list[tuple[str, type[HeadraceError]]] = [("plain", HomeRefused), ("none", NotFound)]
    for name, error in wrong:
        other = settings.model_copy(update={"home": tmp_path / name})
        with pytest.raises(error):
            planned(other, endpoints(settings), keys=False)
    assert (tmp_path / "plain" / "objects").exists()


def test_what_lies_on_storage_of_ones_own_stays_and_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    (settings.home / "catalog.db").write_text("tables")
    own = {
        "OBJECTS__TYPE": "s3",
        "OBJECTS__ENDPOINT": "http://127.0.0.1:9",
        "OBJECTS__BUCKET": "mine",
        "OBJECTS__ACCESS_KEY": "ann",
        "OBJECTS__SECRET_KEY": "hush",
        "HEAD__TYPE": "kafka",
        "HEAD__BOOTSTRAP": "127.0.0.1:1",
    }
    for name, value in own.items():
        monkeypatch.setenv(f"HEADRACE_{name}", value)
    theirs = Settings(home=settings.home)
    plan = emptied(theirs)
    assert plan.elsewhere == {
        "object": "S3 at 127.0.0.1:9, bucket mine",
        "table": "Iceberg on S3 at 127.0.0.1:9, catalog in the home",
        "vector": "LanceDB on S3 at 127.0.0.1:9",
        "stream": "Kafka at 127.0.0.1:1",
    }
    assert "hush" not in str(plan.as_dict())
    assert (settings.home / "catalog.db").read_text() == "tables", "without it the tables in the bucket could not be found"
    assert "catalog.db" in {entry.name for entry in plan.keeps}


def test_a_full_disk_is_emptied(settings: Settings, tmp_path: Path) -> None:
    """Whoever resets a home because its disk is full got an error of SQLite's, again and again, and nothing was freed."""
    with mounted(tmp_path / "disk", 24) as disk:
        home = disk.path / "home"
        shutil.copytree(settings.home, home)
        (home / "objects" / "1.dat").write_bytes(bytes(8 << 20))
        full = settings.model_copy(update={"home": home})
        with closing(sqlite3.connect(home / "metadata.db")) as connection, connection:
            connection.execute("INSERT INTO index_progress VALUES ('more', ?, 'c', 1, 'now')", ("secret" * 100_000,))
        plan = planned(full, endpoints(full), keys=False)
        disk.fill()
        reset(full, plan, at_work=list)
        assert not list(home.glob("removed-*"))
        assert not (home / "objects" / "1.dat").exists()
        assert b"secret" not in (home / "metadata.db").read_bytes()
        with closing(Metadata(endpoints(full))) as metadata:
            assert [tenant.name for tenant in metadata.tenants()] == ["acme"]
            assert len(metadata.keys()) == 1
