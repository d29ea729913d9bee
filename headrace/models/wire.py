"""HTTP bodies of client and server: NVIDIA NIM's embeddings and ranking, OpenAI's chat completions.

Fields under `headrace` are extensions: other clients never send them, and of other servers only what Headrace's own could have
reported is accepted.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator
from typing_extensions import TypedDict

from headrace.models.ranking import RankingWeights

EMBEDDER = "all-MiniLM-L6-v2"
RERANKER = "cross-encoder"
GENERATOR = "SmolLM2-135M-Instruct"
ROLES = {"embedder": EMBEDDER, "reranker": RERANKER, "generator": GENERATOR}
"""Values of a request's `model`: a role or the name of its model, optionally followed by @ and a version."""

NO_CHAMPION = "no_champion"
MISSING_PART = "missing_part"
UNAVAILABLE = "unavailable"

EMBEDDINGS_MAX = 1024
PASSAGES_MAX = 512
BODY_BYTES_MAX = 8 << 20

ANSWER_ID_MAX = 256
TENANT = r"^([a-z0-9][a-z0-9-]{0,62})?$"
DOCUMENT = r"^[0-9a-f]{16}$"
DOCUMENTS_MAX = 1_000


class ModelRequest(BaseModel):
    """A request body. Unknown fields are ignored, as NIM and OpenAI-style servers do."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class EmbeddingsRequest(ModelRequest):
    """`POST /v1/embeddings`."""

    model: str = "embedder"
    input: str | list[str]
    input_type: Literal["query", "passage"] | None = None
    truncate: Literal["NONE", "START", "END"] = "NONE"
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None

    @field_validator("input")
    @classmethod
    def _something_to_embed(cls, value: str | list[str]) -> str | list[str]:
        texts = [value] if isinstance(value, str) else value
        if not texts:
            raise ValueError("input is empty: give at least one text")
        if len(texts) > EMBEDDINGS_MAX:
            raise ValueError(f"input has {len(texts)} texts: give at most {EMBEDDINGS_MAX} at once")
        for index, text in enumerate(texts):
            if not text.strip():
                raise ValueError(f"input {index} is empty: leave it out")
        return value

    @property
    def texts(self) -> list[str]:
        """The texts to embed, one or more."""
        return [self.input] if isinstance(self.input, str) else self.input


class InputText(ModelRequest):
    """A question or a passage."""

    text: str = Field(min_length=1)


class RankingExtras(ModelRequest):
    """Fields of the embedded server beyond NIM's."""

    answer_id: str = Field(default="", max_length=ANSWER_ID_MAX)
    """The id of the answer that this is for: it decides whether the champion or a canary ranks."""


class RankingRequest(ModelRequest):
    """`POST /v1/ranking`."""

    model: str = "reranker"
    query: InputText
    passages: list[InputText] = Field(min_length=1, max_length=PASSAGES_MAX)
    truncate: Literal["NONE", "END"] = "NONE"
    headrace: RankingExtras = RankingExtras()


class ContentPart(ModelRequest):
    """A part of a message; only text is supported."""

    type: Literal["text"]
    text: str


class ChatMessage(ModelRequest):
    """One message of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str | list[ContentPart]

    @property
    def text(self) -> str:
        """The message's text, its parts joined."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatExtras(ModelRequest):
    """Fields of the embedded server beyond OpenAI's."""

    answer_id: str = Field(default="", max_length=ANSWER_ID_MAX)
    """The answer's id: it decides whether the champion or a canary writes it."""
    tenant: str = Field(default="", pattern=TENANT)
    """The tenant of the prompt: tenants never share cached blocks."""
    readers_id: str = Field(default="", max_length=64)
    """A digest of the readers on whose behalf it is asked: others of the tenant share no blocks with them."""
    documents: Annotated[list[Annotated[str, Field(pattern=DOCUMENT)]], Field(max_length=DOCUMENTS_MAX)] | None = None
    """The ids of the documents whose passages are in the prompt: its blocks go when one of them does. Unset: not known."""
    run: str = Field(default="", max_length=ANSWER_ID_MAX)
    """The run that asks: what is stored behind its answers is reported with its next one, or at its end."""
    cache: bool = True
    """Whether blocks of the prompt are read from and written to the KV cache."""
    kv_cache_bytes: Annotated[int, Field(ge=0)] | None = None
    """The tenant's limit in the KV cache, in bytes."""


class SettleRequest(ModelRequest):
    """`POST /v1/kv/settle`: an extension."""

    run: str = Field(max_length=ANSWER_ID_MAX)
    seconds: float = Field(default=0.0, ge=0.0, le=30.0)
    """How long to wait until the run's blocks are stored."""


class ChatStreamOptions(ModelRequest):
    """OpenAI's `stream_options`; usage is always included."""

    include_usage: bool = True


class ChatRequest(ModelRequest):
    """`POST /v1/chat/completions`."""

    model: str = "generator"
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: float = Field(default=0.0, ge=0.0, le=2.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    frequency_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    presence_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    seed: int | None = None
    stream: bool = False
    stream_options: ChatStreamOptions | None = None
    n: Literal[1] = 1
    stop: str | list[str] | None = None
    tools: None = None
    headrace: ChatExtras = ChatExtras()

    @property
    def stops(self) -> list[str]:
        """Texts that end the answer and are not part of it."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [stop for stop in stops if stop]

    @property
    def limit(self) -> int:
        """The most tokens the answer may have."""
        return self.max_completion_tokens or self.max_tokens or 256


class LedgerEntry(ModelRequest):
    """An entry of `Ledger.export`: what the server moved for a request."""

    stage: str
    store: str
    tier: str
    direction: Literal["read", "write"]
    tenant: str
    ops: Annotated[int, Field(ge=0)]
    bytes: Annotated[int, Field(ge=0)]
    seconds: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    max_s: Annotated[FiniteFloat, Field(ge=0)]
    latency: dict[Annotated[int, Field(ge=0, le=1000)], Annotated[int, Field(ge=0)]]
    estimated: bool


TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]


class ResponseExtras(ModelRequest):
    """What only Headrace's own server reports."""

    storage: list[LedgerEntry] = []
    version: str = ""
    ranking: RankingWeights | None = None
    prompt_tokens: list[TokenId] = []
    completion_tokens: list[TokenId] = []
    logprobs: list[FiniteFloat] = []
    timings_ms: dict[str, FiniteFloat] = {}
    reused_tokens: Annotated[int, Field(ge=0)] = 0
    stored_tokens: Annotated[int, Field(ge=0)] = 0
    not_stored: Annotated[str, Field(max_length=2_000)] = ""

    @property
    def entries(self) -> list[dict[str, Any]]:
        """`storage` for `Ledger.fold`."""
        return [entry.model_dump() for entry in self.storage]


class ChatDelta(ModelRequest):
    """The next piece of a streamed answer."""

    content: str | None = None


class ChatChoice(ModelRequest):
    """One answer of a chunk; there is only one."""

    delta: ChatDelta | None = None
    finish_reason: str | None = None


class ChatUsage(TypedDict, total=False):
    """What an answer took; other fields stay as they are."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    prompt_tokens: Annotated[int, Field(ge=0)] | None
    completion_tokens: Annotated[int, Field(ge=0)] | None


class ChatChunk(ModelRequest):
    """An event of a streamed answer."""

    model: str | None = None
    usage: ChatUsage | None = None
    choices: list[ChatChoice] | None = None
    headrace: ResponseExtras | None = None
