"""Releases followed in a real object store: switches, canaries, broken releases, and storage that is down."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from headrace.catalog import MODELS
from headrace.errors import NotFound, RequestRefused, Unavailable
from headrace.models.pointer import ChampionPointer
from headrace.models.server import release
from headrace.models.server.release import KEPT, Card, LoadedReleases
from headrace.platform import open_platform
from headrace.settings import Settings
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectWriter

IDS = [f"{number:016x}" for number in range(200)]


@dataclass
class Clock:
    """The time as `release.py` has it: it stands still until the test moves it."""

    now: float = 1000.0

    def pass_(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    at = SimpleNamespace(monotonic=lambda: clock.now, perf_counter=time.perf_counter, time=time.time)
    monkeypatch.setattr(release, "time", at)
    return clock


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    folder = tmp_path_factory.mktemp("releases")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SETTINGS", str(folder / "none.toml"))
        with open_platform(Settings(home=folder / "home"), parts=frozenset({"objects"})) as endpoints:
            yield endpoints


@dataclass
class Model:
    """A model of one file, whose contents are the model; each test has one of its own name."""

    name: str
    endpoints: Endpoints
    cache: Path
    loadable: threading.Event = field(default_factory=threading.Event)
    down: bool = False
    made: list[LoadedReleases[Card, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.writer = ObjectWriter(MODELS, self.endpoints, Meter(Ledger(), "test"))
        self.loadable.set()

    def releases(self, *, must_look: bool = True) -> LoadedReleases[Card, str]:
        made = LoadedReleases(self.name, "oracle", Card, self._load, endpoints=self._where, cache=self.cache, must_look=must_look)
        self.made.append(made)
        return made

    def _load(self, card: Card, folder: Path) -> str:
        assert self.loadable.wait(30)
        words = (folder / "words").read_text()
        if words == "nonsense":
            raise ValueError("no oracle")
        return words

    def _where(self) -> Endpoints:
        return self.endpoints.model_copy(update={"s3_endpoint": "http://127.0.0.1:1"}) if self.down else self.endpoints

    def release(self, version: str, words: str = "", *, stored: str | None = None) -> None:
        content = (words or version).encode()
        entry = {"name": "words", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        self.writer.put(f"{self.name}/{version}/words", content if stored is None else stored.encode())
        card = {"version": version, "round": 1, "files": [entry]}
        self.writer.put(f"{self.name}/{version}/card.json", json.dumps(card).encode())

    def point(self, version: str, *, canary: str = "", share: float = 0.3) -> ChampionPointer:
        since = "2026-01-01T00:00:00+00:00"
        trial = {"version": canary, "share": share, "round": 2, "since": since, "why": "a test"} if canary else None
        pointer = {"model": self.name, "version": version, "round": 1, "canary": trial, "why": "a test", "history": ["none"]}
        self.writer.put(f"{self.name}/champion.json", json.dumps(pointer).encode())
        return ChampionPointer.model_validate(pointer)


@pytest.fixture
def model(storage: Endpoints, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Model]:
    model = Model(re.sub(r"\W", "-", request.node.name), storage, tmp_path)
    yield model
    for made in model.made:
        made.stop()


async def who(releases: LoadedReleases[Card, str], answer_id: str = "", ledger: Ledger | None = None) -> str:
    release = await releases.serving(answer_id, ledger or Ledger())
    assert release is None or release.model.startswith(release.card.version)
    return release.card.version if release else "none"


def moved(ledger: Ledger) -> int:
    return sum(row.bytes for row in ledger.rows())


def test_a_promotion_and_a_rollback_are_in_force_a_second_later(model: Model, clock: Clock) -> None:
    async def steps() -> None:
        releases = model.releases()
        assert await who(releases) == "none"
        for version in ("v000001", "v000002"):
            model.release(version, version + "x" * 100_000)
        before = "none"
        for version in ("v000001", "v000002", "v000001", "none", "v000002"):
            model.point(version)
            clock.pass_(release.LOOK_S / 2)
            ledger = Ledger()
            assert await who(releases, ledger=ledger) == before
            clock.pass_(release.LOOK_S / 2)
            assert await who(releases) == (before := version)
        # What was served before is still there: to go back, the pointer and a card are read, and no weights.
        model.point("v000001")
        clock.pass_(release.LOOK_S)
        ledger = Ledger()
        assert await who(releases, ledger=ledger) == "v000001"
        assert 0 < moved(ledger) < 10_000

    assert release.LOOK_S <= 1
    asyncio.run(steps())


def test_answers_go_on_with_the_former_version_while_the_next_loads(
    model: Model, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "PATIENCE_S", 0.05)

    async def steps() -> None:
        releases = model.releases()
        model.release("v000001")
        model.release("v000002")
        model.point("v000001")
        assert await who(releases) == "v000001"
        model.loadable.clear()
        model.point("v000002")
        clock.pass_(release.LOOK_S)
        assert [await who(releases) for _ in range(5)] == ["v000001"] * 5
        model.loadable.set()
        while await who(releases) != "v000002":  # pytest-timeout ends what never ends
            pass

    asyncio.run(steps())


def test_requests_at_once_cause_one_look_and_one_load(model: Model) -> None:
    async def steps() -> None:
        releases = model.releases()
        model.release("v000001")
        model.point("v000001")
        ledgers = [Ledger() for _ in range(20)]
        assert set(await asyncio.gather(*(who(releases, ledger=ledger) for ledger in ledgers))) == {"v000001"}
        keys = ("champion.json", "v000001/card.json", "v000001/words")
        assert sum(map(moved, ledgers)) == sum(len(model.writer.get(f"{model.name}/{key}")) for key in keys)

    asyncio.run(steps())


def test_a_canary_makes_its_share_of_the_answers_until_it_retreats(model: Model, clock: Clock) -> None:
    async def steps() -> None:
        releases = model.releases()
        model.release("v000001")
        model.release("v000002")
        pointer = model.point("v000001", canary="v000002")
        assert {answer: await who(releases, answer) for answer in IDS} == {answer: pointer.served(answer) for answer in IDS}
        tried = next(answer for answer in IDS if pointer.served(answer) == "v000002")
        assert await who(releases) == "v000001"
        model.point("v000001")
        clock.pass_(release.LOOK_S)
        assert await who(releases, tried) == "v000001"
        model.point("none", canary="v000002")  # before the first promotion
        clock.pass_(release.LOOK_S)
        assert await who(releases, tried) == "v000002"
        assert await who(releases) == "none"

    asyncio.run(steps())


def test_a_canary_that_cannot_be_loaded_keeps_no_champion_away(model: Model, clock: Clock) -> None:
    async def steps() -> None:
        releases = model.releases()
        model.release("v000001")
        model.release("v000002", stored="v00000?")
        pointer = model.point("v000001", canary="v000002", share=0.5)
        assert {await who(releases, answer) for answer in IDS} == {"v000001"}
        model.release("v000002")
        tried = next(answer for answer in IDS if pointer.served(answer) == "v000002")
        clock.pass_(release.RETRY_S / 2)
        assert await who(releases, tried) == "v000001"
        clock.pass_(release.RETRY_S)
        assert await who(releases, tried) == "v000002"
        # Nor does a champion that cannot be loaded keep a retreat away.
        model.release("v000003", "nonsense")
        model.point("v000003")
        clock.pass_(release.LOOK_S)
        assert await who(releases, tried) == "v000001"

    asyncio.run(steps())


@pytest.mark.parametrize("broken", ["stored", "content", "card", "missing", "pointer"])
def test_a_broken_release_leaves_the_former_one_serving(model: Model, clock: Clock, broken: str) -> None:
    async def steps() -> None:
        releases = model.releases()
        model.release("v000001")
        model.point("v000001")
        assert await who(releases) == "v000001"
        if broken != "missing":
            model.release("v000002", "nonsense" if broken == "content" else "", stored="v00000?" if broken == "stored" else None)
        if broken == "card":
            model.writer.put(f"{model.name}/v000002/card.json", b'{"version": "v000002"}')
        model.point("v000002")
        if broken == "pointer":
            model.writer.put(f"{model.name}/champion.json", b"{")
        for wait_s in (0.0, release.LOOK_S, release.LOOK_S, release.RETRY_S):
            clock.pass_(wait_s)
            assert await who(releases) == "v000001"
        if broken != "pointer":
            with pytest.raises(NotFound if broken == "missing" else RequestRefused, match="v000002"):
                await releases.by_name("v000002", Ledger())
        # Where none served before, the re-ranker says so, and the generator answers as it is packaged.
        with pytest.raises(Unavailable, match="cannot be loaded"):
            await who(model.releases())
        assert await who(model.releases(must_look=False)) == "none"
        model.release("v000002")
        model.point("v000002")
        clock.pass_(release.RETRY_S)
        assert await who(releases) == "v000002"

    asyncio.run(steps())


def test_storage_that_is_down_stops_no_version_that_serves(model: Model, clock: Clock) -> None:
    async def steps() -> None:
        releases, packaged = model.releases(), model.releases(must_look=False)
        model.down = True
        with pytest.raises(Unavailable, match="object store"):
            await who(releases)
        assert await who(packaged) == "none"
        model.down = False
        model.release("v000001")
        model.release("v000002")
        pointer = model.point("v000001", canary="v000002")
        tried = next(answer for answer in IDS if pointer.served(answer) == "v000002")
        clock.pass_(release.RETRY_S)
        assert [await who(each) for each in (releases, packaged)] == ["v000001", "v000001"]
        model.down = True
        for wait_s in (release.LOOK_S, release.LOOK_S, release.RETRY_S):
            clock.pass_(wait_s)
            assert (await who(releases), await who(releases, tried)) == ("v000001", "v000002")
        with pytest.raises(Unavailable, match="object store"):
            await releases.by_name("v000003", Ledger())
        assert (await releases.by_name("v000002", Ledger())).model == "v000002"
        model.point("v000002")
        model.down = False
        clock.pass_(release.RETRY_S)
        assert await who(releases) == "v000002"

    asyncio.run(steps())


def test_champion_canary_and_the_last_one_used_are_kept_and_no_more(model: Model) -> None:
    folders: Any = model.cache / "releases" / model.name

    def on_disk() -> set[str]:
        return {folder.name.split("-")[0] for folder in folders.iterdir()}

    async def steps() -> None:
        releases = model.releases()
        for number in range(1, 7):
            model.release(f"v00000{number}")
        model.point("v000001", canary="v000002")
        assert await who(releases) == "v000001"
        for number in range(3, 7):
            assert (await releases.by_name(f"v00000{number}", Ledger())).model == f"v00000{number}"
        assert on_disk() == {"v000001", "v000002", "v000006"}
        assert len(on_disk()) == KEPT
        with pytest.raises(NotFound, match="v000009"):
            await releases.by_name("v000009", Ledger())
        with pytest.raises(NotFound, match="sixth"):
            await releases.by_name("sixth", Ledger())
        assert await releases.requested("none", "", Ledger()) is None
        # After a restart nothing is fetched that is there whole, and what is damaged is fetched again.
        (damaged,) = folders.glob("v000002-*/words")
        damaged.write_text("v00000?")
        ledger = Ledger()
        assert await who(model.releases(), ledger=ledger) == "v000001"
        keys = ("champion.json", "v000001/card.json", "v000002/card.json", "v000002/words")
        assert moved(ledger) == sum(len(model.writer.get(f"{model.name}/{key}")) for key in keys)
        assert damaged.read_text() == "v000002"

    asyncio.run(steps())
