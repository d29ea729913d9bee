"""Files of a round on their way to a store, where the place for temporary files is full."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from disk import mounted

from headrace.errors import StorageFull, Unavailable
from headrace.storage.objects import ObjectWriter
from headrace.training.checkpoint import Checkpoints
from headrace.training.scratch import scratch_folder


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Temporary files are on a disk of one MiB."""
    with mounted(tmp_path / "small", 1) as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk.path))
        yield disk.path


def _bytes(path: Path) -> None:
    path.write_bytes(bytes(4 << 20))


def _safetensors(path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"w": np.zeros(1 << 20, np.float32)}, path)


def _torch(path: Path) -> None:
    import torch

    with path.open("wb") as file:
        torch.save({"w": torch.zeros(1 << 20)}, file)


@pytest.mark.parametrize("write", [_bytes, _safetensors, _torch])
def test_a_full_place_is_named_whatever_writes_there(small: Path, write: Callable[[Path], None]) -> None:
    """PyTorch called it "unexpected pos 1216 vs 1110", and the round ended with an unforeseen error."""
    with pytest.raises(StorageFull, match=f"No space left in {small}"), scratch_folder() as folder:
        write(folder / "weights")
    assert list(small.iterdir()) == []


def test_a_checkpoint_says_that_the_place_is_full(small: Path) -> None:
    import torch

    model = torch.nn.Linear(1000, 1000)
    checkpoints = Checkpoints(cast("ObjectWriter", None), "round", 2)  # which is not reached
    with pytest.raises(StorageFull, match=f"No space left in {small}"):
        checkpoints.finish(1, model, torch.optim.AdamW(model.parameters()), {})


@pytest.mark.parametrize("error", [Unavailable("It is away.", hint="Wait."), ValueError("x"), FileNotFoundError(2, "gone")])
def test_other_errors_are_as_they_were(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, scratch_folder():
        raise error
    assert raised.value is error
