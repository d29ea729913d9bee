"""The systemd unit: what it hardens, and that systemd accepts it. The container file: all that it names is there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from headrace.cli import cli
from headrace.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "deploy" / "systemd" / "headrace.service"
HARDENED = {
    "ProtectSystem": "strict",
    "ReadWritePaths": "/var/lib/headrace",
    "NoNewPrivileges": "yes",
    "PrivateTmp": "yes",
    "ProtectHome": "yes",
    "User": "headrace",
    "CapabilityBoundingSet": "",
    "Restart": "on-failure",
}


def test_it_runs_as_a_user_of_its_own_that_may_write_its_state_alone() -> None:
    lines = [line.partition("=") for line in UNIT.read_text().splitlines() if "=" in line and not line.startswith("#")]
    given = {name: value for name, _, value in lines}
    assert {name: given.get(name) for name in HARDENED} == HARDENED
    assert int(given["LimitNOFILE"]) >= 65536
    assert given["ExecStart"].endswith("/headrace --home /var/lib/headrace/home up")


def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    if (analyze := shutil.which("systemd-analyze")) is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / UNIT.name
    # What it would run is not installed here.
    unit.write_text(UNIT.read_text().replace("/opt/headrace/.venv/bin/headrace", "/bin/true"))
    done = subprocess.run([analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
    about_it = [line for line in done.stderr.splitlines() if unit.name in line]
    assert (done.returncode, about_it) == (0, []), done.stderr


CONTAINER = ROOT / "deploy" / "container" / "Containerfile"


def instructions() -> list[tuple[str, str]]:
    """Of the container file, as (name, the rest), lines joined."""
    text = re.sub(r"^#.*\n", "", CONTAINER.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def of(name: str) -> list[str]:
    return [rest for known, rest in instructions() if known == name]


def ignored(path: str) -> bool:
    """Whether the build does not get a path: everything but what is excepted, of which the last line that matches decides."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    return f"!{path.split('/')[0]}" not in lines


def test_the_image_gets_what_its_build_copies() -> None:
    copied = [words for words in map(str.split, of("COPY")) if not words[0].startswith("--from=")]
    sources = [source.rstrip("/") for words in copied for source in words[:-1]]
    assert {"locks", "headrace", "pyproject.toml"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not ignored(source), source
    assert ignored(".venv")
    assert ignored(".git")
    stages = {words[-1] for words in map(str.split, of("FROM")) if len(words) > 1}
    assert {words[0].removeprefix("--from=") for words in map(str.split, of("COPY")) if words[0].startswith("--from=")} == stages


def test_the_image_installs_what_is_locked_by_its_hash_and_then_the_code_alone() -> None:
    text = CONTAINER.read_text()
    locks = re.findall(r"-r \"?locks/([\w${}-]+)\.txt", text)
    assert locks == ["${TORCH}", "base", "generator", "postgresql", "${OCR}", "${RAY}"]
    torch = [*re.findall(r"^ARG TORCH=(\S+)", text, re.MULTILINE), *re.findall(r"--build-arg TORCH=([\w-]+)", text)]
    assert torch == ["torch-cuda", "torch-cpu"]
    assert re.findall(r"^ARG RAY=(\S*)", text, re.MULTILINE) == [""]
    ray = re.findall(r"--build-arg RAY=(\w+)", text)
    assert ray == ["ray"]
    ocr = re.findall(r"^ARG OCR=(\S*)", text, re.MULTILINE)
    assert ocr == ["ocr"], "scanned pages are read unless somebody leaves that out"
    for name in [*locks[1:-2], *torch, *ocr, *ray]:
        assert (ROOT / "locks" / f"{name}.txt").is_file(), name
    installs = [rest.split("pip install ")[1] for rest in of("RUN") if "pip install" in rest]
    for optional in ("OCR", "RAY"):
        assert [rest.split(" || ")[0] for rest in of("RUN") if f"${{{optional}}}" in rest] == [f'test -z "${{{optional}}}"']
    assert len(installs) == len(locks) + 1
    for given in installs:
        assert given.startswith("--no-deps --require-hashes -r ") or given == "--no-deps --no-build-isolation ."
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    (image,) = {rest.split()[0] for rest in of("FROM")}
    version = re.search(r"python:(\d+)\.(\d+)-slim-", image)
    assert version is not None
    assert tuple(map(int, version.groups())) >= tuple(map(int, wanted.removeprefix(">=").split(".")))


def test_the_image_runs_without_root_and_names_commands_and_settings_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    assert json.loads(of("ENTRYPOINT")[0]) == ["headrace"]
    command, health = json.loads(of("CMD")[0]), json.loads(of("HEALTHCHECK")[0].partition("CMD ")[2])
    known = {one.name or one.callback.__name__ for one in cli.registered_commands if one.callback}
    assert command[0] in known
    assert health == ["headrace", "status"]
    assert health[1] in known
    (user,) = of("USER")
    created = next(rest for rest in of("RUN") if "useradd" in rest)
    assert created.split(" && ")[0].split()[-1] == user != "root"
    (home,), (workdir, *_) = of("VOLUME"), reversed(of("WORKDIR"))
    assert f"--home-dir {home} " in created
    assert home == workdir
    given = dict(pair.split("=", 1) for rest in of("ENV") for pair in rest.split())
    for name in [name for name in given if name.startswith("HEADRACE_")]:
        monkeypatch.setenv(name, given[name])
    monkeypatch.setenv("HEADRACE_SETTINGS", "/nonexistent.toml")
    settings = Settings.load()  # refuses what it does not know
    assert settings.home.is_relative_to(home)
    assert settings.api.everywhere
    names = [name for order, (name, _) in enumerate(instructions()) if name in ("USER", "ENTRYPOINT")]
    assert names == ["USER", "ENTRYPOINT"], "what runs, runs as that user"


def test_what_the_page_says_of_the_image_is_in_it() -> None:
    page = (ROOT / "docs" / "how-to" / "run-in-a-container.md").read_text()
    assert str(CONTAINER.relative_to(ROOT)) in page
    assert of("VOLUME")[0] in page
    assert f"uid {re.search(r'--uid ([0-9]+)', CONTAINER.read_text())[1]}" in page  # type: ignore[index]
    assert set(of("EXPOSE")) == set(re.findall(r"-p 127\.0\.0\.1:(\d+):\1 ", page))
    assert "has not been built or run" in page
