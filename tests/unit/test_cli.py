"""The command line's contract: exit codes, one sentence and a hint, JSON alone on standard output."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from child import as_another_user
from conftest import Imported
from measured_run import journal

from headrace import __version__, cli
from headrace.catalog import DOCUMENTS
from headrace.check.provenance import measured_from
from headrace.cli.common import common
from headrace.core.run import recorded
from headrace.platform import open_platform
from headrace.platform.address import storage_names
from headrace.scheduler.status import Status
from headrace.settings import Settings
from headrace.storage.ledger import Direction


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.upper().startswith("HEADRACE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Run the command line in this process: (exit code, standard output, standard error)."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["headrace", *words])
        monkeypatch.setattr(common, "debug", False)  # as in a process of its own
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home in which something ran."""
    with recorded("index", tmp_path / "home") as ran:
        ran.ledger.count("put", DOCUMENTS, Direction.WRITE, bytes=2048, seconds=0.01, tenant="acme")
    return tmp_path / "home"


COMMANDS = ["demo", "up", "down", "index", "search", "land", "sql", "endpoints", "ask", "feedback", "train", "models", "promote"]
COMMANDS += ["rollback", "runs", "ledger", "diagram", "check", "completion", "replay", "trace", "forget", "loop"]
COMMANDS += ["maintain", "head", "reindex", "eval", "tenant", "key"]
WRONG = [
    ["frobnicate"],
    ["runs", "--frobnicate"],
    ["--frobnicate", "runs"],
    ["runs", "extra"],
    ["ask"],
    ["index"],
    ["feedback", "x"],
    ["feedback", "x", "--up", "--down"],
    ["train", "--recipe", "other"],
    ["train", "--on", "gpu"],
    ["demo", "--on", "gpu"],
    ["demo", "--questions", "many"],
    ["up", "--port", "70000"],
    ["ask", " "],
    ["search", ""],
    ["ask", "why?", "--tenant", "Not A Tenant"],
    ["runs", "--home"],
    ["diagram", "training"],
    ["completion", "csh"],
    ["ledger", "--by", "store"],
    ["check", "--only", "disk"],
    ["check", "--seconds", "0"],
    ["land", "--once", "--unsigned"],
]


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_wrong_words_end_with_2_and_a_sentence(run, words: list[str], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, err = run(*words)
    assert code == 2
    assert out == ""
    assert err.strip()
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["ledger"], "Nothing has run in this home yet.", "Try `headrace demo`."),
        (
            ["ledger", "x"],
            "There is no run 'x'.",
            "See `headrace runs`; older ones are in the tables `runs` and `ledger` (headrace sql).",
        ),
        (["index", "nowhere"], "nowhere does not exist.", "Name a file or a folder."),
        (["promote", "judge", "v1"], "There is no model 'judge'.", "Models: ranking, reranker, embedder, generator."),
        (["rollback", "judge"], "There is no model 'judge'.", "Models: ranking, reranker, embedder, generator."),
    ],
)
def test_a_failure_is_a_sentence_and_a_hint(run, words: list[str], message: str, hint: str) -> None:  # type: ignore[no-untyped-def]
    code, out, err = run(*words)
    assert code == 1
    assert out == ""
    assert err.splitlines() == [message, hint]


@pytest.mark.parametrize("command", ["ask", "search"])
def test_a_question_in_an_empty_home_starts_nothing(run, tmp_path: Path, command: str) -> None:  # type: ignore[no-untyped-def]
    said = ["No document has been indexed yet.", "Index some first: headrace index PATH, or headrace demo."]
    code, out, err = run(command, "why?")
    assert (code, out, err.splitlines()) == (1, "", said)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".headrace" / "objects").mkdir(parents=True)
    code, out, err = run(command, "why?")
    assert (code, out, err.splitlines()) == (1, "", said), "as after a reset"


def test_a_repository_that_is_not_read_is_refused_before_anything_starts(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, err = run("index", "git+ssh://git@example.net/x", "--follow")
    assert (code, out) == (2, "")
    assert err.startswith("git+ssh://git@example.net/x cannot be read: a Git repository is git+https://HOST/PATH")
    assert list(tmp_path.iterdir()) == []


def test_a_word_that_is_no_text_is_refused(run) -> None:  # type: ignore[no-untyped-def]
    code, _, err = run("search", "\udcff")
    assert code == 2
    assert err.splitlines() == ["'\\udcff' is not text in this terminal's encoding.", "Type it as UTF-8."]


def test_debug_shows_where_it_happened(run) -> None:  # type: ignore[no-untyped-def]
    for words in (["--debug", "ledger"], ["ledger", "--debug"]):
        code, out, err = run(*words)
        assert code == 1
        assert out == ""
        assert "Traceback (most recent call last)" in err
        assert err.splitlines()[-2:] == ["Nothing has run in this home yet.", "Try `headrace demo`."]


def test_a_home_that_may_not_be_read_is_named(run) -> None:  # type: ignore[no-untyped-def]
    run("ask", "why?")  # imports what the other user may not

    def ask(folder: Path) -> None:
        os.chdir(folder)
        (folder / ".headrace").mkdir(mode=0)
        code, out, err = run("ask", "why?")
        assert (code, out) == (1, "")
        assert ".headrace/objects: Permission denied." in err
        assert "Check the path, who owns it, and its mode." in err

    as_another_user(ask)


def test_what_nobody_foresaw_is_a_sentence_too(run, home: Path) -> None:  # type: ignore[no-untyped-def]
    (journal,) = (home / "runs").glob("*.json")
    journal.write_text('{"started": "x"}')
    code, out, err = run("runs", "--home", str(home))
    assert code == 1
    assert out == ""
    assert "Unexpected error: KeyError" in err
    assert "--debug" in err
    assert "Traceback" not in err


def test_settings_that_are_off_end_with_2(run) -> None:  # type: ignore[no-untyped-def]
    Path("headrace.toml").write_text("[inference]\nchunk_token = 3")
    code, out, err = run("runs")
    assert code == 2
    assert out == ""
    assert "inference.chunk_token" in err
    assert "Traceback" not in err


def test_a_home_that_cannot_be_made_is_a_failure(run) -> None:  # type: ignore[no-untyped-def]
    Path("file").touch()
    code, _, err = run("land", "--once", "--home", "file/home")
    assert code == 1
    assert "--home DIR" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("words", [["runs", "--json"], ["ledger", "--json"]], ids=" ".join)
def test_json_is_one_document_and_nothing_else(run, home: Path, words: list[str]) -> None:  # type: ignore[no-untyped-def]
    code, out, err = run(*words, "--home", str(home))
    assert code == 0
    assert err == ""
    assert isinstance(json.loads(out), dict)


def test_the_ledgers_json_has_the_keys_of_the_contract(run, home: Path) -> None:  # type: ignore[no-untyped-def]
    shown = json.loads(run("--home", str(home), "ledger", "--json")[1])
    (row,) = shown["rows"]
    assert {"stage", "store", "tier", "direction", "ops", "bytes", "p50_ms", "p95_ms", "estimated"} <= set(row)
    assert (row["stage"], row["store"], row["bytes"]) == ("put", "documents", 2048)


def test_the_ledger_is_added_up_by_tier_stage_or_tenant(run, home: Path) -> None:  # type: ignore[no-untyped-def]
    with recorded("ask", home) as ran:
        for tenant, seconds in (("acme", 0.01), ("acme", 0.01), ("apex", 1.0)):
            ran.ledger.count("put", DOCUMENTS, Direction.WRITE, bytes=100, seconds=seconds, tenant=tenant)
        ran.ledger.count("parse", DOCUMENTS, Direction.READ, bytes=7, seconds=0.1)
    shown = json.loads(run("--home", str(home), "ledger", "--by", "tier", "--json")[1])
    assert (shown["run"], shown["by"]) == (ran.id, "tier")
    write, read = shown["rows"]
    wanted = {"stage", "store", "tier", "direction", "tenant", "ops", "bytes", "p50_ms", "p95_ms", "max_ms", "estimated"}
    assert set(write) == wanted | {"ops_per_s", "bytes_per_s"}
    assert (write["tier"], write["direction"], write["ops"], write["bytes"]) == ("object", "write", 3, 300)
    assert 10 <= write["p50_ms"] <= 11, "two of three were quick"
    assert write["p95_ms"] == write["max_ms"] == 1000
    assert (read["direction"], read["bytes"]) == ("read", 7)
    by_tenant = json.loads(run("--home", str(home), "ledger", ran.id, "--by", "tenant", "--json")[1])["rows"]
    assert {(row["tenant"], row["direction"], row["bytes"]) for row in by_tenant} == {
        ("acme", "write", 200),
        ("apex", "write", 100),
        ("", "read", 7),
    }
    code, out, _ = run("--home", str(home), "ledger", "--by", "tenant")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[1] == ["tenant", "direction", "ops", "bytes", "p50", "p95", "max", "ops/s", "bytes/s"]
    assert ["acme", "write", "2", "200", "B", "10", "ms", "10", "ms", "10", "ms"] in [line[:11] for line in lines]
    assert lines[-1][:3] == ["no", "tenant", "read"]


def test_a_run_without_histograms_is_not_added_up(run, home: Path) -> None:  # type: ignore[no-untyped-def]
    (journal,) = (home / "runs").glob("*.json")
    kept = json.loads(journal.read_text())
    del kept["ledger"]
    journal.write_text(json.dumps(kept))
    code, out, err = run("--home", str(home), "ledger", "--by", "tier")
    assert (code, out) == (1, "")
    assert f"headrace ledger {kept['run']}" in err
    assert "put" in run("--home", str(home), "ledger")[1]


def test_the_home_may_stand_anywhere(run, home: Path) -> None:  # type: ignore[no-untyped-def]
    ways = [
        ["--home", str(home), "runs", "--json"],
        [f"--home={home}", "runs", "--json"],
        ["runs", "--home", str(home), "--json"],
        ["runs", "--json", f"--home={home}"],
    ]
    for words in ways:
        assert len(json.loads(run(*words)[1])["runs"]) == 1
    assert json.loads(run("runs", "--json")[1]) == {"runs": []}


def test_words_behind_two_dashes_are_left_alone() -> None:
    assert cli._options_first(["ask", "--debug", "--", "--home", "x"]) == (["--debug"], ["ask", "--", "--home", "x"])


@pytest.mark.parametrize(("called", "commands", "groups"), [("runs", 1, 0), ("tenant", 0, 1)])
def test_a_command_is_built_without_the_others(called: str, commands: int, groups: int) -> None:
    chosen = cli._with_only([called])
    assert (len(chosen.registered_commands), len(chosen.registered_groups)) == (commands, groups)
    assert len(cli.cli.registered_commands) > 20, "the command line itself stays whole"
    assert cli._with_only(["frobnicate"]) is cli._with_only([]) is cli.cli


def test_runs_are_listed_newest_first_and_as_many_as_asked(run, home: Path) -> None:  # type: ignore[no-untyped-def]
    with recorded("ask", home):
        pass
    found = json.loads(run("--home", str(home), "runs", "--json")[1])["runs"]
    assert [one["command"] for one in found] == ["ask", "index"]
    assert all(one["seconds"] is not None and one["state"] == "done" for one in found)
    assert [one["command"] for one in json.loads(run("--home", str(home), "runs", "--last", "1", "--json")[1])["runs"]] == ["ask"]
    code, out, _ = run("--home", str(home), "runs")
    assert code == 0
    assert found[1]["run"] in out
    assert max(map(len, out.splitlines())) <= 80
    assert found[1]["bytes"] == 2048
    assert found[1]["questions"] == 0


def test_a_ledger_fits_80_columns_and_says_what_was_measured(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    settings = Settings(home=tmp_path / "home")
    (settings.home / "runs").mkdir(parents=True)
    with open_platform(settings, parts=frozenset()) as nowhere:
        named = {"storage": storage_names(settings, nowhere), "provenance": measured_from(settings, nowhere)}
    recorded = journal(**named)
    (settings.home / "runs" / f"{recorded['run']}.json").write_text(json.dumps(recorded))
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run("ledger", "--home", str(settings.home))
    assert code == 0
    tables, _, said = out.partition("By tier")
    assert max(len(line.rstrip()) for line in tables.splitlines()) <= 80
    assert "retrieve    8.9 s  921   268 MB    104  30.2 MB/s        1.6 MB" in tables
    assert "263 s; 1.1 GB; 4.3 MB/s and 5.8 operations/s over the run; 169 questions, 1.6 MB each" in said
    assert "object  embedded, http://127.0.0.1:0, bucket headrace" in said
    shown = json.loads(run("ledger", "--home", str(settings.home), "--json")[1])
    retrieved = next(row for row in shown["rows"] if row["stage"] == "retrieve")
    assert (retrieved["ops_per_s"], retrieved["bytes_per_s"]) == (103.5, round(retrieved["bytes"] / 8.9))
    assert {one["tier"]: one["where"] for one in shown["provenance"]["subjects"]}["file"] == str(settings.home / "files")
    assert shown["provenance"]["versions"]["python"] == platform.python_version()
    (listed,) = json.loads(run("runs", "--home", str(settings.home), "--json")[1])["runs"]
    assert {name: shown[name] for name in listed} == listed
    _, out, _ = run("runs", "--home", str(settings.home))
    assert "embedded Kafka, embedded S3, embedded Iceberg" in out


def test_a_person_sees_tables(run, home: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = run("ledger", "--home", str(home))
    assert code == 0
    assert "documents" in out
    assert "put" in out
    code, out, _ = run("runs", "--home", str(home))
    assert "index" in out
    assert "done" in out
    assert "Nothing has run" in run("runs")[1]


SLOW = {"pyiceberg", "pyarrow", "numpy", "pandas", "torch", "transformers", "lancedb", "duckdb", "obstore", "confluent_kafka"}
SLOW |= {"httpx", "fastapi", "sqlalchemy", "fontTools", "psutil", "requests", "headrace.answering", "headrace.training.trainer"}
LOOKING_BACK = SLOW - {"psutil", "pyarrow", "numpy"}


@pytest.mark.parametrize(
    ("words", "never"),
    [
        (["--help"], SLOW | {"pydantic"}),
        (["--version"], SLOW | {"pydantic"}),
        (["completion", "bash"], SLOW),
        (["down"], SLOW - {"psutil"}),
        (["runs"], LOOKING_BACK),
        (["ledger"], LOOKING_BACK),
        (["loop"], LOOKING_BACK),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_imports_what_it_needs(imported: Imported, home: Path, words: list[str], never: set[str]) -> None:
    found = imported(*words, "--home", str(home))
    assert "typer" in found
    assert sorted(never & found) == []


def test_garbage_is_looked_for_rarely_and_not_at_the_end(tmp_path: Path) -> None:
    program = (
        "import atexit, gc; before = gc.get_threshold(); seen = []; gc.callbacks.append(lambda phase, _: seen.append(phase));"
        "atexit.register(lambda: print(gc.get_freeze_count() > 10_000, gc.get_threshold() == before, seen.count('start')));"
        "import headrace.cli as c; seen.clear(); c.main()"
    )
    command = [sys.executable, "-c", program, "runs", "--home", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    frozen, as_before, collections = done.stdout.splitlines()[-1].split()
    assert (frozen, as_before) == ("True", "True")  # others call `main` in a process of theirs
    assert int(collections) < 20


def test_the_supervisor_starts_servers_before_it_imports_a_client_or_settings() -> None:
    code = "import sys, headrace.platform.supervisor; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert sorted({name for name in found if name in SLOW | {"headrace.settings", "cryptography"}}) == []


def test_version_and_help(run) -> None:  # type: ignore[no-untyped-def]
    assert run("--version") == (0, f"{__version__}\n", "")
    code, out, _ = run("--help")
    assert code == 0
    for command in COMMANDS:
        assert f" {command} " in out
    assert run("train", "--help")[0] == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_a_completion_script_is_printed(run, shell: str) -> None:  # type: ignore[no-untyped-def]
    code, said, _ = run("completion", shell)
    assert code == 0
    assert "_HEADRACE_COMPLETE" in said


def test_completion_completes_wherever_it_runs() -> None:
    asked = {"_HEADRACE_COMPLETE": "complete_bash", "COMP_WORDS": "headrace ro", "COMP_CWORD": "1"}
    command = Path(sys.executable).with_name("headrace")
    done = subprocess.run([command], capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **asked})
    assert done.stdout.split() == ["rollback"], done.stderr


def test_a_reader_that_stops_early_is_no_error(home: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = [sys.executable, "-m", "headrace.cli", "runs", "--json", "--home", str(home)]
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    finally:
        os.close(writing)
    assert done.returncode == 1
    assert done.stderr == ""


def test_a_connection_that_broke_does_not_end_the_command_silently() -> None:
    """Writing to a socket whose other end is gone must raise, not kill the process by a signal."""
    program = """
import socket, sys
from headrace import cli
def broken():
    ours, theirs = socket.socketpair()
    theirs.close()
    try:
        ours.send(b"x")
    except BrokenPipeError:
        print("raised")
cli.cli.command("broken")(broken)
sys.argv = ["headrace", "broken"]
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "raised\n")


def test_a_round_is_not_made_beside_one_of_the_loop(run, home: Path) -> None:  # type: ignore[no-untyped-def]
    current = {"number": 3, "recipe": "reranker", "stage": "finetune", "step": 12, "steps": 96, "eta_s": 40, "resumed": False}
    Status(home, state="training", round=current).flush()  # this process stands for the loop's
    code, said, told = run("--home", str(home), "train")
    assert (code, said) == (1, "")
    assert "Round 3 (reranker): finetune, step 12 of 96, about 40 s left in this stage." in " ".join(told.split())
    assert "headrace loop" in told


def test_an_unknown_quota_is_refused_with_the_known_ones(run, home: Path) -> None:  # type: ignore[no-untyped-def]
    code, said, told = run("--home", str(home), "tenant", "add", "acme", "--quota", "speed=1", "--quota", "keys=0")
    words = " ".join(told.split())
    assert (code, said) == (2, "")
    assert "there is no quota 'speed'" in words
    assert "keys: Input should be greater than or equal to 1" in words
    assert "Known quotas: requests_per_minute, questions, documents, " in words
    assert not (home / "metadata.db").exists(), "nothing was added"


def test_a_home_without_tenants_names_the_one_that_commands_use(run, home: Path) -> None:  # type: ignore[no-untyped-def]
    code, said, _ = run("--home", str(home), "tenant", "list")
    assert (code, said) == (0, "Commands use the tenant 'default'. No other was added yet: headrace tenant add NAME\n")
