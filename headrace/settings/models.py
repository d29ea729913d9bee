"""The model endpoints."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr

from headrace.settings.section import EmbeddedPart, Section


class Endpoint(Section):
    """Your own NIM or OpenAI-style model endpoint."""

    type: Literal["endpoint"]
    url: str
    """Base URL up to and including `/v1`."""
    model: str
    """Model name sent with each request."""
    api_key: SecretStr | None = None
    """Bearer token; preferably set in the environment."""
    timeout_s: float = 60.0
    """Seconds to wait for a response before the endpoint counts as down."""


class ModelSettings(Section):
    """The endpoints that embed, re-rank and generate."""

    embedder: Annotated[EmbeddedPart | Endpoint, Field(discriminator="type")] = EmbeddedPart()
    """Computes embeddings (384 dimensions unless the index is rebuilt)."""
    reranker: Annotated[EmbeddedPart | Endpoint, Field(discriminator="type")] = EmbeddedPart()
    """Scores (question, passage) pairs."""
    generator: Annotated[EmbeddedPart | Endpoint, Field(discriminator="type")] = EmbeddedPart()
    """Writes the answer."""
    threads: int = Field(default=2, ge=1)
    """Processor threads of the embedded model server."""
    exact: bool = False
    """Whether the embedded models use float32 where two bytes are faster or smaller with nearly the same result: products of
    embedder and re-ranker in bfloat16, stored keys and values of the generator in float16."""

    @property
    def embedded(self) -> bool:
        """Whether embedder and generator are the embedded models."""
        return isinstance(self.embedder, EmbeddedPart) and isinstance(self.generator, EmbeddedPart)
