"""What is done when something happens: by triggers, and by `headrace up` without being told to."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from headrace.settings.references import read_reference, read_references
from headrace.settings.section import Section

TriggerEvent = Literal[
    "document.created",
    "document.changed",
    "document.tagged",
    "document.deleted",
    "document.failed",
    "document.forgotten",
    "model.promoted",
    "model.rolled_back",
]


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
        return read_reference(self.bearer) if self.bearer else ""


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
    properties: dict[str, str] = Field(default={})
    """Further librdkafka properties; `env:NAME` or `file:PATH` as a value names where it is. Used with `bootstrap` only."""
    timeout_s: float = Field(default=30.0, gt=0)
    """Seconds to wait for the acknowledgement of all in-sync replicas."""

    def client(self) -> dict[str, str]:
        """The properties of a client of its own broker. Raises `BadSettings` where one is not where it should be."""
        return {"bootstrap.servers": self.bootstrap, **read_references(self.properties)}


class TopicCause(Section):
    """A Kafka topic with CloudEvents 1.0 of other programs, in structured or binary mode."""

    topic: str = Field(min_length=1)
    """The topic; not one of Headrace's own. It is read from its end on when the trigger is new."""
    bootstrap: str = ""
    """`host:port[,host:port]`. Unset: the head's."""
    properties: dict[str, str] = Field(default={})
    """Further librdkafka properties; `env:NAME` or `file:PATH` as a value names where it is. Used with `bootstrap` only."""
    types: tuple[str, ...] = ()
    """Types of the events wanted, e.g. `com.example.order.paid`. Unset: all."""

    def client(self) -> dict[str, str]:
        """The properties of a client of its own broker. Raises `BadSettings` where one is not where it should be."""
        return {"bootstrap.servers": self.bootstrap, **read_references(self.properties)}


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


class AutomaticSettings(Section):
    """Steps of `headrace up`. What is off here is for commands: by hand, from cron, or as the actions of triggers."""

    rounds: bool = True
    """The training loop: rounds when verdicts have come in, and what becomes of canaries. Off: `headrace train`."""
    maintenance: bool = True
    """Maintenance of tables, also by `headrace land`. Off: `headrace maintain`."""
    retention: bool = True
    """Deletion of documents that are older than their tenant keeps them, also by `headrace land`. Off: nothing deletes them."""
