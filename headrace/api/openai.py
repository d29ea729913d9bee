"""OpenAI's chat completions: their requests, and our answers in their shape."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from headrace.answering.follow_up import TURNS, Turn
from headrace.answering.intent import intent_of
from headrace.answering.record import Answer
from headrace.api.auth import Caller
from headrace.api.errors import body_of
from headrace.api.schemas import (
    QUESTION_CHARACTERS,
    AnswerDetails,
    AnswerResponse,
    ChatCompletion,
    FilterTexts,
    ModelResponse,
    Readers,
    Tenant,
    answer_response,
    check_text,
    question_of,
    user_of,
)
from headrace.api.telemetry import MODEL
from headrace.errors import HeadraceError, NotFound, WrongUsage

TASK_CHARACTERS = 100_000
"""A client's task has the conversation in it."""


class LenientRequest(BaseModel):
    """A part of a request; unknown keys are ignored, as OpenAI-style servers do."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class MessagePart(LenientRequest):
    """A part of a message; only text is read."""

    type: str
    text: str = ""


class Message(LenientRequest):
    """One message; the question is the last one with the role `user`."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[MessagePart], Field(max_length=1_000)] | None = None

    @property
    def text(self) -> str:
        """The message's text, its parts joined."""
        return "".join(part.text for part in self.parts)

    @property
    def parts(self) -> Sequence[MessagePart]:
        """The message's parts."""
        return [MessagePart(type="text", text=self.content)] if isinstance(self.content, str) else self.content or ()


class StreamOptions(LenientRequest):
    """OpenAI's `stream_options`."""

    include_usage: bool = False


class Extensions(LenientRequest):
    """Fields beyond OpenAI's: on whose behalf, among which documents (as in `AskRequest`), and for `admin` whose."""

    tenant: Tenant | None = None
    readers: Readers = ()
    filters: FilterTexts = ()


def _question(messages: list[Message]) -> str:
    """The last message with the role `user`. Raises `ValueError` unless it is a question, or a task of a client, in text."""
    asked = next((message for message in reversed(messages) if message.role == "user"), None)
    if asked is not None and any(part.type != "text" for part in asked.parts):
        raise ValueError("it has a part that is no text; only text is read")
    text = "" if asked is None else asked.text
    return check_text(text.strip(), TASK_CHARACTERS) if intent_of(text) == "task" else question_of(text)


def _with_question(messages: list[Message]) -> list[Message]:
    _question(messages)
    return messages


class ChatCompletionRequest(LenientRequest):
    """A request; sampling parameters are accepted and ignored, since the provider sets how answers are written."""

    model: Annotated[str, Field(max_length=200, examples=[MODEL])]
    messages: Annotated[
        list[Message],
        Field(min_length=1, max_length=10_000, examples=[[{"role": "user", "content": "How long are backups kept?"}]]),
        AfterValidator(_with_question),
    ]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    user: Any = None
    headrace: Extensions = Extensions()

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
                turns[-1] = Turn(turns[-1].question, text)
        return turns[-TURNS:]

    @property
    def asker(self) -> str | None:
        """The user that `user` names. Raises `WrongUsage`."""
        if not isinstance(self.user, str) or not self.user:
            return None
        try:
            return user_of(self.user)
        except ValueError as error:
            raise WrongUsage(f"`user` is not a name: {error}.") from None


def check_model(name: str) -> None:
    """Raise `NotFound` for an unknown model."""
    if name != MODEL:
        raise NotFound("There is no such model.", hint=f"The only one is {MODEL}.")


def model() -> ModelResponse:
    """The only model."""
    return ModelResponse(id=MODEL, owned_by=MODEL)


def whole(answer: AnswerResponse) -> ChatCompletion:
    """An answer as one body."""
    message = {"role": "assistant", "content": answer.answer, "refusal": None}
    return ChatCompletion(
        id=f"chatcmpl-{answer.answer_id}",
        created=int(time.time()),
        model=MODEL,
        choices=[{"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}],
        usage=answer.usage,
        headrace=_details(answer),
    )


async def streamed(
    answer_id: str,
    first: str | Answer,
    rest: AsyncGenerator[str | Answer, None],
    caller: Caller,
    *,
    usage: bool,
) -> AsyncIterator[str]:
    """An answer as server-sent events; the last chunk with a choice has `headrace`, and `usage` adds a chunk of its own."""
    base = {"id": f"chatcmpl-{answer_id}", "object": "chat.completion.chunk", "created": int(time.time()), "model": MODEL}

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _data({**base, "choices": [choice], **more})

    def encoded(piece: str | Answer) -> str:
        if isinstance(piece, str):
            return chunk({"content": piece})
        answer = answer_response(piece, caller)
        end = chunk({}, answer.finish_reason, headrace=_details(answer).model_dump(exclude_defaults=True))
        return end + _data({**base, "choices": [], "usage": answer.usage.model_dump()}) if usage else end

    async with aclosing(rest):
        yield chunk({"role": "assistant", "content": ""}) + encoded(first)
        try:
            async for piece in rest:
                yield encoded(piece)
        except HeadraceError as error:
            yield _data(body_of(error, caller))
        yield "data: [DONE]\n\n"


def _details(answer: AnswerResponse) -> AnswerDetails:
    return AnswerDetails.model_validate({name: getattr(answer, name) for name in AnswerDetails.model_fields})


def _data(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"
