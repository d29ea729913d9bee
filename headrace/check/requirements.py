"""What a check says about NVIDIA's storage requirements for AI clouds.

Source: docs.nvidia.com/dsx/guides/nvidia-requirements-for-ai-clouds/storage-requirements, as read in November 2026. A check from
one host sees little of what they ask: the rest is the provider's to show.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headrace.catalog import Tier
from headrace.check.files import locks
from headrace.check.promise import Finding, Outcome
from headrace.check.provenance import Provenance
from headrace.check.workloads.workload import WorkloadResult

_PIB = 1 << 50
ELSEWHERE = {
    "DIR01, HSS04, HSS12": "quotas of users, groups, projects and workloads",
    "HSS01, HSS03": "provisioning API; CSI for Kubernetes",
    "HSS05, HSS10": "upgrades and expansion while in use",
    "HSS06": "memory protection of RDMA",
    "HSS07, HSS11": "thousands of clients at once; kernels and systems of clients",
    "HSS09, HSS13, HSS15": "several file systems; root-squash; audit of changes",
}
"""Requirements that a check from one host does not test, by id."""


@dataclass(frozen=True)
class Requirement:
    """What was seen of one requirement. `met` is `None` where the figures decide only beside what was asked of the provider."""

    id: str
    asks: str
    met: bool | None
    seen: str

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def requirements(
    provenance: Provenance, findings: Sequence[Finding], results: Sequence[WorkloadResult], files_dir: Path
) -> list[Requirement]:
    """What the check of these tiers says; requirements of tiers that were not checked are left out."""
    found = []
    files = next((one for one in provenance.subjects if one.tier is Tier.FILE), None)
    if files is not None:
        system = files.facts["file_system"]
        found.append(
            Requirement(
                "DIR02", "home directories on NFSv4", system == "nfs4", f"{files.where} is on {system} ({files.facts['source']})"
            )
        )
    measured = [one for one in results if one.requirement == "HSS02" and not one.failed]
    if measured:
        seen = f"{len(measured)} workloads of this report, from one host; what was requested is the provider's to set beside"
        found.append(Requirement("HSS02", "the throughput and IOPS that were requested", None, seen))
    if files is not None:
        status = os.statvfs(files_dir)
        size = status.f_blocks * status.f_frsize
        found.append(Requirement("HSS08", "a file system of at least 1 PiB", size >= _PIB, f"{size / 2**30:,.0f} GiB"))
    for one in findings:
        if one.tier is Tier.FILE and one.promise == locks.name and one.outcome is not Outcome.NOT_TESTED:
            seen = "a lock excludes a second process of this host" if one.outcome is Outcome.KEPT else one.seen
            found.append(Requirement("HSS14", "flock", one.outcome is Outcome.KEPT, seen))
    return found
