"""Plans and manifests of rounds that nobody made, whole, as the schema wants them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from headrace.settings import Training
from headrace.training.cutoff import NOTHING
from headrace.training.evaluate import Evaluation
from headrace.training.manifest import Manifest, Plan

CARD = {"ranking": {"weights": {"retrieval": 1.0, "reranker": 2.0}}, "max_tokens": 64}
"""What an evaluation says for the card of a re-ranker."""


def won() -> Evaluation:
    """An evaluation in which the challenger is better, on nine questions that three users judged."""
    return Evaluation("nDCG@10", "none", 9, 0.5, 0.9, 0.4, 0.3, 0.5, 1.0, 0.5, CARD, users=3)


def plan(number: int, **more: Any) -> Plan:
    """The plan of a round of the re-ranker, of which `more` says something else."""
    recipe = str(more.get("recipe", "reranker"))
    fields: dict[str, Any] = {
        "round": number,
        "parent": number - 1 or None,
        "recipe": recipe,
        "model": recipe,
        "start": "",
        "champion": "none",
        "canary": 0.0,
        "begun": "2026-01-01T12:00:00+00:00",
        "newest_verdict": None,
        "snapshots": {},
        "offsets": {},
        "exclusions": NOTHING.as_dict(),
        "generator_history": ["none"],
        "dataset_version": "d",
        "recipe_settings": {},
        "settings": Training().model_dump(mode="json"),
    }
    return Plan.model_validate({**fields, **more})


def manifest(number: int, *, version: str | None = None, **more: Any) -> Manifest:
    """The manifest of a round that released `version`, or refused its challenger."""
    fields: dict[str, Any] = {
        "committed": datetime.now(UTC).isoformat(),
        "run": "test",
        "dataset": {"version": "d", "files": []},
        "training": {"weights": "d/weights", "checkpoint": "d/step-000001.pt"},
        "evaluation": {
            **{"measure": "nDCG@10", "champion": 0.5, "challenger": 0.4, "questions": 9},
            **more.pop("evaluation", {}),
        },
        "decision": {"promote": version is not None, "why": "test", "alarms": []},
        "weights": {"version": version, "files": []},
        "timings": {},
        "feedback_to_served": None,
    }
    known = {name: more.pop(name) for name in list(more) if name in Plan.model_fields}
    return Manifest.model_validate({**plan(number, **known).model_dump(), **fields, **more})
