"""How a command gets its endpoints: it takes a lease, adopts the platform of this home or has one started."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator

from headrace import errors
from headrace.errors import HeadraceError, Unavailable
from headrace.platform import servers
from headrace.platform.state import HEAD, MODELS, OBJECTS, Keys, Place, State, write_private
from headrace.settings import Embedded, Endpoint, Kafka, RestCatalog, Settings
from headrace.storage.endpoints import Endpoints, ModelEndpoint

_START_S = 60.0
EVERY_PART = frozenset({OBJECTS, HEAD, MODELS})


@contextlib.contextmanager
def open_platform(settings: Settings, *, parts: frozenset[str] = EVERY_PART) -> Iterator[Endpoints]:
    """Hold a lease on this home's platform for the block and yield every endpoint.

    Parts that settings bring are used as they are; of the rest, those named in `parts` are started unless they already run.
    Raises `HomeRefused`, `MissingPart`, `StorageFull`, `Unavailable`.
    """
    place = Place(settings.home.resolve())
    place.prepare()
    needed = _embedded(settings) & parts
    with place.lease.open("ab") as lease:
        os.chmod(place.lease, 0o600)
        # Taken before looking: a supervisor that is stopping holds the exclusive lock, so this waits until it is gone.
        fcntl.flock(lease, fcntl.LOCK_SH)
        keys = place.keys() if needed else Keys()
        state = _adopt_or_start(place, settings, needed) if needed else None
        endpoints = _endpoints(settings, place, keys, state.ports if state else {})
        write_private(place.endpoints, endpoints.model_dump_json())
        yield endpoints


def _embedded(settings: Settings) -> frozenset[str]:
    parts = set()
    if isinstance(settings.head, Embedded):
        parts |= {OBJECTS, HEAD}  # the embedded head stores into the embedded object store
    if isinstance(settings.objects, Embedded) or isinstance(settings.tables, Embedded):
        parts.add(OBJECTS)
    models = settings.models
    if any(isinstance(model, Embedded) for model in (models.embedder, models.reranker, models.generator)):
        parts.add(MODELS)
    return frozenset(parts)


def _adopt_or_start(place: Place, settings: Settings, needed: frozenset[str]) -> State:
    with place.starting.open("ab") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)
        deadline = time.monotonic() + _START_S
        while (state := place.read()) is not None and state.alive():
            if needed <= set(state.servers) and _healthy(state):
                return state
            if not needed <= set(state.servers):
                raise Unavailable(
                    f"A platform with other parts ({', '.join(state.servers)}) runs in {place.home}.",
                    hint="End the command that uses it (`headrace up`?) or choose another --home.",
                )
            # A server of it is gone: the supervisor notices and ends by itself.
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"The platform in {place.home} (pid {state.pid}) does not answer and does not end.",
                    hint=f"End it: kill {state.pid}",
                )
            time.sleep(0.1)
        place.clear()
        return _start(place, settings, needed)


def _start(place: Place, settings: Settings, needed: frozenset[str]) -> State:
    place.failure.unlink(missing_ok=True)
    command = [sys.executable, "-m", "headrace.platform.supervisor", "--home", str(place.home)]
    command += ["--parts", ",".join(sorted(needed)), "--threads", str(settings.models.threads)]
    with (place.logs / "supervisor.log").open("ab") as log:
        # A session of its own: Ctrl-C is for the command; the servers end when its lease does.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    deadline = time.monotonic() + _START_S
    try:
        while time.monotonic() < deadline:
            state = place.read()
            if state is not None and state.pid == process.pid:
                return state
            if process.poll() is not None:
                raise _failure(place)
            time.sleep(0.02)
        raise Unavailable(
            f"The platform was not ready within {_START_S:.0f} s.", hint=f"Read {place.logs / 'supervisor.log'}."
        )
    except BaseException:
        if process.poll() is None:
            process.terminate()
        raise


def _failure(place: Place) -> HeadraceError:
    try:
        failure = json.loads(place.failure.read_bytes())
        kind = getattr(errors, failure["kind"])
        error: HeadraceError = kind(failure["message"], hint=failure["hint"])
        return error
    except (OSError, ValueError, KeyError, AttributeError):
        return Unavailable("The platform ended while starting.", hint=f"Read {place.logs / 'supervisor.log'}.")


def _healthy(state: State) -> bool:
    """Whether each server still takes connections; a process can be gone before the supervisor has noticed."""
    for port in state.ports.values():
        if not servers.listens(port) and port != state.ports.get("models"):
            return False
    return True


def _endpoints(settings: Settings, place: Place, keys: Keys, ports: dict[str, int]) -> Endpoints:
    embedded_s3 = f"http://127.0.0.1:{ports.get('s3', 0)}"
    if isinstance(settings.objects, Embedded):
        s3 = {
            "s3_endpoint": embedded_s3,
            "s3_access_key": keys.access_key,
            "s3_secret_key": keys.secret_key,
            "s3_region": servers.REGION,
            "bucket": servers.BUCKET,
        }
        vectors = f"s3://{servers.VECTORS_BUCKET}"
    else:
        brought = settings.objects
        s3 = {
            "s3_endpoint": brought.endpoint,
            "s3_access_key": brought.access_key,
            "s3_secret_key": brought.secret_key.get_secret_value(),
            "s3_region": brought.region,
            "bucket": brought.bucket,
        }
        vectors = f"s3://{brought.bucket}/vectors"
    if isinstance(settings.tables, RestCatalog):
        catalog_uri, warehouse = settings.tables.uri, settings.tables.warehouse
        properties = dict(settings.tables.properties)
        if not isinstance(settings.objects, Embedded):
            properties = {**_file_properties(s3), **properties}
    else:
        catalog_uri, warehouse = f"http://127.0.0.1:{ports.get('catalog', 0)}", f"s3://{servers.TABLE_BUCKET}"
        own = {
            "s3_endpoint": embedded_s3,
            "s3_access_key": keys.access_key,
            "s3_secret_key": keys.secret_key,
            "s3_region": servers.REGION,
        }
        properties = {
            **_file_properties(own),
            "rest.sigv4-enabled": "true",
            "rest.signing-name": "s3tables",
            "rest.signing-region": servers.REGION,
            "client.access-key-id": keys.access_key,
            "client.secret-access-key": keys.secret_key,
            "client.region": servers.REGION,
        }
    if isinstance(settings.head, Kafka):
        bootstrap, kafka_properties = settings.head.bootstrap, dict(settings.head.properties)
    else:
        bootstrap, kafka_properties = f"127.0.0.1:{ports.get('kafka', 0)}", {}
    models_url = f"http://127.0.0.1:{ports.get('models', 0)}/v1"

    def model(name: str, chosen: Embedded | Endpoint) -> ModelEndpoint:
        if isinstance(chosen, Embedded):
            return ModelEndpoint(url=models_url, model=name, api_key=keys.models_key, timeout_s=120.0)
        key = chosen.api_key.get_secret_value() if chosen.api_key else ""
        return ModelEndpoint(url=chosen.url.rstrip("/"), model=chosen.model, api_key=key, timeout_s=chosen.timeout_s)

    files = settings.files.dir or place.home / "files"
    files.mkdir(parents=True, exist_ok=True)
    return Endpoints(
        **s3,
        catalog_uri=catalog_uri,
        warehouse=warehouse,
        catalog_properties=properties,
        kafka_bootstrap=bootstrap,
        kafka_properties=kafka_properties,
        files_dir=files.resolve(),
        kv_cache_bytes=settings.files.kv_cache_bytes,
        vectors_uri=settings.vectors.uri or vectors,
        embedder=model("embedder", settings.models.embedder),
        reranker=model("reranker", settings.models.reranker),
        generator=model("generator", settings.models.generator),
        s3_metrics_url=f"http://127.0.0.1:{ports['metrics']}/metrics" if "metrics" in ports else "",
    )


def _file_properties(s3: dict[str, str]) -> dict[str, str]:
    return {
        "s3.endpoint": s3["s3_endpoint"],
        "s3.access-key-id": s3["s3_access_key"],
        "s3.secret-access-key": s3["s3_secret_key"],
        "s3.region": s3["s3_region"],
    }
