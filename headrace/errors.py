"""The hierarchy of errors. Every message says what happened and what to do next.

HeadraceError
├── Permanent               retrying unchanged cannot help
│   ├── WrongUsage          the command was used wrongly                      (exit code 2)
│   ├── BadSettings         headrace.toml or the environment is invalid       (exit code 2)
│   ├── MissingPart         a binary, package or weight file is not installed
│   ├── NotGenuine          a packaged program or weight file is not the released one
│   ├── NotFound            no such answer, run, model, version, document
│   ├── ModelNotFound       the API has no model of that name                 (HTTP 404)
│   ├── NothingIndexed      a question was asked before any document was indexed
│   ├── NothingToLearn      no verdict that the recipe can learn from
│   ├── BadDocument         one document cannot be read; others are not affected
│   ├── BadRecord           one Kafka record cannot be decoded; it becomes a dead letter
│   ├── InvalidState        one of Headrace's own files (pointer, plan, manifest) cannot be read
│   ├── StorageFull         no disk space left for a store
│   ├── HomeRefused         the home belongs to another user, or is not writable
│   ├── ClockSet            the clock was set forward, so nothing is deleted for its age
│   ├── OutOfRange          a partition does not have the requested offset (any more)
│   ├── OffsetsRefused      the head and the table disagree about what has landed
│   ├── Forbidden           the API key does not allow this                   (HTTP 403)
│   ├── QuotaReached        the tenant has reached a quota                    (HTTP 403)
│   └── RequestRefused      a model endpoint rejected the request itself (4xx)
└── Transient               the same call may succeed later
    ├── Unavailable         an endpoint is down or does not answer in time
    │   └── AccessDenied    an endpoint does not allow it with these credentials
    ├── Overloaded          an endpoint returned 429 or 503
    └── LostRace            another writer committed first
"""

from __future__ import annotations

from typing import Any


class HeadraceError(Exception):
    """Base class of every error a user may see.

    `message` says what happened, `hint` what to do next (a command if there is one); both are printed, without a traceback.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the constructor, whose arguments differ between errors."""
        return _unpickled, (type(self), self.args, dict(vars(self)))


def _unpickled(kind: type[HeadraceError], args: tuple[Any, ...], fields: dict[str, Any]) -> HeadraceError:
    error = kind.__new__(kind, *args)
    vars(error).update(fields)
    return error


def kind_of(error: BaseException) -> str:
    """The name to report an error by: its nearest class in this module, else its own class."""
    return next((kind.__name__ for kind in type(error).__mro__ if kind.__module__ == __name__), type(error).__name__)


class Permanent(HeadraceError):
    """Retrying unchanged cannot help."""


class Transient(HeadraceError):
    """The same call may succeed later."""


class WrongUsage(Permanent):
    """The command was used wrongly."""

    exit_code = 2


class BadSettings(Permanent):
    """`headrace.toml` or the environment is invalid."""

    exit_code = 2


class MissingPart(Permanent):
    """A binary, package or weight file is not installed."""


class NotGenuine(Permanent):
    """A packaged program or weight file is not the released one."""


class NotFound(Permanent):
    """No such answer, run, model, version or document."""


class ModelNotFound(NotFound):
    """The API has no model of that name."""


class NothingIndexed(Permanent):
    """A question was asked before any document was indexed."""

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        if not message:
            message, hint = "No document has been indexed yet.", "Index some first: headrace index PATH, or headrace demo."
        super().__init__(message, hint=hint)


class NothingToLearn(Permanent):
    """No verdict yet that a recipe can learn from."""


class BadDocument(Permanent):
    """One document cannot be read; `reason` is one short clause. Others are not affected."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}.")
        self.name = name
        self.reason = reason


class BadRecord(Permanent):
    """One Kafka record cannot be decoded; it becomes a dead letter with its bytes."""


class InvalidState(Permanent):
    """One of Headrace's own files does not match its schema; `name` is the file, `reason` one clause."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"{name} cannot be read ({reason}).",
            hint="It was damaged, or a newer Headrace wrote it: restore it from a backup, or run the newer version.",
        )
        self.name = name
        self.reason = reason


class StorageFull(Permanent):
    """No disk space left for a store."""


class HomeRefused(Permanent):
    """The home belongs to another user, or is not writable."""


class ClockSet(Permanent):
    """The clock was set forward, so nothing is deleted for its age."""


class OutOfRange(Permanent):
    """A partition of a topic does not have the requested offset (any more)."""

    def __init__(self, topic: str, partition: int | None) -> None:
        super().__init__(f"{topic}/{partition} does not have the offset that comes next.", hint="See `headrace head`.")
        self.topic = topic
        self.partition = partition


class OffsetsRefused(Permanent):
    """The head and the table disagree about what has landed: continuing would lose or duplicate events."""


class Forbidden(Permanent):
    """The API key does not allow this."""


class QuotaReached(Permanent):
    """The tenant has reached a quota."""


class RequestRefused(Permanent):
    """A model endpoint rejected the request itself (4xx)."""


class Unavailable(Transient):
    """An endpoint is down or does not answer in time."""


class AccessDenied(Unavailable):
    """An endpoint knows the credentials, and they do not allow this."""


class Overloaded(Transient):
    """An endpoint returned 429 or 503, or Headrace itself is overloaded; retry after `retry_s` seconds."""

    retry_s: float = 2.0


class LostRace(Transient):
    """Another writer committed first."""
