"""What the training loop does next, one step at a time: real tables, head and manifests, and rounds that take no time."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from rounds import manifest as a_manifest
from rounds import plan as a_plan

from headrace.app import App
from headrace.catalog import FEEDBACK, FEEDBACK_ROWS, MODELS, ROUNDS
from headrace.core.run import runs
from headrace.errors import HeadraceError, LostRace, NothingToLearn, Unavailable
from headrace.landing.land import land
from headrace.landing.positions import positions
from headrace.models.pointer import Canary, ChampionPointer, pointer_key
from headrace.registry.serve import RoundRunner
from headrace.scheduler import scheduler as loop_module
from headrace.scheduler import status
from headrace.scheduler.scheduler import Pause, Scheduler
from headrace.scheduler.status import Status
from headrace.settings import Endpoint, ModelSettings, Settings
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectWriter
from headrace.storage.stream.writer import TopicWriter
from headrace.storage.tables.handles import TableReader
from headrace.training import manifest
from headrace.training.promote import Decision
from headrace.training.round import Round

METER = Meter(Ledger(), "test")
NOBODY = Endpoint(type="endpoint", url="http://127.0.0.1:1/v1", model="m")
RECIPES = ("reranker", "sft", "kto")
MODEL = {"reranker": "reranker", "sft": "generator", "kto": "generator"}
VERDICTS, MINUTES = 5, 10.0


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("decisions")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SETTINGS", str(folder / "none.toml"))
        settings = Settings(home=folder / "home", models=ModelSettings(embedder=NOBODY, reranker=NOBODY, generator=NOBODY))
        chosen = {"recipes": RECIPES, "verdicts": VERDICTS, "minutes": MINUTES}
        settings = settings.model_copy(update={"training": settings.training.model_copy(update=chosen)})
        with App(settings, "loop", quiet=True) as app:
            yield app


class Rounds:
    """How rounds are made here: each notes its recipe and ends at once, as the test says, by default with a manifest."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.made: list[str] = []
        self.fails: dict[str, Exception] = {}

    def __call__(self, training: RoundRunner, recipe: str, **_: Any) -> Round:
        self.made.append(recipe)
        if error := self.fails.get(recipe):
            raise error
        number = learned(self.app, recipe)
        decision = Decision(number, MODEL[recipe], False, "no better", (), f"v{number:06}", "none")
        nothing = cast(Any, None)
        return Round(recipe, nothing, nothing, nothing, nothing, decision, {}, 0.0)


@pytest.fixture
def rounds(app: App) -> Rounds:
    """An installation where every recipe has learned from every verdict, nothing is on trial and no round is begun."""
    store = ObjectWriter(ROUNDS, app.runner.endpoints, METER)
    for info in list(store.list()):
        store.delete(info.key)
    models = ObjectWriter(MODELS, app.runner.endpoints, METER)
    for info in list(models.list()):
        models.delete(info.key)
    for recipe in RECIPES:
        learned(app, recipe)
    return Rounds(app)


class Seated(Scheduler):
    """A loop that holds the lease, with what it tells; `kept` is what the loop before it had told, if one was."""

    def __init__(self, app: App, rounds: Callable[..., Round], home: Path, **kept: Any) -> None:
        self.told = Telling(home, **kept)
        super().__init__(app, self.told, "one", pause=Pause(first=0.3), go=rounds)
        self.lease.is_held = True

    @property
    def waiting(self) -> dict[str, dict[str, Any]]:
        """What waits, by recipe."""
        return {one["recipe"]: one for one in self.told.get("recipes")}


class Telling(Status):
    """Remembers every round that was told to be under way."""

    def __init__(self, home: Path, **kept: Any) -> None:
        super().__init__(home, **kept)
        self.rounds: list[dict[str, Any]] = []

    def update(self, **what: Any) -> None:
        super().update(**what)
        if what.get("round"):
            self.rounds.append(what["round"])


@pytest.fixture
def loop(app: App, rounds: Rounds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Seated:
    monkeypatch.setattr(loop_module, "_WATCH_S", 0.0)
    return Seated(app, rounds, tmp_path)


def judged(app: App, count: int, *, minutes_ago: float = 0.0) -> None:
    """Verdicts on answers that nobody gave, landed."""
    at = datetime.now(UTC) - timedelta(minutes=minutes_ago)
    rows = []
    for _ in range(count):
        name = uuid.uuid4().hex
        plain: dict[str, Any] = {field.name: "" for field in FEEDBACK.columns if not field.nullable}
        rows.append({**plain, "tenant": "acme", "simulated": False, "up": True, "verdict_id": name, "answer_id": name, "at": at})
    TopicWriter(FEEDBACK, app.runner.endpoints, METER).append(rows, key="answer_id")
    app.runner.run(land)


def learned(app: App, recipe: str) -> int:
    """Commit a round that has read every verdict; its number."""
    endpoints = app.runner.endpoints
    store = ObjectWriter(ROUNDS, endpoints, METER)
    number = max(manifest.numbers(store), default=0) + 1
    properties = positions(TableReader(FEEDBACK_ROWS, endpoints, METER).snapshot_properties(), FEEDBACK.name)
    offsets = {FEEDBACK.name: {str(place): at.as_property() for place, at in properties.items()}}
    decision = {"promote": False, "why": "no better", "alarms": []}
    manifest.publish(store, a_manifest(number, recipe=recipe, model=MODEL[recipe], offsets=offsets, decision=decision))
    return number


def begun(app: App, recipe: str, *, minutes_ago: float) -> int:
    """A round that somebody began and has not committed."""
    store = ObjectWriter(ROUNDS, app.runner.endpoints, METER)
    number = max(manifest.numbers(store), default=0) + 1
    at = datetime.now(UTC) - timedelta(minutes=minutes_ago)
    manifest.begin(store, a_plan(number, recipe=recipe, begun=at.isoformat()))
    return number


def trial(app: App, model: str, *, version: str = "v000099", minutes_ago: float = 0.0) -> None:
    """Put a challenger on trial, for an hour from its beginning on."""
    since = (datetime.now(UTC) - timedelta(minutes=minutes_ago)).isoformat()
    canary = Canary(version=version, share=0.1, round=99, since=since, why="better")
    pointer = ChampionPointer(model=model, moves=1, kind="canary", who="round 99", at=since, canary=canary)
    models = ObjectWriter(MODELS, app.runner.endpoints, METER)
    models.put(pointer_key(model), pointer.model_dump_json().encode())


def test_without_the_seat_nothing_is_done(app: App, loop: Seated, rounds: Rounds) -> None:
    judged(app, VERDICTS)
    loop.lease.is_held, loop.lease.holder = False, "another machine (two)"
    assert not loop.step()
    assert (loop.told.get("state"), loop.told.get("note")) == (
        status.ELSEWHERE,
        "The training loop at another machine (two) trains for this installation.",
    )
    loop.lease.holder = ""
    assert not loop.step()
    assert loop.told.get("state") == status.STARTING
    assert rounds.made == []


def test_a_round_starts_at_so_many_verdicts_and_not_one_before(app: App, loop: Seated, rounds: Rounds) -> None:
    assert not loop.step()
    assert {name: (one["new"], one["due"], one["since"]) for name, one in loop.waiting.items()} == dict.fromkeys(
        RECIPES, (0, False, None)
    )
    judged(app, VERDICTS - 1)
    assert not loop.step()
    assert (loop.waiting["sft"]["new"], loop.waiting["sft"]["of"], loop.told.get("state")) == (4, 5, status.WAITING)
    assert rounds.made == []
    judged(app, 1)
    assert loop.step()
    assert rounds.made == ["reranker"]
    assert [(begun["recipe"], begun["resumed"]) for begun in loop.told.rounds] == [("reranker", False)]


def test_a_round_starts_with_fewer_verdicts_once_the_oldest_has_waited_long_enough(
    app: App, loop: Seated, rounds: Rounds, tmp_path: Path
) -> None:
    judged(app, 1, minutes_ago=MINUTES - 2)
    assert not loop.step()
    due = datetime.fromisoformat(loop.waiting["reranker"]["due_at"])
    assert timedelta(minutes=1) < due - datetime.now(UTC) < timedelta(minutes=2)
    judged(app, 1)
    assert not loop.step()
    assert datetime.fromisoformat(loop.waiting["reranker"]["due_at"]) == due, "the oldest counts"
    judged(app, 1, minutes_ago=MINUTES + 0.01)
    again = Seated(app, rounds, tmp_path)  # it has not seen the others
    assert again.step()
    assert rounds.made == ["reranker"]


def test_a_verdict_that_another_command_learned_from_starts_no_round_early(app: App, loop: Seated, rounds: Rounds) -> None:
    judged(app, 1, minutes_ago=MINUTES - 0.05)
    assert not loop.step()
    for recipe in RECIPES:
        learned(app, recipe)
    judged(app, 1)  # between two looks of the loop
    assert not loop.step()
    due = datetime.fromisoformat(loop.waiting["reranker"]["due_at"])
    assert due - datetime.now(UTC) > timedelta(minutes=MINUTES - 1)


def test_recipes_take_turns_however_many_verdicts_come(app: App, loop: Seated, rounds: Rounds) -> None:
    judged(app, VERDICTS)
    for _ in range(4):
        assert loop.step()
        judged(app, VERDICTS)
    assert rounds.made == ["reranker", "sft", "kto", "reranker"]


def test_a_recipe_that_has_nothing_new_is_passed_over(app: App, loop: Seated, rounds: Rounds) -> None:
    judged(app, VERDICTS)
    learned(app, "sft")
    assert loop.step()
    assert loop.step()
    assert not loop.step()
    assert rounds.made == ["reranker", "kto"]


def test_a_model_on_trial_is_not_trained_meanwhile_and_others_are(app: App, loop: Seated, rounds: Rounds) -> None:
    trial(app, "generator")
    judged(app, VERDICTS)
    assert loop.step()
    assert not loop.step()
    assert rounds.made == ["reranker"]
    notes = {name: (one["note"], one["due"], one["new"]) for name, one in loop.waiting.items()}
    assert notes == {
        "reranker": ("", False, 0),
        **dict.fromkeys(("sft", "kto"), ("waiting for canary v000099 to end", False, VERDICTS)),
    }
    assert loop.told.get("models")["generator"]["canary_status"]["version"] == "v000099"


def test_what_waited_for_a_trial_is_trained_once_that_has_ended(app: App, loop: Seated, rounds: Rounds) -> None:
    models = ObjectWriter(MODELS, app.runner.endpoints, METER)
    models.put("reranker/v000099/card.json", json.dumps({"version": "v000099", "round": 99, "files": []}).encode())
    trial(app, "reranker", minutes_ago=61)
    judged(app, VERDICTS)
    assert loop.step()
    assert rounds.made == ["reranker"]
    assert (loop.told.get("models")["reranker"]["version"], loop.told.get("models")["reranker"]["canary"]) == ("v000099", None)


def test_what_cannot_be_looked_at_is_said_and_looked_at_again(app: App, loop: Seated, rounds: Rounds) -> None:
    trial(app, "reranker", version="v000098", minutes_ago=61)  # it is to be promoted, and was never released
    judged(app, VERDICTS)
    assert not loop.step()
    assert "No version 'v000098' of reranker was released." in loop.told.get("note")
    assert rounds.made == []
    ObjectWriter(MODELS, app.runner.endpoints, METER).delete(pointer_key("reranker"))
    assert loop.step()
    assert loop.told.get("note") == ""


def test_a_round_that_another_command_began_is_left_to_it(app: App, loop: Seated, rounds: Rounds) -> None:
    judged(app, VERDICTS)
    number = begun(app, "kto", minutes_ago=14.5)
    assert not loop.step()
    assert loop.told.get("note") == f"Another command is running round {number} (kto)."
    assert rounds.made == []


def test_a_round_that_was_left_lying_is_taken_up(app: App, loop: Seated, rounds: Rounds) -> None:
    begun(app, "kto", minutes_ago=15.5)
    assert loop.step()
    assert rounds.made == ["kto"], "with its own recipe, whatever would be next"
    assert (loop.told.rounds[0]["recipe"], loop.told.rounds[0]["resumed"]) == ("kto", True)


def test_a_loop_that_is_started_again_takes_its_own_round_up_at_once(app: App, rounds: Rounds, tmp_path: Path) -> None:
    begun(app, "sft", minutes_ago=0.0)
    another = Seated(app, rounds, tmp_path, round={"recipe": "kto"})
    assert not another.step(), "one that had another round under way leaves it alone"
    assert rounds.made == []
    again = Seated(app, rounds, tmp_path, round={"recipe": "sft"})
    assert again.step()
    assert rounds.made == ["sft"]


def test_after_a_failure_the_loop_pauses_longer_each_time_and_tries_again(
    app: App, loop: Seated, rounds: Rounds, within: Callable[[float, Callable[[], bool]], bool]
) -> None:
    judged(app, VERDICTS)
    rounds.fails = {name: Unavailable("The store is away.", hint="Bring it back.") for name in RECIPES}
    assert loop.step()
    trouble = loop.told.get("trouble")
    assert (trouble["recipe"], trouble["why"], trouble["hint"], trouble["times"]) == (
        "reranker",
        "The store is away.",
        "Bring it back.",
        1,
    )
    assert not loop.step()
    assert (loop.told.get("state"), rounds.made) == (status.PAUSED, ["reranker"])
    rounds.fails["sft"] = ValueError("by design")
    assert within(30, loop.step), "after the pause it goes on, with the next recipe"
    assert rounds.made == ["reranker", "sft"]
    trouble = loop.told.get("trouble")
    assert (trouble["times"], trouble["why"]) == (2, "Unexpected error: ValueError: by design.")
    rounds.fails.clear()
    assert within(30, loop.step)
    assert rounds.made == ["reranker", "sft", "kto"]
    assert loop.told.get("trouble") is None
    assert loop.step(), "what succeeded leaves no pause behind"
    rounds.fails["sft"] = Unavailable("The store is away.")
    assert loop.step()
    assert loop.told.get("trouble")["times"] == 1


def test_a_round_that_somebody_else_committed_is_no_failure(app: App, loop: Seated, rounds: Rounds) -> None:
    judged(app, VERDICTS)
    rounds.fails["reranker"] = LostRace("Somebody else was quicker.")
    assert loop.step()
    assert loop.told.get("trouble") is None
    assert loop.step()
    assert rounds.made == ["reranker", "sft"]


def test_a_recipe_that_finds_nothing_to_learn_waits_for_new_verdicts(app: App, rounds: Rounds, tmp_path: Path) -> None:
    """With a round as it is made: nobody gave the answers that these verdicts are on."""
    made: list[str] = []

    def go(training: RoundRunner, recipe: str, **given: Any) -> Round:
        made.append(recipe)
        return training.round(recipe, **given)

    for recipe in ("sft", "kto"):
        learned(app, recipe)
    judged(app, VERDICTS)
    for recipe in ("sft", "kto"):
        learned(app, recipe)
    loop = Seated(app, go, tmp_path)
    assert loop.step()
    assert made == ["reranker"]
    assert loop.told.get("trouble") is None
    assert not loop.step(), "the same would come of it"
    assert loop.waiting["reranker"]["note"].startswith("There is no verdict to learn from yet.")
    assert loop.waiting["reranker"]["new"] == 0
    recorded = runs(app.settings.home)[-1]
    assert (recorded["command"], recorded["state"]) == ("train", "done")
    judged(app, VERDICTS - 1)
    assert not loop.step()
    assert (loop.waiting["reranker"]["new"], made) == (4, ["reranker"])
    judged(app, 1)
    for recipe in ("sft", "kto"):
        learned(app, recipe)
    assert loop.step()
    assert made == ["reranker", "reranker"]


@pytest.mark.parametrize("error", [NothingToLearn("Nothing."), LostRace("Lost."), HeadraceError("Failed.")])
def test_what_is_told_after_a_round_is_that_none_is_under_way(
    app: App, loop: Seated, rounds: Rounds, error: HeadraceError
) -> None:
    judged(app, VERDICTS)
    rounds.fails["reranker"] = error
    assert loop.step()
    assert (loop.told.get("round"), loop.told.get("state")) == (None, status.WAITING)
