"""The scheduler of the training loop: one thing at a time, a round, a canary check, or nothing for a while."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from headrace.app import App
from headrace.catalog import LEASES, MODELS
from headrace.core.runner import Runner
from headrace.core.stage import P, R, Stage
from headrace.errors import HeadraceError, LostRace, NothingToLearn
from headrace.models import MODEL_NAMES
from headrace.registry import canary
from headrace.registry.serve import RoundRunner
from headrace.retry import backoff
from headrace.scheduler import backlog as due
from headrace.scheduler import status
from headrace.scheduler.lease import LeaderLease
from headrace.scheduler.status import Status, StatusBars
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.training.manifest import Manifest, Plan
from headrace.training.promotions import champion
from headrace.training.recipes import AUTO, RECIPES
from headrace.training.round import Round


@dataclass
class Pause:
    """Exponential backoff in seconds: `first` after one failure, doubled after each further one, at most `most`."""

    first: float = 60.0
    most: float = 3_600.0
    times: int = 0
    """Failures in a row."""

    def failed(self) -> float:
        """Count a failure and return the seconds to wait now."""
        self.times += 1
        return backoff(self.times, first_s=self.first, longest_s=self.most, spread=0.0)

    def succeeded(self) -> None:
        """Reset the count of failures."""
        self.times = 0


_LOOK_S = 2.0
_WATCH_S = 10.0
_OTHERS = timedelta(minutes=15)
"""How long another process's round is left to that process."""

log = logging.getLogger("headrace.scheduler")


@dataclass
class PendingVerdicts:
    """Verdicts that one recipe has not learned from, since when, and whether they start a round."""

    recipe: str
    model: str
    new: int
    since: datetime | None
    due_at: datetime | None
    due: bool
    note: str = ""


class Scheduler:
    """Runs rounds for one installation while it holds the lease, and watches canaries; `go` runs a round."""

    def __init__(
        self, app: App, report: Status, name: str, *, pause: Pause | None = None, go: Callable[..., Round] = RoundRunner.round
    ) -> None:
        self._app = app
        self._settings = app.settings.training
        named = self._settings.recipes
        self._recipes = tuple(dict.fromkeys(one for name in named for one in (app.training.choices if name == AUTO else (name,))))
        self._status = report
        self._pause = pause or Pause()
        self._go = go
        self._retry_at = 0.0
        runner = app.runner
        self._models = runner.open(ObjectReader, MODELS, stage="loop")
        self.lease = LeaderLease(runner.open(ObjectWriter, LEASES, stage="loop"), name)
        self._known: dict[int, Manifest] = {}
        self._tried: dict[str, due.Reached] = {}
        """The position up to which each recipe found nothing to learn from."""
        self._nothing: dict[str, str] = {}
        """Why."""
        self._since: dict[str, tuple[due.Reached, datetime]] = {}
        """For each recipe, the position it had read to, and the time of its oldest unread verdict at that position."""
        self._after = ""
        self._watched_at = -_WATCH_S
        self._canaries: dict[str, str] = {}
        # The round that the previous loop process was running when it ended, if any.
        self._ours: dict[str, Any] | None = report.get("round")
        report.update(round=None, trouble=None)

    def run(self) -> None:
        """Run until interrupted; `KeyboardInterrupt` passes through."""
        while True:
            busy = self.step()
            self._status.flush()
            if not busy:
                time.sleep(_LOOK_S)

    def step(self) -> bool:
        """Do one thing; returns whether a round ran, in which case the next step may follow at once."""
        if not self.lease.is_held:
            holder = f"The training loop at {self.lease.holder} trains for this installation." if self.lease.holder else ""
            self._status.update(state=status.ELSEWHERE if holder else status.STARTING, note=holder)
            return False
        try:
            self._watch()
            backlog = self._app.runner.run(due.training_backlog, recipes=self._recipes, known=self._known)
            waiting = [self._waiting(recipe, backlog) for recipe in self._recipes]
        except LostRace as error:
            log.info("another process was faster: %s", error.message)
            return False
        except HeadraceError as error:
            # No round has started: show the error and check again in a moment.
            self._status.update(note=str(error))
            return False
        self._status.update(
            recipes=[_as_dict(one, self._settings.verdicts) for one in waiting], last=_last(backlog.newest), note=""
        )
        if time.monotonic() < self._retry_at:
            self._status.update(state=status.PAUSED)
            return False
        self._status.update(state=status.WAITING)
        if backlog.begun is not None:
            return self._resumed(backlog.begun)
        self._ours = None
        ready = [one.recipe for one in waiting if one.due]
        if not ready:
            return False
        # Round robin, so that a steady stream of verdicts does not give every round to the first recipe.
        order = list(self._recipes)
        start = order.index(self._after) + 1 if self._after in order else 0
        self._train(next(name for name in [*order[start:], *order[:start]] if name in ready), backlog)
        return True

    def _resumed(self, begun: Plan) -> bool:
        """Resume a round that was begun: our own at once, another process's only once it is abandoned."""
        ours = self._ours is not None and self._ours.get("recipe") == begun.recipe
        age = datetime.now(UTC) - datetime.fromisoformat(begun.begun)
        if not ours and age < _OTHERS:
            self._status.update(note=f"Another command is running round {begun.round} ({begun.recipe}).")
            return False
        log.info("resuming round %d (%s)", begun.round, begun.recipe)
        self._train(begun.recipe, None, resumed=True)
        return True

    def _waiting(self, recipe: str, backlog: due.TrainingBacklog) -> PendingVerdicts:
        chosen = RECIPES.get(recipe)
        model = chosen.model if chosen else ""
        tried, read = self._tried.get(recipe, {}), backlog.read.get(recipe, {})
        behind = min((read, tried), key=lambda reached: due.new(backlog.landed, reached)) if tried else read
        count = due.new(backlog.landed, behind)
        if not count:
            self._since.pop(recipe, None)
            return PendingVerdicts(recipe, model, 0, None, None, False, self._note(recipe, model))
        before, since = self._since.get(recipe, (None, None))
        if before != behind:  # not looked up yet, or another command has trained since
            since = self._app.runner.run(due.oldest, landed=backlog.landed, read=behind)
            if since is not None:
                self._since[recipe] = behind, since
        # If the writer's clock is ahead, treat the verdict as given now.
        due_at = min(since, datetime.now(UTC)) + timedelta(minutes=self._settings.minutes) if since else None
        enough = count >= self._settings.verdicts or (due_at is not None and datetime.now(UTC) >= due_at)
        return PendingVerdicts(
            recipe, model, count, since, due_at, enough and model not in self._canaries, self._note(recipe, model)
        )

    def _note(self, recipe: str, model: str) -> str:
        if model in self._canaries:
            return f"waiting for canary {self._canaries[model]} to end"
        return self._nothing.get(recipe, "") if recipe in self._tried else ""

    def _watch(self) -> None:
        if time.monotonic() - self._watched_at < _WATCH_S:
            return
        updates = {}
        for model in MODEL_NAMES:
            watched: canary.CanaryStatus | None = None
            if model in canary.TRIED:
                watched = self._app.runner.run(canary.decide_canary, model=model, settings=self._settings)
            if watched is not None and watched.ended:
                log.info("canary of %s, version %s, ended with %s: %s", model, watched.version, watched.ended, watched.why)
            pointer, _ = champion(self._models, model)
            updates[model] = {**pointer.as_dict(), "canary_status": watched.as_dict() if watched else None}
        self._canaries = {name: one["canary"]["version"] for name, one in updates.items() if one["canary"]}
        self._status.update(models=updates)
        self._watched_at = time.monotonic()

    def _train(self, recipe: str, backlog: due.TrainingBacklog | None, *, resumed: bool = False) -> None:
        model = RECIPES[recipe].model if recipe in RECIPES else ""
        fresh = {"number": None, "recipe": recipe, "model": model, "stage": "land", "step": 0, "steps": 0, "eta_s": None}
        self._ours = {**fresh, "begun": status.now(), "resumed": resumed, "loss": None}
        self._status.update(state=status.TRAINING, round=self._ours, trouble=None)
        self._status.flush()
        self._after = recipe
        done = False
        try:
            self._round(recipe, backlog)
            done = True
        except LostRace as error:
            log.info("another process committed this round: %s", error.message)
        except HeadraceError as error:
            self._failed(recipe, error.message, error.hint)
        except Exception as error:
            log.exception("a round with %s failed", recipe)
            self._failed(recipe, f"Unexpected error: {type(error).__name__}: {error}.", "The log has the traceback.")
        self._watched_at = -_WATCH_S  # show a promotion at once
        if done:
            self._pause.succeeded()
        self._status.update(state=status.WAITING, round=None)

    def _round(self, recipe: str, backlog: due.TrainingBacklog | None) -> None:
        with App(self._app.settings, "train", quiet=True) as app:
            training = replace(app.training, runner=ReportingRunner(app.runner, self._status))
            try:
                done = self._go(training, recipe, canary=self._settings.canary.share, load=training.load)
            except NothingToLearn as nothing:
                # Not a failure: another recipe may still learn from these verdicts.
                app.runner.record.detail["nothing"] = nothing.message
                landed = (
                    backlog.landed
                    if backlog
                    else self._app.runner.run(due.training_backlog, recipes=(), known=self._known).landed
                )
                self._tried[recipe] = landed
                self._nothing[recipe] = f"{nothing.message} {nothing.hint}".strip().rstrip(".")
                self._since.pop(recipe, None)
                log.info("%s: %s", recipe, nothing.message)
                return
        self._tried.pop(recipe, None)
        self._since.pop(recipe, None)
        decision = done.decision
        outcome = "promoted" if decision.promoted else "rejected"
        log.info("round %d (%s) in %.0f s: %s, %s", decision.round, recipe, done.seconds, outcome, decision.why)
        self._app.storage.archive()

    def _failed(self, recipe: str, why: str, hint: str) -> None:
        wait_s = self._pause.failed()
        self._retry_at = time.monotonic() + wait_s
        log.warning("a round with %s failed; next attempt in %.0f s: %s", recipe, wait_s, why)
        self._status.update(
            trouble={
                "recipe": recipe,
                "why": why,
                "hint": hint,
                "times": self._pause.times,
                "next": (datetime.now(UTC) + timedelta(seconds=wait_s)).isoformat(),
            }
        )


class ReportingRunner(Runner):
    """A runner that reports its current stage to the status."""

    def __init__(self, runner: Runner, report: Status) -> None:
        super().__init__(runner.record, runner.endpoints, batches=runner.batches, bars=StatusBars(report))
        self._status = report

    def run(self, stage: Stage[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """See `Runner.run`."""
        self._status.stage(stage.name)
        result = super().run(stage, *args, **kwargs)
        if stage.name == "plan":
            planned = cast("Plan", result)
            self._status.update_round(number=planned.round, recipe=planned.recipe, model=planned.model)
            self._status.flush()
        if stage.name == "power" and (found := cast("Plan", result).power) is not None:
            self._status.update_round(power=found.sentence)
        return result


def _as_dict(waiting: PendingVerdicts, wanted: int) -> dict[str, Any]:
    times = {name: time.isoformat() if time else None for name, time in (("since", waiting.since), ("due_at", waiting.due_at))}
    return {**vars(waiting), **times, "of": wanted}


def _last(newest: Manifest | None) -> dict[str, Any] | None:
    """The last decision, from its manifest."""
    if newest is None:
        return None
    decision, evaluation = newest.decision, newest.evaluation
    return {
        "round": newest.round,
        "recipe": newest.recipe,
        "model": newest.model,
        "promoted": decision.promote,
        "version": newest.weights.version,
        "why": decision.why,
        "alarms": decision.alarms,
        "measure": evaluation.measure,
        "champion": evaluation.champion,
        "challenger": evaluation.challenger,
        "questions": evaluation.questions,
        "power": newest.power.model_dump() if newest.power else None,
        "weights": ((evaluation.model_extra or {}).get("card") or {}).get("ranking", {}).get("weights"),
        "committed": newest.committed,
        "timings": newest.timings,
        "feedback_to_served": newest.feedback_to_served,
    }
