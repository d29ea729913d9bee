"""Programs and weights that are run or loaded only if they are the released ones."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from headrace.errors import NotGenuine
from headrace.genuine import check_genuine
from headrace.models import tokens
from headrace.models.server import generator
from headrace.models.tokens import INSTEAD, MODELS_CACHE, embedder_weights

TEXT = b"#!/bin/sh\necho hello\n"
RIGHT = {hashlib.sha256(TEXT).hexdigest()}


def checked(path: Path, memory: Path | None) -> None:
    check_genuine("The program", path, RIGHT, memory, hint="Install it anew.")


@pytest.mark.parametrize("remembered", [True, False])
def test_a_file_is_right_or_refused_also_after_it_was_right(tmp_path: Path, remembered: bool) -> None:
    program = tmp_path / "program"
    memory = tmp_path / "genuine.json" if remembered else None
    program.write_bytes(TEXT)
    checked(program, memory)
    checked(program, memory)
    before = program.stat()
    program.write_bytes(TEXT.replace(b"hello", b"HELLO"))
    os.utime(program, ns=(before.st_atime_ns, before.st_mtime_ns))  # as one would who wants it not to be noticed
    with pytest.raises(NotGenuine, match=r"The program at .*program is not the released one"):
        checked(program, memory)
    program.write_bytes(TEXT)
    checked(program, memory)


def test_what_was_found_right_is_read_again_only_for_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, memory = tmp_path / "program", tmp_path / "genuine.json"
    program.write_bytes(TEXT)
    checked(program, memory)
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("it was read"))
        checked(program, memory)
    with pytest.raises(NotGenuine):
        check_genuine("The program", program, {"0" * 64}, memory, hint="")


@pytest.mark.parametrize("damaged", ["", "{", "[]", '"text"'])
def test_a_memory_that_cannot_be_read_is_none(tmp_path: Path, damaged: str) -> None:
    program, memory = tmp_path / "program", tmp_path / "genuine.json"
    program.write_bytes(TEXT)
    memory.write_text(damaged)
    checked(program, memory)
    program.write_bytes(b"something else")
    with pytest.raises(NotGenuine):
        checked(program, memory)


# weights


def test_the_packaged_weights_are_the_released_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(INSTEAD, raising=False)
    monkeypatch.setenv(MODELS_CACHE, str(tmp_path))
    assert (embedder_weights() / "model.safetensors").is_file()
    assert not generator.is_unpacked(tmp_path)
    assert (tmp_path / "genuine.json").read_text().count("model.safetensors") == 1


@pytest.mark.parametrize("model", ["embedder", "generator"])
def test_other_weights_in_the_packages_place_are_refused(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(INSTEAD, raising=False)
    monkeypatch.setenv(MODELS_CACHE, str(tmp_path))
    for name in ("model.safetensors", "tokenizer.json", generator.FILE):
        (tmp_path / name).write_bytes(b"other weights")
    monkeypatch.setattr(tokens, "get_model_path", lambda: str(tmp_path))
    monkeypatch.setattr(generator, "find_spec", lambda _: SimpleNamespace(submodule_search_locations=[str(tmp_path)]))
    with pytest.raises(NotGenuine, match=f"The {model}'s weights at .* is not the released one"):
        embedder_weights() if model == "embedder" else generator.packaged(tmp_path)
