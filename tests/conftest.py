"""What the tests share: which of them run, small documents, and the command in homes of its own (tests/README.md)."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from filelock import FileLock
from hypothesis import settings

# A test asserts no speed: an example may take as long as a busy machine takes. `make properties` tries many more.
settings.register_profile("headrace", deadline=None, max_examples=int(os.environ.get("HEADRACE_EXAMPLES", "30")))
settings.load_profile("headrace")

if TYPE_CHECKING:
    from shell import Command

# Before a test imports transformers: tests ask no hub for anything, and a released tokenizer says how it was loaded.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# What commands say is not broken into lines where a terminal happens to be narrow.
os.environ["COLUMNS"] = "200"
# What a test opens in this process ends with it. Homes of the command say otherwise: see `new_home`.
os.environ.setdefault("HEADRACE_PLATFORM__IDLE_S", "0")
# Where SIGINT is ignored (a background job, nohup) every child would inherit that, and no Ctrl-C could be tested.
signal.signal(signal.SIGINT, signal.default_int_handler)
# What is imported while tests are collected is never garbage; looking for some there took a third of the collection's time.
gc.disable()

WEIGHTS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace-tests"
"""The generator's weights unpacked, for the tests that take the real ones: once per machine, and kept."""

STARTED = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    box = parser.getgroup("soak", "a part of the soak tests")
    box.addoption("--minutes", type=float, help="Choose soak tests that take about so many minutes together.")
    box.addoption("--longest", type=float, default=60.0, help="With --minutes: choose none that takes longer than so many.")
    box.addoption("--seed", default="", help="Which ones: another seed chooses others.")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand tests out by groups of files: those that use the running API share a process, as do those that load the encoders."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(config.rootpath / nodeid.partition("::")[0])

    return ByGroup(config, log)


@cache
def _group(path: Path) -> str:
    """Marks of xdist's own would do, but this pytest computes a test's id anew and forgets what they add to it."""
    text = path.read_text(encoding="utf-8")
    if re.search(r"[(,]\s*api: ", text):
        return "api"
    return "encoders" if "# sentence-transformers is loaded here" in text else path.stem


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order and choose: stories in the order of their file, small files last; `--minutes` takes a part of what is left."""
    _USE_API.update(item.path for item in items if "api" in getattr(item, "fixturenames", ()))
    # Those that share a running API first, one after the other; the small last, so that all processes end at about the same time.
    items.sort(key=lambda item: ("unit" in item.path.parts, item.path not in _USE_API))
    stories: dict[Path, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("story"):
            stories.setdefault(item.path, []).append(item)
    for steps in stories.values():  # in whatever order the others are, each step keeps its turn among its own
        places = sorted(items.index(step) for step in steps)
        for place, step in zip(places, sorted(steps, key=lambda step: step.location[1] or 0), strict=True):
            items[place] = step
    if (minutes := config.getoption("--minutes")) is not None:
        chosen = _within(items, minutes, config.getoption("--longest"), config.getoption("--seed"))
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen


def pytest_collection_finish() -> None:
    """From here on garbage is collected among what tests make, without the 800,000 objects of what they import."""
    gc.freeze()
    gc.enable()


def _within(items: list[pytest.Item], minutes: float, longest: float, seed: str) -> list[pytest.Item]:
    """Soak tests in an order of the seed's, as many as fit: each says by `soak(minutes=…)` about how long it takes."""
    # By name first: the order they come in is another one each time.
    shuffled = sorted((item for item in items if item.get_closest_marker("soak")), key=lambda item: item.nodeid)
    random.Random(seed).shuffle(shuffled)
    chosen = []
    for item in shuffled:
        takes = item.get_closest_marker("soak").kwargs.get("minutes", 1.0)  # type: ignore[union-attr]
        if takes <= min(minutes, longest):
            minutes -= takes
            chosen.append(item)
    return sorted(chosen, key=lambda item: item.path)


def pytest_runtest_setup(item: pytest.Item) -> None:
    minutes = item.config.getoption("--minutes")
    if minutes is not None and time.monotonic() - STARTED > 60 * minutes:
        pytest.skip(f"the {minutes:g} minutes are over")


# Small enough to be quick, with the verdicts of the few who are played by tests; large enough to have several optimizer steps
# and a checkpoint after each.
QUICK = {
    "HEADRACE_TRAINING__RECIPE__RERANKER__EPOCHS": "1",
    "HEADRACE_TRAINING__RECIPE__RERANKER__BATCH": "1",
    "HEADRACE_TRAINING__RECIPE__RERANKER__MAX_TOKENS": "48",
    "HEADRACE_TRAINING__RECIPE__RERANKER__CHECKPOINT_STEPS": "1",
    "HEADRACE_TRAINING__GATE__LEAST_QUESTIONS": "1",
    "HEADRACE_TRAINING__GATE__LEAST_USERS": "1",
    "HEADRACE_TRAINING__GATE__HEADROOM": "1000000",
    "HEADRACE_TRAINING__PREPARING__SIMULATED": "true",
    "HEADRACE_INFERENCE__RETRIEVE": "6",
    "HEADRACE_INFERENCE__ANSWER_TOKENS": "8",
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

    def start(self, *words: str | Path, **more: str) -> Command:
        """The command, running, in a process group of its own."""
        from shell import Command

        return Command(self, *words, **more)

    def run(self, *words: str | Path, code: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
        """The command, run to its end, which must be exit code `code` without a traceback."""
        from shell import run

        return run(self, *words, code=code, **more)

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
def models_cache() -> Path:
    """The generator's real weights made ready to load, which takes half a minute."""
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    code = "import sys; from pathlib import Path; from headrace.models.server.generator import load; load(Path(sys.argv[1]))"
    with FileLock(WEIGHTS / "lock"):
        subprocess.run([sys.executable, "-c", code, str(WEIGHTS)], check=True, capture_output=True, timeout=250)
    return WEIGHTS


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


def new_home(folder: Path, models_cache: Path | None, docs: Path) -> Home:
    """A fresh home below `folder`: with the real models where `models_cache` has their weights, else with tiny ones.

    Its servers stay up between commands, as a user's do, until `clear`.
    """
    home = folder / "home"
    home.mkdir(mode=0o700)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    given = {"HEADRACE_SETTINGS": str(folder / "none.toml"), "HEADRACE_PLATFORM__IDLE_S": "120"}
    if models_cache is None:
        import tiny

        given |= tiny.env()
    else:
        (home / "models-cache").symlink_to(models_cache)
    return Home(home, docs, {**kept, **QUICK, **given})


def clear(home: Home) -> None:
    """End what runs in a home, and free its disk space."""
    for process in home.processes():
        with contextlib.suppress(psutil.NoSuchProcess):  # it was about to end by itself
            process.kill()
    shutil.rmtree(home.path, ignore_errors=True)


@pytest.fixture(scope="module")
def module_home(tmp_path_factory: pytest.TempPathFactory, handbook: Path) -> Iterator[Home]:
    """One home for a module's tests, with tiny models."""
    home = new_home(tmp_path_factory.mktemp("module"), None, handbook)
    yield home
    clear(home)


@pytest.fixture
def home(tmp_path: Path, handbook: Path) -> Iterator[Home]:
    """A home for one test, with tiny models."""
    home = new_home(tmp_path, None, handbook)
    yield home
    clear(home)


@pytest.fixture
def real_home(tmp_path: Path, models_cache: Path, handbook: Path) -> Iterator[Home]:
    """A home for one test, with the real models."""
    home = new_home(tmp_path, models_cache, handbook)
    yield home
    clear(home)


Imported = Callable[..., set[str]]


@pytest.fixture
def imported(tmp_path: Path) -> Imported:
    """The modules that a command has imported when it ends, in a process of its own; it must end with 0."""
    program = (
        "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); import headrace.cli as c; c.main()"
    )

    def run(*words: str, **more: str) -> set[str]:
        command = [sys.executable, "-c", program, *words]
        env = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")} | more
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
        return set(done.stderr.splitlines()[-1].split())

    return run


@pytest.fixture
def within() -> Callable[[float, Callable[[], bool]], bool]:
    """Whether something becomes true within some seconds; asked every 50 ms, or less often where asking takes long."""

    def wait(seconds: float, what: Callable[[], bool]) -> bool:
        end = time.monotonic() + seconds
        while (asked := time.monotonic()) < end:
            if what():
                return True
            time.sleep(max(0.05, 2 * (time.monotonic() - asked)))
        return what()

    return wait


_USE_API: set[Path] = set()
"""Files with a test that takes `api`."""
_SERVED: list[tuple[Any, contextlib.ExitStack]] = []
"""The API that runs now, and how it ends."""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, handbook: Path) -> Any:
    """One `headrace up` for the tests of the API, with tiny models; see serving.py. It ends before a file that does without."""
    from serving import served

    if not _SERVED:
        folder = tmp_path_factory.mktemp("api")
        home = new_home(folder, None, handbook)
        followed = folder / "followed"  # empty until a test puts something there
        followed.mkdir()
        home.env["HEADRACE_SOURCES"] = json.dumps([{"place": str(followed), "tenant": "followed", "every_s": 0.2}])
        # A tenant's documents alone; the program writes the events it is given, one after another.
        append = [sys.executable, "-c", f"import sys; open({str(folder / 'events')!r}, 'a').write(sys.stdin.read() + chr(10))"]
        trigger = {"name": "written", "on": ["document.created", "document.deleted"], "tenant": "triggered"}
        home.env["HEADRACE_TRIGGERS"] = json.dumps([{**trigger, "action": {"type": "command", "command": append}}])
        home.env["HEADRACE_INFERENCE__DOCUMENT_BYTES"] = "200000"
        home.env["HEADRACE_INFERENCE__REWRITE_SECONDS"] = "0"  # follow-ups are rewritten by rule: the tiny models write nonsense
        with contextlib.ExitStack() as stack:
            stack.callback(clear, home)
            _SERVED.append((stack.enter_context(served(home, folder / "log")), stack.pop_all()))
    return _SERVED[0][0]


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One tab of a headless Chromium for a module's tests; see chromium.py."""
    from chromium import chromium, program

    if program() is None:
        pytest.skip("Chromium, in which the page is looked at, is not installed: apt-get install chromium")
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser.tab()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """A service that nobody asks still takes a tenth of a core."""
    if _SERVED and (nextitem is None or nextitem.path not in _USE_API):
        _SERVED.pop()[1].close()
