"""`headrace doctor` against real servers: what works, and each mistake in the settings with what to change."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import obstore
import pytest

from headrace import cli
from headrace.catalog import DOCUMENTS
from headrace.check.doctor import Diagnosis, diagnose
from headrace.errors import Unavailable
from headrace.platform import open_platform
from headrace.settings import Settings
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectWriter, connect


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SETTINGS", "none.toml")
        settings = Settings(home=tmp_path_factory.mktemp("doctor") / "home")
        with open_platform(settings, parts=frozenset({"objects", "head"})) as endpoints:
            yield endpoints


@pytest.fixture
def diagnosed(endpoints: Endpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Diagnoses by part, of settings that name these servers as one's own, with something changed."""
    monkeypatch.setenv("HEADRACE_SETTINGS", "none.toml")
    (tmp_path / "files").mkdir()

    def run(**changes: dict[str, Any]) -> dict[str, Diagnosis]:
        own: dict[str, dict[str, Any]] = {
            "objects": {
                "type": "s3",
                "endpoint": endpoints.s3_endpoint,
                "access_key": endpoints.s3_access_key,
                "secret_key": endpoints.s3_secret_key,
                "bucket": endpoints.bucket,
            },
            "tables": {
                "type": "rest",
                "uri": endpoints.catalog_uri,
                "warehouse": endpoints.warehouse,
                "properties": endpoints.catalog_properties,
            },
            "head": {"type": "kafka", "bootstrap": endpoints.kafka_bootstrap},
            "files": {"dir": str(tmp_path / "files")},
        }
        for part, change in changes.items():
            own[part] = {**own.get(part, {}), **change}
        return {one.part: one for one in diagnose(Settings(home=tmp_path / "home", **own))}  # type: ignore[arg-type]

    return run


def closed() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as gone:
        return int(gone.getsockname()[1])


def test_what_works_is_said_to_work_and_leaves_nothing_behind(diagnosed: Any, endpoints: Endpoints, tmp_path: Path) -> None:
    found = diagnosed()
    assert {name for name, one in found.items() if one.works} == {"objects", "tables", "head", "files"}
    assert {name for name, one in found.items() if one.works is None} == {
        "metadata",
        "models.embedder",
        "models.reranker",
        "models.generator",
    }
    assert not any(page for page in obstore.list(connect(endpoints), prefix="headrace-doctor"))
    assert not list((tmp_path / "files").iterdir())
    assert endpoints.s3_secret_key not in json.dumps([one.as_dict() for one in found.values()])


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("objects", {"bucket": "nosuch"}, "There is no bucket nosuch"),
        ("objects", {"access_key": "nosuch"}, "does not know this access key"),
        ("objects", {"secret_key": "nosuch"}, "the secret key does not belong"),
        ("objects", {"endpoint": "http://nosuch.invalid:80"}, "is not known on this machine"),
        ("tables", {"properties": {"token": "nosuch"}}, "rejects the credentials"),
        ("tables", {"uri": "http://nosuch.invalid:80"}, "is not known on this machine"),
        ("head", {"bootstrap": "nosuch.invalid:9092"}, "is not known on this machine"),
        ("files", {"dir": "/nosuch"}, "does not exist"),
        ("files", {"dir": "/dev/null"}, "is not a directory"),
    ],
)
def test_each_mistake_has_its_sentence_and_the_others_still_work(
    diagnosed: Any, part: str, change: dict[str, Any], said: str
) -> None:
    found = diagnosed(**{part: change})
    assert [name for name, one in found.items() if one.works is False] == [part]
    assert said in found[part].message
    assert found[part].hint


def test_a_closed_port_is_named_for_every_kind_of_server(diagnosed: Any) -> None:
    url = f"http://127.0.0.1:{closed()}"
    found = diagnosed(
        objects={"endpoint": url},
        tables={"uri": url},
        head={"bootstrap": url.removeprefix("http://")},
        models={"embedder": {"type": "endpoint", "url": f"{url}/v1", "model": "m"}},
    )
    for name in ("objects", "tables", "head", "models.embedder"):
        assert found[name].message == f"Nothing listens at {url.removeprefix('http://')}.", found[name]


def test_https_where_there_is_none_is_said_to_be_that(diagnosed: Any, endpoints: Endpoints) -> None:
    found = diagnosed(objects={"endpoint": endpoints.s3_endpoint.replace("http:", "https:")})
    assert "does not speak TLS" in found["objects"].message


def test_a_directory_that_may_not_be_written_is_said_to_be_that(diagnosed: Any) -> None:
    found = diagnosed(files={"dir": "/proc"})
    assert "cannot be written" in found["files"].message
    assert os.listdir("/proc")


def test_check_tells_a_wrong_setting_from_a_broken_promise(
    endpoints: Endpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"TYPE": "s3", "ENDPOINT": endpoints.s3_endpoint, "ACCESS_KEY": endpoints.s3_access_key, "BUCKET": "nosuch"}
    monkeypatch.setenv("HEADRACE_SETTINGS", "none.toml")
    monkeypatch.setenv("HEADRACE_OBJECTS__SECRET_KEY", endpoints.s3_secret_key)
    for name, value in own.items():
        monkeypatch.setenv(f"HEADRACE_OBJECTS__{name}", value)
    monkeypatch.setattr(sys, "argv", ["headrace", "--home", str(tmp_path / "home"), "check", "--only", "object"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().out
    assert ended.value.code == 1
    assert "There is no bucket nosuch" in said
    assert "No promise was tested." in said
    assert "Headrace would lose" not in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bucket": "nosuch"}, "There is no bucket nosuch"),
        ({"s3_access_key": "nosuch"}, "does not know this access key"),
        ({"s3_secret_key": "nosuch"}, "the secret key does not belong"),
        ({"s3_endpoint": "http://127.0.0.1:1"}, "nothing listens at 127.0.0.1:1"),
    ],
)
def test_every_use_of_the_object_store_says_the_same(endpoints: Endpoints, change: dict[str, str], said: str) -> None:
    store = ObjectWriter(DOCUMENTS, endpoints.model_copy(update=change), Meter(Ledger(), "test"))
    for use in (lambda: store.get("default/x"), lambda: store.put("default/x", b"1"), lambda: list(store.list("default/"))):
        with pytest.raises(Unavailable, match=said) as found:
            use()
        assert "[objects]" in found.value.hint
