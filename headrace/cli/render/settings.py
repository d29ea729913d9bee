"""The settings tree as text: its sections, and `headrace.toml` with every key commented out."""

from __future__ import annotations

import inspect
import json
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from headrace.settings import EmbeddedPart, Section, Settings, descriptions

_WIDTH = 100
_HEAD = """\
# headrace.toml: settings of Headrace, read from the directory in which a command runs, or from the file that the environment
# variable HEADRACE_SETTINGS names. Every line is a comment: uncomment a section and what you want to change in it.
# A part that is not configured stays embedded: Headrace starts it itself.
#
# The environment takes precedence, and is the better place for keys: HEADRACE_OBJECTS__SECRET_KEY is secret_key under [objects].
# Then try it: headrace doctor
"""
_UNSET = '"…"'
"""Placeholder of a value without a default; a file that keeps it where a number belongs is rejected with the key's name."""


def sections(of: type[BaseModel] = Settings, path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Each section of the settings tree with its path; a union (`type = …`) gives each kind that is not embedded."""
    yield path, of
    for name, field in of.model_fields.items():
        for member in members(field.annotation):
            if not issubclass(member, EmbeddedPart):
                yield from sections(member, f"{path}.{name}" if path else name)


def members(annotation: Any) -> list[type[Section]]:
    """The sections that a field's annotation allows; none for a plain value."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if isinstance(annotation, types.UnionType) or get_origin(annotation) is Union:
        return [found for one in get_args(annotation) for found in members(one)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, Section) else []


def template() -> str:
    """`headrace.toml` with every section and key, its description and its default, all commented out."""
    parts = [_HEAD]
    for path, section in sections():
        keys = [(name, field) for name, field in section.model_fields.items() if not members(field.annotation)]
        if not keys:
            continue
        lines = [""]
        if path:
            lines += [*_comment(inspect.getdoc(section) or ""), f"# [{path}]"]
        for name, field in keys:
            lines += [*_comment(descriptions(section).get(name, ""), "#   "), f"# {name} = {_value(name, field)}"]
        parts.append("\n".join(lines) + "\n")
    return "".join(parts)


def _comment(text: str, before: str = "# ") -> list[str]:
    return textwrap.wrap(" ".join(text.replace("`", "").split()), _WIDTH, initial_indent=before, subsequent_indent=before)


def _value(name: str, field: FieldInfo) -> str:
    """A key's default as TOML."""
    if name == "type":
        return json.dumps(get_args(field.annotation)[0])
    default = field.default_factory() if field.default_factory is not None else field.default  # type: ignore[call-arg]
    return _UNSET if default is PydanticUndefined or default is None else _toml(default)


def _toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return "{" + ", ".join(f"{name} = {_toml(one)}" for name, one in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case Path():
            return json.dumps(str(value))
        case str():
            return json.dumps(value, ensure_ascii=False)
    return str(value)
