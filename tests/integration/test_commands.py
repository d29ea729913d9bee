"""Commands one after another, as a person types them: on the same warm servers, and ended in good order by whichever signal."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.exceptions import OAuthError, RESTError
from serving import started
from shell import as_json, on_terminal, run

from headrace.platform.home import Home as PlatformHome
from headrace.platform.state import State, read_state

if TYPE_CHECKING:
    from conftest import Home, Imported
    from serving import Api

Within = Callable[[float, Callable[[], bool]], bool]


def state(home: Home) -> State:
    found = read_state(PlatformHome(home.path))
    assert found is not None
    return found


def test_commands_in_a_row_use_the_same_servers_until_they_are_ended(home: Home, imported: Imported) -> None:
    assert home.sql("select 1 as one") == [{"one": 1}]
    before = state(home)
    assert home.sql("select count(*) as n from feedback") == [{"n": 0}]
    shown = home.json("endpoints")
    assert (shown["s3_endpoint"], shown["idle_s"]) == (before.endpoints.s3_endpoint, 120)
    assert state(home) == before

    # A query of no table and landing do without what they do not need.
    slow = {"torch", "transformers", "lancedb", "headrace.answering", "headrace.training.trainer", "fontTools"}
    slow |= {f"headrace.models.{module}" for module in ("client", "connection", "tokens", "kv", "extract", "server")}
    where = {name: value for name, value in home.env.items() if name.startswith("HEADRACE_")}
    found = imported("sql", "select 1", "--home", str(home.path), **where)
    assert sorted(found & (slow | {"pyiceberg", "obstore", "confluent_kafka", "httpx", "requests", "pandas"})) == []
    assert "duckdb" in found
    assert sorted(imported("land", "--once", "--home", str(home.path), **where) & slow) == []
    assert state(home) == before

    told = home.run("rollback", "generator", code=1).stderr.splitlines()
    assert told == ["generator has no earlier version to go back to.", "See `headrace models`."]
    assert home.json("down") == {"home": str(home.path), "ended": ["head", "objects"]}
    assert home.processes() == []
    assert home.run("down").stdout == f"No embedded servers are running in {home.path}.\n"


def test_indexing_a_text_imports_no_reader_of_other_formats_and_nothing_that_serves_or_trains(
    module_home: Home, imported: Imported, tmp_path: Path
) -> None:
    (file := tmp_path / "sluice.md").write_text("# Sluice\n\nThe sluice is opened on Mondays.\n")
    where = {name: value for name, value in module_home.env.items() if name.startswith("HEADRACE_")}
    found = imported("index", str(file), "--home", str(module_home.path), **where)
    never = {"torch", "transformers", "sentence_transformers", "peft", "datasketch", "scipy", "sklearn", "ray", "huggingface_hub"}
    never |= {"fastapi", "starlette", "uvicorn", "prometheus_client", "opentelemetry", "cryptography", "duckdb", "sqlalchemy"}
    never |= {
        "markitdown",
        "pypdfium2",
        "pdfplumber",
        "openpyxl",
        "pptx",
        "mammoth",
        "lxml",
        "bs4",
        "striprtf",
        "boto3",
        "jinja2",
    }
    never |= {"pyparsing", "strictyaml", "click", "overrides", "psutil", "httpx_sse"}
    never |= {
        "reportlab",
        "fontTools",
        "resvg_py",
        "headrace.answering",
        "headrace.api",
        "headrace.scheduler",
        "headrace.simulate",
    }
    never |= {
        "headrace.training.trainer",
        "headrace.registry",
        "headrace.lineage",
        "headrace.explain.deck",
        "headrace.models.server",
    }
    assert sorted(found & never) == []
    own = {name for name in found if name.startswith("headrace.")}
    assert len(own) <= 195, "each costs a millisecond whenever a command starts"


def test_what_runs_in_a_home_does_not_run_in_its_copy(module_home: Home, tmp_path: Path) -> None:
    """A command in a copy of a home in use indexed into the original, and `down` there ended the original's servers."""
    home = module_home
    home.run("sql", "select 1")
    before = state(home)
    copied = tmp_path / "restored"
    shutil.copytree(home.path, copied, ignore=shutil.ignore_patterns("objects", "models-cache"))
    copy = replace(home, path=copied)
    assert copy.run("down").stdout == f"No embedded servers are running in {copied}.\n"
    assert state(home) == before
    assert before.supervisor.alive
    assert copy.json("endpoints")["s3_endpoint"] != home.json("endpoints")["s3_endpoint"]
    assert copy.json("down") == {"home": str(copied), "ended": ["head", "objects"]}
    assert state(home) == before
    assert all(child.alive for child in before.children.values())


def test_the_idle_time_is_said_where_a_terminal_looks_on(home: Home) -> None:
    told = b"They stay up until 120 s after the last command; `headrace down` ends them."
    said = [told in b" ".join(on_terminal(home, "sql", "select 1").split()) for _ in range(2)]
    assert said == [True, False], "it is said when the servers start, and then no more"


def test_other_programs_read_the_tables_with_what_endpoints_prints(module_home: Home) -> None:
    shown = module_home.json("endpoints")
    own = {"uri": shown["catalog_uri"], "warehouse": shown["warehouse"], "oauth2-server-uri": shown["catalog_oauth2_server_uri"]}
    catalog = RestCatalog("other", credential=shown["catalog_credential"], **own)
    assert isinstance(catalog.list_namespaces(), list)
    with pytest.raises((OAuthError, RESTError)):
        RestCatalog("other", credential=f"{shown['s3_access_key']}:wrong", **own).list_namespaces()


FOLLOWED = "Landing events until Ctrl-C.\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_command_that_goes_on_ends_in_good_order(module_home: Home, within: Within, number: signal.Signals) -> None:
    home = module_home
    land = home.start("land")
    try:
        assert within(60, lambda: land.err.endswith(FOLLOWED)), land.err
        land.send_signal(number)
        out, err = land.communicate(timeout=200)
    finally:
        land.kill()
    assert (land.returncode, out, err.partition(FOLLOWED)[2]) == (0, "Landed nothing.\n", "")

    check = home.start("check", "--only", "file", "--seconds", "60")
    try:
        assert within(60, lambda: any((home.path / "files").glob("*"))), "it has a folder for what it writes"
        check.send_signal(number)
        out, err = check.communicate(timeout=200)
    finally:
        check.kill()
    assert (check.returncode, out) == (1, "")
    assert err == "Interrupted. All finished steps are kept; run the same command again to continue.\n"


def test_where_sigint_is_ignored_sigterm_ends_a_command(module_home: Home) -> None:
    home = module_home
    ignoring = (
        "import os, signal, sys; signal.signal(2, signal.SIG_IGN); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    words = [sys.executable, "-c", ignoring, "-m", "headrace.cli", "--home", str(home.path), "land"]
    process = subprocess.Popen(words, env=home.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert any(line == FOLLOWED for line in process.stderr), "it follows the head"
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=200)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, "Landed nothing.\n", "")


@pytest.mark.soak
def test_an_up_whose_servers_cannot_be_kept_up_ends_with_an_error(home: Home, tmp_path: Path, within: Within) -> None:
    api = started(home, tmp_path / "log", "--no-train")
    try:
        client = api.client()
        client.put("/v1/documents/pump.md", content=b"# Pump\n\nThe pump is greased on Mondays.").raise_for_status()
        assert api.indexed(client, "pump.md")["status"] == "indexed"

        def answer() -> int:
            return client.post("/v1/ask", json={"question": "When is the pump greased?"}).status_code

        assert answer() == 200
        before = state(home)
        os.kill(before.children["models"].pid, signal.SIGKILL)
        assert within(30, lambda: state(home).children["models"] != before.children["models"]), "it is started anew"
        assert state(home).supervisor == before.supervisor
        assert within(60, lambda: answer() == 200), api.log.read_text()
        os.kill(before.supervisor.pid, signal.SIGKILL)
        assert api.process.wait(90) == 1
        said = " ".join(api.log.read_text().split())
        assert "The embedded servers ended and could not be restarted." in said
        assert "supervisor.log says why" in said
        assert "Traceback" not in said
    finally:
        api.kill()


def test_a_command_uses_the_servers_of_a_running_up(api: Api) -> None:
    before = state(api.home)
    (row,) = api.home.sql("select 1 as one")
    assert row == {"one": 1}
    assert state(api.home) == before
    refused = api.home.run("down", code=1).stderr
    assert "Another command is using the platform" in refused
    assert state(api.home) == before
    assert json.loads(api.client().get("/health/ready").text)["status"] == "ok"


def test_questions_and_verdicts_go_through_a_running_up(api: Api) -> None:
    """So that no command loads models and opens storage beside it; a second `up` would do all of its work twice."""
    home = api.home
    document = home.path.parent / "vault.md"
    document.write_text("# The vault\n\nThe vault is opened at seven.")
    run(home, "index", document)
    before = {row["run"] for row in as_json(home, "runs")["runs"]}
    found = as_json(home, "search", "When is the vault opened?")
    assert found["passages"][0]["document"] == "vault.md"
    answer = as_json(home, "ask", "When is the vault opened?")
    assert answer["kind"] == "answer"
    assert answer["passages"][0]["number"] == 1
    said = run(home, "ask", "When is the vault opened?").stdout
    assert "vault.md" in said
    assert "judge it" in said
    assert "Recorded at feedback/" in run(home, "feedback", answer["answer_id"], "--up").stdout
    passage = found["passages"][0]["chunk_id"]
    assert "judge a passage" in run(home, "search", "When is the vault opened?").stdout
    assert "Recorded at" in run(home, "feedback", found["answer_id"], "--passage", passage, "--down").stdout
    wrong = run(home, "feedback", found["answer_id"], "--passage", "0" * 16, "--down", code=1)
    assert "not based on a chunk" in wrong.stderr
    assert "no answer" in run(home, "feedback", "0" * 16, "--up", code=1).stderr.lower()
    assert "no tenant" in run(home, "ask", "x", "--tenant", "nosuch", code=1).stderr.lower()
    assert "no tenant" in run(home, "feedback", answer["answer_id"], "--up", "--tenant", "nosuch", code=1).stderr.lower()
    assert {row["run"] for row in as_json(home, "runs")["runs"]} == before
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    assert "already" in run(home, "up", "--port", str(port), code=2).stderr
