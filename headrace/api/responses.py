"""OpenAI's Responses API: what its clients ask at `/v1/responses`, and an answer in its shape, whole and streamed.

Shapes as in the OpenAPI description of OpenAI's service (`openai.types.responses` of its Python package).
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from headrace.answering.follow_up import Turn
from headrace.answering.options import INSTRUCTIONS_CHARACTERS, AnswerOptions
from headrace.answering.record import Answer
from headrace.api.answers import AnswerDetails, AnswerResponse, answer_response
from headrace.api.auth import Caller
from headrace.api.conversation import (
    MESSAGES,
    ROLES,
    Message,
    OpenAIRequest,
    Tokens,
    check_conversation,
    history_in,
    instructions_in,
    question_in,
    unsupported,
)
from headrace.api.errors import words_for
from headrace.api.openai import details_of, url_citations
from headrace.api.schemas import ApiResponse, Text, check_text
from headrace.errors import HeadraceError

_OTHERS = (
    "reasoning", "function_call", "function_call_output", "item_reference", "web_search_call", "file_search_call",
    "computer_call", "computer_call_output", "mcp_call", "mcp_list_tools", "image_generation_call", "code_interpreter_call",
)  # fmt: skip
"""Items of a conversation that are no messages, and are not read."""
_PAIRS, _NAME_CHARACTERS, _TEXT_CHARACTERS = 16, 64, 512  # of metadata, as OpenAI's service takes them


class InputItem(Message):
    """One item of the input: a message, or what an earlier response had beside its message, which is not read."""

    type: str = "message"
    role: Any = None

    @model_validator(mode="after")
    def _message(self) -> InputItem:
        if self.type == "message":
            if self.role not in ROLES:
                raise ValueError("an item of the type message needs a role: user, assistant, system or developer")
        elif self.type not in _OTHERS:
            raise ValueError(f"an item of the type {self.type[:100]!r} is not known here; send messages")
        return self


def _messages(given: str | list[InputItem]) -> Sequence[Message]:
    return [Message(role="user", content=given)] if isinstance(given, str) else [item for item in given if item.type == "message"]


def _conversation(given: str | list[InputItem]) -> str | list[InputItem]:
    check_conversation(_messages(given))
    return given


def _few_texts(metadata: Any) -> Any:
    """Metadata within OpenAI's limits: the response has it several times. Raises `ValueError`."""
    if metadata is None:
        return None
    if not isinstance(metadata, dict) or len(metadata) > _PAIRS:
        raise ValueError(f"it is an object of at most {_PAIRS} texts")
    for name, text in metadata.items():
        if not isinstance(text, str):
            raise ValueError("it is an object of texts; write numbers and the like as texts")
        check_text(name, _NAME_CHARACTERS)
        check_text(text, _TEXT_CHARACTERS)
    return metadata


def _short(instructions: str) -> str:
    return check_text(instructions, INSTRUCTIONS_CHARACTERS)


class ResponseRequest(OpenAIRequest):
    """OpenAI's response request. `previous_response_id` follows up on an answer, as `after` of `AskRequest` does.

    Answers are always recorded, so `store` can be true only. What is not supported is refused unless it asks for nothing.
    """

    TAKEN: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "background": (False,),
        "service_tier": ("auto", "default"),
        "store": (True,),
        "stream_options": ({"include_obfuscation": False},),
        "text": ({}, {"format": {"type": "text"}}),
        "tool_choice": ("none", "auto"),
        "truncation": ("auto", "disabled"),
    }
    REFUSED = ("conversation", "include", "prompt", "reasoning", "top_logprobs")

    input: Annotated[
        Text | Annotated[list[InputItem], Field(fail_fast=True, min_length=1, max_length=MESSAGES)],
        AfterValidator(_conversation),
        Field(examples=["How long are backups kept?"]),
    ]
    instructions: Annotated[str, AfterValidator(_short)] | None = None
    max_output_tokens: Tokens | None = None
    previous_response_id: Annotated[str, Field(pattern=r"^resp_[0-9a-f]{16}([0-9a-f]{8})?$")] | None = None

    metadata: Annotated[dict[str, str] | None, BeforeValidator(_few_texts)] = None

    background: Any = None
    conversation: Any = None
    include: Any = None
    prompt: Any = None
    reasoning: Any = None
    stream_options: Any = None
    text: Any = None
    truncation: Any = None
    # No tool is called, and caches are not OpenAI's.
    max_tool_calls: Any = None
    prompt_cache_retention: Any = None

    @model_validator(mode="after")
    def _together(self) -> ResponseRequest:
        """Refuse what is wrong only beside another field."""
        if self.tools and self.tool_choice != "none":
            raise unsupported("tools")
        if len(self._instructions) > INSTRUCTIONS_CHARACTERS:
            sentence = "Invalid '{param}': with the system messages it has more than {most} characters."
            raise PydanticCustomError("invalid_value", sentence, {"param": "instructions", "most": INSTRUCTIONS_CHARACTERS})
        if self.previous_response_id and self.history:
            sentence = "'{param}' cannot be used with earlier messages in 'input'. Send one of them."
            raise PydanticCustomError("invalid_value", sentence, {"param": "previous_response_id"})
        return self

    @property
    def _instructions(self) -> str:
        own = (self.instructions or "").strip()
        return "\n\n".join(filter(None, (own, instructions_in(_messages(self.input)))))

    @property
    def question(self) -> str:
        """The last message with the role `user`."""
        return question_in(_messages(self.input))

    @property
    def history(self) -> list[Turn]:
        """The questions before it, each with what the assistant said next."""
        return history_in(_messages(self.input))

    @property
    def after(self) -> str | None:
        """The id of the answer that is followed up on."""
        return self.previous_response_id.removeprefix("resp_") if self.previous_response_id else None

    @property
    def options(self) -> AnswerOptions:
        """How the answer is to be made."""
        return AnswerOptions(
            mode=self.headrace.answers,
            instructions=self._instructions,
            most_tokens=self.max_output_tokens,
            sampling=self.sampling,
        )


class ResponseUsage(ApiResponse):
    """Tokens of an answer, as the Responses API counts them."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class ResponseObject(ApiResponse):
    """OpenAI's response object; `headrace` has citations and versions."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: dict[str, Any] | None = None
    incomplete_details: dict[str, str] | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    metadata: dict[str, str] | None = None
    model: str
    output: list[dict[str, Any]]
    parallel_tool_calls: bool = True
    previous_response_id: str | None = None
    store: bool = True
    temperature: float | None = None
    text: dict[str, Any] = Field({"format": {"type": "text"}})
    tool_choice: str = "auto"
    tools: tuple[Any, ...] = ()
    top_p: float | None = None
    truncation: str = "disabled"
    usage: ResponseUsage | None = None
    headrace: AnswerDetails | None = None


def begun(answer_id: str, asked: ResponseRequest) -> ResponseObject:
    """A response of which nothing is written yet."""
    same = ("model", "instructions", "max_output_tokens", "metadata", "previous_response_id", "temperature", "top_p")
    return ResponseObject(
        id=f"resp_{answer_id}",
        created_at=int(time.time()),
        status="in_progress",
        output=[],
        tool_choice=asked.tool_choice or "auto",
        truncation=asked.truncation or "disabled",
        **{name: getattr(asked, name) for name in same},
    )


def ended(response: ResponseObject, answer: AnswerResponse, base: str) -> ResponseObject:
    """The response with its answer; `base` is the service's address."""
    cut = answer.finish_reason == "length"
    status: Literal["completed", "incomplete"] = "incomplete" if cut else "completed"
    usage = answer.usage
    return response.model_copy(
        update={
            "status": status,
            "completed_at": None if cut else int(time.time()),
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": [_message(response, status, [_text(answer, base)])],
            "usage": ResponseUsage(
                input_tokens=usage.prompt_tokens,
                input_tokens_details={"cached_tokens": 0, **usage.prompt_tokens_details},
                output_tokens=usage.completion_tokens,
                output_tokens_details={"reasoning_tokens": 0},
                total_tokens=usage.total_tokens,
            ),
            "headrace": details_of(answer),
        }
    )


def _message(response: ResponseObject, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": _item(response), "type": "message", "status": status, "role": "assistant", "content": content}


def _item(response: ResponseObject) -> str:
    return response.id.replace("resp_", "msg_")


def _text(answer: AnswerResponse, base: str) -> dict[str, Any]:
    annotations = [{"type": "url_citation", **where} for where in url_citations(answer, base)]
    return {"type": "output_text", "text": answer.answer, "annotations": annotations, "logprobs": []}


async def events(
    response: ResponseObject,
    first: str | Answer,
    rest: AsyncGenerator[str | Answer, None],
    caller: Caller,
    base: str,
) -> AsyncIterator[str]:
    """The response as server-sent events, from `response.created` to `response.completed`, `.incomplete` or `.failed`."""
    number = 0
    part = {"item_id": _item(response), "output_index": 0, "content_index": 0}

    def event(kind: str, **more: Any) -> str:
        nonlocal number
        data = {"type": f"response.{kind}", "sequence_number": number, **more}
        number += 1
        return f"event: response.{kind}\ndata: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"

    def whole(kind: str, made: ResponseObject) -> str:
        return event(kind, response=_json(made))

    def encoded(piece: str | Answer) -> str:
        if isinstance(piece, str):
            return event("output_text.delta", **part, delta=piece, logprobs=[])
        made = ended(response, answer_response(piece, caller), base)
        item = made.output[0]
        text: Mapping[str, Any] = item["content"][0]
        annotations = [
            event("output_text.annotation.added", **part, annotation_index=index, annotation=annotation)
            for index, annotation in enumerate(text["annotations"])
        ]
        return "".join(
            (
                *annotations,
                event("output_text.done", **part, text=text["text"], logprobs=[]),
                event("content_part.done", **part, part=text),
                event("output_item.done", output_index=0, item=item),
                whole(made.status, made),
            )
        )

    async with aclosing(rest):
        empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        yield whole("created", response) + whole("in_progress", response)
        yield event("output_item.added", output_index=0, item=_message(response, "in_progress", []))
        yield event("content_part.added", **part, part=empty) + encoded(first)
        try:
            async for piece in rest:
                yield encoded(piece)
        except HeadraceError as error:
            reason = {"code": "server_error", "message": words_for(error, caller)}
            yield whole("failed", response.model_copy(update={"status": "failed", "error": reason}))


def _json(made: ResponseObject) -> dict[str, Any]:
    found: dict[str, Any] = made.model_dump(mode="json", exclude={"headrace"})
    if made.headrace is not None:
        found["headrace"] = made.headrace.model_dump(mode="json", exclude_defaults=True)
    return found
