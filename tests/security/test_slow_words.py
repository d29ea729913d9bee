"""Words that a client or a document says, and that a regular expression once read for hours while nothing else was answered."""

from __future__ import annotations

import itertools
import random
import resource
import time
from collections.abc import Callable

import pytest
from child import in_child

from headrace.answering.follow_up import Turn, in_full, rewrite, stand_alone
from headrace.answering.intent import intent_of, task_reply
from headrace.api.chat import ChatCompletionRequest
from headrace.documents.pieces import _NESTED, pieces, steps
from headrace.documents.splitting import Splitting
from headrace.models.citations import Citations
from headrace.models.extract import best, shortlist
from headrace.models.question_parts import pair, parts
from headrace.models.quotable import SourceText, quotes
from headrace.models.support import evidence, facts

_SECONDS = 10  # of CPU time, of which each test takes one or two
_PIECES = ["a_", "_", "a-", "a/", "a.", "1a", "1.", "1,000 ", "a", "Aa-", "Aa ", "A'", " ", "\n", "[1", "[1,", "#", "(", ".)"]


def in_time(work: Callable[[], object]) -> None:
    """Call `work` in a child process, which ends where it takes longer: nothing else ends a regular expression."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
        work()

    in_child(limited)


def said(length: int) -> list[str]:
    """Texts of so many characters that are one piece, or two in turn, again and again."""
    pieces = [*_PIECES, *(one + other for one, other in itertools.pairwise(random.sample(_PIECES, len(_PIECES))))]
    return [f"{(piece * length)[:length]}x" for piece in pieces]


def test_a_question_of_underscores_is_read() -> None:
    """30 of them took the service away from all tenants for an hour, 40 for ever: a form's blank line is longer."""

    def work() -> None:
        for text in ("a_" * 2_000, "_" * 4_000, "Signed: " + "_" * 40 + " by " + "name_of_" * 30 + "somebody", *said(4_000)):
            facts(text)
            parts(text)
            pair(text)
            intent_of(text)

    in_time(work)


def test_quotes_within_quotes_are_cut_in_the_time_of_prose() -> None:
    """A document of 5 MB kept other tenants' documents waiting for minutes, since all are cut before any is embedded."""
    nested = "\n".join(">" * number + " a" for number in range(250))
    prose = ("The bridge of the north is red and long. " * 1_000)[: len(nested)]

    def taken(text: str) -> float:
        started = time.process_time()
        assert list(pieces(text, 256))
        return time.process_time() - started

    taken(prose)  # reads the tokenizer
    assert taken(nested) < 8 * taken(prose), "2 now, 17 as Markdown"


def test_a_text_without_words_is_split_a_slice_at_a_time() -> None:
    found = ({"text": piece.body} if piece else None for piece in steps("Open. " + ". " * 50_000 + "Shut.", 200))
    state, slices = Splitting(), 1
    while (rows := state.go_on(("document", "version", 1, 200), lambda: found, 0.0)) is None:
        slices += 1
    assert slices > 40, "none takes longer than a block of text"
    assert [row["text"].strip(". ") for row in rows] == ["Open", "Shut"]


def test_a_line_of_dashes_is_no_list() -> None:
    assert not any(_NESTED.search(f"A title\n{line}\nText.") for line in ("-" * 80, "*" * 80, "> " * 15 + "a", "|" + "-|" * 80))
    assert all(_NESTED.search(f"A title\n{line}\nText.") for line in (">" * 16, "- " * 16, "1. " * 16, "> - 1) " * 6))


def test_passages_and_an_answer_are_compared() -> None:
    def work() -> None:
        for text in said(600):
            sources = [SourceText(text, "form.md")]
            found = quotes(sources)
            best("Who signs a_b?", sources, shortlist("Who signs a_b?", sources, found), None)
            evidence("Mallory signs a_b in 2021.", text)
            "".join(Citations([text], "Who signs?").mark([text[:300]]))

    in_time(work)


@pytest.mark.parametrize("question", ["When did he arrive?", "And Aa?", "Why is it so?"])
def test_a_history_of_megabytes_is_read(question: str) -> None:
    """An answer of `Aa-` again and again took 40 hours for the 4 MB that a chat may have."""

    def work() -> None:
        for answer in said(300_000):
            stand_alone(question, [Turn("Who runs the lock?", answer)])
            rewrite(question, [Turn("Who runs the lock?", answer)], lambda chat: None)
        for before in said(4_000):
            in_full([Turn(before, before), Turn(question, before), Turn(question)])

    in_time(work)


def test_a_clients_task_is_read() -> None:
    """100 KB of line ends took six minutes."""

    def work() -> None:
        for text in said(99_000):
            task_reply(f'### Task: {{"title":\n{text}')
            task_reply(f"### Task: name it\nuser{text}")
            intent_of(f"generate a {text}")

    in_time(work)


def test_a_chat_of_megabytes_is_read() -> None:
    def work() -> None:
        for text in said(1_000_000):
            said_before = [{"role": "user", "content": "Who runs the lock?"}, {"role": "assistant", "content": text}]
            asked = [*said_before, {"role": "user", "content": "When did he arrive?"}]
            body = ChatCompletionRequest.model_validate({"model": "headrace", "messages": asked})
            in_full([*body.history, Turn(body.question)])

    in_time(work)


def test_a_name_is_still_a_name() -> None:
    """What is read is what was read before it was made fast."""
    assert facts("See a/b-c.d.py, snake_case, P-77, 1.2.3, 1st and x1-y for ___ and _a").names == {
        "a/b-c.d.py",
        "snake_case",
        "p-77",
        "1.2.3",
        "x1-y",
        "___",
    }
    assert stand_alone("When did he arrive?", [Turn("Who runs the lock?", "[2]  Ann   O’Hara  [1] does.")]) == (
        "When did Ann O’Hara arrive?"
    )
    assert task_reply('### Task: {"title":\n  # User :\n How long is it?') == '{"title": "How long is it"}'
