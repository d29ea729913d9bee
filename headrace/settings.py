"""One typed settings tree, read from `headrace.toml` and the environment (`HEADRACE_…`); a sentence under each field.

With no file and no variable everything is embedded: Headrace starts its own storage, head and model server under the home.
Name an endpoint and that part is used instead; the rest stays embedded.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from headrace.errors import BadSettings

# Tansu is slower by each batch it keeps, and table and head lie in one object store: what is gone there is gone in both.
_EMBEDDED_KEPT_S, _KEPT_S = 60.0, 86_400.0
# What leads data, keys or questions somewhere.
_ELSEWHERE = {"objects", "tables", "head", "files", "vectors", "metadata", "models", "telemetry", "home"}
# What has a program run, or code loaded by librdkafka or pyiceberg.
_RUNS = re.compile(
    r"platform\.(weed|tansu)|head\.properties\.(plugin\.library\.paths|ssl\.(engine\.location|providers)|.*\.cmd)"
    r"|tables\.properties\.(.*impl|auth\..*)"
)


class Section(BaseModel):
    """A part of the tree; an unknown key is an error, since a misspelt key silently ignored costs hours."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True)


class EmbeddedPart(Section):
    """A part that Headrace starts itself."""

    type: Literal["embedded"] = "embedded"


class S3(Section):
    """An S3 endpoint the user brings."""

    type: Literal["s3"]
    endpoint: str
    """URL of the endpoint, e.g. `https://s3.example.net`."""
    access_key: str
    """Access key id."""
    secret_key: SecretStr
    """Secret access key; better given as `HEADRACE_OBJECTS__SECRET_KEY`."""
    bucket: str = "headrace"
    """Bucket of the object tier. It must exist."""
    region: str = "us-east-1"
    """Region to sign for."""


class RestCatalog(Section):
    """An Iceberg REST catalog the user brings."""

    type: Literal["rest"]
    uri: str
    """URL of the catalog."""
    warehouse: str
    """Warehouse the catalog knows, e.g. `s3://lake`."""
    properties: dict[str, str] = {}
    """Further pyiceberg catalog properties, e.g. `token`, `s3.endpoint`, `rest.sigv4-enabled`."""


class Vast(Section):
    """A VAST DB the user brings; needs the `vast` extra (docs/how-to/connect-vast-db.md)."""

    type: Literal["vast"]
    endpoint: str
    """URL of the cluster's S3 and database endpoint, e.g. `https://vast.example.net`."""
    access_key: str
    """Access key id."""
    secret_key: SecretStr
    """Secret access key; better given as `HEADRACE_TABLES__SECRET_KEY`."""
    bucket: str
    """Bucket whose view has the database protocol. It must exist."""
    db_schema: str = Field(default="headrace", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    """Database schema the tables are kept in; made if it is not there."""
    ssl_verify: bool = True
    """Check the endpoint's certificate."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Seconds to wait for an answer before the endpoint counts as down."""
    data_endpoints: tuple[str, ...] = ()
    """Addresses to read from side by side, e.g. one per CNode; the endpoint alone if none is named."""


class Kafka(Section):
    """A Kafka cluster the user brings."""

    type: Literal["kafka"]
    bootstrap: str
    """`host:port[,host:port]`."""
    properties: dict[str, str] = {}
    """Further librdkafka properties, e.g. `security.protocol`, `sasl.username`."""
    signing_key: SecretStr | None = Field(default=None, min_length=32)
    """Signs every event, and lands no other; better given as `HEADRACE_HEAD__SIGNING_KEY`. Unset: all land."""


class Endpoint(Section):
    """A NIM or OpenAI-style model endpoint the user brings."""

    type: Literal["endpoint"]
    url: str
    """Base URL up to and including `/v1`."""
    model: str
    """Model name sent with each request."""
    api_key: SecretStr | None = None
    """Bearer token; better given in the environment."""
    timeout_s: float = 60.0
    """Seconds to wait for an answer before the endpoint counts as down."""


class ModelSettings(Section):
    """Who embeds, ranks and generates."""

    embedder: Annotated[EmbeddedPart | Endpoint, Field(discriminator="type")] = EmbeddedPart()
    """Computes embeddings (384 wide unless the index is rebuilt)."""
    reranker: Annotated[EmbeddedPart | Endpoint, Field(discriminator="type")] = EmbeddedPart()
    """Scores (question, passage) pairs."""
    generator: Annotated[EmbeddedPart | Endpoint, Field(discriminator="type")] = EmbeddedPart()
    """Writes the answer."""
    threads: int = Field(default=2, ge=1)
    """Processor threads of the embedded model server."""
    exact: bool = False
    """Whether the embedded embedder and re-ranker keep to float32 where bfloat16 is faster and hardly differs."""


class PlatformSettings(Section):
    """The embedded servers."""

    idle_s: float = Field(default=300.0, ge=0)
    """Seconds they stay up after the last command; `headrace down` ends them at once, and so does the end of `headrace up`."""
    weed: Path | None = None
    """A SeaweedFS program of your own. Unset: the packaged one, if its SHA-256 is the released one's."""
    tansu: Path | None = None
    """A Tansu program of your own. Unset: the packaged one, if its SHA-256 is the released one's."""
    counters: bool = False
    """Whether SeaweedFS shows its counters, and with them its profiler, to every program of this machine, to measure by."""


class LandingSettings(Section):
    """Landing: the head into the tables."""

    commit_s: float = Field(default=1.0, gt=0)
    """Seconds that an event waits for others before it is committed with them."""
    commit_rows: int = Field(default=100_000, ge=1)
    """Events a commit may hold."""
    commit_bytes: int = Field(default=32 << 20, ge=1)
    """Bytes of events a commit may hold; two such blocks are in memory at once, one being written."""
    trim: bool | None = None
    """Whether the head is trimmed of what has landed. Unset: the embedded one is, your own broker has its own retention."""
    keep_s: float | None = Field(default=None, ge=0)
    """Seconds that a table must have held an event before the head is trimmed of it. Unset: 60 embedded, 86400 on yours."""
    patience_s: float = Field(default=300.0, ge=0)
    """Seconds a following lander waits for storage that does not answer before it ends with an error."""


class Maintenance(Section):
    """Maintenance of the tables: few files, few snapshots, nothing left over."""

    every: int = Field(default=100, ge=1)
    """Commits to a table after which its maintenance is due."""
    merge: int = Field(default=8, ge=2)
    """Files of about one size that are merged into one; larger means fewer rewrites and more files."""
    file_bytes: int = Field(default=128 << 20, ge=1 << 10)
    """Bytes a merged file may have; files of half that size are left alone."""
    keep_s: float = Field(default=120.0, ge=0)
    """Seconds for which every snapshot stays readable after a newer one; each makes every commit a little slower."""
    keep_snapshots: int = Field(default=10, ge=1)
    """Newest snapshots that stay, however old."""
    history_s: float = Field(default=172_800.0, ge=0)
    """Seconds for which one snapshot per step stays readable; trimming the head looks back into it."""
    history_step_s: float = Field(default=3_600.0, gt=0)
    """Seconds of such a step."""
    grace_s: float = Field(default=3_600.0, ge=1)
    """Seconds an object stays after no snapshot names it: what a reader that began before, or a slow writer, has."""


class Files(Section):
    """The POSIX directory of the file tier."""

    dir: Path | None = None
    """A directory, e.g. an NFS mount; `<home>/files` when unset."""
    kv_cache_bytes: int = Field(default=2 << 30, ge=0)
    """Bytes the KV cache may keep on files; least recently used go first."""


class Vectors(Section):
    """Where the vector index lives."""

    uri: str | None = None
    """A LanceDB location: a directory, or `s3://bucket/prefix`. Unset: on the object endpoint, embedded or yours."""


class PostgreSQL(Section):
    """A PostgreSQL the user brings; needs the `postgresql` extra (docs/how-to/connect-postgresql.md)."""

    type: Literal["postgresql"]
    url: SecretStr
    """`postgresql://user:password@host:port/database`; better given as `HEADRACE_METADATA__URL`."""
    db_schema: str = Field(default="headrace", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")
    """Schema the tables are kept in; made if it is not there."""


class TenantLimits(Section):
    """What each tenant may ask of the API; `headrace tenant quota` sets others for one of them."""

    requests_per_minute: int = Field(default=600, ge=1)
    """Requests a minute; as many may come at once."""
    questions: int = Field(default=16, ge=1)
    """Questions under way at once, those that wait included; the whole service takes 32."""
    documents: int = Field(default=100_000, ge=0)
    """Documents stored."""
    stored_bytes: int = Field(default=50 << 30, ge=0)
    """Bytes of documents stored, as they were put, those of earlier versions too."""
    kv_cache_bytes: int = Field(default=1 << 30, ge=0)
    """Bytes of the KV cache, within `files.kv_cache_bytes`."""
    put_bytes_per_day: int = Field(default=100 << 30, ge=1)
    """Bytes of documents put in a day, counted by the running service: what is replaced or deleted leaves its text in tables."""
    keys: int = Field(default=200, ge=1)
    """API keys that are not revoked, beyond which the tenant's admin may make no more."""


class Telemetry(Section):
    """Traces for an OpenTelemetry collector; none are made unless an address is set."""

    otlp_endpoint: str = ""
    """URL that takes OTLP over HTTP, e.g. `http://127.0.0.1:4318/v1/traces`; `OTEL_EXPORTER_OTLP_ENDPOINT` does too."""


AnswerMode = Literal["auto", "extractive", "generated"]


class Inference(Section):
    """The inference pipeline."""

    chunk_tokens: int = Field(default=200, ge=32, le=254)
    """Word pieces a chunk may have; the embedder reads 256 including its two marks and the heading path."""
    document_bytes: int = Field(default=50_000_000, ge=1)
    """Larger files are refused with a recorded reason, as is every file beyond one of the limits that follow."""
    document_pages: int = Field(default=5_000, ge=1)
    """Pages of a PDF, or slides of a presentation."""
    document_sheets: int = Field(default=500, ge=1)
    """Sheets of a workbook."""
    document_rows: int = Field(default=500_000, ge=1)
    """Rows that are not empty, of a CSV file or of all sheets of a workbook."""
    document_characters: int = Field(default=10_000_000, ge=1)
    """Characters of a document's text; a small file can expand to far more."""
    unpacked_bytes: int = Field(default=500_000_000, ge=1)
    """Bytes that a zip-based file (DOCX, PPTX, XLSX) says it unpacks to; counted before anything is unpacked."""
    unpacked_ratio: int = Field(default=200, ge=1)
    """Times its own size that a zip-based file may unpack to; looked at once it unpacks to more than 10 MB."""
    unpacked_files: int = Field(default=20_000, ge=1)
    """Files inside a zip-based file."""
    parse_seconds: float = Field(default=120.0, gt=0)
    """A file that takes longer to parse is refused; its parser is killed."""
    parse_cpu_seconds: int = Field(default=60, ge=1)
    """A file that takes more of the processor's time is refused, however busy the machine is."""
    parse_memory_bytes: int = Field(default=2 << 30, ge=1 << 29)
    """Address space of the process that parses; a file that needs more is refused."""
    retrieve: int = Field(default=20, ge=1)
    """Passages retrieved before re-ranking."""
    fusion: Literal["scores", "ranks"] = "scores"
    """How dense and full-text search become one order: by their `scores`, better where measured, or by reciprocal `ranks`."""
    passages: int = Field(default=2, ge=1)
    """Passages given to the generator; the small embedded one answers best from two, a large one from more."""
    least_similarity: float = Field(default=0.30, ge=-1, le=1)
    """Cosine similarity of question and best passage below which the generator is not asked: the answer is that there is none."""
    rerank_seconds: float = Field(default=5.0, gt=0)
    """A re-ranker that takes longer is left out: retrieval's order stands, and the answer says so."""
    answers: AnswerMode = "auto"
    """`extractive` quotes the sentence or table row that answers, `generated` has the generator write. `auto` quotes where the
    embedder and the generator are the embedded ones: small stand-ins, which quote better than they write."""
    answer_tokens: int = Field(default=160, ge=1)
    """Tokens that the generator may write; an answer that is cut off there says so."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """Temperature at which answers are drawn; 0 takes the likeliest words. Above 0 answers vary, which recipe `online` needs."""


class Preparing(Section):
    """Preparing: what of the verdicts becomes training examples."""

    near_duplicate: float = Field(default=0.9, ge=0.5, le=1)
    """Similarity (Jaccard, of runs of four letters) from which two questions count as one where questions are held out."""
    shortest_question: int = Field(default=3, ge=1)
    """Letters and digits that a question must have."""
    longest_question: int = Field(default=2_000, ge=1)
    """Characters that a question may have."""
    simulated: bool = False
    """Whether questions and verdicts of simulated users (`headrace replay`) are learned from; the demo says so by itself."""
    require_consent: bool = False
    """Whether a verdict counts only if its `consent` is true; otherwise it counts unless its `consent` is false."""
    opted_out: tuple[str, ...] = ()
    """Tenants of whom nothing is learned."""
    evaluation: tuple[str, ...] = ()
    """Folders in BEIR layout, or files of questions (JSON lines, or one per line), that nothing learned from may resemble."""
    shard_rows: int = Field(default=50_000, ge=1)
    """Examples in a file of the dataset."""


class Gate(Section):
    """What a challenger must show before it answers anybody, and what speaks against it however good its score."""

    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """The challenger is promoted only if it is better with this confidence."""
    least_questions: int = Field(default=30, ge=1)
    """Held-out questions without which nothing is promoted: a bootstrap over fewer is no confidence."""
    least_users: int = Field(default=3, ge=1)
    """Users (or keys that count as one) who must have judged held-out questions; from 2 on none may have judged half alone."""
    questions: int = Field(default=120, ge=1)
    """Held-out questions with judged passages that are asked at most; half as many are used to fit what has to be fitted."""
    length: float = Field(default=0.5, gt=0)
    """Share by which the mean length of answers may change."""
    refusals: float = Field(default=0.05, ge=0, le=1)
    """Share of the held-out questions by which refusals may grow."""
    repetition: float = Field(default=0.05, ge=0, le=1)
    """By how much the share of repeated three-word runs in answers may grow."""
    kl: float = Field(default=0.5, gt=0)
    """Nats per token that a generator may drift from the one it started from."""
    tenant_questions: int = Field(default=10, ge=1)
    """Held-out questions from which on a tenant's own score counts: none may get surely worse."""
    user_share: float = Field(default=0.1, gt=0, le=1)
    """A user with more than this share of the held-out questions must not carry the decision: it has to hold without them."""


class CanarySettings(Section):
    """The share of traffic that tries a challenger before it becomes champion; used by the loop of `headrace up`."""

    share: float = Field(default=0.1, ge=0, le=1)
    """Share of the answers that the challenger gives meanwhile, by the hash of the answer's id; 0 starts no canary."""
    verdicts: int = Field(default=30, ge=1)
    """Judged answers of the challenger after which it becomes champion, unless they say it is worse."""
    minutes: float = Field(default=60.0, gt=0)
    """Minutes after which it becomes champion with fewer, unless they say it is worse."""
    confidence: float = Field(default=0.9, gt=0.5, lt=1)
    """Confidence that it is worse with which it retreats."""


class Training(Section):
    """The training loop. A recipe's own settings are in its file; what differs is set under `recipe`."""

    recipes: tuple[str, ...] = ("reranker",)
    """Recipes that the loop of `headrace up` takes, one after another."""
    recipe: dict[str, dict[str, bool | int | float | str]] = {}
    """Settings of a recipe that differ from its file, e.g. `epochs = 3` under `[training.recipe.reranker]`."""
    verdicts: int = Field(default=200, ge=1)
    """New verdicts after which a round starts by itself."""
    minutes: float = Field(default=60.0, gt=0)
    """Minutes after which a round starts by itself with fewer new verdicts."""
    preparing: Preparing = Preparing()
    """What of the verdicts becomes training examples."""
    gate: Gate = Gate()
    """What a challenger must show."""
    canary: CanarySettings = CanarySettings()
    """A challenger that first answers a share of the traffic."""
    keep: int = Field(default=2, ge=1)
    """Checkpoints kept of a training under way."""
    nice: int = Field(default=10, ge=0, le=19)
    """By how much the loop of `headrace up` steps back where it and answering want the same processor, as `nice` counts it."""
    seed: int = 17
    """Seed of everything random in a round."""
    threads: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    """Processor threads; fixed by a round's plan, since the order of sums, and so the last bit of a weight, depends on it."""


class Settings(BaseSettings):
    """The whole tree, as `Settings.load()` reads it."""

    model_config = SettingsConfigDict(
        env_prefix="HEADRACE_", env_nested_delimiter="__", extra="forbid", use_attribute_docstrings=True, frozen=True
    )

    home: Path = Path(".headrace")
    """Directory of all embedded state, logs and run records."""
    tenant: str = Field(default="default", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """Tenant of commands that name none."""
    platform: PlatformSettings = PlatformSettings()
    """The embedded servers."""
    objects: Annotated[EmbeddedPart | S3, Field(discriminator="type")] = EmbeddedPart()
    """The object tier."""
    tables: Annotated[EmbeddedPart | RestCatalog | Vast, Field(discriminator="type")] = EmbeddedPart()
    """The table tier: an Iceberg catalog, or VAST DB."""
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
    limits: TenantLimits = TenantLimits()
    """What each tenant may ask of the API."""
    telemetry: Telemetry = Telemetry()
    """Traces."""
    inference: Inference = Inference()
    """The inference pipeline."""
    training: Training = Training()
    """The training loop."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What the caller gives wins over the environment, which wins over headrace.toml."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=_file())

    @model_validator(mode="after")
    def _cross_field(self) -> Settings:
        tables = self.tables
        if isinstance(tables, RestCatalog) and isinstance(self.objects, EmbeddedPart) and "s3.endpoint" not in tables.properties:
            raise ValueError(
                "[tables] names a catalog of yours, so its files need an endpoint too: "
                'set "s3.endpoint" and its keys under [tables.properties], or name your S3 under [objects]'
            )
        if (self.head_kept_s or 0) >= self.maintenance.history_s:
            raise ValueError("landing.keep_s must be below maintenance.history_s: trimming looks back into that history")
        if self.inference.passages > self.inference.retrieve:
            raise ValueError("inference.passages cannot exceed inference.retrieve")
        return self

    @property
    def head_kept_s(self) -> float | None:
        """For how many seconds the head keeps what a table holds; `None`: for as long as its own retention says."""
        embedded = isinstance(self.head, EmbeddedPart)
        if not (embedded if self.landing.trim is None else self.landing.trim):
            return None
        if self.landing.keep_s is not None:
            return self.landing.keep_s
        return _EMBEDDED_KEPT_S if embedded else _KEPT_S

    @classmethod
    def load(cls, **overrides: object) -> Settings:
        """Read `headrace.toml` (or the file `HEADRACE_SETTINGS` names) and the environment; `overrides` wins over both.

        Raises `BadSettings` with each fault on a line of its own, or for a file in the current directory that is another user's
        or has something run.
        """
        try:
            _trusted()
            return cls(**{name: value for name, value in overrides.items() if value is not None})  # type: ignore[arg-type]
        except ValidationError as error:
            faults = [f"  {'.'.join(map(str, fault['loc'])) or 'settings'}: {fault['msg']}" for fault in error.errors()]
            raise BadSettings("The settings are invalid:\n" + "\n".join(faults), hint="See docs/reference/settings.md.") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadSettings(f"{_file()} is not TOML: {error}.", hint="See docs/reference/settings.md.") from None
        except OSError as error:
            raise BadSettings(f"{_file()} cannot be read: {error.strerror}.", hint="Check its owner and mode.") from None


def settings_notice() -> str:
    """A sentence about the settings file that is obeyed since it lies in the current directory, where one may not expect it.

    That is one that names endpoints or models, or that is root's; empty otherwise, and where `HEADRACE_SETTINGS` names a file.
    """
    file = _here()
    if file is None:
        return ""
    names = sorted(_ELSEWHERE & tomllib.loads(file.read_text("utf-8")).keys())
    owned = file.stat().st_uid == os.geteuid()
    if not names and owned:
        return ""
    what = f"names {', '.join(names)}" if names else "holds settings"
    return f"{file.resolve()}{'' if owned else ', which is not yours,'} {what}, and is obeyed."


def _here() -> Path | None:
    """The settings file in the current directory if it is the one that is read."""
    file = Path(_file())
    return file if "HEADRACE_SETTINGS" not in os.environ and file.is_file() else None


def _trusted() -> None:
    """Raise `BadSettings` for a settings file in the current directory that somebody else may have put there.

    A folder that was unpacked or cloned is one's own and its file somebody else's: that has nothing run unless it is named.
    """
    if (file := _here()) is None:
        return
    hint = f"If you trust it, say so: HEADRACE_SETTINGS={file}"
    for status in (file.lstat(), file.stat()):
        if status.st_uid not in (0, os.geteuid()):
            owner = f"belongs to another user (uid {status.st_uid}, you are {os.geteuid()})"
            raise BadSettings(f"{file.resolve()} {owner}, so it is not obeyed.", hint=hint)
    if file.stat().st_mode & stat.S_IWOTH:
        raise BadSettings(f"Everybody may write to {file.resolve()}, so it is not obeyed.", hint=f"chmod o-w {file}")
    if runs := [name for name in _names(tomllib.loads(file.read_text("utf-8"))) if _RUNS.fullmatch(name.lower())]:
        raise BadSettings(f"{file.resolve()} has code run ({', '.join(runs)}) and was not named, so it is not obeyed.", hint=hint)


def _names(values: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """The full names of what a settings file sets."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _names(value, f"{before}{name}.")
        else:
            yield f"{before}{name}"


def _file() -> str:
    return os.environ.get("HEADRACE_SETTINGS", "headrace.toml")
