"""Splits through which nothing leaks: whole documents, and whatever nearly says the same."""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict

from hypothesis import given
from hypothesis import strategies as st

from headrace.training.data.dataset import TEST, TRAIN, TUNE
from headrace.training.data.duplicates import grouped, numbers, resembling, similarity
from headrace.training.data.split import splits, units_of

WORDS = ["where", "does", "the", "old", "wheel", "of", "mill", "turn", "when", "water", "gate", "is", "open", "and", "pond"]

LIKED = st.dictionaries(st.integers(0, 200).map("q{}".format), st.integers(0, 30).map("d{}".format), min_size=1, max_size=80)


def cut(about: dict[str, str], seed: int, groups: dict[str, str] | None = None) -> dict[str, str]:
    """Split of each question; `groups` name the near-duplicate that stands for it."""
    names = list(about)
    first = [names.index((groups or {}).get(name, name)) for name in names]
    return dict(zip(names, splits(units_of(names, list(about.values()), first), seed), strict=True))


@given(LIKED, st.integers(0, 5))
def test_no_document_is_in_two_splits(about: dict[str, str], seed: int) -> None:
    found = cut(about, seed)
    assert set(found.values()) <= {TRAIN, TUNE, TEST}
    if len(set(about.values())) >= 8:
        seen: dict[str, set[str]] = defaultdict(set)
        for question, document in about.items():
            seen[document].add(found[question])
        assert all(len(each) == 1 for each in seen.values())
    assert cut(dict(reversed(about.items())), seed) == found


@given(LIKED, st.data(), st.integers(0, 5))
def test_near_duplicates_are_in_one_split_and_so_are_documents_they_join(
    about: dict[str, str], data: st.DataObject, seed: int
) -> None:
    names = list(about)
    groups = {name: names[data.draw(st.integers(0, place))] for place, name in enumerate(names) if place % 3 == 0}
    groups = {name: first for name, first in groups.items() if first not in groups}
    found = cut(about, seed, groups)
    assert all(found[name] == found[first] for name, first in groups.items())
    if len(set(about.values())) - len(groups) >= 8:
        for question, document in about.items():
            assert {found[other] for other in names if about[other] == document} == {found[question]}


def test_shares_are_near_60_15_25() -> None:
    about = {f"q{n}": f"d{n % 100}" for n in range(400)}
    found = cut(about, 17)
    sizes = Counter(found.values())
    assert 92 <= sizes[TEST] <= 108
    assert 52 <= sizes[TUNE] <= 68
    assert cut(about, 18) != found


def test_few_documents_still_give_every_split_and_hold_near_duplicates_together() -> None:
    about = {f"q{n}": f"d{n % 2}" for n in range(20)}
    found = cut(about, 17, {f"q{n}": f"q{n - 1}" for n in range(1, 20, 2)})
    assert set(found.values()) == {TRAIN, TUNE, TEST}
    assert all(found[f"q{n}"] == found[f"q{n - 1}"] for n in range(1, 20, 2))


def test_what_nearly_all_questions_are_about_is_learned_from_and_the_others_are_split() -> None:
    about = {f"q{n}": "all" if n < 60 else f"d{n}" for n in range(100)}
    for seed in range(5):
        found = cut(about, seed)
        assert {found[f"q{n}"] for n in range(60)} == {TRAIN}
        assert Counter(found[f"q{n}"] for n in range(60, 100)) == {TEST: 10, TUNE: 6, TRAIN: 24}


def test_a_question_about_no_known_document_stands_alone() -> None:
    assert Counter(cut({f"q{n}": "" for n in range(40)}, 17).values()) == {TEST: 10, TUNE: 6, TRAIN: 24}
    assert cut({"q": "d"}, 17) == {"q": TEST}
    assert cut({}, 17) == {}


# near-duplicates


def test_wording_that_differs_little_is_one_group() -> None:
    asked = [
        "how many tackles did luke kuechly register",
        "where did the team stay before the game in february",
        "how many tackles did luke kuechly registered",
        "where did the team stay before the game of february",
        "how many sacks did luke kuechly have",
    ]
    assert grouped(["acme"] * 5, asked, 0.8) == [0, 1, 0, 1, 4]
    assert grouped(["acme", "acme", "apex", "acme", "acme"], asked, 0.8) == [0, 1, 2, 1, 4]
    assert grouped(["acme"] * 5, asked, 1.0) == [0, 1, 2, 3, 4]
    assert grouped([], [], 0.8) == []


def test_questions_for_other_numbers_are_no_near_duplicates() -> None:
    asked = ["what was the revenue of the northern region in 2018", "what was the revenue of the northern region in 2019"]
    assert similarity(*asked) > 0.9
    assert grouped(["acme"] * 2, asked, 0.8) == [0, 1]
    assert numbers("room 7b in 2019") == "2019 7b"


@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=6, max_size=14).map(" ".join), min_size=2, max_size=30), st.randoms())
def test_whatever_is_clearly_alike_is_in_one_group_in_whatever_order(asked: list[str], chance: random.Random) -> None:
    asked = list(dict.fromkeys([*asked, *(text + " ok" for text in asked[:5])]))
    found = grouped(["acme"] * len(asked), asked, 0.7)
    for one, text in enumerate(asked):
        for other in range(one):
            if similarity(text, asked[other]) >= 0.85:
                assert found[one] == found[other]
    for place, first in enumerate(found):
        assert first <= place
        assert first == place or max(similarity(asked[place], text) for n, text in enumerate(asked) if n != place) >= 0.7
    order = list(range(len(asked)))
    chance.shuffle(order)
    again = grouped(["acme"] * len(asked), [asked[place] for place in order], 0.7)
    same = {(one, other) for one in range(len(asked)) for other in range(one) if found[one] == found[other]}
    assert {
        (max(a, b), min(a, b)) for i, a in enumerate(order) for j, b in enumerate(order) if j < i and again[i] == again[j]
    } == same


def test_a_thousand_alike_are_one_group_and_templates_cost_no_square_of_time() -> None:
    chance = random.Random(1)
    alike = ["where does the old wheel of the mill turn when the water gate is open" + " " * (n % 2) for n in range(1000)]
    assert set(grouped(["acme"] * 1000, alike, 0.8)) == {0}
    made = [f"what is the capital and largest city of {''.join(chance.choices('abcdefghijklmnop', k=8))}" for _ in range(4000)]
    started = time.process_time()
    grouped(["acme"] * 4000, made, 0.8)
    assert time.process_time() - started < 20


def test_texts_that_resemble_known_ones_are_found() -> None:
    known = ["how many tackles did luke kuechly register", "who was there"]
    texts = ["who was there", "how many tackles did luke kuechly registered", "how many sacks did he have", "who was it"]
    assert resembling(texts, known, 0.8) == {0, 1}
    assert resembling([], known, 0.8) == set()
    assert resembling(texts, [], 0.8) == set()
