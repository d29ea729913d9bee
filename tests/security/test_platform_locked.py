"""The embedded servers against the other programs and users of this machine: without the home's keys nobody gets in."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import shutil
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import needs
import obstore
import psutil
import pytest
from confluent_kafka.admin import AdminClient
from traffic import until

from headrace.app import App
from headrace.errors import NotGenuine, Unavailable
from headrace.platform import home, open_platform, running
from headrace.platform.address import GRPC_OFFSET, choose_ports
from headrace.platform.certificates import certificate_of, context_of
from headrace.platform.home import Home
from headrace.platform.keys import keys_of
from headrace.platform.seaweedfs import start_weed, weed_binary
from headrace.platform.tansu import broker_binary, start_broker
from headrace.settings import PlatformSettings as PlatformSettings
from headrace.settings import Settings
from headrace.storage.endpoints import Endpoints
from headrace.storage.objects import connect

PARTS = frozenset({"objects"})
NOBODY = 65_534


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """https://www.rfc-editor.org/rfc/rfc9113#section-4.1"""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


# A server that lets a client in answers with a SETTINGS frame (type 4), too.
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0)


def grpc(method: str, message: bytes) -> bytes:
    """A call as a gRPC client sends it: HELLO, HEADERS (each a literal, RFC 7541, 6.2.2) and DATA, which ends the stream."""
    fields = {":method": "POST", ":scheme": "http", ":path": f"/{method}", ":authority": "127.0.0.1"}
    fields |= {"te": "trailers", "content-type": "application/grpc"}
    head = b"".join(b"\0" + b"".join(bytes([len(word)]) + word.encode() for word in field) for field in fields.items())
    return HELLO + frame(1, 4, 1, head) + frame(0, 1, 1, b"\0" + len(message).to_bytes(4) + message)


def text(number: int, value: str) -> bytes:
    """A protobuf field that is a string."""
    return bytes([number << 3 | 2, len(value)]) + value.encode()


# filer.proto of SeaweedFS: what lies in a folder; delete a file (1: folder, 2: name) with its data (4).
DATA = frame(0, 0, 1)[3:]  # how an answer's message begins, behind its length
LIST = grpc("filer_pb.SeaweedFiler/ListEntries", text(1, "/buckets/headrace/documents"))
DELETE = grpc("filer_pb.SeaweedFiler/DeleteEntry", text(1, "/buckets/headrace/documents") + text(2, "source") + b"\x20\x01")


@dataclass
class Locked:
    """A running platform, its home, and the doors of SeaweedFS's gRPC: TCP ports and Unix sockets."""

    home: Home
    endpoints: Endpoints
    ports: list[int]
    sockets: list[Path]
    pid: int


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    folder = tmp_path_factory.mktemp("locked")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SETTINGS", str(folder / "none.toml"))
        settings = Settings(home=folder / "home")
        with open_platform(settings, parts=PARTS) as endpoints:
            state = running(settings)
            assert state is not None
            ports = [getattr(state.ports, name) + GRPC_OFFSET for name in ("master", "volume", "filer", "s3", "admin")]
            yield Locked(Home(settings.home), endpoints, ports, list(state.ports.sockets()), state.children["objects"].pid)


def heard(connect: Callable[[], socket.socket], context: ssl.SSLContext | None, said: bytes, wanted: bytes) -> bytes:
    """What a server answers up to the words that are wanted, or until it says no more; over TLS if a context is given."""
    answer = b""
    with contextlib.suppress(OSError), connect() as plain:
        plain.settimeout(3)
        with context.wrap_socket(plain, server_hostname="127.0.0.1") if context else plain as spoken:
            spoken.sendall(said)
            while wanted not in answer and (more := spoken.recv(1 << 16)):
                answer += more
    return answer


def welcomed(connect: Callable[[], socket.socket], context: ssl.SSLContext | None) -> bool:
    """Whether a gRPC server speaks to a client that says hello."""
    return heard(connect, context, HELLO, b"\x04")[3:4] == b"\x04"


def over_tcp(port: int) -> Callable[[], socket.socket]:
    return lambda: socket.create_connection(("127.0.0.1", port), timeout=3)


def over_unix(path: Path) -> Callable[[], socket.socket]:
    def connected() -> socket.socket:
        found = socket.socket(socket.AF_UNIX)
        found.connect(str(path))
        return found

    return connected


def speaking(certificate: Path | None) -> ssl.SSLContext:
    """TLS as gRPC wants it, with a home's certificate or without any."""
    context = context_of(certificate) if certificate else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the attacker does not mind whom he talks to
    context.set_alpn_protocols(["h2"])
    return context


def as_nobody(ask: Callable[[], bool]) -> bool:
    """What `ask` says in a process of another user; of our own where we are not root."""
    heard, told = os.pipe()
    if (child := os.fork()) == 0:
        answer = b"e"
        gc.freeze()  # as in `child.in_child`
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            answer = b"y" if ask() else b"n"
        finally:
            os.write(told, answer)
            os._exit(0)
    os.close(told)
    os.waitpid(child, 0)
    with os.fdopen(heard, "rb") as answers:
        answer = answers.read()
    assert answer in (b"y", b"n")
    return answer == b"y"


def test_grpc_speaks_to_the_homes_certificate_only(locked: Locked, tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    other.prepare()
    ours, theirs = speaking(certificate_of(locked.home)), speaking(certificate_of(other))
    for port in locked.ports:
        assert welcomed(over_tcp(port), ours), "else the refusals below say nothing"
        assert not as_nobody(lambda port=port: welcomed(over_tcp(port), None))  # type: ignore[misc]
        assert not as_nobody(lambda port=port: welcomed(over_tcp(port), speaking(None)))  # type: ignore[misc]
        assert not as_nobody(lambda port=port: welcomed(over_tcp(port), theirs))  # type: ignore[misc]


def test_another_user_neither_reads_nor_deletes_what_is_stored(locked: Locked, tmp_path: Path) -> None:
    """By the calls with which an open filer gave everything away, and over S3 and the catalog without a key."""
    other = Home(tmp_path / "other")
    other.prepare()
    store = connect(locked.endpoints, locked.endpoints.bucket)
    obstore.put(store, "documents/source", b"the vault code is heliotrope")
    filer = over_tcp(locked.ports[2])
    contexts = (None, speaking(None), speaking(certificate_of(other)))
    for context in contexts:
        assert not as_nobody(lambda c=context: b"source" in heard(filer, c, LIST, b"source"))  # type: ignore[misc]
        as_nobody(lambda c=context: bool(heard(filer, c, DELETE, DATA)))  # type: ignore[misc]
    assert bytes(obstore.get(store, "documents/source").bytes()) == b"the vault code is heliotrope"
    bucket = f"{locked.endpoints.s3_endpoint}/{locked.endpoints.bucket}"
    for url in (
        bucket,
        f"{bucket}?list-type=2",
        f"{bucket}/documents/source",
        f"{locked.endpoints.catalog_uri}/v1/lake/namespaces",
    ):
        answer = httpx.get(url, timeout=3, trust_env=False)
        assert answer.status_code in (401, 403), url
        assert "heliotrope" not in answer.text
    ours = speaking(certificate_of(locked.home))
    assert b"source" in heard(filer, ours, LIST, b"source"), "else the refusals above say nothing"
    heard(filer, ours, DELETE, DATA)
    until(60, lambda: not obstore.list(store, "documents/").collect(), lambda: "a call of ours deletes nothing", every_s=0.02)


def test_its_sockets_in_tmp_are_no_way_around(locked: Locked) -> None:
    ours = speaking(certificate_of(locked.home))
    there = [path for path in locked.sockets if path.exists()]
    assert there
    for path in there:
        assert welcomed(over_unix(path), ours)
        assert not welcomed(over_unix(path), None), "not even for us without a certificate"
        if os.geteuid() == 0:
            assert not as_nobody(lambda path=path: welcomed(over_unix(path), ours)), "others may not connect at all"  # type: ignore[misc]


def test_nobody_else_can_read_a_key(locked: Locked) -> None:
    needs.require(os.geteuid() == 0, "Becoming another user takes root.", unless="HEADRACE_TESTS_WITHOUT_ROOT")
    files = [path for path in locked.home.platform.iterdir() if path.is_file()]
    assert {"keys.json", "certificate.pem", "endpoints.json"} <= {path.name for path in files}

    def readable() -> bool:
        return any(os.access(path, os.R_OK) for path in files)

    assert readable()
    assert not as_nobody(readable)


def test_no_door_tells_what_goes_on_inside(locked: Locked) -> None:
    """Profiles, counters, status pages: they need no key, and a page in a browser could read them by DNS rebinding."""
    doors = {at.laddr.port for at in psutil.Process(locked.pid).net_connections("tcp") if at.status == psutil.CONN_LISTEN}
    assert doors >= set(locked.ports)
    inside = (
        "/",
        "/debug/pprof/",
        "/debug/pprof/cmdline",
        "/debug/vars",
        "/metrics",
        "/stats/disk",
        "/cluster/status",
        "/ui/index.html",
    )
    told = []
    with httpx.Client(headers={"host": "evil.example"}, timeout=3, trust_env=False) as browser:
        for port, path in itertools.product(doors, inside):
            with contextlib.suppress(httpx.HTTPError):
                answer = browser.get(f"http://127.0.0.1:{port}{path}")
                if answer.status_code < 400:
                    told.append((port, path, answer.text[:80]))
    assert told == []


def test_what_is_not_closed_is_said_whenever_a_service_starts(
    locked: Locked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Into a journal too, where no terminal looks on, and where another command has started the servers."""
    monkeypatch.setattr(home, "other_users", lambda: ["eve"])
    with App(Settings(home=locked.home.root), "up", models=False, service=True) as app:
        said = " ".join(capsys.readouterr().err.split())
        assert "other users (eve): they can read all events in the embedded Kafka" in said
        assert "delete events that have not landed (SECURITY.md)" in said
        # It is so: another user needs no key to see what topics there are.
        kafka = {"bootstrap.servers": app.runner.endpoints.kafka_bootstrap}
        assert as_nobody(lambda: bool(AdminClient(kafka).list_topics(timeout=10).brokers))


def test_servers_take_other_ports_where_somebody_waits_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SeaweedFS would talk to itself through whatever socket stands where its own was."""
    needs.require(os.geteuid() == 0, "Becoming another user takes root.", unless="HEADRACE_TESTS_WITHOUT_ROOT")
    monkeypatch.setenv("HEADRACE_SETTINGS", str(tmp_path / "none.toml"))
    home = Home(tmp_path / "home")
    home.prepare()
    before = choose_ports()
    home.ports.write_text(before.model_dump_json())
    waiting = next(path for path in before.sockets() if "filer" in path.name)
    waiting.unlink(missing_ok=True)  # of a server that was killed
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as foreign:
        foreign.bind(str(waiting))
        os.chown(waiting, NOBODY, NOBODY)
        try:
            with open_platform(Settings(home=home.root), parts=PARTS) as endpoints:
                obstore.put(connect(endpoints, endpoints.bucket), "a", b"1")
                state = running(Settings(home=home.root))
                assert state is not None
                changed = {name for name, port in before if getattr(state.ports, name) != port}
                assert changed == {"filer"}
                assert waiting.exists(), "it is another user's"
        finally:
            waiting.unlink()


def test_servers_take_other_ports_where_somebody_comes_before_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user sees the ports in the list of processes, and is quicker than SeaweedFS."""
    needs.require(os.geteuid() == 0, "Becoming another user takes root.", unless="HEADRACE_TESTS_WITHOUT_ROOT")
    monkeypatch.setenv("HEADRACE_SETTINGS", str(tmp_path / "none.toml"))
    late, taken = tmp_path / "weed", tmp_path / "taken"
    late.write_text(f"""#!/bin/sh
for word in "$@"; do
    case "$word" in -filer.port.grpc=*) place="/tmp/seaweedfs-filer-grpc-${{word#*=}}.sock" ;; esac
done
if [ ! -e {taken} ]; then
    echo "$place" > {taken}
    mkdir "$place" && touch "$place/not-empty" && chown -R {NOBODY} "$place"  # root could remove anything less
fi
exec {weed_binary()} "$@"
""")
    late.chmod(0o700)
    settings = Settings(home=tmp_path / "home", platform=PlatformSettings(idle_s=0.0, weed=late))
    try:
        with open_platform(settings, parts=PARTS) as endpoints:
            obstore.put(connect(endpoints, endpoints.bucket), "a", b"1")
            state = running(settings)
            assert state is not None
            assert Path(taken.read_text().strip()) not in state.ports.sockets()
        assert "another user owns files with their names" in (tmp_path / "home" / "logs" / "supervisor.log").read_text()
    finally:
        shutil.rmtree(taken.read_text().strip())


def test_a_server_that_would_let_everybody_in_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SeaweedFS serves without TLS where it cannot read a certificate: its start is then refused."""
    home = Home(tmp_path / "home")
    home.prepare()
    monkeypatch.setenv("HEADRACE_SETTINGS", str(tmp_path / "none.toml"))
    careless = tmp_path / "weed"
    careless.write_text(f'#!/bin/sh\nunset WEED_GRPC_CA\nexec {weed_binary()} "$@"\n')
    careless.chmod(0o700)
    with (
        pytest.raises(Unavailable, match="would accept every program on this machine"),
        open_platform(Settings(home=home.root, platform=PlatformSettings(idle_s=0.0, weed=careless)), parts=PARTS),
    ):
        pass


# programs


def test_only_the_released_programs_are_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in the home directory, or what a variable of its package names, is not run with the store's secret."""
    monkeypatch.setenv("HEADRACE_SETTINGS", str(tmp_path / "none.toml"))
    ran = tmp_path / "ran"
    fake = tmp_path / "home-directory" / ".calfkit" / "bin" / "tansu-v0.6.0-510f3e2"
    fake.parent.mkdir(parents=True)
    fake.write_text(f"#!/bin/sh\ntouch {ran}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path / "home-directory"))
    monkeypatch.setenv("CALF_TANSU_BIN", str(fake))
    with open_platform(Settings(home=tmp_path / "home"), parts=frozenset({"objects", "head"})):
        assert not ran.exists()
        state = running(Settings(home=tmp_path / "home"))
        assert state is not None
        assert Path(psutil.Process(state.children["head"].pid).exe()).is_relative_to(Path(broker_binary()).parent)


@pytest.mark.parametrize("start", [start_weed, start_broker], ids=["weed", "tansu"])
def test_a_program_that_was_changed_is_refused(start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path / "home")
    home.prepare()
    ran, changed = tmp_path / "ran", tmp_path / "changed"
    changed.write_text(f"#!/bin/sh\ntouch {ran}\n")
    changed.chmod(0o755)
    binary = "seaweedfs.weed_binary" if start is start_weed else "tansu.broker_binary"
    monkeypatch.setattr(f"headrace.platform.{binary}", lambda: str(changed))
    with pytest.raises(NotGenuine, match="Its SHA-256 is") as refused:
        start(home, keys_of(home), choose_ports(), ())
    assert str(changed) in refused.value.message
    assert "[platform]" in refused.value.hint
    assert not ran.exists()
