"""The pointer to the served version of a model: one schema, read by what moves it and by what serves.

In the store `models`, `<model>/champion.json` names the served version; moving that pointer by compare-and-swap is all that a
promotion, a rollback or a canary does. It is here because its writers (training, registry) and its readers (the model server,
lineage) have no other room below them in common.
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
"""The version of a model as it is without any promotion."""

Version = Annotated[str, Field(pattern=r"^v\d{6,12}$")]


class Canary(BaseModel):
    """A challenger that answers `share` (0 to 1) of the traffic since `since` (ISO 8601)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Version
    share: float = Field(ge=0, le=1)
    round: int
    since: str
    why: str


class ChampionPointer(BaseModel):
    """The served version of a model ("none": what there is without one), its round, who put it there, what was before.

    `moves` is the pointer's own count, so that each of its positions can be recorded exactly once. `history` has the versions
    that rollback goes back on, the newest last. A pointer without `format` was written before it had one, in format 1.
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
        """The pointer for `--json` and the page."""
        return self.model_dump(exclude={"format"})

    def share(self, version: str) -> float:
        """The share of the answers that a version gives."""
        tried = self.canary.share if self.canary else 0.0
        if self.canary and version == self.canary.version:
            return tried
        return 1.0 - tried if version == self.version else 0.0

    def served(self, answer_id: str) -> str:
        """The version that makes an answer: the canary where the hash of the answer's id falls into its share, else the champion.

        An answer without an id is the champion's.
        """
        if self.canary is None or not answer_id:
            return self.version
        place = int(hashlib.sha256(answer_id.encode()).hexdigest()[:8], 16) / 2**32
        return self.canary.version if place < self.canary.share else self.version


def pointer_key(model: str) -> str:
    """The key of a model's pointer in the store `models`."""
    return f"{model}/champion.json"


def read_pointer(models: ObjectReader, model: str) -> tuple[ChampionPointer, str]:
    """A model's pointer and its etag ("" while there is no pointer). Raises `InvalidState` where it cannot be read as one."""
    try:
        data, etag = models.get_with_etag(pointer_key(model))
    except NotFound:
        return ChampionPointer(model=model), ""
    return parse_pointer(model, data), etag


def parse_pointer(model: str, data: bytes) -> ChampionPointer:
    """A model's pointer from its bytes. Raises `InvalidState`."""
    return parse(ChampionPointer, data, f"{MODELS.name}/{pointer_key(model)}")


def swap_pointer(models: ObjectWriter, new: ChampionPointer, etag: str) -> None:
    """Put the pointer in the place of the one with this etag. Raises `LostRace` where another came first."""
    key, data = pointer_key(new.model), new.model_dump_json(indent=1).encode()
    if etag:
        models.put_if_match(key, data, etag)
    else:
        models.put_if_absent(key, data)
