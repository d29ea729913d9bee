"""What the processes do that tests kill: each works on storage that it is given, until it ends or is killed."""

from __future__ import annotations

import os
import signal
import tempfile
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from rounds import plan as a_plan
from rounds import won

from headrace.catalog import ROUNDS, Store
from headrace.core.run import Run, recorded
from headrace.core.runner import Runner
from headrace.core.stage import Stage
from headrace.documents import embed
from headrace.documents.formats.contract import ParseLimits
from headrace.documents.index import reindex
from headrace.documents.parser import Parser
from headrace.lineage.forget import Subject, forget
from headrace.platform import open_platform
from headrace.scheduler.triggers.thread import TriggerThreads
from headrace.settings import Inference, Maintenance, PlatformSettings, Settings, Training, TriggerSettings
from headrace.storage import database, migrations
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.metadata import Metadata
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectWriter
from headrace.storage.tables.handles import TableWriter
from headrace.storage.vectors import purge as vectors_purge
from headrace.training import manifest
from headrace.training.data import Dataset
from headrace.training.manifest import Clock
from headrace.training.promote import promote
from headrace.training.trainer import Trained


def opening(link: Connection, home: Path, idle_s: float) -> None:
    """A command that opens the platform, says so, and stays until it is told to go."""
    os.environ["HEADRACE_SETTINGS"] = str(home.parent / "none.toml")
    settings = Settings(home=home, platform=PlatformSettings(idle_s=idle_s))
    with open_platform(settings, parts=frozenset({"objects", "head"})) as endpoints:
        link.send(endpoints)
        link.recv()


def keep(link: Connection, endpoints: Endpoints, store: Store, rules: Maintenance) -> None:
    """The maintenance of one table."""
    done = TableWriter(store, endpoints, Meter(Ledger(), "maintenance")).maintain(rules)
    link.send(done.as_dict() if done else None)


def promoting(link: Connection, endpoints: Endpoints, number: int) -> None:
    """The stage that commits a round, with a challenger that has won."""
    plan = manifest.begin(ObjectWriter(ROUNDS, endpoints, Meter(Ledger(), "plan")), a_plan(number, parent=None))
    with tempfile.TemporaryDirectory() as folder:
        decision = Runner(Run("train", Path(folder)), endpoints).run(
            promote,
            plan=plan,
            dataset=Dataset("d1", {"train": 1}, {"train": 1}, ()),
            trained=Trained("reranker/d1/weights", "", 1, 1, 1, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0),
            evaluation=won(),
            settings=Training(),
            run="test",
            clock=Clock(None, 0.0),
        )
    link.send(vars(decision))


def forgetting(_: Connection, endpoints: Endpoints, subject: Subject, last: str, wait_s: float, followed_s: float) -> None:
    """A forgetting that kills itself as it ends the stage `last`, or so many seconds after it began it."""
    vectors_purge._FOLLOWED_S = followed_s

    class Dying(Runner):
        def run(self, stage: Stage[..., Any], **inputs: Any) -> Any:
            if stage.name == last and wait_s:
                signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
                signal.setitimer(signal.ITIMER_REAL, wait_s)
            done = super().run(stage, **inputs)
            if stage.name == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

    with tempfile.TemporaryDirectory() as folder, recorded("forget", Path(folder)) as run:
        forget(Dying(run, endpoints), subject, who="cli:killed")


def reindexing(link: Connection, endpoints: Endpoints, settings: Inference) -> None:
    """Another index beside the one that answers, put in by 64 passages."""
    embed._UPSERT_ROWS = 64
    with tempfile.TemporaryDirectory() as folder, recorded("reindex", Path(folder)) as run:
        link.send(reindex(Runner(run, endpoints), settings).generation.number)


def parsing(link: Connection, limits: ParseLimits) -> None:
    """One that had a document parsed and is killed; it says which process parsed it."""
    parser = Parser(limits)
    parser.parse("a.md", b"a")
    link.send(psutil.Process().children()[0].pid)
    os.kill(os.getpid(), signal.SIGKILL)


def migrating(link: Connection, endpoints: Endpoints) -> None:
    """One of several that open an empty metadata store when they hear that all are ready."""
    link.send("ready")
    link.recv()
    with closing(Metadata(endpoints)) as store:
        store.tenants()


def half_migrating(link: Connection, endpoints: Endpoints) -> None:
    """A migration of three steps whose last does not end; it says when it gets there."""
    endless = "SELECT pg_sleep(60)"
    kind: Any = database.PostgreSQLDatabase
    if not endpoints.metadata.url:
        endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT max(x) FROM c"
        kind = database.SQLiteDatabase
    plain = kind.__call__

    def run(self: Any, statement: str, values: Any) -> Any:
        if statement == endless:
            link.send("in the middle")
        return plain(self, statement, values)

    kind.__call__ = run
    migrations.MIGRATIONS += (("CREATE TABLE half (x INTEGER)", "SELECT 1", endless),)
    Metadata(endpoints).tenants()


def triggering(link: Connection, home: Path, endpoints: Endpoints, triggers: tuple[TriggerSettings, ...], lease_s: float) -> None:
    """A service that finds and delivers the events of triggers, until it is told to go."""
    with recorded("triggers", home) as run, TriggerThreads(triggers, Runner(run, endpoints), lambda: 0, lease_s=lease_s):
        link.send("up")
        link.recv()
