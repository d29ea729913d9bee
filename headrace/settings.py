"""The settings, a typed tree read from `headrace.toml` and the environment (`HEADRACE_…`); the docstring of a field is its help.

By default everything is embedded: Headrace starts its own storage, head and model server under the home. Configure an endpoint
to replace that part; the rest stays embedded.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from headrace.errors import BadSettings
from headrace.settings_file import require_trusted, settings_path

# Each batch that Tansu keeps slows it down, and keeping more protects nothing: table and head share one object store.
_EMBEDDED_KEPT_S, _KEPT_S = 60.0, 86_400.0

_ORIGIN = re.compile(r"https?://[^/?#@\s]+")
_SECRET = re.compile(r"properties\..*(password|secret|token|credential|key)", re.IGNORECASE)
"""Properties of a library that may hold a secret; the settings of Headrace itself say which of theirs do."""
HIDDEN = "**********"


class Section(BaseModel):
    """A section of the tree. An unknown key is an error, so that a typo is not silently ignored."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True)


class EmbeddedPart(Section):
    """An embedded part, which Headrace starts itself."""

    type: Literal["embedded"] = "embedded"


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
    properties: dict[str, str] = {}
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
    properties: dict[str, str] = {}
    """Further librdkafka properties, e.g. `security.protocol`, `sasl.username`."""
    signing_key: SecretStr | None = Field(default=None, min_length=32)
    """Signs every event; unsigned ones do not land. Preferably set as `HEADRACE_HEAD__SIGNING_KEY`. Unset: all events land."""


class Endpoint(Section):
    """Your own NIM or OpenAI-style model endpoint."""

    type: Literal["endpoint"]
    url: str
    """Base URL up to and including `/v1`."""
    model: str
    """Model name sent with each request."""
    api_key: SecretStr | None = None
    """Bearer token; preferably set in the environment."""
    timeout_s: float = 60.0
    """Seconds to wait for a response before the endpoint counts as down."""


class ModelSettings(Section):
    """The endpoints that embed, re-rank and generate."""

    embedder: Annotated[EmbeddedPart | Endpoint, Field(discriminator="type")] = EmbeddedPart()
    """Computes embeddings (384 dimensions unless the index is rebuilt)."""
    reranker: Annotated[EmbeddedPart | Endpoint, Field(discriminator="type")] = EmbeddedPart()
    """Scores (question, passage) pairs."""
    generator: Annotated[EmbeddedPart | Endpoint, Field(discriminator="type")] = EmbeddedPart()
    """Writes the answer."""
    threads: int = Field(default=2, ge=1)
    """Processor threads of the embedded model server."""
    exact: bool = False
    """Whether the embedded models use float32 where two bytes are faster or smaller with nearly the same result: products of
    embedder and re-ranker in bfloat16, stored keys and values of the generator in float16."""

    @property
    def embedded(self) -> bool:
        """Whether embedder and generator are the embedded models."""
        return isinstance(self.embedder, EmbeddedPart) and isinstance(self.generator, EmbeddedPart)


class PlatformSettings(Section):
    """The embedded servers."""

    idle_s: float = Field(default=300.0, ge=0)
    """Seconds they keep running after the last command; `headrace down` and the end of `headrace up` stop them at once."""
    weed: Path | None = None
    """Your own SeaweedFS program. Unset: the packaged one, if its SHA-256 is the released one's."""
    tansu: Path | None = None
    """Your own Tansu program. Unset: the packaged one, if its SHA-256 is the released one's."""
    counters: bool = False
    """Whether SeaweedFS shows its counters and its profiler to every program of this machine, for measurements."""


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


class ApiSettings(Section):
    """The API and the page of `headrace up`."""

    host: str = "127.0.0.1"
    """Address to listen on: an address of this machine, or `0.0.0.0` for all of its networks."""
    hosts: tuple[str, ...] = ()
    """Names that requests may call the service by, besides `127.0.0.1`, `localhost` and `host`, e.g. `rag.example.net`."""
    origins: tuple[str, ...] = ()
    """Web pages of other servers that may call the API from a browser (CORS), e.g. `https://chat.example.net`; `*` for all."""
    certificate: Path | None = None
    """Certificate chain (PEM) to serve TLS with. Unset: plain HTTP."""
    key: Path | None = None
    """Private key (PEM) of the certificate."""

    @field_validator("host")
    @classmethod
    def _address(cls, value: str) -> str:
        try:
            return str(ip_address(value))
        except ValueError:
            raise ValueError(f"{value!r} is not an IP address; names go into `hosts`") from None

    @field_validator("origins")
    @classmethod
    def _origins(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if value != "*" and _ORIGIN.fullmatch(value) is None:
                raise ValueError(
                    f"{value!r} is not an origin; write scheme, name and port alone, as in https://chat.example.net:8443"
                )
        return values

    @property
    def everywhere(self) -> bool:
        """Whether it listens on all of this machine's networks."""
        return ip_address(self.host).is_unspecified

    @property
    def named(self) -> tuple[str, ...]:
        """Names that requests may call the service by."""
        own = () if self.everywhere else (f"[{self.host}]" if ":" in self.host else self.host,)
        return (*dict.fromkeys(("127.0.0.1", "localhost", *own, *self.hosts)),)

    @property
    def open_without_tls(self) -> bool:
        """Whether other machines may reach it, and what they send is not encrypted."""
        return self.certificate is None and not ip_address(self.host).is_loopback

    def url(self, port: int) -> str:
        """Its address for this machine."""
        host = ("::1" if ":" in self.host else "127.0.0.1") if self.everywhere else self.host
        return f"{'http' if self.certificate is None else 'https'}://{f'[{host}]' if ':' in host else host}:{port}"

    @model_validator(mode="after")
    def _certified(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("`certificate` and `key` go together: set both or neither")
        return self


_MOST = (1 << 63) - 1  # the largest integer that a database stores


class TenantLimits(Section):
    """Limits of each tenant in the API; `headrace tenant quota` sets others for one tenant."""

    requests_per_minute: int = Field(default=600, ge=1, le=_MOST)
    """Requests per minute; all of them may come at once. A large chat counts as one for each 64 KiB."""
    questions: int = Field(default=16, ge=1, le=_MOST)
    """Concurrent questions, including waiting ones; the whole service accepts 32."""
    documents: int = Field(default=100_000, ge=0, le=_MOST)
    """Documents stored."""
    stored_bytes: int = Field(default=50 << 30, ge=0, le=_MOST)
    """Bytes of stored documents, as they were put, including earlier versions."""
    versions: int = Field(default=1_000, ge=1, le=_MOST)
    """Versions of one document; deleting it deletes all of them. Each change to it takes time for each of them."""
    kv_cache_bytes: int = Field(default=1 << 30, ge=0, le=_MOST)
    """Bytes of the KV cache, within `files.kv_cache_bytes`."""
    put_bytes_per_day: int = Field(default=100 << 30, ge=1, le=_MOST)
    """Bytes of documents put per day, counted by the running service: replaced and deleted ones leave their text in tables."""
    retention_days: int = Field(default=0, ge=0, le=36_500)
    """Days that a version of a document is kept; older documents are deleted by maintenance. 0 keeps them."""
    keys: int = Field(default=200, ge=1, le=_MOST)
    """API keys that are not revoked; at this number the tenant's admin cannot create more."""


class Telemetry(Section):
    """Traces for an OpenTelemetry collector; created only if an endpoint is set."""

    otlp_endpoint: str = ""
    """URL that accepts OTLP over HTTP, e.g. `http://127.0.0.1:4318/v1/traces`; or set `OTEL_EXPORTER_OTLP_ENDPOINT`."""


AnswerMode = Literal["auto", "extractive", "generated"]


PiiAction = Literal["allow", "warn", "mask", "refuse"]


class PiiPolicy(Section):
    """What is done with personal data in a document's text when it is parsed: `allow` does not look for it, `warn` says so in the
    document's status, `mask` replaces its letters and digits by blocks, `refuse` takes nothing of the document into the index.

    Only the text is changed: the source stays as it was put. Documents parsed before stay as they are.
    """

    email: PiiAction = "allow"
    """E-mail addresses."""
    phone: PiiAction = "allow"
    """Phone numbers: international ones with a +, and US ones."""
    card: PiiAction = "allow"
    """Card numbers, by Luhn's checksum."""
    iban: PiiAction = "allow"
    """IBANs, by their country's length and their checksum."""
    ssn: PiiAction = "allow"
    """US social security numbers, written with hyphens."""

    def actions(self) -> dict[str, str]:
        """Kind → what is done with it, of those that are not allowed."""
        return {kind: action for kind, action in self.model_dump().items() if action != "allow"}


class Inference(Section):
    """The inference pipeline."""

    chunk_tokens: int = Field(default=200, ge=32, le=254)
    """Maximum word pieces per chunk; the embedder reads 256, including two special tokens and the heading path."""
    document_bytes: int = Field(default=50_000_000, ge=1)
    """Larger files are rejected with a recorded reason, like every file that exceeds one of the following limits."""
    document_pages: int = Field(default=5_000, ge=1)
    """Pages of a PDF, or slides of a presentation."""
    document_sheets: int = Field(default=500, ge=1)
    """Sheets of a workbook."""
    document_rows: int = Field(default=500_000, ge=1)
    """Non-empty rows of a CSV file, or of all sheets of a workbook."""
    document_characters: int = Field(default=10_000_000, ge=1)
    """Characters of a document's text; a small file can expand to far more."""
    unpacked_bytes: int = Field(default=500_000_000, ge=1)
    """Unpacked bytes that a zip-based file (DOCX, PPTX, XLSX) declares; checked before anything is unpacked."""
    unpacked_ratio: int = Field(default=200, ge=1)
    """Compression ratio of a zip-based file; checked if it unpacks to more than 10 MB."""
    unpacked_files: int = Field(default=20_000, ge=1)
    """Files inside a zip-based file."""
    parse_seconds: float = Field(default=120.0, gt=0)
    """A file that takes longer to parse is rejected; its parser is killed."""
    parse_cpu_seconds: int = Field(default=60, ge=1)
    """A file that takes more processor time is rejected, however busy the machine is."""
    parse_memory_bytes: int = Field(default=2 << 30, ge=1 << 29)
    """Address space of a parser process, of which there are three at most; a file that needs more is rejected."""
    pii: PiiPolicy = PiiPolicy()
    """Personal data in documents."""
    retrieve: int = Field(default=20, ge=1)
    """Passages retrieved before re-ranking."""
    fusion: Literal["scores", "ranks"] = "scores"
    """How dense and full-text search become one order: by their `scores`, better where measured, or by reciprocal `ranks`."""
    passages: int = Field(default=2, ge=1)
    """Passages given to the generator; the small embedded one answers best from two, a large one from more."""
    least_similarity: float = Field(default=0.30, ge=-1, le=1)
    """If the cosine similarity of question and best passage is lower, the generator is not asked and the question is refused."""
    rerank_seconds: float = Field(default=5.0, gt=0)
    """A re-ranker that takes longer is skipped: retrieval's order is used, and the answer says so."""
    rewrite_seconds: float = Field(default=5.0, ge=0)
    """Seconds your own generator may take to rewrite a follow-up question; later, or with 0, it is rewritten by rule."""
    answers: AnswerMode = "auto"
    """`extractive` quotes the sentence or table row that answers, `generated` has the generator write. `auto` quotes with the
    embedded embedder and generator, which are small and quote better than they write."""
    answer_tokens: int = Field(default=160, ge=1)
    """Maximum tokens the generator writes; an answer cut off there says so."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """Sampling temperature of answers; 0 takes the likeliest words. Above 0 answers vary, which recipe `online` needs."""

    def mode(self, wanted: AnswerMode | None = None, *, embedded: bool) -> AnswerMode:
        """How a question is answered: as `wanted`, by default as `answers` says; never `auto`.

        `embedded` means that embedder and generator are the embedded models.
        """
        wanted = wanted or self.answers
        if wanted != "auto":
            return wanted
        # A temperature asks for answers that vary, as the recipe `online` needs; quotes do not vary.
        return "extractive" if embedded and not self.temperature else "generated"


class PosixPermissions(Section):
    """Readers by the mode and the ACL (POSIX or NFSv4) of each file and of the folders above it, up to the place itself."""

    type: Literal["posix"]
    user: str = "{name}"
    """Reader label of a user; `{name}` and `{id}` are replaced by the user's, e.g. `user:{name}`."""
    group: str = "{name}"
    """Reader label of a group; `{name}` and `{id}` are replaced by the group's, e.g. `group:{name}`."""

    @field_validator("user", "group")
    @classmethod
    def _template(cls, value: str) -> str:
        rest = value.replace("{name}", "", 1) if "{name}" in value else value.replace("{id}", "", 1)
        if rest == value or {"{", "}"}.intersection(rest):
            raise ValueError(f"{value!r} must have {{name}} or {{id}} in it once, and no other braces")
        return value


class TagPermissions(Section):
    """Readers by a tag of each object; one without the tag has the source's `readers`, or nobody."""

    type: Literal["tags"]
    tag: str = Field(default="readers", min_length=1, max_length=128)
    """Key of the tag. Its value names users and groups, separated by spaces."""
    everybody: str = Field(default="everybody", min_length=1)
    """Value of the tag with which everybody of the tenant may read the object."""


class SourceS3(Section):
    """Another S3 than the object tier's. Its keys are named, not written, and read again at each look, so they may be rotated."""

    endpoint: str = Field(pattern=r"^https?://[^/?#@\s]+/?$")
    """URL of the endpoint, e.g. `https://s3.example.net`."""
    access_key: str = Field(pattern=r"^(env|file):.+$")
    """Where the access key id is: `env:NAME` for an environment variable of the service, or `file:PATH`."""
    secret_key: str = Field(pattern=r"^(env|file):.+$")
    """Where the secret access key is, in the same form."""
    region: str = "us-east-1"
    """Region to sign for."""

    def keys(self) -> tuple[str, str]:
        """The access key id and the secret access key. Raises `BadSettings` where they are not where they should be."""
        return _referenced(self.access_key), _referenced(self.secret_key)


def _referenced(reference: str) -> str:
    """What is in an environment variable or a file, without white space around it. Raises `BadSettings`."""
    kind, _, name = reference.partition(":")
    try:
        value = os.environ[name] if kind == "env" else Path(name).read_text("utf-8")
    except KeyError:
        raise BadSettings(f"The environment has no {name}.", hint="The settings name it as the place of a secret.") from None
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise BadSettings(f"{name} cannot be read: {said}.", hint="The settings name it as the place of a secret.") from None
    if not value.strip():
        raise BadSettings(f"{name} is empty.", hint="The settings name it as the place of a secret.")
    return value.strip()


def _references(properties: Mapping[str, str]) -> dict[str, str]:
    """Properties with the values that references among them name. Raises `BadSettings`."""
    return {name: _referenced(value) if value.startswith(("env:", "file:")) else value for name, value in properties.items()}


class SourceNotifications(Section):
    """A Kafka topic to which the bucket's store sends its events, in the form of AWS S3 or MinIO.

    The objects that they name are looked at, and the bucket is listed only at the start, from time to time, and after a fault.
    """

    bootstrap: str = Field(min_length=1)
    """`host:port[,host:port]`."""
    topic: str = Field(min_length=1)
    """The topic."""
    properties: dict[str, str] = {}
    """Further librdkafka properties, e.g. `security.protocol`; `env:NAME` or `file:PATH` as a value names where it is."""
    list_s: float = Field(default=600.0, ge=1)
    """Seconds between two listings of the bucket all the same, for events that its store did not send."""

    def client(self) -> dict[str, str]:
        """The properties of a client. Raises `BadSettings` where one is not where it should be."""
        return {"bootstrap.servers": self.bootstrap, **_references(self.properties)}


class WorkerSettings(Section):
    """Workers that share a stage's work: threads of the command, or processes of Ray with `--on ray`."""

    batches: int = Field(default=2, ge=1, le=10_000)
    """Workers of batch work (embedding, cleaning)."""
    batch_cpus: float = Field(default=0.5, gt=0, le=1024)
    """Processors that a worker of batch work holds on Ray."""
    training: int = Field(default=1, ge=1, le=1_000)
    """Workers that train together on Ray, data-parallel."""
    training_cpus: int | None = Field(default=None, ge=1, le=1024)
    """Processors of each training worker, and threads of its sums if there are several; unset: those of this machine, shared by
    the workers."""
    spill_dir: Path | None = None
    """Where a cluster that a command starts spills batches; unset: its temporary directory. A cluster of your own says it to
    `ray start` (`--object-spilling-directory`)."""
    storage_path: Path | None = None
    """Where Ray Train notes how a training goes, while it goes; unset: a temporary directory, which one node can see. On several
    nodes, a directory that all of them have, such as NFS."""
    training_wait_s: float = Field(default=300.0, gt=0)
    """Seconds after which a training worker that does not answer is lost; all then start again from the last checkpoint."""


class SourceSettings(Section):
    """A folder or prefix that `headrace up` follows: what changes there changes in the index."""

    place: str = Field(min_length=1)
    """A path, or `s3://BUCKET/PREFIX` on the object tier's S3 or on that of `s3`."""
    s3: SourceS3 | None = None
    """Another S3 that has the bucket. Unset: the object tier's."""
    notifications: SourceNotifications | None = None
    """Where the bucket's events are. Unset: it is listed every `every_s` seconds."""
    tenant: str = Field(default="", pattern=r"^([a-z0-9][a-z0-9-]{0,62})?$")
    """The tenant that its documents belong to; empty: the default tenant."""
    readers: tuple[str, ...] | None = None
    """Who of the tenant may read its documents. Unset: everybody, but a document keeps readers that it was given otherwise."""
    permissions: Annotated[PosixPermissions | TagPermissions, Field(discriminator="type")] | None = None
    """Readers of each document by its permissions in the source; a change of these changes its readers. Unset: `readers`."""
    attributes: tuple[str, ...] | None = None
    """`key=value` for each of its documents. Unset: a document keeps those that it was given otherwise."""
    every_s: float = Field(default=2.0, ge=0.1)
    """Seconds between two listings; listing takes at most a sixth of the time."""

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        bucket = self.place.startswith("s3://")
        if isinstance(self.permissions, PosixPermissions) and (bucket or self.readers is not None):
            raise ValueError("permissions of type posix are for a folder, and beside them there are no `readers`")
        if isinstance(self.permissions, TagPermissions) and not bucket:
            raise ValueError("permissions of type tags are for s3://BUCKET/PREFIX; a folder has those of type posix")
        if (self.s3 or self.notifications) and not bucket:
            raise ValueError("`s3` and `notifications` are for a place like s3://BUCKET/PREFIX")
        return self

    def is_at(self, place: str | Path) -> bool:
        """Whether it is this folder or prefix, however it is written."""
        if self.place.startswith("s3://") or str(place).startswith("s3://"):
            return self.place.rstrip("/") == str(place).rstrip("/")
        return os.path.realpath(self.place) == os.path.realpath(place)


class HttpAction(Section):
    """Sends the event to an address: POST, CloudEvents 1.0 in structured mode (`application/cloudevents+json`)."""

    type: Literal["http"]
    url: str = Field(pattern=r"^https?://[^\s]+$")
    """The address. 2xx is done; 408, 425, 429, 5xx and no answer are tried again; anything else is a dead letter at once."""
    bearer: str = Field(default="", pattern=r"^((env|file):.+)?$")
    """Where a bearer token is: `env:NAME` or `file:PATH`. Unset: none is sent."""
    timeout_s: float = Field(default=30.0, gt=0)
    """Seconds to wait for a response."""

    def token(self) -> str:
        """The bearer token, empty if there is none. Raises `BadSettings` where it is not where it should be."""
        return _referenced(self.bearer) if self.bearer else ""


class CommandAction(Section):
    """Runs a program with the event as JSON on its standard input, e.g. `["headrace", "maintain"]`. No shell is involved.

    It has the service's rights and environment. Only the settings can name it, the API cannot.
    """

    type: Literal["command"]
    command: tuple[str, ...] = Field(min_length=1)
    """The program and its arguments. Exit code 0 is done, any other is tried again."""
    timeout_s: float = Field(default=600.0, gt=0)
    """Seconds after which it and its children are killed, which counts as a failure."""


class TopicAction(Section):
    """Writes the event to a Kafka topic: CloudEvents 1.0 in structured mode, keyed by the subject. The topic must exist."""

    type: Literal["topic"]
    topic: str = Field(min_length=1)
    """The topic; not one of Headrace's own."""
    bootstrap: str = ""
    """`host:port[,host:port]`. Unset: the head's."""
    properties: dict[str, str] = {}
    """Further librdkafka properties; `env:NAME` or `file:PATH` as a value names where it is. Used with `bootstrap` only."""
    timeout_s: float = Field(default=30.0, gt=0)
    """Seconds to wait for the acknowledgement of all in-sync replicas."""

    def client(self) -> dict[str, str]:
        """The properties of a client of its own broker. Raises `BadSettings` where one is not where it should be."""
        return {"bootstrap.servers": self.bootstrap, **_references(self.properties)}


TriggerEvent = Literal[
    "document.created",
    "document.changed",
    "document.tagged",
    "document.deleted",
    "document.failed",
    "model.promoted",
    "model.rolled_back",
]


class TopicCause(Section):
    """A Kafka topic with CloudEvents 1.0 of other programs, in structured or binary mode."""

    topic: str = Field(min_length=1)
    """The topic; not one of Headrace's own. It is read from its end on when the trigger is new."""
    bootstrap: str = ""
    """`host:port[,host:port]`. Unset: the head's."""
    properties: dict[str, str] = {}
    """Further librdkafka properties; `env:NAME` or `file:PATH` as a value names where it is. Used with `bootstrap` only."""
    types: tuple[str, ...] = ()
    """Types of the events wanted, e.g. `com.example.order.paid`. Unset: all."""

    def client(self) -> dict[str, str]:
        """The properties of a client of its own broker. Raises `BadSettings` where one is not where it should be."""
        return {"bootstrap.servers": self.bootstrap, **_references(self.properties)}


class TriggerSettings(Section):
    """What is done when something happens, by `headrace up`: at least once for each event, and again after failures."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """Its name, in `headrace triggers` and the metrics."""
    on: tuple[TriggerEvent, ...] = ()
    """Events: a document is parsed for the first time, in another version, with other readers or attributes, is deleted, or
    failed; a model is promoted by a round or by hand, or rolled back."""
    every_s: float | None = Field(default=None, ge=1)
    """A schedule: seconds between two events."""
    lag: int | None = Field(default=None, ge=1)
    """Events of the head that have not landed from which on, once, there is an event; again after they were fewer."""
    events: TopicCause | None = None
    """A topic, each event of which is one of the trigger's."""
    tenant: str = Field(default="", pattern=r"^([a-z0-9][a-z0-9-]{0,62})?$")
    """Only documents of this tenant. Unset: of all."""
    action: Annotated[HttpAction | CommandAction | TopicAction, Field(discriminator="type")]
    """What is done."""
    attempts: int = Field(default=8, ge=1)
    """Attempts after which an event is a dead letter: `headrace triggers retry` tries those again."""
    first_s: float = Field(default=1.0, gt=0)
    """Seconds to the second attempt, twice as long to each further one."""
    longest_s: float = Field(default=300.0, gt=0)
    """Maximum seconds between two attempts."""
    concurrency: int = Field(default=1, ge=1, le=64)
    """Maximum events at a time."""

    @model_validator(mode="after")
    def _caused(self) -> Self:
        if not self.on and self.every_s is None and self.lag is None and self.events is None:
            raise ValueError("set `on`, `every_s`, `lag` or `events`, or it has nothing to do")
        return self


class Preparing(Section):
    """Preparing: which verdicts become training examples."""

    near_duplicate: float = Field(default=0.9, ge=0.5, le=1)
    """Similarity (Jaccard of four-letter runs) from which two questions count as one when questions are held out."""
    shortest_question: int = Field(default=3, ge=1)
    """Minimum letters and digits of a question."""
    longest_question: int = Field(default=2_000, ge=1)
    """Maximum characters of a question."""
    simulated: bool = False
    """Whether to learn from questions and verdicts of simulated users (`headrace replay`); the demo sets this itself."""
    require_consent: bool = False
    """Whether a verdict counts only if its `consent` is true; otherwise it counts unless its `consent` is false."""
    opted_out: tuple[str, ...] = ()
    """Tenants whose data is not learned from."""
    evaluation: tuple[str, ...] = ()
    """Folders in BEIR layout, or files of questions (JSON lines, or one per line); similar questions are not learned from."""
    shard_rows: int = Field(default=50_000, ge=1)
    """Examples per file of a dataset."""


class Gate(Section):
    """Requirements for a challenger before it answers anybody, and alarms that reject it however good its score."""

    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """The challenger is promoted only if it is better with this confidence."""
    least_questions: int = Field(default=30, ge=1)
    """Minimum held-out questions for a promotion: a bootstrap over fewer gives no confidence."""
    least_users: int = Field(default=3, ge=1)
    """Users (or keys that count as one) who must have judged held-out questions; from 2 on none may have judged half alone."""
    questions: int = Field(default=120, ge=1)
    """Held-out questions to evaluate a re-ranker or embedder by, or more if it takes more to show a plausible gain; half as many
    are used for fitting."""
    headroom: float = Field(default=0.5, gt=0)
    """The largest gain taken for possible, as a share of what is left to gain. A recipe is trained only if today's verdicts could
    show a smaller one; a large value trains whatever they could show, given the minimum questions and users."""
    length: float = Field(default=0.5, gt=0)
    """Share by which the mean length of answers may change."""
    refusals: float = Field(default=0.05, ge=0, le=1)
    """Share of the held-out questions by which refusals may increase."""
    repetition: float = Field(default=0.05, ge=0, le=1)
    """By how much the share of repeated three-word runs in answers may increase."""
    kl: float = Field(default=0.5, gt=0)
    """Maximum KL divergence of a generator from the one it started from, in nats per token."""
    tenant_questions: int = Field(default=10, ge=1)
    """Held-out questions from which on a tenant's own score counts: it may not get worse with confidence."""
    user_share: float = Field(default=0.1, gt=0, le=1)
    """If a user has more than this share of the held-out questions, the decision must also hold without them."""


class CanarySettings(Section):
    """A canary: a challenger serves a share of traffic before it becomes champion; used by the loop of `headrace up`."""

    share: float = Field(default=0.1, ge=0, le=1)
    """Share of answers the challenger gives, by the hash of the answer's id; 0 starts no canary."""
    verdicts: int = Field(default=30, ge=1)
    """Judged answers of the challenger after which it becomes champion, unless they show that it is worse."""
    minutes: float = Field(default=60.0, gt=0)
    """Minutes after which it becomes champion with fewer verdicts, unless they show that it is worse."""
    confidence: float = Field(default=0.9, gt=0.5, lt=1)
    """Confidence that it is worse at which the canary ends."""


class Training(Section):
    """The training loop. A recipe's own settings are in its file; override them under `recipe`."""

    recipes: tuple[str, ...] = ("auto",)
    """Recipes that the loop of `headrace up` runs, one after another; `auto`: those that `headrace train` chooses among."""
    recipe: dict[str, dict[str, bool | int | float | str]] = {}
    """Overrides of a recipe's settings, e.g. `epochs = 3` under `[training.recipe.reranker]`."""
    verdicts: int = Field(default=200, ge=1)
    """New verdicts after which a round starts automatically."""
    minutes: float = Field(default=60.0, gt=0)
    """Minutes after which a round starts automatically with fewer new verdicts."""
    preparing: Preparing = Preparing()
    """Which verdicts become training examples."""
    gate: Gate = Gate()
    """Requirements for a challenger."""
    canary: CanarySettings = CanarySettings()
    """The canary: a challenger that first serves a share of traffic."""
    keep: int = Field(default=2, ge=1)
    """Checkpoints to keep while training."""
    nice: int = Field(default=10, ge=0, le=19)
    """Niceness of the loop of `headrace up`, so that answering goes first when both need the processor."""
    seed: int = 17
    """Seed of everything random in a round."""
    threads: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    """Processor threads; fixed by a round's plan, since the order of sums, and so the last bit of a weight, depends on them."""


class _TomlFile(TomlConfigSettingsSource):
    """The settings file; some editors begin a file with a byte order mark, which TOML does not know."""

    def _read_file(self, file_path: Any) -> dict[str, Any]:
        return tomllib.loads(file_path.read_text("utf-8-sig"))


class Settings(BaseSettings):
    """The whole tree, as `Settings.load()` reads it."""

    model_config = SettingsConfigDict(
        env_prefix="HEADRACE_", env_nested_delimiter="__", extra="forbid", use_attribute_docstrings=True, frozen=True
    )

    home: Path = Path(".headrace")
    """Directory of all embedded state, logs and run records."""
    tenant: str = Field(default="default", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """Default tenant of commands."""
    platform: PlatformSettings = PlatformSettings()
    """The embedded servers."""
    objects: Annotated[EmbeddedPart | S3, Field(discriminator="type")] = EmbeddedPart()
    """The object tier."""
    tables: Annotated[EmbeddedPart | RestCatalog | Vast, Field(discriminator="type")] = EmbeddedPart()
    """The table tier: an Iceberg catalog, or VAST DB. Unset beside your own S3: tables in your bucket, catalog in the metadata
    store's database."""
    head: Annotated[EmbeddedPart | Kafka, Field(discriminator="type")] = EmbeddedPart()
    """The head: Kafka."""
    maintenance: Maintenance = Maintenance()
    """Maintenance of the tables."""
    landing: LandingSettings = LandingSettings()
    """Landing."""
    files: Files = Files()
    """The file tier."""
    vectors: Vectors = Vectors()
    """The vector tier."""
    metadata: Annotated[EmbeddedPart | PostgreSQL, Field(discriminator="type")] = EmbeddedPart()
    """The metadata store: an SQLite file under the home, or PostgreSQL."""
    models: ModelSettings = ModelSettings()
    """Model endpoints."""
    api: ApiSettings = ApiSettings()
    """The API and the page."""
    limits: TenantLimits = TenantLimits()
    """Limits of each tenant in the API."""
    telemetry: Telemetry = Telemetry()
    """Traces."""
    inference: Inference = Inference()
    """The inference pipeline."""
    sources: tuple[SourceSettings, ...] = ()
    """Folders and prefixes that `headrace up` follows, each a `[[sources]]`."""
    triggers: tuple[TriggerSettings, ...] = ()
    """What `headrace up` does when something happens, each a `[[triggers]]`. None: nothing."""
    training: Training = Training()
    """The training loop."""
    workers: WorkerSettings = WorkerSettings()
    """Workers that share a stage's work."""

    @property
    def quotes(self) -> bool:
        """Whether answers are quoted from passages, so that no generator is asked, unless a question wants it otherwise."""
        return self.inference.mode(embedded=self.models.embedded) == "extractive"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Precedence: the caller's values, the environment, headrace.toml."""
        return init_settings, env_settings, _TomlFile(settings_cls, toml_file=settings_path())

    @model_validator(mode="after")
    def _cross_field(self) -> Settings:
        tables = self.tables
        if isinstance(tables, RestCatalog) and isinstance(self.objects, EmbeddedPart) and "s3.endpoint" not in tables.properties:
            raise ValueError(
                "[tables] configures your own catalog, so its files need an endpoint too: "
                'set "s3.endpoint" and its keys under [tables.properties], or configure your S3 under [objects]'
            )
        if (self.head_kept_s or 0) >= self.maintenance.history_s:
            raise ValueError("landing.keep_s must be below maintenance.history_s: trimming looks back into that history")
        names = [trigger.name for trigger in self.triggers]
        if len(set(names)) < len(names):
            raise ValueError("two of the triggers have the same name")
        if self.inference.passages > self.inference.retrieve:
            raise ValueError("inference.passages cannot exceed inference.retrieve")
        return self

    @property
    def head_kept_s(self) -> float | None:
        """Seconds the head keeps landed events; `None` if its own retention decides."""
        embedded = isinstance(self.head, EmbeddedPart)
        if not (embedded if self.landing.trim is None else self.landing.trim):
            return None
        if self.landing.keep_s is not None:
            return self.landing.keep_s
        return _EMBEDDED_KEPT_S if embedded else _KEPT_S

    @classmethod
    def load(cls, **overrides: object) -> Settings:
        """Read `headrace.toml` (or the file `HEADRACE_SETTINGS` names) and the environment; `overrides` take precedence.

        Raises `BadSettings` with one line per fault, or for a file in the current directory that belongs to another user or
        makes code run.
        """
        try:
            require_trusted()
            return cls(**{name: value for name, value in overrides.items() if value is not None})  # type: ignore[arg-type]
        except ValidationError as error:
            faults = [f"  {'.'.join(map(str, fault['loc'])) or 'settings'}: {_fault(fault)}" for fault in error.errors()]
            raise BadSettings("The settings are invalid:\n" + "\n".join(faults), hint="See docs/reference/settings.md.") from None
        except SettingsError as error:
            raise BadSettings(f"The environment: {error}.", hint="A section and a list are JSON there.") from None
        except (ValueError, RecursionError) as error:  # of what is no UTF-8, no TOML, too deep, or has a number of 5,000 digits
            raise BadSettings(f"{settings_path()} is not TOML: {error}.", hint="See docs/reference/settings.md.") from None
        except OSError as error:
            raise BadSettings(f"{settings_path()} cannot be read: {error.strerror}.", hint="Check its owner and mode.") from None


def _fault(fault: Mapping[str, Any]) -> str:
    """A validation fault in plain words, with the environment variables that set the value."""
    place = fault["loc"]
    match fault["type"]:
        case "union_tag_not_found":
            said = f"it has keys but no `type`, which says what it is; set {'.'.join(map(str, place))}.type"
        case "union_tag_invalid":
            said = f"there is no type {fault['ctx']['tag']!r}; choose from {fault['ctx']['expected_tags']}"
        case "extra_forbidden":
            said = "there is no such key"
        case _:
            said = str(fault["msg"])
    prefix = f"HEADRACE_{str(place[0]).upper()}" if place else "HEADRACE_"
    named = sorted(name for name in os.environ if name == prefix or name.startswith(f"{prefix}__"))
    return f"{said} (set in the environment: {', '.join(named)})" if place and named else said


def changed_settings(settings: Settings, *, whole: bool = False) -> dict[str, Any]:
    """The keys whose values are not the defaults (with `whole` all), by their full names, JSON-ready; secrets are hidden."""

    def below(values: Mapping[str, Any], defaults: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
        for name, value in values.items():
            full = f"{path}{name}"
            if isinstance(value, Mapping) and value and isinstance(defaults.get(name, {}), Mapping):
                yield from below(value, defaults.get(name, {}), f"{full}.")
            elif whole or name not in defaults or value != defaults[name]:
                yield full, HIDDEN if _SECRET.search(full) and value else value

    defaults = Settings.model_construct().model_dump(mode="json")
    return dict(below(settings.model_dump(mode="json"), defaults, ""))
