"""Verifies the SHA-256 of packaged programs and weights before they are run or loaded.

The lock files cover the download. Files on disk may have been replaced since by anybody who can write there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection
from pathlib import Path

from headrace.atomic import replacing
from headrace.errors import NotGenuine

GENUINE = "genuine.json"
"""Name of the file, in a directory of the home, that remembers verified files."""


def check_genuine(what: str, path: Path, digests: Collection[str], memory: Path | None, *, hint: str) -> None:
    """Raise `NotGenuine` unless the SHA-256 of a file is one of `digests`.

    The result is remembered in the file `memory` until the checked file changes: hashing takes tenths of a second.
    """
    status = path.stat()
    # A file that was written since has a different ctime, whatever its mtime was set to.
    identity = f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    known = _remembered(memory) if memory is not None else {}
    if any(known.get(str(path)) == f"{identity} {digest}" for digest in digests):
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest not in digests:
        raise NotGenuine(f"{what} at {path} is not the released one. Its SHA-256 is {digest}.", hint=hint)
    if memory is not None:
        _remember(memory, {**known, str(path): f"{identity} {digest}"})


def _remembered(memory: Path) -> dict[str, str]:
    try:
        known = json.loads(memory.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(memory: Path, known: dict[str, str]) -> None:
    with contextlib.suppress(OSError), replacing(memory, sync_folder=False) as file:  # on failure it is hashed again next time
        file.write(json.dumps(known).encode())
