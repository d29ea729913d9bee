"""The steps of each pipeline as slides name them: a title, and the stages that it stands for."""

from __future__ import annotations

from headrace.explain.diagram.slide import STORIES

STEPS: dict[str, tuple[str, ...]] = {step.title: step.stages for story in STORIES.values() for step in story}
TRAINING: dict[str, tuple[str, ...]] = {step.title: step.stages for step in STORIES["training"] if step.stages != ("land",)}
"""Those of a training round. Landing is left out: it lands for both pipelines."""
