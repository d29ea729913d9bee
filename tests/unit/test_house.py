"""What keeps the house in order: one name for one thing, modules where prose says they are, libraries by their front door."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "headrace"
PROSE = [
    *(path for pattern in ("*.md", "docs/**/*.md", "tests/README.md", "deploy/**/*.md") for path in ROOT.glob(pattern)),
    *PACKAGE.rglob("*.py"),
]
TOPS = ("headrace", "tests", "docs", "bench", "locks", "deploy", ".ci", ".github")
STATE = {"out", "logs", "runs", "demo", "unrecorded", "vectors", "proofs"}
"""Folders and prefixes that prose names and that a run makes."""
PRIVATE = {
    "pyiceberg": {"storage/tables/iceberg/append.py", "storage/tables/iceberg/compaction.py", "storage/tables/predicate.py"},
    "typer": {"cli/__init__.py"},
}
"""The modules that import what a library keeps to itself, by library; each is pinned to a minor version."""


@cache
def modules() -> list[tuple[str, ast.Module]]:
    return [
        (path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8")))
        for path in sorted(PACKAGE.rglob("*.py"))
    ]


def test_no_two_public_classes_share_a_name() -> None:
    places = defaultdict(list)
    for path, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(f"{path}:{node.lineno}")
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
    assert len(places) > 200


def test_modules_that_prose_names_are_there() -> None:
    """A module in backquotes: by its path, by the end of its path, or by its name."""
    there = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py") if ".venv" not in path.parts]
    lost = []
    for page in PROSE:
        for name in re.findall(r"`([\w/]+\.py)`", page.read_text(encoding="utf-8")):
            if not any(path == name or path.endswith(f"/{name}") for path in there):
                lost.append((page.relative_to(ROOT).as_posix(), name))
    assert lost == []


def test_what_a_package_says_of_its_modules_is_there() -> None:
    """In the docstring of a package: lines that begin with names of modules, and `module.py` of the package or below it.

    A package with such lines, a map, names each of its modules.
    """
    lost, seen, mapped = [], 0, set()
    for path, tree in modules():
        folder, _, name = path.rpartition("/")
        if name != "__init__.py":
            continue
        text = ast.get_docstring(tree, clean=False) or ""
        for line in text.splitlines():
            if entry := re.match(r"(?: {4})?((?:[a-z_0-9]+, )*[a-z_0-9]+)(?: {2,}|$)", line):
                for one in entry[1].split(", "):
                    seen += 1
                    mapped.add(folder)
                    if not any((PACKAGE / folder / there).exists() for there in (f"{one}.py", one)):
                        lost.append((path, one))
        if folder in mapped:
            lost += [(path, name) for name in _modules_of(folder) if not re.search(rf"\b{name}\b", text)]
        lost += [(path, one) for one in re.findall(r"`(\w+\.py)`", text) if not any((PACKAGE / folder).rglob(one))]
    assert lost == []
    assert seen > 150
    assert len(mapped) > 12


def _modules_of(folder: str) -> list[str]:
    below = (PACKAGE / folder).iterdir()
    packages = [path.name for path in below if (path / "__init__.py").exists()]
    return packages + [path.stem for path in (PACKAGE / folder).glob("*.py") if not path.stem.startswith("__")]


def test_what_prose_says_a_module_holds_is_in_it() -> None:
    """`module.py`: `function`, `Class.method`, as in the table of the design that says where each step is."""
    held = {f"headrace/{path}": set(_defined(tree)) for path, tree in modules()}
    lost, seen = [], 0
    for page in [page for page in PROSE if page.suffix == ".md"]:
        for path, names in re.findall(r"`(headrace/[\w/]+\.py)`:((?: `[\w.]+`,?)+)", page.read_text(encoding="utf-8")):
            for name in re.findall(r"`([\w.]+)`", names):
                seen += 1
                if name not in held.get(path, set()):
                    lost.append((page.name, path, name))
    assert lost == []
    assert seen > 20


def _defined(tree: ast.Module) -> Iterator[str]:
    """The functions and classes of a module, and the methods of each class."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        if isinstance(node, ast.ClassDef):
            yield from (f"{node.name}.{one.name}" for one in node.body if isinstance(one, ast.FunctionDef))


def test_files_folders_and_tests_that_prose_names_are_there() -> None:
    """A path below a folder of the repository, a package by the end of its path, `file::test`; NAME and the like are any."""
    there = {
        path.relative_to(ROOT).as_posix() for top in TOPS for path in (ROOT / top).rglob("*") if "__pycache__" not in path.parts
    }
    lost, seen = [], 0
    for page in [page for page in PROSE if page.suffix == ".md"]:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(rf"`((?:{'|'.join(map(re.escape, TOPS))})/[\w./-]+)`", text):
            seen += 1
            if not re.search(r"\b[A-Z]{3,}\b", name) and name.rstrip("/") not in there | {*TOPS}:
                lost.append((page.name, name))
        for name in re.findall(r"`([a-z_]+(?:/[a-z_]+)*)/`", text):
            seen += 1
            if name.partition("/")[0] not in STATE and not any(
                path == name or path.endswith(f"/{name}") for path in there | {*TOPS}
            ):
                lost.append((page.name, f"{name}/"))
        for file, name in re.findall(r"`(?:\w+/)*(\w+\.py)::(test_\w+)`", text):
            seen += 1
            if not any(
                f"def {name}(" in (ROOT / path).read_text(encoding="utf-8") for path in there if path.endswith(f"/{file}")
            ):
                lost.append((page.name, f"{file}::{name}"))
    assert lost == []
    assert seen > 60


def test_the_page_of_the_design_has_every_layer() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    page = (ROOT / "docs" / "explanation" / "design.md").read_text(encoding="utf-8").partition("## The packages")[2]
    named = set(re.findall(r"`(\w+)(?:/|\.py)`", page))
    assert {name for layer in layers for name in layer.split(" | ")} - named == set(), "docs/explanation/design.md, the packages"


def test_what_libraries_keep_to_themselves_is_imported_in_few_places_and_pinned() -> None:
    used = defaultdict(set)
    for path, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith(("headrace", "__future__")):
                names = [*node.module.split("."), *(name.name for name in node.names)]
                if any(name.startswith("_") for name in names):
                    used[names[0]].add(path)
    assert dict(used) == PRIVATE
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    pinned = {found[1] for need in needed if (found := re.fullmatch(r"(\w+)(?:\[[\w,-]+\])?==\d+\.\d+\.\*", need))}
    assert pinned >= PRIVATE.keys()


def test_what_takes_seconds_to_import_is_imported_late() -> None:
    """By a function, or by one of the modules that are themselves imported late: a command that trains nothing does without."""
    slow = {"torch", "transformers", "peft", "sentence_transformers", "datasketch", "ray"}
    late = {"training/causal.py", "training/crossencoder.py", "training/encoder.py", "models/precision.py", "core/ray_runner.py"}
    late |= {f"models/server/{name}.py" for name in ("adapter", "encoders", "generator")}
    names = {f"headrace.{path.removesuffix('.py').replace('/', '.')}" for path in late}
    found = {
        path: wrong
        for path, tree in modules()
        if path not in late
        for wrong in [[name for node in tree.body for name in _imported(node) if name.partition(".")[0] in slow or name in names]]
        if wrong
    }
    assert found == {}


def _imported(node: ast.stmt) -> list[str]:
    """The modules that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def test_no_two_stages_share_a_name() -> None:
    """The ledger's rows, the diagrams and a trace name stages; one that shares another's name says so (`counted_as`)."""
    places = defaultdict(list)
    for path, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and any(
                isinstance(one, ast.Call) and getattr(one.func, "id", "") == "stage" for one in node.decorator_list
            ):
                places[node.name].append(f"{path}:{node.lineno}")
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
    assert len(places) > 50
