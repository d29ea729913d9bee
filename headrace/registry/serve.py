"""Training rounds and the serving of their results, for commands and `headrace up`.

`training` and `answering` do not import each other; here a training result goes into service. A re-ranker or a generator is
served by moving a pointer. An embedder needs an index made with it, so its pointer follows the index.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from headrace.core.launch import Launch, LocalLauncher
from headrace.core.runner import Runner
from headrace.errors import BadSettings, NothingToLearn, Permanent
from headrace.models import EMBEDDER, GENERATOR, RANKING, RERANKER
from headrace.models.client import Generator, Reranker
from headrace.models.pointer import ChampionPointer
from headrace.registry.champion import rollback, set_champion
from headrace.registry.embedder import ServedEmbedder
from headrace.settings import EmbeddedPart, Endpoint, Settings
from headrace.storage.metadata import SHARED, Metadata
from headrace.training.cutoff import bound, parent_before, suppressed
from headrace.training.recipes import AUTO, CHEAPEST_FIRST, recipe_of
from headrace.training.round import Round, run_round


@dataclass(frozen=True)
class RoundRunner:
    """Runs rounds and serves their results; `launch` says where training runs."""

    settings: Settings
    runner: Runner
    launch: Launch = field(default_factory=LocalLauncher)

    @property
    def embedder(self) -> ServedEmbedder:
        """The embedder, whose pointer follows its index."""
        return ServedEmbedder(self.settings, self.runner)

    def round(
        self,
        recipe: str,
        *,
        before: str | None = None,
        canary: float = 0.0,
        load: Callable[[str, str], None] = lambda model, version: None,
    ) -> Round:
        """Run one round and serve its outcome; `load(model, version)` loads a model, except the embedder, where it is served.

        The recipe `auto` stands for the first of `choices` that has new verdicts which could show a plausible gain.

        `before` is an event "topic/partition/offset": nothing is learned from it or from later events, nor through the weights
        that training starts from. Forgotten data is never learned from.

        Raises `BadSettings` if the recipe trains an embedder, or a ranking, and the settings name the user's own embedder or
        re-ranker, and `NothingToLearn` where it cannot be trained; of `auto` where none can.
        """
        if recipe == AUTO:
            return self._cheapest(before=before, canary=canary, load=load)
        model = recipe_of(recipe).model
        embedder, theirs = self.embedder, self.settings.models.reranker
        if model == EMBEDDER:
            embedder.require_ours()
        if model == RANKING and isinstance(theirs, Endpoint):
            raise BadSettings(
                f"The settings name your own re-ranker ({theirs.model} at {theirs.url}), whose order is kept.",
                hint="Remove [models.reranker] from the settings, or train another model.",
            )
        self._reconcile()

        def loading(model: str, version: str) -> None:
            if model == EMBEDDER:
                embedder.load(version)
            else:
                load(model, version)

        settings = self.settings.training
        if model == EMBEDDER:  # evaluate with the serving threshold, because its refusals depend on it
            given = {"least_similarity": self.settings.inference.least_similarity, **settings.recipe.get(recipe, {})}
            settings = settings.model_copy(update={"recipe": {**settings.recipe, recipe: given}})
        exclusions, start = replace(self.runner.run(suppressed), tenants=self.unshared()), None
        if before is not None:
            limits = self.runner.run(bound, event=before)
            exclusions = replace(exclusions, before=limits)
            served = recipe_of(recipe).settings(settings.recipe.get(recipe, {})).start == "served"
            start = self.runner.run(parent_before, model=model, before=limits) if served else ""
        done = run_round(
            self.runner,
            launch=self.launch,
            settings=settings,
            recipe=recipe,
            canary=0.0 if model == EMBEDDER else canary,
            exclusions=exclusions,
            start=start,
            load=loading,
        )
        if model == EMBEDDER:
            started = time.perf_counter()
            decision = replace(done.decision, serving=embedder.reconcile().version)
            took = round(time.perf_counter() - started, 2)
            done = replace(
                done, decision=decision, timings={**done.timings, "reindex": took}, seconds=round(done.seconds + took, 1)
            )
        else:
            self._reconcile()  # an embedder round may have been resumed first
        self.runner.record.detail["round"] = done.as_dict()
        return done

    def _cheapest(self, **how: Any) -> Round:
        passed_over = []
        for recipe in self.choices:
            try:
                done = self.round(recipe, **how)
            except NothingToLearn as nothing:
                passed_over.append((recipe, nothing))
            else:
                reasons = tuple((name, reason.message) for name, reason in passed_over)
                done = replace(done, chosen=True, passed_over=reasons)
                self.runner.record.detail["round"] = done.as_dict()
                return done
        first = passed_over[0][1]
        if all(reason.message == first.message for _, reason in passed_over):
            raise first
        raise NothingToLearn(reasons_together(passed_over), hint=first.hint)

    @property
    def choices(self) -> tuple[str, ...]:
        """The recipes that `auto` chooses among, the cheapest first: those whose model the settings leave to Headrace and ask."""
        models = self.settings.models
        theirs = {
            RANKING: isinstance(models.reranker, Endpoint),
            EMBEDDER: isinstance(models.embedder, Endpoint),
            RERANKER: isinstance(models.reranker, Endpoint),
            GENERATOR: isinstance(models.generator, Endpoint) or self.settings.quotes,
        }
        return tuple(name for name in CHEAPEST_FIRST if not theirs.get(recipe_of(name).model))

    def load(self, model: str, version: str) -> None:
        """Load a version by asking the model server for it by name. Raises the server's error if it cannot be loaded.

        Not for the user's own endpoint, which serves its own models.
        """
        chosen, endpoints = self.settings.models, self.runner.endpoints
        if model == RERANKER and isinstance(chosen.reranker, EmbeddedPart):
            with Reranker(endpoints.reranker) as reranker:
                reranker.rank("Is it there?", ["It is."], version=version)
        elif model == GENERATOR and isinstance(chosen.generator, EmbeddedPart):
            with Generator(endpoints.generator) as generator:
                message = {"role": "user", "content": "Is it there?"}
                for _ in generator.stream([message], max_tokens=1, cache=False, version=version):
                    pass

    def promote(self, model: str, *, version: str, who: str, why: str) -> ChampionPointer:
        """Serve a released version of a model. Raises `NotFound`, or `LostRace` if another move came first."""
        if model == EMBEDDER:
            return self.embedder.serve(version, who=who, why=why)
        return self.runner.run(set_champion, model=model, version=version, who=who, why=why)

    def rollback(self, model: str, *, who: str, why: str) -> ChampionPointer:
        """Serve the previous version again. Raises `NotFound` if there is none."""
        if model == EMBEDDER:
            return self.embedder.rollback(who=who, why=why)
        return self.runner.run(rollback, model=model, who=who, why=why)

    def unshared(self) -> frozenset[str]:
        """Tenants whose verdicts are not learned from, because they did not opt in to training shared models.

        A tenant that the metadata store does not know (from the command line) belongs to the owner of this home and is learned
        from. So is the settings' own tenant while it is the only one.
        """
        if self.runner.endpoints.metadata is None:
            return frozenset()
        with closing(Metadata(self.runner.endpoints)) as metadata:
            known = metadata.tenants()
        only = {self.settings.tenant} if len(known) == 1 else set()
        return frozenset(tenant.name for tenant in known if tenant.training != SHARED and tenant.name not in only)

    def _reconcile(self) -> None:
        try:
            self.embedder.reconcile()
        except Permanent as error:  # an embedder that cannot be served must not stop other models from training
            self.runner.record.detail["embedder"] = str(error)


def reasons_together(passed_over: Sequence[tuple[str, NothingToLearn]]) -> str:
    """Why none of these recipes was trained: a reason that several have in common is said once, of all of them."""
    recipes: dict[str, list[str]] = {}
    for recipe, reason in passed_over:
        own = f"{recipe} is not trained: "
        why = reason.message.removeprefix(own) if reason.message.startswith(own) else ""
        recipes.setdefault(why or reason.message, []).extend([recipe] if why else [])
    return " ".join(f"{_listed(names)} not trained: {why}" if names else why for why, names in recipes.items())


def _listed(names: Sequence[str]) -> str:
    return f"{names[0]} is" if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]} are"
