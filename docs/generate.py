"""Writes the reference pages that are generated from the code: commands, API, settings, stores.

    python -m docs.generate            writes docs/reference/{cli,api,settings,stores}.md
    python -m docs.generate --check    lists the pages that differ from the code; exit 1 if one does

A page depends only on the code, not on the machine, its settings or the time.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pyarrow as pa
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from headrace.api.app import create_app
from headrace.api.service import Service
from headrace.app import App
from headrace.catalog import LANDINGS, STORES, Store, Tier
from headrace.cli.common import cli
from headrace.cli.render.settings import members, sections
from headrace.core.run import recorded
from headrace.core.runner import Runner
from headrace.platform import open_platform
from headrace.settings import Settings, descriptions

REFERENCE = Path(__file__).parent / "reference"
_NOTE = "<!-- Written by `python -m docs.generate` from {source}. Change that, not this page. -->\n"
_VALUES = {str: "TEXT", int: "NUMBER", float: "NUMBER", Path: "PATH"}


def _page(title: str, source: str, parts: Iterable[str]) -> str:
    return "\n\n".join([f"# {title}\n\n{_NOTE.format(source=source)}".rstrip(), *(part.strip("\n") for part in parts)]) + "\n"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines)


def _linked(text: str) -> str:
    """A docstring's `docs/x/y.md` as a link from a reference page."""
    return re.sub(r"\bdocs/([\w/-]+)\.md", lambda found: f"[{Path(found[1]).name}](../{found[1]}.md)", text)


# Commands


def commands() -> Iterator[tuple[list[str], Any]]:
    """Every command with the words that call it, in the order of the help."""

    def below(group: Any, words: list[str]) -> Iterator[tuple[list[str], Any]]:
        for name, found in group.commands.items():
            if hasattr(found, "commands"):
                yield from below(found, [*words, name])
            else:
                yield [*words, name], found

    yield from below(typer.main.get_command(cli), [])


def cli_page() -> str:
    """Every command with its arguments and options, in the groups and order of `headrace --help`."""
    top: Any = typer.main.get_command(cli)
    parts = [
        "`--help` behind a command says the same in a terminal. Exit codes: 0 done, 1 failed, 2 wrong usage. With `--json` one\n"
        "JSON document goes to standard output ([its keys](json.md)) and everything else to standard error.",
        "Options of every command, before or after its name:",
        _parameters(top),
    ]
    groups: dict[str, list[str]] = {}
    for words, command in commands():
        panel = command.rich_help_panel
        group = groups.setdefault(panel if isinstance(panel, str) else _group_of(top, words), [])
        group += [f"### headrace {' '.join(words)}", command.help, *_usage(words, command)]
        if command.params:
            group.append(_parameters(command))
    for name, found in groups.items():
        parts += [f"## {name}", *found]
    return _page("Commands", "the commands in `headrace/cli/`", parts)


def _group_of(top: Any, words: list[str]) -> str:
    return str(top.commands[words[0]].help).rstrip(".")


def _usage(words: list[str], command: Any) -> list[str]:
    """Its usage line, if it has parameters."""
    said = []
    for one in command.params:
        if one.param_type_name == "argument":
            name = _value(one)
            said.append(name if one.required else f"[{name}]")
        elif one.required:
            said.append(f"{one.opts[0]} {_value(one)}")
    return [f"```\n{' '.join(['headrace', *words, *said])}\n```"] if said else []


def _value(one: Any) -> str:
    if one.metavar:
        return str(one.metavar)
    if one.param_type_name == "argument":
        return str(one.name).upper()
    kind = one.type_descriptor.annotation
    inner = [part for part in get_args(kind) if part is not type(None)]
    while inner and get_origin(inner[0]):
        inner = list(get_args(inner[0]))
    return _VALUES.get(inner[0] if inner else kind, "TEXT")


def _option(one: Any) -> str:
    names = ", ".join([*one.opts, *one.secondary_opts])
    return names if one.is_flag else f"{names} {_value(one)}"


def _parameters(command: Any) -> str:
    rows = []
    for one in command.params:
        argument = one.param_type_name == "argument"
        default = one.show_default if isinstance(one.show_default, str) else one.default
        shown = "" if default in (None, False, "", ()) or one.required else f"`{_flag(one, default)}`"
        rows.append((f"`{_value(one) if argument else _option(one)}`", shown, one.help or ""))
    return _table(("", "default", ""), rows)


def _flag(one: Any, default: Any) -> str:
    return str(one.opts[0]) if default is True else str(default)


# Settings

_SETTINGS = """Read from `headrace.toml` in the current directory (or the file that `HEADRACE_SETTINGS` names) and from the
environment, which takes precedence: `HEADRACE_OBJECTS__SECRET_KEY` is `secret_key` under `[objects]`. An unknown key is an
error. A part that is not configured stays embedded: Headrace starts it itself.

A `headrace.toml` in the current directory is rejected if it belongs to another user (except root), if everybody may write to
it, or if it makes code run: `weed` and `tansu` under `[platform]`, and properties that make librdkafka or pyiceberg load
something. It may have come with a cloned folder. `HEADRACE_SETTINGS=headrace.toml` says that you trust it. If it belongs to
root, or names endpoints or models, a command on a terminal prints a line about it."""
_RECIPE = """Overrides of a recipe's own file, `headrace/training/recipes/NAME.toml`, go under `[training.recipe.NAME]`:
`epochs = 3`, or `HEADRACE_TRAINING__RECIPE__RERANKER__EPOCHS=3`. A key that the recipe does not have is an error."""


def settings_page() -> str:
    """Each section and key of the settings with its default and its sentence."""
    parts = [_SETTINGS]
    shown: dict[type[BaseModel], list[str]] = {}
    lists = {name: each for name, field in Settings.model_fields.items() if (each := _each(field.annotation)) is not None}
    for path, section in (*sections(), *(one for name, each in lists.items() for one in sections(each, name))):
        shown.setdefault(section, []).append(path)
    for section, paths in shown.items():
        kind = section.model_fields["type"].annotation if "type" in section.model_fields else None
        heading = ", ".join(f"[[{path}]]" if path in lists else f"[{path}]" for path in paths) if paths != [""] else "Top level"
        if kind is not None:
            heading += f' with type = "{get_args(kind)[0]}"'
        rows = [
            (f"`{name}`", _default(field), _linked(descriptions(section).get(name, "")))
            for name, field in section.model_fields.items()
            if name != "type" and not members(field.annotation)
        ]
        said = [_linked(inspect.getdoc(section) or "")] if paths != [""] else []
        if rows:
            parts += [f"## {heading}", *said, _table(("key", "default", "description"), rows)]
        if "training" in paths:
            parts.append(_RECIPE)
    return _page("Settings", "`headrace/settings/`", parts)


def _each(annotation: Any) -> type[BaseModel] | None:
    """The section of which a setting is a list, if it is one."""
    each = get_args(annotation)[0] if get_origin(annotation) is tuple else None
    return each if isinstance(each, type) and issubclass(each, BaseModel) else None


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "this machine's"
    if field.default is PydanticUndefined:
        return "required"
    if field.default in (None, "", {}, ()):
        return ""
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    if isinstance(value, Path | str):
        return f"`{value}`"
    return f"`{json.dumps(value)}`"


# Stores

_TIERS = {
    Tier.STREAM: "Kafka topics.",
    Tier.FILE: "Directories under `[files]`.",
    Tier.VECTOR: "LanceDB tables.",
    Tier.TABLE: "Iceberg or VAST DB tables. In SQL a `-` in a name is `_`: `dead_letters`.",
    Tier.OBJECT: "Prefixes of the bucket under `[objects]`.",
}


def stores_page() -> str:
    """Every store of the catalog by tier, with the columns of those that have a schema."""
    parts = ["Each tier's stores: contents and retention. The code uses no other topic, table, prefix or directory."]
    for tier in (Tier.STREAM, Tier.TABLE, Tier.OBJECT, Tier.VECTOR, Tier.FILE):
        found = [store for store in STORES if store.tier is tier]
        rows = [(f"`{store.name}`", store.holds, store.retention, *_landing(store)) for store in found]
        head = ("store", "holds", "kept", *(("lands in",) if tier is Tier.STREAM else ()))
        parts += [f"## {tier.value.capitalize()}", _TIERS[tier], _table(head, rows)]
        parts += [part for store in found if store.schema is not None for part in (f"### {_name(store)}", *_columns(store))]
    return _page("Stores", "`headrace/catalog.py`", parts)


def _landing(store: Store) -> tuple[str, ...]:
    return (f"table `{LANDINGS[store].name}`",) if store in LANDINGS else ()


def _name(store: Store) -> str:
    return f"{store.tier.value.capitalize()} {store.name}"


def _columns(store: Store) -> list[str]:
    topic = next((one for one, table in LANDINGS.items() if table is store), None)
    said = [] if topic is None else [f"The columns of the topic `{topic.name}`, then the event's position on the head:"]
    known = set() if topic is None else set(topic.columns.names)
    rows = (
        (f"`{column.name}`", _type(column.type), "allowed" if column.nullable else "")
        for column in store.columns
        if column.name not in known
    )
    return [*said, _table(("column", "type", "null"), rows)]


def _type(kind: pa.DataType) -> str:
    if pa.types.is_struct(kind):
        return "{" + ", ".join(field.name for field in kind) + "}"
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        return f"list of {_type(kind.value_type)}"
    if pa.types.is_timestamp(kind):
        return "time (UTC, µs)"
    return str(kind)


# The API


def api_page() -> str:
    """Every route with its parameters, the fields of its body and an example of its answer."""
    described = openapi()
    schemas = described["components"]["schemas"]
    routes = [(method.upper(), path, one) for path, found in described["paths"].items() for method, one in found.items()]
    parts = [
        "`GET /openapi.json` of a running `headrace up` describes the same to programs. How to call it, errors and limits:\n"
        "[Use the API](../how-to/use-the-api.md).",
        _table(("", "route", ""), ((f"`{method}`", f"`{path}`", _sentence(one)) for method, path, one in routes)),
    ]
    for method, path, one in routes:
        told = _route(one, schemas)
        if told:
            parts += [f"## {method} {path}", inspect.cleandoc(one["description"]), *told]
    return _page("API", "the routes in `headrace/api/`", parts)


def openapi() -> dict[str, Any]:
    """The OpenAPI document of the API, of an application that serves nobody."""
    with tempfile.TemporaryDirectory() as folder:
        given = os.environ.get("HEADRACE_SETTINGS")
        os.environ["HEADRACE_SETTINGS"] = f"{folder}/none.toml"
        try:
            settings = Settings(home=Path(folder))
        finally:
            os.environ.pop("HEADRACE_SETTINGS") if given is None else os.environ.update(HEADRACE_SETTINGS=given)
        with open_platform(settings, parts=frozenset()) as nowhere, recorded("up", settings.home) as run:
            app = App(settings, "up", service=True)  # not entered: nothing is started
            app.runner = Runner(run, nowhere)
            served = create_app(Service(app), "token")
            described: dict[str, Any] = served.openapi()
            return described


def _sentence(one: dict[str, Any]) -> str:
    return " ".join(str(one["description"]).partition("\n\n")[0].split())


def _route(one: dict[str, Any], schemas: dict[str, Any]) -> list[str]:
    parts = []
    if asked := one.get("parameters"):
        rows = [
            (f"`{each['name']}`", each["in"], _kind(each["schema"], schemas), _needed(each), each.get("description", ""))
            for each in asked
        ]
        parts.append(_table(("parameter", "in", "type", "", ""), rows))
    for media, content in one.get("requestBody", {}).get("content", {}).items():
        schema = content["schema"]
        if "$ref" not in schema:
            parts.append(f"Body as `{media}`: {_kind(schema, schemas)}.")
            continue
        body = schemas[schema["$ref"].rpartition("/")[2]]
        fields = [
            (f"`{name}`", _kind(field, schemas), "required" if name in body.get("required", ()) else _else(field))
            for name, field in body["properties"].items()
        ]
        parts.append(_table(("field of the body", "type", "default"), fields))
    example = one["responses"].get("200", {}).get("content", {}).get("application/json", {}).get("example")
    if example is not None:
        parts.append(f"```json\n{json.dumps(example, indent=2, ensure_ascii=False)}\n```")
    return parts


def _needed(each: dict[str, Any]) -> str:
    return "required" if each.get("required") else _else(each["schema"])


def _else(schema: dict[str, Any]) -> str:
    default = schema.get("default")
    return "" if default in (None, "", [], {}) or isinstance(default, dict) else f"`{json.dumps(default)}`"


def _kind(schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    """A JSON schema in words: type, bounds, choices."""
    if "$ref" in schema:
        inner = schemas[schema["$ref"].rpartition("/")[2]]
        if "enum" in inner:
            return _kind(inner, schemas)
        return "object of " + ", ".join(f"`{name}`" for name in inner["properties"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(one, schemas) for one in schema["anyOf"] if one.get("type") != "null"))
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if schema.get("type") == "array":
        most = f", at most {schema['maxItems']}" if "maxItems" in schema else ""
        return f"list of {_kind(schema['items'], schemas)}{most}"
    said = schema.get("format") or schema.get("type") or "anything"
    if "maxLength" in schema:
        said += f", at most {schema['maxLength']:,} characters"
    if "maximum" in schema:
        said += f", {schema.get('minimum', 0)} to {schema['maximum']}"
    return said + (f", `{schema['pattern']}`" if "pattern" in schema else "")


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli_page,
    "api.md": api_page,
    "settings.md": settings_page,
    "stores.md": stores_page,
}


def main(check: bool = False) -> int:
    """Write the pages, or only say which differ; the exit code."""
    code = 0
    for name, made in PAGES.items():
        page, text = REFERENCE / name, made()
        if page.exists() and page.read_text(encoding="utf-8") == text:
            continue
        if check:
            print(f"docs/reference/{name} differs from the code: python -m docs.generate", file=sys.stderr)
            code = 1
        else:
            page.write_text(text, encoding="utf-8")
            print(f"wrote docs/reference/{name}")
    return code


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
