"""What the documentation shows is there: settings, commands with their options, and the routes of the API."""

from __future__ import annotations

import ast
import json
import re
import shlex
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
import typer
from pydantic_core import PydanticUndefined
from starlette.routing import Match

from headrace import cli
from headrace.api import Service, create_app
from headrace.core.run import recorded
from headrace.core.runner import Runner
from headrace.platform import open_platform
from headrace.settings import EmbeddedPart, Section, Settings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SNIPPET = re.compile(r"^```(\w*)\n(.*?)^```\n*(.*?)(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)
"""A fenced block: its language, its text, and the paragraph behind it."""


def snippets(language: str) -> Iterator[tuple[str, str, str]]:
    """(page, text, what is said behind it) of each block in a language."""
    for page in PAGES:
        for found, text, behind in SNIPPET.findall(page.read_text()):
            if found == language:
                yield page.name, text, behind


# Settings


@pytest.mark.parametrize(("page", "text", "behind"), list(snippets("toml")))
def test_settings_that_are_shown_are_settings(
    page: str, text: str, behind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "headrace.toml").write_text(text)
    monkeypatch.setenv("HEADRACE_SETTINGS", str(tmp_path / "headrace.toml"))
    for name in set(re.findall(r"HEADRACE_[A-Z]+__[A-Z_]+", text + behind)):  # what it says is better given so
        monkeypatch.setenv(name, "secret")
    settings = Settings.load()
    for name in re.findall(r"^\[(\w+)\]", text, re.MULTILINE):
        assert not isinstance(getattr(settings, name), EmbeddedPart), f"{page}: [{name}] changes nothing"


def sections(of: type[Any] = Settings, path: str = "") -> Iterator[tuple[str, type[Any]]]:
    """Each section of the settings tree under its heading in docs/reference/settings.md."""
    yield f"[{path}]" if path else "Top level", of
    for name, field in of.model_fields.items():
        for member in members(field.annotation):
            if issubclass(member, EmbeddedPart):
                continue
            below = f"{path}.{name}" if path else name
            if "type" in member.model_fields:
                yield f'[{below}] type = "{get_args(member.model_fields["type"].annotation)[0]}"', member
            else:
                yield from sections(member, below)


def members(annotation: Any) -> list[type[Section]]:
    """The sections that a field may hold."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if isinstance(annotation, types.UnionType) or get_origin(annotation) is Union:
        return [found for one in get_args(annotation) for found in members(one)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, Section) else []


def documented() -> dict[str, dict[str, tuple[str, str]]]:
    """Heading → key → (default, sentence) of docs/reference/settings.md."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for part in re.split(r"^## ", (ROOT / "docs" / "reference" / "settings.md").read_text(), flags=re.MULTILINE)[1:]:
        heading, _, text = part.partition("\n")
        rows = re.findall(r"^\| `(\w+)` \| ?(.*?) ?\| (.*) \|$", text, re.MULTILINE)
        keys = {key: (default.strip().strip("`"), sentence) for key, default, sentence in rows}
        names, _, kind = heading.partition(" with ")
        for name in re.findall(r"\[[\w.]+\]", names) if kind else [heading]:
            found[f"{name} {kind}" if kind else name] = keys
    return found


def test_every_section_of_the_settings_is_documented_and_no_other() -> None:
    assert sorted(documented()) == sorted(heading for heading, _ in sections())


# Said in other words, because a table has no room for them.
ELSEWHERE = {("[training]", "recipe"): "Under `[training.recipe.NAME]` stands what differs"}
OWN_DEFAULT = {("[training]", "threads"): "this machine's"}


@pytest.mark.parametrize(("heading", "section"), list(sections()), ids=lambda given: given if isinstance(given, str) else "")
def test_settings_are_documented_key_by_key_and_default_by_default(heading: str, section: type[Any]) -> None:
    keys = {name: field for name, field in section.model_fields.items() if not members(field.annotation)}
    for name in [name for name in keys if (heading, name) in ELSEWHERE]:
        assert ELSEWHERE[heading, name] in (ROOT / "docs" / "reference" / "settings.md").read_text()
        del keys[name]
    told = documented()[heading]
    assert list(told) == list(keys)
    for name, field in keys.items():
        default, sentence = told[name]
        if name == "type":
            assert sentence == f'`"{get_args(field.annotation)[0]}"`'
            continue
        assert sentence == field.description, name
        if (heading, name) in OWN_DEFAULT:
            assert default == OWN_DEFAULT[heading, name]
        elif field.default is PydanticUndefined or field.default in (None, "", {}) or (field.default == () and not default):
            assert default == "", name
        else:
            assert value(default) == (list(field.default) if isinstance(field.default, tuple) else field.default), name


def value(text: str) -> Any:
    """A default as it is written in the table: a literal of Python or JSON, or plain text."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError):
            continue
    return Path(text) if text.startswith(".") else text


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


def command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words name, and the words behind it."""
    found: Any = typer.main.get_command(cli.app)
    while hasattr(found, "commands") and words and not words[0].startswith("-"):
        assert words[0] in found.commands, f"there is no command {words[0]!r}"
        found, words = found.commands[words[0]], words[1:]
    return found, words


@pytest.mark.parametrize(("page", "line"), sorted(set(called())))
def test_commands_that_are_shown_are_there_with_their_options(page: str, line: str) -> None:
    plain = line.replace("[", " ").replace("]", " ").replace("…", "")
    chosen, rest = command(shlex.split(plain)[1:])
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
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SETTINGS", str(home / "none.toml"))
        settings = Settings(home=home)
    with open_platform(settings, parts=frozenset()) as nowhere, recorded("up", home) as run:
        yield create_app(Service(Runner(run, nowhere), None, settings), "token")  # type: ignore[arg-type]


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
    """The table of findings in tests/README.md: file, then names."""
    tests = ROOT / "tests"
    table = (tests / "README.md").read_text().partition("## Findings of the security review")[2].partition("\n## ")[0]
    named = [
        (file, name)
        for row in table.splitlines()
        for file, names in re.findall(r"`([a-z_/]+\.py)`: ((?:`test_\w+`(?:, )?)+)", row)
        for name in re.findall(r"test_\w+", names)
    ]
    assert len(named) > 80
    assert [one for one in named if f"def {one[1]}(" not in (tests / one[0]).read_text()] == []
