"""What a person sees of the head: `headrace head`, and `headrace land` that follows it until Ctrl-C."""

from __future__ import annotations

import json
import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from confluent_kafka.admin import AdminClient, NewTopic

from headrace.catalog import FEEDBACK
from headrace.platform.home import Home as PlatformHome
from headrace.platform.state import read_state
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.topics import TopicWriter

if TYPE_CHECKING:
    from conftest import Home


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


def test_the_head_is_shown_followed_and_refused(home: Home, within: Any) -> None:
    process = home.start("land")
    try:
        assert within(60, lambda: read_state(PlatformHome(home.path)) is not None)
        state = read_state(PlatformHome(home.path))
        assert state is not None
        endpoints = state.endpoints
        put(endpoints, *range(5))
        assert within(30, lambda: home.sql("select count(*) as n from feedback")[0]["n"] == 5)
        (shown,) = [one for one in home.json("head")["partitions"] if one["topic"] == "feedback"]
        assert (shown["landed"], shown["lag"], shown["bytes"], shown["trouble"]) == (5, 0, 0, "")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert out.splitlines()[-1] == "Landed 5 feedback."

    process = home.start("land", "--json")
    try:
        assert within(60, lambda: read_state(PlatformHome(home.path)) is not None)
        state = read_state(PlatformHome(home.path))
        assert state is not None
        endpoints = state.endpoints
        put(endpoints, 5)
        assert within(30, lambda: home.sql("select count(*) as n from feedback")[0]["n"] == 6)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
        assert json.loads(out.splitlines()[-1])["landed"] == 1
    finally:
        process.kill()
    process = home.start("land")
    try:
        assert within(60, lambda: read_state(PlatformHome(home.path)) is not None)
        state = read_state(PlatformHome(home.path))
        assert state is not None
        endpoints = state.endpoints
        admin = AdminClient({"bootstrap.servers": endpoints.kafka_bootstrap})
        admin.delete_topics([FEEDBACK.name])[FEEDBACK.name].result(20)
        admin.create_topics([NewTopic(FEEDBACK.name, num_partitions=1)])[FEEDBACK.name].result(20)
        put(endpoints, 6, 7)
        refused = home.run("land", "--once", code=1)
        assert "feedback/0 does not land (recreated)" in refused.stderr
        assert "headrace land --accept-new-head feedback/0" in refused.stderr
        (shown,) = [one for one in home.json("head")["partitions"] if one["topic"] == "feedback"]
        assert "recreated" in shown["trouble"]
        assert "feedback/0: recreated" in home.run("head").stdout
        assert home.sql("select kind, action from refusals") == [{"kind": "recreated", "action": "stopped"}]
        accepted = home.run("land", "--once", "--accept-new-head", "feedback/0")
        assert "goes on at offset 0 of the new head, whose rows are called 'feedback@02'" in accepted.stderr
        found = home.sql('select topic, "offset", verdict_id from feedback order by topic, "offset"')
        assert [(row["topic"], row["offset"]) for row in found][-2:] == [("feedback@02", 0), ("feedback@02", 1)]
        assert home.sql("select action, who from refusals where action = 'accepted'")[0]["who"] != ""
        assert "is not refused" in home.run("land", "--once", "--accept-gap", "feedback/0", code=2).stderr
        assert "There is no partition" in home.run("land", "--once", "--accept-gap", "other/0", code=1).stderr
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
