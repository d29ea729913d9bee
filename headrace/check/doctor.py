"""Tries each part that the settings name, in seconds: its address, its keys, and one small write and read.

`headrace check` asks for promises and takes a minute; this asks whether the settings are right.
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headrace.catalog import DIMENSIONS
from headrace.errors import HeadraceError
from headrace.settings import S3, EmbeddedPart, Endpoint, Kafka, PostgreSQL, RestCatalog, Settings, Vast
from headrace.storage.connection import Fault, reach, s3_fault
from headrace.storage.endpoints import ModelEndpoint
from headrace.storage.objects import bucket_at
from headrace.storage.reason import reason

DEADLINE_S = 15.0
"""Seconds a part has to answer; all are tried at once."""
_EMBEDDED = "Embedded: Headrace starts it."
_KAFKA_S = 5.0
_TABLES = "Check uri, warehouse and properties under [tables]."


@dataclass(frozen=True)
class Diagnosis:
    """One part: where it is, whether it works (`None` if it is embedded and there is nothing to try), and a sentence."""

    part: str
    where: str
    works: bool | None
    message: str
    hint: str = ""
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """The diagnosis for `--json`."""
        return asdict(self)


@dataclass(frozen=True)
class _Part:
    name: str
    where: str
    attempt: Callable[[], str] | None
    """Returns a sentence about what works; raises `Fault` or any error. `None` if the part is embedded."""


def diagnose(settings: Settings, only: Collection[str] = ()) -> list[Diagnosis]:
    """Try every part (or those named) at once; takes at most `DEADLINE_S`. Nothing is started, what is written is removed."""
    begun = [(part, *_begin(part)) for part in parts(settings) if not only or part.name in only]
    until = time.monotonic() + DEADLINE_S
    diagnoses = []
    for part, thread, found in begun:
        thread.join(max(0.0, until - time.monotonic()))
        late = f"It did not answer within {DEADLINE_S:.0f} s."
        hint = "Is it overloaded, or a firewall in between?"
        diagnoses.append(found[0] if found else Diagnosis(part.name, part.where, False, late, hint, DEADLINE_S))
    return diagnoses


def parts(settings: Settings) -> Iterator[_Part]:
    """Every part of an installation, as the settings have it."""
    objects, tables, head, metadata = settings.objects, settings.tables, settings.head, settings.metadata
    match objects:
        case S3():
            yield _Part("objects", f"{objects.endpoint}/{objects.bucket}", lambda: _objects(objects))
        case EmbeddedPart():
            yield _Part("objects", "", None)
    match tables:
        case RestCatalog():
            yield _Part("tables", tables.uri, lambda: _catalog(settings, tables))
        case Vast():
            yield _Part("tables", f"{tables.endpoint}/{tables.bucket}", lambda: _reached(tables.endpoint, "tables"))
        case EmbeddedPart() if isinstance(objects, S3):
            yield _Part("tables", f"{objects.endpoint}/{objects.bucket}/tables", lambda: _tables(objects))
        case EmbeddedPart():
            yield _Part("tables", "", None)
    match head:
        case Kafka():
            yield _Part("head", head.bootstrap, lambda: _head(head))
        case EmbeddedPart():
            yield _Part("head", "", None)
    directory = settings.files.dir
    yield _Part("files", str(directory or settings.home / "files"), (lambda: _directory(directory)) if directory else None)
    if (uri := settings.vectors.uri) is not None and "://" not in uri:
        yield _Part("vectors", uri, lambda: _directory(Path(uri)))
    match metadata:
        case PostgreSQL():
            yield _Part("metadata", "PostgreSQL", lambda: _metadata(metadata))
        case EmbeddedPart():
            yield _Part("metadata", "", None)
    for name in ("embedder", "reranker", "generator"):
        model = getattr(settings.models, name)
        if isinstance(model, Endpoint):
            yield _Part(f"models.{name}", model.url, lambda name=name, model=model: _model(name, model))  # type: ignore[misc]
        else:
            yield _Part(f"models.{name}", "", None)
    if collector := settings.telemetry.otlp_endpoint:
        yield _Part("telemetry", collector, lambda: _reached(collector, "telemetry"))


def _begin(part: _Part) -> tuple[threading.Thread, list[Diagnosis]]:
    found: list[Diagnosis] = []

    def run() -> None:
        begun = time.monotonic()
        if part.attempt is None:
            found.append(Diagnosis(part.name, part.where, None, _EMBEDDED))
            return
        try:
            works, message, hint = True, part.attempt(), ""
        except (Fault, HeadraceError) as error:
            works, message, hint = False, error.message, error.hint
        except Exception as error:
            works, message, hint = False, f"{reason(error)}.", f"Check [{part.name}] in headrace.toml."
        found.append(Diagnosis(part.name, part.where, works, message, hint, round(time.monotonic() - begun, 2)))

    thread = threading.Thread(target=run, name=f"doctor {part.name}", daemon=True)
    thread.start()
    return thread, found


def _reached(url: str, part: str) -> str:
    reach(url, part=part)
    return "Answers; its keys are not tried."


def _objects(s3: S3) -> str:
    import obstore
    from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

    reach(s3.endpoint, part="objects")
    secret = s3.secret_key.get_secret_value()
    store = bucket_at(s3.endpoint, s3.access_key, secret, s3.region, s3.bucket, timeout="5s", retries=0)
    key = f"headrace-doctor/{secrets.token_hex(8)}"
    conditional = False
    try:
        next(iter(obstore.list(store, prefix="headrace-doctor", chunk_size=1)), None)
        obstore.put(store, key, b"headrace")
        try:
            # Its first bytes: an endpoint that lies may send more than memory holds.
            if bytes(next(iter(obstore.get(store, key).stream(min_chunk_size=1)), b"")) != b"headrace":
                raise Fault(f"{s3.endpoint} returned a different object than was put.", "Is there a cache in between?")
            try:
                obstore.put(store, key, b"again", mode="create")
            except (AlreadyExistsError, PreconditionError):
                conditional = True
        finally:
            with suppress(BaseError, OSError):
                obstore.delete(store, key)
    except (BaseError, OSError) as error:
        raise s3_fault(error, endpoint=s3.endpoint, bucket=s3.bucket) or Fault(
            f"{s3.endpoint} fails: {reason(error)}.", "Check [objects] in headrace.toml."
        ) from None
    if not conditional:
        raise Fault(
            f"{s3.endpoint} overwrites an object that a put with If-None-Match: * must not touch.",
            "Headrace commits by conditional puts; enable them there. `headrace check --only object` says what depends on them.",
        )
    return "Lists, puts, gets and deletes; conditional puts work."


def _tables(s3: S3) -> str:
    _objects(s3)
    return "Files as those of objects; their catalog is in the metadata store."


def _catalog(settings: Settings, tables: RestCatalog) -> str:
    from pyiceberg.catalog.rest import RestCatalog as Client
    from pyiceberg.exceptions import ForbiddenError, NoSuchNamespaceError, OAuthError, UnauthorizedError

    from headrace.platform.address import brought

    reach(tables.uri, part="tables")
    try:
        client = Client("doctor", uri=tables.uri, warehouse=tables.warehouse, **brought(settings)["catalog_properties"])
        namespaces = client.list_namespaces()
    except (UnauthorizedError, ForbiddenError, OAuthError) as error:
        raise Fault(f"{tables.uri} rejects the credentials: {reason(error)}.", _TABLES) from None
    except NoSuchNamespaceError as error:
        raise Fault(f"{tables.uri} does not know the warehouse {tables.warehouse}: {reason(error)}.", _TABLES) from None
    except Exception as error:  # pyiceberg lets errors of requests and of its JSON through
        raise Fault(f"{tables.uri} does not answer like an Iceberg REST catalog: {reason(error)}.", _TABLES) from None
    return f"Lists {len(namespaces)} namespaces of {tables.warehouse}; writing is not tried."


def _head(head: Kafka) -> str:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    heard: list[str] = []
    unreached: list[Fault] = []
    for address in head.bootstrap.split(","):
        try:
            reach(address.strip(), part="head")
        except Fault as fault:
            unreached.append(fault)
    if len(unreached) == len(head.bootstrap.split(",")):
        raise unreached[0]
    admin = AdminClient(
        {
            "bootstrap.servers": head.bootstrap,
            **head.properties,
            "log_level": 0,
            "error_cb": lambda error: heard.append(error.str()),
        }
    )
    try:
        cluster = admin.list_topics(timeout=_KAFKA_S)
    except KafkaException as error:
        said = next((text for text in heard if "Authentication" in text or "SSL" in text or "SASL" in text), "")
        why = said or (heard[0] if heard else error.args[0].str())
        raise Fault(
            f"{head.bootstrap} accepts connections but does not list its topics: {why.rstrip('.')}.",
            "Check security.protocol, sasl.* and ssl.* under [head.properties].",
        ) from None
    for broker in cluster.brokers.values():
        try:
            reach(f"{broker.host}:{broker.port}", part="head")
        except Fault as fault:
            raise Fault(
                f"The cluster names a broker at {broker.host}:{broker.port}, which cannot be used from here: {fault.message}",
                "Set advertised.listeners of the brokers to addresses that this machine can reach.",
            ) from None
    brokers = len(cluster.brokers)
    return f"{brokers} broker{'' if brokers == 1 else 's'}, {len(cluster.topics)} topics; writing is not tried."


def _directory(directory: Path) -> str:
    path = directory.expanduser()
    if not path.exists():
        raise Fault(f"{path} does not exist.", "Is the file system mounted? Create the directory, or change dir under [files].")
    if not path.is_dir():
        raise Fault(f"{path} is not a directory.", "Change dir under [files].")
    probe = path / f".headrace-doctor-{secrets.token_hex(6)}"
    try:
        with probe.open("wb") as file:
            file.write(b"headrace")
            file.flush()
            os.fsync(file.fileno())
        probe.replace(probe.with_suffix(".renamed"))
        read = probe.with_suffix(".renamed").read_bytes()
    except OSError as error:
        why, hint = _os_words(error)
        raise Fault(f"{path} cannot be written: {why}.", hint) from None
    finally:
        for name in (probe, probe.with_suffix(".renamed")):
            with suppress(OSError):
                name.unlink(missing_ok=True)
    if read != b"headrace":
        raise Fault(f"{path} returned something else than was written.", "Check the mount.")
    space = os.statvfs(path)
    return f"Writes, renames and reads; {space.f_bavail * space.f_frsize / 1e9:,.1f} GB free."


def _os_words(error: OSError) -> tuple[str, str]:
    match error.errno:
        case errno.EROFS:
            return "it is mounted read-only", "Mount it with rw."
        case errno.EACCES | errno.EPERM:
            return f"uid {os.geteuid()} may not", "Change its owner or mode (and root_squash of the export)."
        case errno.ENOSPC | errno.EDQUOT:
            return "it is full", "Free some space there."
        case errno.ESTALE:
            return "the server no longer knows it", "Mount it again."
    return str(error.strerror or error), "Check the mount."


def _metadata(database: PostgreSQL) -> str:
    try:
        import psycopg
        from psycopg.conninfo import conninfo_to_dict
    except ModuleNotFoundError as error:
        hint = "Run make install-postgresql, or pip install 'headrace[postgresql]'."
        raise Fault(f"The package {error.name} is not installed.", hint) from None
    url = database.url.get_secret_value()
    try:
        known = conninfo_to_dict(url)
        if not str(known.get("host", "/")).startswith("/"):
            reach(f"{known['host']}:{known.get('port', 5432)}", part="metadata")
        with psycopg.connect(url, connect_timeout=5) as connection:
            may = "SELECT has_database_privilege(current_database(), 'CREATE') OR to_regnamespace(%s) IS NOT NULL"
            allowed = (connection.execute(may, (f'"{database.db_schema}"',)).fetchone() or (False,))[0]
    except psycopg.Error as error:
        raise Fault(f"PostgreSQL rejects the connection: {reason(error)}.", "Check url under [metadata].") from None
    if not allowed:
        raise Fault(
            f"The user of url may not create the schema {database.db_schema}.",
            f"Run there: CREATE SCHEMA {database.db_schema} AUTHORIZATION the user.",
        )
    return f"Connects; the schema is {database.db_schema}."


def _model(name: str, model: Endpoint) -> str:
    from headrace.models.client import Embedder, Generator, Reranker

    part = f"models.{name}"
    reach(model.url, part=part)
    key = model.api_key.get_secret_value() if model.api_key else ""
    endpoint = ModelEndpoint(url=model.url, model=model.model, api_key=key, timeout_s=min(model.timeout_s, DEADLINE_S - 2))
    if name == "embedder":
        with Embedder(endpoint) as embedder:
            dimensions = embedder.embed(["Is it there?"], kind="query").shape[1]
        if dimensions != DIMENSIONS:
            return f"Embeds in {dimensions} dimensions; the index has {DIMENSIONS} until `headrace reindex` builds it anew."
        return f"Embeds in {dimensions} dimensions."
    if name == "reranker":
        with Reranker(endpoint) as reranker:
            reranker.rank("Is it there?", ["It is."])
        return "Scores passages."
    with Generator(endpoint) as generator:
        words: Sequence[object] = list(generator.stream([{"role": "user", "content": "Say yes."}], max_tokens=4, cache=False))
    return "Writes." if words else "Answers, with no text."
