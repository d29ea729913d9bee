"""Follow-up questions put so that they stand alone: a labelled list, what is left as it is, and what a generator is held to."""

from __future__ import annotations

import time

import pytest

from headrace.answering.follow_up import TURNS, Turn, chat_of, in_full, leans, rewrite, stand_alone

FOLLOW_UPS = [
    (
        "How long are backups kept for silver customers?",
        "And for gold customers?",
        "How long are backups kept for gold customers?",
    ),
    ("How long are backups kept?", "and for gold customers", "How long are backups kept for gold customers?"),
    ("How long are backups kept for silver customers?", "What about gold customers?", None),
    ("How long are backups kept for silver customers?", "gold customers?", "How long are backups kept for gold customers?"),
    ("Who owns cluster C?", "And cluster D?", "Who owns cluster D?"),
    ("Who owns cluster C?", "What about D?", "Who owns cluster D?"),
    ("Where is the pump P-77?", "Who maintains it?", "Who maintains the pump P-77?"),
    ("When was the pump of the upper lock greased?", "And the weir?", "When was the weir greased?"),
    ("When was the pump greased?", "Why?", "Why was the pump greased?"),
    ("When was the pump greased?", "By whom?", "By whom was the pump greased?"),
    ("How often is the wheel greased?", "And in winter?", "How often is the wheel greased in winter?"),
    ("How many guests stayed in 2022?", "And in 2023?", "How many guests stayed in 2023?"),
    ("What was the revenue of Globex in 2022?", "And 2023?", "What was the revenue of Globex in 2023?"),
    ("What was the revenue of Globex in 2022?", "What about Initech?", "What was the revenue of Initech in 2022?"),
    ("How long is the warranty on the small valve?", "How do I claim it?", "How do I claim the warranty?"),
    ("How long are backups kept?", "Where are they stored?", "Where are backups stored?"),
    ("What is the return policy for shoes?", "Is that also true for hats?", "Is the return policy also true for hats?"),
    ("Wie lange werden Backups aufbewahrt?", "Und für Gold-Kunden?", "Wie lange werden Backups aufbewahrt für Gold-Kunden?"),
    ("How long are backups kept?", "ok, and where?", "Where are backups kept?"),
    ("What is the limit for hotel costs?", "And abroad?", "What is the limit for hotel costs abroad?"),
    ("Wann öffnet das Lager?", "Und am Sonntag?", "Wann öffnet das Lager am Sonntag?"),
]
OBJECTS = [
    ("How do I replace the filter?", "What about the drive belt?", "How do I replace the drive belt?"),
    ("How do I reset my password?", "And my PIN?", "How do I reset my PIN?"),
    ("When did Ann Moor grease the pump?", "And the weir?", "When did Ann Moor grease the weir?"),
    ("Where does the night crew store the oil?", "And the rags?", "Where does the night crew store the rags?"),
    ("How often should the crew clean the screen?", "And the race?", "How often should the crew clean the race?"),
    ("How long does it take to drain the lock?", "And the basin?", "How long does it take to drain the basin?"),
    ("Does the warranty cover batteries?", "And chargers?", "Does the warranty cover chargers?"),
    ("Do visitors need a badge?", "And a helmet?", "Do visitors need a helmet?"),
    ("Do visitors need a badge?", "And contractors?", "Do contractors need a badge?"),
    ("What does the handbook say about dogs?", "And cats?", "What does the handbook say about cats?"),
    ("What happens to the sluice in winter?", "And the gate?", "What happens to the gate in winter?"),
    ("Who must sign the permit?", "And the log?", "Who must sign the log?"),
    ("Who repaired the crane on Monday?", "And the winch?", "Who repaired the winch on Monday?"),
    ("Must the log be signed?", "And the permit?", "Must the permit be signed?"),
    ("How deep is the lower basin?", "And the upper one?", "How deep is the upper basin?"),
    ("Wie oft muss ich den Filter wechseln?", "Und den Riemen?", "Wie oft muss ich den Riemen wechseln?"),
    ("Where do we keep the spare keys?", "Who has them?", "Who has the spare keys?"),
    ("How do you open the upper gate?", "How do you close it?", "How do you close the upper gate?"),
    ("Does the crew oil the gates?", "When are they painted?", "When are the gates painted?"),
    ("Who approved the budget?", "When was it approved?", "When was the budget approved?"),
]
"""What somebody acts on is replaced or referred to, not who acts."""
STAND_ALONE = """How long are backups kept for gold customers?
Who repairs the pump when it fails?
How long does it take to drain the lock?
Is it possible to return shoes?
What does the rule that covers visitors say?
Which pump feeds the upper lock?
Does the handbook say that dogs are allowed?
What happens this year at the weir?
When do backups expire after they are made?
pump P-77 manual
Show me the maintenance plan
Who is responsible for IT?
List the sites that have a weir
What about""".splitlines()


@pytest.mark.parametrize(("before", "question", "wanted"), FOLLOW_UPS + OBJECTS)
def test_a_follow_up_takes_what_it_needs_from_the_question_before(before: str, question: str, wanted: str | None) -> None:
    assert stand_alone(question, [Turn(before)]) == (wanted or "How long are backups kept for gold customers?")
    assert stand_alone(question, []) == question, "there is nothing to follow up on"


@pytest.mark.parametrize("question", STAND_ALONE)
def test_a_question_that_stands_alone_is_left_as_it_is(question: str) -> None:
    assert not leans(question)
    assert stand_alone(question, [Turn("Who owns cluster C?", "Mara Voss.")]) == question


def test_a_person_is_the_one_that_the_answer_names_if_it_may_be_looked_at() -> None:
    asked = "What is her phone number?"
    assert stand_alone(asked, [Turn("Who owns cluster C?", "Mara Voss owns it. [1]")]) == "What is Mara Voss’s phone number?"
    assert stand_alone(asked, [Turn("Who owns cluster C?")]) == "What is cluster C’s phone number?"


def test_each_question_of_a_conversation_is_put_in_full_and_the_newest_count() -> None:
    turns = [Turn("How long are backups kept for silver customers?"), Turn("And for gold?"), Turn("And for bronze?")]
    assert [turn.question for turn in in_full(turns)] == [
        "How long are backups kept for silver customers?",
        "How long are backups kept for gold?",
        "How long are backups kept for bronze?",
    ]
    assert stand_alone("Why?", in_full(turns)) == "Why are backups kept for bronze?"
    assert in_full([Turn(f"Who owns cluster {n}?") for n in range(50)])[0].question == f"Who owns cluster {50 - TURNS}?"


HISTORY = [Turn("Who owns cluster C?", "Mara Voss owns it. [1]")]


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("Who owns cluster D?", "Who owns cluster D?"),
        (' "Which person owns\ncluster D?" ', "Which person owns cluster D?"),
        (None, "Who owns cluster D?"),
        ("", "Who owns cluster D?"),
        ("I cannot say.", "Who owns cluster D?"),
        ("And D?", "Who owns cluster D?"),
        ("Rewritten question: And D?", "Who owns cluster D?"),
        ("Rewritten question: Who is the owner of cluster D?", "Who is the owner of cluster D?"),
        ("Who owns cluster C?", "Who owns cluster D?"),
        ("Assistant: Mara Voss.", "Who owns cluster D?"),
        ("word " * 200, "Who owns cluster D?"),
    ],
)
def test_what_a_generator_writes_is_taken_where_it_is_a_question(written: str | None, wanted: str) -> None:
    chats: list[list[dict[str, str]]] = []

    def write(chat: list[dict[str, str]]) -> str | None:
        chats.append(chat)
        return written

    assert rewrite("And D?", HISTORY, write) == wanted
    ((message,),) = chats
    assert "User: Who owns cluster C?\nAssistant: Mara Voss owns it.\n" in message["content"]
    assert "Last question: And D?" in message["content"]


def test_no_generator_is_asked_for_a_question_that_stands_alone() -> None:
    def write(_: list[dict[str, str]]) -> str | None:
        raise AssertionError

    assert rewrite("Which pump feeds the upper lock?", HISTORY, write) == "Which pump feeds the upper lock?"
    assert rewrite("And D?", [], write) == "And D?"


def test_a_conversation_as_chat() -> None:
    assert chat_of([Turn("a", "b"), Turn("c")]) == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]


@pytest.mark.parametrize(
    "text", ["and " * 90, "it " * 130, "what " * 70 + "?", "the " * 99 + "it?", "x" * 4_000, "A " * 190 + "it?"]
)
def test_what_is_odd_takes_no_time(text: str) -> None:
    started = time.process_time()
    for before in ("Who owns cluster C?", text):
        stand_alone(text, [Turn(before, text)])
    assert time.process_time() - started < 1.0
