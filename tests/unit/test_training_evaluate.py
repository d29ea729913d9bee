"""Evaluation and the decision: against numbers made by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.models.ranking import RERANKER, RETRIEVAL
from headrace.settings import Gate, Training
from headrace.training.data.dataset import fewer, tellable
from headrace.training.evaluate import Difference, Evaluation, evaluated
from headrace.training.gate import alarms, decide
from headrace.training.measures import Compared
from headrace.training.measures.passages import fitted, ndcg, row, weighed

SECOND, THIRD = 1 / math.log2(3), 1 / math.log2(4)


@pytest.mark.parametrize(
    ("relevance", "order", "wanted"),
    [
        ([1, 0, 0], [0, 1, 2], 1.0),
        ([0, 1, 0], [0, 1, 2], SECOND),
        ([0, 0, 1], [0, 1, 2], THIRD),
        ([0, 0, 1], [2, 0, 1], 1.0),
        ([1, 0, 1], [0, 1, 2], (1 + THIRD) / (1 + SECOND)),
        ([0, 0, 0], [0, 1, 2], 0.0),
        ([], [], 0.0),
        ([3, 2, 1], [2, 1, 0], (1 + 2 * SECOND + 3 * THIRD) / (3 + 2 * SECOND + THIRD)),
    ],
)
def test_ndcg(relevance: list[float], order: list[int], wanted: float) -> None:
    assert ndcg(relevance, order) == pytest.approx(wanted)


def test_ndcg_stops_at_its_cut() -> None:
    relevance = [0.0] * 10 + [1.0]
    assert ndcg(relevance, list(range(11))) == 0.0
    assert ndcg(relevance, list(range(11)), cut=11) == pytest.approx(1 / math.log2(12))


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=12), st.randoms())
def test_ndcg_is_a_share_and_best_for_the_best_order(relevance: list[float], random: object) -> None:
    order = list(range(len(relevance)))
    random.shuffle(order)  # type: ignore[attr-defined]
    best = sorted(order, key=lambda i: -relevance[i])
    assert 0.0 <= ndcg(relevance, order) <= ndcg(relevance, best) + 1e-12
    assert ndcg(relevance, best) == pytest.approx(1.0 if sum(relevance) else 0.0)


def rows(*labels: float) -> list[dict[str, object]]:
    return [{"label": label, "retrieval_score": 1.0 - 0.1 * i} for i, label in enumerate(labels)]


def test_only_questions_that_can_tell_orders_apart_are_asked() -> None:
    by_question = {"both": rows(1, 0), "liked": rows(1, 1), "disliked": rows(0, 0), "none": rows()}
    assert tellable(by_question) == [by_question["both"]]


def asked(liked: int, number: int = 0) -> list[dict[str, object]]:
    """A question with three passages in retrieval's order."""
    return [
        {
            "question": f"question {number}",
            "passage": f"passage {place}",
            "unit": f"u{number}",
            "label": float(place == liked),
            "retrieval_rank": place + 1,
            "retrieval_share": 1.0 - 0.1 * place,
        }
        for place in range(3)
    ]


def test_the_fitted_weights_trust_whoever_is_right() -> None:
    last, first = [0.0, 1.0, 5.0], [5.0, 1.0, 0.0]
    known = fitted([(asked(2, n), last) for n in range(12)])
    assert weighed(asked(2), last, known) == [2, 1, 0]
    misled = fitted([(asked(0, n), [0.0, 1.0, 5.0]) for n in range(12)])
    assert weighed(asked(0), last, misled)[0] == 0
    # It says the same as retrieval, and nothing of its own.
    assert weighed(asked(0), first, fitted([(asked(0, n), first) for n in range(12)])) == [0, 1, 2]
    assert fitted([]).weights == {f"{RETRIEVAL}_standardised": 0.5, f"{RERANKER}_standardised": 0.5}


EVALUATION = Evaluation(
    measure="nDCG@10",
    champion_version="none",
    questions=40,
    champion=0.5,
    challenger=0.625,
    difference=0.125,
    low=0.05,
    high=0.2,
    confidence=0.99,
    retrieval=0.5,
    card={"ranking": {"weights": {"retrieval": 1.0, "reranker": 0.3}}, "penalty": 0.1},
    users=5,
)


def test_a_better_challenger_is_promoted_and_the_numbers_are_said() -> None:
    promoted, why = decide("reranker", EVALUATION, [], Gate())
    assert promoted
    assert why == (
        "better with 99.0% confidence (nDCG@10 0.625 against 0.500 on 40 held-out questions:"
        " +0.125, 95 % interval +0.050 to +0.200)"
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"confidence": 0.94}, "better with only 94.0% confidence, 95% is required"),
        (
            {"questions": 2, "users": 1, "confidence": None},
            "not enough evidence: 2 held-out questions judged by 1 user; at least 30 questions and 3 users are required",
        ),
        (
            {"users": 2},
            "not enough evidence: 40 held-out questions judged by 2 users; at least 30 questions and 3 users are required",
        ),
        ({"questions": 0, "confidence": None}, "no held-out question can tell the two apart"),
        (
            {"confidence": 0.0, "card": {"ranking": {"weights": {"retrieval": 1.0, "reranker": 0.0}}}},
            "its score added nothing to retrieval's",
        ),
        (
            {"confidence": 0.0, "card": {"ranking": {"weights": {"reranker": 0.0}}}, "champion_version": "v000001"},
            "better with only 0.0% confidence",
        ),
    ],
)
def test_a_challenger_that_is_not_shown_to_be_better_is_refused(changed: dict[str, object], said: str) -> None:
    promoted, why = decide("reranker", replace(EVALUATION, **changed), [], Gate())  # type: ignore[arg-type]
    assert not promoted
    assert said in why


def test_no_bootstrap_says_that_it_is_certain() -> None:
    why = decide("reranker", replace(EVALUATION, confidence=1.0), [], Gate())[1]
    assert why.startswith("better with more than 99.9% confidence (")


def test_the_asked_confidence_itself_is_enough() -> None:
    assert decide("reranker", replace(EVALUATION, confidence=0.95), [], Gate())[0]


def test_an_alarm_keeps_out_what_is_better() -> None:
    promoted, why = decide("generator", EVALUATION, ["its answers are 80% longer"], Gate())
    assert not promoted
    assert why.startswith("better with 99.0% confidence, but its answers are 80% longer (nDCG@10 0.625")


# alarms


def seen(champion: float, challenger: float, low: float, high: float, questions: int = 40) -> Difference:
    return Difference(questions, champion, challenger, round(challenger - champion, 4), low, high, 1.0)


WORSE = seen(0.6, 0.4, -0.3, -0.1)
ALARMS = [
    (
        {"beside": {"tokens": seen(10, 16, 4, 8), "wanted": seen(9, 9, 0, 0)}},
        {},
        "its answers are 60% longer, unlike those wanted",
    ),
    (
        {"beside": {"tokens": seen(10, 4, -8, -4), "wanted": seen(9, 9, 0, 0)}},
        {},
        "its answers are 60% shorter, unlike those wanted",
    ),
    ({"beside": {"refused": seen(0.0, 0.2, 0.1, 0.3)}}, {}, "it refuses 20% of the questions, the champion 0%"),
    ({"beside": {"repetition": seen(0.02, 0.4, 0.3, 0.4)}}, {}, "it repeats 40% of its three-word runs, the champion 2%"),
    ({}, {"kl": 0.7}, "it drifted 0.70 nats per token"),
    ({"beside": {"groundedness": WORSE}}, {}, "its score rises while fewer of its sentences are supported by passages"),
    ({"tenants": {"acme": WORSE}}, {}, "tenant acme gets worse: -0.200 on its 40 questions"),
    # As many questions as are asked for are enough.
    ({"tenants": {"few": seen(0.6, 0.4, -0.3, -0.1, 10)}}, {}, "tenant few gets worse: -0.200 on its 10 questions"),
    (
        {"alone": {"mallory": 20}},
        {},
        "it depends on one user: without mallory's verdicts 20 of the 40 held-out",
    ),
    (
        {"without": {"mallory": seen(0.6, 0.5, -0.3, 0.1, 30)}},
        {},
        "it depends on one user: without mallory's verdicts it is no",
    ),
    # Without the user it is just as good: all that is better comes from that user.
    ({"without": {"eve": seen(0.5, 0.5, -0.1, 0.1, 30)}}, {}, "it depends on one user: without eve's verdicts it is not better"),
]
CALM = [
    ({"beside": {"tokens": seen(40, 5, -40, -30), "wanted": seen(6, 6, 0, 0)}}, {}),  # nearer to what is wanted
    ({"beside": {"tokens": seen(10, 14, 2, 5), "wanted": seen(9, 9, 0, 0)}}, {}),
    ({"beside": {"refused": seen(0.10, 0.14, 0.0, 0.1)}}, {"kl": 0.4}),
    ({"beside": {"groundedness": seen(0.6, 0.5, -0.3, 0.1)}}, {}),
    ({"beside": {"groundedness": WORSE}, "difference": -0.1}, {}),  # everything falls: no hacking, and refused anyway
    ({"tenants": {"acme": seen(0.6, 0.4, -0.3, -0.1, 9)}}, {}),
    ({"without": {"mallory": seen(0.5, 0.51, -0.2, 0.2, 30)}}, {}),
    ({"without": {"only": seen(0.0, 0.0, 0.0, 0.0, 0)}}, {}),  # nobody else judged
    # What is just allowed: a change by a half, a growth by a twentieth, half a nat; and an interval that ends at zero.
    ({"beside": {"tokens": seen(10, 15, 4, 6), "wanted": seen(9, 9, 0, 0)}}, {}),
    ({"beside": {"tokens": seen(10, 30, 15, 25), "wanted": seen(20, 20, 0, 0)}}, {}),  # as far from what is wanted as before
    ({"beside": {"tokens": seen(10, 16, 0, 12), "wanted": seen(9, 9, 0, 0)}}, {}),
    ({"beside": {"tokens": seen(10, 4, -12, 0), "wanted": seen(9, 9, 0, 0)}}, {}),
    ({"beside": {"refused": seen(0.0, 0.05, 0.01, 0.1)}}, {}),
    ({"beside": {"repetition": seen(0.0, 0.05, 0.01, 0.1)}}, {"kl": 0.5}),
    ({"beside": {"groundedness": seen(0.6, 0.5, -0.2, 0.0)}}, {}),
    ({"beside": {"groundedness": WORSE}, "difference": 0.0}, {}),
    ({"tenants": {"acme": seen(0.6, 0.5, -0.2, 0.0)}}, {}),
]


@pytest.mark.parametrize(("changed", "figures", "said"), ALARMS, ids=[said[:40] for *_, said in ALARMS])
def test_alarms(changed: dict[str, object], figures: dict[str, float], said: str) -> None:
    (told,) = alarms(replace(EVALUATION, **changed), figures, Gate())  # type: ignore[arg-type]
    assert told.startswith(said)


@pytest.mark.parametrize(("changed", "figures"), CALM)
def test_what_gives_no_alarm(changed: dict[str, object], figures: dict[str, float]) -> None:
    assert alarms(replace(EVALUATION, **changed), figures, Gate()) == []  # type: ignore[arg-type]


def test_an_evaluation_is_made_whole_by_tenant_and_without_each_user_of_weight() -> None:
    def one(tenant: str, user: str, score: float) -> dict[str, object]:
        return {"question": "q", "tenant": tenant, "users": [user], "score": score, "tokens": 4}

    ours = [one("a", "ann", 1.0), one("a", "bob", 0.5), one("b", "bob", 0.0), one("b", "cid", 1.0)]
    theirs = [{**row, "score": 0.5, "tokens": 8} for row in ours]
    found = evaluated(Compared("F1", tuple(ours), tuple(theirs), {}), "v000001", Training())
    assert (found.questions, found.champion, found.challenger, found.difference) == (4, 0.5, 0.625, 0.125)
    assert {name: (d.questions, d.difference) for name, d in found.tenants.items()} == {"a": (2, 0.25), "b": (2, 0.0)}
    assert {u: (d.questions, d.difference) for u, d in found.without.items()} == {
        "ann": (3, 0.0),
        "bob": (2, 0.5),
        "cid": (3, 0.0),
    }
    assert (found.users, found.alone, found.confidence) == (4, {"bob": 2}, None), "a bob of each of two tenants"
    assert found.beside["tokens"].difference == -4.0
    assert set(found.beside) == {"tokens"}
    assert found.as_dict()["tenants"]["a"]["questions"] == 2


def test_verdicts_of_users_with_more_than_the_share_of_the_questions_are_left_out_in_turn() -> None:
    def one(*users: str, score: float) -> dict[str, object]:
        without = {"all": score / 2 if "three" in users else None, "two": score, "three": score}
        return {"question": "q", "tenant": "a", "users": list(users), "score": score, "without": without}

    def rows(score: float) -> tuple[dict[str, object], ...]:
        return tuple(one("all", *(["two"] if n < 2 else []), *(["three"] if n < 3 else []), score=score) for n in range(20))

    found = evaluated(Compared("F1", rows(0.8), rows(0.4), {}), "none", Training(gate=Gate(user_share=0.1)))
    assert {user: (rest.questions, rest.difference) for user, rest in found.without.items()} == {
        "all": (3, 0.2),
        "three": (20, 0.4),
    }, "two of twenty are just a tenth"
    assert (found.users, found.alone) == (3, {"all": 17})


def test_a_question_without_a_users_verdicts_has_the_passages_that_others_judged() -> None:
    def judged(*passages: tuple[float, tuple[str, ...]]) -> dict[str, Any]:
        shown = [
            {"question": "q", "tenant": "a", "label": label, "users": list(users), "retrieval_rank": rank}
            for rank, (label, users) in enumerate(passages, 1)
        ]
        return row(shown, [2, 1, 0])

    one = judged((0.0, ("ann", "eve")), (1.0, ("eve",)), (0.0, ("bob",)))
    assert one["users"] == ["ann", "bob", "eve"]
    assert one["without"] == {"ann": one["score"], "bob": 1.0, "eve": None}
    two = judged((1.0, ("ann",)), (1.0, ("eve",)), (0.0, ("bob",)))
    assert two["without"] == {"ann": pytest.approx(1 / math.log2(3)), "bob": None, "eve": pytest.approx(1 / math.log2(3))}


@pytest.mark.parametrize(("questions", "known"), [(29, False), (30, True)])
def test_a_bootstrap_over_few_questions_is_no_confidence(questions: int, known: bool) -> None:
    ours = tuple({"question": f"q{n}", "tenant": "a", "users": [f"u{n % 5}"], "score": 1.0} for n in range(questions))
    theirs = tuple({**row, "score": 0.5} for row in ours)
    found = evaluated(Compared("F1", ours, theirs, {}), "none", Training())
    assert found.confidence == (1.0 if known else None)
    assert decide("generator", found, [], Gate())[0] is known


def test_of_many_questions_some_are_asked_whichever_order_they_come_in_and_answers_stay() -> None:
    def judged(n: int, label: float) -> dict[str, object]:
        return {"kind": "passage", "question": f"q{n}", "tenant": "acme", "label": label, "retrieval_rank": 1, "example_id": "e"}

    rows: list[dict[str, object]] = [judged(n, label) for n in range(20) for label in (0.0, 1.0)]
    rows += [judged(99, 1.0), {"kind": "answer", "question": "q", "tenant": "acme"}]
    kept = fewer(rows, 5)
    assert len({row["question"] for row in kept if row["kind"] == "passage"}) == 5
    assert sum(row["kind"] == "answer" for row in kept) == 1
    assert len(kept) == 11
    assert sorted(map(str, fewer(rows[::-1], 5))) == sorted(map(str, kept))
    assert len(fewer(rows, 100)) == 41, "a question that tells nothing apart is not asked"
