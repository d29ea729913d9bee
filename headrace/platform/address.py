"""Addresses of the parts: ports on 127.0.0.1 for the embedded servers, and `Endpoints` from settings, keys and ports."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from headrace.errors import Unavailable
from headrace.platform.home import Home
from headrace.platform.keys import Keys
from headrace.storage.endpoints import Endpoints, MetadataEndpoint, ModelEndpoint, RecordStore

if TYPE_CHECKING:
    from headrace.settings import Settings


LOOPBACK = "127.0.0.1"
GRPC_OFFSET = 10_000
"""SeaweedFS assumes that a server's gRPC port is its HTTP port plus this; some of its code ignores the flag."""

_RANGE = range(10_100, 22_700)
"""Keeps a port and its gRPC port below 32768, where Linux's ephemeral ports begin."""

_WEED = ("s3", "filer", "master", "volume", "admin")


class Ports(BaseModel):
    """One port per listener; SeaweedFS's servers also have a gRPC port, `GRPC_OFFSET` higher."""

    model_config = ConfigDict(frozen=True)

    s3: int = 0
    filer: int = 0
    master: int = 0
    volume: int = 0
    admin: int = 0
    catalog: int = 0
    metrics: int = 0
    kafka: int = 0
    models: int = 0

    def all(self) -> Iterator[int]:
        """Every port, including gRPC ports."""
        for name, port in self:
            yield port
            if name in _WEED:
                yield port + GRPC_OFFSET

    def sockets(self) -> Iterator[Path]:
        """The Unix sockets of SeaweedFS's gRPC ports; their directory is fixed."""
        for name in _WEED:
            yield _socket(name, getattr(self, name) + GRPC_OFFSET)

    @property
    def squatted(self) -> bool:
        """Whether another user owns a file with the name of one of those sockets, through which SeaweedFS would connect."""
        return any(_foreign(path) for path in self.sockets())


def _socket(name: str, port: int) -> Path:
    return Path(f"/tmp/seaweedfs-{name}-grpc-{port}.sock")


def _foreign(path: Path) -> bool:
    try:
        return path.lstat().st_uid != os.geteuid()
    except OSError:
        return False


def remove_sockets(ports: Ports) -> None:
    """Remove Unix sockets left by a killed SeaweedFS, but not another user's."""
    for path in ports.sockets():
        if not _foreign(path):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def free(port: int) -> bool:
    """Whether `port` of 127.0.0.1 is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def choose_ports(previous: Ports | None = None) -> Ports:
    """Free ports for all listeners, those of `previous` if still free. Raises `Unavailable` if there are none."""
    ports = Ports()
    for listener in Ports.model_fields:
        ports = another_port(ports, listener, getattr(previous, listener) if previous else 0)
    return ports


def another_port(ports: Ports, listener: str, wish: int = 0) -> Ports:
    """`ports` with a free port for `listener`: `wish` if it is free, else any. Raises `Unavailable` if there is none."""
    offsets = (0, GRPC_OFFSET) if listener in _WEED else (0,)
    taken = set(ports.all())
    for port in [wish, *random.sample(_RANGE, 200)] if wish else random.sample(_RANGE, 200):
        pair = {port + offset for offset in offsets}
        squatted = listener in _WEED and _foreign(_socket(listener, port + GRPC_OFFSET))
        if not pair & taken and not squatted and all(free(number) for number in pair):
            return ports.model_copy(update={listener: port})
    raise Unavailable(
        f"No free port found on {LOOPBACK} between {_RANGE.start} and {_RANGE.stop}.",
        hint="Stop some servers on this machine and try again.",
    )


BUCKET = "headrace"
VECTORS = "headrace-vectors"
HEAD = "headrace-head"
PROBE = "headrace-probe"
"""Bucket for readiness checks, so that the counters of the others contain only the pipelines' bytes."""
LAKE = "lake"
REGION = "us-east-1"

MODEL_PARTS = ("embedder", "reranker", "generator")


def embedded_parts(settings: Settings, parts: frozenset[str]) -> frozenset[str]:
    """Which of `objects`, `head`, `models` to start: needed, and not given in the settings.

    The embedded head stores its records in the embedded object store, so it needs that too.
    """
    from headrace.settings import EmbeddedPart

    names: set[str] = set()
    if "objects" in parts and isinstance(settings.objects, EmbeddedPart):
        names.add("objects")
    if "head" in parts and isinstance(settings.head, EmbeddedPart):
        names |= {"objects", "head"}
    if "models" in parts and any(isinstance(getattr(settings.models, name), EmbeddedPart) for name in MODEL_PARTS):
        names.add("models")
    return frozenset(names)


def embedded_endpoints(home: Home, keys: Keys, ports: Ports) -> Endpoints:
    """Endpoints of the platform in `home` if all its parts are embedded."""
    s3 = f"http://{LOOPBACK}:{ports.s3}"
    catalog = f"http://{LOOPBACK}:{ports.catalog}"

    def model(name: str) -> ModelEndpoint:
        return ModelEndpoint(url=f"http://{LOOPBACK}:{ports.models}/v1", model=name, api_key=keys.models_key)

    return Endpoints(
        s3_endpoint=s3,
        store_disk=home.root,
        s3_access_key=keys.s3_access_key,
        s3_secret_key=keys.s3_secret_key,
        s3_region=REGION,
        bucket=BUCKET,
        catalog_uri=catalog,
        warehouse=f"s3://{LAKE}",
        # SeaweedFS's catalog also accepts signed requests, but for those pyiceberg needs boto3. OAuth needs no extra package, and
        # expired tokens are renewed.
        catalog_properties={
            "credential": f"{keys.s3_access_key}:{keys.s3_secret_key}",
            "oauth2-server-uri": f"{catalog}/v1/oauth/tokens",
            **_file_properties(s3, keys.s3_access_key, keys.s3_secret_key, REGION),
        },
        kafka_bootstrap=f"{LOOPBACK}:{ports.kafka}",
        signing_key=keys.signing_key,
        records=RecordStore(
            endpoint=s3, access_key=keys.s3_access_key, secret_key=keys.s3_secret_key, region=REGION, bucket=HEAD
        ),
        files_dir=home.files,
        kv_cache_bytes=0,
        vectors_uri=f"s3://{VECTORS}",
        metadata=MetadataEndpoint(file=home.metadata),
        embedder=model("embedder"),
        reranker=model("reranker"),
        generator=model("generator"),
        s3_metrics_url=f"http://{LOOPBACK}:{ports.metrics}/metrics",
    )


def brought(settings: Settings) -> dict[str, Any]:
    """Fields of `Endpoints`, as JSON values, that come from the settings instead of the embedded platform."""
    from headrace.settings import S3, EmbeddedPart, Endpoint, Kafka, PostgreSQL, RestCatalog, Vast

    files = settings.files
    fields: dict[str, Any] = {
        "kv_backend": files.kv_backend,
        "kv_memory_bytes": files.kv_memory_bytes,
        "kv_cache_bytes": files.kv_cache_bytes,
        "kv_cache_policy": files.kv_cache_policy,
        "kv_cache_ttl_s": files.kv_cache_ttl_s,
        "kv_cache_canary": files.kv_cache_canary,
    }
    if not settings.platform.counters:
        fields["s3_metrics_url"] = ""
    if settings.files.dir is not None:
        fields["files_dir"] = str(settings.files.dir.expanduser().resolve())
    objects = settings.objects
    if isinstance(objects, S3):
        fields |= {
            "s3_endpoint": objects.endpoint,
            "store_disk": None,
            "s3_access_key": objects.access_key,
            "s3_secret_key": objects.secret_key.get_secret_value(),
            "s3_region": objects.region,
            "bucket": objects.bucket,
            "vectors_uri": f"s3://{objects.bucket}/vectors",
            "s3_metrics_url": "",
        }
    if isinstance(objects, S3) and isinstance(settings.tables, EmbeddedPart):
        fields |= {
            "catalog_uri": _catalog_in_sql(settings),
            "warehouse": f"s3://{objects.bucket}/tables",
            "catalog_properties": _file_properties(
                objects.endpoint, objects.access_key, objects.secret_key.get_secret_value(), objects.region
            ),
        }
    if settings.vectors.uri is not None:
        fields["vectors_uri"] = settings.vectors.uri
    if isinstance(settings.tables, RestCatalog):
        defaults = (
            _file_properties(objects.endpoint, objects.access_key, objects.secret_key.get_secret_value(), objects.region)
            if isinstance(objects, S3)
            else {}
        )
        fields |= {
            "catalog_uri": settings.tables.uri,
            "warehouse": settings.tables.warehouse,
            "catalog_properties": defaults | settings.tables.properties,
        }
    if isinstance(settings.tables, Vast):
        fields["vast"] = {
            **settings.tables.model_dump(exclude={"type", "secret_key"}),
            "secret_key": settings.tables.secret_key.get_secret_value(),
        }
    if isinstance(settings.metadata, PostgreSQL):
        fields["metadata"] = {"url": settings.metadata.url.get_secret_value(), "db_schema": settings.metadata.db_schema}
    if isinstance(settings.head, Kafka):
        properties = dict(settings.head.properties)
        signing_key = settings.head.signing_key.get_secret_value() if settings.head.signing_key else ""
        fields |= {"kafka_bootstrap": settings.head.bootstrap, "kafka_properties": properties, "records": None}
        fields["signing_key"] = signing_key
    for name in MODEL_PARTS:
        model = getattr(settings.models, name)
        if isinstance(model, Endpoint):
            fields[name] = {
                "url": model.url,
                "model": model.model,
                "api_key": model.api_key.get_secret_value() if model.api_key else "",
                "timeout_s": model.timeout_s,
            }
    return fields


def storage_names(settings: Settings, endpoints: Endpoints) -> dict[str, str]:
    """What is behind each tier, in a few words and without keys: `embedded S3`, `S3 at HOST`, `VAST DB at HOST`."""
    from headrace.settings import EmbeddedPart

    objects_embedded = isinstance(settings.objects, EmbeddedPart)
    s3 = "embedded S3" if objects_embedded else f"S3 at {_host(endpoints.s3_endpoint)}"
    vectors = "embedded LanceDB" if objects_embedded else f"LanceDB on {s3}"
    if settings.vectors.uri is not None:
        scheme, _, place = settings.vectors.uri.partition("://")
        named = f"{scheme}://{place.partition('?')[0].rpartition('@')[2]}" if place else settings.vectors.uri
        vectors = f"LanceDB on {named}"
    if endpoints.vast:
        tables = f"VAST DB at {_host(endpoints.vast.endpoint)}"
    elif endpoints.catalog_in_sql:
        catalog = "PostgreSQL" if endpoints.metadata and endpoints.metadata.url else "the home"
        tables = f"Iceberg on {s3}, catalog in {catalog}"
    elif isinstance(settings.tables, EmbeddedPart):
        tables = "embedded Iceberg"
    else:
        tables = f"Iceberg at {_host(endpoints.catalog_uri)}"
    brokers = endpoints.kafka_bootstrap.partition(",")[0]
    return {
        "stream": "embedded Kafka" if isinstance(settings.head, EmbeddedPart) else f"Kafka at {brokers}",
        "object": s3,
        "table": tables,
        "vector": vectors,
        "file": "local directory" if settings.files.dir is None else str(settings.files.dir),
    }


def _catalog_in_sql(settings: Settings) -> str:
    """The database of a catalog for the user's S3, without user and password."""
    from headrace.settings import PostgreSQL

    if isinstance(settings.metadata, PostgreSQL):
        parts = urlsplit(settings.metadata.url.get_secret_value())
        return f"postgresql://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return f"sqlite:///{settings.home.expanduser().resolve() / 'catalog.db'}"


def _host(url: str) -> str:
    """The host of a URL, and its port if it has one."""
    parts = urlsplit(url if "://" in url else f"//{url}")
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def overlay(endpoints: Endpoints, fields: dict[str, Any]) -> Endpoints:
    """`endpoints` with `fields` replaced."""
    return Endpoints.model_validate(endpoints.model_dump() | fields)


def _file_properties(endpoint: str, access_key: str, secret_key: str, region: str) -> dict[str, str]:
    return {
        "s3.endpoint": endpoint,
        "s3.access-key-id": access_key,
        "s3.secret-access-key": secret_key,
        "s3.region": region,
        "s3.force-virtual-addressing": "false",
    }
