"""The composition root, which the command line, the API, the demo, a replay and the scheduler call.

An `App` is a context manager that holds the platform, a run and the run's runner. Each of its four parts imports what it needs on
first use, so that a command does not pay for packages it does not use.
"""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from headrace.catalog import LEDGER, RUNS
from headrace.check.provenance import measured_from
from headrace.core.launch import Launch, LocalLauncher, Threads
from headrace.core.progress import ProgressBars
from headrace.core.run import journals_to_archive, recorded
from headrace.core.runner import Runner
from headrace.errors import HeadraceError, StorageFull, Transient, Unavailable
from headrace.platform import EVERY_PART, open_platform, running
from headrace.platform.address import storage_names
from headrace.platform.home import Home, started_notes
from headrace.settings import EmbeddedPart, Settings, SourceSettings

if TYPE_CHECKING:
    from headrace.answering.engine import QueryEngine
    from headrace.catalog import Store
    from headrace.core.clock import SteadyClock
    from headrace.core.maintain import Archived
    from headrace.documents.expire import Retention
    from headrace.documents.index import Indexed, Reindexed
    from headrace.documents.sources.follow import SourceChanges
    from headrace.landing.backlog import Backlog
    from headrace.landing.land import Following, Landed
    from headrace.platform.platform import EmbeddedPlatform
    from headrace.registry.embedder import ServedEmbedder
    from headrace.registry.serve import RoundRunner
    from headrace.storage.endpoints import Endpoints
    from headrace.storage.tables.maintenance import MaintenanceReport

_MODELS_READY_S = 120.0
_JOURNALS = 100  # so many are kept before a command copies them into tables
LOCAL, RAY = "local", "ray"
_OF_RUNS = re.compile(rf"\b({RUNS.table}|{LEDGER.table})\b", re.IGNORECASE)


class App:
    """One process at work, recorded as a run of `command`.

    With `models`, opening it waits until the embedded model server is up; one that also `searches` imports LanceDB meanwhile.
    `on` is where batch work and training run: `local` or `ray`. A `service` ends the platform with the block, unless another
    command uses it, and keeps answers that the head does not take; without it the platform stays up for `platform.idle_s`.

    Opening it raises what the platform raises, and `MissingPart` where Ray is chosen and not installed.
    """

    runner: Runner
    launch: Launch

    def __init__(
        self,
        settings: Settings,
        command: str,
        *,
        models: bool = True,
        on: str = LOCAL,
        quiet: bool = False,
        service: bool = False,
        searches: bool = True,
    ) -> None:
        self.settings = settings
        self._command = command
        self._models = models
        self._on = on
        self._service = service
        self._searches = searches
        self._bars = ProgressBars(quiet=quiet)
        self._opened = ExitStack()

    @cached_property
    def documents(self) -> DocumentIndex:
        """The documents that are indexed."""
        return DocumentIndex(self.settings, self.runner)

    @cached_property
    def answers(self) -> QueryEngine:
        """Questions, and verdicts on their answers."""
        from headrace.answering.engine import QueryEngine
        from headrace.answering.unrecorded import Unrecorded

        unrecorded = Unrecorded(self.settings.home) if self._service else None
        return QueryEngine(self.runner, self.settings.inference, unrecorded, embedded=self.settings.models.embedded)

    @cached_property
    def training(self) -> RoundRunner:
        """Rounds of training, and which versions are served. Raises `BadSettings` where its workers cannot train together."""
        from headrace.registry.serve import RoundRunner

        self.launch.require()
        return RoundRunner(self.settings, self.runner, self.launch)

    @cached_property
    def storage(self) -> Storage:
        """The head and the tables."""
        return Storage(self.settings, self.runner)

    def __enter__(self) -> Self:
        self._opened.enter_context(self._open())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._opened.__exit__(kind, error, trace)

    @contextmanager
    def _open(self) -> Iterator[None]:
        settings, bars = self.settings, self._bars
        # Training reads the generator's weights where the model server unpacks them.
        os.environ["HEADRACE_MODELS_CACHE"] = str(Home(settings.home).models_cache)
        parts = EVERY_PART if self._models else EVERY_PART - {"models"}
        platform = open_platform(settings, parts=parts, ends=self._service)
        with (
            _lancedb_ahead(self._models and self._searches),
            _opened(platform, bars) as endpoints,
            recorded(self._command, settings.home) as run,
            _cause_named(settings),
        ):
            run.storage, run.provenance = storage_names(settings, endpoints), measured_from(settings, endpoints)
            run.workers = settings.workers.batches
            if platform.started and not self._service:
                stays = f"{settings.platform.idle_s:,.0f} s after the last command"
                bars.note(f"The embedded servers have started. They stay up until {stays}; `headrace down` ends them.")
            for note in started_notes(settings) if platform.started or self._service else ():
                # A service says so at each start, even if the servers already ran, and in its log.
                (bars.warn if self._service else bars.note)(note)
            if self._models:
                from headrace.models.connection import wait_ready

                for chosen, endpoint in (
                    (settings.models.embedder, endpoints.embedder),
                    (settings.models.generator, endpoints.generator),
                ):
                    if isinstance(chosen, EmbeddedPart):
                        with bars.waiting("Loading the models …"):
                            wait_ready(endpoint, _MODELS_READY_S)
                        break
            if self._on == RAY:
                from headrace.core.ray_cluster import cluster

                with cluster(settings.workers) as (batches, self.launch):
                    self.runner = Runner(run, endpoints, batches=batches, bars=bars)
                    run.ray = batches.usage()
                    try:
                        yield
                    finally:
                        run.ray = batches.usage()
            else:
                threads = Threads(settings.workers.batches)
                self.runner, self.launch = Runner(run, endpoints, batches=threads, bars=bars), LocalLauncher()
                yield
                if "answers" in vars(self):
                    self.answers.settle()
            if journals_to_archive(settings.home) > _JOURNALS:
                with suppress(HeadraceError):  # the command itself is done; the next one tries again
                    self.storage.archive(every=False)


@dataclass(frozen=True)
class DocumentIndex:
    """Indexes documents of the settings' tenant, and rebuilds the index."""

    settings: Settings
    runner: Runner

    def index(
        self,
        places: Sequence[str | Path],
        *,
        readers: Sequence[str] | None = None,
        attributes: Sequence[str] | None = None,
        retry: bool = False,
        compare: bool = False,
        accept_deletions: bool = False,
        rules: Sequence[SourceSettings] = (),
        changes: SourceChanges | None = None,
    ) -> Indexed:
        """Put the documents at `places` and bring the index up to date, as in `index_documents`.

        For places that `rules` do not name, what the settings say of them holds.
        """
        from headrace.documents.index import index_documents

        indexed = index_documents(
            self.runner,
            list(places),
            tenant=self.settings.tenant,
            settings=self.settings.inference,
            readers=readers,
            attributes=attributes,
            retry=retry,
            compare=compare,
            accept_deletions=accept_deletions,
            rules=[*rules, *self.rules],
            changes=changes,
        )
        self.runner.record.counts["index_chunks"] = indexed.index.chunks
        return indexed

    @property
    def rules(self) -> list[SourceSettings]:
        """The sources of the settings that are of this tenant."""
        return [source for source in self.settings.sources if source.tenant in ("", self.settings.tenant)]

    def require_tenant(self, name: str | None = None, *, also: Sequence[Store] = ()) -> None:
        """Raise `NotFound` for a tenant that nobody added and that has no document: most likely its name is mistyped.

        With `also`, rows in these tables count, too.
        """
        from contextlib import closing

        from headrace.catalog import DOCUMENT_ROWS
        from headrace.documents.lookup import DocumentLookup
        from headrace.storage.metadata import Metadata, no_tenant
        from headrace.storage.tables.handles import TableReader, quoted

        name = name or self.settings.tenant
        with closing(Metadata(self.runner.endpoints)) as metadata:
            if name in {known.name for known in metadata.tenants()}:
                return
        documents = DocumentLookup(self.runner.metadata, self.runner.open(TableReader, DOCUMENT_ROWS, stage="documents"))
        documents.follow()
        if name in documents.tenants():
            return
        for store in also:
            table = self.runner.open(TableReader, store, stage="documents")
            if any(rows.num_rows for rows in table.scan(("tenant",), f"tenant = {quoted(name)}")):
                return
        raise no_tenant(name)

    def leave_out(self, uri: str, reason: str) -> None:
        """Leave out a document that holds others up, until it is put again. Raises `NotFound`."""
        from headrace.documents.failed import leave_out

        self.runner.run(leave_out, tenant=self.settings.tenant, uri=uri, reason=reason)

    def reindex(self, chunk_tokens: int | None = None) -> Reindexed:
        """Build another index with chunks of so many word pieces, by default as in the settings, and serve it."""
        chosen = self.settings.inference
        return self._embedder.rebuild(chosen.model_copy(update={"chunk_tokens": chunk_tokens or chosen.chunk_tokens}))

    def index_before(self) -> Reindexed:
        """Serve the previous index again. Raises `NotFound` where there is none."""
        return self._embedder.index_before()

    @property
    def _embedder(self) -> ServedEmbedder:
        from headrace.registry.embedder import ServedEmbedder

        return ServedEmbedder(self.settings, self.runner)


@dataclass(frozen=True)
class Storage:
    """Lands the head in the tables, and maintains the tables."""

    settings: Settings
    runner: Runner

    @cached_property
    def _retention(self) -> Retention:
        from headrace.documents.expire import Retention

        return Retention(self._clock)

    @cached_property
    def _clock(self) -> SteadyClock:
        from headrace.core.clock import SteadyClock

        return SteadyClock(Home(self.settings.home).clock)

    def land(self) -> Landed:
        """Land what is on the head now; `Landed.require` raises for partitions that do not land."""
        from headrace.landing.land import land

        return self.runner.run(land, settings=self.settings.landing)

    def follow(
        self, following: Following, failed: Callable[[str, HeadraceError], None], *, most_patience_s: float = math.inf
    ) -> None:
        """Land what comes until `following.stop`, and maintain tables and delete old documents when that is due and automatic.

        Waits for storage that is away as long as `[landing]` says, at most `most_patience_s`. `failed` is called with chores that
        fail.
        """
        from headrace.landing.follow import follow

        landing = self.settings.landing
        landing = landing.model_copy(update={"patience_s": min(landing.patience_s, most_patience_s)})

        def keep_tables() -> None:
            if self.settings.automatic.maintenance:
                self.maintain(only_due=True)
            if self.settings.automatic.retention:
                self.expire()

        follow(self.runner, landing, following, keep_s=self.settings.head_kept_s, chores=keep_tables, failed=failed)

    def backlog(self) -> list[Backlog]:
        """What has not landed yet, by partition."""
        from headrace.landing.backlog import backlog

        return self.runner.run(backlog)

    def maintain(self, *, only_due: bool = False) -> list[MaintenanceReport]:
        """Merge small files, expire old snapshots and remove orphans: in every table, or only in those that are due."""
        from headrace.core.maintain import maintain

        return self.runner.run(maintain, settings=self.settings.maintenance, only_due=only_due)

    def expire(self, *, clock_is_right: bool = False) -> int:
        """Delete documents that are older than their tenant keeps them, and bring the index up to date; returns how many.

        Raises `ClockSet` where the clock was set forward, unless it is said to be right.
        """
        from contextlib import closing

        from headrace.documents.index import index_documents
        from headrace.storage.metadata import Metadata

        default = self.settings.limits.retention_days
        with closing(Metadata(self.runner.endpoints)) as metadata:
            quotas = {tenant.name: tenant.quotas.get("retention_days", default) for tenant in metadata.tenants()}
        if not default and not any(quotas.values()):
            return 0
        if clock_is_right:
            self._clock.note(time.time())
        count = self._retention.expire(self.runner, lambda tenant: int(quotas.get(tenant, default)))
        if count:
            with suppress(Transient):  # they are deleted; what else waits for a model that is away goes on with the next pass
                index_documents(self.runner, [], tenant=self.settings.tenant, settings=self.settings.inference)
        return count

    def archive(self, *, every: bool = True) -> Archived:
        """Copy ended runs of this home into the `runs` and `ledger` tables, or without `every` some of the oldest."""
        from headrace.core.maintain import record

        return self.runner.run(record, home=self.settings.home, every=every)

    def select(self, query: str) -> list[dict[str, Any]]:
        """The rows of one SELECT over the tables. Raises `WrongUsage` for any other query.

        Ended runs are in the tables `runs` and `ledger` whenever a query names one of these.
        """
        from headrace.storage.sql import select

        if _OF_RUNS.search(query):
            self.archive()
        return select(query, self.runner.endpoints, self.runner.record.ledger)


@contextmanager
def _opened(platform: EmbeddedPlatform, bars: ProgressBars) -> Iterator[Endpoints]:
    """The platform, open; a person sees that its start is waited for."""
    with ExitStack() as stack:
        with bars.waiting("Starting the platform …"):
            endpoints = stack.enter_context(platform)
        yield endpoints


@contextmanager
def _lancedb_ahead(wanted: bool) -> Iterator[None]:
    """Import LanceDB, which takes a second or two, while the platform starts; code that needs it earlier waits."""
    importing = threading.Thread(target=import_module, args=("headrace.storage.vectors.lance",), name="lancedb", daemon=True)
    if wanted:
        importing.start()
    try:
        yield
    finally:
        if wanted:  # a native library half loaded at the end of the interpreter may crash it
            importing.join()


@contextmanager
def _cause_named(settings: Settings) -> Iterator[None]:
    """Where an error comes from our own servers or their disk, say so instead of what to check."""
    before = running(settings)
    try:
        yield
    except StorageFull as error:
        if before is not None:  # a loopback address says little, and SeaweedFS reserves some space
            if (full := Home(settings.home).fullness()) is not None:
                raise full from error
            error.hint = (
                f"Free some space on the disk of the home {settings.home}, or use a home on another disk with --home DIR."
            )
        raise
    except Unavailable as error:
        if before is None:
            raise
        # Look at the disk itself, since SeaweedFS reports a full one as an internal error.
        if (full := Home(settings.home).fullness()) is not None:
            raise full from error
        now = running(settings)
        if now is None or not all(child.alive for child in now.children.values()):
            log = settings.home / "logs" / "supervisor.log"
            error.hint = f"The embedded platform has ended ({log} says why). Run the same command again: it goes on from here."
        raise
