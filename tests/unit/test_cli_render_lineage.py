"""`trace` and `forget` say what they are for, and refuse what they cannot do before anything is started."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace import cli
from headrace.cli import lineage
from headrace.lineage.forget.subject import DOCUMENT, USER, Subject

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.upper().startswith("HEADRACE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "stdin", io.StringIO())

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["headrace", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["forget"], "Give one of --user ID, --document URI and --verify PROOF.json."),
        (["forget", "--user", "ann", "--document", "x.md"], "Give one of --user ID, --document URI and --verify PROOF.json."),
        (["forget", "--user", "", "--yes"], "The name is empty."),
        (["forget", "--user", "ann"], "Forgetting cannot be undone."),
    ],
)
def test_nothing_is_forgotten_by_a_slip(run: Run, tmp_path: Path, words: list[str], said: str) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.splitlines()[0] == said
    assert not (tmp_path / ".headrace").exists()


def test_a_proof_says_whether_it_was_modified(run: Run, tmp_path: Path) -> None:
    proof = {"forgotten": "document ä.md", "removed": [{"count": 1}], "kept": "proofs/1.json"}
    content = b'{"forgotten":"document \xc3\xa4.md","removed":[{"count":1}]}'
    proof["sha256"] = hashlib.sha256(content).hexdigest()
    file = tmp_path / "proof.json"
    file.write_text(json.dumps(proof, indent=1))
    assert run("forget", "--verify", str(file))[:2] == (0, f"The proof is unmodified: {file}\n")
    file.write_text(json.dumps({**proof, "removed": []}))
    assert run("forget", "--verify", str(file))[:2] == (1, f"The proof was modified: {file}\n")
    code, out, _ = run("forget", "--verify", str(file), "--json")
    assert (code, json.loads(out)) == (1, {"unmodified": False, "sha256": proof["sha256"]})
    for text in ("", "[]", "{}"):
        file.write_text(text)
        assert run("forget", "--verify", str(file))[0] == 2
    assert run("forget", "--verify", str(tmp_path / "none"))[0] == 1


@pytest.mark.parametrize(
    ("command", "sentence", "options"),
    [
        ("trace", "Trace an answer back to the verdicts behind it", ["--json"]),
        (
            "forget",
            "Remove a user's data or a document for good",
            ["--user", "--document", "--tenant", "--yes", "--output", "--verify", "--json"],
        ),
    ],
)
def test_help_says_what_they_do_and_how_they_are_called(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str, sentence: str, options: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run(command, "--help")
    assert code == 0
    assert sentence in " ".join(out.split())
    assert set(re.findall(r"--[a-z]+", out)) - {"--help"} == set(options)
    assert ("ANSWER_ID|TOPIC/PARTITION/OFFSET" in out) is (command == "trace")


def test_forgetting_a_document_says_that_its_file_brings_it_back(capsys: pytest.CaptureFixture[str]) -> None:
    proof = {"id": "p", "sha256": "0" * 64, "removed": [], "remains": [], "learned": [], "retrain": []}
    lineage._say(Subject(DOCUMENT, "acme", "a.md"), proof)
    assert "the next `headrace index` of the folder brings it back" in capsys.readouterr().out
    lineage._say(Subject(USER, "acme", "ann"), proof)
    assert "headrace index" not in capsys.readouterr().out
