"""What the tests with real servers share: converted weights, a folder of small documents, and the command in homes of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

# Before a test imports transformers: tests ask no hub for anything, and a released tokenizer says how it was loaded.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Small enough to be quick, large enough to have several optimizer steps and a checkpoint after each.
QUICK = {
    "HEADRACE_TRAINING__RECIPE__RERANKER__EPOCHS": "1",
    "HEADRACE_TRAINING__RECIPE__RERANKER__BATCH": "1",
    "HEADRACE_TRAINING__RECIPE__RERANKER__MAX_TOKENS": "48",
    "HEADRACE_TRAINING__RECIPE__RERANKER__CHECKPOINT_STEPS": "1",
    "HEADRACE_INFERENCE__RETRIEVE": "6",
    "HEADRACE_INFERENCE__ANSWER_TOKENS": "8",
    "COLUMNS": "200",
}
_THINGS = [
    "pump",
    "valve",
    "turbine",
    "sluice",
    "gate",
    "weir",
    "penstock",
    "reservoir",
    "governor",
    "spillway",
    "generator",
    "transformer",
]
_DONE = ["inspected", "drained", "greased", "measured", "replaced", "calibrated"]
_PLACES = ["northern", "southern", "upper", "lower", "eastern", "western"]


@dataclass
class Home:
    """A home, and the `headrace` command used in it as a person would."""

    path: Path
    docs: Path
    env: dict[str, str] = field(default_factory=dict)

    def start(self, *words: str | Path, **more: str) -> subprocess.Popen[str]:
        """The command, running, in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "headrace.cli", "--home", str(self.path), *map(str, words)],
            env={**self.env, **more},
            cwd=self.path.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str | Path, code: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
        """The command, run to its end, which must be exit code `code` without a traceback."""
        process = self.start(*words, **more)
        try:
            out, err = process.communicate(timeout=200)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == code, f"headrace {' '.join(map(str, words))}: exit {process.returncode}\n{out}\n{err}"
        assert "Traceback" not in out + err, err
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def json(self, *words: str | Path) -> Any:
        """What the command prints with `--json`."""
        return json.loads(self.run(*words, "--json").stdout)

    def sql(self, query: str) -> list[dict[str, Any]]:
        """The rows of a query."""
        rows: list[dict[str, Any]] = self.json("sql", query)["rows"]
        return rows

    def demo(self, questions: int = 8) -> list[str | Path]:
        """The words of a small demo."""
        return ["demo", "--docs", self.docs, "--questions", str(questions), "--out", self.path.parent / "out"]

    def processes(self) -> list[psutil.Process]:
        """The supervisor and the servers that work in this home."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() == psutil.STATUS_ZOMBIE or "headrace.cli" in process.cmdline():
                    continue
                words = [process.cwd(), *process.cmdline()]
                if any(Path(word.split("=")[-1]).is_relative_to(self.path) for word in words):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found


@pytest.fixture(scope="session")
def models_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The generator's weights made ready to load, which takes half a minute and is done once for all tests."""
    cache = tmp_path_factory.mktemp("weights") / "models-cache"
    code = "import sys; from pathlib import Path; from headrace.models.generator import load; load(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(cache)], check=True, capture_output=True, timeout=250)
    yield cache
    shutil.rmtree(cache, ignore_errors=True)


@pytest.fixture(scope="session")
def handbook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve small Markdown documents of six sections each."""
    folder = tmp_path_factory.mktemp("documents") / "handbook"
    folder.mkdir()
    for number, thing in enumerate(_THINGS):
        lines = [f"# The {thing}", ""]
        for place, (done, where) in enumerate(zip(_DONE, _PLACES, strict=True)):
            crew, bearing, litres = number + 3 * place, 11 * number + place, 100 + 13 * number + place
            lines += [
                f"## {thing.title()} {done} at the {where} station",
                "",
                f"The {thing} of the {where} station was {done} on day {7 * number + place} by crew {crew} because its bearing"
                f" {bearing} ran warm during the flood. Afterwards the {thing} carried {litres} litres a second past the {where}"
                " gauge without any trouble at all.",
                "",
            ]
        (folder / f"{thing}.md").write_text("\n".join(lines))
    return folder


def new_home(folder: Path, models_cache: Path, docs: Path) -> Home:
    """A fresh home below `folder` that shares the converted weights."""
    home = folder / "home"
    home.mkdir(mode=0o700)
    shutil.copytree(models_cache, home / "models-cache", copy_function=os.link)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    return Home(home, docs, {**kept, **QUICK, "HEADRACE_SETTINGS": str(folder / "none.toml")})


def clear(home: Home) -> None:
    """End what a failed test left running in a home, and free its disk space."""
    for process in home.processes():
        with contextlib.suppress(psutil.NoSuchProcess):  # it was about to end by itself
            process.kill()
    shutil.rmtree(home.path, ignore_errors=True)


@pytest.fixture(scope="module")
def module_home(tmp_path_factory: pytest.TempPathFactory, models_cache: Path, handbook: Path) -> Iterator[Home]:
    """One home for a module's tests."""
    home = new_home(tmp_path_factory.mktemp("module"), models_cache, handbook)
    yield home
    clear(home)


@pytest.fixture
def home(tmp_path: Path, models_cache: Path, handbook: Path) -> Iterator[Home]:
    """A home for one test."""
    home = new_home(tmp_path, models_cache, handbook)
    yield home
    clear(home)


@pytest.fixture
def within() -> Callable[[float, Callable[[], bool]], bool]:
    """Whether something becomes true within some seconds; asked every 50 ms."""
    import time

    def wait(seconds: float, what: Callable[[], bool]) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if what():
                return True
            time.sleep(0.05)
        return what()

    return wait


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory, models_cache: Path, handbook: Path) -> Iterator[Any]:
    """One `headrace up` for all tests of the API; see serving.py."""
    from serving import served

    folder = tmp_path_factory.mktemp("api")
    home = new_home(folder, models_cache, handbook)
    home.env["HEADRACE_INFERENCE__DOCUMENT_BYTES"] = "200000"
    try:
        with served(home, folder / "log") as api:
            yield api
    finally:
        clear(home)
