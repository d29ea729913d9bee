"""What requests of OpenAI's clients share: messages, the question that ends them, and fields that are obeyed or refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError

from headrace.answering.follow_up import TURNS, Turn
from headrace.answering.intent import intent_of
from headrace.answering.options import INSTRUCTIONS_CHARACTERS
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
MESSAGES = 10_000
_RECENT = 200
"""Messages before the question in which its history is looked for: what a client's tools said stands between the turns."""
Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
ROLES: tuple[str, ...] = get_args(Role)
_SYSTEM = ("system", "developer")
_TEXTS = ("text", "input_text", "output_text")
"""The types of a message's parts that are text."""
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

Ratio = Annotated[float, Field(strict=True, ge=0, le=1)]
Tokens = Annotated[int, Field(strict=True, ge=1)]


class LenientRequest(BaseModel):
    """A part of a request that is only read in part; other keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Message(LenientRequest):
    """One message. Only its text is read; pictures, tool calls and refusals are ignored."""

    role: Role
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
            and all(part.get("type") in _TEXTS and isinstance(part.get("text"), str) for part in parts)
        )

    @property
    def _parts(self) -> Sequence[Mapping[str, Any]]:
        return [part for part in self.content if isinstance(part, dict)] if isinstance(self.content, list) else ()


def question_in(messages: Sequence[Message]) -> str:
    """The last message with the role `user`. Raises `ValueError` unless it is a question, or a task of a client, in text."""
    asked = next((message for message in reversed(messages) if message.role == "user"), None)
    if asked is not None and not asked.readable:
        raise ValueError("the last message with the role user has a part that is not text; only text is read")
    text = "" if asked is None else asked.text
    return check_text(text.strip(), TASK_CHARACTERS) if intent_of(text) == "task" else question_of(text)


def instructions_in(messages: Sequence[Message]) -> str:
    """The system's and the developer's messages, joined."""
    return "\n\n".join(text for message in messages if message.role in _SYSTEM and (text := message.text.strip()))


def history_in(messages: Sequence[Message]) -> list[Turn]:
    """The newest questions before the last message with the role `user`, each with what the assistant said next."""
    turns: list[Turn] = []
    last = max(place for place, message in enumerate(messages) if message.role == "user")
    for message in messages[max(0, last - _RECENT) : last]:
        text = message.text.strip()
        if message.role == "user" and text and intent_of(text) == "question":
            turns.append(Turn(text[:QUESTION_CHARACTERS]))
        elif message.role == "assistant" and turns and not turns[-1].answer:
            turns[-1] = Turn(turns[-1].question, text[:ANSWER_CHARACTERS])
    return turns[-TURNS:]


def check_conversation(messages: Sequence[Message]) -> None:
    """Raise `ValueError` unless the messages end with a question, are whole characters, and have few enough instructions."""
    question_in(messages)
    for turn in history_in(messages):
        check_text(turn.question, QUESTION_CHARACTERS)
        check_text(turn.answer, ANSWER_CHARACTERS)
    last = next(message for message in reversed(messages) if message.role not in _SYSTEM)
    if last.role != "user":
        raise ValueError(f"the last message has the role {last.role}; end the conversation with the user's question")
    instructions = instructions_in(messages)
    if len(instructions) > INSTRUCTIONS_CHARACTERS:
        raise ValueError(
            f"the system messages have {len(instructions):,} characters; at most {INSTRUCTIONS_CHARACTERS:,} are taken"
        )
    check_text(instructions, INSTRUCTIONS_CHARACTERS)


def unsupported(name: str) -> PydanticCustomError:
    """OpenAI's error for a parameter that is not supported."""
    sentence = "Unsupported parameter: '{param}' is not supported with this model. Leave it out."
    return PydanticCustomError("unsupported_parameter", sentence, {"param": name})


class QuestionExtensions(ApiRequest):
    """Fields beyond OpenAI's: readers, filters and mode as in `AskRequest`, and for the scope `admin` the tenant."""

    tenant: TenantName | None = None
    readers: Readers = ()
    filters: FilterTexts = ()
    answers: AnswerModeName | None = None


class OpenAIRequest(ApiRequest):
    """The fields that all of OpenAI's requests for an answer have. What is not supported is refused unless it asks for nothing.

    `TAKEN` names fields of which only these values, and null, ask for what is done here; `REFUSED` those that are taken only
    where they ask for nothing: absent, null, false, 0 or empty.
    """

    TAKEN: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    REFUSED: ClassVar[Sequence[str]] = ()

    model: Annotated[str, Field(max_length=200, examples=[MODEL])]
    stream: bool | None = False
    temperature: Annotated[float, Field(strict=True, ge=0, le=2)] | None = None
    top_p: Ratio | None = None
    user: Any = None
    headrace: QuestionExtensions = QuestionExtensions()

    service_tier: Any = None
    tool_choice: Any = None
    tools: Any = None
    top_logprobs: Any = None
    store: Any = None
    # These change no answer: they tell OpenAI's service about caches, tools and users, which do not exist here.
    metadata: Any = None
    parallel_tool_calls: Any = None
    prompt_cache_key: Any = None
    safety_identifier: Any = None

    @field_validator("*")
    @classmethod
    def _obeyed_or_refused(cls, value: Any, info: ValidationInfo) -> Any:
        name = str(info.field_name)
        if name in cls.REFUSED and value:
            raise unsupported(name)
        taken = cls.TAKEN.get(name)
        if taken is None or value is None or any(type(value) is type(one) and value == one for one in taken):
            return value
        only = " or ".join(json.dumps(one) for one in taken)
        raise PydanticCustomError(
            "unsupported_value", "Unsupported value: '{param}' does not support this value with this model. It takes {only}.",
            {"param": name, "only": only},
        )  # fmt: skip

    @property
    def sampling(self) -> dict[str, float]:
        """Temperature and top_p, where they are given."""
        given = {name: value for name in ("temperature", "top_p") if (value := getattr(self, name)) is not None}
        if self.top_p is not None:
            given["top_p"] = max(self.top_p, 1e-6)  # some servers refuse 0, which means the most likely token
        return given

    @property
    def asker(self) -> str | None:
        """The user that `user` names. Raises `WrongUsage`."""
        if not isinstance(self.user, str) or not self.user:
            return None
        try:
            return user_of(self.user)
        except ValueError as error:
            raise WrongUsage(f"`user` is not a name: {error}.") from None
