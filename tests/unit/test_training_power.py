"""What verdicts could show, before anything is trained: numbers by hand, and what is said where it is too little."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from rounds import manifest as a_manifest

from headrace.errors import NothingToLearn
from headrace.settings import Gate
from headrace.training.data import Dataset
from headrace.training.finetune import require_examples
from headrace.training.manifest import Power
from headrace.training.power import ASSUMED, estimated, lacking, questions_for, smallest_gain

Z95, Z80 = 1.6449, 0.8416


def questions(count: int, *, users: int = 5, last: bool = False) -> list[list[dict[str, Any]]]:
    """Judged questions with two passages of which retrieval has the liked one first, or last."""
    return [
        [{"tenant": "acme", "users": [f"user-{n % users}"], "label": float(place == last)} for place in range(2)]
        for n in range(count)
    ]


def test_the_smallest_gain_and_the_questions_that_show_it_by_hand() -> None:
    assert smallest_gain(0.1, 100, 0.95) == pytest.approx((Z95 + Z80) * 0.01, abs=1e-5)
    assert smallest_gain(0.1, 400, 0.95) == pytest.approx(smallest_gain(0.1, 100, 0.95) / 2)
    count = questions_for(0.02, 0.1, 0.95)
    assert count == math.ceil(((Z95 + Z80) * 5) ** 2) == 155
    assert smallest_gain(0.1, count, 0.95) <= 0.02 < smallest_gain(0.1, count - 1, 0.95)


def test_a_gain_of_that_size_is_shown_four_times_in_five() -> None:
    draw, count, shown = random.Random(5), 60, 0
    gain = smallest_gain(0.15, count, 0.95)
    for _ in range(600):
        found = [draw.gauss(gain, 0.15) for _ in range(count)]
        mean = sum(found) / count
        spread = math.sqrt(sum((one - mean) ** 2 for one in found) / (count - 1))
        shown += mean - Z95 * spread / math.sqrt(count) > 0
    assert shown / 600 == pytest.approx(0.8, abs=0.05)


def test_without_a_round_the_spread_is_assumed_and_with_one_it_is_that_of_the_newest() -> None:
    judged = questions(100, last=True)  # nDCG@10 of each is 1 / log2 3
    present = 1 / math.log2(3)
    first = estimated("ranking", judged, None, Gate())
    spread = ASSUMED * math.sqrt(1 - present)
    assert (first.spread, first.spread_of) == (round(spread, 4), "assumed")
    assert (first.questions, first.users, first.present) == (100, 5, round(present, 4))
    assert first.plausible == pytest.approx((1 - present) / 2, abs=1e-4)
    assert first.needed == 30, "as many as a bootstrap takes, at least"
    shown = "100 judged questions show a gain of 0.060 or more with a chance of 80 %"
    assert first.sentence == f"{shown} (differences vary by 0.243, assumed)"
    earlier = a_manifest(4, recipe="ranking", model="ranking", evaluation={"questions": 50, "spread": 0.2})
    second = estimated("ranking", judged, earlier, Gate())
    assert (second.spread, second.spread_of) == (0.2, "round 4")
    assert second.gain == pytest.approx((first.gain or 0) * 0.2 / spread, abs=1e-3)
    few = a_manifest(4, recipe="ranking", model="ranking", evaluation={"questions": 9, "spread": 0.2})
    assert estimated("ranking", judged, few, Gate()).spread_of == "assumed"
    unknown = a_manifest(4, recipe="ranking", model="ranking", evaluation={"questions": 50})
    assert estimated("ranking", judged, unknown, Gate()).spread_of == "assumed", "of before it was measured"


def test_where_a_question_takes_long_enough_are_asked_and_no_more() -> None:
    judged = questions(400, last=True)  # nDCG@10 of each is 0.631: a plausible gain needs few
    assert estimated("reranker", judged, None, Gate()).questions == 120
    assert estimated("ranking", judged, None, Gate()).questions == 400
    enough = estimated("reranker", [*questions(380), *questions(20, last=True)], None, Gate())
    assert enough.questions == enough.needed == 215
    few = estimated("reranker", [*questions(397), *questions(3, last=True)], None, Gate())
    assert few.needed is not None
    assert few.questions == 400 < few.needed, "all there are are too few"


def test_of_generators_the_score_is_that_of_the_newest_round() -> None:
    judged: list[Any] = [[{"tenant": "acme", "users": [f"user-{n}"]}] for n in range(40)]
    assert estimated("generator", judged, None, Gate()).plausible == 0.5
    earlier = a_manifest(4, recipe="sft", model="generator", evaluation={"champion": 0.1, "challenger": 0.3})
    found = estimated("generator", judged, earlier, Gate())
    assert (found.present, found.plausible, found.users) == (0.3, 0.35, 40)


def said(model: str, found: Power, gate: Gate | None = None) -> tuple[str, str]:
    error = lacking(model, model, found, gate or Gate())
    assert error is not None
    return error.message, error.hint


POWER = Power(questions=40, users=5, spread=0.1, spread_of="assumed", gain=0.0393, present=0.97, plausible=0.015, needed=275)


def test_too_little_says_what_it_would_take() -> None:
    message, hint = said("ranking", POWER)
    assert message == (
        "ranking is not trained: 40 judged questions could show a gain of 0.0393 at the smallest, and no more than 0.0150 is"
        " plausible (50% of what is left to gain)."
    )
    assert hint.startswith("It takes about 235 more. Gather more verdicts on passages")
    message, hint = said("reranker", POWER)
    assert "40 held-out questions could show" in message
    assert hint.startswith("It takes about 235 more, a quarter of about 940 more judged questions.")
    few = POWER.model_copy(update={"questions": 1, "needed": 30, "plausible": 0.3, "gain": 0.25})
    message, hint = said("ranking", few)
    assert message == "ranking is not trained: 1 judged question is not enough evidence; at least 30 are required."
    assert hint.startswith("It takes about 29 more.")
    none = POWER.model_copy(update={"questions": 0, "needed": 30, "gain": None})
    assert "0 judged questions are not enough evidence" in said("ranking", none)[0]
    assert "--simulated" not in said("ranking", none)[1]
    demo = lacking("ranking", "ranking", none, Gate(), simulated=True)
    assert demo is not None
    assert demo.hint.endswith("Simulated users are learned from with `headrace train --simulated`.")
    alone = POWER.model_copy(update={"needed": 30, "users": 1})
    message, hint = said("ranking", alone)
    assert message == "ranking is not trained: 40 judged questions are known, by 1 user; at least 3 are required."
    assert "training.gate.least_users = 1" in hint
    perfect = estimated("ranking", questions(40), None, Gate())
    assert (perfect.present, perfect.needed) == (1.0, None)
    assert "nothing could be better" in said("ranking", perfect)[0]


def test_enough_is_enough() -> None:
    assert lacking("ranking", "ranking", POWER.model_copy(update={"questions": 275}), Gate()) is None
    assert lacking("ranking", "ranking", POWER.model_copy(update={"questions": 274}), Gate()) is not None
    assert lacking("ranking", "ranking", estimated("ranking", questions(40, last=True), None, Gate()), Gate()) is None
    whatever = Gate(least_questions=1, least_users=1, headroom=1e6)
    assert (
        lacking("reranker", "reranker", estimated("reranker", questions(2, users=1, last=True), None, whatever), whatever) is None
    )


@pytest.mark.parametrize(
    ("recipe", "lacks"),
    [
        ("ranking", "question with both a liked and a disliked passage"),
        ("embedder", "question with both a liked and a disliked passage"),
        ("sft", "liked or corrected answer"),
        ("kto", "judged answer"),
        ("grpo", "question with a known answer: a liked or corrected one"),
        ("online", "judged answer with its log-probabilities, as the generator wrote it"),
    ],
)
def test_without_training_examples_a_recipe_says_what_it_lacks(recipe: str, lacks: str) -> None:
    held_out = Dataset("v", {"train": 0, "test": 4}, {"train": 0, "test": 3}, ())
    with pytest.raises(NothingToLearn) as lacking:
        require_examples(held_out, recipe)
    said = f"{recipe} is not trained: the training split holds no {lacks}."
    assert lacking.value.message == said
    assert lacking.value.hint.startswith("All judged questions so far (3) are held out for evaluation. Gather more")
    with pytest.raises(NothingToLearn) as lacking:
        require_examples(Dataset("v", {}, {}, (), left_out={"verdict: simulated user": 2}), recipe)
    assert lacking.value.message == said
    assert "--simulated" in lacking.value.hint
    require_examples(Dataset("v", {"train": 1}, {"train": 1}, ()), recipe)
