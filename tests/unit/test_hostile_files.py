"""Files that a command is given and that nobody wrote for it: each is a sentence with what to do, and no traceback."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from headrace.catalog import Tier
from headrace.check.promise import Finding, Outcome
from headrace.check.provenance import SCHEMA
from headrace.check.report import CheckReport, compared, load_baseline
from headrace.check.workloads.workload import WorkloadResult
from headrace.errors import HeadraceError
from headrace.explain.deck.brand import load_brand
from headrace.explain.kv.trace import read_trace
from headrace.explain.sizing.models import model_of
from headrace.settings import Settings
from headrace.settings.references import read_reference
from headrace.simulate import beir

JUNK: list[Any] = [
    None, {}, [], [1], [[]], [{}], "x", "", "\ud800", "1" * 6000, -1, 0, 0.5, True, 1e999, float("nan"), 10**300, {"a": [{}]},
]  # fmt: skip
DEEP, DIGITS = b"[" * 100_000, b"9" * 5_000
NO_JSON = [DEEP, b'{"a":' * 50_000, b"\xff", b"", DIGITS]
CONFIG: dict[str, Any] = {
    "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "head_dim": 128, "num_key_value_heads": 8,
    "kv_lora_rank": 0, "qk_rope_head_dim": 64, "layer_types": ["sliding_attention"], "sliding_window": 100, "vocab_size": 1000,
    "moe_intermediate_size": 3, "num_local_experts": 2, "num_experts_per_tok": 1, "parameters": 5, "text_config": None,
}  # fmt: skip
REQUEST = {"timestamp": 0, "input_length": 16, "output_length": 3, "hash_ids": [1]}
CHECK: dict[str, Any] = {
    "schema": SCHEMA,
    "promises": [{"tier": "file", "promise": "a lock", "outcome": "kept"}],
    "workloads": [
        {"tier": "file", "workload": "read", "failed": "", "concurrency": 1, "ops": 2, "bytes": 5} | {
        "ops_per_s": 1.0, "mib_per_s": 1, "p95_ms": 2}
    ],
}  # fmt: skip
NOW = CheckReport(
    provenance=None,  # type: ignore[arg-type]  # which is not compared
    seconds=1.0,
    findings=[Finding(Tier.FILE, "a lock", Outcome.BROKEN)],
    results=[WorkloadResult(Tier.FILE, "read", concurrency=1, ops=2, bytes=5)],
    requirements=[],
)


def changed(value: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of a document's values, its own among them."""
    yield where
    for name, below in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from changed(below, (*where, name))


def spoilt(document: Any) -> Iterator[bytes]:
    """The document with each of its values left out, and replaced by each that is wrong; and no documents."""
    for *path, last in filter(None, changed(document)):
        for value in (..., *JUNK):
            copy = deepcopy(document)
            below = copy
            for name in path:
                below = below[name]
            if value is ...:
                del below[last]
            else:
                below[last] = value
            yield json.dumps(copy).encode()
    yield from (json.dumps(value).encode() for value in JUNK)
    yield from NO_JSON


def against_baseline(path: Path) -> list[str]:
    return [f"{one.before.get('mib_per_s', 0):.1f} {one.before.get('outcome', '')}" for one in compared(NOW, load_baseline(path))]


@pytest.mark.parametrize(
    ("name", "document", "read"),
    [
        ("check.json", CHECK, against_baseline),
        ("config.json", CONFIG, lambda path: model_of(str(path))),
        ("trace.jsonl", REQUEST, lambda path: read_trace(path, block_tokens=16)),
    ],
)
def test_json_is_read_or_refused_in_a_sentence(
    tmp_path: Path, name: str, document: dict[str, Any], read: Callable[[Path], object]
) -> None:
    file = tmp_path / name
    file.write_bytes(json.dumps(document).encode())
    assert read(file), "else nothing is tried here"
    refused: list[str] = []
    for written in spoilt(document):
        file.write_bytes(written)
        try:
            read(file)
        except HeadraceError as error:
            refused.append(error.message)
    assert len(refused) > 50
    assert [message for message in refused if name not in message] == []


@pytest.mark.parametrize("name", ["pipe.json", "endless.json", "large.json", "folder.json"])
def test_what_never_ends_is_not_waited_for(tmp_path: Path, name: str) -> None:
    """`--brand`, `--baseline` and the like waited for a pipe that nobody writes to, and read a device until memory was full."""
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "endless.json").symlink_to("/dev/zero")
    (tmp_path / "folder.json").mkdir()
    with (tmp_path / "large.json").open("wb") as large:
        large.truncate(65 << 20)
    file = tmp_path / name
    (tmp_path / "brand.toml").write_text(f'logo = "{name}"')
    reads: list[Callable[[], object]] = [lambda: load_brand(file), lambda: load_brand(tmp_path / "brand.toml")]
    reads += [lambda: model_of(str(file)), lambda: load_baseline(file), lambda: read_reference(f"file:{file}")]
    for read in reads:
        with pytest.raises(HeadraceError, match=r"not a regular file|larger than|Is a directory"):
            read()


def test_a_pipe_that_the_shell_has_opened_is_read(tmp_path: Path) -> None:
    """As in `headrace deck --brand <(make-brand)`."""
    reading, writing = os.pipe()
    os.write(writing, b'name = "Mill"')
    os.close(writing)
    assert load_brand(Path(f"/dev/fd/{reading}")).name == "Mill"
    os.close(reading)


def test_a_beir_folder_of_pipes_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "corpus.jsonl")
    with pytest.raises(HeadraceError, match="not a regular file"):
        beir.read(tmp_path)


TOML = [b"a = " + DEEP, b"a = " + b"{a=" * 5_000, b"name = " + DIGITS, b"\xff", b"\0", b"a = [", b"colours = 1", b"limits = 1"]


@pytest.mark.parametrize("written", TOML, ids=range(len(TOML)))
def test_toml_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: bytes) -> None:
    file = tmp_path / "headrace.toml"
    file.write_bytes(written)
    monkeypatch.chdir(tmp_path)
    for read in (Settings.load, lambda: load_brand(file)):
        with pytest.raises(HeadraceError):
            read()


@pytest.mark.parametrize("value", ["localhost", "[" * 100_000, "nan"])
def test_a_list_of_the_environment_that_is_no_json_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_API__HOSTS", value)
    with pytest.raises(HeadraceError):
        Settings.load()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("qrels/test.tsv", b"q\ta\t" + DIGITS),
        ("qrels/test.tsv", "q\ta\t²".encode()),
        ("corpus.jsonl", b'{"_id": "\\ud800", "text": "b"}'),
        ("corpus.jsonl", b'{"_id": "c", "title": "\\ud800", "text": "b"}'),
        ("queries.jsonl", b'{"_id": "c", "text": ' + DIGITS + b"}"),
        ("queries.jsonl", DEEP),
    ],
)
def test_a_beir_folder_names_the_line_that_is_wrong(tmp_path: Path, name: str, line: bytes) -> None:
    (tmp_path / "qrels").mkdir()
    files = {"corpus.jsonl": b'{"_id": "a", "text": "b"}', "queries.jsonl": b'{"_id": "q", "text": "b"}'}
    files["qrels/test.tsv"] = b"query-id\tcorpus-id\tscore\nq\ta\t1"
    for file, written in files.items():
        (tmp_path / file).write_bytes(written)
    assert len(beir.read(tmp_path).questions) == 1
    (tmp_path / name).write_bytes(files[name] + b"\n" + line)
    with pytest.raises(HeadraceError, match=rf"{name}:[23] "):
        beir.read(tmp_path)
