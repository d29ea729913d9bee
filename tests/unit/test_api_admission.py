"""Places for questions: who was sent away and comes back is not overtaken for ever by those who never left."""

from __future__ import annotations

import pytest

from headrace.api.admission import AdmissionQueue, Rate
from headrace.errors import Overloaded


def refused(places: AdmissionQueue, question: str, tenant: str = "acme", most: int = 2) -> bool:
    try:
        places.enter(tenant, most, question)
    except Overloaded:
        return True
    return False


def test_a_question_that_comes_back_goes_before_one_that_is_new() -> None:
    places = AdmissionQueue(at_once=1, waiting=3)
    first, _ = places.enter("acme", 2, "a"), places.enter("acme", 2, "b")
    assert refused(places, "early")
    assert refused(places, "late")
    assert refused(places, "late")
    assert refused(places, "early"), "nothing is free yet"
    places.leave(first)
    assert refused(places, "new"), "the free place is kept for those who came back"
    assert refused(places, "late"), "and for the one of them that came first"
    assert not refused(places, "early")


def test_no_place_is_kept_for_a_question_that_never_came_back() -> None:
    places = AdmissionQueue(at_once=1, waiting=3)
    first, _ = places.enter("acme", 2, "a"), places.enter("acme", 2, "b")
    for number in range(200):
        assert refused(places, f"once {number}")
    places.leave(first)
    assert not refused(places, "new")


def test_a_place_is_kept_for_a_while_and_not_for_ever() -> None:
    now = [0.0]
    places = AdmissionQueue(at_once=1, waiting=3, clock=lambda: now[0])
    first, _ = places.enter("acme", 2, "a"), places.enter("acme", 2, "b")
    assert refused(places, "gone")
    assert refused(places, "gone")
    places.leave(first)
    assert refused(places, "new")
    now[0] = 60.0
    assert not refused(places, "new")


def test_what_a_tenant_has_kept_keeps_no_other_out() -> None:
    places = AdmissionQueue(at_once=1, waiting=3)
    for name in ("a", "b"):
        places.enter("acme", 2, name)
    for name in ("c", "d", "e", "c", "d", "e"):
        assert refused(places, name)
    assert not refused(places, "f", tenant="globex")
    assert not refused(places, "c", tenant="globex"), "the same words of another tenant are another question"
    with pytest.raises(Overloaded, match="2 questions"):
        places.enter("globex", 2, "g")


def test_tenants_that_have_no_place_get_one_until_there_are_four_times_as_many_as_there_should_be() -> None:
    places = AdmissionQueue(at_once=1, waiting=1)
    for number in range(8):
        places.enter(f"tenant{number}", 2)
    assert places.counts == (1, 7)
    with pytest.raises(Overloaded, match="2 questions are being answered or waiting"):
        places.enter("ninth", 2)
    assert refused(places, "second of one", tenant="tenant0"), "who has one waits like everybody"


def test_a_tenant_gets_as_many_places_as_its_limit_and_not_one_more() -> None:
    places = AdmissionQueue(at_once=4, waiting=4)
    inside = [places.enter("acme", 3, str(number)) for number in range(3)]
    with pytest.raises(Overloaded, match="This tenant has 3 questions"):
        places.enter("acme", 3, "fourth")
    places.leave(inside[0])
    places.leave(inside[0])  # once is enough
    places.enter("acme", 3, "fourth")
    assert refused(places, "fifth", most=3)


def test_every_user_of_a_full_service_gets_on() -> None:
    """Sixteen users on four places; those sent away come back every 2 to 2.5 s, those answered ask again at once."""
    now = 0.0
    places = AdmissionQueue(at_once=1, waiting=3, clock=lambda: now)
    answered = dict.fromkeys(range(16), 0)
    due = {user: 0.01 * user for user in answered}
    inside: list[tuple[int, object]] = []
    for tick in range(60_000):
        now = tick / 100
        if inside and tick % 100 == 99:  # one answer a second
            user, place = inside.pop(0)
            places.leave(place)  # type: ignore[arg-type]
            answered[user] += 1
            due[user] = now
        for user in [user for user, at in due.items() if at <= now]:
            try:
                inside.append((user, places.enter("acme", 4, f"{user} asks for the {answered[user]}th time")))
                due[user] = float("inf")
            except Overloaded as error:
                due[user] = now + error.retry_s * (1 + (user % 5) / 16)
    assert sum(answered.values()) > 550, "places are not left empty for long"
    assert min(answered.values()) > 0.6 * sum(answered.values()) / 16


def test_who_gives_way_lets_another_tenant_go_first_and_goes_on_after_it() -> None:
    places = AdmissionQueue(at_once=1, waiting=3)
    long, own, other = places.enter("acme"), places.enter("acme"), places.enter("globex")
    places.give_way(long)
    assert [one.begun for one in (long, own, other)] == [False, True, False], "its own tenant's, which came before"
    places.leave(own)
    assert [one.begun for one in (long, other)] == [False, True]
    places.give_way(other)
    assert places.wait(long, lambda: False)
    places.leave(long)
    assert places.wait(other, lambda: False)
    places.leave(other)
    places.give_way(other)
    assert places.counts == (0, 0), "who has left stays away"


def test_a_request_may_count_as_several_but_never_as_more_than_all() -> None:
    now = [0.0]
    rate = Rate(lambda: now[0])
    rate.take("acme", 60, 50)
    with pytest.raises(Overloaded) as refused:
        rate.take("acme", 60, 1_000)
    assert refused.value.retry_s == pytest.approx(50)
    now[0] = 50.0
    rate.take("acme", 60, 1_000)
