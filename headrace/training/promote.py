"""promote: releases a challenger that passes the gate, commits the round by its manifest, then moves the champion pointer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from headrace.catalog import CHECKPOINTS, MODELS, PROMOTIONS, ROUNDS
from headrace.core.stage import stage
from headrace.errors import LostRace, NotFound
from headrace.models import EMBEDDER, RERANKER
from headrace.models.cards import CARDS
from headrace.models.pointer import ChampionPointer
from headrace.settings import Training
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.storage.tables.handles import TableWriter, quoted
from headrace.training import manifest
from headrace.training.data import Dataset
from headrace.training.evaluate import Evaluation
from headrace.training.gate import alarms, decide
from headrace.training.manifest import Clock, Manifest, Plan
from headrace.training.promotions import PROMOTE, champion, move, record_move, start_canary, version_names
from headrace.training.recipes import recipe_of
from headrace.training.scratch import scratch_folder
from headrace.training.trainer import Trained

_CARDS = 10  # processes in one round, at most


@dataclass(frozen=True)
class Decision:
    """Whether the challenger was promoted, why, its alarms, the version now served, and the canary if any."""

    round: int
    model: str
    promoted: bool
    why: str
    alarms: tuple[str, ...]
    version: str
    serving: str
    canary: str = ""


@stage("Promotes a better challenger or rejects it with the reason; commits the round by its manifest.")
def promote(
    checkpoints: Annotated[ObjectReader, CHECKPOINTS],
    models: Annotated[ObjectWriter, MODELS],
    rounds: Annotated[ObjectWriter, ROUNDS],
    promotions: Annotated[TableWriter, PROMOTIONS],
    plan: Plan,
    dataset: Dataset,
    trained: Trained,
    evaluation: Evaluation,
    settings: Training,
    run: str,
    clock: Clock,
    load: Callable[[str, str], None] | None = None,
) -> Decision:
    """Decide, release the weights of a better challenger, publish the manifest, then move the pointer or start a canary.

    `load(model, version)` is called after the release and before anything depends on it. Raises `LostRace` if another process
    committed this round or withdrew its plan (`headrace forget`); nothing of the round is served then.
    """
    model = recipe_of(plan.recipe).model
    alarmed = alarms(evaluation, trained.figures, settings.gate)
    promoted, why = decide(model, evaluation, alarmed, settings.gate)
    version = f"v{manifest.name(plan.round)}"
    if manifest.plan(rounds, plan.round) != plan:
        raise LostRace(
            "The plan of this round was withdrawn: some of what it would learn from was forgotten or excluded meanwhile.",
            hint="Run the command again: it plans a new round.",
        )
    files: list[dict[str, Any]] = []
    card: dict[str, Any] = {}
    if promoted:
        known = {"version": version, "round": plan.round, "model": model, "recipe": plan.recipe, **evaluation.card}
        if model == RERANKER:
            known["ranking"] = {**known["ranking"], "reranker": version}
        # What is committed may be served, and another machine's weights differ in their last bits.
        card = _release(
            checkpoints,
            models,
            trained.weights,
            f"{model}/{version}",
            known,
            before_each=lambda: manifest.check_open(rounds, plan.round),
        )
        files = card["files"]
        clock.lap("publish")
        if load is not None:
            load(model, version)
            clock.lap("load")
    manifest.publish(
        rounds,
        Manifest.model_validate(
            {
                **plan.model_dump(),
                "committed": datetime.now(UTC).isoformat(),
                "run": run,
                "dataset": dataset.as_dict(),
                "training": trained.as_dict(),
                "evaluation": evaluation.as_dict(),
                "decision": {"promote": promoted, "why": why, "alarms": alarmed},
                "weights": {"version": version if promoted else None, "files": files},
                "timings": clock.seconds,
                "newest_verdict": clock.newest_verdict,
                # An embedder is served once its index is built; the promotions table has that time.
                "feedback_to_served": clock.feedback_to_served if promoted and model != EMBEDDER else None,
            }
        ),
    )
    if promoted:
        _settle(models, f"{model}/{version}/card.json", {**card, "committed": True})
    pointer = serve_promoted(models, rounds, promotions, model)
    return Decision(
        plan.round,
        model,
        promoted,
        why,
        tuple(alarmed),
        version,
        pointer.version,
        pointer.canary.version if pointer.canary else "",
    )


def serve_promoted(models: ObjectWriter, rounds: ObjectReader, promotions: TableWriter, model: str) -> ChampionPointer:
    """Move a model's pointer as the newest manifest says: a process may have died between manifest and pointer.

    A pointer that was moved after the manifest (e.g. by a rollback) is not changed, whatever the clocks say: each move is
    recorded before the next, so it is known which versions were served. Nor is the embedder's, which moves with the index that
    was built with it.
    """
    pointer, _ = champion(models, model)
    record_move(promotions, pointer)
    if model == EMBEDDER:
        return pointer
    found = newest(rounds, models, model, since=pointer.at)
    if found is None or (pointer.moves and _was_served(promotions, model, found)):
        return pointer
    who, why, version = f"round {found.round}", found.decision.why, str(found.weights.version)
    if found.canary:
        return start_canary(models, promotions, model, version, share=found.canary, who=who, why=why)
    return move(models, promotions, model, version, who=who, why=why, kind=PROMOTE)


def newest(rounds: ObjectReader, models: ObjectReader, model: str, since: str) -> Manifest | None:
    """The manifest of the newest round that promoted a challenger of this model and was committed after `since` (ISO 8601).

    Only rounds that released a version of this model are read: a version is named by its round, and released before the manifest.
    """
    for version in reversed(version_names(models, model)):
        try:
            found = manifest.read(rounds, int(version.removeprefix("v")))
        except NotFound:  # killed before it was committed, or withdrawn
            continue
        if found.committed <= since:
            break
        if found.decision.promote and found.model == model:
            return found
    return None


def _was_served(promotions: TableWriter, model: str, round_: Manifest) -> bool:
    where = f"model = {quoted(model)} AND version = {quoted(str(round_.weights.version))}"
    return bool(promotions.read(("version",), where).num_rows)


def _release(
    checkpoints: ObjectReader,
    models: ObjectWriter,
    weights: str,
    prefix: str,
    known: dict[str, Any],
    before_each: Callable[[], None],
) -> dict[str, Any]:
    """Copy the weights to the models store, and last the card, which has what serving needs and is returned.

    A process that is late, frozen inside a request, must not change what another one has committed meanwhile: each file is in a
    folder named by its hash, and the card replaces only the one that was there while the round was open.
    """
    files = []
    with scratch_folder() as folder:
        for info in list(checkpoints.list(f"{weights}/")):
            name = PurePosixPath(info.key).relative_to(weights).as_posix()
            path = folder / "file"
            checkpoints.download(info.key, path)
            before_each()
            sha256 = _sha256(path)
            file = {"name": name, "bytes": path.stat().st_size, "sha256": sha256, "folder": sha256[:16]}
            models.upload(f"{prefix}/{file['folder']}/{name}", path)
            files.append(file)
    card = {**known, "files": files}
    CARDS[known["model"]].model_validate(card)
    key, data = f"{prefix}/card.json", _json(card)
    try:
        _, etag = models.get_with_etag(key)
    except NotFound:
        etag = ""
    before_each()
    if etag:
        models.put_if_match(key, data, etag)
    else:
        models.put_if_absent(key, data)
    return card


def _settle(models: ObjectWriter, key: str, card: dict[str, Any]) -> None:
    """Write the card of a round that is committed: from now on nobody's condition holds who saw it open."""
    for _ in range(_CARDS):
        try:
            _, etag = models.get_with_etag(key)
            models.put_if_match(key, _json(card), etag)
            return
        except LostRace:  # somebody who saw the round open was faster, which each of them can be once
            continue


def _json(card: dict[str, Any]) -> bytes:
    return json.dumps(card, indent=1).encode()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
