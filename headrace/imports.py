"""Importing a library without those of its modules that Headrace does not use: every command pays for what is imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Within the block these modules cannot be imported, as if they were not installed. One that is imported already stays."""
    missing = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(missing))  # type: ignore[arg-type]  # None is Python's own sign for it
    try:
        yield
    finally:
        for name in missing:
            if sys.modules.get(name) is None:
                sys.modules.pop(name, None)


@contextmanager
def replaced(**stand_ins: ModuleType) -> Iterator[None]:
    """Within the block, these modules are imported instead of those of the same names."""
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, was in before.items():
            if was is None:
                del sys.modules[name]
            else:
                sys.modules[name] = was


@contextmanager
def when_used(*names: str) -> Iterator[None]:
    """Within the block, `import` of one of these modules returns a stand-in, which imports it once something in it is used.

    One that is imported already stays. `from … import` uses it at once. The packages that the modules are in are imported first.
    """
    for package in {name.rpartition(".")[0] for name in names} - {""}:
        import_module(package)
    stand_ins = {name: _WhenUsed(name) for name in names if name not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, stand_in in stand_ins.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]


class _WhenUsed(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system asks for these
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)
