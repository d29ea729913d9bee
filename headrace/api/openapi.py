"""The OpenAPI document of the API: authentication, errors, examples of answers."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from headrace.api.middleware import OPEN
from headrace.models.http import error_body

_ERRORS = {
    400: ("The request is wrong.", "question: it is empty; write a question.", "invalid_value"),
    401: ("The key is missing, wrong or revoked.", "The API key is missing, wrong or revoked.", "invalid_api_key"),
    403: ("The key does not allow it, or a quota is reached.", "This key does not allow that.", "forbidden"),
    404: ("This tenant has no such thing.", "There is no such document.", "not_found"),
    408: ("The body came too slowly.", "The body did not come within 60 s.", "timeout"),
    413: ("The body is too large.", "The body is larger than 64 KiB. Send less.", "too_large"),
    421: ("The Host header does not name this machine.", "This server does not answer to that host.", "wrong_host"),
    429: ("Too many requests; `Retry-After` says when to return.", "This tenant may send 600 requests a minute.", "overloaded"),
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
            "sources": [{"document": "backup.md", "place": ""}],
            "heading": "Backups",
            "chunk_id": "0c8a6d1f7c3e4b5a69788796",
            "text": "Nightly backups are kept for 35 days.",
        }
    ],
    "model_version": "none",
    "ranking_version": "none",
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
    "sources": [{"document": "backup.md", "place": ""}],
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
    "responses": _example(
        {
            "id": "resp_7b12e77fe7c341bf",
            "object": "response",
            "created_at": 1767225600,
            "completed_at": 1767225601,
            "status": "completed",
            "model": "headrace",
            "output": [
                {
                    "id": "msg_7b12e77fe7c341bf",
                    "type": "message",
                    "status": "completed",
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": _ANSWER["answer"], "annotations": [], "logprobs": []}],
                }
            ],
            "headrace": {name: value for name, value in _ANSWER.items() if name != "answer"},
        }
    ),
}
"""Successful responses by route."""


def described(app: FastAPI) -> dict[str, Any]:
    """The application's OpenAPI document, computed once."""
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
                operation["responses"].pop("422", None)  # a malformed request gets 400 here
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
