"""Secrets that the settings name, and do not hold: in an environment variable (`env:NAME`) or a file (`file:PATH`)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from headrace.errors import BadSettings
from headrace.regular_file import read_regular


def read_reference(reference: str) -> str:
    """What is in an environment variable or a file, without white space around it. Raises `BadSettings`."""
    kind, _, name = reference.partition(":")
    try:
        value = os.environ[name] if kind == "env" else read_regular(Path(name)).decode()
    except KeyError:
        raise BadSettings(f"The environment has no {name}.", hint="The settings name it as the place of a secret.") from None
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise BadSettings(f"{name} cannot be read: {said}.", hint="The settings name it as the place of a secret.") from None
    if not value.strip():
        raise BadSettings(f"{name} is empty.", hint="The settings name it as the place of a secret.")
    return value.strip()


def read_references(properties: Mapping[str, str]) -> dict[str, str]:
    """Properties with the values that references among them name. Raises `BadSettings`."""
    return {name: read_reference(value) if value.startswith(("env:", "file:")) else value for name, value in properties.items()}
