"""What OpenAI's clients ask at `/v1/chat/completions`: each field is obeyed, or refused with OpenAI's own error."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from headrace.answering.follow_up import TURNS, Turn
from headrace.answering.intent import intent_of
from headrace.answering.options import INSTRUCTIONS_CHARACTERS, AnswerOptions
from headrace.api.schemas import (
    QUESTION_CHARACTERS,
    AnswerModeName,
    ApiRequest,
    FilterTexts,
    Readers,
    TenantName,
    check_text,
    question_of,
    user_of,
)
from headrace.api.telemetry import MODEL
from headrace.errors import WrongUsage

TASK_CHARACTERS = 100_000
"""A client's task has the conversation in it."""
ANSWER_CHARACTERS = 16_000
"""Of each answer in a history that are read."""
_SYSTEM = ("system", "developer")
_SAMPLING = ("temperature", "top_p", "seed", "frequency_penalty", "presence_penalty")
_CONTENT: dict[str, Any] = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "array",
            "items": {"type": "object", "properties": {"type": {"type": "string"}, "text": {"type": "string"}}},
        },
        {"type": "null"},
    ]
}


class LenientRequest(BaseModel):
    """A part of a request that is only read in part; other keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Message(LenientRequest):
    """One message. Only its text is read; pictures, tool calls and refusals are ignored."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[Any, WithJsonSchema(_CONTENT)] = None

    @property
    def text(self) -> str:
        """The message's text, its parts joined."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part["text"] for part in self._parts if isinstance(part.get("text"), str))

    @property
    def readable(self) -> bool:
        """Whether it is text, and nothing else."""
        if self.content is None or isinstance(self.content, str):
            return True
        parts = self._parts
        return (
            isinstance(self.content, list)
            and len(parts) == len(self.content)
            and all(part.get("type") == "text" and isinstance(part.get("text"), str) for part in parts)
        )

    @property
    def _parts(self) -> Sequence[Mapping[str, Any]]:
        return [part for part in self.content if isinstance(part, dict)] if isinstance(self.content, list) else ()


class StreamOptions(LenientRequest):
    """OpenAI's `stream_options`."""

    include_usage: bool = False


class ChatExtensions(ApiRequest):
    """Fields beyond OpenAI's: readers, filters and mode as in `AskRequest`, and for the scope `admin` the tenant."""

    tenant: TenantName | None = None
    readers: Readers = ()
    filters: FilterTexts = ()
    answers: AnswerModeName | None = None


def _question(messages: Sequence[Message]) -> str:
    """The last message with the role `user`. Raises `ValueError` unless it is a question, or a task of a client, in text."""
    asked = next((message for message in reversed(messages) if message.role == "user"), None)
    if asked is not None and not asked.readable:
        raise ValueError("the last message with the role user has a part that is not text; only text is read")
    text = "" if asked is None else asked.text
    return check_text(text.strip(), TASK_CHARACTERS) if intent_of(text) == "task" else question_of(text)


def _instructions(messages: Sequence[Message]) -> str:
    return "\n\n".join(text for message in messages if message.role in _SYSTEM and (text := message.text.strip()))


def _conversation(messages: list[Message]) -> list[Message]:
    _question(messages)
    last = next(message for message in reversed(messages) if message.role not in _SYSTEM)
    if last.role != "user":
        raise ValueError(f"the last message has the role {last.role}; end the conversation with the user's question")
    instructions = _instructions(messages)
    if len(instructions) > INSTRUCTIONS_CHARACTERS:
        raise ValueError(
            f"the system messages have {len(instructions):,} characters; at most {INSTRUCTIONS_CHARACTERS:,} are taken"
        )
    return messages


_TAKEN: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
}
"""Fields of which only these values, and null, ask for what is done here."""
_REFUSED = ("logprobs", "top_logprobs", "logit_bias", "audio", "reasoning_effort", "verbosity", "web_search_options", "store")
"""Fields that are taken only where they ask for nothing: absent, null, false, 0 or empty."""


def _unsupported(name: str) -> PydanticCustomError:
    sentence = "Unsupported parameter: '{param}' is not supported with this model. Leave it out."
    return PydanticCustomError("unsupported_parameter", sentence, {"param": name})


Stops = Annotated[list[Annotated[str, Field(max_length=500)]], Field(max_length=4)]
Ratio = Annotated[float, Field(strict=True, ge=0, le=1)]
Penalty = Annotated[float, Field(strict=True, ge=-2, le=2)]
Tokens = Annotated[int, Field(strict=True, ge=1)]


class ChatCompletionRequest(ApiRequest):
    """OpenAI's chat completion request. What is not supported is refused unless it asks for nothing."""

    model: Annotated[str, Field(max_length=200, examples=[MODEL])]
    messages: Annotated[
        list[Message],
        Field(
            fail_fast=True,
            min_length=1,
            max_length=10_000,
            examples=[[{"role": "user", "content": "How long are backups kept?"}]],
        ),
        AfterValidator(_conversation),
    ]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    temperature: Annotated[float, Field(strict=True, ge=0, le=2)] | None = None
    top_p: Ratio | None = None
    seed: Annotated[int, Field(strict=True, ge=-(1 << 63), lt=1 << 63)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    stop: Annotated[str, Field(max_length=500)] | Stops | None = None
    user: Any = None
    headrace: ChatExtensions = ChatExtensions()

    n: Any = None
    response_format: Any = None
    modalities: Any = None
    service_tier: Any = None
    tool_choice: Any = None
    function_call: Any = None
    tools: Any = None
    functions: Any = None
    logprobs: Any = None
    top_logprobs: Any = None
    logit_bias: Any = None
    audio: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    web_search_options: Any = None
    store: Any = None
    # These change no answer: they tell OpenAI's service about caches, predictions and tools, which do not exist here.
    metadata: Any = None
    parallel_tool_calls: Any = None
    prediction: Any = None
    prompt_cache_key: Any = None
    safety_identifier: Any = None

    @field_validator(*_TAKEN)
    @classmethod
    def _taken(cls, value: Any, info: ValidationInfo) -> Any:
        taken = _TAKEN[str(info.field_name)]
        if value is None or any(type(value) is type(one) and value == one for one in taken):
            return value
        only = " or ".join(json.dumps(one) for one in taken)
        raise PydanticCustomError(
            "unsupported_value", "Unsupported value: '{param}' does not support this value with this model. It takes {only}.",
            {"param": info.field_name, "only": only},
        )  # fmt: skip

    @field_validator(*_REFUSED)
    @classmethod
    def _asks_for_nothing(cls, value: Any, info: ValidationInfo) -> Any:
        if value:
            raise _unsupported(str(info.field_name))
        return value

    @model_validator(mode="after")
    def _together(self) -> ChatCompletionRequest:
        """Refuse what is wrong only beside another field."""
        if self.stream_options is not None and not self.stream:
            sentence = "The '{param}' parameter is only allowed when 'stream' is enabled."
            raise PydanticCustomError("invalid_value", sentence, {"param": "stream_options"})
        for name, choice in (("tools", self.tool_choice), ("functions", self.function_call)):
            if getattr(self, name) and choice != "none":
                raise _unsupported(name)
        return self

    @property
    def question(self) -> str:
        """The last message with the role `user`."""
        return _question(self.messages)

    @property
    def history(self) -> list[Turn]:
        """The questions before it, each with what the assistant said next."""
        turns: list[Turn] = []
        last = max(place for place, message in enumerate(self.messages) if message.role == "user")
        for message in self.messages[:last]:
            text = message.text.strip()
            if message.role == "user" and text and intent_of(text) == "question":
                turns.append(Turn(text[:QUESTION_CHARACTERS]))
            elif message.role == "assistant" and turns and not turns[-1].answer:
                turns[-1] = Turn(turns[-1].question, text[:ANSWER_CHARACTERS])
        return turns[-TURNS:]

    @property
    def options(self) -> AnswerOptions:
        """How the answer is to be made."""
        limits = [most for most in (self.max_tokens, self.max_completion_tokens) if most is not None]
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        sampling = {name: value for name in _SAMPLING if (value := getattr(self, name)) is not None}
        if self.top_p is not None:
            sampling["top_p"] = max(self.top_p, 1e-6)  # some servers refuse 0, which means the most likely token
        return AnswerOptions(
            mode=self.headrace.answers,
            instructions=_instructions(self.messages),
            most_tokens=min(limits, default=None),
            stop=tuple(text for text in stop if text),
            sampling=sampling,
        )

    @property
    def asker(self) -> str | None:
        """The user that `user` names. Raises `WrongUsage`."""
        if not isinstance(self.user, str) or not self.user:
            return None
        try:
            return user_of(self.user)
        except ValueError as error:
            raise WrongUsage(f"`user` is not a name: {error}.") from None
