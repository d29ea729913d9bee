"""Cards of released versions: `<model>/<version>/card.json` in the store `models`, which lists a version's files."""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, model_validator

from headrace.models import EMBEDDER, GENERATOR, RANKING, RERANKER
from headrace.models.pointer import Version
from headrace.models.ranking import RankingWeights, of_retrieval_weight


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if not path.parts or len(path.parts) > 2 or path.is_absolute() or ".." in path.parts or str(path) != name:
        raise ValueError(f"{name!r} is not a file name inside a release")
    return name


class CardFile(BaseModel):
    """One file of a version, by its name; `folder` is that of the version's folder which it is in, named by its hash.

    So nobody who releases the same version late can change it. Files of versions released before have no such folder.
    """

    name: Annotated[str, AfterValidator(_inside)]
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    folder: str = Field(default="", pattern=r"^([0-9a-f]{16})?$")

    @property
    def key(self) -> str:
        """Its key below the version's folder."""
        return f"{self.folder}/{self.name}" if self.folder else self.name


class Card(BaseModel):
    """`card.json`: one released version and its files."""

    version: Version
    round: int
    files: list[CardFile] = Field(min_length=1)

    @property
    def digest(self) -> str:
        """16 hex digits that stand for the files."""
        lines = "".join(f"{file.name} {file.sha256}\n" for file in sorted(self.files, key=lambda file: file.name))
        return hashlib.sha256(lines.encode()).hexdigest()[:16]


class RankingCard(Card):
    """The weights by which passages are ordered. Its file also has those of each fold (training/ranker.py)."""

    ranking: RankingWeights


class RerankerCard(Card):
    """A cross-encoder, with the weights by which passages that it scored are ordered."""

    ranking: RankingWeights
    max_tokens: int = Field(ge=8, le=512)

    @model_validator(mode="before")
    @classmethod
    def _of_before(cls, card: Any) -> Any:
        """Cards released before there was a ranking have the weight of retrieval's score instead."""
        if not isinstance(card, dict) or "ranking" in card or "retrieval_weight" not in card:
            return card
        weight = card["retrieval_weight"]
        if not isinstance(weight, int | float) or not 0 <= weight <= 1:
            raise ValueError("retrieval_weight is not a number from 0 to 1")
        return {**card, "ranking": of_retrieval_weight(float(weight))}


class EmbedderCard(Card):
    """A sentence-transformers folder."""

    max_tokens: int = Field(ge=8, le=512)


class GeneratorCard(Card):
    """An adapter of the packaged generator, as PEFT writes it."""

    form: Literal["lora"] = "lora"


CARDS: dict[str, type[Card]] = {
    RANKING: RankingCard,
    RERANKER: RerankerCard,
    EMBEDDER: EmbedderCard,
    GENERATOR: GeneratorCard,
}
"""What serving needs to know about a released version, by model; releases are validated against it."""
