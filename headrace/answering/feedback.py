"""feedback: a user's verdicts, onto the head."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

from headrace.answering.retrieve import ASKED
from headrace.catalog import FEEDBACK
from headrace.core.stage import stage
from headrace.errors import WrongUsage
from headrace.storage.stream import TopicWriter

REASON_CHARACTERS = 1_000
CORRECTION_CHARACTERS = 4_000


@dataclass(frozen=True)
class Verdict:
    """Thumbs up or down on an answer, or on one of its passages (`chunk_id`).

    `consent` says whether its user lets it be trained on, `None` where nobody asked. `key` is the API key it came by where all
    that come by it count as one user; otherwise `user` is one. Raises `WrongUsage` where a text is longer than is taken, or no
    text.
    """

    answer_id: str
    up: bool
    tenant: str
    user: str
    chunk_id: str = ""
    reason: str = ""
    correction: str = ""
    simulated: bool = False
    consent: bool | None = None
    key: str | None = None
    verdict_id: str = field(default_factory=lambda: uuid.uuid4().hex[:16])

    def __post_init__(self) -> None:
        for what, text, most in (
            ("reason", self.reason, REASON_CHARACTERS),
            ("correction", self.correction, CORRECTION_CHARACTERS),
        ):
            if len(text) > most:
                raise WrongUsage(f"The {what} has {len(text):,} characters.", hint=f"At most {most:,} are taken: shorten it.")
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise WrongUsage(f"The {what} is not Unicode text.", hint="Send it as UTF-8.")


def repeated_id(key: str, given: dict[str, Any]) -> str:
    """The id of a verdict that its sender may send again under the same key: the same for the same key and the same verdict."""
    said = json.dumps([key, given], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


@stage("Records each user's verdict on the head.", phase=ASKED)
def feedback(events: Annotated[TopicWriter, FEEDBACK], verdicts: Sequence[Verdict]) -> list[tuple[int, int]]:
    """Append the verdicts; return (partition, offset) of each."""
    at = datetime.now(UTC)
    return events.append([{**vars(verdict), "at": at} for verdict in verdicts], key="answer_id")
