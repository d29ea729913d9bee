"""What is printed cannot steer the terminal, by whatever way it is printed."""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

import headrace
from headrace.terminal import Harmless, Terminal, exact, harmless, printable

EVIL = "a\x1b]52;c;eHg=\x07b\x1b[2Jc\x9b31md\u202eedoc\rf\x00g\ud800h"
STEERING = set("\x1b\x07\x9b\u202e\r\x00\ud800")


def table() -> Table:
    made = Table(EVIL, title=EVIL)
    made.add_row(EVIL)
    made.add_row(Text(EVIL, style="red"))
    return made


def tree() -> Tree:
    made = Tree(EVIL)
    made.add(Text(EVIL)).add(Panel(EVIL))
    return made


PRINTED: list[Callable[[Console], None]] = [
    lambda console: console.print(EVIL),
    lambda console: console.print(EVIL, style="red", soft_wrap=True),
    lambda console: console.print("x", EVIL, highlight=False),
    lambda console: console.print(Text.assemble((EVIL, "bold"), EVIL)),
    lambda console: console.out(EVIL, end=""),
    lambda console: console.print({"key": [EVIL]}),
    lambda console: console.print(table()),
    lambda console: console.print(tree()),
    lambda console: console.rule(EVIL),
    lambda console: console.log(EVIL),
    lambda console: console.print(Panel(EVIL, title=EVIL)),
]


@pytest.mark.parametrize("say", PRINTED)
def test_nothing_that_steers_reaches_the_terminal(say: Callable[[Console], None]) -> None:
    plain = Terminal(file=io.StringIO(), width=200)
    say(plain)
    shown = plain.file.getvalue()  # type: ignore[attr-defined]
    assert not STEERING & set(shown), ascii(shown)
    assert "x1b]52" in shown


def test_styles_are_no_text_and_stay() -> None:
    console = Terminal(file=io.StringIO(), width=80, force_terminal=True, color_system="standard", legacy_windows=False)
    console.print(Text.assemble("an ", ("evil\x1b[2J", "red"), " name"))
    shown = console.file.getvalue().replace("\x1b[0m\x1b[31m", "")  # type: ignore[attr-defined]
    assert shown == "an \x1b[31mevil\\x1b[2J\x1b[0m name\n"


def test_columns_are_as_wide_as_they_look() -> None:
    console = Terminal(file=io.StringIO(), width=80)
    made = Table("name", "kind", box=None, pad_edge=False)
    made.add_row("\x1b[2J", "one")
    made.add_row("ordinary-name", "two")
    console.print(made)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert {line.index(kind) for line, kind in zip(lines[1:], ("one", "two"), strict=True)} == {lines[0].index("kind")}


def test_markup_in_a_name_is_text() -> None:
    console = Terminal(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    console.print("see [link=https://evil.example]here[/link] [red]now[/] :skull:", highlight=False)
    made = Table("[red]h[/]")
    made.add_row("[link=https://evil.example]x[/link]")
    console.print(made)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[link=https://evil.example]here[/link] [red]now[/] :skull:" in shown
    assert "\x1b]8" not in shown


def test_ordinary_text_is_left_as_it_is() -> None:
    for text in ("plain", "línea\nnext\ttab", "日本語 👩‍💻", "no\u00a0break", "‘quoted’"):
        assert harmless(text) == text
    assert printable("a\nb\u202ec") == "a\\nb\\u202ec"


def test_json_means_what_it_meant_and_cannot_steer() -> None:
    value = {"name": EVIL, "text": "ä\n日本"}
    text = exact(value)
    assert json.loads(text) == value
    assert not STEERING & set(text)
    assert "日本" in text


def test_what_is_logged_is_escaped_too() -> None:
    record = logging.LogRecord("x", logging.WARNING, "f", 1, "it is called %s", (EVIL,), None)
    assert not STEERING & set(Harmless().format(record))


def test_nobody_makes_a_console_of_rich_s_own_or_prints_past_it() -> None:
    """A command that is added can only print to a `Terminal`."""
    own = {"terminal.py": {"Console"}, "cli/__init__.py": {"print"}, "cli/common.py": {"print"}}  # a version, a shell's script
    package = Path(headrace.__file__).parent
    for path in package.rglob("*.py"):
        called = {
            node.func.id
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not called & {"Console", "print"} - own.get(path.relative_to(package).as_posix(), set()), path


def test_what_is_piped_is_not_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs read it line by line; who sets COLUMNS wants lines of that width."""
    sentence = "docs/a-name-that-is-long.md is still not indexed: it has no text " * 9
    monkeypatch.delenv("COLUMNS", raising=False)
    for columns, lines in ((None, 1), ("80", 9)):
        if columns is not None:
            monkeypatch.setenv("COLUMNS", columns)
        piped = Terminal(file=io.StringIO())
        piped.print(sentence)
        rows = Table(box=None)
        rows.add_column("uri")
        rows.add_row(sentence)
        assert len(piped.file.getvalue().splitlines()) == lines  # type: ignore[attr-defined]
        assert piped.file.getvalue().split() == sentence.split()  # type: ignore[attr-defined]
        piped.print(rows)
        assert all(len(line) <= len(sentence) + 4 for line in piped.file.getvalue().splitlines())  # type: ignore[attr-defined]


def test_a_stream_that_lacks_letters_gets_them_escaped(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "headrace.cli", "--home", str(tmp_path), "documents", "→"]
    done = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=False)
    assert done.returncode == 2
    assert b"\\u2192" in done.stderr
    assert b"Traceback" not in done.stderr


def test_the_line_above_a_section_of_the_demo_is_short_in_a_file() -> None:
    from headrace.cli.demo import _head

    file = io.StringIO()
    _head(Terminal(file=file), "1  Documents to index", "inference, ahead of time")
    assert max(map(len, file.getvalue().splitlines())) == 100


def test_a_set_is_a_list_in_json() -> None:
    assert json.loads(exact({"unfinished": frozenset({"b", "a"}), "none": set()})) == {"unfinished": ["a", "b"], "none": []}
