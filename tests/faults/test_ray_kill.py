"""Kills inside a stage on Ray: of an actor, a node, the command's own raylet, the command. Nothing is lost or doubled.

A killed training worker: `integration/test_ray.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from indexed import assert_indexed
from ray_nodes import beyond_loopback, listening, ray_nodes
from shell import as_json, run, sql
from words import words

from headrace.catalog import ROUNDS
from headrace.platform import open_platform
from headrace.settings import Settings
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectReader
from headrace.storage.sql import select
from headrace.training import manifest

if TYPE_CHECKING:
    from conftest import Home

# Found, not imported: Ray reads its environment while it is imported.
pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.timeout(900),  # it starts slowly beside other tests
]
_LONG_S = 300.0


class OnRay:
    """A command with `--on ray`, in a process and a temporary directory of its own."""

    def __init__(self, home: Home, *words: str | Path) -> None:
        self.temporary = Path(tempfile.mkdtemp(prefix="t"))  # short: it is part of the paths of sockets
        env = {name: value for name, value in home.env.items() if not name.startswith("RAY_")}
        env |= {"TMPDIR": str(self.temporary), "PYTHONPATH": os.pathsep.join(sys.path)}
        self._out, self._err = home.path.parent / "on-ray.out", home.path.parent / "on-ray.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "headrace.cli", "--home", str(home.path), *map(str, words), "--on", "ray"],
                cwd=home.path.parent,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def said(self) -> str:
        return self.out + self._err.read_text()

    def rays(self, *names: str) -> list[psutil.Process]:
        """The processes of its cluster, or those whose name holds one of `names`."""
        names = names or ("raylet", "gcs_server", "ray::", "ray_", "monitor.py", "log_monitor.py")
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if any(name in child.name() for name in names):
                        found.append(child)
        return found

    def parsers(self) -> list[psutil.Process]:
        """The parser processes of its actors; each is there from an actor's first document on."""
        found = []
        for actor in self.rays("MapWorker"):
            with contextlib.suppress(psutil.NoSuchProcess):
                found += actor.children(recursive=True)
        return found

    def wait(self) -> int:
        return self.process.wait(_LONG_S)

    def require_nothing_left(self, rays: list[psutil.Process]) -> None:
        _, alive = psutil.wait_procs(rays, timeout=60)
        assert not [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        end = time.monotonic() + 60
        while left := list(self.temporary.glob("hr-ray-*")):
            assert time.monotonic() < end, left
            time.sleep(0.1)

    def end(self) -> None:
        rays = self.rays()
        self.process.kill()
        self.process.wait()
        psutil.wait_procs(rays, timeout=60)
        shutil.rmtree(self.temporary, ignore_errors=True)


@contextlib.contextmanager
def on_ray(home: Home, *words: str | Path) -> Iterator[OnRay]:
    command = OnRay(home, *words)
    try:
        yield command
    finally:
        command.end()


@pytest.mark.soak(minutes=3)
def test_the_demo_passes_on_ray_and_listens_on_this_machine_alone(home: Home) -> None:
    home.env["HEADRACE_INFERENCE__LEAST_SIMILARITY"] = "-1"  # the tiny embedder's cosines have another scale
    abroad: dict[str, set[str]] = {}
    seen: set[str] = set()
    rays: dict[int, psutil.Process] = {}
    with on_ray(home, *home.demo(16)) as demo:
        while demo.process.poll() is None:
            root = psutil.Process(demo.process.pid)
            abroad |= beyond_loopback(root)
            seen |= listening(root).keys()
            rays |= {process.pid: process for process in demo.rays()}
            time.sleep(1)
        assert demo.process.returncode == 0, demo.said
        assert "Traceback" not in demo.said
        for sentence in (
            "Indexed 12 documents → 72 chunks → 72 embeddings",
            "challenger",
            "6  What moved where",
            "Diagrams drawn",
        ):
            assert sentence in demo.said
        assert not abroad
        assert {"raylet", "gcs_server"} <= seen
        assert any("MapWorker" in name for name in seen)
        assert any("TrainWorker" in name for name in seen)
        demo.require_nothing_left(list(rays.values()))
    require_indexed(home)
    (journal,) = [one for one in as_json(home, "runs")["runs"] if one["command"] == "demo"]
    assert journal["state"] == "done"
    assert as_json(home, "train", "--recipe", "ranking")["round"] == 2


@pytest.mark.soak(minutes=3)
@pytest.mark.parametrize(
    ("stage", "victim"), [("embed", "actor"), ("embed", "raylet"), ("embed", "command"), ("parse", "actor"), ("parse", "command")]
)
def test_an_index_loses_and_doubles_nothing_when_a_part_of_it_is_killed(home: Home, stage: str, victim: str) -> None:
    with words() as models:
        home.env.update(models.env)
        models.gate.shut()
        with on_ray(home, "index", "--json", home.docs) as index:
            if stage == "embed":
                wait_for(lambda: models.batches > 0, index)  # so an actor embeds
            else:
                wait_for(lambda: index.parsers(), index)
                assert models.batches == 0
            rays = [*index.rays(), *index.parsers()]
            names = {"actor": "MapWorker", "raylet": "raylet"}
            for process in index.rays(names[victim]) if victim in names else [psutil.Process(index.process.pid)]:
                process.kill()
            models.gate.open()
            code = index.wait()
            if victim == "actor":
                assert code == 0, index.said
                said = json.loads(index.out)  # and nothing else: Ray says what died, but not here
                assert (said["parsed"]["parsed"], said["index"]["chunks"]) == (12, 72)
            elif victim == "raylet":
                assert code != 0
            else:
                assert code == -signal.SIGKILL
            index.require_nothing_left(rays)
        if victim != "actor":
            with on_ray(home, "index", home.docs) as again:
                assert again.wait() == 0, again.said
        require_indexed(home)


@pytest.mark.soak(minutes=4)
def test_a_demo_killed_while_ray_trains_is_one_round_when_it_is_run_again(home: Home) -> None:
    home.env["HEADRACE_INFERENCE__LEAST_SIMILARITY"] = "-1"
    with on_ray(home, *home.demo(16)) as demo:
        wait_for(lambda: demo.rays("TrainWorker"), demo)
        rays = demo.rays()
        demo.process.kill()
        assert demo.wait() == -signal.SIGKILL
        demo.require_nothing_left(rays)
    with on_ray(home, *home.demo(16)) as again:
        assert again.wait() == 0, again.said
    examples, *others = sql(home, "select dataset, count(*) as rows, count(distinct example_id) as ids from examples group by 1")
    assert examples["rows"] == examples["ids"] > 0
    assert not others
    verdicts = sql(home, 'select count(*) as rows, count(distinct (topic, partition, "offset")) as places from feedback')
    assert verdicts[0]["rows"] == verdicts[0]["places"] > 0
    require_indexed(home, rounds=[1])


def wait_for(seen: Any, command: OnRay) -> None:
    end = time.monotonic() + _LONG_S
    while not seen():
        assert command.process.poll() is None, command.said
        assert time.monotonic() < end, command.said
        time.sleep(0.05)


def require_indexed(home: Home, rounds: list[int] | None = None) -> None:
    """Check what is indexed, and, if they are named, which rounds there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SETTINGS", home.env["HEADRACE_SETTINGS"])
        with open_platform(Settings.load(home=home.path), parts=frozenset({"objects", "head"})) as endpoints:
            assert_indexed(lambda query: select(query, endpoints, Ledger()), endpoints, home.docs)
            if rounds is not None:
                assert manifest.numbers(ObjectReader(ROUNDS, endpoints, Meter(Ledger(), "test"))) == rounds
    run(home, "down")


# A driver that has a node killed: while it maps (another one takes its place), while it trains (the same), and while it maps
# without another one.
LOSES_NODES = """
import json, sys
from pathlib import Path
import pyarrow as pa
import ray_lost_node as work
from headrace.core.ray_cluster import cluster
from headrace.errors import Unavailable
from headrace.settings import WorkerSettings

shared = Path(sys.argv[1])
settings = dict(batches=2, batch_cpus=1.5, training=2, training_cpus=2, storage_path=shared)

def lose(replace):
    print(json.dumps({"replace": replace}), flush=True)
    assert sys.stdin.readline()

def mapped(batches, replace):
    gate, rows, lost = shared / f"map {replace}", [], False
    source = [pa.RecordBatch.from_pylist([{"n": n}]) for n in range(60)]
    try:
        for one in batches.map(source, work.Where, str(gate)):
            rows += one.to_pylist()
            if not lost and len({row["node"] for row in rows}) == 2:
                lost = True
                lose(replace)
                gate.touch()
    except Unavailable as error:
        return [row["n"] for row in rows], f"{error.message} {error.hint}"
    return [row["n"] for row in rows], ""

def trained(launch, name, loses):
    gate, lost = shared / name, []
    def report(step, of, loss):
        if loses and step >= 4 and not lost:
            lost.append(step)
            lose(True)
            gate.touch()
    if not loses:
        gate.touch()
    return launch.run(work.learn, str(shared / f"{name} notes"), str(gate), report=report)

with cluster(WorkerSettings(**settings)) as (batches, launch):
    from ray import cloudpickle
    cloudpickle.register_pickle_by_value(work)  # workers cannot import what belongs to a test
    said = {"mapped": mapped(batches, True), "whole": trained(launch, "whole", False), "trained": trained(launch, "lost", True)}
    impatient = type(batches)(WorkerSettings(**settings, node_wait_s=3))
    said["not replaced"] = mapped(impatient, False)
print(json.dumps(said), flush=True)
"""


@pytest.mark.soak(minutes=4)
def test_a_lost_node_loses_and_doubles_nothing(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    with ray_nodes(tmp_path) as nodes:
        nodes.start()
        second = nodes.start()
        with nodes.driver(LOSES_NODES, shared) as driver:
            assert driver.stdin is not None
            assert driver.stdout is not None
            for line in driver.stdout:
                said = json.loads(line)
                if "replace" not in said:
                    break
                os.kill(second, signal.SIGKILL)
                if said["replace"]:
                    second = nodes.start()
                driver.stdin.write("lost\n")
                driver.stdin.flush()
            _, err = driver.communicate(timeout=120)
    assert driver.returncode == 0, err
    assert said["mapped"] == [list(range(60)), ""], "every batch once, in order"
    assert said["trained"] == said["whole"], "the same as without a kill"
    rows, error = said["not replaced"]
    assert rows == list(range(len(rows))), "in order, as far as it went"
    assert len(rows) < 60
    assert "a node is lost" in error
