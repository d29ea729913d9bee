"""The endpoints of the tiers, and how events land in the tables and the tables are maintained."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from headrace.settings.section import Section


class S3(Section):
    """Your own S3 endpoint."""

    type: Literal["s3"]
    endpoint: str
    """URL of the endpoint, e.g. `https://s3.example.net`."""
    access_key: str
    """Access key id."""
    secret_key: SecretStr
    """Secret access key; preferably set as `HEADRACE_OBJECTS__SECRET_KEY`."""
    bucket: str = "headrace"
    """Bucket of the object tier. It must exist."""
    region: str = "us-east-1"
    """Region to sign for."""


class RestCatalog(Section):
    """Your own Iceberg REST catalog."""

    type: Literal["rest"]
    uri: str
    """URL of the catalog."""
    warehouse: str
    """Warehouse of the catalog, e.g. `s3://lake`."""
    properties: dict[str, str] = Field(default={})
    """Further pyiceberg catalog properties, e.g. `token`, `s3.endpoint`, `rest.sigv4-enabled`."""


class Vast(Section):
    """Your own VAST DB; needs the `vast` extra (docs/how-to/connect-vast-db.md)."""

    type: Literal["vast"]
    endpoint: str
    """URL of the cluster's S3 and database endpoint, e.g. `https://vast.example.net`."""
    access_key: str
    """Access key id."""
    secret_key: SecretStr
    """Secret access key; preferably set as `HEADRACE_TABLES__SECRET_KEY`."""
    bucket: str
    """Bucket whose view has the database protocol. It must exist."""
    db_schema: str = Field(default="headrace", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    """Database schema of the tables; created if missing."""
    ssl_verify: bool = True
    """Check the endpoint's certificate."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Seconds to wait for a response before the endpoint counts as down."""
    data_endpoints: tuple[str, ...] = ()
    """Addresses to read from in parallel, e.g. one per CNode. Unset: the endpoint alone."""


class Kafka(Section):
    """Your own Kafka cluster."""

    type: Literal["kafka"]
    bootstrap: str
    """`host:port[,host:port]`."""
    properties: dict[str, str] = Field(default={})
    """Further librdkafka properties, e.g. `security.protocol`, `sasl.username`."""
    signing_key: SecretStr | None = Field(default=None, min_length=32)
    """Signs every event; unsigned ones do not land. Preferably set as `HEADRACE_HEAD__SIGNING_KEY`. Unset: all events land."""


class LandingSettings(Section):
    """Landing events from the head in the tables."""

    commit_s: float = Field(default=1.0, gt=0)
    """Seconds an event waits to be committed together with others."""
    commit_rows: int = Field(default=100_000, ge=1)
    """Maximum events per commit."""
    commit_bytes: int = Field(default=32 << 20, ge=1)
    """Maximum bytes of events per commit; two such blocks are in memory at once, one of them being written."""
    trim: bool | None = None
    """Whether landed events are trimmed from the head. Unset: the embedded head is trimmed, your own broker is not."""
    keep_s: float | None = Field(default=None, ge=0)
    """Seconds an event must be in its table before it is trimmed from the head. Unset: 60 if embedded, 86400 on yours."""
    patience_s: float = Field(default=300.0, ge=0)
    """Seconds a following lander waits for storage that does not answer before it exits with an error."""


class Maintenance(Section):
    """Maintenance of the tables: merges small files, expires snapshots, removes orphans."""

    every: int = Field(default=100, ge=1)
    """Commits to a table after which its maintenance is due."""
    merge: int = Field(default=8, ge=2)
    """Files of similar size that are merged into one; a larger number means fewer rewrites and more files."""
    file_bytes: int = Field(default=128 << 20, ge=1 << 10)
    """Maximum bytes of a merged file; files of half that size are not merged again."""
    keep_s: float = Field(default=120.0, ge=0)
    """Seconds every snapshot stays readable after a newer one; each kept snapshot makes every commit a little slower."""
    keep_snapshots: int = Field(default=10, ge=1)
    """Newest snapshots to keep, however old."""
    history_s: float = Field(default=172_800.0, ge=0)
    """Seconds for which one snapshot per step stays readable; trimming the head looks back into it."""
    history_step_s: float = Field(default=3_600.0, gt=0)
    """Seconds per step."""
    grace_s: float = Field(default=3_600.0, ge=1)
    """Seconds an object is kept after no snapshot names it, for readers that started earlier and slow writers."""


class Files(Section):
    """The POSIX directory of the file tier."""

    dir: Path | None = None
    """A directory, e.g. an NFS mount. Unset: `<home>/files`."""
    kv_cache_bytes: int = Field(default=2 << 30, ge=0)
    """Maximum bytes of the KV cache; least recently used blocks are deleted first."""
    kv_backend: Literal["files", "objects"] = "files"
    """Where the KV cache keeps its blocks: in this directory, or in the bucket of `[objects]`."""
    kv_memory_bytes: int = Field(default=0, ge=0)
    """Memory of the model server that keeps blocks in front of it; worth it for a network file system and for objects."""
    kv_cache_policy: Literal["break-even", "always", "never"] = "break-even"
    """When keys and values are loaded and stored: `break-even` where that is faster than computing them, by what is measured."""
    kv_cache_ttl_s: float | None = Field(default=None, gt=0)
    """Seconds after its last use when a block of the KV cache is removed. Unset: only for room."""
    kv_cache_canary: float = Field(default=0.01, ge=0, le=1)
    """Share of the answers with a restored prefix of which it is recomputed later and compared; 0 for none."""


class Vectors(Section):
    """The location of the vector index."""

    uri: str | None = None
    """A LanceDB location: a directory, or `s3://bucket/prefix`. Unset: on the object endpoint, embedded or yours."""


class PostgreSQL(Section):
    """Your own PostgreSQL; needs the `postgresql` extra (docs/how-to/connect-postgresql.md)."""

    type: Literal["postgresql"]
    url: SecretStr
    """`postgresql://user:password@host:port/database`; preferably set as `HEADRACE_METADATA__URL`."""
    db_schema: str = Field(default="headrace", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")
    """Schema of the tables; created if missing."""
