"""The `headrace` command in forked processes: a tenth of the time that `Home.run` takes, for what it prints and how it ends."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from subprocess import CompletedProcess
from typing import TYPE_CHECKING, Any

from forks import ForkedProcess

if TYPE_CHECKING:
    from conftest import Home


def run(home: Home, *words: str | Path, code: int = 0, **more: str) -> CompletedProcess[str]:
    """A command in a home, run to its end, which must be exit code `code` without a traceback; `more` goes into its env."""
    typed = ["--home", str(home.path), *map(str, words)]
    with tempfile.TemporaryDirectory() as folder:
        ended = ForkedProcess(_command, typed, {**home.env, **more}, str(home.path.parent), folder).wait(120)
        out, err = (Path(folder, name).read_text() for name in ("out", "err"))
    assert ended == code, f"headrace {' '.join(typed)}: exit {ended}\n{out}\n{err}"
    assert "Traceback" not in out + err, err
    return CompletedProcess(typed, ended, out, err)


def as_json(home: Home, *words: str | Path, **more: str) -> Any:
    """What the command prints with `--json`."""
    return json.loads(run(home, *words, "--json", **more).stdout)


def sql(home: Home, query: str) -> list[dict[str, Any]]:
    """The rows of a query."""
    rows: list[dict[str, Any]] = as_json(home, "sql", query)["rows"]
    return rows


def _command(_: Connection, typed: list[str], env: dict[str, str], folder: str, output: str) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    for name, descriptor in (("out", 1), ("err", 2)):
        with open(Path(output, name), "wb") as file:
            os.dup2(file.fileno(), descriptor)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    sys.argv = ["headrace", *typed]
    from headrace.cli import main

    try:
        main()
    except SystemExit as ended:
        sys.stdout.flush()
        os._exit(int(ended.code or 0))
