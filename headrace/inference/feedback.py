"""feedback: a user's verdicts, onto the head."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated

from headrace.catalog import FEEDBACK
from headrace.inference.retrieve import ASKED
from headrace.pipeline.stage import stage
from headrace.storage.topics import TopicWriter


@dataclass(frozen=True)
class Verdict:
    """Thumbs up or down on an answer, or on one of its passages (`chunk_id`).

    `consent` says whether its user lets it be trained on, `None` where nobody asked.
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
    verdict_id: str = field(default_factory=lambda: uuid.uuid4().hex[:16])


@stage("Records each user's verdict on the head.", phase=ASKED)
def feedback(events: Annotated[TopicWriter, FEEDBACK], verdicts: Sequence[Verdict]) -> list[tuple[int, int]]:
    """Append the verdicts; return (partition, offset) of each."""
    at = datetime.now(UTC)
    return events.append([{**vars(verdict), "at": at} for verdict in verdicts], key="answer_id")
