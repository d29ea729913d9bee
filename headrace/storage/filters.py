"""Filters of a search: `key=value` for what a document is labelled with, and `changed>=` and `changed<=` for when it changed.

The same key again means any of its values, different keys mean all of them. Keys of Headrace's own are `document` (a document's
name, or a folder if it ends in `/`), `kind` and `changed`; every other key is an attribute that a document was given.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, time

from headrace.errors import WrongUsage
from headrace.unicode import normalized

DOCUMENT, KIND, CHANGED = "document", "kind", "changed"
RESERVED = (DOCUMENT, KIND, CHANGED)
NOBODY = "(nobody)"
"""The reader of a document that is closed to everybody: no user, group or key can have this name."""
ATTRIBUTE = r"^[a-z][a-z0-9_-]{0,39}=[^\x00-\x1f\x7f]{1,200}$"
"""An attribute of a document: a key of lower-case letters, digits, - and _, and a value on one line."""
_FILTER = re.compile(r"([a-z][a-z0-9_-]{0,39})\s*(>=|<=|=)\s*(.*)", re.DOTALL)
_VALUE_CHARACTERS = 4_096  # a document's name may be as long
_MOST, _MOST_CHARACTERS = 50, 20_000
_ATTRIBUTES_CHARACTERS = 4_000  # of all attributes of a document: the index has them with each of its chunks
_FORM = "Write key=value, document=FOLDER/, changed>=2026-01-31 or changed<=2026-01-31."


@dataclass(frozen=True)
class Filters:
    """`labels`: any one of each; times in whole seconds since 1970, both included; `said`: the filters as they were asked."""

    labels: tuple[tuple[str, ...], ...] = ()
    since_s: int | None = None
    until_s: int | None = None
    said: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.said)

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Filters:
        """Read filters as people write them. Raises `WrongUsage`."""
        given = list(dict.fromkeys(text.strip() for text in texts))
        if len(given) > _MOST:
            raise WrongUsage(f"There are {len(given)} filters.", hint=f"At most {_MOST} are taken.")
        if sum(map(len, given)) > _MOST_CHARACTERS:
            raise WrongUsage(
                f"The filters are longer than {_MOST_CHARACTERS:,} characters together.", hint="Name a folder of the documents."
            )
        said: list[str] = []
        labels: dict[str, list[str]] = {}
        since_s = until_s = None
        for text in given:
            match = _FILTER.fullmatch(text)
            if match is None or not match[3] or len(match[3]) > _VALUE_CHARACTERS or not _is_text(match[3]):
                raise WrongUsage(f"{text[:100]!a} is not a filter.", hint=_FORM)
            key, comparison, value = match.groups()
            said.append(f"{key}{comparison}{value}")  # without what stood around the sign, line ends too
            if key == CHANGED:
                first_s, last_s = _seconds(value)
                if comparison in (">=", "="):
                    since_s = first_s if since_s is None else max(since_s, first_s)
                if comparison in ("<=", "="):
                    until_s = last_s if until_s is None else min(until_s, last_s)
            elif comparison != "=":
                raise WrongUsage(f"{key} is compared with = alone.", hint=_FORM)
            else:
                value = normalized("NFC", value) if key == DOCUMENT else value
                labels.setdefault(key, []).append(f"{key}={value}")
        return cls(tuple(map(tuple, labels.values())), since_s, until_s, tuple(said))


NO_FILTERS = Filters()


def check_attributes(attributes: Iterable[str]) -> None:
    """Raise `WrongUsage` unless these can be the attributes of a document, `key=value` each."""
    given = list(attributes)
    if sum(map(len, given)) > _ATTRIBUTES_CHARACTERS:
        raise WrongUsage(f"These attributes are longer than {_ATTRIBUTES_CHARACTERS:,} characters together.")
    for attribute in given:
        if not re.match(ATTRIBUTE, attribute) or attribute.endswith("\n") or not _is_text(attribute):
            raise WrongUsage(
                f"{attribute[:100]!a} is not an attribute.",
                hint="Write key=value, such as team=hydro: the key in lower-case letters, digits, - and _.",
            )
        if (key := attribute.partition("=")[0]) in RESERVED:
            raise WrongUsage(f"Every document has a {key} of its own.", hint="Choose another key.")


def _is_text(value: str) -> bool:
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in value)


def _seconds(value: str) -> tuple[int, int]:
    """The first and the last second that a date or time names, in UTC unless it says otherwise. Raises `WrongUsage`."""
    try:
        parsed = datetime.fromisoformat(value)
        parsed = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
        first = int(parsed.timestamp())
    except (ValueError, OverflowError):
        raise WrongUsage(f"{value[:100]!a} is neither a date nor a time.", hint="Like 2026-01-31 or 2026-01-31T12:00Z.") from None
    day = re.fullmatch(r"[\d-]+|[\dW-]+", value) is not None and parsed.time() == time()
    return first, first + 86_399 if day else first
