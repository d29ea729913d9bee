"""OpenAI's embeddings: requests and responses."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from headrace.api.openai import EMBEDDER
from headrace.api.schemas import ApiResponse, Text
from headrace.errors import WrongUsage
from headrace.models.client import Vectors

TEXTS = 2_048


class EmbeddingRequest(BaseModel):
    """Texts to embed; `input_type` (NVIDIA NIM's) matters to embedders that embed queries and passages differently."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Annotated[str, Field(max_length=200, examples=[EMBEDDER])]
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=TEXTS)]
    input_type: Literal["query", "passage"] = "passage"
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: Annotated[int, Field(strict=True, ge=1)] | None = None
    user: Any = None

    @field_validator("input", mode="before")
    @classmethod
    def _texts_only(cls, value: Any) -> Any:
        if isinstance(value, list) and any(isinstance(one, int | list) for one in value):
            sentence = "Unsupported value: '{param}' does not support token ids with this model. Send texts."
            raise PydanticCustomError("unsupported_value", sentence, {"param": "input"})
        for number, text in enumerate([value] if isinstance(value, str) else value if isinstance(value, list) else ()):
            if isinstance(text, str) and not text.strip():
                raise ValueError(f"text {number} is empty; leave it out")
        return value

    @property
    def texts(self) -> list[str]:
        """The texts, one or more."""
        return [self.input] if isinstance(self.input, str) else self.input


class EmbeddingList(ApiResponse):
    """The embeddings in the order of the texts; each is a list of numbers, or base64 of little-endian float32."""

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]
    model: str
    usage: dict[str, int]


def embedding_list(body: EmbeddingRequest, embedded: tuple[Vectors, int]) -> EmbeddingList:
    """The response. Raises `WrongUsage` where another number of dimensions is asked for than there are."""
    vectors, tokens = embedded
    if body.dimensions not in (None, vectors.shape[1]):
        raise WrongUsage(f"The embeddings have {vectors.shape[1]} dimensions.", hint="Leave `dimensions` out.")
    shown = [
        base64.b64encode(vector.astype("<f4").tobytes()).decode() if body.encoding_format == "base64" else vector.tolist()
        for vector in vectors
    ]
    data = [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(shown)]
    return EmbeddingList(data=data, model=EMBEDDER, usage={"prompt_tokens": tokens, "total_tokens": tokens})
