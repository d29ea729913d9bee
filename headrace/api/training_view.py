"""The models and the rounds of training as the page shows them, and the moves that an operator makes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from headrace.app import App
from headrace.catalog import FEEDBACK, MODELS, PROMOTIONS, ROUNDS
from headrace.models import MODEL_NAMES
from headrace.models.pointer import ChampionPointer
from headrace.storage.objects import ObjectReader
from headrace.storage.tables.handles import TableReader, quoted
from headrace.training import manifest
from headrace.training.manifest import Manifest
from headrace.training.promotions import champion, check_model_name, versions

_VERSIONS = 20  # newest versions of each model; older ones are served by naming them
_MOVES = 100
_MOVES_DAYS = 365
_LOOKED_AT = 20  # newest rounds looked at for the one that could learn from a verdict


@dataclass(frozen=True)
class Released:
    """A released version of a model, and the share of the answers it gives now."""

    version: str
    round: int
    recipe: str
    bytes: int
    share: float


class TrainingView:
    """Reads pointers, cards and manifests; safe to share between threads."""

    def __init__(self, app: App) -> None:
        self._app = app

    def models(self) -> list[tuple[ChampionPointer, list[Released]]]:
        """Each model's pointer, and its newest released versions, newest first."""
        store = self._app.runner.open(ObjectReader, MODELS, stage="page")
        found = []
        for name in MODEL_NAMES:
            pointer, _ = champion(store, name)
            cards = versions(store, name, newest=_VERSIONS)
            found.append((pointer, [_released(card, pointer) for card in reversed(cards)]))
        return found

    def moves(self) -> list[dict[str, Any]]:
        """The newest moves of the pointers, newest first, of the last year."""
        table = self._app.runner.open(TableReader, PROMOTIONS, stage="page")
        since = datetime.now(UTC) - timedelta(days=_MOVES_DAYS)
        rows = table.read(where=f"at >= {quoted(since.isoformat())}").to_pylist()
        return sorted(rows, key=lambda row: row["at"], reverse=True)[:_MOVES]

    def rounds(self, before: int | None, most: int) -> tuple[list[Manifest], bool]:
        """The newest committed rounds (before one), newest first, and whether there are earlier ones."""
        store = self._app.runner.open(ObjectReader, ROUNDS, stage="page")
        numbers = [number for number in manifest.numbers(store) if before is None or number < before]
        return [manifest.read(store, number) for number in reversed(numbers[-most:])], len(numbers) > most

    def round_after(self, partition: int, offset: int) -> int | None:
        """The first committed round, among the newest, for which a verdict at this offset had landed."""
        found = None
        for one in self.rounds(None, _LOOKED_AT)[0]:
            position = one.offsets.get(FEEDBACK.name, {}).get(str(partition), {})
            if int(position.get("next", 0)) <= offset:
                break
            found = one.round
        return found

    def promote(self, model: str, version: str, *, who: str, why: str) -> ChampionPointer:
        """Serve a released version. Raises `NotFound`, `LostRace`."""
        check_model_name(model)
        return self._app.training.promote(model, version=version, who=who, why=why)

    def rollback(self, model: str, *, who: str, why: str) -> ChampionPointer:
        """Serve the previous version again, or end a canary. Raises `NotFound`, `LostRace`."""
        check_model_name(model)
        return self._app.training.rollback(model, who=who, why=why)


def _released(card: dict[str, Any], pointer: ChampionPointer) -> Released:
    version = str(card["version"])
    size = sum(int(file["bytes"]) for file in card["files"])
    return Released(version, int(card["round"]), str(card.get("recipe", "")), size, pointer.share(version))
