"""The champion pointer: its schema, reading it, and replacing it by compare-and-swap.

In the store `models`, `<model>/champion.json` names the served version of a model. A promotion, a rollback or a canary consists
of moving this pointer (`training/promotions.py`). It is in this package because its writers (training, registry) and its readers
(the model server, lineage) all import it.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from headrace.catalog import MODELS
from headrace.core.schema import parse
from headrace.errors import NotFound
from headrace.storage.objects import ObjectReader, ObjectWriter

NONE = "none"
"""The version of a model before its first promotion."""

Version = Annotated[str, Field(pattern=r"^v\d{6,12}$")]


class Canary(BaseModel):
    """A challenger that has answered `share` (0 to 1) of the traffic since `since` (ISO 8601)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Version
    share: float = Field(ge=0, le=1)
    round: int
    since: str
    why: str


class ChampionPointer(BaseModel):
    """The served version of a model ("none" before a promotion), its round, who moved the pointer and why, and the previous one.

    `moves` counts the pointer's moves, so that each is recorded exactly once. `history` lists the versions for rollbacks, newest
    last. A pointer without `format` has format 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    model: str
    version: Version | Literal["none"] = NONE
    previous: str = NONE
    round: int = 0
    moves: int = Field(default=0, ge=0)
    kind: str = "promote"
    who: str = ""
    why: str = ""
    at: str = ""
    history: list[str] = []
    canary: Canary | None = None

    def as_dict(self) -> dict[str, Any]:
        """The pointer as in `--json` and on the page."""
        return self.model_dump(exclude={"format"})

    def share(self, version: str) -> float:
        """The share of answers that a version writes."""
        canary_share = self.canary.share if self.canary else 0.0
        if self.canary and version == self.canary.version:
            return canary_share
        return 1.0 - canary_share if version == self.version else 0.0

    def served(self, answer_id: str) -> str:
        """The version for an answer: the canary if the hash of the answer's id falls into its share, else the champion.

        Without an id it is the champion.
        """
        if self.canary is None or not answer_id:
            return self.version
        fraction = int(hashlib.sha256(answer_id.encode()).hexdigest()[:8], 16) / 2**32
        return self.canary.version if fraction < self.canary.share else self.version


def pointer_key(model: str) -> str:
    """The key of a model's pointer in the store `models`."""
    return f"{model}/champion.json"


def read_pointer(models: ObjectReader, model: str) -> tuple[ChampionPointer, str]:
    """A model's pointer and its etag ("" while there is no pointer). Raises `InvalidState` if it does not have the schema."""
    try:
        data, etag = models.get_with_etag(pointer_key(model))
    except NotFound:
        return ChampionPointer(model=model), ""
    return parse_pointer(model, data), etag


def parse_pointer(model: str, data: bytes) -> ChampionPointer:
    """A model's pointer from its bytes. Raises `InvalidState`."""
    return parse(ChampionPointer, data, f"{MODELS.name}/{pointer_key(model)}")


def swap_pointer(models: ObjectWriter, new: ChampionPointer, etag: str) -> None:
    """Replace the pointer that has this etag. Raises `LostRace` if another process replaced it first."""
    key, data = pointer_key(new.model), new.model_dump_json(indent=1).encode()
    if etag:
        models.put_if_match(key, data, etag)
    else:
        models.put_if_absent(key, data)
