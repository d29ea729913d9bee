"""evaluate: challenger against champion on held-out questions, question by question, with a paired bootstrap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from headrace.catalog import CHECKPOINTS, DATASETS, MODELS
from headrace.core.progress import ProgressBars
from headrace.core.stage import stage
from headrace.core.statistics import interval
from headrace.models.pointer import NONE
from headrace.settings import Training
from headrace.storage.objects import ObjectReader
from headrace.training.data import Dataset
from headrace.training.data.dataset import TEST, TRAIN, TUNE, fewer, read
from headrace.training.measures import Compared, Rows, measure_of
from headrace.training.promotions import card, champion
from headrace.training.recipe import FittedRecipe
from headrace.training.recipes import recipe_of
from headrace.training.scratch import scratch_folder
from headrace.training.served_order import ServedOrder
from headrace.training.trainer import Trained, fetch, fetch_release

_Pair = tuple[Mapping[str, Any], Mapping[str, Any]]
_BESIDE = ("groundedness", "tokens", "wanted", "refused", "repetition")


@dataclass(frozen=True)
class Difference:
    """The means of champion and challenger over the same questions, their mean difference and its two-sided 95 % interval.

    `confidence` is the share of bootstrap resamples in which the challenger's mean is higher; `None` if there are fewer
    questions than `gate.least_questions`, which are too few for it to mean anything.
    """

    questions: int
    champion: float
    challenger: float
    difference: float
    low: float
    high: float
    confidence: float | None


@dataclass(frozen=True)
class Evaluation:
    """Challenger and champion compared on the held-out questions, by `measure`.

    - `users`: how many users judged those questions; all users of one API key count as one.
    - `alone`: for each user without whose verdicts at least half of the questions would tell nothing, how many those are.
    - `spread`: the standard deviation over questions of the difference between challenger and champion.
    - `tenants`: the comparison on each tenant's questions.
    - `without`: for each user who judged many questions, the comparison by the verdicts of the others.
    - `beside`: comparisons by other properties of the answers, such as their length.
    - `card`: the part of the model card that serving needs.
    - `retrieval`: the mean of the retriever's own order, for models that reorder passages.

    `questions` to `confidence` are as in `Difference`.
    """

    measure: str
    champion_version: str
    questions: int
    champion: float
    challenger: float
    difference: float
    low: float
    high: float
    confidence: float | None
    retrieval: float | None = None
    card: dict[str, Any] = field(default_factory=dict)
    tenants: dict[str, Difference] = field(default_factory=dict)
    without: dict[str, Difference] = field(default_factory=dict)
    beside: dict[str, Difference] = field(default_factory=dict)
    users: int = 0
    spread: float = 0.0
    alone: dict[str, int] = field(default_factory=dict)

    @property
    def means(self) -> str:
        """Both means in words: nDCG@10 0.851 against 0.776."""
        return f"{self.measure} {self.challenger:.3f} against {self.champion:.3f}"

    @property
    def compared(self) -> str:
        """The means, and on how many questions."""
        return f"{self.means} on {self.questions:,} held-out question{'' if self.questions == 1 else 's'}"

    def as_dict(self) -> dict[str, Any]:
        """The evaluation as the manifest stores it."""
        return {
            **vars(self),
            **{name: {key: vars(d) for key, d in getattr(self, name).items()} for name in ("tenants", "without", "beside")},
        }


@stage("Compares challenger and champion on held-out questions, with a paired bootstrap.")
def evaluate(
    datasets: Annotated[ObjectReader, DATASETS],
    checkpoints: Annotated[ObjectReader, CHECKPOINTS],
    models: Annotated[ObjectReader, MODELS],
    bars: ProgressBars,
    dataset: Dataset,
    trained: Trained,
    recipe: str,
    recipe_settings: Mapping[str, object],
    settings: Training,
    questions: int | None = None,
) -> Evaluation:
    """Compare on at most `questions` questions of the `test` split, by default `gate.questions`; thresholds are fitted on `tune`.

    A fitted recipe is cheap, so it is compared on every question, each time with weights fitted without that question
    (cross-fitting, ranker.py). The champion is the released version that answers now, or the packaged model if there is none.
    """
    chosen = recipe_of(recipe)
    with scratch_folder() as folder:
        challenger = fetch(checkpoints, trained.weights, folder / "challenger")
        champion_version = champion(models, chosen.model)[0].version
        reigning: Path | None = None
        known: dict[str, Any] = {}
        if champion_version != NONE:
            reigning = fetch_release(models, f"{chosen.model}/{champion_version}", folder / "champion")
            known = card(models, chosen.model, champion_version)
        tune: Rows
        test: Rows
        tune, test = (read(datasets, dataset.files, split) for split in (TUNE, TEST))
        if isinstance(chosen, FittedRecipe):
            tune, test = [], [*read(datasets, dataset.files, TRAIN), *tune, *test]
        else:
            most = questions or settings.gate.questions
            tune, test = fewer(tune, most // 2), fewer(test, most)
        compared = measure_of(chosen.model)(
            challenger, reigning, known, ServedOrder.load(models), tune, test, chosen.settings(recipe_settings), bars
        )
    return evaluated(compared, champion_version, settings)


def evaluated(compared: Compared, champion_version: str, settings: Training) -> Evaluation:
    """The evaluation of a comparison."""
    pairs: list[_Pair] = list(zip(compared.ours, compared.theirs, strict=True))
    tenants: dict[str, list[_Pair]] = {}
    users, alone = Counter[str](), Counter[str]()
    for pair in pairs:
        tenants.setdefault(pair[0]["tenant"], []).append(pair)
        users.update(pair[0]["users"])
        alone.update(user for user in pair[0]["users"] if _without(pair, user) is None)
    many = [u for u, count in sorted(users.items()) if settings.gate.user_share * len(pairs) < count]
    rest = {u: [left for pair in pairs if (left := _without(pair, u)) is not None] for u in many}
    whole = _difference(pairs, "score", settings)
    return Evaluation(
        measure=compared.measure,
        champion_version=champion_version,
        **vars(whole),
        users=len({(pair[0]["tenant"], user) for pair in pairs for user in pair[0]["users"]}),
        spread=_spread(pairs),
        alone={user: count for user, count in sorted(alone.items()) if 2 * count >= len(pairs)},
        retrieval=None if compared.retrieval is None else round(compared.retrieval, 4),
        card=compared.card,
        tenants={tenant: _difference(some, "score", settings) for tenant, some in sorted(tenants.items())},
        without={u: _difference(left, "score", settings) for u, left in rest.items() if left},
        beside={name: _difference(pairs, name, settings) for name in _BESIDE if pairs and pairs[0][0].get(name) is not None},
    )


def _without(pair: _Pair, user: str) -> _Pair | None:
    """A question by the verdicts of other users; `None` where these tell nothing."""
    if user not in pair[0]["users"]:
        return pair
    mine, other = (row.get("without", {}).get(user) for row in pair)
    return None if mine is None or other is None else ({**pair[0], "score": mine}, {**pair[1], "score": other})


def _difference(pairs: Sequence[_Pair], name: str, settings: Training) -> Difference:
    ours = np.asarray([float(mine[name]) for mine, _ in pairs])
    theirs = np.asarray([float(other[name]) for _, other in pairs])
    gain = interval(ours - theirs, settings.seed)
    known = gain.above if len(pairs) >= settings.gate.least_questions else None
    return Difference(len(pairs), _mean(theirs), _mean(ours), gain.mean, gain.low, gain.high, known)


def _spread(pairs: Sequence[_Pair]) -> float:
    gains = [float(mine["score"]) - float(other["score"]) for mine, other in pairs]
    return round(float(np.std(gains, ddof=1)), 4) if len(gains) > 1 else 0.0


def _mean(values: np.ndarray[Any, Any]) -> float:
    return round(float(values.mean()), 4) if len(values) else 0.0
