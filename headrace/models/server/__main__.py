"""The embedded model server: `python -m headrace.models.server --port P`, bound to 127.0.0.1.

Environment variables:

- HEADRACE_MODELS_KEY: the bearer token
- HEADRACE_MODELS_CACHE: a folder for unpacked weights
- HEADRACE_ENDPOINTS_FILE: JSON of `Endpoints`; may appear after the start
- HEADRACE_MODELS_THREADS: processor threads, by default 2
- HEADRACE_MODELS_EXACT: 1 for float32 everywhere (`precision.py`)
- HEADRACE_MODELS_INSTEAD: models that replace the packaged ones (`tokens.py`)

It answers health checks at once, is ready when torch is imported, loads each model on first use and logs to stderr.
"""

from __future__ import annotations

import argparse
import hmac
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType

_CLOSE_S = 3.0  # for what is still to be stored; the supervisor waits longer than this


def main() -> None:
    """Serve until SIGTERM or SIGINT, then exit 0; exit 2 if the environment is wrong, 1 if the port is taken."""
    parser = argparse.ArgumentParser(prog="python -m headrace.models.server", description="The embedded model server.")
    parser.add_argument("--port", type=int, required=True, help="port on 127.0.0.1")
    port = parser.parse_args().port
    key = os.environ.pop("HEADRACE_MODELS_KEY", "")
    cache = os.environ.get("HEADRACE_MODELS_CACHE", "")
    threads = os.environ.get("HEADRACE_MODELS_THREADS", "2")
    if not key or not cache or not threads.isdecimal() or int(threads) < 1:
        parser.error("set HEADRACE_MODELS_KEY, HEADRACE_MODELS_CACHE, and HEADRACE_MODELS_THREADS to 1 or more")

    # Until uvicorn listens for signals, and again after it has stopped, a signal simply ends the process.
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("headrace.models").setLevel(logging.INFO)
    _configure_libraries(threads)
    try:
        listener = socket.create_server(("127.0.0.1", port))
        # asyncio sets this only for its own sockets; without it each body waits 40 ms for the acknowledgement of its headers.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        parser.exit(1, f"127.0.0.1:{port} cannot be listened on: {error.strerror or error}. Give another --port.\n")
    _serve(listener, key, Path(cache), int(threads), exact=os.environ.get("HEADRACE_MODELS_EXACT") == "1")


def _configure_libraries(threads: str) -> None:
    """Set the variables that libraries read on import: no network, no telemetry, processor threads for torch only."""
    os.environ.update(
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        DO_NOT_TRACK="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        TQDM_DISABLE="1",
        TRANSFORMERS_VERBOSITY="error",
        TOKENIZERS_PARALLELISM="false",
        OMP_NUM_THREADS=threads,
        # numpy and torch would otherwise fight over the same cores.
        OPENBLAS_NUM_THREADS="1",
    )


def _serve(listener: socket.socket, key: str, cache: Path, threads: int, *, exact: bool) -> None:
    from headrace.models import http
    from headrace.models.server.api import create
    from headrace.models.server.hosted import EndpointsFile, HostedModels

    class ModelServer(http.QuietServer):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            models.stop()  # otherwise uvicorn would wait for answers that nobody reads
            # Uvicorn's own raises the signal again once it has stopped, which ends the process before what waits is stored.
            self.force_exit = self.should_exit
            self.should_exit = True

    file = os.environ.get("HEADRACE_ENDPOINTS_FILE", "")
    # Each home has its own, the same after a restart, and no further key has to be stored.
    secret = hmac.digest(key.encode(), b"headrace kv cache", "sha256")
    models = HostedModels(EndpointsFile(Path(file) if file else None), cache, threads, exact, secret)
    config = http.config(create(models, key=key), keep_alive_s=120, grace_s=2, log_level="error")
    ModelServer(config).run([listener])
    models.close(_CLOSE_S)
    _leave()


def _leave(*_: object) -> None:
    # A queue may be inside torch, whose threads can crash an orderly exit of the interpreter.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
