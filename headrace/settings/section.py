"""What the sections of the settings have in common."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of the tree. An unknown key is an error, so that a typo is not silently ignored."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True)


class EmbeddedPart(Section):
    """An embedded part, which Headrace starts itself."""

    type: Literal["embedded"] = "embedded"
