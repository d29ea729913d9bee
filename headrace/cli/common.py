"""What the commands share: the Typer application, common options, and output helpers."""

from __future__ import annotations

import getpass
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace import __version__
from headrace.errors import WrongUsage
from headrace.terminal import Terminal, exact

if TYPE_CHECKING:  # importing pydantic takes 0.3 s of CPU, which `--help` and completion avoid
    from headrace.app import App
    from headrace.catalog import Store
    from headrace.settings import Settings

cli = typer.Typer(
    name="headrace",
    help="Runs the AI training loop and enterprise RAG on any storage, meters every byte, and draws what it measured.",
    no_args_is_help=True,
    # Typer's own options guess the shell from the process tree, and fail if they cannot: see `completion`.
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
out = Terminal()
err = Terminal(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
Tenant = Annotated[str | None, typer.Option(help="Tenant; default: the one in the settings.")]
As = Annotated[
    list[str] | None,
    typer.Option("--as", help="Ask with the access rights of this user or group, recorded under your login name; repeatable."),
]
Filtered = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        metavar="KEY=VALUE",
        help="Only documents with this attribute, document=NAME or FOLDER/, kind=pdf, changed>=2026-01-31; repeatable.",
    ),
]
On = Annotated[str, typer.Option(help="Where batch jobs and training run: local or ray.")]


@dataclass
class Common:
    """Options of every command."""

    home: Path | None = None
    debug: bool = False
    settings_shown: bool = False
    """Whether the notice about a settings file in this directory was printed."""


common = Common()


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@cli.callback()
def main_options(
    home: Annotated[Path | None, typer.Option(help="Directory for all embedded state.", show_default=".headrace")] = None,
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Options of every command."""
    common.home, common.debug, common.settings_shown = home, debug, False


def settings_of(tenant: str | None = None, host: str | None = None) -> Settings:
    """Load the settings; on a terminal, print once which settings file in this directory was used."""
    from headrace.settings import Settings
    from headrace.settings_file import settings_notice

    settings = Settings.load(home=common.home, tenant=tenant, api=None if host is None else {"host": host})
    if err.is_terminal and not common.settings_shown and (notice := settings_notice()):
        common.settings_shown = True
        err.print(notice, style="dim", highlight=False, soft_wrap=True)
    return settings


def in_this_home(command: str) -> str:
    """A `headrace` command to try next, with the home of this one if it was named."""
    return f"headrace {command}" if common.home is None else f"headrace --home {shlex.quote(str(common.home))} {command}"


def check_tenant(app: App, tenant: str | None, *, also: Sequence[Store] = ()) -> None:
    """Raise `NotFound` if `--tenant` names a tenant that does not exist; the one in the settings always does.

    A tenant exists that was added or has documents, or rows in one of the tables `also`.
    """
    if tenant is not None and tenant != settings_of().tenant:
        app.documents.require_tenant(also=also)


def one_of(names: Iterable[str]) -> str:
    """Join names for a help text: a, b or c."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def print_json(value: Any) -> None:
    sys.stdout.write(exact(value) + "\n")


def checked_on(value: str) -> str:
    if value not in ("local", "ray"):
        raise WrongUsage(f"--on takes local or ray, not {value!r}.")
    return value


def checked_question(text: str) -> str:
    if not text.strip():
        raise WrongUsage("The question is empty.")
    return text


def user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
