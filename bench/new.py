"""new: what one more document costs in a corpus of a thousand, ten thousand and a hundred thousand chunks, without the embedder.

`headrace index` of one new file of 60 words, on a platform that is up; the embedder is an HTTP endpoint that answers at once. So
what is left is the work around it. Other sizes: `python -m bench.new 1000 10000`.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from headrace.catalog import DIMENSIONS
from headrace.core.run import journal_of
from headrace.platform import down
from headrace.settings import Settings

_SIZES = (1_000, 10_000, 100_000)
_WORDS = 60  # of a document, each of which makes one chunk
_TIMES = 5  # documents added at each size, after one that warms up
_VECTORS = 512
_IDLE_S = 3600


def measure(sizes: Sequence[int] = _SIZES) -> dict[str, Any]:
    """Bounds: 1.5 s of processor time, and a ratio of at most 1.2 between the largest and the smallest corpus."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, _endpoint() as url:
        for size in sizes:
            rows.append(_at(size, Path(folder) / str(size), url))
            print(_line(rows[-1]), file=sys.stderr, flush=True)
    return {"sizes": rows, "ratio": round(rows[-1]["processor_s"] / rows[0]["processor_s"], 2), "bound": 1.2, "bound_s": 1.5}


def _at(size: int, root: Path, url: str) -> dict[str, Any]:
    """Medians of some further documents in a corpus of `size` chunks."""
    home, documents = root / "home", root / "documents"
    env = _environment(home, url)
    _write(documents, range(size))
    try:
        started = time.perf_counter()
        _index(env, documents)
        build_s = time.perf_counter() - started
        _index(env, _added(root, size))
        found = [_index(env, _added(root, size + number + 1)) for number in range(_TIMES)]
    finally:
        down(Settings.load(home=home))
    middle = {name: round(statistics.median(one[name] for one in found), 3) for name in found[0] if name != "by_store"}
    return {"chunks": size, "build_s": round(build_s, 1), **middle, "by_store": found[-1]["by_store"]}


def _index(env: dict[str, str], path: Path) -> dict[str, Any]:
    """One command: its processor and wall seconds, and what it read and wrote by its own ledger."""
    started = time.perf_counter()
    command = subprocess.Popen(
        [sys.executable, "-m", "headrace.cli", "index", str(path), "--json"], env=env, stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(command.pid, 0)
    wall_s = time.perf_counter() - started
    assert status == 0, f"headrace index ended with {status}"
    rows = journal_of(Path(env["HEADRACE_HOME"]), None, command="index")["rows"]
    by_store: dict[str, dict[str, int]] = {}
    for row in rows:
        own = by_store.setdefault(f"{row['store']} ({row['tier']}) {row['direction']}", {"ops": 0, "bytes": 0})
        own["ops"] += row["ops"]
        own["bytes"] += row["bytes"]
    return {
        "processor_s": used.ru_utime + used.ru_stime,  # with the parser's process, which the command waits for
        "wall_s": wall_s,
        "bytes_read": sum(row["bytes"] for row in rows if row["direction"] == "read"),
        "bytes_written": sum(row["bytes"] for row in rows if row["direction"] == "write"),
        "ops": sum(row["ops"] for row in rows),
        "by_store": by_store,
    }


def _environment(home: Path, url: str) -> dict[str, str]:
    endpoint = {"TYPE": "endpoint", "URL": url, "MODEL": f"instant-{DIMENSIONS}"}
    models = {f"HEADRACE_MODELS__{m}__{k}": v for m in ("EMBEDDER", "RERANKER", "GENERATOR") for k, v in endpoint.items()}
    return {**os.environ, **models, "HEADRACE_HOME": str(home), "HEADRACE_PLATFORM__IDLE_S": str(_IDLE_S)}


def _write(folder: Path, numbers: Sequence[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"{number:06}.md").write_text(_text(number))


def _added(root: Path, number: int) -> Path:
    """A new document, in no folder that is indexed as a whole."""
    _write(root / f"added-{number}", [number])
    return root / f"added-{number}" / f"{number:06}.md"


def _text(number: int) -> str:
    """The words of a document: no two documents have the same."""
    chosen = random.Random(number)
    return f"# Document {number}\n\n" + " ".join(f"word{chosen.randrange(20_000)}" for _ in range(_WORDS)) + "\n"


@contextmanager
def _endpoint() -> Iterator[str]:
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


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['chunks']:>9,} chunks: {row['processor_s']:.2f} s of processor time, {row['wall_s']:.2f} s, "
        f"{row['bytes_read'] / 1e6:,.2f} MB read, {row['bytes_written'] / 1e6:,.2f} MB written, {row['ops']:,.0f} operations"
    )


if __name__ == "__main__":
    print(json.dumps(measure([int(size) for size in sys.argv[1:]] or _SIZES), indent=2))
