"""A network file system on this machine: SeaweedFS's filer, mounted by its FUSE client. Needs /dev/fuse."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headrace.platform.address import GRPC_OFFSET, Ports
from headrace.platform.certificates import certificate_of
from headrace.platform.home import Home
from headrace.platform.keys import keys_of
from headrace.platform.seaweedfs import weed_binary

_READY_S = 20.0


class NotMounted(Exception):
    """The file system cannot be mounted here; the message says why."""


@contextmanager
def mounted(home: Home, ports: Ports, place: Path) -> Iterator[Path]:
    """The filer of the SeaweedFS of `home` at the empty directory `place`, as a host of its own. Raises `NotMounted`."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise NotMounted("there is no /dev/fuse that this user may open")
    certificate, keys = str(certificate_of(home)), keys_of(home)
    env = {
        "PATH": os.defpath,
        "HOME": str(place.parent),
        "WEED_JWT_SIGNING_KEY": keys.volume_write_key,
        "WEED_JWT_SIGNING_READ_KEY": keys.volume_read_key,
        "WEED_JWT_FILER_SIGNING_KEY": keys.filer_write_key,
        "WEED_JWT_FILER_SIGNING_READ_KEY": keys.filer_read_key,
        "WEED_GRPC_CA": certificate,
        "WEED_GRPC_CLIENT_CERT": certificate,
        "WEED_GRPC_CLIENT_KEY": certificate,
    }
    beside = place.parent
    flags = {
        "filer": f"127.0.0.1:{ports.filer}.{ports.filer + GRPC_OFFSET}",
        "dir": str(place),
        "filer.path": "/kv-mount",
        "cacheDir": str(beside / f"{place.name}-cache"),
        "localSocket": str(beside / f"{place.name}.sock"),
    }
    command = [weed_binary(), "-logtostderr=true", "mount", *(f"-{name}={value}" for name, value in flags.items())]
    log = beside / f"{place.name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=env, cwd=beside, stdout=output, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + _READY_S
        while not os.path.ismount(place):
            if process.poll() is not None or time.monotonic() > end:
                raise NotMounted(f"SeaweedFS cannot be mounted: {log.read_text(errors='replace')[-400:]}")
            time.sleep(0.05)
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=False, capture_output=True)
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
