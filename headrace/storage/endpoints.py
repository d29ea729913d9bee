"""Where each tier answers: the resolved addresses and keys that handles connect to.

The embedded platform fills them for the parts it started, settings for the parts the user brought.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict


class ModelEndpoint(BaseModel):
    """One model behind an HTTP base URL that ends in `/v1`."""

    model_config = ConfigDict(frozen=True)

    url: str
    model: str
    api_key: str = ""
    timeout_s: float = 60.0


class VastEndpoint(BaseModel):
    """VAST DB, where it holds the table tier."""

    model_config = ConfigDict(frozen=True)

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str
    db_schema: str
    ssl_verify: bool = True
    timeout_s: float = 60.0
    data_endpoints: tuple[str, ...] = ()


class RecordStore(BaseModel):
    """The bucket in which the embedded head keeps its records."""

    model_config = ConfigDict(frozen=True)

    endpoint: str
    access_key: str
    secret_key: str
    region: str
    bucket: str


class MetadataEndpoint(BaseModel):
    """Where the metadata store is: a PostgreSQL if it has a URL, else an SQLite file."""

    model_config = ConfigDict(frozen=True)

    file: Path = Path("metadata.db")
    url: str = ""
    db_schema: str = "headrace"


class Endpoints(BaseModel):
    """Everything a command needs to reach storage, the head and the models. Holds secrets: keep it at mode 0600."""

    model_config = ConfigDict(frozen=True)

    s3_endpoint: str
    s3_access_key: str
    s3_secret_key: str
    s3_region: str
    bucket: str
    catalog_uri: str
    warehouse: str
    catalog_properties: dict[str, str] = {}
    vast: VastEndpoint | None = None
    """Holds the tables instead of the Iceberg catalog, if it is named."""
    kafka_bootstrap: str
    kafka_properties: dict[str, str] = {}
    signing_key: str = ""
    """Signs every event written to the head, and lands none without; empty: nobody's are signed."""
    records: RecordStore | None = None
    """Where the embedded head keeps its records; none for a head the user brought."""
    files_dir: Path
    kv_cache_bytes: int
    vectors_uri: str
    metadata: MetadataEndpoint | None = None
    embedder: ModelEndpoint
    reranker: ModelEndpoint
    generator: ModelEndpoint
    s3_metrics_url: str = ""
    """Prometheus counters of the embedded object store; empty for storage the user brought."""

    @property
    def table_format(self) -> str:
        """What keeps the tables, as `FORMATS` in storage/tables/handles.py names it."""
        return "vast" if self.vast else "iceberg"
