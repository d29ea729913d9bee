"""What one `headrace` command costs: a process of its own, beside a model endpoint that answers at once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import numpy as np

from headrace.catalog import DIMENSIONS
from headrace.core.run import newest_first

_VECTORS = 512
_IDLE_S = 7200
_LOOK_S = 0.01


@dataclass(frozen=True)
class Cost:
    """Of one command. `rows` is its ledger, empty for a command that records no run."""

    processor_s: float
    wall_s: float
    peak_mib: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    output: str = ""

    def moved(self, direction: str) -> int:
        """Bytes read or written."""
        return sum(row["bytes"] for row in self.rows if row["direction"] == direction)

    @property
    def ops(self) -> int:
        """Operations on storage."""
        return sum(row["ops"] for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "processor_s": round(self.processor_s, 2),
            "wall_s": round(self.wall_s, 2),
            "peak_mib": self.peak_mib,
            "ops": self.ops,
            "read_mb": round(self.moved("read") / 1e6, 2),
            "written_mb": round(self.moved("write") / 1e6, 2),
        }


def run(env: dict[str, str], *words: str, module: str = "headrace.cli", may_fail: bool = False) -> Cost:
    """Run `headrace WORDS`; its processor time includes that of the children it waited for.

    Raises `RuntimeError` if it ends with another exit code than 0, unless it `may_fail`.
    """
    newest = _newest(env)
    started = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        command = subprocess.Popen([sys.executable, "-m", module, *words], env=env, stdout=output)
        status = Path(f"/proc/{command.pid}/status")
        peak = 0
        try:
            # Not getrusage's figure, which a process inherits from the one that started it.
            while (ended := os.wait4(command.pid, os.WNOHANG))[0] == 0:
                with contextlib.suppress(OSError, IndexError):
                    peak = int(status.read_text().split("VmHWM:")[1].split()[0]) >> 10
                time.sleep(_LOOK_S)
        except BaseException:
            # Before the caller ends the servers, or it would start them again.
            command.terminate()
            command.wait()
            raise
        wall_s = time.perf_counter() - started
        output.seek(0)
        text = output.read().decode()
    _, code, used = ended
    if code and not may_fail:
        raise RuntimeError(f"headrace {' '.join(words)} ended with {os.waitstatus_to_exitcode(code)}")
    after = _newest(env)
    rows = after["rows"] if after is not None and (newest is None or after["run"] != newest["run"]) else []
    return Cost(used.ru_utime + used.ru_stime, wall_s, peak, rows, text)


def end_by_sigterm() -> None:
    """Have SIGTERM end this process as Ctrl-C does: what it started ends with it, above all servers that wait for hours."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _newest(env: dict[str, str]) -> dict[str, Any] | None:
    return next(newest_first(Path(env["HEADRACE_HOME"])), None)


def environment(home: Path, url: str) -> dict[str, str]:
    """The variables of a home whose models are all at `url`, and whose servers stay up between commands."""
    endpoint = {"TYPE": "endpoint", "URL": url, "MODEL": f"instant-{DIMENSIONS}"}
    models = {f"HEADRACE_MODELS__{m}__{k}": v for m in ("EMBEDDER", "RERANKER", "GENERATOR") for k, v in endpoint.items()}
    return {**os.environ, **models, "HEADRACE_HOME": str(home), "HEADRACE_PLATFORM__IDLE_S": str(_IDLE_S)}


_LOCKS = ("base.txt", "generator.txt", "torch-cpu.txt", "torch-cuda.txt")


def as_installed(env: dict[str, str], folder: Path) -> dict[str, str]:
    """The variables, with what `make install` does not install out of sight: some of it, such as pandas, is imported where it is.

    `folder` gets a module that each Python process imports as it starts.
    """
    locks = [path.read_text() for name in _LOCKS if (path := Path(__file__).parents[1] / "locks" / name).exists()]
    known = {_normal(name) for lock in locks for name in re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==", lock, re.MULTILINE)}
    own = {"headrace", "pip", "setuptools"}
    hidden = sorted(
        module for module, packages in packages_distributions().items() if not ({*map(_normal, packages)} & (known | own))
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(_HIDE.format(hidden=set(hidden)))
    return {**env, "PYTHONPATH": os.pathsep.join(filter(None, (str(folder), env.get("PYTHONPATH", ""))))}


_HIDE = """\
import sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if path is None and name in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hide())
"""


def _normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


@contextmanager
def instant_models() -> Iterator[str]:
    """The URL of an embedder that answers at once, as long as the block runs."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Instant) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()


def loop_s() -> float:
    """Processor seconds of ten million additions in a Python loop, by which a busy machine compares with a quiet one."""
    started, total = time.process_time(), 0
    for number in range(10_000_000):
        total += number
    return round(time.process_time() - started, 3)


def write_documents(folder: Path, numbers: Sequence[int], words: int) -> None:
    """Write a Markdown file of so many words for each number; no two have the same words."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        chosen = random.Random(number)
        text = " ".join(f"word{chosen.randrange(20_000)}" for _ in range(words))
        (folder / f"{number:06}.md").write_text(f"# Document {number}\n\n{text}\n")


def _embeddings() -> list[str]:
    vectors = np.random.default_rng(1).normal(size=(_VECTORS, DIMENSIONS))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [json.dumps([round(value, 5) for value in vector]) for vector in vectors.tolist()]


class _Instant(BaseHTTPRequestHandler):
    """Answers embeddings with vectors that are written out once, chosen by the text."""

    protocol_version = "HTTP/1.1"
    vectors = _embeddings()

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if "input" not in asked:  # a question for the re-ranker, which answers without one
            self.send_error(501)
            return
        places = (int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) % _VECTORS for text in asked["input"])
        data = ",".join(f'{{"index":{index},"embedding":{self.vectors[place]}}}' for index, place in enumerate(places))
        self.answer(f'{{"data":[{data}],"model":"instant","usage":{{}}}}'.encode())

    def do_GET(self) -> None:
        self.answer(b'{"status":"ok"}')

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""
