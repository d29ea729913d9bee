"""The shell that headrace is typed in."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli.common import app
from headrace.errors import WrongUsage


@app.command(rich_help_panel="The shell")
def completion(shell: Annotated[str, typer.Argument(help="bash, zsh, fish or powershell.")]) -> None:
    """The script that teaches a shell to complete headrace's words: eval "$(headrace completion bash)"."""
    from typer._completion_shared import get_completion_script

    if shell not in ("bash", "zsh", "fish", "powershell"):
        raise WrongUsage(f"There is no completion for {shell!r}.", hint="Those there are: bash, zsh, fish, powershell.")
    print(get_completion_script(prog_name="headrace", complete_var="_HEADRACE_COMPLETE", shell=shell))
