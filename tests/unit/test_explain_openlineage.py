"""OpenLineage events: valid by the specification's required keys, with the ledger's bytes."""

from __future__ import annotations

import json
import uuid
from datetime import datetime
from typing import Any

import pytest

from headrace.explain.openlineage import SCHEMA, events, run_id
from tests.measured_run import journal


def completed(**changes: Any) -> dict[str, dict[str, Any]]:
    """The last event of each stage, by the job's name."""
    return {event["job"]["name"]: event for event in events(journal(**changes)) if event["eventType"] != "START"}


def test_events_have_what_the_specification_requires() -> None:
    found = list(events(journal()))
    assert json.loads(json.dumps(found)) == found
    for event in found:
        assert event["schemaURL"] == SCHEMA
        assert event["producer"].startswith("https://")
        assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None
        uuid.UUID(event["run"]["runId"])
        assert event["job"]["namespace"] == "headrace"
        for dataset in (*event["inputs"], *event["outputs"]):
            assert dataset["namespace"]
            assert dataset["name"]
        facets = [*event["run"]["facets"].values()]
        facets += [facet for one in event["inputs"] for facet in one["inputFacets"].values()]
        facets += [facet for one in event["outputs"] for facet in one["outputFacets"].values()]
        assert all(facet["_producer"] and facet["_schemaURL"] for facet in facets)


def test_every_stage_starts_and_completes_under_its_run() -> None:
    stages = {row["stage"] for row in journal()["rows"]}
    found = list(events(journal()))
    for kind in ("START", "COMPLETE"):
        assert {event["job"]["name"] for event in found if event["eventType"] == kind} == {f"demo.{stage}" for stage in stages}
    parents = {event["run"]["facets"]["parent"]["run"]["runId"] for event in found}
    assert parents == {run_id("20261129-120000-demo-aaaa")}
    assert len({event["run"]["runId"] for event in found}) == len(stages)


def test_the_ledgers_bytes_are_all_there() -> None:
    for side, direction in (("input", "read"), ("output", "write")):
        shown = sum(
            dataset[f"{side}Facets"]["headrace_storage"]["bytes"]
            for event in completed().values()
            for dataset in event[f"{side}s"]
        )
        assert shown == sum(row["bytes"] for row in journal()["rows"] if row["direction"] == direction)


def test_tenants_are_added_and_the_slower_percentile_is_kept() -> None:
    row = next(row for row in journal()["rows"] if row["stage"] == "put" and row["store"] == "documents")
    other = {**row, "tenant": "globex", "bytes": 1_000, "ops": 2, "p95_ms": 99.0, "estimated": True}
    (documents,) = completed(rows=[row, other])["demo.put"]["outputs"]
    facet = documents["outputFacets"]["headrace_storage"]
    assert (facet["bytes"], facet["operations"]) == (row["bytes"] + 1_000, row["ops"] + 2)
    assert (facet["p95_ms"], facet["estimated"]) == (99.0, True)
    assert documents["outputFacets"]["outputStatistics"]["size"] == facet["bytes"]


@pytest.mark.parametrize(
    ("behind", "namespace"),
    [
        (None, "s3://embedded"),
        ("embedded S3", "s3://embedded"),
        ("S3 at s3.acme.net:9000", "s3://s3.acme.net:9000"),
    ],
)
def test_a_dataset_is_named_by_where_it_is(behind: str | None, namespace: str) -> None:
    storage = {} if behind is None else {"object": behind}
    (documents,) = (one for one in completed(storage=storage)["demo.put"]["outputs"] if one["name"] == "documents")
    assert documents["namespace"] == namespace


def test_times_of_stages_are_taken_from_the_timeline() -> None:
    times = [{"stage": "put", "spans": [[1.5, 2.0, 1, 0.1], [4.0, 6.25, 1, 0.2]]}]
    found = [event["eventTime"] for event in events(journal(timeline=times)) if event["job"]["name"] == "demo.put"]
    assert found == ["2026-11-29T12:00:01.500000+00:00", "2026-11-29T12:00:06.250000+00:00"]


def test_a_run_that_had_nothing_to_learn_completes_its_stages() -> None:
    assert {event["eventType"] for event in events(journal(state="skipped"))} == {"START", "COMPLETE"}


def test_a_failed_run_completes_no_stage_and_a_running_one_ends_none() -> None:
    assert {event["eventType"] for event in events(journal(state="failed"))} == {"START", "ABORT"}
    assert {event["eventType"] for event in events(journal(state="running", ended=None))} == {"START"}
