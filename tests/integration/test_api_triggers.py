"""Triggers of `headrace up`: a program is run for a tenant's documents, and what became of its events is shown everywhere."""

from __future__ import annotations

import json
from typing import Any

from shell import run
from traffic import until


def test_a_program_is_given_what_happens_to_documents(api: Any) -> None:
    written = api.home.path.parent / "events"
    api.tenant("triggered")
    client = api.client(api.mint("triggered", "read", "write")[0])

    def events() -> list[tuple[str, str]]:
        lines = written.read_text().splitlines() if written.exists() else []
        return [(event["type"], event["subject"]) for event in map(json.loads, filter(None, lines))]

    def shown() -> Any:
        [found] = api.client().get("/v1/triggers").raise_for_status().json()["data"]
        return found

    client.put("/v1/documents/gate.md", content=b"# Gate\n\nThe gate is open.\n").raise_for_status()
    until(60, lambda: events() == [("io.headrace.document.created", "gate.md")], lambda: (events(), shown()))
    client.delete("/v1/documents/gate.md").raise_for_status()
    until(60, lambda: ("io.headrace.document.deleted", "gate.md") in events(), lambda: (events(), shown()))
    until(20, lambda: shown()["done"] == 2, shown)
    assert (shown()["name"], shown()["action"], shown()["dead"]) == ("written", "command", 0)

    by_command = json.loads(run(api.home, "triggers", "--json").stdout)
    assert by_command["triggers"] == [shown()]
    built_in = api.client().get("/v1/triggers").json()["built_in"]
    assert by_command["built_in"] == built_in
    assert {step["name"]: step["on"] for step in built_in}.items() >= {
        "land": True,
        "index": True,
        "round": False,
        "canary": False,
    }.items()
    assert api.client().get("/v1/loop").json()["state"] == "off", "as the settings say"
    assert json.loads(run(api.home, "triggers", "dead", "written", "--json").stdout) == {"trigger": "written", "dead": []}
    assert "no such dead letter" in run(api.home, "triggers", "retry", "written", code=1).stderr
    assert "no trigger none" in run(api.home, "triggers", "dead", "none", code=1).stderr
    assert 'headrace_trigger_events{state="dead",trigger="written"} 0.0' in api.client().get("/metrics").text
    assert client.get("/v1/triggers").status_code == 403, "another's business"
