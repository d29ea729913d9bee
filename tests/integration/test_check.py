"""`headrace check` on the embedded platform: every promise is kept, and nothing of the check stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import obstore
import pytest
from confluent_kafka.admin import AdminClient
from pyiceberg.catalog.rest import RestCatalog

from headrace import cli
from headrace.platform import home, open_platform
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
        "table": [".".join(name) for name in catalog.list_namespaces()],
        "stream": sorted(topics),
        "file": sorted(path.name for path in endpoints.files_dir.iterdir()),
    }


@pytest.fixture(autouse=True)
def eve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else can log in to this machine."""
    monkeypatch.setattr(home, "other_users", lambda: ["eve"])


WARNED = "other users (eve): they can read all events in the embedded Kafka"


def test_the_embedded_platform_keeps_every_promise(endpoints: Endpoints, check: Callable[..., tuple[int, str, str]]) -> None:
    before = everything(endpoints)
    code, out, err = check("--seconds", "1", "--json")
    assert code == 0, out + err
    found = json.loads(out)
    assert WARNED in found["other_users"]
    by_name = {(each["tier"], each["promise"]): each for each in found["promises"]}
    assert {tier for tier, _ in by_name} == {"object", "stream", "table", "file"}
    # The embedded head's known limits, none of which Headrace relies on; docs/reference/check.md names them.
    assert {name for (tier, name), each in by_name.items() if each["outcome"] != "kept"} == {
        "the reported end offset is correct",
        "offsets can be looked up by time",
        "records that have landed can be deleted",
    }
    assert (found["kept"], found["broken"], found["unknown"]) == (len(by_name) - 3, 0, 3)
    assert by_name["object", "small objects come back unchanged"]["figures"].keys() >= {"put_p50_ms", "get_p95_ms"}
    assert by_name["table", "a reader sees a commit at once"]["figures"]["commit_p95_ms"] > 0
    assert (
        everything(endpoints)
        == before
        == {
            "object": ["documents/theirs"],
            "lake": [],
            "table": [],
            "stream": [],
            "file": ["theirs"],
        }
    )


def test_one_tier_is_shown_as_a_table(check: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = check("--only", "file", "--seconds", "1")
    assert code == 0, out + err
    lines = out.splitlines()
    assert lines[1].split()[:2] == ["file", "✓"]
    assert "11 promises kept, 0 broken, 0 unknown." in out
    assert WARNED in " ".join(lines[-2:])
    assert "object" not in out


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
    code, _, err = check("--only", "vector")
    assert code == 2
    assert "object, stream, table, file" in err
