"""LanceDB, imported without the generated client of remote namespaces, which is four fifths of its import and never used here.

`lance_namespace_urllib3_client` has some hundred pydantic models; building them takes more than a second of processor time in
every command. While LanceDB is imported, empty classes stand for them.

Before Python 3.12, LanceDB takes `override` from `overrides`, which compares the signatures of all methods that say so with those
that they override: half of the rest of the import. From 3.12 on it takes Python's own, which compares nothing, as here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from typing_extensions import override

from headrace.imports import replaced

_CLIENT = "lance_namespace_urllib3_client"


class _Empty(ModuleType):
    """A module that has an empty class of every name."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Without(MetaPathFinder, Loader):
    """Finds empty modules for the client."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] == _CLIENT else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to execute."""


class _Unchecked(ModuleType):
    """Takes the place of the package `overrides` while LanceDB is imported."""

    override = staticmethod(override)

    class EnforceOverrides:
        """A base class that enforces nothing."""


_without = _Without()
# New lists, since another thread may be going through this one, and would pass over a finder: that of all files.
sys.meta_path = [_without, *sys.meta_path]
try:
    with replaced(overrides=_Unchecked("overrides")):
        import lancedb
finally:
    sys.meta_path = [finder for finder in sys.meta_path if finder is not _without]

__all__ = ["lancedb"]
