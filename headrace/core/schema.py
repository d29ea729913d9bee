"""Reads JSON that Headrace stored under a schema, and says in one sentence why it cannot."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from headrace.errors import InvalidState

M = TypeVar("M", bound=BaseModel)


def parse(schema: type[M], data: bytes, name: str) -> M:
    """The data under its schema; `name` is what the error calls it. Raises `InvalidState`."""
    try:
        return schema.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise InvalidState(name, f"{place}: {first['msg']}" if place else first["msg"]) from None
