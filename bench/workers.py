"""workers: indexing with one worker and with two, on this machine's threads and on Ray, and the second predicted from the first.

Each worker has a model server of its own, with one thread on one core: a forwarder gives each connection the next server, as a
Service of Kubernetes does. The documents are Python's language reference, some copies of it, each with a first line of its own.

With Ray, its start is timed too: from nothing to a runner that takes work, and to the first results of actors.

`python -m bench.workers [--copies N] [--on local|ray] [--start]`; `--start` times the start alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from headrace.app import App
from headrace.cli.demo import reference
from headrace.core.run import journal_of
from headrace.explain.scaling.demand import DOCUMENTS, demands_of
from headrace.explain.scaling.prediction import validate
from headrace.models.connection import wait_ready
from headrace.process import python
from headrace.settings import Settings
from headrace.storage.endpoints import ModelEndpoint

_COPIES = 6
_READY_S = 120.0
_PIECE = 1 << 16
_STARTS = 3


class Same:
    """Batch work that does nothing."""

    def __call__(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The rows."""
        return rows


def _one_start() -> dict[str, float]:
    """From the first import of Ray to a runner that takes work, and to the first results."""
    from headrace.core.ray_cluster import cluster

    begun = time.perf_counter()
    with cluster() as (batches, _):
        ready = time.perf_counter() - begun
        assert list(batches.map([pa.RecordBatch.from_pylist([{"n": n}]) for n in range(4)], Same))
        return {"runner_s": round(ready, 1), "first_results_s": round(time.perf_counter() - begun, 1)}


def start() -> dict[str, Any]:
    """Bound: the runner is ready within 10 s. Each start is of a new process, and has the load of the machine when it began."""
    found = []
    for _ in range(_STARTS):
        load = round(os.getloadavg()[0], 1)
        command, env = python("bench.workers")
        done = subprocess.run([*command, "--one-start"], env=env, check=True, capture_output=True, text=True)
        found.append({**json.loads(done.stdout), "load": load})
    return {"bound_s": 10, "starts": found}


def measure(copies: int = _COPIES, places: tuple[str, ...] = ("local", "ray")) -> dict[str, Any]:
    """Bound: on Ray, two workers embed at least 1.6 times as fast as one. `error` is predicted ÷ measured − 1.

    `server_cpu_s` is the processor time of the model servers: where other work competes for the cores, it tells what a chunk
    costs from how long it waited.
    """
    found: dict[str, Any] = {"cores": os.cpu_count(), "load_before": round(os.getloadavg()[0], 1), "bound": 1.6}
    if "ray" in places:
        found["ray_start"] = start()
    with tempfile.TemporaryDirectory() as folder:
        docs = _documents(Path(folder), copies)
        for on in places:
            one, two = (_indexed(Path(folder), on, workers, docs) for workers in (1, 2))
            found[on] = {
                "one": _figures(one),
                "two": _figures(two),
                "embed_ratio": round(_figures(two)["embedded_per_s"] / _figures(one)["embedded_per_s"], 2),
                "predicted": [each.model_dump() for demand in demands_of(one) for each in validate([demand], two)],
            }
            print(json.dumps({on: found[on]}), file=sys.stderr, flush=True)
    found["load_after"] = round(os.getloadavg()[0], 1)
    return found


def _figures(journal: dict[str, Any]) -> dict[str, Any]:
    """What a run did: documents a second of all stages, and chunks a second of embed."""
    (demand,) = (one for one in demands_of(journal) if one.unit == DOCUMENTS)
    embed = next(one for one in journal["timeline"] if one["stage"] == "embed")
    return {
        "documents": demand.sample,
        "chunks": journal["counts"]["chunks"],
        "documents_per_s": round(demand.per_s, 2),
        "embed_s": round(embed["active_s"], 1),
        "embedded_per_s": round(journal["counts"]["chunks"] / embed["active_s"], 1),
        "load": journal["detail"]["load"],
        "server_cpu_s": journal["detail"]["server_cpu_s"],
    }


def _indexed(folder: Path, on: str, workers: int, docs: Path) -> dict[str, Any]:
    """The journal of indexing in a new home."""
    home = folder / f"{on}-{workers}"
    with _servers(folder, workers) as (endpoint, servers):
        model = {"type": "endpoint", "url": endpoint.url, "api_key": endpoint.api_key}
        settings = Settings(
            home=home,
            models={role: {**model, "model": role} for role in ("embedder", "reranker", "generator")},
            workers={"batches": workers, "batch_cpus": 0.25},
            platform={"idle_s": 0},
        )
        with App(settings, "index", on=on, quiet=True) as app:
            app.runner.record.detail["load"] = round(os.getloadavg()[0], 1)
            before = _processor_s(servers)
            app.documents.index([docs])
            app.runner.record.detail["server_cpu_s"] = round(_processor_s(servers) - before, 1)
            run = app.runner.record.id
    return journal_of(home, run)


def _documents(folder: Path, copies: int) -> Path:
    """The documents, outside of any home."""
    source, documents = reference(folder / "source"), folder / "documents"
    for copy in range(copies):
        into = documents / f"{copy}"
        into.mkdir(parents=True)
        for path in source.iterdir():
            (into / path.name).write_text(f"Copy {copy} of {path.stem}.\n\n{path.read_text(encoding='utf-8')}", encoding="utf-8")
    return documents


@contextmanager
def _servers(folder: Path, count: int) -> Iterator[tuple[ModelEndpoint, list[int]]]:
    """So many model servers, the first on core 0 and so on, behind one address; and their processes."""
    key = secrets.token_hex(16)
    with ExitStack() as stack:
        started = [stack.enter_context(_server(folder, key, core)) for core in range(count)]
        ports = [port for port, _ in started]
        for port in ports:  # each loads its models before anything is timed
            own = _endpoint(port, key)
            wait_ready(own, _READY_S)
            _warm(own)
        yield _endpoint(stack.enter_context(_forwarder(ports)), key), [process for _, process in started]


def _processor_s(processes: list[int]) -> float:
    """Processor time that these processes have taken."""
    return sum(sum(psutil.Process(process).cpu_times()[:2]) for process in processes)


def _endpoint(port: int, key: str) -> ModelEndpoint:
    return ModelEndpoint(url=f"http://127.0.0.1:{port}/v1", model="embedder", api_key=key)


def _warm(endpoint: ModelEndpoint) -> None:
    """Have it load all that it serves: it would unpack the generator as soon as nothing is embedded, while Ray starts."""
    from headrace.models.client import Embedder, Generator

    Embedder(endpoint).embed(["warm"] * 8, kind="passage")
    with Generator(endpoint.model_copy(update={"model": "generator"})) as generator:
        for _ in generator.stream([{"role": "user", "content": "warm"}], max_tokens=1, cache=False):
            pass


@contextmanager
def _server(folder: Path, key: str, core: int) -> Iterator[tuple[int, int]]:
    """Its port and process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command, env = python("headrace.models.server")
    env |= {"HEADRACE_MODELS_KEY": key, "HEADRACE_MODELS_CACHE": str(folder / "models"), "HEADRACE_MODELS_THREADS": "1"}
    with (folder / f"server-{core}.log").open("ab") as log:
        process = subprocess.Popen([*command, "--port", str(port)], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(process.pid, {cores[core % len(cores)]})
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _forwarder(ports: list[int]) -> Iterator[int]:
    """Forward each connection to the next of these ports of this machine; yields its own."""
    turn = itertools.cycle(ports)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:

        def serve() -> None:
            with suppress(OSError):  # it is closed
                while True:
                    client, _ = listener.accept()
                    server = socket.create_connection(("127.0.0.1", next(turn)))
                    for one in (client, server):
                        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    for source, sink in ((client, server), (server, client)):
                        threading.Thread(target=_copy, args=(source, sink), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(_PIECE):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.workers")
    parser.add_argument("--copies", type=int, default=_COPIES)
    parser.add_argument("--on", choices=("local", "ray"), action="append")
    parser.add_argument("--start", action="store_true", help="time the start of Ray's runner alone")
    parser.add_argument("--one-start", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.start or given.one_start:
        print(json.dumps(start() if given.start else _one_start()))
        sys.exit()
    began = time.perf_counter()
    done = measure(given.copies, tuple(given.on or ("local", "ray")))
    print(json.dumps({**done, "seconds": round(time.perf_counter() - began, 1)}, indent=2))
