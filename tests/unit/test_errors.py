"""The error tree: which are Permanent, which Transient, and which exit code a command ends with."""

from __future__ import annotations

import inspect
import re

import pytest

from headrace import errors
from headrace.errors import BadDocument, HeadraceError, Permanent, Transient

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, HeadraceError)]
LEAVES = [c for c in CLASSES if c not in (HeadraceError, Permanent, Transient)]


@pytest.mark.parametrize("kind", LEAVES)
def test_every_error_is_either_terminal_or_transient(kind: type[HeadraceError]) -> None:
    assert issubclass(kind, Permanent) != issubclass(kind, Transient)


def test_the_tree_drawn_is_the_tree_there_is() -> None:
    drawn: dict[str, str] = {}
    branch = ""
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"[├└]── (\w+)", line):
            branch = match[1]
        elif match := re.match(r"[│ ][│ ]+[├└]── (\w+)", line):
            drawn[match[1]] = branch
    assert drawn == {c.__name__: "Permanent" if issubclass(c, Permanent) else "Transient" for c in LEAVES}


def test_only_wrong_words_and_settings_end_with_2() -> None:
    codes = {c.__name__: c.exit_code for c in LEAVES}
    assert {name for name, code in codes.items() if code == 2} == {"WrongUsage", "BadSettings"}
    assert set(codes.values()) == {1, 2}


def test_a_message_and_its_hint_are_kept_apart_and_shown_together() -> None:
    error = errors.NotFound("There is no run 'x'.", hint="See `headrace runs`.")
    assert (error.message, error.hint) == ("There is no run 'x'.", "See `headrace runs`.")
    assert str(error) == "There is no run 'x'. See `headrace runs`."
    assert str(errors.NotFound("Alone.")) == "Alone."


def test_a_bad_document_says_which_and_why() -> None:
    error = BadDocument("a/b.pdf", "the file is empty")
    assert (error.name, error.reason, str(error)) == ("a/b.pdf", "the file is empty", "a/b.pdf: the file is empty.")
