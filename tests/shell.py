"""The `headrace` command in forked processes: a tenth of the time that `Home.run` takes, for what it prints and how it ends."""

from __future__ import annotations

import json
import os
import pty
import select
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
        files = Path(folder, "out"), Path(folder, "err")
        streams = [os.devnull, *map(str, files)]
        ended = ForkedProcess(_command, typed, {**home.env, **more}, str(home.path.parent), *streams).wait(120)
        out, err = (file.read_text() for file in files)
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


def on_terminal(home: Home, *words: str | Path) -> bytes:
    """What a command writes to a terminal, whatever it ends with."""
    ours, theirs = pty.openpty()
    try:
        typed = ["--home", str(home.path), *map(str, words)]
        process = ForkedProcess(_command, typed, home.env, str(home.path.parent), *[os.ttyname(theirs)] * 3)
        shown = b""
        while True:
            ended = process.ended
            while select.select([ours], [], [], 0.05)[0]:
                shown += os.read(ours, 65536)
            if ended:  # looked at before what there was to read
                return shown
    finally:
        os.close(ours)
        os.close(theirs)


def _command(_: Connection, typed: list[str], env: dict[str, str], folder: str, *streams: str) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    for descriptor, (name, way) in enumerate(zip(streams, ("rb", "wb", "wb"), strict=True)):
        with open(name, way, buffering=0) as file:
            os.dup2(file.fileno(), descriptor)
    sys.argv = ["headrace", *typed]
    from headrace.cli import main

    try:
        main()
    except SystemExit as ended:
        sys.stdout.flush()
        os._exit(int(ended.code or 0))
