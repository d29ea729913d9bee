"""Folders for files on their way to a store or from one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headrace.atomic import FULL
from headrace.errors import HeadraceError, StorageFull


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder in the system's place for temporary files, gone when the block ends.

    Raises `StorageFull` where that place is full, whatever the library that writes there calls it.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            yield Path(folder)
        except HeadraceError:
            raise  # of a store
        except Exception as error:
            if not _is_full(error):
                raise
            raise StorageFull(
                f"No space left in {tempfile.gettempdir()}, where files are on their way to a store.",
                hint="Free some space there, or name another place in TMPDIR, and run again.",
            ) from error


def _is_full(error: BaseException) -> bool:
    """Whether a full disk is behind an error: PyTorch raises another one over it, safetensors quotes it."""
    chain: BaseException | None = error
    while chain is not None:
        if (isinstance(chain, OSError) and chain.errno in FULL) or "No space left on device" in str(chain):
            return True
        chain = chain.__cause__ or chain.__context__
    return False
