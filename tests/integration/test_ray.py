"""Batch work and training on Ray: the very results of a local run, nothing reachable from outside, nothing left behind.

Actors and workers start slowly, so what needs a cluster is in the soak.
"""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from judged import judge
from ray_nodes import listening, ray_nodes
from safetensors.numpy import load
from training_rows import GENERATORS, SMALL, answers, passages, rows_as_files

from headrace.catalog import CHECKPOINTS, CHUNK_ROWS, CHUNKS, DATASETS, EXAMPLES, MODELS
from headrace.core.launch import Batches, Launch, LocalLauncher, Threads
from headrace.core.ray_cluster import cluster
from headrace.core.run import Run
from headrace.core.runner import Runner
from headrace.documents.ahead import RESULT, SOURCE, Parse
from headrace.documents.embed import Embed
from headrace.documents.formats.contract import ParseLimits
from headrace.errors import BadDocument, BadSettings, MissingPart, NotFound, Unavailable
from headrace.landing.land import land
from headrace.models.connection import wait_ready
from headrace.models.tokens import INSTEAD
from headrace.platform import open_platform
from headrace.settings import Gate, Inference, Settings, Training, WorkerSettings
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.storage.tables.handles import TableReader
from headrace.training.cutoff import Exclusions
from headrace.training.data import Dataset, prepare
from headrace.training.data.text import clean
from headrace.training.recipe import GradientRecipe
from headrace.training.recipes import RECIPES
from headrace.training.round import plan
from headrace.training.trainer import Job, Trained, train

# Found, not imported: Ray reads its environment while it is imported, and `cluster` sets it before.
pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.timeout(900),  # it starts slowly beside other tests
]

# A driver of its own: it starts a cluster and a worker, says so, and stays.
DRIVER = """
import sys
from headrace.core.ray_cluster import cluster
with cluster():
    import ray
    ray.get(ray.remote(lambda: 1).remote())
    print("up", ray._private.worker._global_node.get_temp_dir_path(), flush=True)
    sys.stdin.read()
"""


# A driver on a cluster of two nodes: where batches and training went, and what was refused.
ON_TWO_NODES = """
import json, sys, time
from pathlib import Path
import pyarrow as pa
from headrace.core.ray_cluster import cluster
from headrace.errors import HeadraceError
from headrace.settings import WorkerSettings

class Where:
    def __call__(self, rows):
        import ray
        time.sleep(0.05)
        return pa.RecordBatch.from_pylist([{"n": rows["n"][0].as_py(), "node": ray.get_runtime_context().get_node_id()}])

def loop(report, peers):
    import ray, torch
    vector = torch.full((3,), float(peers.rank + 1))
    peers.sum(vector)
    report(1, 1, 0.0)
    return [peers.size, vector.tolist()]

settings = WorkerSettings(batches=2, batch_cpus=1.5, training=2, training_cpus=2, storage_path=Path(sys.argv[1]))
with cluster(settings) as (batches, launch):
    import ray
    nodes = sum(node["Alive"] for node in ray.nodes())
    source = [pa.RecordBatch.from_pylist([{"n": n}]) for n in range(60)]
    rows = pa.Table.from_batches(batches.map(source, Where))
    launch.require()
    trained = launch.run(loop, report=lambda *step: None)
    print(json.dumps({
        "nodes": nodes,
        "order": rows["n"].to_pylist() == list(range(60)),
        "used": len(set(rows["node"].to_pylist())),
        "trained": trained,
    }), flush=True)
"""


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("ray")
        patch.setenv("HEADRACE_SETTINGS", str(home / "none.toml"))
        patch.setenv(INSTEAD, str(tiny.folder()))  # also for Ray's workers, which have the environment of the cluster's start
        with open_platform(Settings(home=home / "home"), parts=frozenset({"objects", "head", "models"})) as endpoints:
            wait_ready(endpoints.embedder, 120)
            yield endpoints


@pytest.fixture(scope="module")
def on_ray(endpoints: Endpoints) -> Iterator[tuple[Batches, Launch]]:
    """A cluster, with tiny models."""
    with cluster() as ray:
        from ray import cloudpickle

        cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
        yield ray
    assert "RAY_AUTH_TOKEN" not in os.environ


@pytest.mark.soak
def test_embeds_as_threads_do(endpoints: Endpoints, on_ray: tuple[Batches, Launch]) -> None:
    columns = [field for field in CHUNKS.columns if field.name in CHUNK_ROWS.columns.names]
    rows = [{f.name: value(f.type, f"{f.name} {i}") for f in columns} | {"text": words(i)} for i in range(40)]
    source = [pa.RecordBatch.from_pylist(rows[i : i + 8], schema=pa.schema(columns)) for i in range(0, 40, 8)]
    here = pa.Table.from_batches(Threads().map(source, Embed, endpoints.embedder))
    there = pa.Table.from_batches(on_ray[0].map(source, Embed, endpoints.embedder))
    assert there.schema.equals(here.schema, check_metadata=True)
    assert there.drop_columns(["embedding"]).equals(here.drop_columns(["embedding"]))
    assert there.num_rows == 40
    np.testing.assert_allclose(matrix(there), matrix(here), atol=1e-5)


@pytest.mark.soak
def test_cleans_as_threads_do(on_ray: tuple[Batches, Launch]) -> None:
    texts = pa.chunked_array([[f"{words(n)}? Ask n{n}@example.org" if n % 3 else words(n) for n in range(30)] + [None]])
    here = clean({"question": texts, "said": texts.slice(20)}, Threads())
    there = clean({"question": texts, "said": texts.slice(20)}, on_ray[0])
    assert there.cleaned.equals(here.cleaned, check_metadata=True)
    assert (there.places, there.private) == (here.places, here.private)
    assert here.cleaned.num_rows == 30
    assert len(here.private) == 20
    none = clean({"question": texts.slice(30)}, on_ray[0])
    assert none.cleaned.equals(here.cleaned.slice(0, 0), check_metadata=True)


@pytest.mark.soak
def test_parses_as_threads_do(on_ray: tuple[Batches, Launch]) -> None:
    limits = ParseLimits.from_settings(Inference())
    texts = [f"# Title {n}\n\n{words(n)}".encode() for n in range(6)] + [b"%PDF-1.7\nnothing follows"]
    names = [f"{n}.md" for n in range(6)] + ["broken.pdf"]
    rows = [{"uri": name, "data": text, "state": ""} for name, text in zip(names, texts, strict=True)]
    rows.append({"uri": "gone.md", "data": None, "state": "gone"})
    source = [pa.RecordBatch.from_pylist(rows[i : i + 3], schema=SOURCE) for i in range(0, 8, 3)]
    here = pa.Table.from_batches(Threads().map(source, Parse, limits))
    there = pa.Table.from_batches(on_ray[0].map(source, Parse, limits))
    assert there.schema.equals(RESULT)
    assert there.equals(here)
    assert there["state"].to_pylist() == ["parsed"] * 6 + ["refused", "gone"]


class Twice:
    """Each batch comes out twice."""

    def __call__(self, rows: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield rows
        yield rows


@pytest.mark.soak
def test_source_is_read_in_groups_and_order_is_kept(on_ray: tuple[Batches, Launch]) -> None:
    read = 0

    def source() -> Iterator[pa.RecordBatch]:
        nonlocal read
        for read in range(1, 10_000):
            yield pa.RecordBatch.from_pylist([{"n": read}])

    results = on_ray[0].map(source(), Twice)
    first = [n for _ in range(20) for n in next(results)["n"].to_pylist()]
    assert first[:40] == [n for i in range(1, 21) for n in (i, i)]
    assert read == 256
    results.close()


def test_no_batches_need_no_cluster() -> None:
    import ray

    from headrace.core.ray_runner import RayBatches

    before = ray.is_initialized()  # by the cluster of other tests, perhaps
    assert list(RayBatches().map(iter(()), Twice)) == []
    assert ray.is_initialized() is before


def test_while_nothing_comes_of_a_map_it_is_checked_and_one_that_is_left_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace.core import ray_runner

    monkeypatch.setattr(ray_runner, "_CHECK_S", 0.01)
    first, second = pa.table({"n": [1]}), pa.table({"n": [2]})
    comes, closed = threading.Event(), threading.Event()

    def tables() -> Iterator[pa.Table]:
        closed.clear()
        try:
            yield first
            assert comes.wait(60)
            yield second
            raise BadDocument("minutes.pdf", "it is encrypted")
        finally:
            closed.set()

    checks: list[bool] = []

    def check() -> None:
        checks.append(True)
        if len(checks) == 3:
            comes.set()

    taken = ray_runner._ahead(tables(), check)
    assert [next(taken), next(taken)] == [first, second]
    assert len(checks) >= 3
    with pytest.raises(BadDocument):
        next(taken)
    assert closed.is_set()

    taken = ray_runner._ahead(tables(), check)
    assert next(taken) == first
    taken.close()  # type: ignore[attr-defined]
    assert closed.is_set(), "so that its actors end"

    def gone() -> None:
        comes.set()
        raise Unavailable("A node is lost.", hint="Start it again.")

    comes.clear()
    with pytest.raises(Unavailable, match="A node is lost"):
        list(ray_runner._ahead(tables(), gone))


def test_room_that_is_lacking_for_too_long_is_named_and_room_that_comes_back_is_not() -> None:
    from headrace.core import ray_runner

    lacks = iter(["2 workers do not fit.", "", "2 workers do not fit.", "2 workers do not fit."])
    patience = ray_runner._Patience(lambda: next(lacks), 3600.0)
    for _ in range(3):
        patience.check()
    with pytest.raises(Unavailable, match="so a node is lost") as lost:
        ray_runner._Patience(lambda: next(lacks), 0.0).check()
    assert "Run the command again" in lost.value.hint


class Refuses:
    """A document nobody can read."""

    def __call__(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        raise BadDocument("minutes.pdf", "it is encrypted")


@pytest.mark.soak
def test_errors_of_batch_work_arrive_as_themselves(
    endpoints: Endpoints, on_ray: tuple[Batches, Launch], capfd: pytest.CaptureFixture[str]
) -> None:
    source = [pa.RecordBatch.from_pylist([{"text": "a"}])]
    with pytest.raises(BadDocument) as refused:
        list(on_ray[0].map(source, Refuses))
    assert (str(refused.value), refused.value.reason) == ("minutes.pdf: it is encrypted.", "it is encrypted")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        gone = endpoints.embedder.model_copy(update={"url": f"http://127.0.0.1:{closed.getsockname()[1]}/v1"})
    with pytest.raises(Unavailable) as here:
        list(Threads().map(source, Embed, gone))
    with pytest.raises(Unavailable) as there:
        list(on_ray[0].map(source, Embed, gone))
    assert (there.value.message, there.value.hint) == (here.value.message, here.value.hint)
    assert there.value.hint
    assert capfd.readouterr() == ("", "")


# Two steps an epoch, long enough for a worker to be met at work, and one checkpoint in the middle.
RECIPE = {"epochs": 100, "batch": 4, "negatives": 1, "max_tokens": 32, "most_steps": 200, "checkpoint_steps": 100}


@pytest.fixture(scope="module")
def dataset(endpoints: Endpoints) -> Dataset:
    """Eight questions, each with one liked passage and one disliked."""
    rows = [
        {
            "example_id": f"{q}-{p}",
            "split": "train",
            "tenant": "default",
            "question": f"What does {words(q)} mean?",
            "chunk_id": f"{q}-{p}",
            "passage": words(q * 2 + p),
            "label": float(p == 0),
            "retrieval_score": 1.0 - p / 10,
            "retrieval_rank": p,
            "answer_id": f"{q}",
            "origins": [],
            "dataset": "tiny",
        }
        for q in range(8)
        for p in range(2)
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, EXAMPLES.columns), buffer)
    writer = ObjectWriter(DATASETS, endpoints, Meter(Ledger(), "prepare"))
    writer.put("tiny/train.parquet", buffer.getvalue())
    file = {"key": "tiny/train.parquet", "split": "train"}
    return Dataset("tiny", {"train": len(rows)}, {"train": 8}, (file,))


@pytest.fixture(scope="module")
def local(endpoints: Endpoints, dataset: Dataset) -> tuple[Trained, bytes, Ledger]:
    return trained(LocalLauncher(), endpoints, job(dataset, "local"))


@pytest.mark.soak
def test_trains_the_same_weights_and_counts_the_same_bytes(
    endpoints: Endpoints, on_ray: tuple[Batches, Launch], dataset: Dataset, local: tuple[Trained, bytes, Ledger]
) -> None:
    steps: list[tuple[int, int]] = []
    listeners: dict[str, set[str]] = {}

    def report(done: int, of: int, loss: float) -> None:
        steps.append((done, of))
        if len(steps) == 1:
            listeners.update(listening())

    done, weights, ledger = trained(on_ray[1], endpoints, job(dataset, "there"), report)
    # To the bit between fresh processes; what this one ran before may leave the last bit of a sum another way round.
    here, there = load(local[1]), load(weights)
    assert here.keys() == there.keys()
    assert all(np.allclose(here[name], there[name], rtol=0, atol=1e-5) for name in here)
    assert (done.steps, done.taken) == (200, 200)
    assert done.last_loss == pytest.approx(local[0].last_loss, abs=1e-3)
    # Same operations on the same stores, but for Ray's own notes; a loss of other length in a checkpoint's list may cost a byte.
    assert [row[:-1] for row in moved(ledger)] == [row[:-1] for row in moved(local[2])]
    assert [row[-1] for row in moved(ledger)] == pytest.approx([row[-1] for row in moved(local[2])], rel=1e-6)
    assert steps[-1] == (200, 200)
    assert {"raylet", "gcs_server"} <= listeners.keys()
    assert any("TrainWorker" in name for name in listeners)
    assert all(ip_address(ip).is_loopback for ips in listeners.values() for ip in ips), listeners


@pytest.mark.soak(minutes=2)
def test_a_dataset_made_there_is_the_one_made_here(endpoints: Endpoints, on_ray: tuple[Batches, Launch], tmp_path: Path) -> None:
    judge(endpoints, 40, liked="yes", seed=1, nearer=0.3)
    settings = Training(gate=Gate(least_questions=8, headroom=1e6))
    here, there = (made(Runner(Run("train", tmp_path), endpoints, batches=on), settings) for on in (Threads(), on_ray[0]))
    assert [file for file, _, _ in here] == [file for file, _, _ in there] != []
    for (_, rows, listed), (_, rows_there, listed_there) in zip(here, there, strict=True):
        assert rows.num_rows > 0
        assert rows_there.equals(rows), "the same rows in the same order"
        assert listed_there == listed
    examples = TableReader(EXAMPLES, endpoints, Meter(Ledger(), "test")).read(("dataset", "example_id", "split")).to_pylist()
    sets = {
        one: sorted((row["example_id"], row["split"]) for row in examples if row["dataset"] == one) for one in ("here", "there")
    }
    assert len(sets["here"]) == len(set(sets["here"])) == 160
    assert sets["here"] == sets["there"]


def made(runner: Runner, settings: Training) -> list[tuple[str, pa.Table, tuple[dict[str, int], dict[str, int]]]]:
    """The files of a dataset, by the names that follow its own."""
    runner.run(land)
    version = "here" if isinstance(runner.batches, Threads) else "there"
    planned = runner.run(plan, settings=settings, recipe="ranking")
    dataset = runner.run(
        prepare,
        snapshots=planned.snapshots,
        version=version,
        seed=settings.seed,
        settings=settings.preparing,
        exclusions=Exclusions.from_dict(planned.exclusions),
        generator_history=planned.generator_history,
    )
    reader = ObjectReader(DATASETS, runner.endpoints, Meter(Ledger(), "test"))
    found = []
    for file in dataset.files:
        rows = pq.read_table(io.BytesIO(reader.get(file["key"])))
        assert set(rows["dataset"].to_pylist()) == {version}
        found.append((file["key"].removeprefix(version), rows.drop_columns(["dataset"]), (dataset.examples, dataset.questions)))
    return found


@pytest.mark.soak(minutes=1)
@pytest.mark.parametrize("name", [name for name in RECIPES if name != "reranker"])
def test_each_recipe_trains_the_same_weights(endpoints: Endpoints, on_ray: tuple[Batches, Launch], name: str) -> None:
    """The re-ranker: the tests around this one."""
    rows = answers(8) if name in GENERATORS else passages(24)
    files = rows_as_files(endpoints, rows, f"{name}/train.parquet")
    # One checkpoint on the way: of those that come while another one is being written, some are left out.
    settings = {**SMALL, "checkpoint_steps": 3} if isinstance(RECIPES[name], GradientRecipe) else {}
    here, there = (Job(name, settings, files, f"recipes/{name}-{where}") for where in ("here", "there"))
    done, _, counted = trained(LocalLauncher(), endpoints, here)
    elsewhere, _, ledger = trained(on_ray[1], endpoints, there)
    assert (elsewhere.items, elsewhere.steps, elsewhere.taken) == (done.items, done.steps, done.taken)
    assert [row[:-1] for row in moved(ledger)] == [row[:-1] for row in moved(counted)]
    assert elsewhere.last_loss == pytest.approx(done.last_loss, abs=1e-4)
    ours, theirs = weights(endpoints, done.weights), weights(endpoints, elsewhere.weights)
    assert ours.keys() == theirs.keys() != set()
    for file, data in ours.items():
        if not file.endswith(".safetensors"):
            assert theirs[file] == data, file
            continue
        # To the bit between fresh processes; what this one ran before may leave the last bit of a sum another way round.
        tensors, others = load(data), load(theirs[file])
        assert tensors.keys() == others.keys()
        assert all(np.allclose(tensors[one], others[one], rtol=0, atol=1e-5) for one in tensors)


def weights(endpoints: Endpoints, folder: str) -> dict[str, bytes]:
    store = ObjectReader(CHECKPOINTS, endpoints, Meter(Ledger(), "test"))
    return {info.key.removeprefix(folder): store.get(info.key) for info in store.list(f"{folder}/")}


@pytest.mark.soak(minutes=2)
def test_a_killed_worker_goes_on_to_the_very_weights(
    endpoints: Endpoints, on_ray: tuple[Batches, Launch], dataset: Dataset, local: tuple[Trained, bytes, Ledger]
) -> None:
    killed: list[int] = []

    def report(done: int, of: int, loss: float) -> None:
        if done >= 101 and not killed:
            (worker,) = (p for p in psutil.Process().children(recursive=True) if "TrainWorker" in p.name())
            worker.kill()
            killed.append(done)

    done, weights, ledger = trained(on_ray[1], endpoints, job(dataset, "killed"), report)
    assert killed
    assert (done.steps, done.taken) in ((200, 100), (200, 200)), "the checkpoint of step 100 was durable by then, or not"
    assert weights == local[1]
    (read,) = (row.ops for row in ledger.rows() if (row.store, row.direction) == ("datasets", "read"))
    assert read == 2  # by the worker that was killed, and by the one after it


@pytest.fixture(scope="module")
def pair(on_ray: tuple[Batches, Launch]) -> Launch:
    """Two workers that train together, on the same cluster."""
    from headrace.core.ray_runner import RayTrain

    launch = RayTrain(WorkerSettings(training=2, training_cpus=1, training_wait_s=60))
    launch.require()
    return launch


@pytest.mark.soak(minutes=3)
def test_two_workers_train_together_and_go_on_to_the_same_weights_when_one_is_killed(
    endpoints: Endpoints, pair: Launch, dataset: Dataset
) -> None:
    listeners: dict[str, set[str]] = {}
    done, whole, ledger = trained(pair, endpoints, job(dataset, "pair"), lambda *step: listeners.update(listening()))
    assert (done.workers, done.steps, done.taken) == (2, 200, 200)
    assert sum("TrainWorker" in name for name in listeners) >= 1
    assert all(ip_address(ip).is_loopback for ips in listeners.values() for ip in ips), listeners
    (read,) = (row.ops for row in ledger.rows() if (row.store, row.direction) == ("datasets", "read"))
    assert read == 2, "by each of them"
    assert [row.stage for row in ledger.rows() if row.store == "ray-storage"] == ["finetune"]
    killed: list[int] = []

    def report(step: int, of: int, loss: float) -> None:
        if step >= 101 and not killed:
            victim, *_ = (p for p in psutil.Process().children(recursive=True) if "TrainWorker" in p.name())
            victim.kill()
            killed.append(step)

    done, weights, _ = trained(pair, endpoints, job(dataset, "pair-killed"), report)
    assert killed
    assert (done.workers, done.steps) == (2, 200)
    assert weights == whole


@pytest.mark.soak
def test_errors_of_one_of_two_workers_arrive_as_themselves(endpoints: Endpoints, pair: Launch) -> None:
    gone = Dataset("gone", {"train": 1}, {"train": 1}, ({"key": "gone/train.parquet", "split": "train"},))
    with pytest.raises(NotFound) as error:
        trained(pair, endpoints, job(gone, "gone-pair"))
    assert "gone/train.parquet" in error.value.message


@pytest.mark.soak
def test_what_cannot_run_is_refused_with_the_numbers(on_ray: tuple[Batches, Launch]) -> None:
    from headrace.core.ray_runner import RayBatches, RayTrain

    cpus = sum(node["cpus"] for node in [RayBatches().usage()])
    with pytest.raises(BadSettings, match=f"{int(cpus)} workers with 1 processors each do not fit on Ray"):
        RayBatches(WorkerSettings(batches=int(cpus), batch_cpus=1)).require()
    RayBatches(WorkerSettings(batches=int(cpus), batch_cpus=0.25)).require()
    with pytest.raises(BadSettings, match="3 training workers with 64 processors each do not fit on Ray"):
        RayTrain(WorkerSettings(training=3, training_cpus=64)).require()


@pytest.mark.soak
def test_errors_of_training_arrive_as_themselves(endpoints: Endpoints, on_ray: tuple[Batches, Launch]) -> None:
    gone = Dataset("gone", {"train": 1}, {"train": 1}, ({"key": "gone/train.parquet", "split": "train"},))
    with pytest.raises(NotFound) as error:
        trained(on_ray[1], endpoints, job(gone, "gone"))
    assert "gone/train.parquet" in error.value.message
    assert error.value.hint


def test_ray_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPart, match="Ray is not installed"), cluster():
        pass


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed.getsockname()[1]}")
    with pytest.raises(Unavailable, match=r"does not answer: .*refused.* Check RAY_ADDRESS"), cluster():
        pass


def test_a_cluster_that_does_not_start_is_named_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)  # the path of a socket has at most 107 bytes
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(Unavailable, match=r"Ray does not start: .* set TMPDIR to a short path"), cluster():
        pass
    assert not list(long.iterdir())


def test_a_spill_directory_of_another_cluster_and_one_that_is_not_there_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (
        pytest.raises(BadSettings, match=r"storage_path is .*missing, which is not a directory"),
        cluster(WorkerSettings(storage_path=tmp_path / "missing")),
    ):
        pass
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(BadSettings, match="--object-spilling-directory"), cluster(WorkerSettings(spill_dir=tmp_path)):
        pass


@pytest.mark.soak(minutes=2)
def test_two_nodes_share_batches_and_training(tmp_path: Path) -> None:
    with ray_nodes(tmp_path) as nodes:
        nodes.start()
        nodes.start()
        shared = tmp_path / "shared"
        shared.mkdir()
        with nodes.driver(ON_TWO_NODES, shared) as driver:
            out, err = driver.communicate(timeout=300)
        assert driver.returncode == 0, err
        assert json.loads(out) == {"nodes": 2, "order": True, "used": 2, "trained": [2, [3.0] * 3]}


@pytest.mark.soak
def test_nothing_outlives_a_killed_driver(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER], cwd=tmp_path, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert driver.stdout is not None
        up, folder = driver.stdout.readline().split()
        assert up == "up"
        started = psutil.Process(driver.pid).children(recursive=True)
        assert any(p.name() == "raylet" for p in started)
        assert not [p for p in started if "monitor.py" in " ".join(p.cmdline())], "they watch for nobody"
    finally:
        driver.kill()
        driver.communicate()
    _, alive = psutil.wait_procs(started, timeout=20)
    left = [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    for process in left:
        process.kill()
    assert not left
    assert not Path(folder).exists()


def trained(
    launch: Launch, endpoints: Endpoints, job: Job, report: Any = lambda done, of, loss: None
) -> tuple[Trained, bytes, Ledger]:
    ledger = Ledger()
    datasets = ObjectReader(DATASETS, endpoints, Meter(ledger, "finetune"))
    models = ObjectReader(MODELS, endpoints, Meter(ledger, "finetune"))
    checkpoints = ObjectWriter(CHECKPOINTS, endpoints, Meter(ledger, "finetune"))
    done = launch.run(train, job, datasets, models, checkpoints, report=report)
    return done, weights(endpoints, done.weights).get("/model.safetensors", b""), ledger


def job(dataset: Dataset, prefix: str) -> Job:
    return Job("reranker", RECIPE, dataset.files, prefix)


def moved(ledger: Ledger) -> list[tuple[str, str, str, int, int]]:
    own = ("ray-spill", "ray-storage")
    return [(row.stage, row.store, row.direction, row.ops, row.bytes) for row in ledger.rows() if row.store not in own]


def words(n: int) -> str:
    pool = ["canal", "gate", "flow", "turbine", "level", "spill", "intake", "grate", "basin", "valve", "ledger"]
    return " ".join(pool[(n * step + step) % len(pool)] for step in range(1, 4 + n % 5)) + f" {n}"


def value(kind: pa.DataType, text: str) -> Any:
    if pa.types.is_integer(kind):
        return len(text)
    if pa.types.is_floating(kind):
        return 0.5
    return [text] if pa.types.is_list(kind) else text


def matrix(table: pa.Table) -> np.ndarray[Any, Any]:
    return np.stack([np.asarray(vector) for vector in table["embedding"].to_pylist()])
