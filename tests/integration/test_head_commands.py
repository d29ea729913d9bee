"""What a person sees of the head: `headrace head`, and `headrace land` that follows it until Ctrl-C."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from headrace import cli
from headrace.catalog import FEEDBACK, FEEDBACK_ROWS
from headrace.platform.home import Home as PlatformHome
from headrace.platform.state import read_state
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.stream.writer import TopicWriter
from headrace.storage.tables.handles import TableReader

if TYPE_CHECKING:
    from conftest import Home

Said = tuple[int, str, str]


@pytest.fixture
def run(home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """The command in that home, in this process: (exit code, standard output, standard error)."""
    monkeypatch.setattr("headrace.storage.stream.reader._ONE_RECORD_S", 1.0)  # for which a record is looked for that is not there
    for name, value in home.env.items():
        if name.startswith("HEADRACE_") or name == "COLUMNS":
            monkeypatch.setenv(name, value)

    def run(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["headrace", "--home", str(home.path), *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def put(endpoints: Endpoints, *numbers: int) -> None:
    rows = [
        {
            "verdict_id": f"v{n}",
            "answer_id": f"a{n}",
            "tenant": "acme",
            "user": "ann",
            "simulated": False,
            "up": True,
            "chunk_id": "",
            "reason": "",
            "correction": "",
            "at": datetime.now(UTC),
        }
        for n in numbers
    ]
    TopicWriter(FEEDBACK, endpoints, Meter(Ledger(), "test")).append(rows, key="answer_id")


def test_the_head_is_shown_followed_and_refused(home: Home, run: Callable[..., Said], within: Any) -> None:
    def sql(query: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(run("sql", query, "--json")[1])["rows"]
        return rows

    def feedback() -> dict[str, Any]:
        (shown,) = [one for one in json.loads(run("head", "--json")[1])["partitions"] if one["topic"] == "feedback"]
        return dict(shown)

    process = home.start("land")
    try:
        assert within(60, lambda: read_state(PlatformHome(home.path)) is not None)
        state = read_state(PlatformHome(home.path))
        assert state is not None
        endpoints = state.endpoints
        landed = TableReader(FEEDBACK_ROWS, endpoints, Meter(Ledger(), "test")).count
        put(endpoints, *range(5))
        assert within(30, lambda: landed() == 5)
        shown = feedback()
        assert (shown["landed"], shown["lag"], shown["bytes"], shown["trouble"]) == (5, 0, 0, "")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert out.splitlines()[-1] == "Landed 5 feedback."

    process = home.start("land", "--json")
    try:
        put(endpoints, 5)
        assert within(30, lambda: landed() == 6)
        admin = AdminClient({"bootstrap.servers": endpoints.kafka_bootstrap})
        admin.delete_topics([FEEDBACK.name])[FEEDBACK.name].result(20)
        admin.create_topics([NewTopic(FEEDBACK.name, num_partitions=1)])[FEEDBACK.name].result(20)
        put(endpoints, 6, 7)
        code, _, err = run("land", "--once")
        assert code == 1
        assert "feedback/0 has stopped landing (recreated)" in err
        assert "headrace land --accept-new-head feedback/0" in err
        assert "recreated" in feedback()["trouble"]
        assert "feedback/0: recreated" in run("head")[1]
        assert sql("select kind, action from divergences") == [{"kind": "recreated", "action": "stopped"}]
        code, _, err = run("land", "--once", "--accept-new-head", "feedback/0")
        assert code == 0, err
        assert "continues at offset 0 of the new head; its rows have the topic 'feedback@02'" in err
        found = sql('select topic, "offset", verdict_id from feedback order by topic, "offset"')
        assert [(row["topic"], row["offset"]) for row in found][-2:] == [("feedback@02", 0), ("feedback@02", 1)]
        assert sql("select action, who from divergences where action = 'resolved'")[0]["who"] != ""
        code, _, err = run("land", "--once", "--accept-gap", "feedback/0")
        assert (code, "has not stopped" in err) == (2, True)
        code, _, err = run("land", "--once", "--accept-gap", "other/0")
        assert (code, "There is no partition" in err) == (1, True)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=200)
    finally:
        process.kill()
    assert json.loads(out.splitlines()[-1])["landed"] == 1, "what came before it was refused"
