"""What OpenAI's clients ask at `/v1/chat/completions`: each field is obeyed, or refused with OpenAI's own error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from headrace.answering.follow_up import Turn
from headrace.answering.options import AnswerOptions
from headrace.api.conversation import (
    MESSAGES,
    LenientRequest,
    Message,
    OpenAIRequest,
    Tokens,
    check_conversation,
    history_in,
    instructions_in,
    question_in,
    unsupported,
)
from headrace.api.schemas import Text


class StreamOptions(LenientRequest):
    """OpenAI's `stream_options`."""

    include_usage: bool = False


def _conversation(messages: list[Message]) -> list[Message]:
    check_conversation(messages)
    return messages


Stop = Annotated[Text, Field(max_length=500)]
Stops = Annotated[list[Stop], Field(max_length=4)]
Penalty = Annotated[float, Field(strict=True, ge=-2, le=2)]
_PENALTIES = ("seed", "frequency_penalty", "presence_penalty")


class ChatCompletionRequest(OpenAIRequest):
    """OpenAI's chat completion request. What is not supported is refused unless it asks for nothing."""

    TAKEN: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "n": (1,),
        "response_format": ({"type": "text"},),
        "modalities": (["text"],),
        "service_tier": ("auto", "default"),
        "tool_choice": ("none", "auto"),
        "function_call": ("none", "auto"),
    }
    REFUSED = ("logprobs", "top_logprobs", "logit_bias", "audio", "reasoning_effort", "verbosity", "web_search_options", "store")

    messages: Annotated[
        list[Message],
        Field(
            fail_fast=True,
            min_length=1,
            max_length=MESSAGES,
            examples=[[{"role": "user", "content": "How long are backups kept?"}]],
        ),
        AfterValidator(_conversation),
    ]
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    seed: Annotated[int, Field(strict=True, ge=-(1 << 63), lt=1 << 63)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    stop: Stop | Stops | None = None

    n: Any = None
    response_format: Any = None
    modalities: Any = None
    function_call: Any = None
    functions: Any = None
    logprobs: Any = None
    logit_bias: Any = None
    audio: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    web_search_options: Any = None
    prediction: Any = None  # it changes no answer, only how fast OpenAI's service writes it

    @model_validator(mode="after")
    def _together(self) -> ChatCompletionRequest:
        """Refuse what is wrong only beside another field."""
        if self.stream_options is not None and not self.stream:
            sentence = "The '{param}' parameter is only allowed when 'stream' is enabled."
            raise PydanticCustomError("invalid_value", sentence, {"param": "stream_options"})
        for name, choice in (("tools", self.tool_choice), ("functions", self.function_call)):
            if getattr(self, name) and choice != "none":
                raise unsupported(name)
        return self

    @property
    def question(self) -> str:
        """The last message with the role `user`."""
        return question_in(self.messages)

    @property
    def history(self) -> list[Turn]:
        """The questions before it, each with what the assistant said next."""
        return history_in(self.messages)

    @property
    def options(self) -> AnswerOptions:
        """How the answer is to be made."""
        limits = [most for most in (self.max_tokens, self.max_completion_tokens) if most is not None]
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        penalties = {name: value for name in _PENALTIES if (value := getattr(self, name)) is not None}
        return AnswerOptions(
            mode=self.headrace.answers,
            instructions=instructions_in(self.messages),
            most_tokens=min(limits, default=None),
            stop=tuple(text for text in stop if text),
            sampling=self.sampling | penalties,
        )
