"""Interleaving: both orders have the same chance, and verdicts on what they picked prefer the better one."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.models.interleaving import CHALLENGER, CHAMPION, preference, team_draft

ORDERS = st.integers(0, 12).flatmap(lambda n: st.tuples(st.permutations(range(n)), st.permutations(range(n))))


@given(ORDERS, st.text())
def test_every_candidate_is_shown_once_and_the_same_each_time(orders: tuple[list[int], list[int]], seed: str) -> None:
    champion, challenger = orders
    drafted = team_draft(champion, challenger, seed)
    assert sorted(one for one, _ in drafted) == sorted(champion)
    assert drafted == team_draft(champion, challenger, seed)
    teams = Counter(team for _, team in drafted)
    assert abs(teams[CHAMPION] - teams[CHALLENGER]) <= 1
    alike = next((i for i, (a, b) in enumerate(zip(champion, challenger, strict=True)) if a != b), len(champion))
    assert drafted[:alike] == [(one, "") for one in champion[:alike]]
    assert all(team for _, team in drafted[alike:])


def test_each_team_picks_its_best_that_is_free() -> None:
    seen = {tuple(team_draft([0, 1, 2, 3], [0, 3, 1, 2], str(seed))) for seed in range(200)}
    first_champion = ((0, ""), (1, CHAMPION), (3, CHALLENGER))
    first_challenger = ((0, ""), (3, CHALLENGER), (1, CHAMPION))
    assert {drafted[:3] for drafted in seen} == {first_champion, first_challenger}
    assert {team for drafted in seen for one, team in drafted if one == 2} == {CHAMPION, CHALLENGER}


def test_a_user_who_likes_at_random_or_always_the_top_prefers_neither() -> None:
    dice = random.Random(3)
    for likes in (lambda drafted: dice.choice(drafted)[0], lambda drafted: drafted[0][0]):
        found = []
        for seed in range(4000):
            drafted = team_draft([0, 1, 2, 3, 4], [2, 0, 4, 3, 1], str(seed))
            teams = {str(one): team for one, team in drafted}
            found.append(preference(teams, [(str(likes(drafted)), True)]))
        assert sum(one or 0.0 for one in found) / len(found) == pytest.approx(0.5, abs=0.03)


def test_a_user_who_knows_what_is_right_prefers_the_order_that_has_it_higher() -> None:
    found = Counter(
        preference({str(one): team for one, team in team_draft([0, 1, 2, 3], [3, 0, 1, 2], str(seed))}, [("3", True)])
        for seed in range(300)
    )
    assert found == {1.0: 300}


def test_a_dislike_counts_for_the_other_team_and_what_belongs_to_none_does_not_count() -> None:
    teams = {"a": CHAMPION, "b": CHALLENGER, "c": ""}
    assert preference(teams, [("a", False)]) == 1.0
    assert preference(teams, [("a", True), ("b", True)]) == 0.5
    assert preference(teams, [("c", True), ("elsewhere", True)]) is None
    assert preference(teams, []) is None
