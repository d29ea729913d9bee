"""`headrace check` on storage that breaks its promises: real servers behind what breaks one, and a broken file system."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from between import FETCH, Forward, KafkaBetween, Request, Response, http_between, signed
from servers import Servers

from headrace import cli
from headrace.catalog import Tier
from headrace.check import catalog, head, objects
from headrace.check.acceptance import check_storage
from headrace.check.promise import Broken, Finding, Measured, NotNeeded, Outcome, Promise, TimeBudget
from headrace.platform.tansu import broker_binary
from headrace.settings import Kafka, Settings
from headrace.storage.endpoints import Endpoints

pytest_plugins = ["shared"]
QUICK = TimeBudget(0.05)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("HEADRACE_SETTINGS", "none.toml")
    return Settings(home=tmp_path / "home")


@pytest.fixture
def endpoints(shared_servers: Servers) -> Endpoints:
    return shared_servers.endpoints


def outcome(promise: Promise[Any], room: Any) -> Measured | str:
    """What was measured, or what was seen of a broken promise."""
    try:
        return promise.ask(room, QUICK)
    except Broken as broken:
        return str(broken)


# --- object


def test_an_object_store_that_ignores_conditions_is_found_out(settings: Settings, endpoints: Endpoints) -> None:
    def careless(request: Request, forward: Forward) -> Response:
        if request.headers.keys() & {"if-none-match", "if-match"}:
            bare = request.without("if-none-match", "if-match")
            return forward(signed(bare, endpoints.s3_access_key, endpoints.s3_secret_key, endpoints.s3_region))
        return forward(request)

    with (
        http_between(endpoints.s3_endpoint, careless) as url,
        objects.opened(settings, endpoints.model_copy(update={"s3_endpoint": url})) as room,
    ):
        assert "4 of 4 concurrent puts succeeded" in str(outcome(objects.put_if_absent, room))
        assert "increments were acknowledged, but the counter is" in str(outcome(objects.put_if_match, room))
        assert isinstance(outcome(objects.read_after_write, room), Measured)


def test_an_object_store_with_stale_listings_is_found_out(settings: Settings, endpoints: Endpoints) -> None:
    listings: dict[str, Response] = {}

    def stale(request: Request, forward: Forward) -> Response:
        if request.method == "GET" and "list-type=2" in request.path:
            if request.path not in listings:
                listings[request.path] = forward(request)
            return listings[request.path]
        return forward(request)

    with (
        http_between(endpoints.s3_endpoint, stale) as url,
        objects.opened(settings, endpoints.model_copy(update={"s3_endpoint": url})) as room,
    ):
        assert outcome(objects.list_after_write, room) == "after an object of 20 bytes was put, a listing showed an old size"
        assert isinstance(outcome(objects.read_after_write, room), Measured)
        prefix = room.prefix
    with objects.opened(settings, endpoints) as room:
        assert not list(objects.listed_keys(room.writer, prefix)), "cleared though no listing showed it"


def test_an_object_store_that_caches_what_was_read_is_found_out(settings: Settings, endpoints: Endpoints) -> None:
    seen: dict[str, Response] = {}

    def caching(request: Request, forward: Forward) -> Response:
        if request.method != "GET" or "list-type" in request.path:
            return forward(request)
        if request.path not in seen:
            seen[request.path] = forward(request)
        return seen[request.path]

    with (
        http_between(endpoints.s3_endpoint, caching) as url,
        objects.opened(settings, endpoints.model_copy(update={"s3_endpoint": url})) as room,
    ):
        assert outcome(objects.read_after_write, room) == "put b'first 0', then got nothing"


def test_an_object_store_with_wrong_ranges_is_found_out(settings: Settings, endpoints: Endpoints) -> None:
    def one_off(request: Request, forward: Forward) -> Response:
        response = forward(request)
        if response.status == 206 and len(response.body) > 100_000:
            return replace(response, body=response.body[:-1] + bytes([response.body[-1] ^ 1]))
        return response

    with (
        http_between(endpoints.s3_endpoint, one_off) as url,
        objects.opened(settings, endpoints.model_copy(update={"s3_endpoint": url})) as room,
    ):
        assert "came back with different bytes from 1,048,582 on" in str(outcome(objects.ranges, room))
        assert isinstance(outcome(objects.large, room), Measured)


# --- table


def commit_of(request: Request) -> dict[str, Any] | None:
    """What a request asks of a table, where it is a commit."""
    if request.method != "POST" or "/tables/" not in request.path or not request.body.startswith(b"{"):
        return None
    asked: dict[str, Any] = json.loads(request.body)
    return asked if "updates" in asked else None


def test_a_catalog_that_takes_stale_commits_is_found_out(settings: Settings, endpoints: Endpoints) -> None:
    numbers = itertools.count(1000)

    def careless(request: Request, forward: Forward) -> Response:
        if (asked := commit_of(request)) is not None:
            for update in asked["updates"]:
                if update["action"] == "add-snapshot":
                    # SeaweedFS looks at these too, and would refuse by itself.
                    update["snapshot"]["sequence-number"] = next(numbers)
            return forward(replace(request, body=json.dumps({**asked, "requirements": []}).encode()))
        return forward(request)

    with (
        http_between(endpoints.catalog_uri, careless) as url,
        catalog.opened(settings, endpoints.model_copy(update={"catalog_uri": url})) as room,
    ):
        assert isinstance(outcome(catalog.answers, room), Measured)
        assert outcome(catalog.stale, room) == "a commit was accepted although the table had changed since it was read"
        assert "acknowledged commits are not in the table's history" in str(outcome(catalog.concurrent, room))


def test_a_catalog_that_forgets_what_a_commit_said_or_answers_late_is_found_out(settings: Settings, endpoints: Endpoints) -> None:
    loaded: dict[str, Response] = {}

    def forgetful(request: Request, forward: Forward) -> Response:
        if (asked := commit_of(request)) is not None:
            for update in asked["updates"]:
                if update["action"] == "add-snapshot":
                    summary = update["snapshot"]["summary"]
                    summary |= {name: value[:64] for name, value in summary.items() if name.startswith("headrace.property.")}
            return forward(replace(request, body=json.dumps(asked).encode()))
        if request.method == "GET" and request.path.endswith("/tables/seen"):
            if request.path not in loaded:
                loaded[request.path] = forward(request)
            return loaded[request.path]
        return forward(request)

    with (
        http_between(endpoints.catalog_uri, forgetful) as url,
        catalog.opened(settings, endpoints.model_copy(update={"catalog_uri": url})) as room,
    ):
        assert isinstance(outcome(catalog.answers, room), Measured)
        assert "headrace.property.offsets was set to" in str(outcome(catalog.properties, room))
        assert outcome(catalog.seen_at_once, room) == "after commit 1, another client still saw the previous snapshot"


# --- stream


@contextlib.contextmanager
def memory_broker(advertised: int) -> Iterator[int]:
    """A Kafka broker that keeps its records in memory; the block gets its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [broker_binary(), "broker", "--cluster-id", "memory", "--storage-engine", "memory://tansu/"]
    command += ["--listener-url", f"tcp://127.0.0.1:{port}", "--advertised-listener-url", f"tcp://127.0.0.1:{advertised}"]
    process = subprocess.Popen(
        command, env={"PATH": os.defpath, "RUST_LOG": "error"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.02)
        yield port
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def brought_head(endpoints: Endpoints, settings: Settings) -> Iterator[tuple[KafkaBetween, Settings, Endpoints]]:
    """A broker somebody brings, behind an address that can break it."""
    between = KafkaBetween()
    with memory_broker(between.port) as between.upstream:
        bootstrap = f"127.0.0.1:{between.port}"
        theirs = settings.model_copy(update={"head": Kafka(type="kafka", bootstrap=bootstrap)})
        yield between, theirs, endpoints.model_copy(update={"kafka_bootstrap": bootstrap, "kafka_properties": {}})
        between.close()


def test_a_broker_that_alters_a_record_is_found_out(brought_head: tuple[KafkaBetween, Settings, Endpoints]) -> None:
    between, settings, endpoints = brought_head
    with head.opened(settings, endpoints) as room:
        assert isinstance(outcome(head.answers, room), Measured)
        assert isinstance(outcome(head.survives, room), Measured)
        between.change = lambda kind, reply: reply.replace(b"1/100", b"1/1OO") if kind == FETCH else reply
        assert "is not the one acknowledged there" in str(outcome(head.survives, room))


def test_a_broker_that_comes_back_empty_is_found_out(
    brought_head: tuple[KafkaBetween, Settings, Endpoints], monkeypatch: pytest.MonkeyPatch
) -> None:
    between, settings, endpoints = brought_head
    monkeypatch.setattr(head, "_SILENCE_S", 1.0)
    with memory_broker(between.port) as empty, head.opened(settings, endpoints) as room:
        assert isinstance(outcome(head.answers, room), Measured)

        def fails_over(kind: int) -> None:
            if kind == FETCH:
                between.upstream = empty
                raise ConnectionResetError

        between.asked = fails_over
        assert "600 of 600 acknowledged records are gone" in str(outcome(head.survives, room))


def test_a_brought_broker_that_cannot_delete_records_is_no_fault(brought_head: tuple[KafkaBetween, Settings, Endpoints]) -> None:
    _, settings, endpoints = brought_head
    with head.opened(settings, endpoints) as room:
        assert isinstance(outcome(head.answers, room), Measured)
        with pytest.raises(NotNeeded, match="the topic's retention trims the head"):
            head.trimmed.ask(room, QUICK)


# --- file

# What a file system that is not up to it does, one layer up: Python's own calls, in both processes of the check.
BROKEN_FILES = """
import errno, os, stat

replace, open_, fsync, listdir = os.replace, os.open, os.fsync, os.listdir
seen = {}

def copied(source, target, **_):
    if "/renamed" not in str(target):
        return replace(source, target)
    data = open(source, "rb").read()
    with open(target, "wb", buffering=0) as file:
        file.write(data[: len(data) // 2])
        file.write(data[len(data) // 2 :])
    os.unlink(source)

def shared(path, flags, *more, **named):
    return open_(path, flags & ~os.O_EXCL if "/exclusive/" in str(path) else flags, *more, **named)

def unsynced(descriptor):
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, "Invalid argument")
    return fsync(descriptor)

def cached(path="."):
    if "/visible" not in str(path):
        return listdir(path)
    return seen.setdefault(str(path), listdir(path))

os.replace, os.open, os.fsync, os.listdir = copied, shared, unsynced, cached
os.utime = lambda *words, **named: None
"""


def test_a_directory_that_is_no_posix_file_system_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sitecustomize.py").write_text(BROKEN_FILES)
    (tmp_path / "nfs").mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    env |= {
        "HEADRACE_SETTINGS": str(tmp_path / "none.toml"),
        "HEADRACE_FILES__DIR": str(tmp_path / "nfs"),
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "broken"), str(Path(head.__file__).parents[2])]),
    }
    command = [sys.executable, "-m", "headrace.cli", "--home", str(tmp_path / "home"), "check", "--only", "file"]
    done = subprocess.run([*command, "--seconds", "1", "--json"], env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    broken = {each["promise"]: each for each in found["promises"] if each["outcome"] == "broken"}
    assert set(broken) == {
        "renaming over a file is atomic for readers",
        "O_EXCL: of two processes that create a file, only one succeeds",
        "fsync of a file and of its directory works",
        "a second process sees a new or deleted file at once",
        "a file's access time can be set",
        "KV blocks come back unchanged",
    }
    assert found["broken"] == len(broken)
    assert "failed while the file was replaced" in broken["renaming over a file is atomic for readers"]["seen"]
    assert all(each["seen"] and each["loses"] for each in broken.values())
    assert not list((tmp_path / "nfs").iterdir())
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["check.json"], "nothing is embedded that is needed"


def test_a_mount_that_is_not_there_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in os.environ if name.startswith("HEADRACE_")]:
        monkeypatch.delenv(name)
    for name, value in (("SETTINGS", tmp_path / "none.toml"), ("FILES__DIR", tmp_path / "nfs")):
        monkeypatch.setenv(f"HEADRACE_{name}", str(value))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(sys, "argv", ["headrace", "--home", str(tmp_path / "home"), "check", "--only", "file"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert ended.value.code == 1, err
    assert "Is the file system mounted?" in out
    assert "No promise was tested." in out
    assert not (tmp_path / "nfs").exists()


def test_an_endpoint_that_does_not_answer_is_a_broken_promise(settings: Settings, endpoints: Endpoints) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        gone = f"http://127.0.0.1:{free.getsockname()[1]}"
    away = endpoints.model_copy(update={"catalog_uri": gone})
    first, *others = check_storage(settings, away, [Tier.TABLE], seconds=1, concurrency=1)
    assert isinstance(first, Finding)
    assert first.outcome is Outcome.BROKEN
    assert {one.outcome for one in others if isinstance(one, Finding)} == {Outcome.NOT_TESTED}
