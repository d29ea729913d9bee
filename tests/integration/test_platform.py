"""The embedded platform with its real servers: who starts it, who shares it, how long it stays, and that nothing is left."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import obstore
import psutil
import pyarrow as pa
import pytest
import victims
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from disk import Disk, mounted
from forks import ForkedProcess
from obstore.store import S3Store
from pyiceberg.catalog import load_catalog

from headrace.catalog import CHECKPOINTS
from headrace.errors import HomeRefused, StorageFull, Unavailable
from headrace.platform import down, open_platform, platform, running
from headrace.settings import ModelSettings, Settings
from headrace.settings import PlatformSettings as PlatformSettings
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectWriter

PARTS = frozenset({"objects", "head"})

LONG_S = 600.0


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("HEADRACE_SETTINGS", str(tmp_path / "none.toml"))
    home = tmp_path / "home"
    yield home
    for process in processes(home):  # of a test that failed: leave nothing to the next
        with suppress(psutil.NoSuchProcess):
            process.kill()


def settings(home: Path, idle_s: float = 0.0, **more: Any) -> Settings:
    return Settings(home=home, platform=PlatformSettings(idle_s=idle_s), **more)


def processes(home: Path) -> list[psutil.Process]:
    """Every process that works in `home`, the supervisor and the servers, but no test command."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE or process.cmdline()[1:2] == ["-c"]:
                continue
            words = [process.cwd(), *process.cmdline()]
            if any(word.split("=")[-1].startswith(str(home)) for word in words):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def program(process: psutil.Process) -> str:
    """The name of its program; empty while it ends, when it has no command line any more."""
    return Path(next(iter(process.cmdline()), "")).name


def one(home: Path, name: str) -> psutil.Process:
    """The one process of `home` that runs the program or module `name`."""
    (process,) = (p for p in processes(home) if name in p.cmdline() or program(p).startswith(name))
    return process


def within(seconds: float, what: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.05)
    return what()


def gone(home: Path) -> bool:
    return not processes(home)


@contextmanager
def command(home: Path, idle_s: float = 0.0) -> Iterator[tuple[ForkedProcess, Endpoints]]:
    process = begin(home, idle_s)
    try:
        yield process, said(process)
    finally:
        process.kill()


def begin(home: Path, idle_s: float = 0.0) -> ForkedProcess:
    """A command of its own: it opens the platform, says so, and stays until it is told to go."""
    return ForkedProcess(victims.opening, home, idle_s)


def said(process: ForkedProcess) -> Endpoints:
    assert within(120, lambda: bool(process.said) or process.ended)
    (endpoints,) = process.said
    assert isinstance(endpoints, Endpoints), endpoints
    return endpoints


def bucket(endpoints: Endpoints, name: str | None = None) -> S3Store:
    return S3Store(
        name or endpoints.bucket,
        endpoint=endpoints.s3_endpoint,
        access_key_id=endpoints.s3_access_key,
        secret_access_key=endpoints.s3_secret_key,
        region=endpoints.s3_region,
        client_options={"allow_http": True, "timeout": "10s"},  # SeaweedFS may leave a put to a full disk unanswered
        retry_config={"max_retries": 1},
    )


def get(endpoints: Endpoints, key: str) -> bytes:
    return bytes(obstore.get(bucket(endpoints), key).bytes())


def create_topic(endpoints: Endpoints, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": endpoints.kafka_bootstrap})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(10)


def produce(endpoints: Endpoints, topic: str, value: bytes) -> None:
    errors = []
    producer = Producer({"bootstrap.servers": endpoints.kafka_bootstrap, "acks": "all", "log_level": 0})
    producer.produce(topic, value, on_delivery=lambda error, _: errors.append(error))
    assert producer.flush(10) == 0
    assert errors == [None]


def consume(endpoints: Endpoints, topic: str) -> bytes | None:
    consumer = Consumer(
        {"bootstrap.servers": endpoints.kafka_bootstrap, "group.id": uuid.uuid4().hex, "enable.auto.commit": False}
    )
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        message = consumer.poll(10)
        return message.value() if message is not None and message.error() is None else None
    finally:
        consumer.close()


def listeners(home: Path) -> set[tuple[str, int]]:
    found = set()
    for process in processes(home):
        for connection in process.net_connections("inet"):
            bound_udp = connection.type == socket.SOCK_DGRAM and connection.laddr
            if connection.status == psutil.CONN_LISTEN or bound_udp:
                found.add((connection.laddr.ip, connection.laddr.port))
    return found


def open_door(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_every_tier_answers_and_every_door_is_on_loopback(home: Path) -> None:
    counting = Settings(home=home, platform=PlatformSettings(idle_s=0.0, counters=True))
    with open_platform(counting, parts=PARTS) as endpoints:
        assert len(processes(home)) == 3

        # objects: the conditional put that rounds are committed by
        store = bucket(endpoints)
        obstore.put(store, "a", b"1", mode="create")
        with pytest.raises(obstore.exceptions.AlreadyExistsError):
            obstore.put(store, "a", b"2", mode="create")
        assert get(endpoints, "a") == b"1"

        # tables
        catalog = load_catalog("lake", uri=endpoints.catalog_uri, warehouse=endpoints.warehouse, **endpoints.catalog_properties)
        catalog.create_namespace("trial")
        rows = pa.table({"n": pa.array([1, 2, 3], pa.int64())})
        table = catalog.create_table("trial.rows", rows.schema)
        table.append(rows)
        assert catalog.load_table("trial.rows").scan().to_arrow()["n"].to_pylist() == [1, 2, 3]

        # head
        create_topic(endpoints, "trial")
        produce(endpoints, "trial", b"event")
        assert consume(endpoints, "trial") == b"event"

        # the object store's own count of each bucket
        counters = httpx.get(endpoints.s3_metrics_url, trust_env=False).text
        assert f'traffic_received_bytes_total{{bucket="{endpoints.bucket}"}}' in counters

        # doors
        doors = listeners(home)
        assert {int(url.rsplit(":", 1)[1]) for url in (endpoints.s3_endpoint, endpoints.kafka_bootstrap)} <= {p for _, p in doors}
        assert {address for address, _ in doors} == {"127.0.0.1"}
        served = []
        for _, port in doors:
            for path in (f"/buckets/{endpoints.bucket}/a", f"/{endpoints.bucket}/a"):
                try:
                    answer = httpx.get(f"http://127.0.0.1:{port}{path}", timeout=2, trust_env=False)
                    if answer.status_code < 400 and answer.content == b"1":
                        served.append((port, path))
                except httpx.HTTPError:
                    continue  # a door that does not speak HTTP
        assert served == [], "an object was served to somebody without a key"

        # secrets are the owner's alone
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        for name in ("keys.json", "platform.json", "endpoints.json", "request.json"):
            assert stat.S_IMODE((home / "platform" / name).stat().st_mode) == 0o600
        for process in processes(home):
            assert endpoints.s3_secret_key not in " ".join(process.cmdline())

        # a Ctrl-C at a command is not the servers' business
        supervisor = one(home, "headrace.platform.supervisor")
        assert all(os.getpgid(process.pid) != os.getpgrp() for process in processes(home))
        assert all(os.getsid(process.pid) == os.getsid(supervisor.pid) != os.getsid(0) for process in processes(home))

    # after the last lease all is gone and the data is kept, under the same keys
    assert within(20, lambda: gone(home))
    assert not [port for _, port in doors if open_door(port)]
    assert not (home / "platform" / "platform.json").exists()
    with open_platform(settings(home), parts=PARTS) as again:
        assert (again.s3_access_key, again.s3_secret_key) == (endpoints.s3_access_key, endpoints.s3_secret_key)
        assert get(again, "a") == b"1"
        assert consume(again, "trial") == b"event"


def test_commands_share_one_platform_which_outlives_the_first_of_them(home: Path) -> None:
    first, second = begin(home), begin(home)
    try:
        endpoints = said(first)
        assert said(second) == endpoints, "two commands that start at once get one platform"
        before = {process.pid for process in processes(home)}
        assert len(before) == 3
        with open_platform(settings(home), parts=PARTS) as mine:
            assert mine == endpoints
            for process in (first, second):
                process.send()
                assert process.wait(10) == 0
            time.sleep(1.5)  # three looks of the supervisor
            assert {process.pid for process in processes(home)} == before
            obstore.put(bucket(mine), "still", b"here")
            assert get(mine, "still") == b"here"
        assert within(20, lambda: gone(home))
    finally:
        first.kill()
        second.kill()


def test_servers_stay_between_commands_for_the_idle_time_and_no_longer(home: Path) -> None:
    with open_platform(settings(home, LONG_S), parts=PARTS) as endpoints:
        create_topic(endpoints, "kept")
    before = {process.pid for process in processes(home)}
    assert len(before) == 3
    with open_platform(settings(home, LONG_S), parts=PARTS) as again:
        assert again == endpoints
        assert {process.pid for process in processes(home)} == before
    # The last command says how long they stay, whatever earlier ones said.
    with command(home, idle_s=1.5) as (process, _):
        assert {process.pid for process in processes(home)} == before
        process.kill()  # and so does one that is killed
        process.wait()
        began = time.monotonic()
    assert within(20, lambda: gone(home))
    assert time.monotonic() - began >= 1.5


def test_down_ends_what_no_command_uses(home: Path) -> None:
    assert down(settings(home)) is None
    with command(home, LONG_S) as (process, endpoints):
        obstore.put(bucket(endpoints), "acknowledged", b"kept")
        with pytest.raises(Unavailable, match="Another command is using the platform"):
            down(settings(home))
        assert len(processes(home)) == 3
        process.kill()
        process.wait()
        ended = down(settings(home))
        assert ended is not None
        assert ended.parts == PARTS
        assert gone(home)
    with command(home, LONG_S) as (_, endpoints):
        assert get(endpoints, "acknowledged") == b"kept"
        assert down(settings(home), force=True) is not None
        assert gone(home)


def test_servers_end_with_a_block_that_says_so(home: Path) -> None:
    with open_platform(settings(home, LONG_S), parts=PARTS, ends=True), open_platform(settings(home, LONG_S), parts=PARTS):
        pass
    assert within(20, lambda: running(settings(home)) is None)
    assert down(settings(home)) is None
    assert gone(home), "what is ending already is waited for"


def test_commands_in_a_row_never_meet_an_ending_platform(home: Path) -> None:
    # The pauses fall before, within and after the look, the idle time and the stop.
    for number, pause in enumerate((0.0, 0.4, 0.9, 1.4, 1.9)):
        with open_platform(settings(home, 0.4), parts=PARTS) as endpoints:
            obstore.put(bucket(endpoints), f"n/{number}", b"1")
            assert len(list(obstore.list(bucket(endpoints), "n").collect())) == number + 1
        time.sleep(pause)


def test_servers_of_another_setup_are_replaced_unless_they_are_used(home: Path) -> None:
    with command(home, LONG_S) as (process, endpoints):
        before = {process.pid for process in processes(home)}
        other = settings(home, models=ModelSettings(threads=1))
        with open_platform(other, parts=PARTS) as shared:
            assert shared == endpoints, "another command uses them"
            assert {process.pid for process in processes(home)} == before
        process.kill()
        process.wait()
        with open_platform(other, parts=PARTS):
            assert not {process.pid for process in processes(home)} & before
            assert len(processes(home)) == 3
            assert (state := running(other)) is not None
            assert state.setup.threads == 1


def test_servers_whose_home_was_removed_end_and_leave_a_new_home_alone(home: Path, tmp_path: Path) -> None:
    with command(home, LONG_S):
        before = processes(home)
        home.rename(tmp_path / "removed")
        with open_platform(settings(home), parts=PARTS) as mine:
            assert within(20, lambda: not [process for process in before if process.is_running()])
            obstore.put(bucket(mine), "a", b"1")
            assert running(settings(home)) is not None, "the record of the new home's servers is still there"


def test_a_killed_supervisor_takes_the_servers_along_and_the_next_command_starts_anew(home: Path) -> None:
    with command(home) as (_, endpoints):
        obstore.put(bucket(endpoints), "acknowledged", b"kept")
        create_topic(endpoints, "acknowledged")
        produce(endpoints, "acknowledged", b"event")
        supervisor = one(home, "headrace.platform.supervisor")
        supervisor.kill()
        assert within(5, lambda: gone(home))
        path = home / "platform" / "platform.json"
        record = path.read_text()  # it is stale, as a power loss leaves it
        # The number now names a process that runs, but is not the supervisor.
        path.write_text(record.replace(f'"pid": {supervisor.pid}', f'"pid": {os.getpid()}'))
        assert str(os.getpid()) in path.read_text()
        with open_platform(settings(home), parts=PARTS) as mine:
            assert get(mine, "acknowledged") == b"kept"
            assert consume(mine, "acknowledged") == b"event"


@pytest.mark.parametrize("server", ["weed", "tansu"])
def test_a_killed_server_is_started_anew_and_loses_nothing(home: Path, server: str) -> None:
    with command(home) as (_, endpoints):
        obstore.put(bucket(endpoints), "acknowledged", b"kept")
        create_topic(endpoints, "acknowledged")
        produce(endpoints, "acknowledged", b"event")
        supervisor = one(home, "headrace.platform.supervisor")
        killed = one(home, server)
        killed.send_signal(signal.SIGKILL)
        # At once, before the supervisor can have noticed.
        with open_platform(settings(home), parts=PARTS) as mine:
            assert mine == endpoints, "on the same ports: whoever used the servers goes on"
            assert get(endpoints, "acknowledged") == b"kept"
            assert consume(endpoints, "acknowledged") == b"event"
            produce(endpoints, "acknowledged", b"more")
            assert one(home, "headrace.platform.supervisor") == supervisor
            assert one(home, server) != killed
            assert len(processes(home)) == 3


def test_a_server_that_ends_again_and_again_ends_the_platform(home: Path) -> None:
    with command(home):
        killed = 0
        end = time.monotonic() + 60
        while not gone(home) and time.monotonic() < end:
            for process in processes(home):
                with contextlib.suppress(psutil.Error):
                    if program(process).startswith("tansu"):
                        process.kill()
                        killed += 1
            time.sleep(0.1)
        assert gone(home)
        assert killed >= 5
        log = (home / "logs" / "supervisor.log").read_text()
        assert "Tansu ended 5 times within 60 s" in log
        assert running(settings(home)) is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Disk]:
    with mounted(tmp_path / "disk", megabytes=600) as disk:
        yield disk
        for process in processes(disk.path / "home"):
            with contextlib.suppress(psutil.Error):  # with its supervisor, for one
                process.kill()
                process.wait(10)


def test_after_a_full_disk_has_space_again_everything_answers(small_disk: Disk) -> None:
    home = small_disk.path / "home"
    with command(home) as (_, endpoints):
        create_topic(endpoints, "events")
        produce(endpoints, "events", b"before")
        log = home / "logs" / "supervisor.log"
        small_disk.fill()
        assert within(10, lambda: "the disk is full" in log.read_text())
        with pytest.raises((obstore.exceptions.BaseError, OSError)):
            obstore.put(bucket(endpoints), "while-full", bytes(8 << 20))
        small_disk.free()
        assert within(20, lambda: "the disk has space again" in log.read_text())

        def answers() -> bool:
            try:
                obstore.put(bucket(endpoints), "after", b"1")
                produce(endpoints, "events", b"after")
            except (obstore.exceptions.BaseError, OSError, AssertionError):
                return False
            return True

        assert within(20, answers)
        assert consume(endpoints, "events") == b"before"


def test_a_full_disk_is_no_store_that_does_not_answer(small_disk: Disk) -> None:
    """SeaweedFS calls it an internal error: releases were told that the store was away, and waited for it."""
    home = small_disk.path / "home"
    with command(home) as (_, endpoints):
        writer = ObjectWriter(CHECKPOINTS, endpoints, Meter(Ledger(), "test"))
        writer.put("before", b"1")
        small_disk.fill()
        large = small_disk.path.parent / "weights"
        large.write_bytes(bytes(20 << 20))
        for write in (lambda: writer.put("while-full", bytes(100_000)), lambda: writer.upload("weights", large)):
            with pytest.raises(StorageFull, match="is full"):
                write()
        small_disk.free()


def test_a_server_that_says_nothing_is_reported(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr("headrace.platform.health._SECONDS", 0.3)
    with command(home):
        for server, said_of_it in (("tansu", "the head does not respond"), ("weed", "the object store does not respond")):
            frozen = one(home, server)
            frozen.suspend()
            try:
                with pytest.raises(Unavailable, match=said_of_it), open_platform(settings(home), parts=PARTS):
                    pass
            finally:
                frozen.resume()
        with open_platform(settings(home), parts=PARTS) as mine:
            obstore.put(bucket(mine), "a", b"1")


def test_two_homes_run_side_by_side(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with open_platform(settings(home), parts=PARTS) as one_, command(other) as (_, two):
        assert one_.s3_endpoint != two.s3_endpoint
        assert one_.s3_secret_key != two.s3_secret_key
        obstore.put(bucket(one_), "whose", b"one")
        obstore.put(bucket(two), "whose", b"two")
        assert (get(one_, "whose"), get(two, "whose")) == (b"one", b"two")
        assert not {port for _, port in listeners(home)} & {port for _, port in listeners(other)}
    assert within(20, lambda: gone(home) and gone(other))


def test_no_server_starts_when_settings_bring_every_part(home: Path) -> None:
    model = {"type": "endpoint", "url": "http://127.0.0.1:1/v1", "model": "m"}
    brought = Settings.load(
        home=home,
        objects={
            "type": "s3",
            "endpoint": "http://127.0.0.1:2",
            "access_key": "a",
            "secret_key": "s",
            "bucket": "mine",
        },
        tables={"type": "rest", "uri": "http://127.0.0.1:3", "warehouse": "s3://w"},
        head={"type": "kafka", "bootstrap": "127.0.0.1:4"},
        models={"embedder": model, "reranker": model, "generator": model},
    )
    with open_platform(brought) as endpoints:
        assert gone(home)
        assert (endpoints.bucket, endpoints.vectors_uri) == ("mine", "s3://mine/vectors")
        assert endpoints.catalog_properties["s3.endpoint"] == "http://127.0.0.1:2"
        assert endpoints.kafka_bootstrap == "127.0.0.1:4"
        assert endpoints.embedder.url == "http://127.0.0.1:1/v1"
        assert endpoints.s3_metrics_url == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_home_of_somebody_else_is_refused(home: Path) -> None:
    home.mkdir()
    os.chown(home, 12345, -1)
    with pytest.raises(HomeRefused, match="12345"), open_platform(settings(home), parts=PARTS):
        pass
