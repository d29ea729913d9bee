"""What the sections of the settings have in common."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import Literal

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of the tree. An unknown key is an error, so that a typo is not silently ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class EmbeddedPart(Section):
    """An embedded part, which Headrace starts itself."""

    type: Literal["embedded"] = "embedded"


@cache
def descriptions(section: type[BaseModel]) -> Mapping[str, str]:
    """The docstrings under the fields of a section, by field.

    They are read from the source when they are shown. pydantic (`use_attribute_docstrings`) would read and parse all sections'
    sources whenever a command starts, which takes 0.07 s of processor time.
    """
    found: dict[str, str] = {}
    for kind in reversed(section.__mro__):
        if kind.__module__.partition(".")[0] != __name__.partition(".")[0]:
            continue
        (made,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(made, ast.ClassDef)
        for field, text in pairwise(made.body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(said))):
                    found[name] = inspect.cleandoc(said)
    return found
