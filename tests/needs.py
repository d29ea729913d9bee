"""What a test needs of the machine: where that is missing the test fails and says how to get it, or is left out on purpose."""

from __future__ import annotations

import os

import pytest


def require(there: bool, sentence: str, *, unless: str) -> None:
    """Fail with `sentence` if what is needed is not there; skip instead where the environment variable `unless` is 1."""
    if there:
        return
    if os.environ.get(unless) == "1":
        pytest.skip(f"{unless}=1: {sentence}")
    pytest.fail(f"{sentence} To leave it out: {unless}=1 make test", pytrace=False)
