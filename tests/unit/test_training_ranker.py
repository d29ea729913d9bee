"""Learning a ranking: the loss by hand, shrinking to retrieval's order, and weights that did not see what they judge."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from headrace.core.progress import ProgressBars
from headrace.errors import BadSettings
from headrace.models.ranking import RankingWeights
from headrace.training import ranker
from headrace.training.measures.ranking import compare
from headrace.training.recipes import RECIPES
from headrace.training.served_order import ServedOrder

RECIPE = RECIPES["ranking"]


def row(number: int, place: int, liked: bool, **given: Any) -> dict[str, Any]:
    return {
        "kind": "passage",
        "example_id": f"{number}-{place}",
        "tenant": "acme",
        "question": f"what turns wheel {number}",
        "passage": f"passage {place}",
        "unit": f"unit {number // 2}",
        "users": [f"user-{number % 3}"],
        "label": float(liked),
        "retrieval_rank": place + 1,
        "retrieval_share": 1.0 - 0.1 * place,
        "similarity": 0.5,
        "fulltext": 0.5,
        "rerank_score": None,
        "reranker": "none",
        **given,
    }


def verdicts(count: int, seed: int, *, told: float, noise: float = 0.05, passages: int = 4) -> list[dict[str, Any]]:
    """Questions with one liked passage, at any rank; it is nearer to the question by `told` than the others."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        liked = draw.randrange(passages)
        for place in range(passages):
            near = 0.5 + (told if place == liked else 0.0) + draw.gauss(0, noise)
            rows.append(row(number, place, place == liked, similarity=near, fulltext=draw.random()))
    return rows


def learned(rows: list[dict[str, Any]], folds: int = 5, reranker: str = "none") -> ranker.LearnedRanking:
    return ranker.learn(ranker.judged(rows, reranker), folds, reranker)


def test_the_loss_of_a_question_is_the_mean_over_its_liked_passages_among_the_disliked() -> None:
    matrices = [np.array([[2.0], [0.5], [-1.0]]), np.array([[1.0], [3.0], [0.0]])]
    lists = ranker._Lists.of(matrices, [[1, 0, 0], [1, 1, 0]])
    first = math.log(1 + math.exp(0.5 - 2.0) + math.exp(-1.0 - 2.0))
    second = (math.log(1 + math.exp(-1.0)) + math.log(1 + math.exp(-3.0))) / 2
    assert lists.losses(np.ones((2, 1))).tolist() == pytest.approx([first, second])
    loss, gradient, hessian = lists.step(np.ones(1))
    assert loss == pytest.approx((first + second) / 2)
    step = 1e-5
    (up, up_slope, _), (down, down_slope, _) = lists.step(np.array([1 + step])), lists.step(np.array([1 - step]))
    assert gradient[0] == pytest.approx((up - down) / (2 * step), abs=1e-8)
    assert hessian[0, 0] == pytest.approx(float((up_slope - down_slope)[0]) / (2 * step), abs=1e-6)
    large = lists.losses(np.full((2, 1), 1e4))
    assert np.isfinite(large).all(), "no score is too large for it"
    assert lists.only(np.array([False, True])).losses(np.ones((2, 1))).tolist() == pytest.approx([0.0, second])


def test_newtons_method_finds_what_a_library_finds() -> None:
    draw = np.random.default_rng(3)
    matrices = [draw.normal(size=(5, 3)) for _ in range(30)]
    labels = [[float(place == number % 5) for place in range(5)] for number in range(30)]
    lists, prior = ranker._Lists.of(matrices, labels), np.array([1.0, 0.0, 0.0])
    for penalty in (1.0, 0.01):

        def penalised(at: Any, penalty: float = penalty) -> float:
            return lists.step(at)[0] + penalty / 2 * float((at - prior) @ (at - prior))

        wanted = minimize(penalised, np.zeros(3), method="BFGS", options={"gtol": 1e-8})
        assert ranker._minimised(lists, prior, prior, penalty) == pytest.approx(wanted.x, abs=1e-4)


def test_what_the_verdicts_show_is_learned_and_noise_leaves_retrievals_order() -> None:
    found = learned(verdicts(60, 1, told=0.3))
    assert found.ranking.weights["similarity"] > 10 * abs(found.ranking.weights["fulltext"])
    assert found.loss < 0.5 * found.prior_loss
    nothing = learned(verdicts(60, 2, told=0.0))
    assert nothing.penalty is None
    assert {name for name, weight in nothing.ranking.weights.items() if weight} == {"retrieval"}
    assert nothing.ranking.weights["retrieval"] > 0, "whatever the verdicts say of it"
    rows = verdicts(1, 3, told=0.0)
    assert nothing.ranking.order("q", ranker.candidates(rows)) == [0, 1, 2, 3]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_verdicts_change_nothing(count: int) -> None:
    found = learned(verdicts(count, 4, told=0.3))
    assert found.penalty is None
    assert len(found.folds) == 5
    (question,) = ranker.judged(verdicts(1, 5, told=0.3), "none")
    assert found.ranking.order("q", ranker.candidates(question)) == [0, 1, 2, 3]


def test_no_weights_saw_the_questions_that_they_judge() -> None:
    """All verdicts on the questions of one fold are turned round: its own weights are the same, all others are not."""
    rows = verdicts(60, 6, told=0.3)
    before = learned(rows)
    fold = ranker.fold_of("unit 0", 5)
    turned = [{**one, "label": 1.0 - one["label"]} if ranker.fold_of(one["unit"], 5) == fold else one for one in rows]
    after = learned(turned)
    same = [one == other for one, other in zip(before.folds, after.folds, strict=True)]
    assert same == [number == fold for number in range(5)]
    assert after.unseen("unit 0") == before.folds[fold]
    assert after.ranking != before.ranking
    units: dict[str, set[int]] = {}
    for one in rows:
        units.setdefault(one["unit"], set()).add(ranker.fold_of(one["unit"], 5))
    assert {len(folds) for folds in units.values()} == {1}
    assert set().union(*units.values()) == set(range(5))


def test_the_order_of_the_rows_decides_nothing_and_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    rows = verdicts(30, 7, told=0.2)
    settings = RECIPE.settings({})
    written = []
    for shuffled in (rows, rows[::-1], rows):
        assert RECIPE.fit(shuffled, settings, tmp_path).questions == 30  # type: ignore[attr-defined]
        written.append((tmp_path / ranker.FILE).read_bytes())
    assert written[0] == written[1] == written[2]
    assert ranker.LearnedRanking.model_validate_json(written[0]) == learned(rows)


def test_with_a_reranker_only_what_that_version_scored_is_learned_from(tmp_path: Path) -> None:
    rows = [
        {**one, "reranker": version, "rerank_score": 5.0 * one["label"] - one["retrieval_rank"] * 0.1}
        for version, seed in (("v000002", 8), ("v000001", 9))
        for one in verdicts(40, seed, told=0.0)
        for one in [{**one, "question": f"{version} {one['question']}"}]
    ]
    found = learned(rows, reranker="v000002")
    assert (found.questions, found.ranking.reranker) == (40, "v000002")
    assert found.ranking.weights["reranker"] > 0.5
    assert "reranker" not in learned(rows).ranking.weights
    settings = RECIPE.settings({"reranker": "v000002"})
    assert RECIPE.left_out(rows, settings) == {"passages that the re-ranker v000002 did not score": 160}
    assert RECIPE.fit(rows, RECIPE.settings({"reranker": "v000003"}), tmp_path) is None  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == []


def test_questions_that_cannot_tell_two_orders_apart_are_not_learned_from() -> None:
    rows = [
        row(0, 0, True),
        row(0, 1, True),
        row(1, 0, False),
        row(2, 0, True),
        row(2, 1, False),
        {**row(3, 0, True), "kind": "answer"},
    ]
    assert [question[0]["question"] for question in ranker.judged(rows, "none")] == ["what turns wheel 2"]
    with pytest.raises(ValueError, match="no question"):
        ranker.learn([], 5)


def test_rows_of_before_anything_was_recorded_of_them_are_learned_from() -> None:
    """Answers given before signals were: rank and words are all there is."""
    rows = [{**one, "retrieval_share": None, "similarity": None, "fulltext": None} for one in verdicts(40, 10, told=0.3)]
    for one in rows:
        one["passage"] = f"it turns wheel {one['question'][-2:].strip()}" if one["label"] else "nothing of the kind"
    found = learned(rows)
    assert not {"retrieval", "similarity", "fulltext"} & set(found.ranking.weights)
    assert found.loss < 0.5 * found.prior_loss


def test_both_sides_are_judged_by_weights_that_did_not_see_the_question(tmp_path: Path) -> None:
    rows = verdicts(60, 11, told=0.3)
    settings = RECIPE.settings({})
    RECIPE.fit(rows, settings, tmp_path)  # type: ignore[attr-defined]
    bars = ProgressBars(quiet=True)
    first = compare(tmp_path, None, {}, ServedOrder(), [], rows, settings, bars)
    mine, theirs = (sum(one["score"] for one in side) / 60 for side in (first.ours, first.theirs))
    assert mine > theirs + 0.1
    assert theirs == pytest.approx(first.retrieval)
    assert {tuple(one["users"]) for one in first.ours} == {("user-0",), ("user-1",), ("user-2",)}
    assert RankingWeights.model_validate(first.card["ranking"]) == learned(rows).ranking
    # A champion that learned from the same verdicts is neither better nor worse for having seen them.
    known = learned(rows)
    second = compare(tmp_path, None, {}, ServedOrder("none", known.ranking, known), [], rows, settings, bars)
    assert second.ours == second.theirs


def test_the_settings_fit_on_a_screen_and_bad_ones_are_refused() -> None:
    lines = (Path(ranker.__file__).parent / "recipes/ranking.toml").read_text().splitlines()
    assert len(lines) <= 20
    assert all("#" in line for line in lines)
    assert RECIPE.settings({}).folds == 5
    with pytest.raises(BadSettings, match=r"training\.recipe\.ranking\.folds"):
        RECIPE.settings({"folds": 1})
