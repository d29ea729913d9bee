"""A round's manifest: the JSON that commits it, published last by one conditional put.

    rounds/000001.plan.json   the inputs of the round; written first, so that a killed round is continued
    rounds/000001.json        the manifest; the round is committed once it exists

Everything in between is named by its inputs and can be made again. Both files are JSON with a format number and are validated
when read; without a number the format is 1.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from headrace.catalog import ROUNDS
from headrace.core.schema import parse
from headrace.errors import LostRace, NotFound
from headrace.storage.objects import ObjectReader, ObjectWriter

_STRICT = ConfigDict(frozen=True, extra="forbid")
_OPEN = ConfigDict(frozen=True, extra="allow")
"""For parts that also have figures for people only."""


class Power(BaseModel):
    """How large a gain a round's verdicts could show, as `power` in power.py estimates it before anything is trained.

    `questions` by `users` would judge a challenger. `spread` is the standard deviation of differences from question to question,
    of the round that `spread_of` names, or assumed. `gain` is the smallest that would be shown with a chance of 80 %, `present`
    the mean score of retrieval's order (of generators that of the better one in the newest round), `plausible` the largest gain
    that is taken for possible, and `needed` the questions that show it (`None`: nothing is left to gain).
    """

    model_config = _STRICT

    questions: int
    users: int
    spread: float
    spread_of: str
    gain: float | None
    present: float | None
    plausible: float
    needed: int | None

    @property
    def sentence(self) -> str:
        """What verdicts could show, for people."""
        source = "assumed" if self.spread_of == "assumed" else f"as in {self.spread_of}"
        gain = "no gain" if self.gain is None else f"a gain of {self.gain:.3f} or more with a chance of 80 %"
        return f"{self.questions:,} judged questions show {gain} (differences vary by {self.spread:.3f}, {source})"


class Plan(BaseModel):
    """The inputs of a round, as `plan` in round.py writes them."""

    model_config = _STRICT

    format: Literal[1] = 1
    round: int
    parent: int | None
    """The committed round before this one."""
    recipe: str
    model: str
    start: str
    """`model/version` of the weights to train from; "" for the packaged ones."""
    champion: str
    """The served version when the round was planned."""
    canary: float
    """The share of traffic for a better challenger at first; 0 promotes it at once."""
    begun: str
    """ISO 8601, as every time here."""
    newest_verdict: str | None
    snapshots: dict[str, int | None]
    """By table."""
    offsets: dict[str, dict[str, dict[str, Any]]]
    """By topic and partition: how far events had landed."""
    exclusions: dict[str, Any]
    """As in `Exclusions.as_dict`."""
    generator_history: list[str]
    dataset_version: str
    recipe_settings: dict[str, Any]
    settings: dict[str, Any]
    power: Power | None = None
    """`None` in a plan that has just begun, and in plans that had none yet."""


class DatasetSummary(BaseModel):
    """The dataset a round was trained on: `Dataset.as_dict`."""

    model_config = _OPEN

    version: str
    files: list[dict[str, Any]]


class TrainingSummary(BaseModel):
    """The training: keys of its weights and its last checkpoint, and the rest of `Trained.as_dict`."""

    model_config = _OPEN

    weights: str
    checkpoint: str


class EvaluationSummary(BaseModel):
    """Champion and challenger on held-out questions, and the rest of `Evaluation.as_dict`."""

    model_config = _OPEN

    measure: str
    champion: float
    challenger: float
    questions: int
    spread: float | None = None
    """`None` in rounds that did not measure it yet."""


class GateDecision(BaseModel):
    """Whether the challenger was promoted, and why."""

    model_config = _STRICT

    promote: bool
    why: str
    alarms: list[str]


class ReleasedWeights(BaseModel):
    """The version that was released, if any, and its files."""

    model_config = _STRICT

    version: str | None
    files: list[dict[str, Any]]


class Manifest(Plan):
    """A committed round, as `promote` in promote.py writes it: the plan and its results."""

    committed: str
    run: str
    dataset: DatasetSummary
    training: TrainingSummary
    evaluation: EvaluationSummary
    decision: GateDecision
    weights: ReleasedWeights
    timings: dict[str, float]
    feedback_to_served: float | None


@dataclass
class Clock:
    """Seconds by part of a round.

    head: from the newest verdict to the start of the round · land · prepare · train, of which read: data and first weights ·
    checkpoint: writing them, parallel to the steps · gate: evaluation · load: the model server loads the weights · publish:
    release, manifest and pointer.
    """

    newest_verdict: str | None
    started: float
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._last = self.started
        if self.newest_verdict:
            began = datetime.now(UTC).timestamp() - (time.perf_counter() - self.started)
            self.seconds["head"] = round(max(0.0, began - datetime.fromisoformat(self.newest_verdict).timestamp()), 2)

    def lap(self, name: str) -> None:
        """Add the time since the last lap to `name`."""
        now = time.perf_counter()
        self.seconds[name] = round(self.seconds.get(name, 0.0) + now - self._last, 2)
        self._last = now

    @property
    def feedback_to_served(self) -> float | None:
        """Seconds from the newest verdict to now; `None` without a verdict."""
        if not self.newest_verdict:
            return None
        return round(datetime.now(UTC).timestamp() - datetime.fromisoformat(self.newest_verdict).timestamp(), 2)


_DIGITS = 6
_REQUESTS = 16  # at a time, where all manifests are read


def name(number: int) -> str:
    """A round's number as in keys and versions: 000001."""
    return f"{number:0{_DIGITS}d}"


def numbers(rounds: ObjectReader) -> list[int]:
    """The numbers of the committed rounds, in order."""
    keys = [info.key for info in rounds.list()]
    return sorted(int(key.removesuffix(".json")) for key in keys if key.removesuffix(".json").isdigit())


def read(rounds: ObjectReader, number: int) -> Manifest:
    """One manifest. Raises `NotFound`, or `InvalidState` if it does not have the schema."""
    key = f"{name(number)}.json"
    try:
        data = rounds.get(key)
    except NotFound:
        raise NotFound(
            f"No round {number} has ended here.", hint="`headrace models` lists the versions that rounds made."
        ) from None
    return parse(Manifest, data, f"{ROUNDS.name}/{key}")


def read_all(rounds: ObjectReader) -> dict[int, Manifest]:
    """Every manifest by its number: one request each, some at a time."""
    with ThreadPoolExecutor(_REQUESTS) as threads:
        found = numbers(rounds)
        return dict(zip(found, threads.map(lambda number: read(rounds, number), found), strict=True))


def plan(rounds: ObjectReader, number: int) -> Plan | None:
    """The plan of a round, or `None`. Raises `InvalidState` if it does not have the schema."""
    key = f"{name(number)}.plan.json"
    try:
        data = rounds.get(key)
    except NotFound:
        return None
    return parse(Plan, data, f"{ROUNDS.name}/{key}")


def begin(rounds: ObjectWriter, plan: Plan) -> Plan:
    """Write the plan of a round; returns it as it will be read. Raises `LostRace` if another process wrote one first."""
    key, data = f"{name(plan.round)}.plan.json", _bytes(plan)
    rounds.put_if_absent(key, data)
    return parse(Plan, data, f"{ROUNDS.name}/{key}")


def amend(rounds: ObjectWriter, former: Plan, plan: Plan) -> Plan:
    """Put a plan in the place of the one that was begun. Raises `LostRace` where that is not there any more."""
    key = f"{name(plan.round)}.plan.json"
    lost = LostRace("Data in this round's plan was withdrawn.", hint="Run again: a new round excludes it.")
    try:
        data, etag = rounds.get_with_etag(key)
    except NotFound:
        raise lost from None
    if parse(Plan, data, f"{ROUNDS.name}/{key}") != former:
        raise lost
    rounds.put_if_match(key, _bytes(plan), etag)
    return plan


_LOOKED_AT = 50


def newest_of(rounds: ObjectReader, recipe: str) -> Manifest | None:
    """The newest round with a recipe, of the last fifty."""
    for number in reversed(numbers(rounds)[-_LOOKED_AT:]):
        found = read(rounds, number)
        if found.recipe == recipe:
            return found
    return None


def withdraw(rounds: ObjectWriter, number: int) -> None:
    """Withdraw the plan of a round that cannot be completed; its number is free again."""
    rounds.delete(f"{name(number)}.plan.json")


def check_open(rounds: ObjectReader, number: int) -> None:
    """Raise `LostRace` if another process has committed a round."""
    if rounds.info(f"{name(number)}.json") is not None:
        raise LostRace(
            f"Round {number} was committed by another process meanwhile.", hint="Nothing is lost: `headrace models` shows it."
        )


def publish(rounds: ObjectWriter, manifest: Manifest) -> None:
    """Commit a round. Raises `LostRace` if another process committed it."""
    rounds.put_if_absent(f"{name(manifest.round)}.json", _bytes(manifest))


def _bytes(value: Plan) -> bytes:
    return json.dumps(value.model_dump(), indent=1, sort_keys=True).encode()
