"""LanceDB, imported without the generated client of remote namespaces, which is four fifths of its import and never used here.

`lance_namespace_urllib3_client` has some hundred pydantic models; building them takes more than a second of processor time in
every command. While LanceDB is imported, empty classes stand for them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

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


_without = _Without()
sys.meta_path.insert(0, _without)
try:
    import lancedb
finally:
    sys.meta_path.remove(_without)

__all__ = ["lancedb"]
