"""The demo as a person meets it, and the commands that go on from it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Home

PARTS = (
    "1  Documents to index",
    "2  Questions to answers",
    "3  Verdicts",
    "SIMULATED user, no person",
    "4  One turn of the training loop",
    "5  The same questions again",
    "6  What moved where",
    "By tier",
    "Scores drawn from this run",
)
LEDGER_KEYS = {"stage", "store", "tier", "direction", "ops", "bytes", "p50_ms", "p95_ms", "estimated"}


@pytest.fixture(scope="module")
def shown(module_home: Home) -> str:
    return module_home.run(*module_home.demo()).stdout


def test_the_demo_tells_its_story_in_order(shown: str) -> None:
    places = [shown.find(part) for part in PARTS]
    assert -1 not in places, f"missing: {[part for part, place in zip(PARTS, places, strict=True) if place < 0]}\n{shown}"
    assert places == sorted(places)
    assert re.search(r"Indexed 12 documents → \d+ chunks → \d+ embeddings", shown)
    searches = re.search(r"8 searches, (\d+) passages liked, (\d+) disliked", shown)
    assert searches is not None
    assert int(searches[1]) > 0
    assert re.search(r"challenger (promoted|refused): .*held-out", shown)
    for tier in ("stream", "object", "table", "vector", "file"):
        assert re.search(rf"^{tier} .*\d", shown, re.M), tier


def test_both_scores_are_drawn(shown: str, module_home: Home) -> None:
    for name in ("inference", "training"):
        svg = (module_home.path.parent / "out" / f"{name}.svg").read_text(encoding="utf-8")
        png = (module_home.path.parent / "out" / f"{name}.png").read_bytes()
        assert svg.count("<text") > 30
        assert png.startswith(b"\x89PNG")
        assert len(png) > 20_000


def test_the_ledger_and_the_runs_have_the_keys_of_the_contract(shown: str, module_home: Home) -> None:
    runs = module_home.json("runs")["runs"]
    demo = next(run for run in runs if run["command"] == "demo")
    assert demo["state"] == "done"
    assert demo["bytes"] > 0
    found = module_home.json("ledger", demo["run"])
    assert found["run"] == demo["run"]
    assert all(set(row) >= LEDGER_KEYS for row in found["rows"])
    assert {row["tier"] for row in found["rows"]} == {"stream", "object", "table", "vector", "file"}
    assert not [row for row in found["rows"] if row["estimated"]]
    assert sum(row["bytes"] for row in found["rows"]) == demo["bytes"]


def test_questions_verdicts_and_turns_go_on_from_the_demo(shown: str, module_home: Home) -> None:
    found = module_home.json("search", "bearing of the pump at the upper station")
    assert len(found["passages"]) == 6
    wanted = {"chunk_id", "document", "text", "retrieval_score", "retrieval_rank", "rerank_score", "rerank_rank"}
    assert all(set(passage) >= wanted for passage in found["passages"])
    assert found["passages"][0]["document"] == "handbook/pump.md"

    answer = module_home.json("ask", "What was done to the pump at the upper station?")
    assert set(answer) >= {"answer_id", "answer", "citations", "model_version", "index_version", "timings_ms", "bytes"}
    assert answer["answer"]
    assert answer["timings_ms"]["total"] >= answer["timings_ms"]["first_token"] > 0
    assert {name.split("_")[0] for name in answer["bytes"]} >= {"vector", "stream"}

    assert "no answer 'nothing'" in module_home.run("feedback", "nothing", "--down", code=1).stderr
    place = module_home.json("feedback", answer["answer_id"], "--up", "--reason", "it's right")
    assert set(place) >= {"verdict_id", "topic", "partition", "offset"}

    trip = module_home.json("turn")
    assert trip["turn"] == 2
    assert trip["landed"]["feedback"] == 1
    landed = module_home.sql(f'select verdict_id, reason, up from feedback where "offset" = {place["offset"]}')
    assert landed == [{"verdict_id": place["verdict_id"], "reason": "it's right", "up": True}]
    archived = module_home.sql("select r.command, sum(l.bytes) as bytes from runs r join ledger l using (run) group by 1")
    demo = next(run for run in module_home.json("runs")["runs"] if run["command"] == "demo")
    assert next(row["bytes"] for row in archived if row["command"] == "demo") == demo["bytes"]

    models = module_home.json("models")
    assert models["champions"]["reranker"]["version"] == trip["serving"]

    given = module_home.json("endpoints")
    wanted = {"s3_endpoint", "s3_access_key", "s3_secret_key", "bucket", "catalog_uri", "warehouse", "kafka_bootstrap"}
    assert set(given) >= wanted | {"files_dir"}


def test_the_same_demo_again_skips_what_did_not_change(shown: str, module_home: Home, tmp_path: Path) -> None:
    before = module_home.sql("select count(*) as events from document_events")
    again = module_home.run(*module_home.demo(2), HEADRACE_INFERENCE__PASSAGES="1").stdout
    assert "12 files unchanged" in again
    assert module_home.sql("select count(*) as events from document_events") == before
    rows: list[dict[str, Any]] = json.loads(module_home.run("ledger", "--json").stdout)["rows"]
    assert rows, "the newest run is the query above"
    assert module_home.run("score", "training", "-o", tmp_path / "score.md").stdout.startswith("Wrote")
    assert (tmp_path / "score.md").stat().st_size > 500


def test_sql_gives_times_sums_and_joins_as_they_are(shown: str, module_home: Home) -> None:
    assert 'Put "at" and "offset" in double quotes' in module_home.run("sql", "select min(at) from runs", code=2).stderr
    events = module_home.sql('select min("at") as first, sum(bytes) as size from DOCUMENT_EVENTS')
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?\+00:00", events[0]["first"])
    assert events[0]["size"] == sum(path.stat().st_size for path in module_home.docs.iterdir())
    joined = module_home.sql("select count(*) as pairs from documents join chunks using (document_id, version)")
    assert joined == [{"pairs": 72}]
    assert module_home.sql("select uri from documents where uri = 'nothing'") == []
    assert "Only one SELECT" in module_home.run("sql", "drop table chunks", code=2).stderr


def test_a_document_is_forgotten_and_the_audit_says_so_without_its_name(shown: str, module_home: Home) -> None:
    proof = module_home.json("forget", "--document", "handbook/weir.md", "--yes")
    assert module_home.sql("select count(*) as held from chunks where uri = 'handbook/weir.md'") == [{"held": 0}]
    who = {"tenant": proof["subject"]["tenant"], "key_id": proof["who"], "action": "document.forget"}
    assert module_home.sql("select tenant, key_id, action, resource, outcome from audit") == [
        {**who, "resource": proof["kept"], "outcome": "done"}
    ]
