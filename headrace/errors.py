"""What can go wrong, drawn once. Every message says what happened and what to do next.

HeadraceError
├── Permanent               trying again as it is cannot help
│   ├── WrongUsage          the command was used wrongly                      (exit code 2)
│   ├── BadSettings         headrace.toml or the environment is wrong         (exit code 2)
│   ├── MissingPart         a binary, package or weight file is not installed
│   ├── NotGenuine          a packaged program or weight file is not the one that was released
│   ├── NotFound            no such answer, run, model, version, document
│   ├── NothingIndexed      a question was asked before any document was indexed
│   ├── NothingToLearn      no verdict that the recipe can learn from
│   ├── BadDocument         one document cannot be read; the others go on
│   ├── BadRecord           one Kafka record cannot be read; it goes to dead-letters
│   ├── InvalidState        a file of Headrace's own (pointer, plan, manifest) cannot be read
│   ├── StorageFull         no space left where a store lives
│   ├── HomeRefused         the home belongs to somebody else, or cannot be written
│   ├── OutOfRange          a partition does not have the wanted offset (any more)
│   ├── OffsetsRefused      the head and the table disagree about what was landed
│   ├── Forbidden           the API key does not allow this                   (HTTP 403)
│   ├── QuotaReached        the tenant stores as much as it may               (HTTP 403)
│   └── RequestRefused      a model endpoint refused the request itself (4xx)
└── Transient               the same call may succeed later
    ├── Unavailable         an endpoint is down or does not answer in time
    ├── Overloaded          an endpoint said 429 or 503
    └── LostRace            somebody else committed first
"""

from __future__ import annotations

from typing import Any


class HeadraceError(Exception):
    """Base of every error a user may see.

    `message` says what happened, `hint` what to do next (a command where there is one); both are printed, no traceback.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled without its constructor, whose arguments differ between errors."""
        return _unpickled, (type(self), self.args, dict(vars(self)))


def _unpickled(kind: type[HeadraceError], args: tuple[Any, ...], fields: dict[str, Any]) -> HeadraceError:
    error = kind.__new__(kind, *args)
    vars(error).update(fields)
    return error


def kind_of(error: BaseException) -> str:
    """The name under which an error is told: the class above that it is one of, or its own."""
    return next((kind.__name__ for kind in type(error).__mro__ if kind.__module__ == __name__), type(error).__name__)


class Permanent(HeadraceError):
    """Trying again as it is cannot help."""


class Transient(HeadraceError):
    """The same call may succeed later."""


class WrongUsage(Permanent):
    """The command's words are off."""

    exit_code = 2


class BadSettings(Permanent):
    """`headrace.toml` or the environment is off."""

    exit_code = 2


class MissingPart(Permanent):
    """A binary, package or weight file is not installed."""


class NotGenuine(Permanent):
    """A packaged program or weight file is not the one that was released."""


class NotFound(Permanent):
    """There is no such answer, run, model, version or document."""


class NothingIndexed(Permanent):
    """A question was asked before any document was indexed."""


class NothingToLearn(Permanent):
    """There is no verdict yet that a recipe can learn from."""


class BadDocument(Permanent):
    """One document cannot be read; `reason` is one short clause. The others go on."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}.")
        self.name = name
        self.reason = reason


class BadRecord(Permanent):
    """One Kafka record cannot be read; it goes to dead-letters with its bytes."""


class InvalidState(Permanent):
    """A file of Headrace's own is not what its schema says; `name` is the file, `reason` one clause."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"{name} cannot be read ({reason}).",
            hint="It was damaged, or a newer Headrace wrote it: restore it from a backup, or run the newer version.",
        )
        self.name = name
        self.reason = reason


class StorageFull(Permanent):
    """No space is left where a store lives."""


class HomeRefused(Permanent):
    """The home belongs to somebody else, or cannot be written."""


class OutOfRange(Permanent):
    """A partition of a topic does not have the wanted offset (any more)."""

    def __init__(self, topic: str, partition: int | None) -> None:
        super().__init__(f"{topic}/{partition} does not have the offset that comes next.", hint="See `headrace head`.")
        self.topic = topic
        self.partition = partition


class OffsetsRefused(Permanent):
    """The head and the table disagree about what was landed: going on would lose or double events."""


class Forbidden(Permanent):
    """The API key does not allow this."""


class QuotaReached(Permanent):
    """The tenant stores as much as it may."""


class RequestRefused(Permanent):
    """A model endpoint refused the request itself (4xx)."""


class Unavailable(Transient):
    """An endpoint is down or does not answer in time."""


class Overloaded(Transient):
    """An endpoint said 429 or 503, or more was asked of us than we take; `retry_s` is when to come back."""

    retry_s: float = 2.0


class LostRace(Transient):
    """Somebody else committed first."""
