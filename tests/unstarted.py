"""The API's service without servers, for unit tests of its routes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headrace.api.service import Service
from headrace.app import App
from headrace.core.run import recorded
from headrace.core.runner import Runner
from headrace.platform import open_platform
from headrace.settings import Settings


@contextmanager
def unstarted(home: Path) -> Iterator[Service]:
    """A service over a new home in this folder: its metadata store works, and its endpoints lead nowhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SETTINGS", str(home / "none.toml"))
        settings = Settings(home=home)
        with open_platform(settings, parts=frozenset()) as nowhere, recorded("up", home) as run:
            app = App(settings, "up", service=True)  # not entered: nothing is started
            app.runner = Runner(run, nowhere)
            yield Service(app)
