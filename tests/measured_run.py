"""The journal of a run of both pipelines, in the shape and about the size of a demo's, for tests of what is said about a run."""

from __future__ import annotations

from typing import Any

from headrace.storage.timeline import ASKED

_ROWS: tuple[tuple[str, str, str, str, int, int, float], ...] = (
    # stage, store, tier, direction, operations, bytes, p95 in ms
    ("put", "documents", "object", "write", 72, 521_344, 9.1),
    ("put", "document-events", "stream", "write", 3, 21_812, 14.2),
    ("land", "document-events", "stream", "read", 9, 34_411, 101.0),
    ("land", "document-events", "table", "write", 6, 41_902, 31.7),
    ("parse", "documents", "object", "read", 72, 521_344, 5.2),
    ("parse", "documents", "table", "write", 6, 390_117, 22.0),
    ("parse", "document-events", "table", "read", 14, 98_004, 6.1),
    ("chunk", "documents", "table", "read", 20, 1_203_118, 7.4),
    ("chunk", "chunks", "table", "write", 6, 588_233, 24.5),
    ("embed", "chunks", "table", "read", 18, 1_611_904, 8.0),
    ("embed", "chunks", "vector", "write", 12, 3_404_118, 88.4),
    ("index", "chunks", "vector", "write", 21, 1_911_450, 140.2),
    ("index", "chunks", "vector", "read", 44, 5_233_207, 12.9),
    ("retrieve", "chunks", "vector", "read", 921, 268_402_115, 9.7),
    ("rerank", "models", "object", "read", 4, 91_288_400, 410.0),
    ("generate", "models", "object", "read", 4, 0, 2.1),
    ("generate", "kv-cache", "file", "write", 12, 70_802_112, 48.0),
    ("generate", "kv-cache", "file", "read", 6, 29_500_416, 11.2),
    ("answer", "interactions", "stream", "write", 169, 1_020_331, 9.8),
    ("feedback", "feedback", "stream", "write", 3, 711_020, 31.1),
    ("land", "interactions", "stream", "read", 6, 1_030_540, 118.0),
    ("land", "feedback", "stream", "read", 4, 713_002, 104.5),
    ("land", "interactions", "table", "write", 6, 402_556, 35.0),
    ("land", "feedback", "table", "write", 6, 164_203, 29.9),
    ("plan", "feedback", "table", "read", 4, 161_001, 4.1),
    ("prepare", "feedback", "table", "read", 4, 172_104, 4.8),
    ("prepare", "interactions", "table", "read", 6, 410_233, 10.2),
    ("prepare", "chunks", "table", "read", 10, 590_110, 12.0),
    ("prepare", "examples", "table", "write", 3, 402_117, 27.3),
    ("prepare", "datasets", "object", "write", 5, 733_418, 12.2),
    ("finetune", "datasets", "object", "read", 4, 733_418, 6.6),
    ("finetune", "checkpoints", "object", "write", 9, 363_904_115, 2_100.0),
    ("evaluate", "checkpoints", "object", "read", 5, 91_288_400, 290.0),
    ("evaluate", "datasets", "object", "read", 3, 190_220, 4.0),
    ("promote", "checkpoints", "object", "read", 5, 91_288_400, 240.0),
    ("promote", "models", "object", "write", 7, 91_292_877, 260.0),
    ("promote", "rounds", "object", "write", 1, 6_411, 3.2),
    ("promote", "promotions", "table", "write", 3, 10_011, 11.8),
    ("tidy", "checkpoints", "object", "write", 2, 0, 1.9),
    ("maintain", "feedback", "table", "read", 9, 88_301, 8.8),
)

_TIMES: tuple[tuple[str, int, float, float, float], ...] = (
    # stage, calls, seconds at work, with a storage operation under way, waiting for it
    ("land", 3, 2.4, 1.9, 1.8),
    ("plan", 1, 0.6, 0.4, 0.4),
    ("prepare", 1, 3.1, 1.1, 1.1),
    ("finetune", 1, 121.0, 9.2, 2.6),
    ("evaluate", 1, 21.5, 1.4, 1.4),
    ("promote", 1, 6.2, 2.2, 2.2),
    ("retrieve", 169, 8.9, 4.1, 4.1),
)

COUNTS = {
    "documents": 72, "chunks": 620, "chunk_text_bytes": 402_311, "index_chunks": 620, "questions": 169, "verdicts": 1_650,
    "events": 1_891, "kv_tokens_written": 1_536, "kv_tokens_read": 640,
}  # fmt: skip


def journal(**changes: Any) -> dict[str, Any]:
    """The journal; `changes` replace its keys."""
    return {
        "run": "20261129-120000-demo-aaaa",
        "command": "demo",
        "state": "done",
        "started": "2026-11-29T12:00:00+00:00",
        "ended": "2026-11-29T12:04:23+00:00",
        "detail": {
            "round": {
                "recipe": "reranker",
                "promoted": True,
                "training": {
                    "steps": 240, "stalled_s": 0.34, "checkpoint_s": 7.9,
                    "parameters": 22_713_601, "checkpoints": 1, "checkpoint_bytes": 272_615_715,
                },
            }
        },
        "counts": COUNTS,
        "storage": {},
        "ray": None,
        "timeline": [
            {
                "stage": stage, "phase": ASKED if stage == "retrieve" else "", "calls": calls, "active_s": active,
                "storage_s": storage, "waited_s": waited, "tiers": {}, "spans": [],
            }
            for stage, calls, active, storage, waited in _TIMES
        ],
        "rows": [
            {
                "stage": stage, "store": store, "tier": tier, "direction": direction, "tenant": "", "ops": ops, "bytes": moved,
                "p50_ms": p95 / 2, "p95_ms": p95, "max_ms": p95 * 1.3, "estimated": False,
            }
            for stage, store, tier, direction, ops, moved, p95 in _ROWS
        ],
        **changes,
    }  # fmt: skip
