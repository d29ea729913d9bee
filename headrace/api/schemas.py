"""What the bodies of requests and responses share: their base classes, and fields that are checked."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from headrace.documents.names import check_principals
from headrace.errors import WrongUsage
from headrace.storage.filters import Filters

QUESTION_CHARACTERS = 4_000
TENANT = r"^[a-z0-9][a-z0-9-]{0,62}$"
"""As in `Settings.tenant`."""
USER_CHARACTERS = 200
_NOT_A_USER = re.compile(r"simulated-.*|[0-9a-f]{16}|page", re.DOTALL)


def check_text(text: str, most: int) -> str:
    """A text of at most so many characters. Raises `ValueError`."""
    if len(text) > most:
        raise ValueError(f"it has {len(text):,} characters; shorten it to {most:,}")
    return _text(text)


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half a character (a lone surrogate); send whole characters") from None
    return text


def question_of(text: str) -> str:
    """A question, checked and trimmed. Raises `ValueError`."""
    if not text.strip():
        raise ValueError("it is empty; write a question")
    return check_text(text, QUESTION_CHARACTERS).strip()


def _tenant(name: str) -> str:
    if not re.fullmatch(TENANT, name) or name.endswith("\n"):
        raise ValueError("a tenant's name has at most 63 lower-case letters, digits and dashes")
    return name


Text = Annotated[str, AfterValidator(_text)]
TenantName = Annotated[str, AfterValidator(_tenant), Field(json_schema_extra={"pattern": TENANT})]
Question = Annotated[
    str, AfterValidator(question_of), Field(json_schema_extra={"minLength": 1, "maxLength": QUESTION_CHARACTERS})
]


def _reader(name: str) -> str:
    try:
        check_principals([name])
    except WrongUsage as error:
        raise ValueError(f"{error.message.rstrip('.')}; {error.hint.rstrip('.').lower()}") from None
    return name


# `fail_fast`: else pydantic goes on after a wrong item, whatever the most are, and an error for each of a million took 20 s.
Readers = Annotated[
    tuple[Annotated[str, AfterValidator(_reader)], ...],
    Field(fail_fast=True, max_length=100, examples=[["ann", "maintenance"]]),
]


def _filter(text: str) -> str:
    try:
        return Filters.parse([text]).said[0]
    except WrongUsage as error:
        raise ValueError(f"{error.message.rstrip('.')}; {error.hint.rstrip('.')}") from None


FilterTexts = Annotated[
    tuple[Annotated[str, AfterValidator(_filter)], ...],
    Field(fail_fast=True, max_length=50, examples=[["team=hydro", "document=handbook/"]]),
]


def user_of(name: str) -> str:
    """The name of a user, checked not to look like a simulated user or a key. Raises `ValueError`."""
    if not name.strip() or len(name) > USER_CHARACTERS or not name.isprintable():
        raise ValueError(f"a user's name has 1 to {USER_CHARACTERS} printable characters")
    if _NOT_A_USER.fullmatch(name):
        raise ValueError("it looks like the id of a key or like a simulated user; use another id")
    return name


AnswerModeName = Literal["extractive", "generated"]


_KEYS = 200


class ApiRequest(BaseModel):
    """A request body; an unknown key is an error, since ignoring a misspelt key costs its sender hours."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _few_keys(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > _KEYS:  # an error for each of 300,000 keys took seconds
            raise ValueError(f"it has {len(value):,} keys; at most {_KEYS} are read")
        return value


class ApiResponse(BaseModel):
    """A response body."""

    model_config = ConfigDict(frozen=True)
