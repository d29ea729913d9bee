"""What `headrace up` follows: a change in a folder is found by questions, and how far the index is behind is shown everywhere."""

from __future__ import annotations

import json
import shutil
from typing import Any

from shell import run
from traffic import until


def source(api: Any) -> dict[str, Any]:
    """What the service says of the one source it follows."""
    [shown] = api.client().get("/v1/sources").raise_for_status().json()["data"]
    return dict(shown)


def metrics(api: Any) -> dict[str, float]:
    """The source's metrics, without what they start with."""
    lines = [line for line in api.client().get("/metrics").text.splitlines() if line.startswith("headrace_source_")]
    return {line.partition("{")[0].removeprefix("headrace_source_"): float(line.rpartition(" ")[2]) for line in lines}


def test_changes_are_followed_and_held_up_ones_are_said(api: Any) -> None:
    folder = api.home.path.parent / "followed"
    (folder / "weir.md").write_text("# Weir\n\nThe weir is made of oak.")
    until(60, lambda: "no tenant" in source(api)["trouble"], lambda: source(api))
    assert source(api)["behind_s"] > 0
    assert metrics(api)["failing"] == 1

    api.tenant("followed")
    client = api.client(api.mint("followed", "read", "write")[0])

    def passages() -> set[str]:
        found = client.post("/v1/search", json={"question": "What is the weir made of?"}).raise_for_status().json()
        return {passage["text"].rpartition(" ")[2] for passage in found["passages"]}

    def in_step() -> bool:
        return not source(api)["behind_s"] and not source(api)["trouble"]

    until(90, in_step, lambda: source(api))
    assert passages() == {"oak."}
    (folder / "weir.md").write_text("# Weir\n\nThe weir is made of stone.")
    until(60, lambda: passages() == {"stone."}, lambda: source(api))
    until(60, in_step, lambda: source(api))
    assert source(api) == {"place": str(folder), "tenant": "followed", "documents": 1, "behind_s": 0.0, "trouble": ""}
    assert metrics(api) == {"behind_seconds": 0.0, "failing": 0.0}
    # Both are looked at until neither has a look at a file that changed a moment ago under way.
    until(60, lambda: json.loads(run(api.home, "status", "--json").stdout)["sources"] == [source(api)], lambda: source(api))

    assert client.get("/v1/sources").status_code == 403, "where a service keeps its documents is the operator's business"
    shutil.rmtree(folder)
    until(60, lambda: "does not exist" in source(api)["trouble"], lambda: source(api))
    assert passages() == {"stone."}, "a mount that is gone deletes nothing"
    folder.mkdir()
    until(90, in_step, lambda: source(api))
    assert passages() == {"stone."}
