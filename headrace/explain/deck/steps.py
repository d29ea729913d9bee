"""The steps of each pipeline on slides: a title, and the stages that it stands for."""

from __future__ import annotations

INFERENCE: dict[str, tuple[str, ...]] = {
    "Ingest": ("put", "land"),
    "Parse": ("parse",),
    "Chunk": ("chunk",),
    "Embed & index": ("embed", "serving", "index", "sweep", "finish_pass"),
    "Retrieve": ("retrieve",),
    "Re-rank": ("rerank",),
    "Generate": ("generate",),
    "Record": ("answer", "feedback"),
}
TRAINING: dict[str, tuple[str, ...]] = {
    "Build dataset": ("plan", "prepare"),
    "Fine-tune": ("finetune",),
    "Evaluate": ("evaluate",),
    "Promote": ("promote", "tidy"),
}
STEPS = {**INFERENCE, **TRAINING}
