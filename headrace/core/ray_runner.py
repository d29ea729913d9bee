"""Batch work and training on Ray. Import it only through `ray_cluster.cluster`, which sets Ray's environment variables."""

from __future__ import annotations

import copy
import gc
import logging
import os
import queue
import re
import secrets
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import ray
import ray.data
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from headrace.catalog import RAY_SPILL, RAY_STORAGE
from headrace.core.launch import Report, Work, listed
from headrace.core.peers import ALONE, PeerLost, Peers, join, meet, meeting_place
from headrace.errors import BadSettings, HeadraceError, Unavailable
from headrace.settings import WorkerSettings
from headrace.storage.ledger import Direction
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectReader

# Errors arrive as exceptions; Ray Data would also print them, and every finished dataset.
logging.getLogger("ray.data").setLevel(logging.CRITICAL)

_GROUP_BATCHES = 256
_GROUP_BYTES = 64 << 20
_RAYS_OWN_CPUS = 1  # that Ray Data's own tasks need beside the actors
_CHECK_S = 1.0
_CLOSE_S = 10.0
_LOOK_S = 0.25
_AGAIN = "Run the command again: it goes on from what is done."
_SPILLED = re.compile(r"'obj_store_mem_spilled': (\d+)")


class RayBatches:
    """Runs batch work on Ray actors. The source is read in groups of at most 256 batches or 64 MiB, one in memory at a time.

    Work is built once per actor and group. Rows and schema are as with `Threads`; Ray may merge adjacent results into one batch
    and drops batches without rows.
    """

    remote = True

    def __init__(self, settings: WorkerSettings | None = None) -> None:
        self._settings = settings or WorkerSettings()
        self.workers = self._settings.batches
        self._cpus = self._settings.batch_cpus
        self._spilled: list[int] = []  # shared with those of other meters
        self._meter: Meter | None = None

    def metered(self, meter: Meter) -> RayBatches:
        """See `Batches.metered`: what is spilled. Ray says how much, and not how long it takes."""
        other = copy.copy(self)
        other._meter = meter
        return other

    def require(self) -> None:
        """Raise `BadSettings` where the actors would hold every CPU of the cluster: Ray Data's own tasks would wait for ever."""
        if why := _batches_lack(self.workers, self._cpus):
            raise BadSettings(why, hint="Lower workers.batches or workers.batch_cpus in headrace.toml, or add nodes.")

    def usage(self) -> dict[str, Any]:
        """What the cluster has (nodes, cpus, object_store_bytes) and spilled (spilled_bytes), and where ("": temporary)."""
        resources = ray.cluster_resources()
        return {
            "nodes": sum(1 for node in ray.nodes() if node["Alive"]),
            "cpus": resources.get("CPU", 0.0),
            "object_store_bytes": int(resources.get("object_store_memory", 0)),
            "spilled_bytes": sum(self._spilled),
            "spill_dir": str(self._settings.spill_dir or ""),
            "storage_path": str(self._settings.storage_path or ""),
        }

    def map(self, source: Iterable[pa.RecordBatch], work: Callable[..., Work], *args: Any) -> Iterator[pa.RecordBatch]:
        """See `Batches.map`. The first of Headrace's own errors ends the map and is raised unwrapped.

        A killed actor is started again, on another node if its own is gone, and does its batch anew. Raises `Unavailable` where
        the nodes that are left have no room for all actors, and nobody adds one within `workers.node_wait_s`.
        """
        built = None
        for group in _groups(source):
            # By reference, since Ray records constructor arguments, and an endpoint contains a key.
            built = built or ray.put((work, args))
            count = min(self.workers, len(group))
            try:
                results = _mapped(group, built, count, self._cpus)
                tables = iter(results.iter_batches(batch_size=None, batch_format="pyarrow"))
                patience = _Patience(partial(_batches_lack, count, self._cpus), self._settings.node_wait_s)
                for table in _ahead(tables, patience.check):
                    yield from (rows for rows in table.combine_chunks().to_batches() if rows.num_rows)
                self._spill(sum(map(int, _SPILLED.findall(results.stats()))))
            except Exception as error:
                if (ours := _ours(error)) is not None:
                    raise ours from None
                if isinstance(error, ray.exceptions.RayError) and not isinstance(error, ray.exceptions.RayTaskError):
                    raise Unavailable(f"Ray gave up batch work: {_first_line(error)}.", hint=_AGAIN) from error
                raise

    def _spill(self, size: int) -> None:
        if size:
            self._spilled.append(size)
            if self._meter is not None:
                self._meter.count(RAY_SPILL, Direction.WRITE, bytes=size, seconds=0.0, estimated=True)


def _batches_lack(workers: int, cpus: float) -> str:
    """Why the nodes have no room for the actors of a map now, with the numbers; "" where they have."""
    nodes = _cpus_of_nodes()
    if workers * cpus <= sum(nodes) - _RAYS_OWN_CPUS and workers <= sum(int(node / cpus) for node in nodes):
        return ""
    return (
        f"{workers:,} workers with {cpus:g} processors each do not fit on Ray: the cluster has {sum(nodes):g} processors on"
        f" {len(nodes):,} nodes, and Ray Data needs {_RAYS_OWN_CPUS} of them for itself."
    )


def _cpus_of_nodes() -> list[float]:
    """The processors of each node that is alive."""
    return [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]


class _Patience:
    """For how long to wait where the nodes no longer have room for what was started: Ray itself would wait for ever."""

    def __init__(self, lack: Callable[[], str], wait_s: float) -> None:
        self._lack, self._wait_s = lack, wait_s
        self._since: float | None = None

    def check(self) -> None:
        """Raise `Unavailable` once there has been no room for so long."""
        why, now = self._lack(), time.monotonic()
        self._since = (self._since or now) if why else None
        if self._since is not None and now - self._since >= self._wait_s:
            raise Unavailable(
                f"{why} They did when they were started, so a node is lost.",
                hint=f"Start it again, or lower the number of workers in headrace.toml. {_AGAIN}",
            )


def _ahead(tables: Iterator[pa.Table], check: Callable[[], None]) -> Iterator[pa.Table]:
    """The tables, one at a time, from a thread; `check` is called about once a second while none comes."""
    handed: queue.Queue[pa.Table | BaseException | None] = queue.Queue(maxsize=1)
    left = threading.Event()

    def hand(item: pa.Table | BaseException | None) -> None:
        while not left.is_set():
            with suppress(queue.Full):
                handed.put(item, timeout=_LOOK_S)
                return

    def take() -> None:
        try:
            for table in tables:
                hand(table)
                if left.is_set():
                    return
            hand(None)
        except BaseException as error:
            hand(error)
        finally:
            tables.close()  # type: ignore[attr-defined]

    taker = threading.Thread(target=take, name="ray-batches", daemon=True)
    taker.start()
    try:
        while True:
            try:
                item = handed.get(timeout=_CHECK_S)
            except queue.Empty:
                check()
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        left.set()
        taker.join(_CLOSE_S)  # so that the actors are gone; not for ever, since Ray Data does wait for those of lost nodes


class _Actor:
    """One worker: the work class, built once."""

    def __init__(self, built: list[Any]) -> None:
        work, args = ray.get(built[0])
        self._work: Work = work(*args)

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        for rows in table.combine_chunks().to_batches():
            for result in listed(self._work(rows)):
                yield pa.Table.from_batches([result])


def _groups(source: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    group: list[pa.RecordBatch] = []
    size = 0
    for rows in source:
        if rows.num_rows:
            group.append(rows)
            size += rows.nbytes
        if len(group) >= _GROUP_BATCHES or size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _mapped(group: list[pa.RecordBatch], built: Any, workers: int, cpus: float) -> ray.data.Dataset:
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.verbose_stats_logs = True  # what was spilled is only there
    return ray.data.from_arrow([pa.Table.from_batches([rows]) for rows in group]).map_batches(
        _Actor,
        fn_constructor_args=([built],),
        batch_format="pyarrow",
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=round(cpus, 4),  # Ray's own precision
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


def _ours(error: BaseException | None) -> HeadraceError | None:
    """The Headrace error wrapped by Ray's, if any. Ray's own copy has a traceback as its message."""
    while error is not None:
        if isinstance(error, ray.exceptions.RayTaskError):
            error = error.cause
        elif isinstance(error, HeadraceError):
            return error
        else:
            error = error.__cause__ or error.__context__
    return None


R = TypeVar("R")
_Step = tuple[int, int, float]
_Exports = list[list[dict[str, Any]]]

_RESTARTS = 2


class RayTrain:
    """Runs training on Ray Train: on one worker with as many CPUs as this machine would use, or on several, data-parallel.

    Dead workers are restarted, twice; with several, all of them are. The training function then resumes from its own latest
    checkpoint: Ray's checkpoints are not used, and its storage path is a temporary directory. Bytes that a dead worker moved
    after its last report are not in the ledger.
    """

    def __init__(self, settings: WorkerSettings | None = None) -> None:
        self._settings = settings or WorkerSettings()
        self.workers = self._settings.training

    def require(self) -> None:
        """See `Launch.require`: the workers must fit on the nodes at once, or they would wait for each other for ever."""
        self._require_shared()
        if why := self._lack(self._cpus()):
            raise BadSettings(why, hint="Lower workers.training or workers.training_cpus in headrace.toml, or add nodes.")

    def _lack(self, each: int) -> str:
        """Why the nodes have no room for the workers now, with the numbers; "" where they have."""
        nodes = _cpus_of_nodes()
        room = sum(int(node // each) for node in nodes)
        if self.workers <= room:
            return ""
        return (
            f"{self.workers:,} training workers with {each:,} processors each do not fit on Ray: on {len(nodes):,} nodes with"
            f" {sum(nodes):g} processors there is room for {room:,}."
        )

    def _require_shared(self) -> None:
        """Raise `BadSettings` unless every node sees what another one writes into the storage path.

        Ray Train's controller and its workers are on any of the nodes, and each reads what the others noted.
        """
        nodes = [node for node in ray.nodes() if node["Alive"]]
        if len(nodes) < 2:
            return
        blind = _blind(nodes, self._settings.storage_path or Path(tempfile.gettempdir()))
        if not blind:
            return
        where = self._settings.storage_path
        raise BadSettings(
            f"Ray Train's storage_path must be storage that all {len(nodes):,} nodes share;"
            f" {where or 'a temporary directory'} is local disk: {', '.join(blind)} did not see what this node wrote there.",
            hint="Set workers.storage_path in headrace.toml to a directory that is mounted on every node, such as NFS.",
        )

    def _cpus(self) -> int:
        """CPUs of a worker. For one, Ray sets torch's threads to them, and as many threads as locally give identical sums."""
        return self._settings.training_cpus or max(1, _cpus() // self.workers)

    def run(self, loop: Callable[..., R], *arguments: Any, report: Report) -> R:
        """See `Launch.run`; `report` gets the latest step about four times a second.

        Raises the function's own errors, and `Unavailable` if workers died too often, or where the nodes that are left have no
        room for them and nobody adds one within `workers.node_wait_s`.
        """
        # Imported here because it imports torch, which batch work does not need.
        from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.backend import Backend
        from ray.train.torch import TorchConfig, TorchTrainer

        class Unconnected(TorchConfig):  # type: ignore[misc]
            """No process group: torch's would listen on all addresses of the machine. Several workers meet in `peers`."""

            @property
            def backend_cls(self) -> type[Backend]:
                return Backend  # type: ignore[no-any-return]

        # Ended actors of batch work are in reference cycles and hold CPUs until they are collected; the worker would wait for
        # those for ever.
        gc.collect()
        ledgers = list({id(a.meter.ledger): a.meter.ledger for a in arguments if isinstance(a, ObjectReader)}.values())
        # Pickled together, so that handles and ledgers still refer to each other in the worker.
        handed = [ray.put((loop, arguments, ledgers))]
        # On the driver's own node, without which nothing goes on anyway: with another one, what it has would be gone.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        post = ray.remote(num_cpus=0)(_Post).options(scheduling_strategy=here).remote()
        wait_s, threads = self._settings.training_wait_s, self._cpus() if self.workers > 1 else None
        meter = next((a.meter for a in arguments if isinstance(a, ObjectReader)), None)
        with tempfile.TemporaryDirectory(prefix="hr-train-", dir=self._settings.storage_path) as folder:
            trainer = TorchTrainer(
                lambda: _attempt(handed, post, wait_s, threads),
                torch_config=Unconnected(),
                scaling_config=ScalingConfig(num_workers=self.workers, resources_per_worker={"CPU": self._cpus()}),
                run_config=RunConfig(name="train", storage_path=folder, failure_config=FailureConfig(max_failures=_RESTARTS)),
            )
            value: Any = None
            failed: Exception | None = None
            try:
                patience = _Patience(partial(self._lack, self._cpus()), self._settings.node_wait_s)
                value = _watched(trainer.fit, post, report, patience.check).return_value
            except TrainingFailedError as error:
                failed = error
            finally:
                own: Exception | None = None
                with suppress(ray.exceptions.RayError):
                    for exports in ray.get(post.exports.remote()):
                        for ledger, entries in zip(ledgers, exports, strict=True):
                            ledger.fold(entries)
                    own = ray.get(post.error.remote())
                if meter is not None:
                    _count_notes(Path(folder), meter)
        if own is not None:
            raise own
        if failed is not None:
            reason = next(iter(str(failed).strip().splitlines()[1:]), "no reason given").rstrip(".")
            raise Unavailable(
                f"The training worker died {_RESTARTS + 1} times: {reason}.",
                hint="Run the command again: it continues from the latest checkpoint.",
            ) from failed
        result: R = value
        return result


def _blind(nodes: list[dict[str, Any]], folder: Path) -> list[str]:
    """The addresses of nodes that do not see a file that was just written into a folder."""
    with tempfile.TemporaryDirectory(prefix="hr-seen-", dir=folder) as mine:
        mark = Path(mine) / secrets.token_hex(8)
        mark.write_bytes(b"")

        def looks() -> bool:
            return mark.exists()

        answers = [
            ray.remote(num_cpus=0)(looks)
            .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
            .remote()
            for node in nodes
        ]
        return [node["NodeManagerAddress"] for node, seen in zip(nodes, ray.get(answers), strict=True) if not seen]


def _count_notes(folder: Path, meter: Meter) -> None:
    """Count what Ray Train wrote into its storage path, as far as it is still there: Ray hides its I/O."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    if sizes:
        meter.count(RAY_STORAGE, Direction.WRITE, bytes=sum(sizes), ops=len(sizes), seconds=0.0, estimated=True)


class _Post:
    """An actor that holds the workers' latest step, ledgers and first error for the driver."""

    def __init__(self) -> None:
        self._step: _Step | None = None
        self._exports: dict[str, _Exports] = {}
        self._error: Exception | None = None

    def leave(self, attempt: str, step: _Step | None, exports: _Exports) -> None:
        """Store the latest state of each attempt, since a killed one has moved bytes too."""
        self._step = step or self._step
        self._exports[attempt] = exports

    def fail(self, error: Exception) -> None:
        """Store an error of the training function; the first one, as others may follow from it."""
        self._error = self._error or error

    def step(self) -> _Step | None:
        """The latest step."""
        return self._step

    def exports(self) -> list[_Exports]:
        """The ledgers of each attempt of each worker."""
        return list(self._exports.values())

    def error(self) -> Exception | None:
        """The first error of the training function."""
        return self._error


def _attempt(handed: list[Any], post: Any, wait_s: float, threads: int | None) -> Any:
    """Run the training function in a worker. Its errors go to the post, because only dead and lost workers are to be restarted.

    A worker that lost another one ends with that error, unless the other left one of its own behind.
    """
    try:
        loop, arguments, ledgers = ray.get(handed[0])
    except ray.exceptions.RayError:
        raise  # what it asked for was lost
    except Exception as error:  # another version of something is installed here: that is so in each attempt
        error.add_note(traceback.format_exc())
        ray.get(post.fail.remote(error))
        return None
    name = secrets.token_hex(4)

    def leave(step: _Step | None) -> Any:
        exports = [ledger.export() for ledger in ledgers]
        return post.leave.remote(name, step, exports)

    peers: Peers = ALONE
    try:
        peers = _peers(wait_s, threads)
        return loop(*arguments, lambda done, of, loss: leave((done, of, loss) if peers.rank == 0 else None), peers)
    except PeerLost:
        if ray.get(post.error.remote()) is None:
            raise
        return None
    except Exception as error:
        error.add_note(traceback.format_exc())
        ray.get(post.fail.remote(error))  # before this worker ends, which the others notice
        return None
    finally:
        ray.get(leave(None))
        peers.close()


def _peers(wait_s: float, threads: int | None) -> Peers:
    """The workers of this attempt, connected over the addresses that Ray's nodes have."""
    from ray.train import get_context
    from ray.train.collective import broadcast_from_rank_zero

    rank, size = get_context().get_world_rank(), get_context().get_world_size()
    if size == 1:
        return ALONE
    address = ray.util.get_node_ip_address()
    store = meeting_place(address, wait_s) if rank == 0 else None
    host, port = broadcast_from_rank_zero(None if store is None else (address, store.port))
    return meet(store or join(host, port, wait_s), rank, size, address=address, wait_s=wait_s, threads=threads)


def _watched(fit: Callable[[], Any], post: Any, report: Report, check: Callable[[], None]) -> Any:
    """Run `fit` on a thread and report steps. On the main thread, Ray Train would take over Ctrl-C for good.

    `check` is called about once a second while no step is taken.
    """
    fitted: Future[Any] = Future()

    def run() -> None:
        try:
            fitted.set_result(fit())
        except BaseException as error:
            fitted.set_exception(error)

    threading.Thread(target=run, name="train", daemon=True).start()
    seen: _Step | None = None
    checked = time.monotonic()
    while True:
        ended = bool(wait([fitted], _LOOK_S).done)
        step = ray.get(post.step.remote())
        if step is not None and step != seen:
            report(*step)
            seen, checked = step, time.monotonic()
        if ended:
            return fitted.result()
        if time.monotonic() - checked >= _CHECK_S:
            check()
            checked = time.monotonic()


def _cpus() -> int:
    """CPUs of this machine, at most those of the largest node."""
    largest = max((node["Resources"].get("CPU", 1.0) for node in ray.nodes() if node["Alive"]), default=1.0)
    return max(1, min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, int(largest)))
