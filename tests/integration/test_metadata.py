"""The metadata store on both of its databases; PostgreSQL is a real server that the tests start themselves."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import victims
from disk import mounted
from forks import ForkedProcess

from headrace.errors import BadSettings, HomeRefused, MissingPart, NotFound, StorageFull, Unavailable, WrongUsage
from headrace.platform.address import Ports, brought, embedded_endpoints
from headrace.platform.home import Home
from headrace.platform.keys import Keys
from headrace.settings import Settings
from headrace.storage import database, migrations
from headrace.storage.endpoints import Endpoints, MetadataEndpoint, ModelEndpoint
from headrace.storage.metadata import Metadata
from headrace.storage.migrations import MIGRATIONS

if TYPE_CHECKING:
    from postgresql import Server

pytest_plugins = ["postgresql"]


def endpoints_of(found: MetadataEndpoint) -> Endpoints:
    model = ModelEndpoint(url="", model="")
    unused = ("s3_endpoint", "s3_access_key", "s3_secret_key", "s3_region", "bucket", "catalog_uri", "warehouse", "vectors_uri")
    return Endpoints(
        **dict.fromkeys(unused, ""),
        kafka_bootstrap="",
        files_dir=Path("."),
        kv_cache_bytes=0,
        metadata=found,
        embedder=model,
        reranker=model,
        generator=model,
    )


@pytest.fixture(params=["sqlite", "postgresql"])
def found(request: pytest.FixtureRequest, tmp_path: Path) -> MetadataEndpoint:
    """An empty store."""
    if request.param == "sqlite":
        return MetadataEndpoint(file=tmp_path / "home" / "metadata.db")
    return MetadataEndpoint(url=request.getfixturevalue("server").url, db_schema=f"t{uuid4().hex}")


@pytest.fixture
def store(found: MetadataEndpoint) -> Iterator[Metadata]:
    with closing(Metadata(endpoints_of(found))) as store:
        yield store


def raw(found: MetadataEndpoint, statement: str) -> list[tuple[Any, ...]]:
    """What the database itself says."""
    if not found.url:
        with closing(sqlite3.connect(found.file)) as connection, connection:
            return connection.execute(statement).fetchall()
    import psycopg

    with psycopg.connect(found.url) as connection:
        connection.execute(f"SET search_path TO {found.db_schema}")
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def test_tenants_are_kept(store: Metadata, found: MetadataEndpoint) -> None:
    assert store.tenants() == []
    given = store.add_tenant("globex", {"kv_cache_bytes": 1 << 40, "of": ["ü", None]})
    store.add_tenant("acme")
    with closing(Metadata(endpoints_of(found))) as other:
        assert [tenant.name for tenant in other.tenants()] == ["acme", "globex"]
        assert other.tenants()[1] == given
        assert other.tenants()[0].quotas == {}
    assert abs(datetime.now(UTC) - given.created_at) < timedelta(minutes=1)


def test_a_tenant_is_added_once_and_by_a_proper_name(store: Metadata) -> None:
    store.add_tenant("acme")
    with pytest.raises(WrongUsage, match="already"):
        store.add_tenant("acme")
    for name in ("", "Acme", "-acme", "a" * 64, "acme'; DROP TABLE tenants; --", "acme\n"):
        with pytest.raises(WrongUsage, match="not a valid tenant name"):
            store.add_tenant(name)
    assert [tenant.name for tenant in store.tenants()] == ["acme"]


def test_a_key_says_who_until_it_is_revoked(store: Metadata, found: MetadataEndpoint) -> None:
    store.add_tenant("acme")
    store.add_tenant("globex")
    text, key = store.create_key("acme", ["index", "ask", "ask"], label="of the crawler's")
    other, _ = store.create_key("globex", ["ask"])
    caller = store.holder_of(text)
    assert caller is not None
    assert (caller.tenant, caller.scopes, caller.key_id) == ("acme", ("ask", "index"), key.id)
    assert (found_other := store.holder_of(other)) is not None
    assert found_other.tenant == "globex"
    (kept,) = store.keys("acme")
    assert (kept.id, kept.scopes, kept.label, kept.revoked_at) == (key.id, key.scopes, "of the crawler's", None)
    assert kept.last_used_at is not None
    assert len(store.keys()) == 2
    with closing(Metadata(endpoints_of(found))) as elsewhere:
        assert elsewhere.holder_of(text) == caller
        elsewhere.revoke_key(key.id)
    assert store.holder_of(text) is None  # at once, in other processes too
    revoked = store.keys("acme")[0].revoked_at
    store.revoke_key(key.id)
    assert store.keys("acme")[0].revoked_at == revoked
    assert store.holder_of(other) is not None


def test_a_key_that_is_not_ours_is_nobodys(store: Metadata) -> None:
    store.add_tenant("acme")
    text, key = store.create_key("acme", ["ask"])
    _, _, secret = text.split("_", 2)
    last = "A" if text[-1] != "A" else "B"
    wrong = [
        "",
        "hr__",
        text[:-1] + last,
        f"hr_{key.id}_{'A' * 43}",
        f"hr_{'0' * 16}_{secret}",
        text + "\n",
        text.upper(),
        f"hr_{key.id}'--_{secret}",
        secret,
        "ü" * 64,
    ]
    for attempt in wrong:
        assert store.holder_of(attempt) is None, attempt
    assert store.keys()[0].last_used_at is None


def test_a_keys_secret_is_nowhere_in_the_store(store: Metadata, found: MetadataEndpoint) -> None:
    store.add_tenant("acme")
    first, _ = store.create_key("acme", ["ask"])
    second, _ = store.create_key("acme", ["ask"])
    secret = first.split("_", 2)[2]
    assert len(secret) == 43  # 256 bits
    assert first != second
    kept = raw(found, "SELECT * FROM api_keys")
    assert len(kept) == 2
    assert secret not in repr(kept)
    store.close()
    if not found.url:
        assert all(secret.encode() not in path.read_bytes() for path in found.file.parent.iterdir())


def test_a_key_needs_a_tenant_and_a_scope(store: Metadata) -> None:
    with pytest.raises(NotFound, match="no tenant acme"):
        store.create_key("acme", ["ask"])
    store.add_tenant("acme")
    for scopes in ([], ["ask", ""], ["Ask"], ["a b"]):
        with pytest.raises(WrongUsage):
            store.create_key("acme", scopes)
    with pytest.raises(NotFound):
        store.revoke_key("0" * 16)
    assert store.keys() == []


def test_threads_share_a_handle(store: Metadata) -> None:
    store.add_tenant("acme")
    with ThreadPoolExecutor(8) as pool:
        texts = [text for text, _ in pool.map(lambda _: store.create_key("acme", ["ask"]), range(24))]
        assert all(caller is not None for caller in pool.map(store.holder_of, texts))
    assert len({key.id for key in store.keys("acme")}) == 24


def test_handles_that_write_at_once_wait_for_each_other(store: Metadata, found: MetadataEndpoint) -> None:
    store.add_tenant("acme")

    def work(number: int) -> list[bool]:
        with closing(Metadata(endpoints_of(found))) as own:
            own.create_key("acme", ["ask"])
            return [_adds(own, f"t{entry}") for entry in range(5)]

    with ThreadPoolExecutor(6) as pool:
        added = list(pool.map(work, range(6)))
    assert [sum(successes) for successes in zip(*added, strict=True)] == [1] * 5  # each name by exactly one of them
    assert len(store.keys()) == 6


def _adds(store: Metadata, name: str) -> bool:
    try:
        store.add_tenant(name)
    except WrongUsage:
        return False
    return True


def test_processes_that_migrate_at_once_do_it_once(found: MetadataEndpoint, within: Any) -> None:
    processes = [ForkedProcess(victims.migrating, endpoints_of(found)) for _ in range(4)]
    assert within(30, lambda: all(process.said == ["ready"] for process in processes))
    for process in processes:
        process.send("go")
    assert [process.wait() for process in processes] == [0] * 4
    assert raw(found, "SELECT version FROM migrations") == [(version,) for version in range(1, len(MIGRATIONS) + 1)]


def test_a_migration_that_was_killed_left_nothing_behind(
    found: MetadataEndpoint, monkeypatch: pytest.MonkeyPatch, within: Any
) -> None:
    child = ForkedProcess(victims.half_migrating, endpoints_of(found))
    assert within(30, lambda: child.said == ["in the middle"])
    child.kill()
    child.killed()
    monkeypatch.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, ("CREATE TABLE half (y INTEGER)", "INSERT INTO half VALUES (7)")))
    with closing(Metadata(endpoints_of(found))) as store:
        assert store.tenants() == []
    assert raw(found, "SELECT version FROM migrations ORDER BY version") == [(n + 1,) for n in range(len(MIGRATIONS) + 1)]
    assert raw(found, "SELECT y FROM half") == [(7,)]


def test_a_store_of_a_newer_version_is_left_alone(store: Metadata, found: MetadataEndpoint) -> None:
    store.add_tenant("acme")
    raw(found, "INSERT INTO migrations (version, applied_at) VALUES (99, 'later')")
    with closing(Metadata(endpoints_of(found))) as other, pytest.raises(BadSettings, match="version 99"):
        other.tenants()


def test_a_locked_store_is_waited_for_but_not_for_ever(
    store: Metadata, found: MetadataEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add_tenant("acme")
    store.close()
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        if found.url:
            import psycopg

            with psycopg.connect(found.url) as connection:
                connection.execute(f"LOCK TABLE {found.db_schema}.tenants IN ACCESS EXCLUSIVE MODE")
                held.set()
                let_go.wait(30)
        else:
            with closing(sqlite3.connect(found.file, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                held.set()
                let_go.wait(30)

    monkeypatch.setattr(database, "_WAIT_S", 1.0)
    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(30)
    try:
        with pytest.raises(Unavailable, match="locked for 1 s"):
            store.add_tenant("globex")
        monkeypatch.setattr(database, "_WAIT_S", 20.0)
        store.close()
        threading.Timer(0.3, let_go.set).start()
        store.add_tenant("globex")
        assert let_go.is_set()
    finally:
        let_go.set()
        holder.join()
    assert [tenant.name for tenant in store.tenants()] == ["acme", "globex"]


def test_what_runs_alone_may_take_long(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration of millions of documents, which would be given up and begun again for ever."""
    monkeypatch.setattr(database, "_WAIT_S", 1.0)
    slow = "SELECT pg_sleep(1.2)"
    with closing(Metadata(endpoints_of(MetadataEndpoint(url=server.url, db_schema="slow")))) as store:
        with store.transaction(alone=True) as run:
            assert run(slow, {})
        with pytest.raises(Unavailable, match="locked for 1 s"), store.transaction(writing=True) as run:
            run(slow, {})


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "home" / "metadata.db"
    previous = os.umask(0)
    try:
        with closing(Metadata(endpoints_of(MetadataEndpoint(file=file)))) as store:
            store.add_tenant("acme")
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in file.parent.iterdir()}
    finally:
        os.umask(previous)
    assert set(modes) == {"metadata.db", "metadata.db-wal", "metadata.db-shm"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert raw(MetadataEndpoint(file=file), "PRAGMA journal_mode") == [("wal",)]


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "metadata.db"
    file.write_bytes(b"not a database, and longer than the hundred bytes of an SQLite header" * 4)
    with pytest.raises(HomeRefused, match="cannot be used"):
        Metadata(endpoints_of(MetadataEndpoint(file=file))).tenants()
    (tmp_path / "plain").write_text("")
    with pytest.raises(HomeRefused):
        Metadata(endpoints_of(MetadataEndpoint(file=tmp_path / "plain" / "metadata.db"))).tenants()


def test_postgresql_that_is_down_says_so_and_is_found_again(server: Server) -> None:
    store = Metadata(endpoints_of(MetadataEndpoint(url=server.url, db_schema="down")))
    store.add_tenant("acme")
    server.stop()
    try:
        with pytest.raises(Unavailable, match="does not answer") as raised:
            store.tenants()
        assert f"127.0.0.1:{server.port}" in raised.value.message
        assert "url under [metadata]" in raised.value.hint
        assert server.password not in str(raised.value)
        assert "pass%2F" not in str(raised.value)
    finally:
        server.start()
    assert [tenant.name for tenant in store.tenants()] == ["acme"]
    server.stop()
    server.start()
    assert [tenant.name for tenant in store.tenants()] == ["acme"]  # by a new connection, without a failure in between
    store.close()


def test_postgresql_that_refuses_us_says_so(server: Server) -> None:
    import psycopg

    for url in (server.url.replace("pass%2F", "other"), server.url.replace("/postgres", "/nowhere", 2)[: len(server.url) + 9]):
        with pytest.raises(BadSettings, match="rejects the connection") as raised:
            Metadata(endpoints_of(MetadataEndpoint(url=url))).tenants()
        assert server.password not in str(raised.value)
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE ROLE weak LOGIN PASSWORD 'weak'")
    with pytest.raises(BadSettings, match="permission denied"):
        Metadata(endpoints_of(MetadataEndpoint(url=f"postgresql://weak:weak@127.0.0.1:{server.port}/postgres"))).tenants()


def test_without_the_package_it_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingPart, match="make install-postgresql"):
        Metadata(endpoints_of(MetadataEndpoint(url="postgresql://127.0.0.1/x"))).tenants()


def test_settings_name_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_SETTINGS", str(tmp_path / "headrace.toml"))
    settings = Settings.load(home=tmp_path / "home")
    ports = Ports(**dict.fromkeys(Ports.model_fields, 1025))
    embedded = embedded_endpoints(Home(settings.home), Keys(), ports)
    assert embedded.metadata == MetadataEndpoint(file=tmp_path / "home" / "metadata.db")
    assert "metadata" not in brought(settings)
    (tmp_path / "headrace.toml").write_text('[metadata]\ntype = "postgresql"\n')
    monkeypatch.setenv("HEADRACE_METADATA__URL", "postgresql://u:hidden@db.example.net/headrace")
    settings = Settings.load()
    assert "hidden" not in repr(settings)
    assert brought(settings)["metadata"] == {
        "url": "postgresql://u:hidden@db.example.net/headrace",
        "db_schema": "headrace",
    }


def test_a_second_connection_of_a_process_does_not_release_the_locks_of_the_first(tmp_path: Path) -> None:
    file = tmp_path / "metadata.db"
    first, second = (Metadata(endpoints_of(MetadataEndpoint(file=file))) for _ in range(2))
    first.add_tenant("acme")
    assert [tenant.name for tenant in second.tenants()] == ["acme"]

    def counted() -> int:
        """By another process, which by the locks is the last to close the file or is not: the last one removes the log."""
        script = f"import sqlite3; print(sqlite3.connect({str(file)!r}).execute('SELECT count(*) FROM tenants').fetchone()[0])"
        return int(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=60).stdout)

    assert counted() == 1
    first.add_tenant("apex")
    assert counted() == 2


@pytest.mark.parametrize("left_kib", [0, 16, 48])
def test_a_full_disk_is_said_to_be_full_however_little_is_left(tmp_path: Path, left_kib: int) -> None:
    """SQLite calls it a disk I/O error while less is left than the index of its log needs."""
    with mounted(tmp_path / "disk", megabytes=2) as disk:
        endpoints = endpoints_of(MetadataEndpoint(file=disk.path / "metadata.db"))
        with closing(Metadata(endpoints)) as metadata:
            metadata.add_tenant("acme")
        disk.fill()
        ballast = disk.path / "ballast"
        os.truncate(ballast, ballast.stat().st_size - (left_kib << 10))
        with closing(Metadata(endpoints)) as metadata:

            def fill() -> None:
                for number in range(100):
                    metadata.add_tenant(f"tenant-{number}")

            with pytest.raises(StorageFull, match="No space left"):
                fill()
            disk.free()
            metadata.add_tenant("zebra")
            assert {"acme", "zebra"} <= {tenant.name for tenant in metadata.tenants()}
