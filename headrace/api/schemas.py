"""The bodies of requests."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from headrace.answering.feedback import CORRECTION_CHARACTERS, REASON_CHARACTERS
from headrace.documents.put import named
from headrace.errors import WrongUsage

QUESTION_CHARACTERS = 4_000
TENANT = r"^[a-z0-9][a-z0-9-]{0,62}$"
"""As in `Settings.tenant`."""
SIMULATED = r"^simulated-[a-z0-9-]{1,53}$"
"""Names of simulated users: none can be taken for a person or a key."""
USER_CHARACTERS = 200
_NOT_A_USER = re.compile(r"simulated-.*|[0-9a-f]{16}|page", re.DOTALL)


def _text(given: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in given):
        raise ValueError("it holds half a character (a lone surrogate); send whole ones")
    return given


def question_of(given: str) -> str:
    """A question, checked and trimmed. Raises `ValueError`."""
    if not given.strip():
        raise ValueError("it is empty; write a question")
    if len(given) > QUESTION_CHARACTERS:
        raise ValueError(f"it has {len(given):,} characters; at most {QUESTION_CHARACTERS:,} are read, so shorten it")
    return _text(given.strip())


def _tenant(given: str) -> str:
    if not re.fullmatch(TENANT, given) or given.endswith("\n"):
        raise ValueError("a tenant is named by at most 63 lower-case letters, digits and dashes")
    return given


Text = Annotated[str, AfterValidator(_text)]
Tenant = Annotated[str, AfterValidator(_tenant), Field(json_schema_extra={"pattern": TENANT})]
Question = Annotated[
    str, AfterValidator(question_of), Field(json_schema_extra={"minLength": 1, "maxLength": QUESTION_CHARACTERS})
]


def _reader(given: str) -> str:
    try:
        named([given])
    except WrongUsage as error:
        raise ValueError(f"{error.message.rstrip('.')}; {error.hint.rstrip('.').lower()}") from None
    return given


Readers = Annotated[tuple[Annotated[str, AfterValidator(_reader)], ...], Field(max_length=100, examples=[["ann", "maintenance"]])]
SimulatedUser = Annotated[str, Field(pattern=SIMULATED, examples=["simulated-07"])]


def user_of(given: str) -> str:
    """The name of a user, checked: none can be taken for a simulated user or a key. Raises `ValueError`."""
    if not given.strip() or len(given) > USER_CHARACTERS or not given.isprintable():
        raise ValueError(f"a user is named by 1 to {USER_CHARACTERS} characters that can be printed")
    if _NOT_A_USER.fullmatch(given):
        raise ValueError("it looks like the id of a key or like a simulated user; name a person by another id")
    return given


User = Annotated[str, AfterValidator(user_of), Field(examples=["ann"])]


TenantTraining = Literal["none", "shared"]


class ApiRequest(BaseModel):
    """A request body; an unknown key is an error, since a misspelt key silently ignored costs hours."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AskRequest(ApiRequest):
    """A question; the key's tenant is asked. Only a key with the scope `admin` may name another.

    `readers` is on whose behalf it is asked: a user and the groups that is in, who may read what is closed to others.
    `user` is who asks, for keys with the scope `users`; otherwise the key is recorded. `simulated_user` says that no person asks
    but a program that plays one (scope `simulate`): it is recorded as such, here and in verdicts.
    """

    question: Annotated[Question, Field(examples=["How long are backups kept?"])]
    tenant: Tenant | None = None
    readers: Readers = ()
    user: User | None = None
    simulated_user: SimulatedUser | None = None


class AskedFor(AskRequest):
    """A question whose answer may be streamed."""

    stream: bool = False


class FeedbackRequest(ApiRequest):
    """A verdict on an answer, or on one of its passages."""

    answer_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$", examples=["7b12e77fe7c341bf"])]
    up: Annotated[bool, Field(strict=True)]
    reason: Annotated[Text, Field(max_length=REASON_CHARACTERS)] = ""
    correction: Annotated[Text, Field(max_length=CORRECTION_CHARACTERS)] = ""
    chunk_id: Annotated[Text, Field(max_length=200)] = ""
    consent: Annotated[bool | None, Field(strict=True)] = None
    user: User | None = None
    simulated_user: SimulatedUser | None = None


Quota = Annotated[int, Field(strict=True)]


class NewTenant(ApiRequest):
    """A tenant to be added; quotas as under `[limits]` in the settings."""

    name: Annotated[Tenant, Field(examples=["acme"])]
    quotas: Annotated[dict[str, Quota], Field(examples=[{"requests_per_minute": 60}], max_length=20)] = {}
    training: TenantTraining = "none"


class NewTraining(ApiRequest):
    """What may be learned from a tenant's verdicts."""

    training: TenantTraining


class NewQuotas(ApiRequest):
    """A tenant's quotas, instead of those it has."""

    quotas: Annotated[dict[str, Quota], Field(examples=[{"documents": 1000}], max_length=20)]


class NewKey(ApiRequest):
    """A key to be made; with `readers` it asks on behalf of these alone, and sees what they may read."""

    tenant: Annotated[Tenant, Field(examples=["acme"])]
    scopes: Annotated[
        list[Literal["read", "write", "users", "simulate", "tenant-admin", "admin"]], Field(min_length=1, max_length=6)
    ]
    label: Annotated[Text, Field(max_length=200)] = ""
    readers: Annotated[Readers, Field(min_length=1)] | None = None
