"""The wheel has all that the package needs, and says what pip cannot install with it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import headrace
from headrace.cli.setup import GENERATOR

ROOT = Path(headrace.__file__).parent.parent


def test_the_wheel_has_every_file_of_the_package(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "headrace"], cwd=ROOT, capture_output=True, text=True
    )
    names = [name for name in tracked.stdout.splitlines() if (ROOT / name).is_file()]
    assert len(names) > 300
    for name in [*names, "pyproject.toml", "README.md", "LICENSE"]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(tmp_path)]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("headrace-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        assert sorted(set(names) - set(packed.namelist())) == []
        (metadata,) = (packed.read(name).decode() for name in packed.namelist() if name.endswith("/METADATA"))
        assert any(name.endswith("entry_points.txt") for name in packed.namelist())
    assert "Requires-Dist: torch==" in metadata
    assert "llama" not in metadata.partition("\n\n")[0]


def test_what_is_fetched_is_what_is_locked() -> None:
    locked = (ROOT / "locks" / "generator.txt").read_text()
    lines = [line.strip(" \\") for line in locked.splitlines() if not line.startswith("#")]
    assert " ".join(lines) == GENERATOR
