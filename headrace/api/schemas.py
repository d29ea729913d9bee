"""The bodies of requests, and the description of the API for programs: sign-in, errors, examples of answers."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from headrace.answering.record import CORRECTION_CHARACTERS, REASON_CHARACTERS
from headrace.api.middleware import OPEN
from headrace.documents.put import named
from headrace.errors import WrongUsage
from headrace.models.http import error_body

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

    `readers` is on whose behalf the question is asked: a user and their groups, who may read what is closed to others.
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


_ERRORS = {
    400: ("The request is off.", "question: it is empty; write a question.", "invalid_value"),
    401: ("No key, a wrong one or a revoked one.", "The API key is missing, wrong or revoked.", "invalid_api_key"),
    403: ("The key does not allow it, or a quota is reached.", "This key does not allow that.", "forbidden"),
    404: ("There is no such thing for this tenant.", "There is no such document.", "not_found"),
    408: ("The body came too slowly.", "The body did not come within 60 s.", "timeout"),
    413: ("The body is too large.", "The body is larger than 64 KiB. Send less.", "too_large"),
    421: ("Another host is named than this machine.", "This server answers to 127.0.0.1 and localhost only.", "wrong_host"),
    429: ("Too much at once; `Retry-After` says when to come back.", "This tenant may send 600 requests a minute.", "overloaded"),
    502: ("A model endpoint refused the request.", "The generator's endpoint answered 400.", "request_refused"),
    503: ("Storage or a model does not answer.", "The object store does not answer.", "unavailable"),
    507: ("No space is left.", "The object store is full.", "storage_full"),
}
_ANSWER = {
    "answer_id": "7b12e77fe7c341bf",
    "answer": "They are kept for 35 days. [1]",
    "citations": [
        {
            "number": 1,
            "document": "backup.md",
            "heading": "Backups",
            "chunk_id": "0c8a6d1f7c3e4b5a69788796",
            "text": "Nightly backups are kept for 35 days.",
        }
    ],
    "model_version": "none",
    "generator_version": "SmolLM2-135M-Instruct.Q4_1@0123456789ab",
    "index_version": "7",
    "timings_ms": {"retrieve": 9.1, "rerank": 0.4, "first_token": 210.0, "total": 480.0},
    "bytes": {"vector_read": 18231},
}
_USAGE = {"prompt_tokens": 96, "completion_tokens": 12, "total_tokens": 108, "prompt_tokens_details": {"cached_tokens": 0}}
_PASSAGE = {
    "number": 1,
    "chunk_id": "0c8a6d1f7c3e4b5a69788796",
    "document": "backup.md",
    "heading": "Backups",
    "text": "Nightly backups are kept for 35 days.",
    "retrieval_score": 0.0328,
    "retrieval_rank": 1,
    "rerank_score": None,
    "rerank_rank": None,
}


def _example(value: Any) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {"application/json": {"example": value}}}}


EXAMPLES: dict[str, dict[int | str, dict[str, Any]]] = {
    "ask": _example({**_ANSWER, "passages": [{**_PASSAGE, "cited": True}], "usage": _USAGE, "finish_reason": "stop"}),
    "search": _example({"answer_id": "7b12e77fe7c341bf", "passages": [_PASSAGE], "model_version": "none", "index_version": "7"}),
    "feedback": _example({"verdict_id": "5c1e0a2b3d4f6071", "topic": "feedback", "partition": 0, "offset": 12}),
    "chat": _example(
        {
            "id": "chatcmpl-7b12e77fe7c341bf",
            "object": "chat.completion",
            "created": 1767225600,
            "model": "headrace",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": _ANSWER["answer"], "refusal": None},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": _USAGE,
            "headrace": {name: value for name, value in _ANSWER.items() if name != "answer"},
        }
    ),
}
"""What a route answers when all is well."""


def described(app: FastAPI) -> dict[str, Any]:
    """The application's OpenAPI document, made once."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        parts = made.setdefault("components", {})
        parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": "An API key, `hr_ID_SECRET`."}}
        schemas = parts.setdefault("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        schemas["Error"] = _ERROR
        parts["responses"] = {f"E{status}": _response(status) for status in _ERRORS}
        for path, operations in made["paths"].items():
            for operation in operations.values():
                operation["responses"].pop("422", None)  # what cannot be read is a 400 here
                if path in OPEN:
                    operation["responses"]["503"] = {"$ref": "#/components/responses/E503"}
                    continue
                operation["security"] = [{"key": []}]
                for status in _ERRORS:
                    operation["responses"].setdefault(str(status), {"$ref": f"#/components/responses/E{status}"})
        app.openapi_schema = made
    return app.openapi_schema


_TEXT = {"type": "string"}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {"message": _TEXT, "type": _TEXT, "param": {"type": ["string", "null"]}, "code": _TEXT},
        }
    },
}


def _response(status: int) -> dict[str, Any]:
    sentence, message, code = _ERRORS[status]
    schema = {"$ref": "#/components/schemas/Error"}
    content = {"application/json": {"schema": schema, "example": error_body(status, message, code)}}
    return {"description": sentence, "content": content}
