"""A Ray cluster for one command: started on this machine, or the existing one at `RAY_ADDRESS`.

Ray reads most of its environment variables on import, so nothing here imports it before `cluster` has set them, and only
`cluster` imports the module that does (`ray_runner`).
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from headrace.errors import BadSettings, MissingPart, Unavailable
from headrace.process import python
from headrace.settings import WorkerSettings

if TYPE_CHECKING:
    from headrace.core.ray_runner import RayBatches, RayTrain

_OBJECT_STORE_BYTES = 256 << 20
_KNOCK_S = 5.0

_ALWAYS = {
    # No usage reports, no metrics export.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_PROMPT_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # Errors reach the driver as exceptions; Ray's core also prints messages on successful runs.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Keep the current directory for the training function, and notice its end within half a second.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}

# Ray's C++ core keeps the first token it reads for the life of the process.
_TOKEN = secrets.token_hex(32)

_OWN = {
    # Without this, Ray listens on all addresses of the machine.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": _TOKEN,
}


@contextmanager
def cluster(settings: WorkerSettings | None = None) -> Iterator[tuple[RayBatches, RayTrain]]:
    """Hold a cluster and yield its runners for batch work and training.

    Without `RAY_ADDRESS`, one is started on this machine: all listeners on 127.0.0.1, its own token, no dashboard; it ends with
    the block, or with this process if that is killed. With `RAY_ADDRESS` (and `RAY_AUTH_TOKEN`, if required), that cluster is
    used and left running. Raises `MissingPart` if Ray is not installed, `Unavailable` if it does not start, and `BadSettings` if
    the cluster has too few processors for the workers of `settings`.
    """
    settings = settings or WorkerSettings()
    address = os.environ.get("RAY_ADDRESS", "")
    _require_folders(settings, address)
    with _environment(_ALWAYS if address else _ALWAYS | _OWN), nullcontext() if address else _folder() as folder:
        try:
            import ray
            import ray._private.worker as worker

            from headrace.core.ray_runner import RayBatches, RayTrain
        except ImportError as error:
            raise MissingPart(
                f"Ray is not installed ({error}).", hint="Run `make install-dev` or `pip install 'headrace[ray]'`."
            ) from None
        # What happens to nodes and workers would go to standard output, in spite of `log_to_driver`, and into a command's JSON.
        worker._worker_logs_enabled = False
        own = {
            "include_dashboard": False,
            # At least two, of which Ray Data's own tasks need one.
            "num_cpus": max(2, os.cpu_count() or 1),
            "object_store_memory": _OBJECT_STORE_BYTES,
            "_temp_dir": folder,
            "_node_ip_address": "127.0.0.1",
            **({"object_spilling_directory": str(settings.spill_dir.resolve())} if settings.spill_dir else {}),
        }
        try:
            _knock(address)
            with warnings.catch_warnings(), _silence(), _fewer_processes():
                # LanceDB warns in every forked child, even in those that exec another program at once.
                warnings.filterwarnings("ignore", "lancedb fork support", RuntimeWarning)
                ray.init(
                    address=address or "local", logging_level=logging.CRITICAL, log_to_driver=False, **({} if address else own)
                )
        except Exception as error:  # of no kind of their own where nodes start too slowly
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
            raise Unavailable(
                f"Ray at {address} does not answer: {reason}." if address else f"Ray does not start: {reason}.",
                hint="Check RAY_ADDRESS and RAY_AUTH_TOKEN, or unset them to run on this machine."
                if address
                else "Run without `--on ray`, set TMPDIR to a short path with enough space, or try again when less runs here.",
            ) from error
        try:
            batches = RayBatches(settings)
            batches.require()
            yield batches, RayTrain(settings)
        finally:
            ray.shutdown()


def _require_folders(settings: WorkerSettings, address: str) -> None:
    """Raise `BadSettings` for directories that Ray cannot use."""
    if address and settings.spill_dir:
        raise BadSettings(
            f"The cluster at RAY_ADDRESS {address} spills where it was started to, and not to workers.spill_dir.",
            hint="Start it with `ray start --object-spilling-directory DIR`, and leave workers.spill_dir unset.",
        )
    for name, folder in (("spill_dir", settings.spill_dir), ("storage_path", settings.storage_path)):
        if folder is not None and not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
            raise BadSettings(
                f"workers.{name} is {folder}, which is not a directory that can be written to.",
                hint="Create it, or mount it, and give this user access.",
            )


def _knock(address: str) -> None:
    """Raise `OSError` if nothing listens at `host:port`, because Ray would retry for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()


@contextmanager
def _fewer_processes() -> Iterator[None]:
    """Have Ray start without its autoscaler's monitor, since the nodes are as many as they are, and its log monitor.

    What the latter would pass on to the driver is switched off. Each is a Python process that takes half a second of a processor
    before the first work begins. `ray.init` has no argument for them, as `ray start` has; the version of Ray is pinned.
    """
    import ray._private.parameter as parameter

    whole = parameter.RayParams
    parameter.RayParams = partial(whole, no_monitor=True, include_log_monitor=False)
    try:
        yield
    finally:
        parameter.RayParams = whole


@contextmanager
def _silence() -> Iterator[None]:
    """Discard standard error, including that of C++ code: Ray's core prints there in spite of its log level."""
    sys.stderr.flush()
    saved = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)


@contextmanager
def _folder() -> Iterator[str]:
    """A folder for a cluster's sockets and logs, with a watchdog process that removes both after this process ends.

    The kernel ends most of a cluster with a killed driver, but Ray's agents keep looking for it for a minute.
    """
    folder = tempfile.mkdtemp(prefix="hr-ray-")
    command, env = python("headrace.core.ray_watchdog")
    watchdog = subprocess.Popen(
        [*command, folder],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield folder
    finally:
        watchdog.communicate()


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
