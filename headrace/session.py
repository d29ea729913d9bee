"""A session: the platform, a run and its runner, held together for one command."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from headrace.core.launch import Launch, LocalLauncher
from headrace.core.progress import ProgressBars
from headrace.core.run import Run, ended_runs, recorded
from headrace.core.runner import Runner
from headrace.errors import StorageFull, Unavailable
from headrace.platform import EVERY_PART, open_platform, running
from headrace.platform.home import Home, started_notes
from headrace.settings import EmbeddedPart, Settings

if TYPE_CHECKING:  # the query engine, and whatever else not every command needs, is imported by the command that does
    from headrace.answering.engine import QueryEngine

_MODELS_READY_S = 120.0
_JOURNALS = 100  # each command reads those that no table has yet
LOCAL, RAY = "local", "ray"


@dataclass(frozen=True)
class Session:
    """What a command works with."""

    settings: Settings
    run: Run
    runner: Runner
    launch: Launch

    def engine(self, *, keeps: bool = False) -> QueryEngine:
        """Where questions are answered; with `keeps`, answers that the head does not take are kept in the home until it does."""
        from headrace.answering.engine import QueryEngine
        from headrace.answering.unrecorded import Unrecorded

        return QueryEngine(self.runner, self.settings.inference, Unrecorded(self.settings.home) if keeps else None)

    def archive(self) -> None:
        """Copy ended runs of this home into the `runs` and `ledger` tables."""
        from headrace.core.maintain import record

        self.runner.run(record, home=self.settings.home)


@contextmanager
def opened(
    command: str, settings: Settings, *, models: bool = True, on: str = LOCAL, quiet: bool = False, ends: bool = False
) -> Iterator[Session]:
    """Open the platform and record the block as a run of `command`; `models` waits until the embedded model server is up.

    `on` says where batch work and training run: `local` or `ray`. With `ends` the platform ends with the block, unless another
    command uses it; else it stays for `platform.idle_s`. Raises what the platform raises, and `MissingPart` where Ray is asked
    for and not installed.
    """
    # Training takes the generator's weights from where the model server unpacks them.
    os.environ["HEADRACE_MODELS_CACHE"] = str(Home(settings.home).models_cache)
    parts = EVERY_PART if models else EVERY_PART - {"models"}
    bars = ProgressBars(quiet=quiet)
    platform = open_platform(settings, parts=parts, ends=ends)
    with (
        _lancedb_ahead(models),
        platform as endpoints,
        recorded(command, settings.home) as run,
        _cause_named(settings),
    ):
        if platform.started and not ends:
            stays = f"{settings.platform.idle_s:,.0f} s after the last command"
            bars.note(f"The embedded servers have started. They stay up until {stays}; `headrace down` ends them.")
        for note in started_notes(settings) if platform.started or ends else ():
            # A service says it at each start, also where the servers ran already, and in its log.
            (bars.warn if ends else bars.note)(note)
        if models:
            from headrace.models.client import wait_ready

            for chosen, endpoint in (
                (settings.models.embedder, endpoints.embedder),
                (settings.models.generator, endpoints.generator),
            ):
                if isinstance(chosen, EmbeddedPart):
                    wait_ready(endpoint, _MODELS_READY_S)
                    break
        if on == RAY:
            from headrace.core.ray_cluster import cluster

            with cluster() as (batches, launch):
                yield Session(settings, run, Runner(run, endpoints, batches=batches, bars=bars), launch)
        else:
            session = Session(settings, run, Runner(run, endpoints, bars=bars), LocalLauncher())
            yield session
            if len(ended_runs(settings.home)) > _JOURNALS:
                session.archive()


@contextmanager
def _lancedb_ahead(wanted: bool) -> Iterator[None]:
    """Import LanceDB, which takes a second or two, while the platform starts: whoever needs it earlier waits for the import."""
    importing = threading.Thread(target=import_module, args=("lancedb",), name="lancedb", daemon=True)
    if wanted:
        importing.start()
    try:
        yield
    finally:
        if wanted:  # a native library that is half loaded when the interpreter ends may take it down
            importing.join()


@contextmanager
def _cause_named(settings: Settings) -> Iterator[None]:
    """Where something could not be reached for what happened to our own servers or their disk, say that, not what to check."""
    before = running(settings)
    try:
        yield
    except StorageFull as error:
        if before is not None:  # an address of loopback says little, and SeaweedFS keeps some space to itself
            if (full := Home(settings.home).fullness()) is not None:
                raise full from error
            error.hint = f"Free some space where the home {settings.home} is, or name a home on another disk with --home DIR."
        raise
    except Unavailable as error:
        if before is None:
            raise
        # Asked of the disk, for SeaweedFS calls a full one an internal error.
        if (full := Home(settings.home).fullness()) is not None:
            raise full from error
        now = running(settings)
        if now is None or not all(child.alive for child in now.children.values()):
            log = settings.home / "logs" / "supervisor.log"
            error.hint = f"The embedded platform has ended ({log} says why). Run the same command again: it goes on from here."
        raise
