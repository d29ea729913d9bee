"""Support: a passage supports a sentence only with its numbers, units, dates, names, identifiers and negation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.models.support import LEAST_WORDS, best_of, content_words, evidence, facts

WEIR = """# The weir

It was raised in 1911 by Ada Moreau. The crest stands at 4.2 metres, "give or take". Two sluices drain 1,250 litres a minute.
The sluices are not opened in winter. A licence costs €38.50 and lasts four years. Swans nest there.
On 2024-03-07 the gauge WG-12 was replaced; its firmware is 5.2.1 and its script gauge_log.py.
"""
RATES = """# Mooring rates

| Berth | Price per day | Deposit | Depth |
|---|---|---|---|
| North | 12.00 EUR | 40 EUR | 3 m |
| South | 17.25 EUR | 60 EUR | 5 m |
"""
WEHR = "# Wehrordnung\n\nDie Gebühr beträgt 1.250,50 Euro im Jahr. Boote dürfen nicht anlegen. Zuständig ist Frau Kessler.\n"

SUPPORTED = [
    (WEIR, "It was raised in 1911."),
    (WEIR, "Ada Moreau raised the weir in 1911."),
    (WEIR, "The weir was raised in 1911 by Ada Moreau."),
    (WEIR, "The crest stands at 4.2 m."),
    (WEIR, "The crest is at 4.20 metres."),
    (WEIR, "2 sluices drain 1250 litres a minute."),
    (WEIR, "The sluices are not opened in winter."),
    (WEIR, "The sluices are never opened in winter."),
    (WEIR, "A licence costs 38.5 euros."),
    (WEIR, "A licence lasts 4 years."),
    (WEIR, "A licence costs €38.50 and lasts 4 years."),
    (WEIR, "On 7 March 2024 the gauge WG-12 was replaced."),
    (WEIR, "The gauge was replaced on March 7th, 2024."),
    (WEIR, "The firmware of gauge WG-12 is 5.2.1."),
    (WEIR, "Its script is gauge_log.py."),
    (WEIR, "A licence lasts four years, and swans nest there."),
    (RATES, "The North berth costs 12 EUR per day."),
    (RATES, "South: 17.25 EUR per day, deposit 60 EUR."),
    (RATES, "The depth of the South berth is 5 metres."),
    (WEHR, "Die Gebühr beträgt 1250,50 Euro im Jahr."),
    (WEHR, "Boote dürfen nicht anlegen."),
]
UNSUPPORTED = [
    (WEIR, "It was raised in 1912."),
    (WEIR, "Ada Kessler raised the weir in 1911."),
    (WEIR, "The crest stands at 4.2 kilometres."),
    (WEIR, "The crest stands at 42 metres."),
    (WEIR, "Two sluices drain 1.25 litres a minute."),
    (WEIR, "The sluices are opened in winter."),
    (WEIR, "A licence costs 38.50 dollars."),
    (WEIR, "A licence costs €4.20."),
    (WEIR, "A licence lasts 4 months."),
    (WEIR, "A licence costs four euros and lasts 38.50 years."),
    (WEIR, "On 7 April 2024 the gauge WG-12 was replaced."),
    (WEIR, "On 8 March 2024 the gauge WG-12 was replaced."),
    (WEIR, "The gauge WG-13 was replaced."),
    (WEIR, "The firmware of the gauge is 5.2.2."),
    (WEIR, "Its script is gauge_run.py."),
    (WEIR, "Swans do not nest there."),
    (WEIR, "Bananas ripen quickly in warm kitchens."),
    (RATES, "The North berth costs 17.25 EUR per day."),
    (RATES, "The South berth costs 12 EUR per day."),
    (RATES, "The West berth costs 12 EUR per day."),
    (WEHR, "Die Gebühr beträgt 1.350,50 Euro im Jahr."),
    (WEHR, "Boote dürfen anlegen."),
]


@pytest.mark.parametrize(("passage", "sentence"), SUPPORTED)
def test_what_a_passage_says_it_supports(passage: str, sentence: str) -> None:
    found = evidence(sentence, passage)
    assert found is not None
    assert not found.contradicts


@pytest.mark.parametrize(("passage", "sentence"), UNSUPPORTED)
def test_what_it_does_not_say_it_does_not(passage: str, sentence: str) -> None:
    found = evidence(sentence, passage)
    assert found is None or found.contradicts


@pytest.mark.parametrize(
    "sentence",
    ["The crest of the weir stands at 4.9 metres.", "The crest of the weir stands at 4.2 km.", "A weir licence costs €83.50."],
)
def test_the_same_statement_with_another_figure_is_a_contradiction(sentence: str) -> None:
    found = evidence(sentence, WEIR)
    assert found is not None
    assert found.contradicts


def test_a_few_words_are_about_what_was_asked() -> None:
    assert evidence("12.00 EUR", RATES, "What does the North berth cost per day?") is not None
    assert evidence("12.00 EUR", RATES, "What does the South berth cost per day?") is None
    assert evidence("1911", WEIR, "When was the weir raised?") is not None
    assert evidence("1912", WEIR, "When was the weir raised?") is None


def test_the_evidence_is_the_sentence_or_the_row() -> None:
    def quoted(sentence: str, passage: str) -> str:
        found = evidence(sentence, passage)
        assert found is not None
        return passage[found.start : found.end]

    assert quoted("The crest stands at 4.2 metres", WEIR) == 'The crest stands at 4.2 metres, "give or take".'
    assert quoted("The South berth costs 17.25 EUR per day.", RATES) == "| South | 17.25 EUR | 60 EUR | 5 m |"
    assert quoted("Swans nest there", WEIR) == "Swans nest there."


def test_the_passage_that_supports_wins_over_one_that_contradicts() -> None:
    found = best_of("The crest of the weir stands at 4.9 metres.", [WEIR, "# Old\n\nThe crest of the weir stands at 4.9 metres."])
    assert found is not None
    assert (found[0], found[1].contradicts) == (2, False)


def test_half_of_the_words_are_enough_and_less_is_not() -> None:
    passage = "A headrace carries water from the reservoir to the wheel."
    assert evidence("reservoir wheel bananas kitchens", passage) is not None
    assert evidence("reservoir bananas kitchens", passage) is None
    assert LEAST_WORDS == 0.5


def test_words_that_mean_nothing_support_nothing() -> None:
    assert content_words("It is the one that was") == set()
    assert evidence("It is that which was.", WEIR) is None


@pytest.mark.parametrize(
    ("text", "same"), [("1,000", "1000"), ("1.000", "1000"), ("1'000", "1000"), ("1.250,50", "1250.5"), ("1,250.50", "1250.5")]
)
def test_a_number_is_read_as_either_side_of_the_rhine_writes_it(text: str, same: str) -> None:
    ((readings, _),) = facts(text).numbers
    assert same in readings


@given(st.text(max_size=200), st.text(max_size=80), st.text(max_size=40))
def test_evidence_lies_within_its_passage(passage: str, sentence: str, question: str) -> None:
    found = evidence(sentence, passage, question)
    if found is not None:
        assert 0 <= found.start < found.end <= len(passage)
        assert passage[found.start : found.end].strip()


@given(st.lists(st.sampled_from(WEIR.split()), min_size=1, max_size=30))
def test_a_sentence_of_a_passage_supports_itself(words: list[str]) -> None:
    sentence = " ".join(word.strip('."') for word in words)
    found = evidence(sentence, sentence)
    assert found is None or not found.contradicts
