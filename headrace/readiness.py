"""Readiness checks: whether each part that Headrace needs answers within a deadline, and if not, since when.

Results contain no addresses: anybody may see them.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from headrace.errors import kind_of
from headrace.platform import EVERY_PART
from headrace.platform.address import MODEL_PARTS, PROBE, embedded_parts
from headrace.platform.home import Home
from headrace.platform.state import read_state
from headrace.settings import EmbeddedPart, Settings
from headrace.storage.endpoints import Endpoints, ModelEndpoint

FRESH_S = 1.0
"""Seconds for which a result is cached, so that frequent probes cost nothing."""
DEADLINE_S = 4.0
_CLIENT_S = 3.0
_KEY = "readiness/probe"
_SILENT = logging.getLogger("headrace.readiness.kafka")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


@dataclass(frozen=True)
class Trouble:
    """What is wrong with a part, in one clause, and since when (`time.monotonic`), if known."""

    state: str
    since: float | None = None


@dataclass(frozen=True)
class Ask:
    """The check of one part; any exception counts as no answer. `remedy` is what an operator can do."""

    part: str
    ask: Callable[[], Trouble | None]
    remedy: str


@dataclass(frozen=True)
class PartState:
    """The state of one part; `for_s` is for how many seconds it has not been ready, NaN if unknown."""

    name: str
    state: str = "ready"
    for_s: float | None = None
    remedy: str = ""

    @property
    def ready(self) -> bool:
        """Whether the part is ready."""
        return self.for_s is None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready. The ISO 8601 time is computed back from now, so that setting the clock does not change the duration."""
        if self.for_s is None:
            return {"part": self.name, "ready": True, "state": self.state}
        fields = {"part": self.name, "ready": False, "state": self.state, "remedy": self.remedy}
        if math.isnan(self.for_s):
            return fields
        since = (datetime.now(UTC) - timedelta(seconds=self.for_s)).isoformat(timespec="seconds")
        return {**fields, "since": since, "for_s": round(self.for_s)}


class _Probe:
    """Checks one part on a thread; a check that hangs is not started again until it ends."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self._thread: threading.Thread | None = None
        self._trouble: Trouble | None = None
        self._since: float | None = None

    def begin(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name=f"readiness {self.ask.part}", daemon=True)
            self._thread.start()

    def result(self, until: float) -> PartState:
        assert self._thread is not None
        self._thread.join(max(0.0, until - time.monotonic()))
        trouble = Trouble("does not answer") if self._thread.is_alive() else self._trouble
        if trouble is None:
            self._since = None
            return PartState(self.ask.part)
        now = time.monotonic()
        if self._since is None:
            self._since = now if trouble.since is None else trouble.since
        return PartState(self.ask.part, trouble.state, now - self._since, self.ask.remedy)

    def _run(self) -> None:
        try:
            self._trouble = self.ask.ask()
        except Exception as error:
            self._trouble = Trouble(f"does not answer ({kind_of(error)})")


class Readiness:
    """Checks all parts in parallel; thread-safe."""

    def __init__(self, asks: Sequence[Ask]) -> None:
        self._probes = [_Probe(ask) for ask in asks]
        self._looking = threading.Lock()
        self._found: tuple[float, tuple[PartState, ...]] | None = None

    def add(self, ask: Ask) -> None:
        """Check one more part from now on."""
        with self._looking:
            self._probes.append(_Probe(ask))
            self._found = None

    def recent(self, fresh_s: float = FRESH_S) -> tuple[PartState, ...] | None:
        """The last result, or `None` if it is older than `fresh_s`."""
        report = self._found
        return report[1] if report is not None and time.monotonic() - report[0] < fresh_s else None

    def check(self, fresh_s: float = FRESH_S) -> tuple[PartState, ...]:
        """The state of every part, checked again unless the last result is at most `fresh_s` old; takes at most `DEADLINE_S`."""
        with self._looking:
            if (report := self.recent(fresh_s)) is not None:
                return report
            until = time.monotonic() + DEADLINE_S
            for probe in self._probes:
                probe.begin()
            parts = tuple(probe.result(until) for probe in self._probes)
            self._found = time.monotonic(), parts
            return parts


def asks(settings: Settings, endpoints: Endpoints) -> list[Ask]:
    """The checks of all parts an installation needs, embedded or not."""
    home = Home(settings.home)
    checks = []
    if parts := embedded_parts(settings, EVERY_PART):
        checks += [
            Ask(
                "platform",
                lambda: platform_trouble(home, parts),
                "Commands start what they need, and what ended is restarted. If that fails: `headrace down`, then `headrace up`;"
                " see logs/supervisor.log.",
            ),
            Ask("disk", lambda: _full(home), "Free some space on the disk that holds the home."),
        ]
    checks += [
        Ask("objects", _Objects(settings, endpoints), "Check the object store and its keys: `headrace endpoints`, [objects]."),
        Ask("head", _Head(endpoints), "Check that Kafka runs: `headrace endpoints`, [head]. Waiting answers are recorded then."),
    ]
    for name in MODEL_PARTS:
        endpoint = getattr(endpoints, name)
        checks.append(Ask(name, _Model(endpoint), f"Check that its server runs: logs/models.log, [models.{name}]."))
    return checks


def platform_trouble(home: Home, parts: frozenset[str]) -> Trouble | None:
    """What is wrong with the processes of the embedded platform."""
    state = read_state(home)
    if state is None:
        return Trouble("the embedded servers do not run")
    started = parts & state.parts
    if ended := sorted(part for part in started if part not in state.children or not state.children[part].alive):
        return Trouble(f"{', '.join(ended)} ended and {'is' if len(ended) == 1 else 'are'} being restarted")
    if idle := sorted(parts - started):
        return Trouble(f"{', '.join(idle)} not started: no command has needed {'it' if len(idle) == 1 else 'them'} yet")
    return None


def _full(home: Home) -> Trouble | None:
    return None if home.fullness() is None else Trouble("is full")


class _Objects:
    """Puts and gets a tiny object outside all stores of the catalog."""

    def __init__(self, settings: Settings, endpoints: Endpoints) -> None:
        embedded = isinstance(settings.objects, EmbeddedPart)
        self._bucket = PROBE if embedded else endpoints.bucket
        self._endpoints = endpoints
        self._store: Any = None

    def __call__(self) -> Trouble | None:
        import obstore
        from obstore.exceptions import BaseError

        if self._store is None:
            self._store = self._opened()
        try:
            obstore.put(self._store, _KEY, b"ready")
        except (BaseError, OSError):
            return Trouble("does not accept objects")
        try:
            data = bytes(obstore.get(self._store, _KEY).bytes())
        except (BaseError, OSError):
            return Trouble("does not return objects")
        return None if data == b"ready" else Trouble("returns a different object than was put")

    def _opened(self) -> Any:
        from urllib.parse import urlparse

        from obstore.store import S3Store

        return S3Store(
            self._bucket,
            endpoint=self._endpoints.s3_endpoint,
            access_key_id=self._endpoints.s3_access_key,
            secret_access_key=self._endpoints.s3_secret_key,
            region=self._endpoints.s3_region,
            virtual_hosted_style_request=False,
            client_options={
                "allow_http": urlparse(self._endpoints.s3_endpoint).scheme == "http",
                "timeout": timedelta(seconds=_CLIENT_S),
            },
            retry_config={"max_retries": 0},
        )


class _Head:
    """Lists the head's topics."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._settings = {"bootstrap.servers": endpoints.kafka_bootstrap, **endpoints.kafka_properties, "log_level": 0}
        self._client: Any = None

    def __call__(self) -> Trouble | None:
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        if self._client is None:
            self._client = AdminClient(self._settings, logger=_SILENT)
        try:
            self._client.list_topics(timeout=_CLIENT_S)
        except KafkaException:
            return Trouble("does not list its topics")
        return None


class _Model:
    """Asks a model server whether it is ready."""

    def __init__(self, endpoint: ModelEndpoint) -> None:
        self._endpoint = endpoint
        self._connection: Any = None

    def __call__(self) -> Trouble | None:
        from headrace.models.connection import EndpointConnection

        if self._connection is None:
            self._connection = EndpointConnection(self._endpoint)
        return None if self._connection.ready(_CLIENT_S) else Trouble("does not answer, or is not loaded yet")
