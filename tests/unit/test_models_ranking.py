"""The features of a ranking, by hand, and the order that its weights give."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from headrace.models.ranking import (
    FEATURES,
    RETRIEVAL_ORDER,
    Candidate,
    RankingWeights,
    features,
    of_retrieval_weight,
)

QUESTION = "How often is the old mill greased?"  # of which how, is and the carry no meaning
PLAIN = Candidate("Nothing of the kind.", "", "", None, 1)


def value(name: str, **given: Any) -> float:
    return float(features(QUESTION, [replace(PLAIN, **given)], [name])[0, 0])


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("retrieval", {"retrieval_share": 0.8}, 0.8),
        ("rank", {"rank": 3}, -math.log(3)),
        ("similarity", {"similarity": 0.4}, 0.4),
        ("fulltext", {"fulltext": 0.25}, 0.25),
        ("coverage", {"text": "The mills are old."}, 0.25),
        ("coverage", {"text": "The mill is old and GREASED."}, 0.75),
        ("coverage", {"text": "Greasing is done often."}, 0.5),
        ("coverage", {"text": ""}, 0.0),
        ("sentence", {"text": "The old mill is shut. It is greased often."}, 0.5),
        ("sentence", {"text": ""}, 0.0),
        ("phrase", {"text": "They say the old mill burned."}, 3 / 7),
        ("phrase", {"text": "old and mill and greased"}, 0.0),
        ("phrase", {"text": QUESTION}, 1.0),
        ("heading", {"heading": "Pumps › The old mill"}, 0.5),
        ("name", {"uri": "plans/old_mill.md"}, 0.5),
        ("name", {"uri": "pumps.md"}, 0.0),
        ("length", {"text": "one two three"}, math.log(4)),
        ("position", {"position": 3}, -math.log(4)),
        ("reranker", {"logit": -2.5}, -2.5),
    ],
)
def test_features_by_hand(name: str, given: dict[str, Any], wanted: float) -> None:
    assert value(name, **given) == pytest.approx(wanted)


def test_what_is_not_known_of_a_passage_speaks_neither_for_nor_against_it() -> None:
    shown = [replace(PLAIN, similarity=score) for score in (0.8, None, 0.2)]
    assert features(QUESTION, shown, ["similarity"])[:, 0].tolist() == pytest.approx([0.8, 0.5, 0.2])
    assert features(QUESTION, [PLAIN, PLAIN], ["similarity", "position", "reranker"]).tolist() == [[0.0] * 3] * 2
    assert features(QUESTION, [replace(PLAIN, similarity=math.nan)], ["similarity"]).tolist() == [[0.0]]


WORDS = st.lists(
    st.sampled_from(["how", "often", "is", "the", "old", "mill", "greased", "pump", "weir", ".", "a", "b"]), max_size=12
).map(" ".join)
CANDIDATES = st.lists(
    st.builds(
        Candidate,
        text=WORDS,
        heading=WORDS,
        uri=WORDS,
        position=st.integers(0, 50),
        rank=st.integers(1, 20),
        retrieval_share=st.floats(0, 1),
        similarity=st.floats(-1, 1),
        fulltext=st.floats(0, 1),
        logit=st.floats(-9, 9),
    ),
    min_size=2,
    max_size=6,
)


@given(WORDS, CANDIDATES)
def test_a_passage_has_the_same_features_among_all_candidates_and_among_the_judged_ones(
    question: str, shown: list[Candidate]
) -> None:
    whole = features(question, shown)
    assert whole.shape == (len(shown), len(FEATURES))
    assert np.isfinite(whole).all()
    assert np.array_equal(features(question, shown[1:]), whole[1:])
    assert np.array_equal(np.vstack([features(question, [one]) for one in shown]), whole)


def test_weights_are_per_scale_and_equals_keep_retrievals_order() -> None:
    shown = [
        replace(PLAIN, rank=rank, similarity=near, logit=logit) for rank, near, logit in ((1, 0.9, 0), (2, 0.1, 8), (3, 0.5, 8))
    ]
    assert RankingWeights(weights={"similarity": 1.0, "reranker": 1.0}).order(QUESTION, shown) == [2, 1, 0]
    # A tenth of a similarity counts as much as ten of a logit.
    scales = {"similarity": 0.1, "reranker": 10.0}
    assert RankingWeights(weights={"similarity": 1.0, "reranker": 1.0}, scales=scales).order(QUESTION, shown) == [0, 2, 1]
    assert RankingWeights(weights={"reranker": 1.0}).order(QUESTION, shown) == [1, 2, 0]
    assert RankingWeights(weights={"reranker": 0.0}).order(QUESTION, shown[::-1]) == [2, 1, 0], "without a weight, by rank"
    assert RETRIEVAL_ORDER.order(QUESTION, shown[::-1]) == [2, 1, 0]
    assert RETRIEVAL_ORDER.order(QUESTION, []) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"weights": {}},
        {"weights": {"beauty": 1.0}},
        {"weights": {"rank": math.nan}},
        {"weights": {"rank": 1.0}, "scales": {"rank": 0.0}},
        {"weights": {"rank": 1.0}, "mood": 1},
    ],
)
def test_weights_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RankingWeights.model_validate(wrong)


# the order of re-rankers released before there was a ranking


def combined(retrieval: list[float], logits: list[float], weight: float) -> list[int]:
    shown = [
        replace(PLAIN, rank=rank, retrieval_share=share, logit=logit)
        for rank, (share, logit) in enumerate(zip(retrieval, logits, strict=True), 1)
    ]
    return of_retrieval_weight(weight).order(QUESTION, shown)


def test_a_weight_of_1_keeps_retrievals_order_and_of_0_takes_the_logits() -> None:
    retrieval, logits = [3.0, 2.0, 1.0], [-5.0, 9.0, 1.0]
    assert combined(retrieval, logits, 1.0) == [0, 1, 2]
    assert combined(retrieval, logits, 0.0) == [1, 2, 0]


def test_scores_of_any_scale_weigh_alike() -> None:
    retrieval, logits = [0.032, 0.031, 0.016], [1.0, 7.0, 2.0]
    for weight in (0.2, 0.5, 0.8):
        order = combined(retrieval, logits, weight)
        assert combined([1000 * x + 5 for x in retrieval], [0.01 * x - 3 for x in logits], weight) == order


def test_half_and_half_by_hand() -> None:
    # z(retrieval) = (+1.22, 0, -1.22); z(logits) = (-1.22, +1.22, 0): sums 0, 1.22, -1.22.
    assert combined([3.0, 2.0, 1.0], [0.0, 2.0, 1.0], 0.5) == [1, 0, 2]


def test_equal_scores_keep_retrievals_order() -> None:
    assert combined([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], 0.5) == [0, 1, 2]
    assert combined([1.0], [5.0], 0.3) == [0]
