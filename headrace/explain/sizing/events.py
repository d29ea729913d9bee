"""What the head and landing ask of storage: the stream's window, tables, the archive."""

from __future__ import annotations

from headrace.explain.sizing.figure import Figure, figure
from headrace.explain.sizing.parameters import SizingParameters

_DAY = 86_400.0


def event_figures(p: SizingParameters) -> list[Figure]:
    """Events and recorded answers: on the head, landed in tables, archived."""
    questions = p.users / p.question_interval_s
    arriving = p.events_per_s * p.event_bytes + questions * p.answer_event_bytes
    inputs = {
        "events a second": p.events_per_s,
        "bytes an event": p.event_bytes,
        "answers a second": questions,
        "bytes an answer": p.answer_event_bytes,
    }
    return [
        figure(
            "stream_write",
            "stream",
            "Events on the head",
            arriving * p.head_replicas,
            "B/s",
            "(events a second × bytes + answers a second × bytes) × copies",
            {**inputs, "copies": p.head_replicas},
            "kafka",
            role="write",
        ),
        figure(
            "stream_read",
            "stream",
            "Events read by the lander",
            arriving,
            "B/s",
            "events a second × bytes + answers a second × bytes",
            inputs,
            "kafka",
            role="read",
        ),
        figure(
            "stream_capacity",
            "stream",
            "Events kept on the head",
            arriving * p.head_replicas * p.head_h * 3_600,
            "B",
            "bytes a second × copies × hours × 3,600",
            {"bytes a second": arriving, "copies": p.head_replicas, "hours": p.head_h},
            "kafka",
            role="capacity",
            note="a window, not an archive: the tables hold every event",
        ),
        figure(
            "table_write",
            "table",
            "Events landed",
            arriving * p.landed_ratio,
            "B/s",
            "bytes a second × compression",
            {"bytes a second": arriving, "compression": p.landed_ratio},
            "assumption",
            role="write",
        ),
        figure(
            "table_capacity",
            "table",
            "Events in tables",
            arriving * p.landed_ratio * p.table_days * _DAY,
            "B",
            "bytes a second × compression × days × 86,400",
            {"bytes a second": arriving, "compression": p.landed_ratio, "days": p.table_days},
            "assumption",
            role="capacity",
        ),
        figure(
            "archive_capacity",
            "object",
            "Events in the archive",
            arriving * p.archive_ratio * p.archive_days * _DAY,
            "B",
            "bytes a second × compression × days × 86,400",
            {"bytes a second": arriving, "compression": p.archive_ratio, "days": p.archive_days},
            "assumption",
            role="capacity",
        ),
    ]
