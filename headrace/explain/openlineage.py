"""A run as OpenLineage events: one job per stage, its stores as datasets, what was moved as facets.

Each stage gives a START and a COMPLETE event with the run as parent, and ABORT instead of COMPLETE where the run did not end well
(the journal does not say in which stage). The standard facets for statistics hold the bytes; a facet of our own,
`headrace_storage`, adds tier, protocol, operations, latency, and whether they are estimated.
Specification: https://openlineage.io/spec/2-0-2/OpenLineage.json
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from headrace import __version__
from headrace.catalog import Tier

SCHEMA = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
PRODUCER = f"https://pypi.org/project/headrace/{__version__}"
_FACETS = "https://openlineage.io/spec/facets"
_STATISTICS = {
    "inputs": ("inputStatistics", f"{_FACETS}/1-0-0/InputStatisticsInputDatasetFacet.json"),
    "outputs": ("outputStatistics", f"{_FACETS}/1-0-2/OutputStatisticsOutputDatasetFacet.json"),
}
_PARENT = f"{_FACETS}/1-0-1/ParentRunFacet.json"
_PROTOCOLS = {
    Tier.STREAM: "kafka",
    Tier.OBJECT: "s3",
    Tier.TABLE: "iceberg",
    Tier.VECTOR: "lance",
    Tier.FILE: "file",
}


def events(journal: Mapping[str, Any], *, namespace: str = "headrace") -> Iterator[dict[str, Any]]:
    """The events of a run in the order of their times, JSON-ready; `namespace` is that of the jobs."""
    stages: dict[str, list[Mapping[str, Any]]] = {}
    for row in journal["rows"]:
        stages.setdefault(row["stage"], []).append(row)
    found = [event for stage, rows in stages.items() for event in _of_stage(journal, namespace, stage, rows)]
    yield from sorted(found, key=lambda event: str(event["eventTime"]))


def _of_stage(
    journal: Mapping[str, Any], namespace: str, stage: str, rows: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    began, ended = _times(journal, stage)
    run = str(journal["run"])
    parent = {
        "_producer": PRODUCER,
        "_schemaURL": _PARENT,
        "run": {"runId": run_id(run)},
        "job": {"namespace": namespace, "name": str(journal["command"])},
    }
    common = {
        "producer": PRODUCER,
        "schemaURL": SCHEMA,
        "run": {"runId": run_id(run, stage), "facets": {"parent": parent}},
        "job": {"namespace": namespace, "name": f"{journal['command']}.{stage}"},
    }
    datasets = {
        "inputs": [_dataset(journal, "inputs", row) for row in _summed(rows, "read")],
        "outputs": [_dataset(journal, "outputs", row) for row in _summed(rows, "write")],
    }
    yield {"eventType": "START", "eventTime": began.isoformat(), **common, "inputs": [], "outputs": []}
    if journal["state"] in ("done", "skipped"):
        yield {"eventType": "COMPLETE", "eventTime": ended.isoformat(), **common, **datasets}
    elif journal["state"] != "running":
        yield {"eventType": "ABORT", "eventTime": ended.isoformat(), **common, **datasets}


def run_id(run: str, stage: str = "") -> str:
    """The UUID of a run, or of a stage in it: the same for the same names."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"headrace:{run}:{stage}"))


def _times(journal: Mapping[str, Any], stage: str) -> tuple[datetime, datetime]:
    """When a stage began first and ended last; the run's own times where it recorded none."""
    started = datetime.fromisoformat(journal["started"])
    ended = datetime.fromisoformat(journal["ended"]) if journal.get("ended") else started
    for one in journal.get("timeline") or ():
        if one["stage"] == stage and one["spans"]:
            first, last = min(span[0] for span in one["spans"]), max(span[1] for span in one["spans"])
            return started + timedelta(seconds=first), started + timedelta(seconds=last)
    return started, ended


def _summed(rows: Sequence[Mapping[str, Any]], direction: str) -> list[dict[str, Any]]:
    """A direction's rows summed over tenants; of two percentiles the larger, since they cannot be added."""
    total: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if row["direction"] != direction:
            continue
        key = (str(row["store"]), str(row["tier"]))
        had = total.setdefault(
            key, {"store": key[0], "tier": key[1], "ops": 0, "bytes": 0, "p50_ms": 0.0, "p95_ms": 0.0, "estimated": False}
        )
        for name in ("ops", "bytes"):
            had[name] += int(row[name])
        for name in ("p50_ms", "p95_ms"):
            had[name] = max(had[name], float(row[name]))
        had["estimated"] = had["estimated"] or bool(row["estimated"])
    return list(total.values())


def _dataset(journal: Mapping[str, Any], side: str, row: Mapping[str, Any]) -> dict[str, Any]:
    tier = Tier(row["tier"])
    name, schema = _STATISTICS[side]
    behind = str((journal.get("storage") or {}).get(row["tier"]) or "embedded")
    place = "embedded" if behind.startswith("embedded") else behind.rpartition(" at ")[2].rpartition(" on ")[2]
    storage = {
        "_producer": PRODUCER,
        "_schemaURL": f"{PRODUCER}#headrace_storage",
        "tier": str(tier),
        "protocol": _PROTOCOLS[tier],
        "storage": behind,
        "operations": row["ops"],
        "bytes": row["bytes"],
        "p50_ms": row["p50_ms"],
        "p95_ms": row["p95_ms"],
        "estimated": row["estimated"],
    }
    statistics = {"_producer": PRODUCER, "_schemaURL": schema, "size": row["bytes"]}
    return {
        "namespace": f"{_PROTOCOLS[tier]}://{place.partition('://')[2] or place}",
        "name": row["store"],
        "facets": {},
        f"{side.removesuffix('s')}Facets": {name: statistics, "headrace_storage": storage},
    }
