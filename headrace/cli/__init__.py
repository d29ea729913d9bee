"""The command line. Each command opens an `App`, calls it and prints the result."""

from __future__ import annotations

import atexit
import contextlib
import copy
import errno
import gc
import io
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from typing import Annotated

import typer
from typer._click.exceptions import ClickException
from typer._completion_classes import completion_init
from typer._completion_shared import get_completion_script
from typer.main import get_command_name

# Importing a module registers its commands; `--help` lists them in this order.
from headrace.cli import up, setup, documents, questions, evaluation, training, lineage, head, runs, explain, kv, storage  # noqa: F401
from headrace.cli import tenants, mcp, triggers  # noqa: F401
from headrace.cli.common import cli, common, err
from headrace.errors import HeadraceError, WrongUsage
from headrace.terminal import Harmless, harmless

# New objects between two searches for garbage. Importing makes a hundred and fifty thousand and hardly any garbage, and with
# Python's own 700 it would be looked for 350 times until a command begins its work.
_COLLECTED_EVERY = 20_000

# The exit code by which Typer reports Ctrl-C; with standalone_mode=False there is no other sign.
_INTERRUPTED = 130

# A path is not this user's to read or write, or a part of it is a file.
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR)


@contextlib.contextmanager
def _rarely_collected() -> Iterator[None]:
    """Look for garbage less often, and not when the process ends: an interpreter looks through all objects several times then.

    Together that was a quarter of the processor time of a command that indexes one file.
    """
    before = gc.get_threshold()
    gc.set_threshold(_COLLECTED_EVERY, *before[1:])
    atexit.unregister(_freeze)
    atexit.register(_freeze)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _freeze() -> None:
    if "duckdb" not in sys.modules:  # it prints what is not collected, as leaks
        gc.freeze()


@_rarely_collected()
def main() -> None:
    """Run the command line; turn every error into a message, a hint and an exit code.

    SIGTERM ends a command as cleanly as Ctrl-C does. If the parent ignores SIGINT (a script's background job, nohup, some
    service managers), it stays ignored, as POSIX requires; use SIGTERM there.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a letter that the terminal's encoding lacks is shown as an escape
            with contextlib.suppress(OSError):  # its descriptor was replaced by one without a position
                stream.reconfigure(errors="backslashreplace")
    if logging.lastResort is not None:  # log lines reach the terminal, so escape them too
        logging.lastResort.setFormatter(Harmless())
    try:
        completion_init()
        for word in sys.argv[1:]:
            if any("\ud800" <= character <= "\udfff" for character in word) and not os.path.lexists(word):
                raise WrongUsage(f"{word!r} is not text in this terminal's encoding.", hint="Type it as UTF-8.")
        front, rest = _options_first(sys.argv[1:])
        code = _with_only(rest[:1])([*front, *rest], standalone_mode=False) or 0
        if code == _INTERRUPTED:
            raise KeyboardInterrupt
        sys.stdout.flush()
        sys.exit(code)
    except BrokenPipeError:  # the reader of the pipe closed it (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (typer.Abort, KeyboardInterrupt):
        err.print("Interrupted. All finished steps are kept; run the same command again to continue.")
        sys.exit(1)
    except ClickException as error:
        text = io.StringIO()
        error.show(file=text)
        sys.stderr.write(harmless(text.getvalue()))
        sys.exit(2)
    except HeadraceError as error:
        if common.debug:
            err.print(traceback.format_exc(), highlight=False, soft_wrap=True)
        err.print(error.message, style="red", highlight=False)
        if error.hint:
            err.print(error.hint, highlight=False)
        sys.exit(error.exit_code)
    except Exception as error:
        if common.debug:
            raise
        if isinstance(error, OSError) and error.errno in _REFUSED and error.filename:  # a folder that was named, or the home
            err.print(f"{os.fsdecode(error.filename)}: {error.strerror}.", style="red", highlight=False)
            err.print("Check the path, who owns it, and its mode.", highlight=False)
            sys.exit(1)
        # A bug: still one line, and how to see more.
        err.print(f"Unexpected error: {type(error).__name__}: {error}", style="red")
        err.print("Run it again as `headrace --debug …` for the traceback.")
        sys.exit(1)


@cli.command(rich_help_panel="The shell")
def completion(shell: Annotated[str, typer.Argument(help="bash, zsh, fish or powershell.")]) -> None:
    """Print the shell completion script: eval "$(headrace completion bash)"."""
    if shell not in ("bash", "zsh", "fish", "powershell"):
        raise WrongUsage(f"There is no completion for {shell!r}.", hint="Choose bash, zsh, fish or powershell.")
    print(get_completion_script(prog_name="headrace", complete_var="_HEADRACE_COMPLETE", shell=shell))


def _with_only(called: list[str]) -> typer.Typer:
    """The command line with the one command that is called, or with all where it is not one of them.

    Typer builds every command that it has from its signature, at each start: fifty take 0.15 s of processor time.
    """
    commands = [info for info in cli.registered_commands if info.callback and get_command_name(info.callback.__name__) in called]
    groups = [info for info in cli.registered_groups if info.name in called]
    if not commands and not groups:
        return cli
    chosen = copy.copy(cli)
    chosen.registered_commands, chosen.registered_groups = commands, groups
    return chosen


def _options_first(words: list[str]) -> tuple[list[str], list[str]]:
    """--home and --debug, which Typer accepts in front only, where people also write them after the command; and the rest."""
    front, rest, waiting = [], [], iter(words)
    for word in waiting:
        if word == "--":
            rest += [word, *waiting]
        elif word == "--home":
            if (directory := next(waiting, None)) is None:
                raise WrongUsage("--home needs a directory.")
            front += [word, directory]
        elif word == "--debug" or word.startswith("--home="):
            front.append(word)
        else:
            rest.append(word)
    return front, rest
