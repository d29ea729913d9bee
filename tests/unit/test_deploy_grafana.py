"""The dashboard for Grafana: every metric and label that it asks for is one that /metrics has."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from headrace.api.follow_thread import FollowedSource
from headrace.api.telemetry import ServiceMetrics
from headrace.catalog import KV_CACHE
from headrace.readiness import PartState
from headrace.scheduler.triggers.thread import TriggerReport
from headrace.storage.ledger import Direction, Ledger

GRAFANA = Path(__file__).resolve().parents[2] / "deploy" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "headrace.json").read_text(encoding="utf-8"))
RULES: dict[str, Any] = yaml.safe_load((GRAFANA / "rules.yaml").read_text(encoding="utf-8"))


def known() -> dict[str, set[str]]:
    """Each sample's name, with its labels, of a service that has counted one of everything."""
    ledger = Ledger()
    ledger.count("generate", KV_CACHE, Direction.READ, bytes=1, seconds=0.1, tenant="acme")
    metrics = ServiceMetrics(
        ledger,
        lambda: (1, 1),
        lambda: (PartState("objects"),),
        lambda: 1,
        followed=lambda: [FollowedSource("s3://handbooks", "acme", 1, 2.0, "")],
        triggers=lambda: [TriggerReport("portal", ("document.created",), "http", 1, 0, 0, 1, 2.0, "")],
    )
    metrics.answered("acme", "POST", "/v1/ask", 200, 0.1)
    metrics.refused("acme", "overloaded")
    metrics.question("acme", "answer", read=1, written=1, first_s=0.1)
    samples: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            samples.setdefault(sample.name, set()).update(sample.labels)
    return samples


def queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]


def test_every_metric_and_label_exists() -> None:
    samples = known()
    asked = set()
    for query in queries():
        for name, selector in re.findall(r"(headrace_\w+)(?:\{([^}]*)\})?", query):
            assert name in samples, query
            assert set(re.findall(r"(\w+)(?:=~|!=|=)\"", selector)) <= samples[name], query
            asked.add(name)
        labels = {label.strip() for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(",")}
        named = set().union(*(samples[name] for name in re.findall(r"headrace_\w+", query)))
        assert labels <= named, query
    variable = DASHBOARD["templating"]["list"][1]["definition"]
    assert re.fullmatch(r"label_values\((\w+), tenant\)", variable)[1] in samples  # type: ignore[index]
    counted = {name for name in samples if not name.endswith(("_created", "_sum", "_count"))}
    assert counted - asked == set(), "what is told and shown nowhere"


def test_every_alert_asks_for_a_metric_that_exists_and_speaks_of_labels_that_are_left() -> None:
    samples = known()
    rules = [rule for group in RULES["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 6
    for rule in rules:
        [(how, name, selector)] = re.findall(r"(max|min|sum)[^(]*(?:\([^)]*\) )?\((headrace_\w+)(?:\{([^}]*)\})?\)", rule["expr"])
        assert how in ("max", "min", "sum")
        assert set(re.findall(r"(\w+)=\"", selector)) <= samples[name], rule["expr"]
        left = {label.strip() for group in re.findall(r"by \(([^)]*)\)", rule["expr"]) for label in group.split(",")}
        assert left <= samples[name], rule["expr"]
        said = " ".join(rule["annotations"].values())
        assert set(re.findall(r"\$labels\.(\w+)", said)) <= left, said


def test_rates_are_asked_of_counters_alone_and_legends_of_labels_that_are_left() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            rated = re.findall(r"rate\((headrace_\w+)", target["expr"])
            assert all(name.endswith(("_total", "_bucket")) for name in rated), target["expr"]
            counters = re.findall(r"(headrace_\w+_(?:total|bucket))", target["expr"])
            assert len(rated) == len(counters), f"a counter without its rate: {target['expr']}"
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert re.search(rf"by \([^)]*\b{label}\b", target["expr"]), target


def test_panels_lie_beside_and_below_each_other() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["description"], panel["title"]
