"""OpenAI's chat completions: what their clients send, and our answers in their shape."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from headrace.api.auth import Caller
from headrace.api.middleware import body_of
from headrace.api.schemas import Readers, Tenant, question_of, user_of
from headrace.api.telemetry import MODEL
from headrace.errors import HeadraceError, NotFound, WrongUsage

_NOT_OURS = ("answer", "usage", "finish_reason", "passages")


class Taken(BaseModel):
    """A part of a request; what we do not know is left aside, as OpenAI-style servers do."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Part(Taken):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(Taken):
    """One message; the question is the last one of the user's."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[Part], Field(max_length=1_000)] | None = None

    @property
    def text(self) -> str:
        """The message's text, its parts joined."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or ())


class StreamOptions(Taken):
    """OpenAI's `stream_options`."""

    include_usage: bool = False


class Ours(Taken):
    """What a caller may ask beyond OpenAI's fields: on whose behalf (as in `Asked`), and whose documents, for `admin`."""

    tenant: Tenant | None = None
    readers: Readers = ()


def _last(messages: list[Message]) -> str:
    return next((message.text for message in reversed(messages) if message.role == "user"), "")


def _with_question(messages: list[Message]) -> list[Message]:
    question_of(_last(messages))
    return messages


class Chat(Taken):
    """A request; sampling parameters are taken and not used, since how answers are written is the provider's setting."""

    model: Annotated[str, Field(max_length=200, examples=[MODEL])]
    messages: Annotated[
        list[Message],
        Field(min_length=1, max_length=1_000, examples=[[{"role": "user", "content": "How long are backups kept?"}]]),
        AfterValidator(_with_question),
    ]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    user: Any = None
    headrace: Ours = Ours()

    @property
    def question(self) -> str:
        """The last message of the user's."""
        return question_of(_last(self.messages))

    @property
    def asker(self) -> str | None:
        """Whom `user` names. Raises `WrongUsage`."""
        if not isinstance(self.user, str) or not self.user:
            return None
        try:
            return user_of(self.user)
        except ValueError as error:
            raise WrongUsage(f"`user` names nobody: {error}.") from None


def check_model(name: str) -> None:
    """Raise `NotFound` for a model there is not."""
    if name != MODEL:
        raise NotFound("There is no such model.", hint=f"The one there is: {MODEL}")


def model() -> dict[str, Any]:
    """The one model there is, as OpenAI lists models."""
    return {"id": MODEL, "object": "model", "created": 0, "owned_by": MODEL}


def whole(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer as one body."""
    message = {"role": "assistant", "content": answer["answer"], "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer["finish_reason"]}
    base = _base("chat.completion", f"chatcmpl-{answer['answer_id']}", [choice])
    return base | {"usage": answer["usage"], "headrace": _ours(answer)}


async def streamed(
    answer_id: str,
    first: str | dict[str, Any],
    rest: AsyncGenerator[str | dict[str, Any], None],
    caller: Caller,
    *,
    usage: bool,
) -> AsyncIterator[str]:
    """An answer as server-sent events; the last chunk with a choice has `headrace`, and `usage` adds a chunk of its own."""
    name = f"chatcmpl-{answer_id}"

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _data(_base("chat.completion.chunk", name, [choice]) | more)

    async with aclosing(rest):
        yield chunk({"role": "assistant", "content": ""})
        try:
            async for piece in _chain(first, rest):
                if isinstance(piece, str):
                    yield chunk({"content": piece})
                    continue
                yield chunk({}, piece["finish_reason"], headrace=_ours(piece))
                if usage:
                    yield _data(_base("chat.completion.chunk", name, []) | {"usage": piece["usage"]})
        except HeadraceError as error:
            yield _data(body_of(error, caller))
        yield "data: [DONE]\n\n"


def _base(kind: str, name: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": name, "object": kind, "created": int(time.time()), "model": MODEL, "choices": choices}


def _ours(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in _NOT_OURS}


def _data(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def _chain(first: str | dict[str, Any], rest: AsyncIterator[str | dict[str, Any]]) -> AsyncIterator[str | dict[str, Any]]:
    yield first
    async for piece in rest:
        yield piece
