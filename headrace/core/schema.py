"""Parses stored JSON under a schema; a violation becomes a one-sentence error."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from headrace.errors import InvalidState

M = TypeVar("M", bound=BaseModel)


def parse(schema: type[M], data: bytes, name: str) -> M:
    """Parse data under its schema; `name` identifies it in the error. Raises `InvalidState`."""
    try:
        return schema.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise InvalidState(name, f"{field}: {first['msg']}" if field else first["msg"]) from None
