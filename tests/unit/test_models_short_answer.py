"""Short answers: the words of a sentence or the cell of a row that answer, with what limits them; none if it is not sure."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.models.asked import asked_of
from headrace.models.short_answer import cell_answer, short_answer
from headrace.models.spans import Tokens, best_span, candidates, features, span_weights
from headrace.models.support import content_words

ROW = [("Berth", "B"), ("Depth", "4.6 m"), ("Owner", "Lien"), ("Price per day", "17.50 EUR"), ("Length (m)", "12")]


def weights(question: str) -> dict[str, float]:
    return dict.fromkeys(content_words(question), 1.0)


def short(question: str, sentence: str) -> str | None:
    return short_answer(question, sentence, weights(question))


@pytest.mark.parametrize(
    ("question", "sentence", "answer"),
    [
        ("When does the slipway close?", "The slipway closes at 21:30 in winter.", "21:30"),
        ("How many boats fit into the upper lock?", "The upper lock takes 14 boats, the lower one 9.", "14"),
        ("When does the slipway open?", "The slipway opens at 8 and closes at noon.", "8"),
        ("How long are daily snapshots kept?", "Daily snapshots are kept for 35 days.", "35 days"),
        ("How often do fire drills take place?", "Fire drills take place every four months.", "every four months"),
        ("How much does the service contract cost?", "The service contract costs 1,240 EUR a year.", "1,240 EUR a year"),
        ("When may the kiln be fired?", "It may only be fired between 07:00 and 20:30.", "between 07:00 and 20:30"),
        ("When is the office open?", "The office is open from 9 to 17 Uhr on weekdays.", "from 9 to 17 Uhr"),
        ("What is the speed limit in the basin?", "In the basin the limit is 5 km/h.", "5 km/h"),
        ("How much may a boat weigh?", "A boat may weigh up to 800 kg.", "up to 800 kg"),
        ("Who is the harbour master?", "The harbour master is Runa Holm.", "Runa Holm"),
        ("Who built the deck oven?", "The deck oven was built by Winkler Ofenbau in 2016.", "Winkler Ofenbau"),
        ("For how long are sheets lent?", "Sheets are lent to institutes only, for six months at most.", "six months at most"),
        ("When are copies made?", "Copies of the register are made each Sunday at 02:00.", "each Sunday at 02:00"),
        ("Which day does dredging start?", "Dredging starts on Friday at 02:00 and takes nine hours.", "on Friday at 02:00"),
        ("When does the contract end?", "The contract ends on 30 September 2027 for both sides.", "30 September 2027"),
        ("When is the log deleted?", "The log is deleted after 24 months.", "after 24 months"),
        ("Wann wird das Protokoll gelöscht?", "Das Protokoll wird nach 24 Monaten gelöscht.", "nach 24 Monaten"),
        ("When was the palm house built?", "The palm house was built in 1840 m west of the pond.", "1840"),
        ("Wie lange dauert die Wache?", "Die Wache dauert eine Woche.", "eine Woche"),
    ],
)
def test_the_words_that_answer_with_their_unit_and_what_limits_them(question: str, sentence: str, answer: str) -> None:
    assert short(question, sentence) == answer
    assert answer in sentence


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("Is the slipway open in winter?", "The slipway closes at 21:30 in winter."),  # asks for no words of it
        ("What does the gate do?", "The gate is closed by a motor of the harbour."),
        ("How does the gate close?", "The gate closes by a motor of the harbour."),
        ("When is the shop open?", "The shop is closed on Good Friday."),
        # one word may be the beginning of a name, and of several names one is not all
        ("Who is the harbour master?", "The harbour master is Holm."),
        ("Who is the harbour master?", "The harbour masters are Runa Holm and Odd Lien."),
        ("Who are the harbour masters?", "The harbour master is Runa Holm."),
        ("Who paid for the rescue?", "The rescue was paid by the insurance of the Alpine Club."),
        # a thing is not told apart from its neighbours surely enough
        ("What MTU does the harbour network use?", "The harbour network uses VLAN 7 and an MTU of 9000."),
        ("Which day does the dredging start?", "The dredging starts at 02:00 and takes nine hours."),
        ("Wer ist Petra Vogel?", "Petra Vogel: zuständig für Änderungen."),
        # another unit than was asked for, or more than an amount
        ("What is the capacity of the Lund site?", "The Lund site was opened in March 2021."),
        ("How much does the crane lift?", "The crane lifts it within two hours."),
        ("Wie lange dauert die Wache?", "Die Wache beginnt um 9 Uhr und dauert eine Woche."),
        ("How much was the rescue?", "The rescue service came at 13:34."),
        ("Who may enter the vault?", "Nobody except Runa Holm may enter the vault."),
        ("Who did not sign the log?", "Runa Holm signed the log."),
        ("How many boats fit into the upper lock?", "The upper lock takes several boats."),  # there is no number
        ("When was the tower inspected?", "The tower holds 30 cubic metres and is filled from the canal."),
        # the date is of another clause than the verb
        ("When was the lock painted?", "The lock was painted by Runa Holm, and the weir was opened in 1974."),
        ("When is pump P-7 replaced?", "The impeller of pump P-7 is replaced every 4,000 operating hours."),  # "P-7"
        ("When was the upper lock built?", "The upper lock was built by Runa Holm."),
        ("What is the highest water?", "HIGHEST_CM = 35  # the highest water"),
        ("Who is the harbour master?", "The harbour master " + "and so on " * 100 + "is Runa Holm."),
        ("Who is the harbour master?", ""),
    ],
)
def test_where_it_is_not_sure_the_quote_is_the_answer(question: str, sentence: str) -> None:
    assert short(question, sentence) is None


def test_a_cell_by_its_column_or_by_what_is_asked_for() -> None:
    def cell(question: str) -> str | None:
        return cell_answer(question, ROW, weights(question))

    assert cell("What depth has berth B?") == "Depth: 4.6 m"
    assert cell("Who is the owner of berth B?") == "Owner: Lien"
    assert cell("Who has berth B?") == "Owner: Lien", "the column says what it is"
    assert cell("How much is berth B per day?") == "Price per day: 17.50 EUR", "what the column limits"
    assert cell("What is the length of berth B?") == "Length (m): 12", "the unit is in the column's name"
    assert cell("What about berth B?") is None
    assert cell("What is the depth and the length of berth B?") == "Depth: 4.6 m; Length (m): 12", "both"
    assert cell("What fee has berth B?") == "Price per day: 17.50 EUR", "a word of the same meaning"
    assert cell_answer("Who has berth B?", [], weights("Who has berth B?")) is None


def test_what_a_question_asks_for() -> None:
    def asked(question: str) -> tuple[str, frozenset[str]]:
        found = asked_of(question, weights(question))
        return found.kind, found.nouns

    assert asked("How many square miles does it cover?") == ("count", {"square", "miles"})
    assert asked("What is the name of the ferry?") == ("noun", {"name", "ferry"})
    assert asked("In which city does she live?")[0] == "where"
    assert asked("What year did it sink?")[0] == "when"
    assert asked("Wie lange dauert es?")[0] == "quantity"
    assert asked("Is it open?")[0] == asked("Was the pump greased?")[0] == ""
    assert asked("Was ist das?")[0] == "what"
    assert asked_of("Who wrote it?", {}).acts
    assert not asked_of("What did she write?", {}).acts
    assert asked_of("What is it used for?", {}).preposition == "for"
    assert asked_of("", {}).kind == "other"


def test_no_number_and_no_name_is_cut() -> None:
    tokens = Tokens("The New England Patriots paid $1.2 million (20 %) in 1998.")
    starts, ends = candidates(asked_of("What did the Patriots pay?", {}), tokens)
    texts = {" ".join(tokens.words[start : end + 1]) for start, end in zip(starts, ends, strict=True)}
    assert {"New England Patriots", "$ 1.2 million", "1998"} <= texts
    assert not texts & {"England Patriots", "New England", "1.2", "1.2 million", "$ 1.2", "20"}


def test_every_weight_is_one_of_a_feature() -> None:
    named = set()
    for question in (
        "Who is it?",
        "When?",
        "Where?",
        "How many boats?",
        "How long?",
        "Why?",
        "How?",
        "What is it?",
        "Name it",
        "What boat?",
    ):
        asked = asked_of(question, weights(question))
        tokens = Tokens("It is the boat of Ann, because she has 2.")
        named |= set(features(asked, tokens, *candidates(asked, tokens)))
    unknown = {name for name in span_weights() if name not in named and not name.startswith("acts_")}
    assert unknown == set()
    assert len(span_weights()) > 100


@given(st.text(max_size=300), st.text(max_size=300))
def test_any_text_is_read(question: str, sentence: str) -> None:
    found = short(question, sentence)
    assert found is None or found in sentence
    span = best_span(asked_of(question, weights(question)), sentence)
    assert span is None or (sentence[span.start : span.end] == span.text and 0 < span.share <= 1.0 + 1e-9)


@pytest.mark.parametrize("text", ["a " * 400, "1 " * 400, "A" * 800, "( " * 400, "who what " * 400, "every " * 130, "_" * 800])
def test_what_is_odd_takes_no_time(text: str) -> None:
    started = time.process_time()
    short(text, text)
    short("Why is it so?", text)
    assert time.process_time() - started < 2.0


def test_a_cell_with_a_unit_alone_is_no_price() -> None:
    weights = {"hourly": 1.0, "rate": 1.0, "migration": 2.0}
    row = [("service", "migration"), ("rate.amount", "140"), ("rate.unit", "EUR/h")]
    assert cell_answer("What is the hourly rate for migration?", row, weights) is None, "the whole row is shown"
    assert cell_answer("What is the hourly rate for migration?", [row[0], ("rate", "140 EUR")], weights) == "rate: 140 EUR"
