"""From settings, keys and ports to `Endpoints`: which parts are embedded, and what settings bring themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.platform.home import Home
from headrace.platform.keys import Keys
from headrace.platform.ports import LOOPBACK, Ports
from headrace.storage.endpoints import Endpoints, MetadataEndpoint, ModelEndpoint, RecordStore

if TYPE_CHECKING:  # the supervisor starts sooner without them
    from headrace.settings import Settings

BUCKET = "headrace"
VECTORS = "headrace-vectors"
HEAD = "headrace-head"
PROBE = "headrace-probe"
"""Readiness is asked of a bucket of its own, so that the counters of the others hold the pipelines' bytes and no more."""
LAKE = "lake"
REGION = "us-east-1"

MODELS = ("embedder", "reranker", "generator")


def embedded_parts(settings: Settings, parts: frozenset[str]) -> frozenset[str]:
    """Which of `objects`, `head`, `models` must be started: needed, and not brought by settings.

    The embedded head keeps its records in the embedded object store, so it needs that too.
    """
    from headrace.settings import EmbeddedPart

    found: set[str] = set()
    if "objects" in parts and (isinstance(settings.objects, EmbeddedPart) or isinstance(settings.tables, EmbeddedPart)):
        found.add("objects")
    if "head" in parts and isinstance(settings.head, EmbeddedPart):
        found |= {"objects", "head"}
    if "models" in parts and any(isinstance(getattr(settings.models, name), EmbeddedPart) for name in MODELS):
        found.add("models")
    return frozenset(found)


def embedded_endpoints(home: Home, keys: Keys, ports: Ports) -> Endpoints:
    """Endpoints of the platform in `home` as if every part of it were embedded."""
    s3 = f"http://{LOOPBACK}:{ports.s3}"
    catalog = f"http://{LOOPBACK}:{ports.catalog}"

    def model(name: str) -> ModelEndpoint:
        return ModelEndpoint(url=f"http://{LOOPBACK}:{ports.models}/v1", model=name, api_key=keys.models_key)

    return Endpoints(
        s3_endpoint=s3,
        s3_access_key=keys.s3_access_key,
        s3_secret_key=keys.s3_secret_key,
        s3_region=REGION,
        bucket=BUCKET,
        catalog_uri=catalog,
        warehouse=f"s3://{LAKE}",
        # SeaweedFS's catalog takes signed requests too, but for those pyiceberg wants boto3; OAuth needs nothing more,
        # and a token that ran out is fetched anew.
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
    """Fields of `Endpoints`, as JSON values, that settings decide rather than the embedded platform."""
    from headrace.settings import S3, Endpoint, Kafka, PostgreSQL, RestCatalog, Vast

    fields: dict[str, Any] = {"kv_cache_bytes": settings.files.kv_cache_bytes}
    if not settings.platform.counters:
        fields["s3_metrics_url"] = ""
    if settings.files.dir is not None:
        fields["files_dir"] = str(settings.files.dir.expanduser().resolve())
    objects = settings.objects
    if isinstance(objects, S3):
        fields |= {
            "s3_endpoint": objects.endpoint,
            "s3_access_key": objects.access_key,
            "s3_secret_key": objects.secret_key.get_secret_value(),
            "s3_region": objects.region,
            "bucket": objects.bucket,
            "vectors_uri": f"s3://{objects.bucket}/vectors",
            "s3_metrics_url": "",
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
    for name in MODELS:
        model = getattr(settings.models, name)
        if isinstance(model, Endpoint):
            fields[name] = {
                "url": model.url,
                "model": model.model,
                "api_key": model.api_key.get_secret_value() if model.api_key else "",
                "timeout_s": model.timeout_s,
            }
    return fields


def overlay(endpoints: Endpoints, fields: dict[str, Any]) -> Endpoints:
    """`endpoints` with the brought `fields` in place of its own."""
    return Endpoints.model_validate(endpoints.model_dump() | fields)


def _file_properties(endpoint: str, access_key: str, secret_key: str, region: str) -> dict[str, str]:
    return {
        "s3.endpoint": endpoint,
        "s3.access-key-id": access_key,
        "s3.secret-access-key": secret_key,
        "s3.region": region,
        "s3.force-virtual-addressing": "false",
    }
