"""What the documentation shows is there: settings, commands with their options, routes, links, make targets; and the pages that
are written from the code are as the code says."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from starlette.routing import Match
from unstarted import unstarted

from docs import generate
from headrace import cli
from headrace.api.app import create_app
from headrace.explain.deck.brand import load_brand
from headrace.settings import EmbeddedPart, Settings

ROOT = Path(__file__).parents[2]
PAGES = [
    *(path for path in sorted(ROOT.glob("*.md")) if path.name not in {"CHANGELOG.md", "THIRD_PARTY.md"}),
    *sorted((ROOT / "docs").rglob("*.md")),
]
SNIPPET = re.compile(r"^```(\w*)\n(.*?)^```\n*(.*?)(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)
"""A fenced block: its language, its text, and the paragraph behind it."""


def snippets(language: str) -> Iterator[tuple[str, str, str]]:
    """(page, text, what is said behind it) of each block in a language."""
    for page in PAGES:
        for found, text, behind in SNIPPET.findall(page.read_text()):
            if found == language:
                yield page.name, text, behind


# Settings


_BRANDS = "make-slides.md"  # its TOML is a presenter's brand file


def test_brands_that_are_shown_are_brands(tmp_path: Path) -> None:
    (tmp_path / "acme.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    shown = [text for page, text, _ in snippets("toml") if page == _BRANDS]
    assert shown
    for text in shown:
        (tmp_path / "brand.toml").write_text(text)
        load_brand(tmp_path / "brand.toml")


@pytest.mark.parametrize(("page", "text", "behind"), [found for found in snippets("toml") if found[0] != _BRANDS])
def test_settings_that_are_shown_are_settings(
    page: str, text: str, behind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "headrace.toml").write_text(text)
    monkeypatch.setenv("HEADRACE_SETTINGS", str(tmp_path / "headrace.toml"))
    for name in set(re.findall(r"HEADRACE_[A-Z]+__(?!PROPERTIES)[A-Z_]+", text + behind)):  # what it says is better given so
        monkeypatch.setenv(name, "secret")
    settings = Settings.load()
    for name in re.findall(r"^\[(\w+)\]", text, re.MULTILINE):
        assert not isinstance(getattr(settings, name), EmbeddedPart), f"{page}: [{name}] changes nothing"


SETTING = re.compile(r"`((?:[a-z][a-z_0-9]*\.)+[a-z][a-z_0-9]*)(?: = [^`]*)?`")
TRAINING = {"preparing", "gate", "canary"}
"""Sections below `[training]`, which prose may name without it."""


def keys() -> dict[str, set[str]]:
    """Section → its keys, those that are sections themselves included."""
    found: dict[str, set[str]] = {}
    for path, section in generate.sections():
        found.setdefault(path, set()).update(section.model_fields)
    for path in [path for path in found if path.startswith("models.")]:
        found[path].add("type")
    return found


def test_settings_that_prose_names_are_settings() -> None:
    known = keys()
    lost, seen = [], 0
    for page in PAGES:
        for name in SETTING.findall(page.read_text()):
            first, _, _ = name.partition(".")
            full = f"training.{name}" if first in TRAINING else name
            section, _, key = full.rpartition(".")
            if full.partition(".")[0] not in known or key in {"db", "md", "py", "json", "jsonl", "toml", "svg", "txt", "yml"}:
                continue
            seen += 1
            if full not in known and key not in known.get(section, ()):
                lost.append((page.name, name))
        for name in re.findall(r"HEADRACE_([A-Z]\w+__\w+)", page.read_text()):
            section, _, key = name.lower().replace("__", ".").rpartition(".")
            if not section.startswith("training.recipe.") and key not in known.get(section, ()):
                lost.append((page.name, name))
        for section in re.findall(r"`\[([a-z]{2,}(?:\.[a-z]+)*)\]`", page.read_text()):
            if section.startswith("training.recipe."):
                continue
            if section not in known and section.rpartition(".")[2] not in known.get(section.rpartition(".")[0], ()):
                lost.append((page.name, f"[{section}]"))
    assert lost == []
    assert seen > 20


# What is written from the code


@pytest.mark.parametrize("name", list(generate.PAGES))
def test_pages_that_are_written_from_the_code_are_as_it_says(name: str) -> None:
    assert (generate.REFERENCE / name).read_text() == generate.PAGES[name](), "run: python -m docs.generate"


# Links


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings that GitHub and the built site agree on."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = set()
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        plain = re.sub(r"[^\w\s-]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)).strip().lower()
        if re.sub(r"\s", "-", plain) == re.sub(r"[-\s]+", "-", plain):
            found.add(re.sub(r"\s", "-", plain))
    return found


def links(page: Path) -> Iterator[str]:
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for to in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", to):
            yield to


def test_links_lead_somewhere() -> None:
    lost, seen = [], 0
    for page in [*PAGES, ROOT / "tests" / "README.md", *(ROOT / ".github").rglob("*.md")]:
        for to in links(page):
            seen += 1
            name, _, anchor = to.partition("#")
            target = (page.parent / name).resolve() if name else page
            if not target.exists() or (anchor and anchor not in headings(target)):
                lost.append((page.relative_to(ROOT).as_posix(), to))
    assert lost == []
    assert seen > 60


def test_queries_of_the_docs_are_sql() -> None:
    """As a shell passes them on: a column named as a keyword of DuckDB needs quotes."""
    import duckdb

    seen = 0
    for page in PAGES:
        for command in re.findall(r"headrace (?:--home \S+ )?sql .*?(?=`|$)", page.read_text(), re.MULTILINE):
            words = shlex.split(command, comments=True)
            query = words[words.index("sql") + 1]
            if query == "QUERY":
                continue
            try:
                duckdb.extract_statements(query)
            except duckdb.Error as error:
                pytest.fail(f"{page.name}: {query}: {error}")
            seen += 1
    assert seen > 5


def test_every_page_is_in_the_navigation_and_nothing_else() -> None:
    def pages(part: Any) -> Iterator[str]:
        if isinstance(part, str):
            yield part
        else:
            for below in part.values() if isinstance(part, dict) else part:
                yield from pages(below)

    shown = list(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    outside = {name for name in shown if not (ROOT / "docs" / name).exists()}
    assert sorted({*shown} - outside) == sorted(
        path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")
    )
    assert all((ROOT / name).exists() for name in outside), "brought in from the top by docs/site.py"
    assert len(shown) == len(set(shown))


def test_make_targets_that_are_shown_are_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {(page.name, name) for page in PAGES for name in re.findall(r"(?:^|`|\n)make ([a-z][a-z-]*)", page.read_text())}
    assert {(page, name) for page, name in named if name not in targets} == set()
    assert len(named) > 10


def test_modules_and_benchmarks_that_are_called_are_there() -> None:
    benchmarks = set(re.findall(r'^    "(\w+)": \w+\.measure', (ROOT / "bench" / "__main__.py").read_text(), re.MULTILINE))
    called = {
        (page.name, module, name)
        for page in [*PAGES, ROOT / "tests" / "README.md"]
        for module, name in re.findall(r"python -m ([a-z_.]+)(?: ([a-z]+))?", page.read_text())
    }
    assert {one for one in called if one[1] == "bench" and one[2] and one[2] not in benchmarks} == set()
    assert {one for one in called if importlib.util.find_spec(one[1]) is None} == set()
    assert len(called) > 10


# Commands


def called() -> Iterator[tuple[str, str]]:
    """Each command line that a page shows: in a block as a line of its own, or in the text between backquotes."""
    for page in PAGES:
        text = page.read_text()
        for _, block, _ in SNIPPET.findall(text):
            for line in re.findall(r"^\s*(?:\$ )?(headrace [^\n]*)", block, re.MULTILINE):
                yield page.name, re.split(r" {2,}| +#", line)[0]
        for line in re.findall(r"`(headrace [^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)):
            yield page.name, line


@functools.cache
def application() -> Any:
    return typer.main.get_command(cli.cli)


def command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words name, and the words behind it."""
    found: Any = application()
    while hasattr(found, "commands") and words and not words[0].startswith("-"):
        assert words[0] in found.commands, f"there is no command {words[0]!r}"
        found, words = found.commands[words[0]], words[1:]
    return found, words


@pytest.mark.parametrize(("page", "line"), sorted(set(called())))
def test_commands_that_are_shown_are_there_with_their_options(page: str, line: str) -> None:
    plain = line.replace("[", " ").replace("]", " ").replace("…", "")
    words = shlex.split(plain)[1:]
    if words[0] == "--home":
        words = words[2:]
    chosen, rest = command(words)
    options = {name: param for param in chosen.params for name in (*param.opts, *param.secondary_opts)}
    options |= dict.fromkeys(("--help", "--home", "--debug", "--version"))
    given = iter(rest)
    arguments = []
    for word in given:
        if word.startswith("-"):
            assert word in options, f"{line}: no option {word}"
            param = options[word]
            if param is not None and not getattr(param, "is_flag", False):
                assert next(given, None) is not None, f"{line}: {word} without a value"
        else:
            arguments.append(word)
    takes = [param for param in chosen.params if param.param_type_name == "argument"]
    assert len(arguments) <= len(takes) or any(param.nargs == -1 for param in takes), f"{line}: too many words"
    if "[" in line or rest:  # with no word behind it, it is only a name
        assert len(arguments) >= sum(param.required for param in takes), f"{line}: words are missing"


def test_pages_show_commands() -> None:
    assert len(set(called())) > 60, "else the tests above look at nothing"


# The API


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with unstarted(tmp_path_factory.mktemp("home")) as service:
        yield create_app(service, "token")


def requests() -> Iterator[tuple[str, str, str, dict[str, Any] | None]]:
    """(page, method, address, body) of each curl line, and of each request that the text names."""
    for page in PAGES:
        text = page.read_text()
        for line in re.findall(r"^curl ((?:[^\n]*\\\n)*[^\n]*)", text, re.MULTILINE):
            words = shlex.split(line.replace("\\\n", " "), comments=True)
            method = words[words.index("-X") + 1] if "-X" in words else "POST" if "-d" in words else "GET"
            (address,) = [word.removeprefix("$URL") for word in words if word.startswith("$URL")]
            yield page.name, method, address, json.loads(words[words.index("-d") + 1]) if "-d" in words else None
        for method, address in re.findall(r"\b(GET|POST|PUT|DELETE) (/(?:v1|metrics|health)[\w/{}.?=&-]*)", text):
            yield page.name, method, address, None


@pytest.mark.parametrize(("page", "method", "address", "body"), list(requests()))
def test_requests_that_are_shown_have_a_route_and_its_fields(
    app: Any, page: str, method: str, address: str, body: dict[str, Any] | None
) -> None:
    path, _, query = address.partition("?")
    scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": [], "query_string": b""}
    routes = [route for route in app.routes if route.matches(scope)[0] is Match.FULL]
    assert routes, f"{page}: nothing answers {method} {path}"
    described = app.openapi()
    operation = described["paths"][routes[0].path_format][method.lower()]
    known = {parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "query"}
    assert {pair.partition("=")[0] for pair in query.split("&") if pair} <= known
    if body is not None:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        fields = described["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        assert set(body) <= set(fields["properties"])
        assert set(fields.get("required", [])) <= set(body)


def test_pages_show_requests() -> None:
    assert len(list(requests())) > 25
    assert sum(body is not None for *_, body in requests()) >= 4


# Tests


def test_the_tests_that_replay_each_finding_are_there() -> None:
    """The table of findings in tests/README.md and those of reviews.md: file, then names."""
    tests = ROOT / "tests"
    table = (tests / "README.md").read_text().partition("## Findings of the security review")[2].partition("\n## ")[0]
    table += (tests / "reviews.md").read_text()
    named = [
        (file, name)
        for row in table.splitlines()
        for file, names in re.findall(r"`([a-z_/]+\.py)`: ((?:`test_\w+`(?:, )?)+)", row)
        for name in re.findall(r"test_\w+", names)
    ]
    assert len(named) > 80
    assert [one for one in named if f"def {one[1]}(" not in (tests / one[0]).read_text()] == []
