"""promote: releases a better challenger, commits the turn by its manifest, and only then moves the champion pointer."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from headrace.catalog import CHECKPOINTS, MODELS, PROMOTIONS, TURNS
from headrace.pipeline import manifest
from headrace.pipeline.stage import stage
from headrace.settings import Training
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.storage.tables import TableWriter
from headrace.training import champion
from headrace.training.evaluate import Evaluation
from headrace.training.loop import Trained
from headrace.training.prepare import Dataset


@dataclass(frozen=True)
class Decision:
    """Whether the challenger was promoted, why, and the version that is served now."""

    turn: int
    promoted: bool
    why: str
    version: str
    serving: str


@stage("Promotes a challenger that is better, or refuses and says why; commits the turn by its manifest.")
def promote(
    checkpoints: Annotated[ObjectReader, CHECKPOINTS],
    models: Annotated[ObjectWriter, MODELS],
    turns: Annotated[ObjectWriter, TURNS],
    promotions: Annotated[TableWriter, PROMOTIONS],
    plan: dict[str, Any],
    dataset: Dataset,
    trained: Trained,
    evaluation: Evaluation,
    settings: Training,
    run: str,
) -> Decision:
    """Decide, release the weights if better, publish the manifest, move the pointer.

    Raises `LostRace` where another process committed this turn; nothing of this one is served then.
    """
    promoted, why = decide(evaluation, settings.confidence)
    version = f"v{manifest.name(plan['turn'])}"
    files: list[dict[str, Any]] = []
    if promoted:
        files = _release(checkpoints, models, trained.weights, version, plan["turn"], evaluation, settings)
    manifest.publish(
        turns,
        plan["turn"],
        {
            **plan,
            "committed": datetime.now(UTC).isoformat(),
            "run": run,
            "dataset": dataset.as_dict(),
            "training": trained.as_dict(),
            "evaluation": evaluation.as_dict(),
            "decision": {"promote": promoted, "why": why},
            "weights": {"version": version if promoted else None, "files": files},
        },
    )
    serving = settle(models, turns, promotions)
    return Decision(plan["turn"], promoted, why, version, serving.version)


def decide(evaluation: Evaluation, confidence: float) -> tuple[bool, str]:
    """Whether to promote, and why in one sentence."""
    shown = (
        f"nDCG@10 {evaluation.challenger:.3f} against {evaluation.champion:.3f} on {evaluation.questions} held-out"
        f" questions: {evaluation.difference:+.3f}, 95 % interval {evaluation.low:+.3f} to {evaluation.high:+.3f}"
    )
    if evaluation.questions == 0:
        return False, "no held-out question can tell the two apart"
    if evaluation.confidence >= confidence:
        return True, f"better with {evaluation.confidence:.1%} confidence ({shown})"
    if evaluation.retrieval_weight == 1.0 and evaluation.champion_version == champion.NONE:
        return False, f"on the tuning questions its score added nothing to retrieval's ({shown})"
    return False, f"better with only {evaluation.confidence:.1%} confidence, {confidence:.0%} is asked ({shown})"


def settle(models: ObjectWriter, turns: ObjectReader, promotions: TableWriter) -> champion.Champion:
    """Bring the pointer in line with the newest manifest: a process may have died between the two.

    A pointer that stands at a newer move of somebody's (a rollback, say) than the manifest is left alone.
    """
    standing, _ = champion.champion(models)
    champion.record_move(promotions, standing)
    committed = manifest.numbers(turns)
    for turn in reversed(committed):
        found = manifest.read(turns, turn)
        if not found["decision"]["promote"]:
            continue
        if standing.at < found["committed"]:
            return champion.move(
                models,
                promotions,
                found["weights"]["version"],
                who=f"turn {turn}",
                why=found["decision"]["why"],
                kind="promote",
            )
        break
    return standing


def _release(
    checkpoints: ObjectReader,
    models: ObjectWriter,
    weights: str,
    version: str,
    turn: int,
    evaluation: Evaluation,
    settings: Training,
) -> list[dict[str, Any]]:
    """Copy the weights to the models store, card last."""
    files = []
    prefix = f"{champion.RERANKER}/{version}"
    with tempfile.TemporaryDirectory() as folder:
        for info in list(checkpoints.list(f"{weights}/")):
            name = PurePosixPath(info.key).relative_to(weights).as_posix()
            path = Path(folder) / "file"
            checkpoints.download(info.key, path)
            models.upload(f"{prefix}/{name}", path)
            files.append({"name": name, "bytes": path.stat().st_size, "sha256": _sha256(path)})
    released = {
        "version": version,
        "turn": turn,
        "retrieval_weight": evaluation.retrieval_weight,
        "max_tokens": settings.max_tokens,
        "files": files,
    }
    models.put(f"{prefix}/card.json", json.dumps(released, indent=1).encode())
    return files


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
