"""The report of a check: header, promises, workloads, requirements; kept in the home, and compared with an earlier one."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from headrace.atomic import write_atomically
from headrace.check.promise import Finding, Outcome
from headrace.check.provenance import SCHEMA, Provenance
from headrace.check.requirements import Requirement, requirements
from headrace.check.workloads.workload import WorkloadResult
from headrace.errors import NotFound, WrongUsage
from headrace.regular_file import read_regular

_KEPT = "check.json"
_FIGURES = ("mib_per_s", "ops_per_s", "p95_ms")


@dataclass(frozen=True)
class CheckReport:
    """What a check found. `other_users` is a warning about who may read the embedded Kafka, empty where there is none."""

    provenance: Provenance
    seconds: float
    findings: Sequence[Finding]
    results: Sequence[WorkloadResult]
    requirements: Sequence[Requirement]
    other_users: str = ""

    @classmethod
    def of(
        cls,
        provenance: Provenance,
        found: Iterable[Finding | WorkloadResult],
        *,
        began: float,
        files_dir: Path,
        other_users: str = "",
    ) -> CheckReport:
        """The report of what `check_storage` yields from `began` on, a moment of `time.monotonic`."""
        everything = list(found)
        findings = [one for one in everything if isinstance(one, Finding)]
        results = [one for one in everything if isinstance(one, WorkloadResult)]
        met = requirements(provenance, findings, results, files_dir)
        return cls(provenance, round(time.monotonic() - began, 1), findings, results, met, other_users)

    @property
    def broken(self) -> bool:
        """Whether a promise is broken."""
        return any(finding.outcome is Outcome.BROKEN for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """The report, JSON-ready; `sha256` is of the rest as JSON with sorted keys and without spaces."""
        body = {
            **self.provenance.as_dict(),
            "seconds": self.seconds,
            **{str(outcome): sum(finding.outcome is outcome for finding in self.findings) for outcome in Outcome},
            "promises": [finding.as_dict() for finding in self.findings],
            "workloads": [asdict(result) for result in self.results],
            "requirements": [one.as_dict() for one in self.requirements],
            "other_users": self.other_users,
        }
        return {**body, "sha256": hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()}

    def keep(self, home: Path) -> None:
        """Keep the report in the home, where the page shows the last one."""
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(home / _KEPT, json.dumps(self.as_dict()).encode())


def last_report(home: Path) -> dict[str, Any] | None:
    """The last report kept in a home, as `CheckReport.as_dict`; `None` if there is none that can be read."""
    try:
        report = json.loads((home / _KEPT).read_bytes())
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) and report.get("schema") == SCHEMA else None


@dataclass(frozen=True)
class Change:
    """A workload, or a promise, beside the same in an earlier check.

    `before` and `now` are MiB/s, operations a second and p95 in ms of a workload by these names; of a promise its `outcome`.
    """

    name: str
    before: Mapping[str, Any]
    now: Mapping[str, Any]


class _Earlier(BaseModel):
    model_config = ConfigDict(strict=True)


class _EarlierFinding(_Earlier):
    tier: str
    promise: str
    outcome: Outcome


class _EarlierResult(_Earlier):
    tier: str
    workload: str
    failed: str
    concurrency: int
    ops: Annotated[int, Field(ge=0, lt=1 << 63)]
    bytes: Annotated[int, Field(ge=0, lt=1 << 63)]
    ops_per_s: FiniteFloat
    mib_per_s: FiniteFloat
    p95_ms: FiniteFloat

    @model_validator(mode="after")
    def _measured(self) -> _EarlierResult:
        if not self.failed and not self.ops:
            raise ValueError("it neither failed nor measured anything")
        return self


class _Baseline(_Earlier):
    """What `compared` reads of an earlier check."""

    promises: list[_EarlierFinding]
    workloads: list[_EarlierResult]


def load_baseline(path: Path) -> dict[str, Any]:
    """An earlier check, from the file that `headrace check --json` was written to. Raises `NotFound` or `WrongUsage`."""
    try:
        report = json.loads(written := read_regular(path))
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}.", hint="Name what `headrace check --json` printed.") from None
    except (ValueError, RecursionError):
        report = None
    hint = "Save one: headrace check --json > before.json"
    if not isinstance(report, dict) or report.get("schema") != SCHEMA:
        raise WrongUsage(f"{path} is not the JSON of a check by this version ({SCHEMA}).", hint=hint)
    try:
        _Baseline.model_validate_json(written)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise WrongUsage(f"{path} is not as the check wrote it: {where}: {fault['msg']}.", hint=hint) from None
    return report


def compared(report: CheckReport, baseline: Mapping[str, Any]) -> list[Change]:
    """Promises whose outcome differs, and what both checks measured with the same concurrency and about the same sizes."""
    outcomes = {(one["tier"], one["promise"]): one["outcome"] for one in baseline["promises"]}
    changes = [
        Change(f"{one.tier}: {one.promise}", {"outcome": before}, {"outcome": str(one.outcome)})
        for one in report.findings
        if (before := outcomes.get((one.tier, one.promise))) not in (None, str(one.outcome))
    ]
    earlier = {(one["tier"], one["workload"]): one for one in baseline["workloads"] if not one["failed"]}
    for result in report.results:
        now, old = asdict(result), earlier.get((result.tier, result.workload))
        if not result.failed and old is not None and _comparable(old, now):
            changes.append(
                Change(
                    f"{result.tier}: {result.workload}",
                    {name: old[name] for name in _FIGURES},
                    {name: now[name] for name in _FIGURES},
                )
            )
    return changes


def _comparable(old: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    one, other = (each["bytes"] / each["ops"] for each in (old, now))
    return bool(old["concurrency"] == now["concurrency"] and one <= 2 * other and other <= 2 * one)
