"""Quoting: the sentence or row that answers, or none; what is asked for decides, and what the question names has to be there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.models.extract import WEIGHTS, Extract, best, features, to_read
from headrace.models.question_parts import parts
from headrace.models.quotable import PASSAGES, Quote, SourceText, quotes

HARBOUR = SourceText(
    """Harbour rules › Moorings
Moorings are let from May. A mooring for a boat of up to 8 metres costs 410 EUR for the season.
The harbour master is Runa Holm. She replaced Odd Lien in 2021.
- Fires on deck are forbidden because two boats burnt in 2019.
The slipway closes at 21:30 in winter.""",
    "rules/moorings.md",
    0.6,
)
BERTHS = SourceText(
    """Berths
| Berth | Depth | Owner | Price per day |
|---|---|---|---|
| A | 3.1 m | Holm | 12.00 EUR |
| B | 4.6 m | Lien | 17.50 EUR |
| C | 2.2 m | | 9.00 EUR |""",
    "berths.csv",
    0.55,
)
TIDES = SourceText(
    'tides.py\n"""Tide tables."""\n\nLOWEST_CM = 35   # the lowest water under the pier, in centimetres', "code/tides.py", 0.3
)
SOURCES = [HARBOUR, BERTHS, TIDES]


def quoted(question: str, sources: list[SourceText] = SOURCES) -> list[Extract]:
    found = quotes(sources)
    return [best(part, sources, found, None) for part in parts(question)]


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (
            "How much does a mooring for a boat of 8 metres cost?",
            "A mooring for a boat of up to 8 metres costs 410 EUR for the season.",
        ),
        ("Who is the harbour master?", "The harbour master is Runa Holm."),
        ("Why are fires on deck forbidden?", "Fires on deck are forbidden because two boats burnt in 2019."),
        ("When does the slipway close in winter?", "The slipway closes at 21:30 in winter."),
        ("What depth has berth B?", "Berth: B; Depth: 4.6 m; Owner: Lien; Price per day: 17.50 EUR"),
        ("What is the lowest water under the pier?", "LOWEST_CM = 35   # the lowest water under the pier, in centimetres"),
    ],
)
def test_the_sentence_or_row_that_answers_is_quoted(question: str, said: str) -> None:
    (one,) = quoted(question)
    assert one.quote is not None
    assert (one.quote.said, one.found) == (said, True), one.score


@pytest.mark.parametrize(
    "question",
    [
        "What is the capital of Peru?",
        "What depth has berth E?",  # no such berth, though the rows of the others have all other words
        "How old is the harbour master?",  # she is named, her age is not
        "Who was harbour master in 1987?",
        "How much does a mooring in Tromsø cost?",
    ],
)
def test_what_the_passages_do_not_have_is_not_answered(question: str) -> None:
    assert [one.found for one in quoted(question)] == [False]


def test_of_no_passages_nothing_is_quoted() -> None:
    (one,) = quoted("Who is the harbour master?", [])
    assert (one.quote, one.found) == (None, False)


def test_a_question_of_two_parts_is_two_and_the_second_is_about_the_same() -> None:
    assert parts("Who owns berth B and how deep is it?") == ["Who owns berth B", "how deep is it? (berth B)"]
    assert parts("Wer ist Hafenmeister und wann schließt die Slipanlage?")[1].startswith("wann schließt")
    assert parts("Are oars and sails allowed?") == ["Are oars and sails allowed?"]


def test_a_question_of_many_parts_is_few() -> None:
    """Each part has nine texts embedded: 3,800 characters of 200 parts took a question's place for minutes."""
    question = "Who greased the pump" + " and who greased it" * 200
    some = parts(question)
    assert len(some) == 4
    assert some[0] == "Who greased the pump"
    assert some[-1].count("greased it") == 198, "the rest is in the last"
    for one in quoted("Who owns berth B and how deep is it?"):
        assert one.quote is not None
        assert one.quote.said.startswith("Berth: B")


def test_a_span_is_where_it_says() -> None:
    found = quotes(SOURCES)
    assert all(SOURCES[quote.source].text[quote.start : quote.end] == quote.text for quote in found)
    texts = [quote.text for quote in found]
    assert not any(text.startswith(("Harbour rules", "Berths", "| Berth |", "|---")) for text in texts), "no headings, no header"
    assert len(texts) == 6 + 3 + 2


def test_a_sentence_that_was_wrapped_is_one_and_lines_of_their_own_are_not() -> None:
    wrapped = SourceText(
        """Manual
The simple form of the statement, the one without a message, is
equivalent to a test that raises an error. The other one [2] is
not.
The bearing of the second pump of the harbour is greased every
250 hours with grease.

- the first thing of a list that has a good many words in its line
- the second thing of it
Pilot: 40 machines in week 6
Wave 1: 400 machines
open_seconds = 8        # how long the gate stays open
max_guests = 1800       # guests at the same time
2026-01-01T10:00:00 host one has said something that is quite long here
2026-01-01T10:00:01 host two has said something that is quite long here""",
        "manual.txt",
    )
    found = quotes([wrapped])
    assert [quote.said for quote in found] == [
        "The simple form of the statement, the one without a message, is equivalent to a test that raises an error.",
        "The other one [2] is not.",
        "The bearing of the second pump of the harbour is greased every 250 hours with grease.",
        "the first thing of a list that has a good many words in its line",
        "the second thing of it",
        "Pilot: 40 machines in week 6",
        "Wave 1: 400 machines",
        "open_seconds = 8        # how long the gate stays open",
        "max_guests = 1800       # guests at the same time",
        "2026-01-01T10:00:00 host one has said something that is quite long here",
        "2026-01-01T10:00:01 host two has said something that is quite long here",
    ]
    assert all(wrapped.text[quote.start : quote.end] == quote.text for quote in found)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("The pump moves **42 litres** of ***clear*** water.", "The pump moves 42 litres of clear water."),
        ("Call it with **names and 2**8, or f(**a, **b), or `**kept**`.",) * 2,
        ("| **Lock** | **8 m** |", "Part: Lock; Width: 8 m"),
        (
            "Vectors are pre-\ncomputed, in short- and\nlong-term stores.",
            "Vectors are pre-computed, in short- and long-term stores.",
        ),
        ("The two-\nand three-phase ones, of type A-\nB.", "The two- and three-phase ones, of type A- B."),
    ],
)
def test_a_quote_is_shown_without_markup_and_with_its_words_whole(text: str, said: str) -> None:
    over = "h\n| **Part** | Width |" if text.startswith("|") else "h"
    assert Quote(0, 0, len(text), text, over, "").said == said


def test_a_cell_without_a_column_is_shown_too_and_an_empty_one_is_not() -> None:
    ragged = SourceText("t\n| a | b |\n|---|---|\n| 1 | | 3 |\n| 4 |", "t.csv")
    assert [quote.said for quote in quotes([ragged])] == ["a: 1; 3", "a: 4"]
    (last,) = [quote.said for quote in quotes(SOURCES) if quote.text.startswith("| C")]
    assert last == "Berth: C; Depth: 2.2 m; Price per day: 9.00 EUR"


def test_the_seventh_passage_is_not_read_and_many_lines_are_bounded() -> None:
    one = SourceText("\n".join(f"line {number}" for number in range(1_000)), "log.txt")
    assert len(quotes([one])) == 96
    assert {quote.source for quote in quotes([SourceText("Some words.", "a.md")] * (PASSAGES + 1))} == set(range(PASSAGES))


def test_embeddings_decide_where_the_words_are_others() -> None:
    question, sources = (
        "Whom do I call about the jetty?",
        [SourceText("h\nFerries leave hourly.\nThe pier is looked after by Jo Berg.", "a.md", 0.5)],
    )
    found = quotes(sources)
    first, second = (best(question, sources, found, near).score for near in ([0.1, 0.73], [0.1, 0.8]))
    assert second == pytest.approx(first + 0.07 * WEIGHTS["embedding"])


def test_a_quote_in_a_script_without_spaces_has_half_of_the_question() -> None:
    text = "休暇規程\n正社員の年次有給休暇は年間二十日です。\n慶弔休暇は五日間です。\n休暇の申請は上司へ提出してください。"
    sources = [SourceText(text, "kyuka.txt", 0.9)]
    found = quotes(sources)
    alike = [0.95] * len(found)  # an English embedder finds all Japanese alike
    extract = best("年次有給休暇は何日ですか", sources, found, alike)
    assert extract.found
    assert extract.quote is not None
    assert extract.quote.said == "正社員の年次有給休暇は年間二十日です。"
    assert extract.other is None
    assert not best("水門の高さは何メートルですか", sources, found, alike).found
    english = [SourceText("Leave\nAnnual leave is twenty days.", "leave.md", 0.9)]
    assert best("年次有給休暇は何日ですか", english, quotes(english), [0.95]).found, "another embedder may know both"


SITES = SourceText(
    """Sites
The Lund site was opened in March 2021 and has its own substation.
The halls of both are cooled by lake water.

| Site | Capacity | Manager | E-mail |
|---|---|---|---|
| Lund | 480 TB | Ea Lind | lund@sites.example |
| Malmö | 320 TB | Bo Ek | |""",
    "sites.md",
    0.6,
)
KEPT = SourceText(
    """Copies
| Copy | Kept for |
|---|---|
| hourly | 2 days |
| weekly | 9 weeks |

The Lund site keeps its tapes for ten years.""",
    "backup/rules.md",
    0.55,
)
SLIP = SourceText(
    """Hafenordnung
Die Liegegebühr beträgt 14 Euro am Tag. Für einen verlorenen Schlüssel werden 60 Euro berechnet.
Der Kran hebt höchstens 900 kg.""",
    "hafenordnung.md",
    0.3,
)
OFFICE = [SITES, KEPT, SLIP]


@pytest.mark.parametrize(
    ("question", "said"),
    [
        # a sentence that names the site has fewer of the question's words than a row with its column's names
        ("What is the capacity of the Lund site?", "Site: Lund; Capacity: 480 TB; Manager: Ea Lind; E-mail: lund@sites.example"),
        ("Who manages the site in Malmö?", "Site: Malmö; Capacity: 320 TB; Manager: Bo Ek"),
        ("What is the e-mail address of Lund?", "Site: Lund; Capacity: 480 TB; Manager: Ea Lind; E-mail: lund@sites.example"),
        ("How long are weekly copies kept?", "Copy: weekly; Kept for: 9 weeks"),
        ("How long does the Lund site retain tapes?", "The Lund site keeps its tapes for ten years."),
        # a German document, asked in English and in German
        ("What do I pay for a lost key?", "Für einen verlorenen Schlüssel werden 60 Euro berechnet."),
        ("Was kostet ein verlorener Schlüssel?", "Für einen verlorenen Schlüssel werden 60 Euro berechnet."),
    ],
)
def test_a_row_is_read_with_its_columns_and_a_word_by_its_meaning(question: str, said: str) -> None:
    (one,) = quoted(question, OFFICE)
    assert one.quote is not None
    assert (one.quote.said, one.found, one.other) == (said, True, None), one.score


@pytest.mark.parametrize(
    "question",
    [
        "What is the capacity of the Oslo site?",
        "What is the e-mail address of Malmö?",  # the cell is empty
        "How long are daily copies kept?",  # hourly and weekly ones are
        "How long does the Malmö site retain tapes?",  # Lund does
        "How old is the manager of Lund?",
    ],
)
def test_what_is_said_of_another_thing_is_no_answer(question: str) -> None:
    assert [one.found for one in quoted(question, OFFICE)] == [False]


BOATS = SourceText(
    """Boats
| Boat | Skipper | Length |
|---|---|---|
| Tern | Bo Ek | 9 m |
| Gull | Ea Lind | 7 m |
| Auk | Bo Ek | 6 m |""",
    "boats.csv",
    0.6,
)


def test_of_several_things_all_rows_that_answer_are_quoted() -> None:
    (one,) = quoted("Which boats does Bo Ek sail?", [BOATS])
    assert one.quote is not None
    assert [quote.cells[0][1] for quote in (one.quote, *one.also)] == ["Tern", "Auk"]
    (single,) = quoted("What is the length of the Gull?", [BOATS])
    assert single.also == ()


@pytest.mark.parametrize(
    "question", ["Which boat has the greatest length?", "Which is the longest boat?", "How many cabins has the Tern?"]
)
def test_what_no_row_says_of_itself_is_not_answered_by_one(question: str) -> None:
    assert [one.found for one in quoted(question, [BOATS])] == [False]


GUESTS = SourceText(
    "Guests\n| Guest | Bed |\n|---|---|\n| Member | 14 EUR |\n| Non-member | 28 EUR |\n\n"
    "The deck oven dates from 2016. The rotary oven is loud.",
    "g.md",
    0.6,
)


def test_what_is_said_of_others_is_neither_the_answer_nor_a_second_one() -> None:
    (member,) = quoted("What does a bed cost members?", [GUESTS])
    assert member.quote is not None
    assert (member.quote.said, member.other) == ("Guest: Member; Bed: 14 EUR", None)
    (other,) = quoted("What does a bed cost a non-member?", [GUESTS])
    assert other.quote is not None
    assert other.quote.said == "Guest: Non-member; Bed: 28 EUR"
    (rotary,) = quoted("From which year does the rotary oven date?", [GUESTS])
    assert rotary.quote is not None
    assert (rotary.quote.said, rotary.other) == ("The rotary oven is loud.", None), "not 2016, which is the deck oven's"
    (deck,) = quoted("From which year does the deck oven date?", [GUESTS])
    assert deck.quote is not None
    assert deck.quote.said == "The deck oven dates from 2016."


def test_what_is_so_for_one_thing_is_not_said_of_another() -> None:
    text = "Goals\nThe recovery time is 4 hours for databases. Copies are made daily for home directories."
    found = [SourceText(text, "goals.md", 0.6)]
    assert [one.found for one in quoted("What is the recovery time for databases?", found)] == [True]
    (home,) = quoted("What is the recovery time for home directories?", found)
    assert home.quote is None or "databases" not in home.quote.said or not home.found


def test_a_word_that_tells_two_things_apart_is_not_passed_over() -> None:
    point = "The recovery point objective is 24 hours for home directories."
    text = f"Goals\n{point}\nThe recovery time objective is 4 hours for databases."
    found = [SourceText(text, "goals.md", 0.6)]
    assert [one.found for one in quoted("What is the recovery point objective for home directories?", found)] == [True]
    assert [one.found for one in quoted("What is the recovery time objective for home directories?", found)] == [False]


def test_a_setting_is_read_with_the_keys_above_it() -> None:
    text = (
        "pumps.yaml\n\n```yaml\npumps:\n  count: 4\n"
        "  start_pressure_bar: 3.5   # they start when it falls below this\n"
        "  stop_pressure_bar: 5.2    # and stop when it is above this\nalarm:\n  count: 2\n```"
    )
    pumps = [SourceText(text, "pumps.yaml", 0.5)]
    (one,) = quoted("At what pressure do the pumps stop?", pumps)
    assert one.quote is not None
    assert (one.quote.text.split(":")[0], one.found) == ("stop_pressure_bar", True)
    counts = [quote for quote in quotes(pumps) if quote.text.startswith("count")]
    assert ["pumps:" in quote.over for quote in counts] == [True, False]
    assert "```" not in " ".join(quote.text for quote in quotes(pumps))


def test_a_second_quote_has_what_the_first_has_of_the_question() -> None:
    text = "Locks\nThe upper lock is 8 m wide.\nThe keeper says the lock is wide."
    (one,) = quoted("How wide is the upper lock?", [SourceText(text, "locks.md", 0.6)])
    assert one.other is None


def test_a_passage_below_the_best_is_read_if_it_has_as_much_of_the_question() -> None:
    others = [SourceText(f"Hall {n}\nThe hall has a door.", f"{n}.md", 0.5) for n in range(PASSAGES)]
    sources = [*others, SourceText("Roof\nIt leaks.", "roof.md", 0.2), SLIP]
    assert to_read("What do I pay for a lost key?", sources) == [*range(PASSAGES), PASSAGES + 1]
    assert to_read("What is the capital of Peru?", sources) == [*range(PASSAGES)]


def test_a_passage_without_its_heading_is_quoted_from_its_first_line() -> None:
    text = "The crane lifts 900 kg.\nIt is greased in May."
    under_its_title = SourceText(text, "crane.txt", heading="Crane of the harbour")
    assert [quote.said for quote in quotes([under_its_title])] == ["The crane lifts 900 kg.", "It is greased in May."]
    assert all("Crane of the harbour" in quote.over for quote in quotes([under_its_title]))
    headed = SourceText(f"Crane\n{text}", "crane.txt", heading="Crane")
    assert [quote.said for quote in quotes([headed])] == ["The crane lifts 900 kg.", "It is greased in May."]
    titled = SourceText("CRANES\n\nThe crane lifts 900 kg.", "crane.txt", heading="crane.txt")
    assert [quote.said for quote in quotes([titled])] == ["The crane lifts 900 kg."]


def test_what_introduces_a_list_or_a_table_is_above_each_of_its_items() -> None:
    table = "Rates by hall:\n\n| Hall | Rate |\n|---|---|\n| A | 9 EUR |"
    text = f"Fees\nFees of the library for adults:\n- a card: 18 EUR\n- a game: 2 EUR\n\n{table}"
    card, game, row = [quote for quote in quotes([SourceText(text, "fees.md")]) if "EUR" in quote.text]
    assert "for adults:" in card.over
    assert "for adults:" in game.over
    assert "Rates by hall:" in row.over
    assert row.said == "Hall: A; Rate: 9 EUR"


@given(
    st.text(max_size=200),
    st.lists(
        st.builds(
            SourceText, st.text(max_size=400), st.text(max_size=20), st.none() | st.floats(-1, 1), st.none() | st.text(max_size=9)
        ),
        max_size=4,
    ),
)
def test_any_text_is_read(question: str, sources: list[SourceText]) -> None:
    found = quotes(sources)
    rows = features(question, sources, found, [0.0] * len(found))
    assert rows.shape == (len(found), len(WEIGHTS))
    assert np.isfinite(rows).all()
    for part in parts(question):
        best(part, sources, found, None)
    assert all(isinstance(quote.said, str) for quote in found)


def test_another_quote_that_is_nearly_as_good_is_named_and_one_that_is_no_evidence_is_not() -> None:
    twice = [SourceText("Locks\nThe upper lock is 8 m wide.\nThe lower lock is 9 m wide.", "locks.md", 0.6)]
    (one,) = quoted("How wide is the lock?", twice)
    assert one.quote is not None
    assert one.other is not None
    assert {one.quote.said, one.other.said} == {"The upper lock is 8 m wide.", "The lower lock is 9 m wide."}
    (sure,) = quoted("How wide is the upper lock?", twice)
    assert sure.quote is not None
    assert (sure.quote.said, sure.other) == ("The upper lock is 8 m wide.", None)
    (none,) = quoted("What is the capital of Mongolia?", twice)
    assert (none.found, none.other) == (False, None)


@pytest.mark.parametrize("other", ["The lower lock is wide as follows:", "The lower lock is as wide as its gate says here"])
def test_words_that_introduce_what_stands_below_them_are_no_second_answer(other: str) -> None:
    (one,) = quoted("How wide is the lock?", [SourceText(f"Locks\nThe upper lock is 8 m wide.\n{other}\n\n9 m", "locks.md", 0.6)])
    assert one.quote is not None
    assert (one.quote.said, one.other) == ("The upper lock is 8 m wide.", None)


BAKERY = SourceText(
    """Ovens
The deck oven was built by Winkler in 2016 and installed by Huber.
The damage of 2,900 EUR was paid by the insurer, Nord.
Unused leave expires on 31 March.
Wedding cakes are made by Lucie Marchand.""",
    "ovens.md",
    0.6,
)
FLEET = SourceText(
    """Fleet
| Vehicle | Tank (litres) | Payload (kg) | Driver |
|---|---|---|---|
| Tanker | 180 | 9500 | Piotr Lis |
| Excavator | 210 | | Sam Ode |""",
    "fleet.csv",
    0.6,
)


@pytest.mark.parametrize(
    ("true", "near"),
    [
        ("Who built the deck oven?", "Who repaired the deck oven?"),
        ("Who built the deck oven?", "Who built the gas oven?"),
        ("Which insurer paid the damage?", "Which insurer paid the damage of the flood?"),
        ("When does unused leave expire?", "When does unused overtime expire?"),
        ("Who makes the wedding cakes?", "Who makes the birthday cakes?"),
        ("How many litres of fuel does the tanker take?", "How many litres of fuel does the crane take?"),
        ("What is the payload of the tanker?", "What is the payload of the excavator?"),
    ],
)
def test_a_question_a_word_away_from_the_text_is_not_answered(true: str, near: str) -> None:
    for question, found in ((true, True), (near, False)):
        (one,) = quoted(question, [BAKERY, FLEET])
        assert one.found is found, (question, one.quote and one.quote.said, one.score)


def test_other_words_for_the_same_thing_are_an_answer_where_the_embeddings_say_so() -> None:
    source = SourceText("Harbour\nThe pier closes in May.\nUnused leave lapses.", "pier.md", 0.7)
    found = quotes([source])
    for similarity, is_found in ((0.5, False), (0.8, True)):
        one = best("When does the jetty close?", [source], found, [similarity, 0.1])
        assert one.found is is_found, similarity


def test_in_another_language_the_words_are_others() -> None:
    for text, is_found in (
        ("Hütte\nDie Sauna wird nur am Freitag geheizt, und das Holz ist trocken.", True),
        ("Hut\nThe sauna is heated on Friday only, and the wood is dry.", False),
    ):
        source = SourceText(text, "hut.md", 0.6)
        one = best("On which day is the sauna for athletes heated?", [source], quotes([source]), [0.65])
        assert one.found is is_found, text


def test_a_number_within_a_name_is_that_number() -> None:
    source = SourceText("Oxygen\nOxygen-18 is 12 percent heavier than oxygen-16.", "oxygen.md", 0.7)
    one = best("How much heavier is oxygen 18 than oxygen 16?", [source], quotes([source]), [0.8])
    assert one.found


def test_an_amount_whose_unit_has_a_capital_goes_on_with_its_sentence() -> None:
    text = "Halle\nDie Heizung läuft mit Pellets aus Holz, und der Bunker fasst\n18 Tonnen. Für die Wartung sorgt Dieter Kampen."
    first, second = quotes([SourceText(text, "halle.md")])
    assert first.said == "Die Heizung läuft mit Pellets aus Holz, und der Bunker fasst 18 Tonnen."
    assert second.said == "Für die Wartung sorgt Dieter Kampen."


GARDEN = SourceText(
    """History
The glasshouse followed in 1884; its stove was replaced in 1971. The fern hall burnt down in 1953. The elm by the pond was planted
in 1868 and is 31 metres tall; it was cabled in 2009 by the climber Bo Ek. The yew at the gate came from Lund.
The tea room is open from May to October.""",
    "history.md",
    0.6,
)


def similar(word: str, others: Sequence[str]) -> float:
    """Founded and begun mean the same, whatever else is asked is another thing."""
    return 0.9 if {word, *others} >= {"founded", "begun"} else 0.2


def asked(question: str, sources: list[SourceText], near: float = 0.5) -> Extract:
    found = quotes(sources)
    return best(question, sources, found, [near] * len(found), (), similar)


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("When was the elm planted?", "The elm by the pond was planted in 1868"),
        ("Who cabled the elm?", "The elm by the pond was planted in 1868"),
        ("When did the fern hall burn down?", "The fern hall burnt down in 1953."),
        ("How tall is the elm?", "The elm by the pond was planted in 1868"),
        ("Is the tea room open in July?", "The tea room is open from May to October."),
        ("Is the tea room open in January?", "The tea room is open from May to October."),
    ],
)
def test_the_clause_with_the_date_the_number_or_the_name_answers(question: str, said: str) -> None:
    one = asked(question, [GARDEN])
    assert one.quote is not None
    assert one.found, one.score
    assert one.quote.said.startswith(said)


@pytest.mark.parametrize(
    "question",
    [
        "Who planted the elm?",  # the name is of who cabled it
        "Who insured the elm?",
        "When was the fern hall built?",
        "When was the yew cabled?",
        "How tall is the yew?",  # the sentence before says it of the elm
        "Who opened the fern hall?",  # nobody is named
    ],
)
def test_what_another_clause_says_of_another_thing_is_no_answer(question: str) -> None:
    assert not asked(question, [GARDEN]).found


def test_another_verb_of_the_same_meaning_answers_and_without_an_embedder_none_is_refused() -> None:
    source = SourceText("Club\nThe club of the rowers was begun in 1911 by Jo Berg.", "club.md", 0.6)
    assert asked("Who founded the club of the rowers?", [source], 0.8).found
    assert not asked("Who insured the club of the rowers?", [source], 0.8).found
    assert best("Who founded the club of the rowers?", [source], quotes([source]), [0.8]).found


def test_when_something_takes_place_is_asked_with_no_verb_of_its_own() -> None:
    source = SourceText("Courses\nFirst aid: 14 March in the club house, free for members.", "courses.md", 0.6)
    assert asked("When does the first aid course take place?", [source], 0.7).found


def test_the_column_of_what_was_done_decides_in_a_row() -> None:
    rows = "| Lund | Ea Lind | 2025-04-08 |\n| Horn | Bo Ek | 2025-09-22 |"
    plants = SourceText(f"Plants\n| Plant | Head | Last inspection |\n|---|---|---|\n{rows}", "p.md", 0.6)
    assert asked("When was Lund inspected?", [plants]).found
    assert not asked("When was Lund built?", [plants]).found
    assert not asked("Who inspected Lund?", [plants]).found


@pytest.mark.parametrize(
    "table",
    [
        "| Service | Hourly rate |\n|---|---|\n| Migration | 140 EUR |\n| Training | 95 EUR |",
        "| Service | Rate (EUR/h) |\n|---|---|\n| Data migration | 140 |\n| Data backup | 95 |",
        "| service | hourly rate EUR | minimum |\n|---|---|---|\n| Migrating | 140 | 2 h |\n| Training | 95 | 1 h |",
        "| Service | Rate per hour |\n|---|---|\n| Migrations | €140.00 |\n| Backups | €95.00 |",
        "| service | price.hour |\n|---|---|\n| migration | 140 |\n| training | 95 |",
    ],
)
def test_a_rate_by_time_is_a_price_whatever_its_column_is_called(table: str) -> None:
    [found] = quoted("What is the hourly rate for migration?", [SourceText(f"Services\n{table}", "services.csv", 0.6)])
    assert found.found
    assert "140" in found.quote.own  # type: ignore[union-attr]
    [none] = quoted("What is the hourly rate for welding?", [SourceText(f"Services\n{table}", "services.csv", 0.6)])
    assert not none.found


def test_a_price_of_others_is_no_answer_for_those_the_passages_do_not_know() -> None:
    fares = SourceText("Fares\nA year card costs 29 EUR for adults. A day ticket costs 9 EUR for adults.", "fares.md", 0.6)
    assert quoted("How much is a year card for adults?", [fares])[0].found
    assert not quoted("How much is a year card for students?", [fares])[0].found
    assert not quoted("What does a day ticket cost for couples?", [fares])[0].found


def test_when_something_closes_is_no_day_on_which_it_is_closed() -> None:
    hours = SourceText("Hours\nThe seed shop is closed on Mondays.", "hours.md", 0.6)
    assert not quoted("When does the seed shop close?", [hours])[0].found
    later = SourceText("Hours\nThe seed shop is open from 9:00 to 17:00.", "hours.md", 0.6)
    assert quoted("When does the seed shop close?", [later])[0].found


def test_sentences_of_scripts_without_spaces_are_quoted_one_by_one() -> None:
    rules = SourceText("保管規則\n保管期間は五年です。返却は受付へ。「返却済み」と書く。", "rules.txt", 0.6)
    assert [quote.said for quote in quotes([rules])] == ["保管期間は五年です。", "返却は受付へ。", "「返却済み」と書く。"]
    [found] = quoted("保管期間は何年ですか", [rules])
    assert found.found
    assert found.quote.said == "保管期間は五年です。"  # type: ignore[union-attr]
    talk = SourceText("話\n「はい。」と答えた。次へ！？終わり", "talk.txt", 0.6)
    assert [quote.said for quote in quotes([talk])] == ["「はい。」と答えた。", "次へ！？", "終わり"]


STUDIO = SourceText(
    """Studio
The kiln stands behind door 4. Potters may fire it between 07:00 and 20:00.
Please order 60 cones of type CN-06-B for the two kilns. Do not let anybody fire below 5 °C.
The shelves come from Aarhus. They are heavy. Nobody buys the CN-06-K: it melts too early.
The van holds 71 kWh and is charged in forty minutes at dock 3. A full charge takes the van 310 km.
| Person | Room | Phone |
|---|---|---|
| Ines Falk | 12 | ext. 2207 |""",
    "studio.md",
    0.6,
)


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("How many kilns were repaired?", None),  # door 4 says which one
        ("How many cones are left?", None),  # they are ordered
        ("Why does nobody buy the CN-06-K?", "Nobody buys the CN-06-K: it melts too early."),
        ("What is the CN-06-L used for?", None),
        ("How far does the van go on a full charge?", "A full charge takes the van 310 km."),
        ("When may the kiln be moved?", None),  # where it stands says nothing of it
        ("Where does the kiln stand?", "The kiln stands behind door 4."),
        ("What is the phone extension of Ines Falk?", "Person: Ines Falk; Room: 12; Phone: ext. 2207"),
        ("How many cones should be ordered?", "Please order 60 cones of type CN-06-B for the two kilns."),
    ],
)
def test_which_one_is_no_count_and_what_is_ordered_is_not_left(question: str, said: str | None) -> None:
    one = asked(question, [STUDIO])
    assert (one.quote.said if one.found and one.quote else None) == said, (one.quote, one.score)


@pytest.mark.parametrize(
    ("question", "said", "answered"),
    [
        ("When are the points greased?", "The points are greased every two weeks.", True),
        ("When is the wash road closed?", "The wash road is closed if it freezes.", True),
        ("When may the lathe be used?", "The lathe stands beside track 7 and is used.", False),
        (
            "When the lathe is used, where does it stand?",
            "The lathe stands beside track 7 and is used.",
            True,
        ),  # asks for no time
    ],
)
def test_what_is_so_at_no_time_and_under_no_condition_does_not_say_when(question: str, said: str, answered: bool) -> None:
    assert asked(question, [SourceText(f"Yard\n{said}", "yard.md", 0.6)]).found is answered
