"""The embedded platform with its real servers: who starts it, who shares it, and that nothing outlives its commands."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import obstore
import psutil
import pyarrow as pa
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from obstore.store import S3Store
from pyiceberg.catalog import load_catalog

from headrace.errors import HomeRefused
from headrace.platform import open_platform
from headrace.settings import Settings
from headrace.storage.endpoints import Endpoints

PARTS = frozenset({"objects", "head"})

# A command of its own: it opens the platform, says so, and stays until its standard input is closed.
COMMAND = """
import sys
from pathlib import Path
from headrace.platform import open_platform
from headrace.settings import Settings
with open_platform(Settings(home=Path(sys.argv[1])), parts=frozenset({"objects", "head"})) as endpoints:
    print(endpoints.model_dump_json(), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("HEADRACE_SETTINGS", str(tmp_path / "none.toml"))
    home = tmp_path / "home"
    yield home
    for process in processes(home):  # of a test that failed: leave nothing to the next
        process.kill()


def settings(home: Path) -> Settings:
    return Settings(home=home)


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


def one(home: Path, name: str) -> psutil.Process:
    """The one process of `home` that runs the program or module `name`."""
    (process,) = (p for p in processes(home) if name in p.cmdline() or Path(p.cmdline()[0]).name.startswith(name))
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
def command(home: Path) -> Iterator[tuple[subprocess.Popen[str], Endpoints]]:
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, "the command ended before the platform was open"
        yield process, Endpoints.model_validate_json(line)
    finally:
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def bucket(endpoints: Endpoints, name: str | None = None) -> S3Store:
    return S3Store(
        name or endpoints.bucket,
        endpoint=endpoints.s3_endpoint,
        access_key_id=endpoints.s3_access_key,
        secret_access_key=endpoints.s3_secret_key,
        region=endpoints.s3_region,
        client_options={"allow_http": True},
        retry_config={"max_retries": 1},
    )


def get(endpoints: Endpoints, key: str) -> bytes:
    return bytes(obstore.get(bucket(endpoints), key).bytes())


def create_topic(endpoints: Endpoints, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": endpoints.kafka_bootstrap})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(10)


def produce(endpoints: Endpoints, topic: str, value: bytes) -> None:
    errors = []
    producer = Producer({"bootstrap.servers": endpoints.kafka_bootstrap, "acks": "all"})
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
    with open_platform(settings(home), parts=PARTS) as endpoints:
        assert len(processes(home)) == 3

        # objects: the conditional put that turns are committed by
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


def test_secrets_are_the_owners_alone_and_stay_the_same(home: Path) -> None:
    with open_platform(settings(home), parts=PARTS) as first:
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        for name in ("keys.json", "platform.json", "endpoints.json"):
            assert stat.S_IMODE((home / "platform" / name).stat().st_mode) == 0o600
        for process in processes(home):
            assert first.s3_secret_key not in " ".join(process.cmdline())
    assert within(10, lambda: gone(home))
    with open_platform(settings(home), parts=PARTS) as second:
        assert (second.s3_access_key, second.s3_secret_key) == (first.s3_access_key, first.s3_secret_key)


def test_a_second_command_shares_the_platform_and_outlives_the_first(home: Path) -> None:
    with command(home) as (first, endpoints):
        before = {process.pid for process in processes(home)}
        with open_platform(settings(home), parts=PARTS) as mine:
            assert mine == endpoints
            assert {process.pid for process in processes(home)} == before
            assert first.stdin is not None
            first.stdin.close()
            first.wait(10)
            time.sleep(2.5)  # longer than the grace after a last lease
            assert {process.pid for process in processes(home)} == before
            obstore.put(bucket(mine), "still", b"here")
            assert get(mine, "still") == b"here"
    assert within(10, lambda: gone(home))


def test_after_the_last_lease_all_is_gone_and_the_data_is_kept(home: Path) -> None:
    with open_platform(settings(home), parts=PARTS) as endpoints:
        create_topic(endpoints, "kept")
        produce(endpoints, "kept", b"event")
        obstore.put(bucket(endpoints), "kept", b"object")
        doors = listeners(home)
    assert within(10, lambda: gone(home))
    assert not [port for _, port in doors if open_door(port)]
    assert not (home / "platform" / "platform.json").exists()
    with open_platform(settings(home), parts=PARTS) as endpoints:
        assert get(endpoints, "kept") == b"object"
        assert consume(endpoints, "kept") == b"event"


def test_commands_in_a_row_never_meet_an_ending_platform(home: Path) -> None:
    # The pauses fall before, within and after the grace and the stop.
    for number, pause in enumerate((0.0, 0.9, 1.4, 1.9, 2.5)):
        with open_platform(settings(home), parts=PARTS) as endpoints:
            obstore.put(bucket(endpoints), f"n/{number}", b"1")
            assert len(list(obstore.list(bucket(endpoints), "n").collect())) == number + 1
        time.sleep(pause)


def test_a_killed_command_leaves_nothing(home: Path) -> None:
    with command(home) as (process, _):
        assert len(processes(home)) == 3
        process.kill()
        process.wait()
        assert within(10, lambda: gone(home))


def test_ctrl_c_at_a_command_is_not_the_servers_business(home: Path) -> None:
    with open_platform(settings(home), parts=PARTS) as endpoints:
        group = os.getpgrp()
        assert all(os.getpgid(process.pid) != group for process in processes(home))
        supervisor = one(home, "headrace.platform.supervisor")
        assert all(os.getsid(process.pid) == os.getsid(supervisor.pid) != os.getsid(0) for process in processes(home))
        obstore.put(bucket(endpoints), "a", b"1")


def test_a_killed_supervisor_takes_the_servers_along_and_the_next_command_starts_anew(home: Path) -> None:
    with command(home) as (_, endpoints):
        obstore.put(bucket(endpoints), "acknowledged", b"kept")
        create_topic(endpoints, "acknowledged")
        produce(endpoints, "acknowledged", b"event")
        one(home, "headrace.platform.supervisor").kill()
        assert within(5, lambda: gone(home))
        assert (home / "platform" / "platform.json").exists(), "the record is stale, as a power loss leaves it"
        with open_platform(settings(home), parts=PARTS) as mine:
            assert get(mine, "acknowledged") == b"kept"
            assert consume(mine, "acknowledged") == b"event"


@pytest.mark.parametrize("server", ["weed", "tansu"])
def test_a_killed_server_ends_the_platform_and_loses_nothing(home: Path, server: str) -> None:
    with command(home) as (_, endpoints):
        obstore.put(bucket(endpoints), "acknowledged", b"kept")
        create_topic(endpoints, "acknowledged")
        produce(endpoints, "acknowledged", b"event")
        one(home, server).send_signal(signal.SIGKILL)
        # At once, before the supervisor can have noticed.
        with open_platform(settings(home), parts=PARTS) as mine:
            assert get(mine, "acknowledged") == b"kept"
            assert consume(mine, "acknowledged") == b"event"
            assert len(processes(home)) == 3


def test_a_record_of_another_process_is_not_believed(home: Path) -> None:
    with command(home):
        record = json.loads((home / "platform" / "platform.json").read_text())
        supervisor = one(home, "headrace.platform.supervisor")
        supervisor.kill()
        assert within(5, lambda: gone(home))
    # The number now names a process that runs, but is not the supervisor.
    text = json.dumps(record).replace(f'"pid": {supervisor.pid}', f'"pid": {os.getpid()}')
    assert str(os.getpid()) in text
    (home / "platform" / "platform.json").write_text(text)
    with open_platform(settings(home), parts=PARTS) as endpoints:
        obstore.put(bucket(endpoints), "a", b"1")


def test_two_homes_run_side_by_side(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with open_platform(settings(home), parts=PARTS) as one_, command(other) as (_, two):
        assert one_.s3_endpoint != two.s3_endpoint
        assert one_.s3_secret_key != two.s3_secret_key
        obstore.put(bucket(one_), "whose", b"one")
        obstore.put(bucket(two), "whose", b"two")
        assert (get(one_, "whose"), get(two, "whose")) == (b"one", b"two")
        assert not {port for _, port in listeners(home)} & {port for _, port in listeners(other)}
    assert within(10, lambda: gone(home) and gone(other))


def test_two_commands_that_start_at_once_get_one_platform(home: Path) -> None:
    first, second = (
        subprocess.Popen([sys.executable, "-c", COMMAND, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    )
    try:
        assert first.stdout is not None
        assert second.stdout is not None
        line = first.stdout.readline()
        assert line
        assert second.stdout.readline() == line
        assert len(processes(home)) == 3
    finally:
        for process in (first, second):
            end(process)


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
