"""A challenger's trial: outcomes against rows made by hand, and how often a trial of equals ends in a retreat."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from headrace.registry.canary import JudgedAnswer, Preference, judged_answers, verdict, worse
from headrace.scheduler.scheduler import Pause
from headrace.settings import CanarySettings, Gate, Training

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = Training()


def at(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def answer(name: str, version: str = "v000002", **more: Any) -> dict[str, Any]:
    """An answer from three passages, which the re-ranker served in the order c, a, b."""
    places = {"a": (1, 2), "b": (2, 3), "c": (3, 1)}
    passages = [{"chunk_id": c, "retrieval_rank": was, "rerank_rank": served} for c, (was, served) in places.items()]
    common = {"answer_id": name, "kind": "answer", "answer": "It turns.", "passages": passages, "groundedness": 0.5, "at": at(0)}
    return {**common, "model_version": version, "generator_version": version, **more}


def test_a_key_under_many_names_is_one_user() -> None:
    keyed = [{**said("1", False, user=f"simulated-{n}", when=n), "key": "k"} for n in range(1, 5)]
    (one,) = judged_answers("generator", [answer("1")], [*keyed, said("1", True)])
    assert one.outcome == 0.5


def said(name: str, up: bool, chunk: str = "", user: str = "ann", when: float = 1.0) -> dict[str, Any]:
    return {
        "verdict_id": f"{name}{chunk}{user}{when}",
        "answer_id": name,
        "user": user,
        "up": up,
        "chunk_id": chunk,
        "at": at(when),
    }


# what was said of an answer


def test_a_rerankers_outcome_is_the_ndcg_of_the_passages_in_the_order_they_were_served() -> None:
    verdicts = [said("x", False, "a"), said("x", True, "b"), said("x", False, "c", when=4)]
    (found,) = judged_answers("reranker", [answer("x")], verdicts)
    assert found.outcome == pytest.approx(1 / math.log2(4))  # b came third
    assert (found.version, found.judged_at) == ("v000002", at(4))


def test_where_no_reranker_scored_retrievals_order_counts_and_unjudged_passages_count_as_not_liked() -> None:
    plain = answer("x", "none")
    plain["passages"] = [{**passage, "rerank_rank": None} for passage in plain["passages"]]
    (found,) = judged_answers("reranker", [plain], [said("x", True, "b")])
    assert (found.version, found.outcome) == ("none", pytest.approx(1 / math.log2(3)))


def test_without_a_judged_passage_the_verdict_on_the_whole_answer_counts() -> None:
    (found,) = judged_answers("reranker", [answer("x")], [said("x", True)])
    assert found.outcome == 1.0


def test_a_users_newest_verdict_counts_and_users_count_alike() -> None:
    verdicts = [said("x", True, when=1), said("x", False, when=2), said("x", True, user="bob", when=3)]
    (found,) = judged_answers("generator", [answer("x")], verdicts)
    assert (found.outcome, found.judged_at) == (0.5, at(3))


def test_an_event_that_was_delivered_twice_counts_once() -> None:
    one, verdict_ = answer("x"), said("x", True)
    found = judged_answers("generator", [one, one], [verdict_, verdict_])
    assert [(g.outcome, g.version) for g in found] == [(1.0, "v000002")]


def test_an_answer_that_no_generator_made_is_nobodys_and_a_packaged_one_is_the_version_none() -> None:
    rows = [answer("a", "none"), answer("b", "SmolLM2-135M-Instruct.Q4_1@0123"), answer("c", kind="search")]
    assert [one.version for one in judged_answers("generator", rows, [])] == ["none"]


def test_what_declines_is_told_and_has_no_groundedness() -> None:
    rows = [answer("a"), answer("b", answer="I do not know."), answer("c", answer=" ")]
    beside = [one.beside for one in judged_answers("generator", rows, [])]
    assert beside == [{"answered": 1.0, "grounded": 0.5}, {"answered": 0.0}, {"answered": 0.0}]


# the test between the two


def test_one_verdict_shows_no_more_than_it_can() -> None:
    """Under equality both draw from 4 ones and 2 zeros: a difference of -0.8 or less comes of a 0 (1/3) and at least 4 ones."""
    at_least_four = 5 * (2 / 3) ** 4 * (1 / 3) + (2 / 3) ** 5
    assert worse([0.0], [1.0, 1.0, 1.0, 1.0, 0.0], 1) == pytest.approx(1 - at_least_four / 3, abs=0.015)


def test_equal_samples_show_little_and_opposite_ones_all() -> None:
    assert worse([1.0, 0.0] * 10, [1.0, 0.0] * 50, 1) < 0.6
    assert worse([0.0] * 15, [1.0] * 50, 1) == 1.0
    assert worse([1.0] * 15, [0.0] * 50, 1) == 0.0
    assert worse([], [1.0], 1) == worse([0.0], [], 1) == 0.0


# how a trial ends


FIVE = [frozenset({f"acme/{n}"}) for n in range(5)]


def by_five(answers: list[JudgedAnswer]) -> list[JudgedAnswer]:
    """The same answers, judged by five users in turn."""
    return [replace(one, users=FIVE[n % 5]) for n, one in enumerate(answers)]


def sampled(liked: float, count: int, seed: int, version: str = "v", every: float = 1.0) -> list[JudgedAnswer]:
    draw = random.Random(seed)
    return by_five([JudgedAnswer(version, at(n * every), float(draw.random() < liked), at(n * every)) for n in range(count)])


def test_a_trial_goes_on_until_enough_is_judged_and_then_promotes() -> None:
    ours, theirs = sampled(0.8, 29, 1), sampled(0.8, 270, 2, every=0.1)
    assert verdict("reranker", ours, theirs, SETTINGS, share=0.1, over=False) == ("", "")
    ours = sampled(0.8, 30, 1)
    ended, why = verdict("reranker", ours, theirs, SETTINGS, share=0.1, over=False)
    assert ended == "promote"
    assert "30 judged answers" in why


def test_a_bad_challenger_retreats_at_the_first_look_and_says_why() -> None:
    ours, theirs = sampled(0.1, 10, 1), sampled(0.9, 90, 2, every=0.1)
    ended, why = verdict("reranker", ours, theirs, SETTINGS, share=0.1, over=False)
    assert ended == "canary_ended"
    assert "users find it worse" in why


def test_between_two_looks_nothing_is_decided() -> None:
    """Eleven to nineteen judged answers say no more than the first ten of them did."""
    theirs = sampled(0.9, 90, 2, every=0.1)
    good = [JudgedAnswer("v", at(n), 1.0, at(n)) for n in range(10)]
    bad = [JudgedAnswer("v", at(n), 0.0, at(n)) for n in range(10, 19)]
    assert verdict("reranker", by_five(good + bad), theirs, SETTINGS, share=0.1, over=False)[0] == ""
    more = [*bad, JudgedAnswer("v", at(19), 0.0, at(19))]
    assert verdict("reranker", by_five(good + more), theirs, SETTINGS, share=0.1, over=False)[0] == "canary_ended"


def test_time_promotes_with_fewer_unless_they_say_it_is_worse() -> None:
    theirs = sampled(0.9, 90, 2)
    assert verdict("reranker", sampled(0.9, 4, 1), theirs, SETTINGS, share=0.1, over=True)[0] == "promote"
    assert verdict("reranker", sampled(0.0, 4, 1), theirs, SETTINGS, share=0.1, over=True)[0] == "canary_ended"


def test_one_that_gave_no_answer_though_it_should_have_is_broken() -> None:
    ended, why = verdict("generator", [], sampled(0.9, 90, 2), SETTINGS, share=0.1, over=True)
    assert ended == "canary_ended"
    assert "cannot be loaded" in why
    assert verdict("generator", [], sampled(0.9, 9, 2), SETTINGS, share=0.1, over=True)[0] == "promote"


def test_silence_counts_from_when_five_answers_were_to_be_its() -> None:
    """Of 50 answers a tenth is five: that the champion gave 45 of them and it none is no bad luck any more."""
    assert verdict("generator", [], sampled(0.9, 45, 2), SETTINGS, share=0.1, over=True)[0] == "canary_ended"
    assert verdict("generator", [], sampled(0.9, 44, 2), SETTINGS, share=0.1, over=True)[0] == "promote"
    assert verdict("generator", [], sampled(0.9, 45, 2), SETTINGS, share=0.1, over=False) == ("", "")


def test_with_fewer_than_five_judged_answers_only_the_last_look_is_taken() -> None:
    theirs = sampled(0.9, 90, 2, every=0.1)
    bad = by_five([JudgedAnswer("v", at(n), 0.0, at(n)) for n in range(5)])
    for wanted, judged, ended in ((12, 4, ""), (15, 5, "canary_ended"), (4, 3, ""), (4, 4, "canary_ended")):
        settings = Training(canary=CanarySettings(verdicts=wanted))
        assert verdict("reranker", bad[:judged], theirs, settings, share=0.1, over=False)[0] == ended, (wanted, judged)


def test_one_that_declines_or_invents_retreats_though_nobody_dislikes_it() -> None:
    def side(beside: dict[str, float], count: int) -> list[JudgedAnswer]:
        judged = [JudgedAnswer("v", at(n), 1.0, at(n), beside) for n in range(10)]
        return judged + [JudgedAnswer("v", at(n / count), None, None, beside) for n in range(count)]

    theirs = side({"answered": 1.0, "grounded": 0.9}, 300)
    declining = verdict("generator", side({"answered": 0.0}, 30), theirs, SETTINGS, share=0.1, over=False)
    assert declining[0] == "canary_ended"
    assert "decline more often" in declining[1]
    inventing = verdict("generator", side({"answered": 1.0, "grounded": 0.3}, 30), theirs, SETTINGS, share=0.1, over=False)
    assert inventing[0] == "canary_ended"
    assert "are less grounded in the passages" in inventing[1]
    alike = verdict("generator", side({"answered": 1.0, "grounded": 0.88}, 30), theirs, SETTINGS, share=0.1, over=False)
    assert alike[0] == ""


@pytest.mark.parametrize("trials", [100, pytest.param(300, marks=pytest.mark.soak)])
def test_equals_seldom_retreat_and_a_clearly_worse_one_nearly_always_does(trials: int) -> None:
    """Trials of thirty judged answers: at most the tenth that a confidence of 90 % lets through, all looks together."""

    def retreats(liked: float) -> int:
        ended = [
            verdict(
                "reranker", sampled(liked, 30, 2 * n), sampled(0.7, 270, 2 * n + 1, every=0.11), SETTINGS, share=0.1, over=False
            )[0]
            for n in range(trials)
        ]
        return ended.count("canary_ended")

    assert retreats(0.7) <= 0.1 * trials + 2 * math.sqrt(0.1 * 0.9 * trials)
    assert retreats(0.25) >= 0.95 * trials


# rankings, whose answers are interleaved


def interleaved(name: str, **more: Any) -> dict[str, Any]:
    """An answer with a passage that both orders begin with, one that the champion picked and one that the challenger picked."""
    signals = [{"team": team} for team in ("", "champion", "challenger")]
    return answer(name, "none", ranking_version="v000002", signals=signals, **more)


def test_a_users_verdicts_on_an_interleaved_answer_prefer_one_order() -> None:
    verdicts = [
        *(said("1", True, "c"), said("1", True, "b", user="bob"), said("1", False, "c", user="bob")),
        *(said("1", True, "b", user="eve"), said("1", True, "c", user="eve"), said("1", True, "a", user="joe")),
    ]
    (one,) = judged_answers("ranking", [interleaved("1")], verdicts)
    assert {found.user: found.value for found in one.preferences} == {"/ann": 1.0, "/bob": 0.0, "/eve": 0.5}
    assert (one.version, one.outcome) == ("v000002", 0.5)
    (unjudged,) = judged_answers("ranking", [interleaved("1")], [said("1", True, "a")])
    assert (unjudged.preferences, unjudged.outcome) == ((), None), "the passage that both had first says nothing"
    (plain,) = judged_answers("ranking", [answer("2", "none", ranking_version="v000001", signals=None)], [said("2", True, "b")])
    assert (plain.version, plain.preferences, plain.outcome) == ("v000001", (), None)


def test_a_key_under_many_names_prefers_once() -> None:
    keyed = [{**said("1", True, "c", user=f"simulated-{n}", when=n), "key": "k"} for n in range(1, 5)]
    (one,) = judged_answers("ranking", [interleaved("1")], keyed)
    assert [(found.user, found.value) for found in one.preferences] == [("/k", 1.0)]


def preferring(values: Sequence[float], users: int = 50) -> list[JudgedAnswer]:
    return [
        JudgedAnswer("v000002", at(n), value, at(n), preferences=(Preference(f"u{n % users}", at(n), value),))
        for n, value in enumerate(values)
    ]


def tried(values: Sequence[float], users: int = 50, *, over: bool = False) -> tuple[str, str]:
    many = SETTINGS.model_copy(update={"canary": CanarySettings(verdicts=500)})
    return verdict("ranking", preferring(values, users), [], many, share=0.1, over=over)


def test_an_interleaved_canary_ends_as_soon_as_users_prefer_one_of_the_two() -> None:
    ended, why = tried([1.0] * 8)
    assert ended == "promote"
    assert "users prefer its passages: of 7 preferences of 7 users 7 are for its passages (evidence 32 to 1, 20" in why
    ended, why = tried([0.0] * 8)
    assert ended == "canary_ended"
    assert "users prefer the champion's passages: of 5" in why
    assert tried([1.0, 0.0] * 30) == ("", "")
    assert tried([0.5] * 60) == ("", ""), "ties say nothing"
    assert tried([1.0, 0.0] * 30, over=True)[0] == "promote"
    assert "60 preferences, 50% for its passages" in tried([1.0, 0.0] * 30, over=True)[1]


def test_few_users_decide_nothing_however_much_they_say() -> None:
    for value in (0.0, 1.0):
        assert tried([value] * 400, users=2) == ("", ""), "two users, who may be one person"
    # A third, who is one of the many, does not give two that flood more than five preferences each.
    flood = [0.0] * 400
    counted = tried([*flood, *[1.0] * 30], users=2)
    assert counted == ("", "")


@pytest.mark.parametrize(("liked", "wrong"), [(0.5, "promote"), (0.5, "canary_ended")])
def test_equals_are_told_apart_no_more_often_than_the_confidence_says(liked: float, wrong: str) -> None:
    allowed = 1 - (SETTINGS.gate.confidence if wrong == "promote" else SETTINGS.canary.confidence)
    draw = random.Random(11)
    ends = [tried([float(draw.random() < liked) for _ in range(150)])[0] for _ in range(200)]
    assert ends.count(wrong) / len(ends) <= allowed


def test_a_better_one_is_nearly_always_promoted_and_a_worse_one_nearly_always_ends() -> None:
    draw = random.Random(12)
    for liked, wanted in ((0.75, "promote"), (0.25, "canary_ended")):
        ends = [tried([float(draw.random() < liked) for _ in range(150)])[0] for _ in range(60)]
        assert ends.count(wanted) >= 57


def test_a_higher_confidence_asks_for_more() -> None:
    ours = by_five([JudgedAnswer("v", at(n), float(n % 2), at(n)) for n in range(30)])  # a half of them liked, at any time
    theirs = by_five([JudgedAnswer("v", at(n / 10), float(n % 10 < 7), at(n / 10)) for n in range(270)])
    strict = Training(canary=CanarySettings(confidence=0.999))
    assert verdict("reranker", ours, theirs, SETTINGS, share=0.1, over=False)[0] == "canary_ended"
    assert verdict("reranker", ours, theirs, strict, share=0.1, over=False)[0] == "promote"


# who decides


def test_one_user_ends_no_canary_and_hides_no_bad_one() -> None:
    """A key that dislikes whatever the challenger says, and likes what the champion does; or the other way about."""
    buyer = frozenset({"beta/b"})
    theirs = sampled(0.9, 90, 2, every=0.1) + [JudgedAnswer("v", at(n / 10), 1.0, at(n / 10), users=buyer) for n in range(90)]
    alone = [JudgedAnswer("v", at(n), 0.0, at(n), users=buyer) for n in range(60)]
    assert verdict("reranker", alone, theirs, SETTINGS, share=0.1, over=False) == ("", "")
    assert verdict("reranker", alone, theirs, SETTINGS, share=0.1, over=True)[0] == "promote"
    beside = alone + by_five([JudgedAnswer("v", at(n), 1.0, at(n)) for n in range(5)])
    assert verdict("reranker", beside, theirs, SETTINGS, share=0.1, over=True)[0] == "promote", "five users like it"
    praised = [JudgedAnswer("v", at(n / 10), 1.0, at(n / 10), users=buyer) for n in range(60)]
    assert verdict("reranker", praised, theirs, SETTINGS, share=0.1, over=False) == ("", ""), "not promoted by one user"
    bad = praised + by_five([JudgedAnswer("v", at(n), 0.0, at(n)) for n in range(10, 30)])
    assert verdict("reranker", bad, theirs, SETTINGS, share=0.1, over=False)[0] == "canary_ended", "the others dislike it"
    own = Training(gate=Gate(least_users=1))
    assert verdict("reranker", alone[:30], theirs, own, share=0.1, over=False)[0] == "canary_ended", "a home with one user"


def test_one_user_decides_nothing_by_what_it_says_of_the_champion() -> None:
    """A key that judges one champion's answer after another: it likes none, which hides a bad challenger, or all."""
    buyer = frozenset({"beta/b"})

    def judged(value: float) -> list[JudgedAnswer]:
        return [JudgedAnswer("v", at(n / 20), value, at(n / 20), users=buyer) for n in range(600)]

    theirs, bad = sampled(0.9, 90, 2, every=0.1), sampled(0.3, 30, 1)
    assert verdict("reranker", bad, theirs + judged(0.0), SETTINGS, share=0.1, over=True)[0] == "canary_ended", "it is worse"
    # A little worse by chance, which is no evidence, and stays so without any one of the five.
    theirs = by_five([JudgedAnswer("v", at(n), float(n % 20 < 14), at(n)) for n in range(60)])
    alike = by_five([JudgedAnswer("v", at(n), float(n % 20 < 13), at(n)) for n in range(30)])
    ended = verdict("reranker", alike, theirs + judged(1.0), SETTINGS, share=0.1, over=True)
    assert ended[0] == "promote", ended


def test_one_user_decides_nothing_by_what_it_asks() -> None:
    """A key that asks, without end, what the challenger declines and the champion answers, or what both answer."""

    def asked(who: Sequence[str], declined: float, count: int, every: float) -> list[JudgedAnswer]:
        """So many answers, ten in turn to each, a share of which declines."""
        return [
            JudgedAnswer("v", at(n * every), beside={"answered": float(n % 10 >= 10 * declined)}, asker=who[n // 10 % len(who)])
            for n in range(count)
        ]

    def ended(ours: list[JudgedAnswer], theirs: list[JudgedAnswer]) -> str:
        return verdict("generator", ours, theirs, SETTINGS, share=0.1, over=True)[0]

    users = [f"acme/{n}" for n in range(12)]
    ours, theirs = asked(users, 0.0, 120, 1.0), asked(users, 0.0, 1_200, 0.1)
    assert ended(ours, theirs) == "promote"
    assert ended(ours + asked(["beta/b"], 1.0, 1_000, 0.1), theirs + asked(["beta/b"], 0.0, 9_000, 0.01)) == "promote"
    bad = asked(users, 0.2, 120, 1.0)
    assert ended(bad, theirs) == "canary_ended"
    assert ended(bad + asked(["beta/b"], 0.0, 1_000, 0.1), theirs + asked(["beta/b"], 0.0, 9_000, 0.01)) == "canary_ended"


def test_keys_of_one_maker_and_invented_users_are_not_several_who_ask() -> None:
    """A tenant's admin makes twenty keys, each of which asks what a challenger declines, or what both answer."""
    declined, common = "The documents do not contain an answer.", {"passages": [], "model_version": "none"}

    def rows(side: str, count: int, every: float, *, wrong: float, **asker: Any) -> list[dict[str, Any]]:
        """So many answers, of which a share declines; those of twenty keys in turn, unless `asker` says otherwise."""
        return [
            answer(
                f"{side}-{asker.get('key', '')}{asker.get('simulated', '')}-{n}",
                **common,
                generator_version=side,
                answer=declined if n % 10 < 10 * wrong else "It turns.",
                groundedness=None,
                at=at(n * every),
                **{"tenant": "beta", "user": f"{n % 20:016x}", **asker},
            )
            for n in range(count)
        ]

    def ended(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
        answers = judged_answers("generator", [*ours, *theirs], [])
        sides = ([one for one in answers if one.version == version] for version in ("v000002", "v000001"))
        return verdict("generator", *sides, SETTINGS, share=0.1, over=True)[0]

    people = [{"tenant": "acme", "user": f"user-{n}"} for n in range(12)]

    def honest(side: str, count: int, every: float, *, wrong: float) -> list[dict[str, Any]]:
        made = rows(side, count, every, wrong=wrong, key="acme")
        return [{**row, **people[n // 10 % 12], "key": None} for n, row in enumerate(made)]

    good, bad = honest("v000002", 120, 1.0, wrong=0.0), honest("v000002", 120, 1.0, wrong=0.2)
    theirs = honest("v000001", 1_200, 0.1, wrong=0.0)
    assert (ended(good, theirs), ended(bad, theirs)) == ("promote", "canary_ended")
    for one in ({"key": "maker"}, {"user": "simulated-s0", "simulated": True}):
        flood = rows("v000001", 9_000, 0.01, wrong=0.0, **one)
        assert ended(good + rows("v000002", 1_000, 0.1, wrong=1.0, **one), theirs + flood) == "promote", one
        assert ended(bad + rows("v000002", 1_000, 0.1, wrong=0.0, **one), theirs + flood) == "canary_ended", one


def test_one_user_ends_no_interleaved_canary() -> None:
    """Two others whom both orders please alike do not make its five verdicts the users'."""

    def preferred(**values: list[float]) -> list[JudgedAnswer]:
        found = [Preference(user, at(n), value) for user, own in values.items() for n, value in enumerate(own)]
        return [JudgedAnswer("v", one.at, one.value, one.at, users=frozenset({one.user}), preferences=(one,)) for one in found]

    def ended(**values: list[float]) -> str:
        return verdict("ranking", preferred(**values), [], SETTINGS, share=0.1, over=False)[0]

    assert ended(buyer=[0.0] * 9, ann=[0.5], bob=[0.5]) == ""
    assert ended(buyer=[0.0] * 9, ann=[1.0], bob=[1.0], cid=[0.5]) == ""
    assert ended(buyer=[0.0] * 9, ann=[0.0], bob=[0.5]) == "canary_ended", "another one says so, too"
    assert ended(buyer=[1.0] * 9, ann=[0.5], bob=[0.5]) == ""
    assert ended(buyer=[1.0] * 9, ann=[1.0], bob=[1.0]) == "promote"


def test_two_tenants_keys_and_users_of_one_name_are_several_users() -> None:
    verdicts = [{**said("1", True, user="ann"), "tenant": "acme"}, {**said("1", False, user="ann"), "tenant": "beta"}]
    (one,) = judged_answers("generator", [answer("1")], verdicts[:1])
    assert one.users == {"acme/ann"}
    (one,) = judged_answers("generator", [answer("1")], verdicts[1:])
    assert one.users == {"beta/ann"}


# the pause after a failure


def test_a_pause_doubles_to_an_hour_and_is_short_again_after_a_success() -> None:
    pause = Pause()
    assert [pause.failed() for _ in range(8)] == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert pause.times == 8
    pause.succeeded()
    assert pause.failed() == 60
