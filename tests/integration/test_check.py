"""`headrace check` on the embedded platform: every promise is kept, and nothing of the check stays behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest
from confluent_kafka.admin import AdminClient
from pyiceberg.catalog.rest import RestCatalog
from pypdf import PdfReader

from headrace import cli
from headrace.platform import home, open_platform
from headrace.platform.address import VECTORS
from headrace.settings import Settings
from headrace.storage.endpoints import Endpoints
from headrace.storage.objects import connect


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SETTINGS", "none.toml")
        settings = Settings(home=tmp_path_factory.mktemp("check") / "home")
        with open_platform(settings, parts=frozenset({"objects", "head"})) as endpoints:
            # What somebody else keeps there, and the check must not touch.
            obstore.put(connect(endpoints), "documents/theirs", b"kept")
            endpoints.files_dir.mkdir(parents=True)
            (endpoints.files_dir / "theirs").write_text("kept")
            yield endpoints


def start(endpoints: Endpoints, *words: str) -> subprocess.Popen[str]:
    """`headrace check` in the home of these endpoints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    return subprocess.Popen(
        [sys.executable, "-m", "headrace.cli", "--home", str(endpoints.files_dir.parent), "check", *words],
        env={**kept, "HEADRACE_SETTINGS": "none.toml", "COLUMNS": "160"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def check(
    endpoints: Endpoints, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """`headrace check` in this process: (exit code, standard output, standard error)."""
    monkeypatch.setenv("HEADRACE_SETTINGS", "none.toml")
    monkeypatch.setenv("COLUMNS", "160")

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["headrace", "--home", str(endpoints.files_dir.parent), "check", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def everything(endpoints: Endpoints) -> dict[str, list[str]]:
    """What the stores hold, by tier."""
    catalog = RestCatalog("test", uri=endpoints.catalog_uri, warehouse=endpoints.warehouse, **endpoints.catalog_properties)
    topics = AdminClient({"bootstrap.servers": endpoints.kafka_bootstrap, "log_level": 0}).list_topics(timeout=10).topics
    lake = connect(endpoints, endpoints.warehouse.removeprefix("s3://"))
    return {
        "object": [meta["path"] for page in obstore.list(connect(endpoints)) for meta in page],
        "lake": [meta["path"] for page in obstore.list(lake) for meta in page],
        "vector": [meta["path"] for page in obstore.list(connect(endpoints, VECTORS)) for meta in page],
        "table": [".".join(name) for name in catalog.list_namespaces()],
        "stream": sorted(topics),
        "file": sorted(path.name for path in endpoints.files_dir.iterdir()),
    }


@pytest.fixture(autouse=True)
def eve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else can log in to this machine."""
    monkeypatch.setattr(home, "other_users", lambda: ["eve"])


WARNED = "other users (eve): they can read all events in the embedded Kafka"


@pytest.mark.parametrize(
    "tiers",
    [
        pytest.param(("stream", "file"), id="two"),
        pytest.param(("object", "stream", "table", "vector", "file"), id="all", marks=pytest.mark.soak(minutes=0.7)),
    ],
)
def test_the_embedded_platform_keeps_every_promise_and_the_next_check_is_held_against_it(
    endpoints: Endpoints, check: Callable[..., tuple[int, str, str]], tmp_path: Path, tiers: tuple[str, ...]
) -> None:
    before = everything(endpoints)
    only = [word for tier in tiers for word in ("--only", tier)] if len(tiers) < 5 else []
    code, out, err = check(*only, "--seconds", "1", "--concurrency", "2", "--json")
    assert code == 0, out + err
    found = json.loads(out)
    assert WARNED in found["other_users"]
    by_name = {(each["tier"], each["promise"]): each for each in found["promises"]}
    assert {tier for tier, _ in by_name} == set(tiers)
    # The embedded head's known limits, none of which Headrace relies on; docs/reference/check.md names them.
    assert {name for (tier, name), each in by_name.items() if each["outcome"] != "kept"} == {
        "the reported end offset is correct",
        "offsets can be looked up by time",
        "records that have landed can be deleted",
    }
    assert (found["kept"], found["broken"], found["not_needed"], found["not_tested"]) == (len(by_name) - 3, 0, 2, 1)
    assert by_name["stream", "records that have landed can be deleted"]["outcome"] == "not_tested"
    # What was checked, from where; and every workload has figures.
    where = {one["tier"]: one["where"] for one in found["subjects"]}
    assert where.get("object", endpoints.s3_endpoint) == endpoints.s3_endpoint
    assert where["file"] == str(endpoints.files_dir)
    assert endpoints.s3_secret_key not in out
    assert [one for one in found["workloads"] if one["failed"] or not one["ops"] or one["p99_ms"] < one["p50_ms"]] == []
    assert {one["concurrency"] for one in found["workloads"]} == {1, 2}
    assert {one["tier"] for one in found["workloads"]} == set(where)
    assert "HSS14" in {one["id"] for one in found["requirements"]} <= {"DIR02", "HSS02", "HSS08", "HSS14"}
    assert json.loads((endpoints.files_dir.parent / "check.json").read_text()) == found
    if not only:
        assert len(found["requirements"]) == 4
        assert by_name["object", "small objects come back unchanged"]["figures"].keys() >= {"put_p50_ms", "get_p95_ms"}
        assert by_name["table", "a reader sees a commit at once"]["figures"]["commit_p95_ms"] > 0
    assert (
        everything(endpoints)
        == before
        == {
            "object": ["documents/theirs"],
            "lake": [],
            "vector": [],
            "table": [],
            "stream": [],
            "file": ["theirs"],
        }
    )
    the_next_check_is_shown_beside_it_and_as_a_report(endpoints, check, found, tmp_path)


def the_next_check_is_shown_beside_it_and_as_a_report(
    endpoints: Endpoints, check: Callable[..., tuple[int, str, str]], before: dict[str, Any], folder: Path
) -> None:
    """Of one tier, as a table."""
    next(each for each in before["promises"] if each["tier"] == "file")["outcome"] = "broken"
    (folder / "old.json").write_text(json.dumps(before))
    report = folder / "new" / "report.pdf"
    words = (
        "--only",
        "file",
        "--seconds",
        "1",
        "--concurrency",
        "2",
        "--baseline",
        str(folder / "old.json"),
        "--report",
        str(report),
    )
    code, out, err = check(*words)
    assert code == 0, out + err
    assert out.splitlines()[0].split()[:2] == ["file", str(endpoints.files_dir)]
    assert "11 promises kept, 0 broken." in out
    assert WARNED in " ".join(out.split())
    assert endpoints.s3_endpoint not in out
    assert "broken → kept" in out
    assert re.search(r"file: random read +\S+ → \S+ \(", out)
    text = "".join(page.extract_text() for page in PdfReader(report).pages)
    assert "11 promises kept" in text
    assert "HSS14" in text
    assert json.loads((endpoints.files_dir.parent / "check.json").read_text())["sha256"][:20] in text


@pytest.mark.soak(minutes=0.3)
def test_ctrl_c_leaves_nothing_behind(endpoints: Endpoints, within: Callable[[float, Callable[[], bool]], bool]) -> None:
    before = everything(endpoints)
    process = start(endpoints, "--only", "object", "--only", "file", "--seconds", "30")
    assert within(30, lambda: len(everything(endpoints)["object"]) > 50)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 1, out + err
    assert "Interrupted" in err
    assert everything(endpoints) == before


def test_a_tier_that_cannot_be_checked_is_refused(check: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = check("--only", "disk")
    assert code == 2
    assert "object, stream, table, vector, file" in err


def test_a_report_is_refused_before_anything_is_checked(check: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    code, out, err = check("--only", "file", "--report", str(tmp_path / "report.docx"))
    assert (code, out) == (2, "")
    assert ".md or .pdf" in err
    (tmp_path / "old.json").write_text('{"kept": 40}')
    code, out, err = check("--only", "file", "--baseline", str(tmp_path / "old.json"))
    assert (code, out) == (2, "")
    assert "headrace check --json" in err
