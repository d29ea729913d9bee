"""What was taken over the API outlives the process that took it: documents are indexed, and the audit has its lines once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from conftest import Home
from serving import started


def test_a_document_that_was_taken_is_indexed_by_the_next_process(
    home: Home, tmp_path: Path, within: Callable[[float, Callable[[], bool]], bool]
) -> None:
    first = started(home, tmp_path / "first.log")
    try:
        first.tenant("acme")
        key, key_id = first.mint("acme", "read", "write")
        first.client(key).put("/v1/documents/pump.md", content=b"# Pump\n\nThe pump is blue.\n").raise_for_status()
    finally:
        first.kill()
    second = started(home, tmp_path / "second.log")
    try:
        client = second.client(key)
        assert within(60, lambda: client.get("/v1/documents/pump.md").status_code == 200)
        assert second.indexed(client, "pump.md")["status"] == "indexed"
        found = client.post("/v1/search", json={"question": "Which colour is the pump?"}).json()["passages"]
        assert "blue" in found[0]["text"]
        assert second.stop() == 0, second.log.read_text()
    finally:
        second.kill()
    rows = home.sql(f"SELECT action, count(*) AS n FROM audit WHERE resource IN ('pump.md', 'acme/{key_id}') GROUP BY action")
    counts = {row["action"]: row["n"] for row in rows}
    assert counts["key.mint"] == counts["document.put"] == 1
