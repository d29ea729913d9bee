"""Endpoints: the resolved addresses and keys of each tier, which handles connect to.

They come from the embedded platform for the parts it started, and from the settings for the user's own.
"""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ModelEndpoint(BaseModel):
    """One model at an HTTP base URL that ends in `/v1`."""

    model_config = ConfigDict(frozen=True)

    url: str
    model: str
    api_key: str = ""
    timeout_s: float = 60.0


class VastEndpoint(BaseModel):
    """VAST DB, if it holds the table tier."""

    model_config = ConfigDict(frozen=True)

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str
    db_schema: str
    ssl_verify: bool = True
    timeout_s: float = 60.0
    data_endpoints: tuple[str, ...] = ()


class S3Location(BaseModel):
    """An S3 endpoint from which documents are read, and the keys for it."""

    model_config = ConfigDict(frozen=True)

    endpoint: str
    access_key: str
    secret_key: str = Field(repr=False)
    region: str = "us-east-1"


class RecordStore(BaseModel):
    """The bucket in which the embedded head keeps its records."""

    model_config = ConfigDict(frozen=True)

    endpoint: str
    access_key: str
    secret_key: str
    region: str
    bucket: str


class MetadataEndpoint(BaseModel):
    """The metadata store: PostgreSQL if `url` is set, else an SQLite file."""

    model_config = ConfigDict(frozen=True)

    file: Path = Path("metadata.db")
    url: str = ""
    db_schema: str = "headrace"


class Endpoints(BaseModel):
    """Addresses and keys of storage, the head and the models. Contains secrets: keep files of it at mode 0600."""

    model_config = ConfigDict(frozen=True)

    store_disk: Path | None = None
    """A folder on the disk of the embedded object store; `None`: the object store is your own."""
    s3_endpoint: str
    s3_access_key: str
    s3_secret_key: str
    s3_region: str
    bucket: str
    catalog_uri: str
    warehouse: str
    catalog_properties: dict[str, str] = {}
    vast: VastEndpoint | None = None
    """If set, holds the tables instead of the Iceberg catalog."""
    kafka_bootstrap: str
    kafka_properties: dict[str, str] = {}
    signing_key: str = ""
    """Key that signs events written to the head; unsigned events then do not land. Empty: no signatures."""
    records: RecordStore | None = None
    """The embedded head's bucket; none for the user's own Kafka."""
    files_dir: Path
    kv_backend: str = "files"
    """The KV cache's backend, by its name in `BACKENDS` (models/kv/backends.py)."""
    kv_memory_bytes: int = 0
    """Memory of the model server in front of it."""
    kv_cache_bytes: int
    kv_cache_policy: Literal["break-even", "always", "never"] = "always"
    """When prefixes are loaded from the KV cache and stored (models/kv/economy.py)."""
    kv_cache_ttl_s: float | None = None
    """Seconds after its last use when a block is removed; `None`: only for room."""
    kv_cache_canary: float = 0.0
    """Share of the answers with a restored prefix of which it is recomputed and compared."""
    vectors_uri: str
    metadata: MetadataEndpoint | None = None
    embedder: ModelEndpoint
    reranker: ModelEndpoint
    generator: ModelEndpoint
    s3_metrics_url: str = ""
    """Prometheus counters of the embedded object store; empty for the user's own."""

    @property
    def s3(self) -> S3Location:
        """The object tier's S3."""
        keys = {"access_key": self.s3_access_key, "secret_key": self.s3_secret_key}
        return S3Location(endpoint=self.s3_endpoint, region=self.s3_region, **keys)

    @property
    def catalog_in_sql(self) -> bool:
        """Whether the Iceberg catalog is in the metadata store's database instead of behind a REST API."""
        return not self.catalog_uri.startswith("http")

    @property
    def cache_salt_key(self) -> bytes:
        """The key of the salts that keep tenants' prefixes apart at model endpoints: the same for all who share storage."""
        secret = self.signing_key or self.s3_secret_key
        return hmac.digest(secret.encode(), b"headrace cache salt", "sha256") if secret else b""

    @property
    def table_format(self) -> str:
        """The table backend, by its name in `FORMATS` (storage/tables/handles.py)."""
        return "vast" if self.vast else "iceberg"

    def own_prefixes(self, bucket: str) -> tuple[str, ...]:
        """The prefixes of a bucket that Headrace writes to: "" for all of it, else with a slash at the end."""
        addresses = [f"s3://{self.bucket}", self.vectors_uri.partition("?")[0], self.warehouse]
        addresses += [f"s3://{self.records.bucket}"] if self.records else []
        addresses += [f"s3://{self.vast.bucket}"] if self.vast else []
        prefixes = set()
        for address in addresses:
            scheme, _, place = address.partition("://")
            name, _, prefix = place.partition("/")
            # Names are compared in lower case: an S3 server may take both spellings for one bucket.
            if scheme.lower() in ("s3", "s3a", "s3n") and name.lower() == bucket.lower():
                prefixes.add(f"{prefix.strip('/')}/" if prefix.strip("/") else "")
        return tuple(sorted(prefixes))
