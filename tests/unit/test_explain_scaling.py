"""Predictions of N workers: demands from journals by hand, an independent simulation, limits, load, cost, and what is refused."""

from __future__ import annotations

import heapq
import json
import sys
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from rich.console import Console

from headrace.cli import main
from headrace.cli.render.scaling import say_prediction
from headrace.errors import NotFound, WrongUsage
from headrace.explain.diagram.draw import draw_scene
from headrace.explain.scaling.demand import StageDemand, UnitDemand, UnitTraffic, demands, demands_of
from headrace.explain.scaling.parameters import scaling_of
from headrace.explain.scaling.picture import headline, rate, scaling_scene
from headrace.explain.scaling.prediction import Prediction, StoreLimit, Throughput, predict, scale, unit_s, validate
from headrace.explain.scaling.supply import TierSupply, checked_supply, merged, stated_supply
from headrace.storage.timeline import AHEAD, ASKED


def stage(name: str, phase: str, start: float, end: float, waited: float = 0.0) -> dict[str, Any]:
    return {
        "stage": name,
        "phase": phase,
        "calls": 1,
        "active_s": end - start,
        "waited_s": waited,
        "storage_s": waited,
        "tiers": {},
        "spans": [[start, end, 1, waited]],
    }


def row(stage: str, store: str, tier: str, direction: str, ops: int, size: int) -> dict[str, Any]:
    return {"stage": stage, "store": store, "tier": tier, "direction": direction, "ops": ops, "bytes": size, "estimated": False}


def indexed(workers: int = 1, *, embed_s: float = 80.0, run: str = "20261129-120000-index-aaaa") -> dict[str, Any]:
    """A hundred documents: 10 s of parsing, and an embed of which 5 s waited for storage in its own thread."""
    return {
        "run": run,
        "command": "index",
        "state": "done",
        "started": "2026-11-29T12:00:00+00:00",
        "ended": "2026-11-29T12:02:00+00:00",
        "workers": workers,
        "counts": {"documents": 100, "chunks": 400},
        "timeline": [stage("parse", AHEAD, 0, 10, 2), stage("embed", AHEAD, 10, 15 + embed_s, 5)],
        "rows": [
            row("parse", "documents", "object", "read", 100, 50_000_000),
            row("embed", "chunks", "vector", "write", 20, 2_000_000),
            row("embed", "index", "vector", "write", 4, 500_000),
        ],
    }


def demand(serial: float = 0.1, shared: float = 1.0, size: float = 1e6, ops: float = 2.0, **changes: Any) -> UnitDemand:
    known: dict[str, Any] = {
        "unit": "documents",
        "run": "r",
        "command": "index",
        "sample": 100,
        "workers": 1,
        "seconds": 100 * (serial + shared),
        "stages": (
            StageDemand(stage="parse", serial_s=serial, shared_s=0.0, on_models=False),
            StageDemand(stage="embed", serial_s=0.0, shared_s=shared, on_models=True),
        ),
        "traffic": (
            UnitTraffic(stage="embed", store="chunks", tier="vector", direction="write", ops=ops, bytes=size, estimated=False),
        ),
    }
    return UnitDemand(**{**known, **changes})


def at(prediction: Prediction, workers: int) -> Throughput:
    return next(point for point in prediction.points if point.workers == workers)


def test_a_journal_says_what_a_document_costs() -> None:
    (found,) = demands_of(indexed())
    assert (found.unit, found.sample, found.workers) == ("documents", 100, 1)
    assert found.serial_s == pytest.approx((10 + 5) / 100)
    assert found.shared_s(on_models=True) == pytest.approx(80 / 100)
    assert found.shared_s(on_models=False) == 0
    assert {(one.store, one.direction): one.bytes for one in found.traffic} == {
        ("documents", "read"): 500_000,
        ("chunks", "write"): 20_000,
        ("index", "write"): 5_000,
    }


def test_of_two_workers_both_times_count() -> None:
    (found,) = demands_of(indexed(2, embed_s=40))
    assert found.shared_s(on_models=True) == pytest.approx(2 * 40 / 100)
    assert found.serial_s == pytest.approx(0.15)
    assert found.per_s == pytest.approx(100 / 55)


def test_a_stage_begun_inside_another_counts_once() -> None:
    journal = indexed()
    journal["timeline"] = [stage("put", AHEAD, 0, 30), stage("parse", AHEAD, 10, 25), *journal["timeline"][1:]]
    journal["timeline"][2] |= {"spans": [[30, 115, 1, 5]]}
    (found,) = demands_of(journal)
    assert {one.stage: round(one.serial_s * 100, 6) for one in found.stages} == {"put": 15, "parse": 15, "embed": 5}


def test_of_landing_documents_have_what_concerns_them_and_events_the_rest() -> None:
    journal = indexed()
    journal["timeline"].append(stage("land", "", 95, 99))
    journal["counts"]["events"] = 300
    journal["rows"] += [
        row("land", "document-events", "stream", "read", 3, 1_000),
        row("land", "feedback", "stream", "read", 3, 3_000),
    ]
    found, events = demands_of(journal)
    (landing,) = (one for one in found.stages if one.stage == "land")
    assert landing.serial_s == pytest.approx(4 / 4 / 100)
    assert [one.store for one in found.traffic if one.stage == "land"] == ["document-events"]
    assert (events.unit, events.sample, events.serial_s) == ("events", 200, 0)  # the other 100 are the documents'
    assert events.shared_s(on_models=False) == pytest.approx(4 * 3 / 4 / 200)
    assert [one.store for one in events.traffic] == ["feedback"]
    journal["counts"] |= {"events": 100}
    assert [one.unit for one in demands_of(journal)] == ["documents"]


def test_questions_are_answered_by_processes_beside_each_other() -> None:
    journal = indexed(workers=2)
    journal["counts"] = {"questions": 10}
    journal["timeline"] = [stage("retrieve", ASKED, 0, 1, 0.5), stage("generate", ASKED, 1, 9)]
    journal["rows"] = [row("generate", "kv-cache", "file", "write", 10, 1_000_000)]
    (found,) = demands_of(journal)
    assert (found.serial_s, found.shared_s(on_models=False), found.shared_s(on_models=True)) == (0, 0.1, 0.8)


def test_a_training_says_what_a_step_costs() -> None:
    journal = indexed() | {"counts": {}}
    training = {"taken": 50, "seconds": 101.0, "stalled_s": 1.0, "parameters": 1_000_000}
    journal["detail"] = {"round": {"training": training}}
    journal["rows"] = [row("finetune", "checkpoints", "object", "write", 2, 24_000_000)]
    (found,) = demands_of(journal)
    assert (found.unit, found.serial_s, found.shared_s(on_models=True)) == ("steps", 0.02, 2.0)
    assert found.gradient_bytes == 4_000_000
    p = scaling_of({"workers": 4, "workers_per_node": 1, "node_network": 1e6})
    assert unit_s(found, 4, p)["network"] == pytest.approx(2 * 3 / 4 * 4.0)
    assert "network" not in unit_s(found, 1, p)


@pytest.mark.parametrize("change", [{"state": "running"}, {"timeline": []}, {"counts": {"documents": 100}}, {"counts": {}}])
def test_a_run_that_does_not_say_it_is_left_out(change: dict[str, Any]) -> None:
    assert list(demands_of(indexed() | change)) == []


def passed(units: int, serial: float, shared: float, workers: int) -> float:
    """Seconds that a pass takes, unit by unit: first all that one process does, then the workers, each unit on the next free."""
    free = [units * serial] * workers
    for _ in range(units):
        heapq.heapreplace(free, free[0] + shared)
    return max(free)


@given(
    serial=some.floats(0.001, 1),
    shared=some.floats(0.001, 10),
    workers=some.integers(1, 40),
)
def test_throughput_is_that_of_a_pass_simulated_unit_by_unit(serial: float, shared: float, workers: int) -> None:
    units = 40 * workers
    point = at(predict(scaling_of({"workers": workers}), [demand(serial, shared)]), workers)
    assert point.per_s == pytest.approx(units / passed(units, serial, shared, workers), rel=1e-9)


@given(
    serial=some.floats(0, 1),
    shared=some.floats(0.001, 10),
    size=some.floats(1, 1e9),
    supplied=some.floats(1e3, 1e12),
    platforms=some.integers(1, 50),
)
def test_a_limit_is_reached_at_its_workers_and_not_before(
    serial: float, shared: float, size: float, supplied: float, platforms: int
) -> None:
    supply = TierSupply(tier="vector", direction="write", bytes_per_s=supplied, source="as given")
    p = scaling_of({"workers": 1_000_000, "platforms": platforms})
    prediction = predict(p, [demand(serial, shared, size)], [supply])
    (limit,) = prediction.limits
    assert all(point.per_s * size <= supplied * (1 + 1e-9) for point in prediction.points)
    rates = [point.per_s for point in prediction.points]
    assert rates == sorted(rates)

    def reaches(workers: int) -> bool:
        return (
            at(predict(p.model_copy(update={"workers": workers}), [demand(serial, shared, size)]), workers).per_s
            >= limit.most_per_s
        )

    if limit.workers is None:
        assert not reaches(1_000_000)
        assert prediction.first is None
    elif limit.workers <= 1_000_000:
        assert prediction.first == limit
        assert reaches(limit.workers)
        assert limit.workers == 1 or not reaches(limit.workers - 1)


def test_the_first_store_is_the_one_that_fewest_workers_use_up_and_the_largest_of_its_tier() -> None:
    (found,) = demands_of(indexed())
    supplies = stated_supply(["vector=1/0.000050", "object=0.001/1"])
    prediction = predict(scaling_of({"workers": 100}), [found], supplies)
    first = prediction.first
    assert isinstance(first, StoreLimit)
    # 25,000 B a document are written at 50 kB/s: 2 documents a second; 500,000 B are read at 1 MB/s: 2 a second too.
    assert {(one.store, one.most_per_s) for one in prediction.limits} == {("chunks", 2.0), ("documents", 2.0)}
    assert first.workers == 3  # 1 ÷ (0.15 + 0.8 ÷ 3) = 2.4
    (chunks,) = (one for one in prediction.limits if one.store == "chunks")
    assert chunks.share == pytest.approx(0.8)
    assert at(prediction, 100).per_s == pytest.approx(2.0)
    assert at(prediction, 100).limited_by in ("vector write", "object read")
    assert at(prediction, 1).limited_by == "workers"


def test_without_a_supply_no_store_is_named_and_the_driver_limits() -> None:
    prediction = predict(scaling_of({"workers": 1000}), [demand()])
    assert (prediction.first, prediction.limits) == (None, ())
    assert at(prediction, 1000).limited_by == "driver"
    assert at(prediction, 1000).per_s == pytest.approx(1 / 0.101)
    ten = predict(scaling_of({"workers": 1000, "platforms": 10}), [demand()])
    assert at(ten, 1000).per_s == pytest.approx(10 / 0.11)


def test_a_share_of_less_than_a_percent_is_not_said_to_be_one() -> None:
    supply = TierSupply(tier="vector", direction="write", bytes_per_s=1e15, source="as given")
    console = Console(file=StringIO(), width=160)
    say_prediction(console, predict(scaling_of({"workers": 10}), [demand()], [supply]))
    assert "vector write <1 % used" in console.file.getvalue()
    assert " 1 % used" not in console.file.getvalue()


def test_gpus_run_the_models_in_the_workers_place() -> None:
    prediction = predict(scaling_of({"workers": 10, "gpus": 5, "gpu_speed": 100}), [demand(serial=0.0)])
    assert at(prediction, 10).per_s == pytest.approx(500)
    assert at(prediction, 10).limited_by == "GPUs"
    assert at(prediction, 2).per_s == pytest.approx(100), "as many GPUs for each worker"
    assert at(prediction, 10).gpu_hours_per_million == pytest.approx(5 * 1e6 / 500 / 3_600)


def test_load_capacity_and_prices_are_of_all_tenants() -> None:
    p = scaling_of(
        {
            "workers": 10,
            "tenants": 864,
            "documents": 1_000,
            "documents_per_day": 400,
            "worker_hour": 0.36,
            "tb_month": 20,
        }
    )
    prediction = predict(p, [demand(serial=0.0)])
    (load,) = prediction.load
    assert load.per_s == pytest.approx(4.0)
    assert (load.share, load.workers) == (pytest.approx(0.4), 4)
    (held,) = prediction.capacity
    assert (held.tier, held.bytes, held.price_per_month) == ("vector", 864e9, pytest.approx(17.28))
    assert at(prediction, 10).price_per_million == pytest.approx(0.36 * 1e6 / 3_600)
    (never,) = predict(p, [demand(serial=1.0)]).load
    assert never.workers is None


def test_another_run_is_predicted_and_the_error_is_told() -> None:
    (one,) = demands_of(indexed(1))
    (found,) = validate([one], indexed(2, embed_s=50))
    assert (found.from_workers, found.workers) == (1, 2)
    assert found.predicted_per_s == pytest.approx(100 / 55)
    assert found.measured_per_s == pytest.approx(100 / 65)
    assert found.error == pytest.approx(65 / 55 - 1)
    (same,) = validate([one], indexed(1))
    assert same.error == pytest.approx(0, abs=1e-9)


def check_report(*workloads: tuple[str, str, float, float]) -> dict[str, Any]:
    return {
        "workloads": [
            {"tier": tier, "workload": name, "mib_per_s": moved, "ops_per_s": ops, "failed": ""}
            for tier, name, moved, ops in workloads
        ]
    }


def test_a_checks_best_rates_are_the_supply_and_what_is_stated_goes_first() -> None:
    report = check_report(
        ("object", "sequential read", 100, 5),
        ("object", "checkpoint read", 200, 1),
        ("object", "small objects, read", 3, 700),
        ("vector", "vectors, write", 10, 9),
        ("file", "metadata, stat", 0, 1e5),
    )
    report["workloads"].append({"tier": "stream", "workload": "read, in bulk", "failed": "no broker"})
    found = {(one.tier, one.direction): one for one in checked_supply(report)}
    assert set(found) == {("object", "read"), ("vector", "write")}
    assert found["object", "read"].bytes_per_s == 200 * 2**20
    assert found["object", "read"].ops_per_s == 700
    assert found["vector", "write"].ops_per_s is None, "the check counts commits there, the ledger requests"
    both = merged(stated_supply(["object=1/2"]), checked_supply(report))
    assert {(one.tier, one.direction, one.source) for one in both} == {
        ("object", "read", "as given"),
        ("object", "write", "as given"),
        ("vector", "write", "headrace check"),
    }


@pytest.mark.parametrize("word", ["object", "object=1", "object=a/b", "tape=1/2", "object=0/1", "object=nan/1", "object=1/2/3"])
def test_a_supply_that_cannot_be_read_is_refused(word: str) -> None:
    with pytest.raises(WrongUsage, match="TIER=READ/WRITE"):
        stated_supply([word])


@pytest.mark.parametrize("report", [{}, {"workloads": 3}, {"workloads": [{}]}, []])
def test_another_file_than_a_check_is_refused(report: Any) -> None:
    with pytest.raises(WrongUsage, match="not the report of a check"):
        checked_supply(report)


def test_every_wrong_parameter_is_named() -> None:
    with pytest.raises(WrongUsage) as refused:
        scaling_of({"workers": 0, "gpu_speed": "fast", "wheels": 4})
    for name in ("workers", "gpu_speed", "wheels: there is no such parameter", "headrace simulate --list"):
        assert name in str(refused.value)


def test_workers_are_shown_to_the_most() -> None:
    assert scale(1) == (1,)
    assert scale(2) == (1, 2)
    assert scale(1_000) == (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)
    assert scale(1_100)[-2:] == (1_000, 1_100)


def test_a_rate_has_no_more_digits_than_are_known() -> None:
    assert [rate(number) for number in (0.4213, 7.123, 99.96, 123.4, 1_031_937.0)] == ["0.421", "7.12", "100", "123", "1,030,000"]


def test_a_headline_says_up_to_where_no_store_limits_and_speaks_of_questions_first() -> None:
    (found,) = demands_of(indexed())
    both = [found, demand(unit="questions"), demand(unit="events")]
    far = predict(scaling_of({"workers": 2}), both, stated_supply(["vector=1/0.005"]))
    limit = far.first
    assert limit is not None
    assert limit.workers is not None
    assert limit.workers > 2
    where = f"the first is chunks (vector, write), for {limit.unit} at {limit.workers:,}"
    assert headline(far) == f"No store limits up to 2 workers; {where}"
    (asked,) = [point for point in far.points if (point.unit, point.workers) == ("questions", 2)]
    unknown = predict(scaling_of({"workers": 2}), both, [])
    assert headline(unknown) == f"2 workers: {rate(asked.per_s)} questions a second; what storage supplies is not known"


def test_curves_are_drawn(tmp_path: Path) -> None:
    (found,) = demands_of(indexed())
    scene = scaling_scene(
        predict(scaling_of({"workers": 1000}), [found, demand(unit="questions")], stated_supply(["vector=1/0.00005"]))
    )
    assert "chunks" in scene.title
    assert [group.kind for group in scene.groups] == ["headline", "axes", "curve", "curve"]
    draw_scene(scene, tmp_path / "scaling.svg")
    assert (tmp_path / "scaling.svg").stat().st_size > 1_000


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADRACE_SETTINGS", str(tmp_path / "none.toml"))
    (tmp_path / "runs").mkdir()
    for journal in (indexed(1), indexed(2, embed_s=50, run="20261130-120000-index-bbbb")):
        (tmp_path / "runs" / f"{journal['run']}.json").write_text(json.dumps(journal))
    return tmp_path


def said(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: Sequence[str]
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["headrace", "--home", str(home), "simulate", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    streams = capsys.readouterr()
    return int(ended.value.code or 0), streams.out, streams.err


def test_the_command_prints_tables_and_json(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ("--run", "20261129-120000", "--against", "20261130-120000")
    code, text, _ = said(home, monkeypatch, capsys, [*run, "--workers", "100", "--supply", "vector=1/0.00005", "--json"])
    known: Mapping[str, Any] = json.loads(text)
    assert code == 0
    assert known["first"]["store"] == "chunks"
    assert known["first"]["workers"] == 3
    assert [round(one["error"], 4) for one in known["against"]] == [round(65 / 55 - 1, 4)]
    code, text, _ = said(home, monkeypatch, capsys, [*run, "--workers", "100", "-o", str(home / "curve.svg")])
    assert code == 0
    for word in ("+18 %", "limited by", "driver", "headrace check", "Assumed"):
        assert word in text
    assert (home / "curve.svg").exists()
    code, text, _ = said(home, monkeypatch, capsys, ["--list"])
    assert "gpu_speed" in text


def test_the_run_with_the_largest_sample_is_predicted_from_and_an_empty_home_is_refused(home: Path, tmp_path: Path) -> None:
    larger = indexed(run="20261128-120000-index-cccc") | {"counts": {"documents": 500, "chunks": 900}}
    (home / "runs" / f"{larger['run']}.json").write_text(json.dumps(larger))
    assert [one.run for one in demands(home)] == [larger["run"]]
    with pytest.raises(NotFound, match="No run of this home"):
        predict(scaling_of({}), demands(tmp_path / "none"))
