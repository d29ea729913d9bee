"""An event's address topic/partition/offset, as rows, examples and proofs name it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from headrace.catalog import LANDINGS, Store
from headrace.errors import WrongUsage

_ADDRESS = re.compile(r"([a-z-]+)(?:@(\d{2,}))?/(\d{1,9})/(\d{1,18})")


@dataclass(frozen=True, order=True)
class Event:
    """An event's address. `topic` is as in rows: `feedback`, or `feedback@02` for a recreated topic."""

    topic: str
    partition: int
    offset: int

    @classmethod
    def parse(cls, text: str) -> Event:
        """Parse `topic/partition/offset`. Raises `WrongUsage`."""
        match = _ADDRESS.fullmatch(text)
        known = [topic.name for topic in LANDINGS]
        if match is None or match[1] not in known:
            raise WrongUsage(
                f"{text!r} is not an event's address.", hint=f"Example: feedback/0/17. The topics: {', '.join(sorted(known))}."
            )
        return cls(match[1] + (f"@{match[2]}" if match[2] else ""), int(match[3]), int(match[4]))

    @property
    def topic_partition(self) -> str:
        """The partition: topic/partition."""
        return f"{self.topic}/{self.partition}"

    @property
    def store(self) -> Store:
        """The topic of the catalog."""
        return next(topic for topic in LANDINGS if topic.name == self.topic.partition("@")[0])

    @property
    def topic_epoch(self) -> int:
        """Number of the topic under this name: 1, plus one for each new head accepted."""
        return int(self.topic.partition("@")[2] or 1)

    def __str__(self) -> str:
        return f"{self.topic_partition}/{self.offset}"
