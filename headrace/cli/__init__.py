"""The commands. Thin: each opens an `App`, calls what does the work, and shows what came of it."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import traceback
from typing import Annotated

import typer
from typer._click.exceptions import ClickException
from typer._completion_classes import completion_init
from typer._completion_shared import get_completion_script

# Each adds its commands, and help shows them in this order.
from headrace.cli import up, documents, questions, evaluation, training, lineage, head, record, storage, tenants  # noqa: F401
from headrace.cli.common import cli, common, err
from headrace.errors import HeadraceError, WrongUsage
from headrace.terminal import Harmless, harmless

# What Typer makes of a Ctrl-C; it tells its caller by no other sign.
_INTERRUPTED = 130


def main() -> None:
    """Run the command line; every error a user may meet becomes a sentence, a hint and an exit code.

    SIGTERM ends a command in the same good order as Ctrl-C. Where the starter had SIGINT ignored (a script's background job,
    nohup, some service managers) it stays ignored, as POSIX shells mean it, and SIGTERM is the way to end a command.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if logging.lastResort is not None:  # what is logged in this process comes to the terminal, too
        logging.lastResort.setFormatter(Harmless())
    try:
        completion_init()
        code = cli(_options_first(sys.argv[1:]), standalone_mode=False) or 0
        if code == _INTERRUPTED:
            raise KeyboardInterrupt
        sys.stdout.flush()
        sys.exit(code)
    except BrokenPipeError:  # whoever read our output has read enough (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (typer.Abort, KeyboardInterrupt):
        err.print("Interrupted. The home is as the last finished step left it; run the same command again to go on.")
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
    except Exception as error:  # what nobody foresaw: still one line, and how to tell us more
        if common.debug:
            raise
        err.print(f"Something unforeseen happened: {type(error).__name__}: {error}", style="red")
        err.print("Run it again with `headrace --debug …` to see where.")
        sys.exit(1)


@cli.command(rich_help_panel="The shell")
def completion(shell: Annotated[str, typer.Argument(help="bash, zsh, fish or powershell.")]) -> None:
    """The script that teaches a shell to complete headrace's words: eval "$(headrace completion bash)"."""
    if shell not in ("bash", "zsh", "fish", "powershell"):
        raise WrongUsage(f"There is no completion for {shell!r}.", hint="Those there are: bash, zsh, fish, powershell.")
    print(get_completion_script(prog_name="headrace", complete_var="_HEADRACE_COMPLETE", shell=shell))


def _options_first(words: list[str]) -> list[str]:
    """The words with --home and --debug in front, where they are taken; people write them behind the command as well."""
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
    return front + rest
